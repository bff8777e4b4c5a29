"""scikit-learn's numbers under scikit-learn's names; bounds and differences against the bootstrap done literally."""

import importlib
import itertools
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_ext.core import InvalidRequest
from deploy_ext.metrics import (
    KINDS,
    METRICS,
    SLOW_RESAMPLES,
    Estimate,
    broken,
    find,
    interval,
    margin,
    paired,
    register,
    score,
    segments,
)
from deploy_ext.scored import Scored, trivial

AVERAGES = ("macro", "micro", "weighted", "samples")
LABELS = ("late", "on time", "early")


def classifier(seed: int, rows: int = 200, k: int = 2, skill: float = 1.0) -> Scored:
    """Strings as labels; the chances lean to the truth by `skill`. The truth depends on rows and k alone."""
    truth = np.random.default_rng(rows * k).integers(k, size=rows)
    logits = np.random.default_rng(seed).normal(size=(rows, k)) + skill * np.eye(k)[truth]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    words = np.array(LABELS[:k])
    return Scored(words[truth], words[chances.argmax(axis=1)], chances, LABELS[:k])


def regression(seed: int, rows: int = 200) -> Scored:
    truth = np.random.default_rng(rows).gamma(2, size=rows)
    return Scored(truth, truth + np.abs(np.random.default_rng(seed).normal(size=rows)))


class Answers:
    """Answers as an estimator, so that scikit-learn's own scorers can be asked."""

    def __init__(self, s: Scored):
        self._s, self.classes_ = s, np.array(s.labels)
        self._estimator_type = "classifier" if s.labels else "regressor"

    def fit(self, X, y):
        return self

    def predict(self, X):
        return self._s.prediction

    def predict_proba(self, X):
        return self._s.probabilities

    def __sklearn_tags__(self):
        from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

        mixin = ClassifierMixin if self._s.labels else RegressorMixin
        return type("Tagged", (mixin, BaseEstimator), {})().__sklearn_tags__()


def calibration_by_hand(s: Scored) -> float:
    """Bin by bin: the share that happened against the mean probability, weighed by rows."""
    if len(s.labels) > 2:
        chance, hit = s.probabilities.max(axis=1), np.array(s.labels)[s.probabilities.argmax(axis=1)] == s.truth
    else:
        chance, hit = s.probabilities[:, -1], s.truth == np.array(s.labels)[-1]
    borders, total = [-np.inf, *(k / 10 for k in range(1, 10)), np.inf], 0.0
    for low, high in itertools.pairwise(borders):
        inside = (chance >= low) & (chance < high)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - chance[inside].mean())
    return total


def sklearn_direct(name: str, s: Scored) -> float:
    """scikit-learn called by hand, on the labels as they are."""
    positive = s.labels[-1] if s.labels else None
    both = (s.truth, s.prediction)
    base, _, average = name.rpartition("_")
    if name in ("precision", "recall", "f1", "jaccard"):
        return getattr(sk, f"{name}_score")(*both, pos_label=positive)
    if base in ("precision", "recall", "f1", "jaccard"):
        return getattr(sk, f"{base}_score")(*both, average=average)
    if name in ("roc_auc", "average_precision"):
        return getattr(sk, f"{name}_score")(s.truth == positive, s.probabilities[:, -1])
    if name.startswith("roc_auc_"):
        weighted = "weighted" if name.endswith("_weighted") else "macro"
        codes = pd.Categorical(s.truth, categories=s.labels).codes
        return sk.roc_auc_score(codes, s.probabilities, multi_class=name[8:11], average=weighted)
    if name in ("log_loss", "d2_log_loss_score", "brier_score", "d2_brier_score", "top_k_accuracy"):
        codes = pd.Categorical(s.truth, categories=s.labels).codes
        function = {"brier_score": "brier_score_loss", "top_k_accuracy": "top_k_accuracy_score"}.get(name, name)
        return getattr(sk, function)(codes, s.probabilities, labels=np.arange(len(s.labels)))
    if name == "calibration_error":  # scikit-learn has none
        return calibration_by_hand(s)
    if name.endswith("likelihood_ratio"):
        return sk.class_likelihood_ratios(*both, labels=s.labels)[name.startswith("negative")]
    function = getattr(sk, name, None) or getattr(sk, f"{name}_score")
    return function(*both)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(10, 80), kind=st.sampled_from(sorted({*KINDS} - {"multilabel"})))
