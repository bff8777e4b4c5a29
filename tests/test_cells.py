"""Every fast form must equal the metric itself on any resample, and be fast."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_ext.cells import FORMS, Cells, draws
from deploy_ext.metrics import METRICS, interval
from deploy_ext.scored import Scored


def classifier(rng: np.random.Generator, rows: int, k: int, decimals: int) -> Scored:
    """Random answers with many ties in the scores when `decimals` is small."""
    raw = rng.dirichlet(np.ones(k), rows).round(decimals) + 10.0**-decimals
    chances = raw / raw.sum(axis=1, keepdims=True)
    labels = np.array([f"class {i}" for i in range(k)])
    return Scored(labels[rng.integers(k, size=rows)], labels[chances.argmax(axis=1)], chances, tuple(labels))


def regression(rng: np.random.Generator, rows: int) -> Scored:
    truth = rng.integers(0, 20, rows).astype(float)
    return Scored(truth, np.abs(truth + rng.normal(0, 3, rows)))


def several(rng: np.random.Generator, rows: int, k: int, decimals: int) -> Scored:
    """Rows of k labels; some labels never hold or are never said, some rows have none or all of them."""
    raw = np.clip(rng.random((rows, k)) + rng.normal(0, 0.3, k), 0, 1)
    truth = raw + rng.normal(0, 0.3, raw.shape) > rng.uniform(-0.5, 1.5, k)
    return Scored(truth, raw > 0.5, raw.round(decimals), tuple(f"label {i}" for i in range(k)))


def check(name: str, s: Scored, counts: np.ndarray) -> None:
    """The fast form of the counted rows against scikit-learn on the repeated rows."""
    form = FORMS[name](s)
    by_cell = np.bincount(form.codes, weights=counts, minlength=form.size).astype(int)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        fast, slow = form.value(by_cell), METRICS[name].value(s.take(np.repeat(np.arange(s.rows), counts)))
    assert math.isclose(fast, slow, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(fast) and math.isnan(slow)), (fast, slow)


def of_kind(kind: str) -> list[str]:
    return [name for name in FORMS if kind in METRICS[name].kinds]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(2, 60), k=st.integers(2, 4), decimals=st.integers(1, 6))
def test_fast_forms_of_classifiers_equal_the_metric(seed, rows, k, decimals):
    rng = np.random.default_rng(seed)
    s = classifier(rng, rows, k, decimals)
    counts = np.bincount(rng.integers(rows, size=rows), minlength=rows)
    for name in of_kind(s.kind):
        check(name, s, counts)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(2, 60), k=st.integers(2, 9), decimals=st.integers(1, 6))
def test_fast_forms_of_several_labels_equal_the_metric(seed, rows, k, decimals):
    rng = np.random.default_rng(seed)
    s = several(rng, rows, k, decimals)
    counts = np.bincount(rng.integers(rows, size=rows), minlength=rows)
    for name in of_kind("multilabel"):
        check(name, s, counts)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(2, 60))
def test_fast_forms_of_regressions_equal_the_metric(seed, rows):
    rng = np.random.default_rng(seed)
    s = regression(rng, rows)
    counts = np.bincount(rng.integers(rows, size=rows), minlength=rows)
    for name in of_kind("regression"):
        check(name, s, counts)


def test_a_class_that_the_model_does_not_know_counts_as_a_class():
    s = Scored(np.array(["a", "b", "c", "c"]), np.array(["a", "b", "a", "b"]), None, ("a", "b"))
    for name in ("accuracy", "f1_macro", "recall_weighted", "balanced_accuracy", "f1"):
        check(name, s, np.ones(4, dtype=int))


def test_two_models_are_drawn_together():
    codes = np.random.default_rng(0).integers(3, size=5_000)
    same = Cells(codes, 3, lambda counts: counts[0])
    for one, other in draws([same, same], 50):
        assert one.tolist() == other.tolist()
        assert one.sum() == 5_000


def test_few_cells_and_many_cells_have_the_same_distribution():
    right = np.random.default_rng(0).random(2_000) < 0.8
    few = Cells(right.astype(int), 2, lambda counts: counts[1] / counts.sum())
    many = Cells(np.arange(2_000), 2_000, lambda counts: counts @ right / counts.sum())
    spread = [np.std([c.value(counts) for (counts,) in draws([c], 2_000)]) for c in (few, many)]
    assert spread == pytest.approx([math.sqrt(right.mean() * (1 - right.mean()) / 2_000)] * 2, rel=0.07)


@pytest.mark.parametrize("name", ["accuracy", "f1", "log_loss", "roc_auc", "average_precision"])
def test_a_thousand_resamples_of_a_hundred_thousand_rows(name):
    s = classifier(np.random.default_rng(0), 100_000, 2, 9)
    found = interval(name, s)
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low < found.value < found.high
