"""Drift of a million rows: seconds, memory and error beside scipy on all values and beside evidently.

A table of 1,000,000 rows with 20 numeric and 10 categorical columns is compared with a stored profile of another one,
by `deploy_ext.drift`; by scipy's exact two-sample statistics; and by evidently's PSI (an environment of its own in
bench/.envs, made on first use, with a pandas that it knows). Each works in a process of its own, which loads the
tables first; memory is what its peak then grows by. Prints a table and the targets; exits 1 when one is missed:
.venv/bin/python bench/drift.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

EVIDENTLY = ["evidently==0.7.21", "pandas<3.1", "pyarrow"]
ENVIRONMENT = Path(__file__).parent / ".envs" / "evidently"  # uv puts a .gitignore of `*` into it
NUMBERS, WORDS = 20, 10
WATCH = """
import json, sys, time, threading
import pandas as pd
from pathlib import Path

def status(field):
    return int(next(l for l in open("/proc/self/status") if l.startswith(field)).split()[1]) / 1000

folder = Path(sys.argv[1])
old, new = (pd.read_parquet(folder / f"{side}.parquet") for side in ("old", "new"))
"""
MEASURE = """
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before, began = status("VmRSS"), time.perf_counter()
found = work()
seconds, memory = time.perf_counter() - began, status("VmHWM") - before
print(json.dumps({"seconds": seconds, "memory": memory, "found": found}))
"""
OURS = """
from deploy_ext.drift import compare
from deploy_ext.profile import Profile, measure
import scipy.stats, deploy_ext.table
stored = Profile.from_dict(json.loads((folder / "profile.json").read_text()))

def work():
    drift = compare(stored, measure(new))
    spread = {c.name: (c.histogram.m2 / c.histogram.n) ** 0.5 for c in stored.columns if c.histogram}
    return {c.column: {"psi": c.psi, "ks": c.ks, "wasserstein": c.wasserstein and c.wasserstein * spread[c.column]}
            for c in drift.columns}
"""
SCIPY = """
import numpy as np
from scipy import stats
from deploy_ext.drift import psi

def shares(values, cuts):
    return np.diff(np.r_[0, np.searchsorted(np.sort(values), cuts, side="right"), len(values)]) / len(values)

def column(name):
    a, b = old[name], new[name]
    if a.dtype.kind not in "iuf":
        names = sorted(set(a) | set(b))
        return {"psi": psi(*(x.value_counts(normalize=True).reindex(names, fill_value=0).to_numpy() for x in (a, b)))}
    a, b = a.to_numpy(float), b.to_numpy(float)
    cuts = np.unique(np.quantile(a, np.arange(0.1, 1, 0.1), method="inverted_cdf"))
    return {"psi": psi(shares(a, cuts), shares(b, cuts)), "ks": float(stats.ks_2samp(a, b, method="asymp").statistic),
            "wasserstein": float(stats.wasserstein_distance(a, b))}

def work():
    return {name: column(name) for name in old}
"""
PEER = """
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
numbers = [c for c in old if c.startswith("n")]
known = DataDefinition(numerical_columns=numbers, categorical_columns=[c for c in old if c not in numbers])
sides = [Dataset.from_pandas(side, data_definition=known) for side in (new, old)]

def work():
    told = Report([DataDriftPreset(num_method="psi", cat_method="psi")]).run(*sides).dict()
    return len(str(told))
"""


SHAPES: list[Any] = [
    lambda rng, rows, by: rng.normal(by, 1 + by, rows),
    lambda rng, rows, by: rng.lognormal(by, 1.2, rows),
    lambda rng, rows, by: rng.exponential(1 + by, rows),
    lambda rng, rows, by: rng.poisson(2000 * (1 + by / 30), rows),
    lambda rng, rows, by: rng.gamma(2 + by, 3, rows).round(2),
]


def tables(rows: int, folder: Path) -> None:
    """Two tables, the second of which has moved a little in every other column, and the profile of the first."""
    import pandas as pd

    from deploy_ext.profile import measure

    for side, moved in (("old", 0.0), ("new", 0.15)):
        rng, made = np.random.default_rng(len(side) + (side == "new")), {}
        for i in range(NUMBERS):
            by = moved * (i % 2)
            made[f"n{i:02}"] = SHAPES[i % len(SHAPES)](rng, rows, by)
        for i in range(WORDS):
            size = (3, 12, 50, 100)[i % 4]
            weights = 1 / np.arange(1, size + 1) ** (1 + moved * (i % 2))
            words = np.array([f"w{k:03}" for k in range(size)])
            made[f"w{i:02}"] = rng.choice(words, rows, p=weights / weights.sum())
        table = pd.DataFrame(made)
        table.to_parquet(folder / f"{side}.parquet")
        if side == "old":
            (folder / "profile.json").write_text(measure(table).to_json())


def peer() -> str:
    """evidently's Python, installed on first use."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(ENVIRONMENT)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *EVIDENTLY], check=True)
    return str(python)


def run(python: str, script: str, folder: Path) -> dict[str, Any]:
    """Seconds, MB and what was found, of a script in a process of its own."""
    told = subprocess.run(
        [python, "-c", WATCH + script + MEASURE, str(folder)], stdout=subprocess.PIPE, check=True, timeout=900
    )
    return json.loads(told.stdout.splitlines()[-1])


def errors(found: dict[str, Any], exact: dict[str, Any]) -> dict[str, float]:
    """The largest distance from scipy; of Wasserstein as a share, where it is more than a hundredth of the spread."""
    worst: dict[str, float] = dict.fromkeys(("psi", "ks", "wasserstein"), 0.0)
    for name, known in exact.items():
        for what, value in known.items():
            far = abs(found[name][what] - value)
            if what == "wasserstein":
                far = far / value if known["ks"] > 0.01 else 0.0
            worst[what] = max(worst[what], far)
    return worst


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    rows = arguments.parse_args().rows
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        tables(rows, folder)
        ours = min((run(sys.executable, OURS, folder) for _ in range(3)), key=lambda r: r["seconds"])
        exact, other = run(sys.executable, SCIPY, folder), run(peer(), PEER, folder)
        size = (folder / "profile.json").stat().st_size
    print(machine("deploy_ext", "scipy", "numpy", "pandas"), EVIDENTLY[0])
    print(f"{rows:,} rows x {NUMBERS} numeric and {WORDS} categorical columns, the profile has {size / 1000:.0f} kB")
    for name, one in (("deploy_ext, all statistics", ours), ("scipy, exact", exact), ("evidently, PSI", other)):
        print(f"{name:<30}{one['seconds']:>9.2f} s{one['memory']:>9.0f} MB")
    worst, missed = errors(ours["found"], exact["found"]), 0
    for what, reached, wanted, least in (
        ("seconds", ours["seconds"], 2.0, False),
        ("times as fast as evidently's PSI", other["seconds"] / ours["seconds"], 30, True),
        ("memory as a share of evidently's", ours["memory"] / other["memory"], 0.1, False),
        ("KS, largest error", worst["ks"], 1e-3, False),
        ("PSI, largest error", worst["psi"], 5e-3, False),
        ("Wasserstein, largest error as a share", worst["wasserstein"], 0.01, False),
    ):
        good = reached >= wanted if least else reached <= wanted
        missed += not good
        print(f"{'ok' if good else 'MISSED':<8}{what:<44}{reached:>10.5f} {'>=' if least else '<='} {wanted:g}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
