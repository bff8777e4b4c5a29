"""Sets and intervals: what the formula says, what MAPIE says about a fitted model, and what odd data does."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from mapie.regression import SplitConformalRegressor
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LinearRegression, LogisticRegression

from deploy_ext.conformal import MINIMUM, WORDS, Conformal, conformal
from deploy_ext.core import InvalidRequest
from deploy_ext.scored import Scored


def case(rows: int = 2_000, classes: int = 3, seed: int = 0) -> Scored:
    """Answers of a model that is right about its chances."""
    r = np.random.default_rng(seed)
    chances = r.dirichlet(np.full(classes, 0.4), rows)
    truth = (chances.cumsum(axis=1) < r.random((rows, 1))).sum(axis=1).clip(0, classes - 1)
    names = np.array([f"class {i}" for i in range(classes)])
    return Scored(names[truth], names[chances.argmax(axis=1)], chances, tuple(names.tolist()))


def numbers(rows: int = 2_000, seed: int = 0) -> Scored:
    r = np.random.default_rng(seed)
    truth = r.normal(size=rows)
    return Scored(truth, truth + r.standard_cauchy(rows))


def halves(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(rows)
    return order[: rows // 2], order[rows // 2 :]


def by_hand(scores: np.ndarray, level: float) -> float:
    """The ceil(level (n + 1))-th smallest score."""
    return float(np.sort(scores)[math.ceil(level * (len(scores) + 1)) - 1])


@settings(max_examples=25, deadline=None)
@given(st.integers(2 * MINIMUM, 900), st.integers(2, 5), st.sampled_from([0.5, 0.8, 0.9, 0.95]), st.integers(0, 99))
def test_sets_are_those_of_the_formula(rows: int, classes: int, level: float, seed: int) -> None:
    scored = case(rows, classes, seed)
    found = conformal(scored, level, seed)
    aside, measured = halves(rows, seed)
    truth = scored.codes[0]
    limit = by_hand(1 - scored.probabilities[aside, truth[aside]], level)
    sets = 1 - scored.probabilities[measured] <= limit + 1e-12
    assert found.coverage == pytest.approx(sets[np.arange(len(measured)), truth[measured]].mean())
    assert found.size == pytest.approx(sets.sum(axis=1).mean())
    assert sum(found.sizes) == pytest.approx(1) and found.rows == sum(c.rows for c in found.classes)


@settings(max_examples=25, deadline=None)
@given(st.integers(2 * MINIMUM, 900), st.sampled_from([0.5, 0.8, 0.9, 0.95]), st.integers(0, 99))
def test_intervals_are_those_of_the_formula(rows: int, level: float, seed: int) -> None:
    scored = numbers(rows, seed)
    found = conformal(scored, level, seed)
    aside, measured = halves(rows, seed)
    wrong = abs(scored.truth - scored.prediction)
    limit = by_hand(wrong[aside], level)
    assert found.width == pytest.approx(2 * limit)
    assert found.coverage == pytest.approx((wrong[measured] <= limit).mean(), abs=1.01 / len(measured))


def test_the_same_as_mapie_with_the_model_itself() -> None:
    aside, measured = halves(1_000, 0)
    made_up: Any = make_classification(1_500, n_informative=4, n_classes=3, flip_y=0.2, random_state=0)
    X, y = made_up
    model: Any = LogisticRegression().fit(X[1_000:], y[1_000:])
    scored = Scored(y[:1_000], model.predict(X[:1_000]), model.predict_proba(X[:1_000]), (0, 1, 2))
    made = SplitConformalClassifier(model, confidence_level=0.9).conformalize(X[aside], y[aside])
    sets = made.predict_set(X[measured])[1][:, :, 0]
    found = conformal(scored)
    assert found.size == pytest.approx(sets.sum(axis=1).mean())
    assert found.coverage == pytest.approx(sets[np.arange(500), y[measured]].mean())
    assert [c.coverage for c in found.classes] == pytest.approx([sets[y[measured] == c, c].mean() for c in range(3)])
    X, y, *_ = make_regression(1_500, 5, noise=9, random_state=0)
    line: Any = LinearRegression().fit(X[1_000:], y[1_000:])
    bounds = SplitConformalRegressor(line, confidence_level=0.9).conformalize(X[aside], y[aside])
    low, high = bounds.predict_interval(X[measured])[1][:, :, 0].T
    told = conformal(Scored(y[:1_000], line.predict(X[:1_000])))
    assert told.width == pytest.approx((high - low).mean())
    assert told.coverage == pytest.approx(((low <= y[measured]) & (y[measured] <= high)).mean())


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_the_promise_is_kept_on_average(level: float) -> None:
    found = [conformal(s, level, seed) for seed in range(30) for s in (case(600, 3, seed), numbers(600, seed))]
    assert np.mean([f.coverage or 0 for f in found]) == pytest.approx(level, abs=0.01)


def test_the_better_model_has_the_smaller_sets() -> None:
    good = case()
    worse = Scored(good.truth, good.prediction, 0.5 * good.probabilities + 0.5 / 3, good.labels)
    mixed = Scored(good.truth, good.prediction, np.random.default_rng(1).permutation(good.probabilities), good.labels)
    sizes = [conformal(s).size or 0 for s in (good, worse, mixed)]
    assert sizes[0] == pytest.approx(sizes[1], abs=0.05) and sizes[2] > sizes[0] + 0.5


def test_a_class_that_pays_for_the_others_is_told() -> None:
    r = np.random.default_rng(0)
    late = r.random(4_000) < 0.1
    chance = np.where(late, r.beta(2, 4, 4_000), r.beta(1, 9, 4_000))
    found = conformal(Scored(late, chance > 0.5, np.column_stack([1 - chance, chance]), (False, True)))
    worst = found.facts()["conformal.worst_class"]
    assert isinstance(worst, float) and worst < 0.6 and (found.coverage or 0) > 0.88
    assert [c.label for c in found.classes] == [False, True] and "True" in repr(found)


def test_rare_classes_are_too_few_and_not_bad() -> None:
    whole = case(3_000, 3)
    rare = np.flatnonzero(whole.codes[0] == 2)
    found = conformal(whole.take(np.setdiff1d(np.arange(3_000), rare[5:])))
    assert [c.coverage is None for c in found.classes] == [False, False, True]
    assert "too few" in repr(found) and found.facts()["conformal.worst_class"] != "too few"
    gone = conformal(whole.take(np.setdiff1d(np.arange(3_000), rare)))
    assert gone.classes[2].rows == 0 and gone.coverage == pytest.approx(0.9, abs=0.05)


def probabilities(values: Any) -> Scored:
    values = np.asarray(values, float)
    truth = np.arange(len(values)) % values.shape[1]
    return Scored(truth, truth, values, tuple(range(values.shape[1])))


FEW = "too few"
ODD: dict[str, tuple[Scored, str]] = {
    "nothing": (Scored(np.array([]), np.array([])), FEW),
    "one row": (probabilities([[0.5, 0.5]]), FEW),
    "too few": (case(2 * MINIMUM - 1), FEW),
    "no probabilities": (Scored(np.zeros(900), np.zeros(900), None, (0, 1)), "no probabilities"),
    "missing probabilities": (probabilities(np.full((900, 2), np.nan)), FEW),
    "negative probabilities": (probabilities(np.tile([-0.5, 1.5], (900, 1))), FEW),
    "all nothing": (probabilities(np.zeros((900, 2))), FEW),
    "one class": (probabilities(np.ones((900, 1))), "one class"),
    "strange labels": (Scored(np.full(900, "?"), np.full(900, "a"), np.full((900, 2), 0.5), ("a", "b")), FEW),
    "missing truth": (Scored(np.full(900, np.nan), np.zeros(900)), FEW),
    "infinite answers": (Scored(np.zeros(900), np.full(900, np.inf)), FEW),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answers_say_why_there_is_nothing(name: str) -> None:
    scored, told = ODD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = conformal(scored)
    facts = found.facts()
    assert set(facts) == set(WORDS)
    assert all(isinstance(v, str) and told in v for v in facts.values())
    assert told in repr(found) and not found.plots()


def test_what_can_be_used_is_used() -> None:
    """Rows without an answer are left out, and rounded probabilities sum to 1 again."""
    good = case(3_000)
    chances = good.probabilities.round(2) * np.random.default_rng(0).choice([0.99, 1.0, 1.01], (3_000, 1))
    chances[::10] = np.nan
    found = conformal(Scored(good.truth, good.prediction, chances, good.labels))
    assert found.rows == 1_350 and found.coverage == pytest.approx(0.9, abs=0.04)
    same = conformal(Scored(good.truth, good.prediction, np.full((3_000, 3), 1 / 3), good.labels))
    assert (same.coverage, same.size) == (1.0, 3.0)


def test_numbers_of_any_size() -> None:
    for scale in (0.0, 1e-300, 1e150, 1e300):
        found = conformal(Scored(numbers().truth * scale, numbers().truth * scale * 1.5))
        assert found.coverage == pytest.approx(0.9 if scale else 1.0, abs=0.03)
        assert found.width is not None and math.isfinite(found.width)


def test_records_are_plain_and_the_same_again() -> None:
    for scored in (case(), numbers()):
        found = conformal(scored)
        assert json.loads(found.to_json())["coverage"] == found.coverage
        assert Conformal.from_dict(json.loads(found.to_json())) == found == conformal(scored)
        assert set(found.facts()) == set(WORDS) and found._repr_html_()
    (plot,) = conformal(case()).plots()
    assert sum(plot.series["sets"][1]) == pytest.approx(1)
    assert conformal(case(), seed=1) != conformal(case())
    assert conformal(numbers()).facts()["conformal.size"] == "a regression has no classes"
    assert conformal(case()).facts()["conformal.width"] == "sets have no width"


@pytest.mark.parametrize("level", [0.0, 1.0, 90, float("nan")])
def test_a_level_that_is_none(level: float) -> None:
    with pytest.raises(InvalidRequest, match=r"Write level=0\.9"):
        conformal(numbers(), level)
