"""Rows scored in a second: `deploy-ext predict ... --out` against `mlflow models predict`, on the same model and rows.

Both are processes of their own, timed from start to end, with all their imports, and asked in turns: the same fitted
pipelines on flights, the same rows as a CSV, which is what `mlflow models predict` reads, in the environment that is
there (`--env-manager local`). deploy-ext writes Parquet with all columns, predictions and probabilities; mlflow writes
JSON with the predictions alone. Beside it deploy-ext reads the same rows from Parquet, and more rows than mlflow is
given, since it would hold them all. Labels are compared.

Prints a table; exits 1 when a limit is missed. Run it with: .venv/bin/python bench/batch.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from lifecycle import COLUMNS, fitted, flights
from machine import machine

TURNS = 2
ROWS, LARGE = 1_000_000, 4_000_000
RATIO = 1.2  # times the rows that mlflow models predict scores in a second, at least
MEMORY = 1.2  # times the memory of a file a quarter as long, at most
BIN = Path(sys.executable).parent


def forest(X: Any, y: Any) -> Any:
    """The same preprocessing before a RandomForest, fitted on every fifth flight."""
    from sklearn.base import clone
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline

    encode = clone(fitted(X[:5_000], y[:5_000])[0])
    return make_pipeline(encode, RandomForestClassifier(50, max_depth=12, random_state=0)).fit(X[::5], y[::5])


def timed(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds that a process takes, seconds of processor that it uses, and the most memory that it has, in MB."""
    environment = os.environ | {"DEPLOY_EXT_PROJECT": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    peak = 0
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peak = peak_of(process.pid) or peak
            time.sleep(0.02)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        log.seek(0)
        assert process.returncode == 0, log.read().decode(errors="replace")[-2000:]
    return took, ended[2].ru_utime + ended[2].ru_stime, peak


def peak_of(pid: int) -> float:
    """The most memory that a running process has had, in MB; not what its parent had, which getrusage counts, too."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)


def saved(model: Any, name: str, X: Any, folder: Path) -> None:
    """The model as MLflow has it, with the environment that it names already there."""
    from mlflow.sklearn import save_model

    save_model(model, folder / f"{name}-mlflow", input_example=X.head(5), serialization_format="cloudpickle")


def ways(name: str, folder: Path) -> dict[str, tuple[int, Callable[[int], list[str]]]]:
    """Rows, and the command of a turn, by what is measured."""
    ours = [str(BIN / "deploy-ext"), "predict", name, "--data"]
    theirs = [str(BIN / "mlflow"), "models", "predict", "-m", str(folder / f"{name}-mlflow"), "-i", "rows.csv"]
    theirs += ["-t", "csv", "--env-manager", "local", "-o", f"{name}.json"]
    return {
        "mlflow models predict, csv": (ROWS, lambda turn: theirs),
        "deploy-ext, csv": (ROWS, lambda turn: [*ours, "rows.csv", "--out", f"{name}-csv-{turn}"]),
        "deploy-ext, parquet": (ROWS, lambda turn: [*ours, "rows.parquet", "--out", f"{name}-parquet-{turn}"]),
        "deploy-ext, large parquet": (LARGE, lambda turn: [*ours, "large.parquet", "--out", f"{name}-large-{turn}"]),
    }


def same(name: str, folder: Path) -> float:
    """The share of labels that both gave alike."""
    told = json.loads((folder / f"{name}.json").read_text())["predictions"]
    ours = pd.read_parquet(folder / f"{name}-csv-0")["prediction"]
    return float((ours.to_numpy() == pd.Series(told).to_numpy()).mean())


def measure(name: str, folder: Path) -> bool:
    """Lines of the table for one model; is the limit kept?"""
    seen: dict[str, list[tuple[float, float, float]]] = {}
    for turn in range(TURNS):
        for way, (rows, command) in ways(name, folder).items():
            if rows == LARGE and turn:
                continue
            seen.setdefault(way, []).append(timed(command(turn), folder))
    paces = {}
    for way, (rows, _) in ways(name, folder).items():
        seconds, cpu = (statistics.median(taken[i] for taken in seen[way]) for i in (0, 1))
        paces[way] = rows / seconds
        times, memory = paces[way] / paces["mlflow models predict, csv"], max(taken[2] for taken in seen[way])
        line = f"{name:<10}{way:<28}{rows:>10,}{seconds:>10.2f}{cpu:>8.2f}{paces[way]:>12,.0f}{times:>10.2f}"
        print(f"{line}{memory:>8.0f}", flush=True)
    ratio, share = paces["deploy-ext, csv"] / paces["mlflow models predict, csv"], same(name, folder)
    few, many = (max(s[2] for s in seen[f"deploy-ext, {way}"]) for way in ("parquet", "large parquet"))
    kept = ratio >= RATIO and share == 1 and many < MEMORY * few
    told = f"{ratio:.2f} times mlflow on the same csv, limit {RATIO}; {share:.4%} of the labels alike; "
    told += f"memory for four times the rows {many / few:.2f} times, limit {MEMORY}"
    print(f"{name}: {told}: {'ok' if kept else 'MISSED'}", flush=True)
    return kept


def main() -> int:
    print(machine("deploy_ext", "mlflow", "scikit-learn", "onnxruntime", "pyarrow", "pandas"))
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        os.environ["DEPLOY_EXT_PROJECT"] = tmp
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(folder)
        import deploy_ext

        X, y = flights()
        X = X.astype({"weekday": "int64"})  # mlflow refuses a csv for a model that was fitted on int32
        rows = pd.DataFrame(pd.concat([X] * 20, ignore_index=True)[COLUMNS])
        rows[:ROWS].to_csv("rows.csv", index=False)
        rows[:ROWS].to_parquet("rows.parquet")
        rows[:LARGE].to_parquet("large.parquet")
        models = {"boosting": fitted(X, y), "forest": forest(X, y)}
        for name, model in models.items():
            made = deploy_ext.register(model, name, X, y)
            deploy_ext.promote(str(made), reason="bench", force=True)
            saved(model, name, X, folder)
        print(f"{'model':<10}{'':<28}{'rows':>10}{'median s':>10}{'cpu s':>8}{'rows/s':>12}{'x mlflow':>10}{'MB':>8}")
        kept = [measure(name, folder) for name in models]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
