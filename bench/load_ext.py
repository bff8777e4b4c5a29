"""What `%load_ext deploy_ext` adds to the start of IPython: the median of ten starts with it and without, alternated.

Prints a table; exits 1 when it adds more than 0.15 s. Run it with: .venv/bin/python bench/load_ext.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from machine import machine

LIMIT = 0.15  # seconds
STARTS = 10
LINES = ("pass", "%load_ext deploy_ext")


def seconds(line: str, home: str) -> float:
    """One start of IPython that runs `line`, in a fresh IPython folder so that no user profile counts."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "-c", line],
        env=os.environ | {"IPYTHONDIR": home},
        cwd=home,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def main() -> int:
    with tempfile.TemporaryDirectory() as home:
        for line in LINES:
            seconds(line, home)  # byte code and the profile folder are made once
        times: dict[str, list[float]] = {line: [] for line in LINES}
        for _ in range(STARTS):
            for line in LINES:
                times[line].append(seconds(line, home))
    print(machine("deploy_ext", "ipython"))
    print(f"{'ipython -c':<24}{'median s':>10}{'least s':>10}{'most s':>10}")
    for line, seen in times.items():
        print(f"{line:<24}{statistics.median(seen):>10.3f}{min(seen):>10.3f}{max(seen):>10.3f}")
    added = statistics.median(times[LINES[1]]) - statistics.median(times[LINES[0]])
    print(f"{'added':<24}{added:>10.3f}   limit {LIMIT}: {'ok' if added <= LIMIT else 'TOO SLOW'}")
    return int(added > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