def test_values_are_those_of_scikit_learn(seed, rows, kind):
    s = regression(seed, rows) if kind == "regression" else classifier(seed, rows, 2 if kind == "binary" else 3)
    for name, metric in METRICS.items():
        if kind not in metric.kinds:
            continue
        found = score(name, s)
        if found.value is not None:
            assert found.value == pytest.approx(sklearn_direct(name, s), rel=1e-12, abs=1e-15), name


def test_calibration_is_nothing_when_probabilities_are_true():
    rng = np.random.default_rng(0)
    chance = rng.random(200_000)
    late = rng.random(200_000) < chance
    true = Scored(late, chance > 0.5, np.c_[1 - chance, chance], (False, True))
    sure = Scored(late, chance > 0.5, np.c_[chance < 0.5, chance >= 0.5].astype(float), (False, True))
    assert score("calibration_error", true).value == pytest.approx(0, abs=0.01)
    assert score("calibration_error", sure).value == pytest.approx(0.25, abs=0.01)
    found: Any = interval("calibration_error", sure)
    assert found.low < found.value < found.high < found.low + 0.01


def test_every_supervised_scorer_has_its_name_here():
    clustering = {"rand_score", "adjusted_rand_score", "completeness_score", "homogeneity_score", "v_measure_score"}
    clustering |= {n for n in sk.get_scorer_names() if "mutual_info" in n or n == "fowlkes_mallows_score"}
    theirs = {n.removeprefix("neg_") for n in sk.get_scorer_names()} - clustering
    functions = {"cohen_kappa", "hamming_loss", "coverage_error", "label_ranking_loss"}  # of theirs, without a scorer
    functions |= {f"{n}_{how}" for n in ("roc_auc", "average_precision") for how in AVERAGES}
    assert set(METRICS) - theirs == functions | {"label_ranking_average_precision", "calibration_error"}
    assert theirs - set(METRICS) == set()


@pytest.mark.parametrize("name", [n for n in sk.get_scorer_names() if n.removeprefix("neg_") in METRICS])
def test_the_sign_is_natural_and_the_direction_is_known(name):
    metric, scorer = METRICS[name.removeprefix("neg_")], sk.get_scorer(name)
    assert metric.greater_is_better == (scorer._sign > 0)


@pytest.mark.parametrize(("kind", "name"), [("binary", "neg_log_loss"), ("regression", "neg_mean_absolute_error")])
def test_a_scorer_of_scikit_learn_is_the_negative(kind, name):
    s = regression(0) if kind == "regression" else classifier(0)
    if s.labels:  # scikit-learn wants probability columns in the order of the sorted labels
        s = replace(s, truth=s.codes[0], prediction=s.codes[1], labels=(0, 1))
    assert -sk.get_scorer(name)(Answers(s), np.zeros((s.rows, 1)), s.truth) == pytest.approx(score(name[4:], s).value)


# ---- what has no value


def test_what_has_no_value_has_a_reason():
    s, unknown = classifier(0), np.array(["a", None, pd.NA], dtype=object)
    cases = {
        "there are no rows": ("accuracy", s.take(np.arange(0))),
        "Only one class is present": ("roc_auc", s.take(np.flatnonzero(s.truth == "late"))),
        "no probabilities": ("log_loss", replace(s, probabilities=None)),
        "does not know 'diverted'": ("roc_auc", replace(s, truth=np.where(np.arange(s.rows) < 3, "diverted", s.truth))),
        "probabilities are not finite": ("roc_auc", replace(s, probabilities=s.probabilities * np.nan)),
        "200 of 200 predictions are not finite": ("r2", Scored(np.zeros(200), np.full(200, np.inf))),
        "1 of 2 rows have no truth": ("r2", Scored(np.array([1.0, np.nan]), np.ones(2))),
        "2 of 3 rows have no truth": ("accuracy", Scored(unknown, np.array(["a"] * 3), None, ("a", "b"))),
        "failed with ValueError": ("mean_gamma_deviance", Scored(np.array([-1.0, 1.0]), np.ones(2))),
    }
    for told, (name, what) in cases.items():
        for found in (score(name, what), interval(name, what), paired(name, what, what)):
            assert found.value is None
            assert told in found.reason


def test_zero_of_zero_is_scikit_learns_zero_with_its_warning():
    s = classifier(0)
    found = score("precision", replace(s, prediction=np.full(s.rows, "late")))
    assert found.value == 0
    assert "no predicted samples" in found.reason


