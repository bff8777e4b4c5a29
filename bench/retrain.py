"""What a job costs beside bare papermill: a notebook of 40 cells, with checkpoints on, and a rerun that is answered.

papermill and deploy-ext run the same notebook in turns, as processes of their own; each figure is a median of three.
Prints a table; exits 1 when a job takes more than 1.15 times papermill, or an answered rerun 2 s or more.
Run it with: .venv/bin/python bench/retrain.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from machine import machine
from nbformat.v4 import new_code_cell, new_notebook

TURNS = 3
RATIO = 1.15  # times bare papermill
ANSWERED = 2.0  # seconds
BIN = Path(sys.executable).parent

FIRST = "import numpy as np\nimport pandas as pd\nfrom sklearn.ensemble import HistGradientBoostingClassifier"
LOAD = (
    "rng = np.random.default_rng(seed)\nframe = pd.DataFrame(rng.normal(size=(200_000, 8)), columns=list('abcdefgh'))"
)
FEATURE = (
    "frame['x{0}'] = frame.groupby((frame.a * 10).round())['{1}'].transform('mean').rolling(50, min_periods=1).mean()"
)
FIT = "m{0} = HistGradientBoostingClassifier(max_iter=20).fit(frame.sample(20_000, random_state={0}), sample{0})"
LABELS = "sample{0} = frame.sample(20_000, random_state={0}).a > {0} / 10"


def cells() -> list[str]:
    """40 cells as a notebook has them: loads, features, fits, and many that only look."""
    made = [FIRST, LOAD]
    for i in range(6):
        made += [FEATURE.format(i, "bcdefg"[i]), f"frame['x{i}'].describe()", f"print(frame.x{i}.mean())"]
    for i in range(5):
        made += [
            LABELS.format(i),
            FIT.format(i),
            f"print(m{i}.n_iter_)",
            f"scores{i} = m{i}.predict_proba(frame[:5000])[:, 1]",
        ]
    return made


def timed(command: list[str], folder: Path) -> float:
    """Seconds that a process takes."""
    began = time.perf_counter()
    environment = os.environ | {"DEPLOY_EXT_PROJECT": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}), *map(new_code_cell, cells()[:39])]
        about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(new_notebook(cells=made, metadata=about), folder / "train.ipynb")
        job = [str(BIN / "deploy-ext"), "retrain", "train.ipynb", "-p"]
        ways: dict[str, Callable[[int], list[str]]] = {
            "papermill": lambda n: [str(BIN / "papermill"), "train.ipynb", "out.ipynb", "-p", "seed", str(n)],
            "deploy-ext retrain": lambda n: [*job, f"seed={n}"],
            "answered": lambda n: [*job, f"seed={n}"],
        }
        for way in ways.values():
            timed(way(0), folder)  # byte code, and the project's database, are made once
        times: dict[str, list[float]] = {way: [] for way in ways}
        for n in range(1, TURNS + 1):
            for way, command in ways.items():
                times[way].append(timed(command(n), folder))
    print(machine("deploy_ext", "papermill", "nbclient"))
    bare = statistics.median(times["papermill"])
    title = f"a notebook of {len(made)} cells"
    print(f"{title:<26}{'median s':>10}{'least s':>10}{'most s':>10}{'x papermill':>13}")
    for way, seen in times.items():
        median = statistics.median(seen)
        print(f"{way:<26}{median:>10.2f}{min(seen):>10.2f}{max(seen):>10.2f}{median / bare:>13.2f}")
    ratio, answered = statistics.median(times["deploy-ext retrain"]) / bare, statistics.median(times["answered"])
    print(f"job: {ratio:.2f} times papermill, limit {RATIO}: {'ok' if ratio <= RATIO else 'TOO SLOW'}")
    print(f"answered: {answered:.2f} s, limit {ANSWERED}: {'ok' if answered < ANSWERED else 'TOO SLOW'}")
    return int(ratio > RATIO or answered >= ANSWERED)


if __name__ == "__main__":
    sys.exit(main())
