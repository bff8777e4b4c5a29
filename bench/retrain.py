"""What a job costs beside bare papermill, a rerun that is answered, and what a sweep gains from a second core.

papermill and deploy-ext run the same notebook in turns, as processes of their own; each figure is a median of three.
The job is a notebook of 40 cells with checkpoints on, once short and once some times as long. A sweep of eight jobs
runs one at a time and two at a time, beside the same cells in bare processes, which says what the second core is worth
here; and 200 short notebooks run eight at a time. Prints a table; exits 1 when a job takes more than 1.15 times
papermill, an answered rerun 2 s or more, eight jobs two at a time are less than 1.7 times as fast as one at a time, or
one of the 200 fails.
Run it with: .venv/bin/python bench/retrain.py
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from machine import machine
from nbformat.v4 import new_code_cell, new_notebook

TURNS = 3
GAIN = 1.7  # times one after the other
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
FIT = (
    "few = frame.sample({2}, random_state={0})\n"
    "m{0} = HistGradientBoostingClassifier(max_iter={1}, early_stopping=False).fit(few, sample{0})"
)
LABELS = "sample{0} = frame.sample({1}, random_state={0}).a > {0} / 10"


def cells(rounds: int, rows: int) -> list[str]:
    """40 cells as a notebook has them: loads, features, fits of so many rounds and rows, and many that only look."""
    made = [FIRST, LOAD]
    for i in range(6):
        made += [FEATURE.format(i, "bcdefg"[i]), f"frame['x{i}'].describe()", f"print(frame.x{i}.mean())"]
    for i in range(5):
        made += [
            LABELS.format(i, rows),
            FIT.format(i, rounds, rows),
            f"print(m{i}.n_iter_)",
            f"scores{i} = m{i}.predict_proba(frame[:5000])[:, 1]",
        ]
    return made[:39]


TREE = [
    "import numpy as np\nfrom sklearn.tree import DecisionTreeClassifier",
    "rng = np.random.default_rng(seed)\nX = rng.normal(size=(60_000, 30))\ny = X[:, 0] + X[:, 1] ** 2 > 1",
    "tree = DecisionTreeClassifier(max_depth=20).fit(X, y)",
    "score = tree.score(rng.normal(size=(1000, 30)), rng.random(1000) > 0.5)",
]


def write(path: Path, sources: list[str]) -> None:
    """A notebook with the parameter seed."""
    made = [new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=made, metadata=about), path)


def environment(folder: Path) -> dict[str, str]:
    """Of the processes: they keep the byte code of what they import, as is usual, and their project is `folder`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"DEPLOY_EXT_PROJECT": str(folder)}


def timed(command: list[str], folder: Path) -> float:
    """Seconds that a process takes."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def told(title: str, times: dict[str, list[float]], base: str) -> dict[str, float]:
    """Print a table; the medians as multiples of that of `base`."""
    bare = statistics.median(times[base])
    print(f"{title:<34}{'median s':>10}{'least s':>10}{'most s':>10}{'x first':>10}")
    for way, seen in times.items():
        median = statistics.median(seen)
        print(f"{way:<34}{median:>10.2f}{min(seen):>10.2f}{max(seen):>10.2f}{median / bare:>10.2f}")
    return {way: statistics.median(seen) / bare for way, seen in times.items()}


def jobs(folder: Path, sources: list[str], turns: int, title: str) -> tuple[float, float]:
    """A job beside papermill: its multiple, and the seconds of an answered rerun."""
    write(folder / "train.ipynb", sources)
    job = [str(BIN / "deploy-ext"), "retrain", "train.ipynb", "-p"]
    ways: dict[str, Callable[[int], list[str]]] = {
        "papermill": lambda n: [str(BIN / "papermill"), "train.ipynb", "out.ipynb", "-p", "seed", str(n)],
        "deploy-ext retrain": lambda n: [*job, f"seed={n}"],
        "deploy-ext retrain, answered": lambda n: [*job, f"seed={n}"],
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for n in range(turns):
        for way, command in ways.items():
            times[way].append(timed(command(n), folder))
    found = told(title, times, "papermill")
    return found["deploy-ext retrain"], statistics.median(times["deploy-ext retrain, answered"])


def sweep(folder: Path, turns: int) -> float:
    """Eight jobs two at a time: how many times as fast as one at a time."""
    write(folder / "tree.ipynb", TREE)
    words = [str(BIN / "deploy-ext"), "retrain", "tree.ipynb", "-p", "seed=1,2,3,4,5,6,7,8", "--grid", "--force"]
    ways = {"eight jobs, one at a time": "1", "eight jobs, two at a time": "2"}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, count in ways.items():
            times[way].append(timed([*words, "--jobs", count], folder))
    for count in ways.values():
        times[f"their cells alone, {count} at a time"] = [bare(folder, int(count))]
    found = told("a sweep", times, "eight jobs, one at a time")
    return 1 / found["eight jobs, two at a time"]


def bare(folder: Path, count: int) -> float:
    """Seconds that the cells of eight jobs take in plain Python processes, so many at a time."""
    (folder / "tree.py").write_text("\n".join(["import sys", "seed = int(sys.argv[1])", *TREE]))
    left = [[sys.executable, "tree.py", str(seed)] for seed in range(8)]
    began = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda command: timed(command, folder), left))
    return time.perf_counter() - began


def many(folder: Path) -> int:
    """How many of 200 short notebooks fail, eight at a time."""
    write(folder / "short.ipynb", ["score = seed"])
    seeds = ",".join(map(str, range(200)))
    words = ["short.ipynb", "-p", f"seed={seeds}", "--grid", "--force", "--jobs", "8", "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        [str(BIN / "deploy-ext"), "retrain", *words],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
    )
    if not done.stdout:
        print(f"the sweep of 200 broke, code {done.returncode}: {done.stderr[-3000:]}")
        return 200
    trials = json.loads(done.stdout)["trials"]
    failed = sum(trial["outcome"] != "done" for trial in trials)
    print(f"{len(trials)} short notebooks, eight at a time: {failed} failed, {time.perf_counter() - began:.0f} s")
    return failed + 200 - len(trials)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "warm.ipynb", ["seed"])
        timed([str(BIN / "deploy-ext"), "retrain", "warm.ipynb"], folder)  # byte code, and the project's database
        timed([str(BIN / "papermill"), "warm.ipynb", "out.ipynb"], folder)
        print(machine("deploy_ext", "papermill", "nbclient"))
        short, answered = jobs(folder, cells(20, 20_000), TURNS, "40 cells, a job of seconds")
        long, _ = jobs(folder, cells(300, 200_000), 2, "40 cells, a longer job")
        gain, failed = sweep(folder, 2), many(folder)
    limits = {
        f"job of seconds: {short:.2f} times papermill, limit {RATIO}": short <= RATIO,
        f"longer job: {long:.2f} times papermill, limit {RATIO}": long <= RATIO,
        f"answered: {answered:.2f} s, limit {ANSWERED}": answered < ANSWERED,
        f"two at a time: {gain:.2f} times as fast, at least {GAIN}": gain >= GAIN,
        f"failed of 200: {failed}": failed == 0,
    }
    for words, held in limits.items():
        print(f"{words}: {'ok' if held else 'MISSED'}")
    return int(not all(limits.values()))


if __name__ == "__main__":
    sys.exit(main())