def test_a_metric_of_another_kind_names_those_that_fit():
    with pytest.raises(InvalidRequest, match="mean_absolute_error"):
        score("roc_auc", regression(0))
    with pytest.raises(InvalidRequest, match=r"roc_auc_ovr, .*roc_auc_ovo"):
        interval("roc_auc", classifier(0, k=3))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_other_name_is_a_request_error(name):
    if name not in METRICS:
        with pytest.raises(InvalidRequest, match="no metric"):
            find(name)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rmse", "root_mean_squared_error"),
        ("mae", "mean_absolute_error"),
        ("mse", "mean_squared_error"),
        ("mape", "mean_absolute_percentage_error"),
        ("neg_log_loss", "log_loss"),
        ("neg_rmse", "root_mean_squared_error"),
        ("roc_acu", "roc_auc"),
        ("brier", "brier_score"),
        ("ROC_AUC", "roc_auc"),
    ],
)
def test_what_is_usually_typed_finds_the_name(typed, meant):
    with pytest.raises(InvalidRequest, match=f"'{meant}'"):
        find(typed)


# ---- bounds


def known(e: Estimate) -> tuple[float, float, float]:
    """Low, value and high of an estimate that has them."""
    assert e.low is not None and e.value is not None and e.high is not None, e.reason
    return e.low, e.value, e.high


def literally(name: str, sides: list[Scored], level: float, resamples: int = 1_000) -> list[float]:
    """The bootstrap as the textbook has it: rows drawn with repetition, scikit-learn called on each sample."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(resamples):
        picked = rng.integers(sides[0].rows, size=sides[0].rows)
        drawn = [METRICS[name].value(s.take(picked)) for s in sides]
        values.append(drawn[0] - drawn[1] if len(drawn) > 1 else drawn[0])
    return np.quantile(values, [1 - level, level]).tolist()


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "log_loss", "brier_score"])
def test_bounds_are_those_of_the_literal_bootstrap(name, monkeypatch):
    monkeypatch.setattr(importlib.import_module("deploy_ext.metrics"), "RESAMPLES", 200)
    one, other = classifier(1, 60), classifier(2, 60, skill=0.5)
    alone, difference = interval(name, one, 0.9), paired(name, one, other, 0.9)
    assert [alone.low, alone.high] == pytest.approx(literally(name, [one], 0.9, 200), rel=1e-9)
    assert [difference.low, difference.high] == pytest.approx(literally(name, [one, other], 0.9, 200), rel=1e-9)


@pytest.mark.parametrize("name", ["r2", "root_mean_squared_error", "median_absolute_error", "explained_variance"])
def test_bounds_of_regressions_are_those_of_the_literal_bootstrap(name):
    s = regression(1, 60)
    alone = interval(name, s)
    assert [alone.low, alone.high] == pytest.approx(literally(name, [s], 0.95), rel=1e-9)


def test_the_slow_way_is_the_literal_bootstrap_too():
    s = classifier(1, 60, k=3)
    alone = interval("roc_auc_ovr", s)
    assert [alone.low, alone.high] == pytest.approx(literally("roc_auc_ovr", [s], 0.95, SLOW_RESAMPLES))


def test_the_lower_bound_lies_below_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        right = (rng.random(2_500) < 0.8).astype(int)
        held += known(interval("accuracy", Scored(np.ones(2_500, int), right, None, (0, 1)), 0.9))[0] < 0.8
    assert 0.86 <= held / 400 <= 0.94


@pytest.mark.parametrize("name", ["accuracy", "f1", "roc_auc", "log_loss"])
def test_a_model_differs_from_itself_by_nothing(name):
    found = paired(name, classifier(0), classifier(0))
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("name", ["accuracy", "f1", "roc_auc", "log_loss", "r2"])
def test_every_judgement_can_be_repeated(name):
    one, other = (regression(1), regression(2)) if name == "r2" else (classifier(1), classifier(2))
    assert interval(name, one) == interval(name, one)
    assert paired(name, one, other) == paired(name, one, other)


@pytest.mark.parametrize("level", [0, 0.5, 1, 95])
def test_a_level_is_a_share_above_one_half(level):
    with pytest.raises(InvalidRequest, match="confidence level"):
        interval("accuracy", classifier(0), level)


def test_no_level_means_no_bounds():
    assert interval("accuracy", classifier(0), None) == score("accuracy", classifier(0))


def test_few_rows_have_no_bounds():
    found = interval("accuracy", classifier(0, rows=19))
    assert (found.low, found.high) == (None, None)
    assert "19 rows are too few" in found.reason


def test_two_models_are_compared_on_the_same_rows():
    one = classifier(0)
    with pytest.raises(InvalidRequest, match="same rows"):
        paired("accuracy", one, replace(one, truth=one.truth[::-1]))


def test_the_other_model_may_lack_something():
    one = classifier(0)
    assert paired("log_loss", one, replace(one, probabilities=None)).reason == (
        "the other model: the model gives no probabilities"
    )
    wider = replace(one, probabilities=None, labels=LABELS)
    assert "for multiclass" in paired("f1", one, wider).reason


def test_a_margin_is_positive_when_better_whatever_the_metric():
    good = classifier(0, skill=3.0)
    for name in ("accuracy", "roc_auc", "log_loss", "brier_score"):
        low, value, high = known(margin(name, good, trivial(good)))
        assert 0 < low < value < high, name
    for name in ("r2", "mean_absolute_error", "root_mean_squared_error"):
        bad = Scored(np.arange(100.0), 150 - np.arange(100.0))
        low, value, high = known(margin(name, bad, trivial(bad)))
        assert low < value < high < 0, name


# ---- parts


def test_the_worst_part_comes_first_and_small_ones_last():
    right = np.repeat([True, False, True], [100, 60, 10])
    where = np.repeat(["JFK", "LGA", "EWR"], [100, 60, 10])
    s = Scored(np.ones(170, int), right.astype(int), None, (0, 1), pd.DataFrame({"origin": where}))
    assert [(p.segment, p.value, p.rows) for p in segments("accuracy", s, "origin")] == [
        ("LGA", 0.0, 60),
        ("JFK", 1.0, 100),
        ("EWR", None, 10),
    ]
    errors = Scored(np.zeros(170), 1.0 - right, frame=s.frame)
    assert segments("mean_absolute_error", errors, "origin", minimum=5)[0].segment == "LGA"


# ---- the open table


@pytest.fixture
def open_table():
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)
    broken.cache_clear()


def test_a_registered_function_is_a_metric_like_any_other(open_table):
    def own_accuracy(s: Scored) -> float:
        return float(np.mean(s.truth == s.prediction))

    register("own.accuracy", own_accuracy, "as accuracy", kinds=("binary",))
    s = classifier(0, 60)
    found = interval("own.accuracy", s)
    assert found.value == score("accuracy", s).value
    assert [found.low, found.high] == literally("own.accuracy", [s], 0.95, SLOW_RESAMPLES)
    register("own.accuracy", lambda s: 0.5)  # the cell was run again
    assert score("own.accuracy", s).value == 0.5


def test_what_breaks_inside_a_metric_is_told(open_table):
    register("broken_here", lambda s: s.frame["fare"].mean())
    assert score("broken_here", classifier(0)).reason.startswith("broken_here failed with TypeError")
    register("sometimes", lambda s: 1.0 if s.rows == 200 and s.truth[0] == s.truth[1] else math.nan)
    assert "nan" in score("sometimes", classifier(0, 60)).reason


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("roc_auc", "already"),
        ("a b", "cannot be written"),
        ("if.x", "cannot be"),
        ("champion", "already"),
        ("", "cannot be"),
    ],
)
def test_a_name_must_be_free_and_writable(open_table, name, told):
    with pytest.raises(InvalidRequest, match=told):
        register(name, lambda s: 1.0)


def test_metrics_of_packages_are_found_and_a_broken_one_harms_nobody(open_table, tmp_path, monkeypatch):
    (tmp_path / "late_flights.py").write_text(
        "from deploy_ext.metrics import Metric\n"
        "missed = Metric('missed', 'share of rows missed', lambda s: float((s.truth != s.prediction).mean()))\n"
        "number = 3\n"
    )
    info = tmp_path / "late_flights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late-flights\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[deploy_ext.metrics]\nmissed = late_flights:missed\nnumber = late_flights:number\ngone = no_such_module:x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    broken.cache_clear()
    s = classifier(0)
    assert score("missed", s).value == np.mean(s.truth != s.prediction)
    assert set(broken()) == {"gone", "number"}
    with pytest.raises(InvalidRequest, match="ModuleNotFoundError"):
        find("gone")
    with pytest.raises(InvalidRequest, match="not a deploy_ext"):
        find("number")
    del sys.modules["late_flights"]
