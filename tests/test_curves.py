"""Drawings of a model's answers: known answers from scikit-learn and pandas, few rows, many classes."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from deploy_ext.curves import BARS, POINTS, curves
from deploy_ext.dossier import Section
from deploy_ext.drawing import draw
from deploy_ext.metrics import score
from deploy_ext.records import Plot
from deploy_ext.scored import Scored

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def late() -> Scored:
    chance = RNG.beta(0.8, 2, 30_000)
    truth = np.where(RNG.random(30_000) < chance**1.2, "late", "on time")
    return Scored(truth, np.where(chance > 0.5, "late", "on time"), np.c_[1 - chance, chance], ("on time", "late"))


def line(plot: Plot) -> tuple[np.ndarray, np.ndarray]:
    ((x, y),) = plot.series.values()
    return np.array(x), np.array(y)


def test_reliability_is_sklearns(late: Scored) -> None:
    x, y = line(curves(late)[0])
    was, said = calibration_curve(late.truth == "late", late.probabilities[:, 1], n_bins=10)
    assert x == pytest.approx(said) and y == pytest.approx(was)


def test_reliability_of_several_classes_agrees_with_the_metric() -> None:
    chances = RNG.dirichlet([1, 2, 1], 5_000)
    truth = np.array([RNG.choice(3, p=p) for p in chances])
    s = Scored(truth, chances.argmax(1), chances, (0, 1, 2))
    x, y = line(curves(s)[0])
    rows = np.histogram(chances.max(1), np.linspace(0, 1, 11))[0]
    assert np.average(abs(x - y), weights=rows[rows > 0]) == pytest.approx(score("calibration_error", s).value)


def test_roc_and_precision_recall_are_sklearns_but_for_thinning(late: Scored) -> None:
    _, roc, pr = curves(late)
    truth, chance = late.truth == "late", late.probabilities[:, 1]
    fpr, tpr, _ = metrics.roc_curve(truth, chance)
    x, y = line(roc)
    assert len(x) <= POINTS and (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert {*zip(x, y, strict=True)} <= {*zip(fpr, tpr, strict=True)}
    assert abs(np.interp(fpr, x, y) - tpr).max() < 0.02
    assert f"{metrics.roc_auc_score(truth, chance):.3f}" in next(iter(roc.series))
    assert np.trapezoid(y, x) == pytest.approx(metrics.roc_auc_score(truth, chance), abs=1e-3)
    precision, recall, _ = metrics.precision_recall_curve(truth, chance)
    x, y = line(pr)
    assert len(x) <= POINTS and {*zip(x, y, strict=True)} <= {*zip(recall, precision, strict=True)}
    assert pr.guide == pytest.approx(truth.mean())
    assert f"{metrics.average_precision_score(truth, chance):.3f}" in next(iter(pr.series))


def test_few_rows_are_not_thinned() -> None:
    s = Scored(
        np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), np.c_[[0.9, 0.6, 0.65, 0.2], [0.1, 0.4, 0.35, 0.8]], (0, 1)
    )
    _, roc, _ = curves(s)
    fpr, tpr, _ = metrics.roc_curve(s.truth, s.probabilities[:, 1])
    assert [a.tolist() for a in line(roc)] == [fpr.tolist(), tpr.tolist()]


def test_confusion_is_sklearns() -> None:
    labels = tuple("abcd")
    truth, said = RNG.choice(list("abcd"), 4_000, p=[0.5, 0.3, 0.15, 0.05]), RNG.choice(list("abcd"), 4_000)
    said = np.where(RNG.random(4_000) < 0.6, truth, said)
    right, mistakes = curves(Scored(truth, said, labels=labels))
    by_class, overall = metrics.confusion_matrix(truth, said, normalize="true"), metrics.accuracy_score(truth, said)
    assert dict(zip(*right.series[""], strict=True)) == pytest.approx({k: by_class[i, i] for i, k in enumerate(labels)})
    assert right.guide == pytest.approx(overall) and list(right.series[""][1]) == sorted(right.series[""][1])
    shares = metrics.confusion_matrix(truth, said, normalize="all")
    exact = {f"{a} → {b}": shares[i, j] for i, a in enumerate(labels) for j, b in enumerate(labels) if i != j}
    found = dict(zip(*mistakes.series[""], strict=True))
    assert found == pytest.approx({k: v for k, v in exact.items() if v})
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_many_classes_show_the_commonest_mistakes() -> None:
    truth, said = RNG.integers(0, 60, 20_000), RNG.integers(0, 60, 20_000)
    right, mistakes = curves(Scored(truth, said, labels=tuple(range(60))))
    kinds = len({pair for pair in zip(truth.tolist(), said.tolist(), strict=True) if pair[0] != pair[1]})
    assert len(mistakes.series[""][0]) == BARS and f"of {kinds} kinds" in mistakes.title
    svg = ElementTree.fromstring(draw(right))
    assert sum("series-0" in path.get("style", "") for path in svg.iter("path")) == BARS


def test_labels_that_begin_alike_are_bars_of_their_own() -> None:
    labels = tuple(f"a label that is rather long, number {i}" for i in range(3))
    truth = RNG.choice(labels, 300)
    right, _ = curves(Scored(truth, np.repeat(labels[0], 300), labels=labels))
    svg = ElementTree.fromstring(draw(right))
    assert sum("series-0" in path.get("style", "") for path in svg.iter("path")) == 3


def test_answers_and_truths_that_are_no_label() -> None:
    truth = np.array(["a", "b", "z", "a"], dtype=object)
    right, mistakes = curves(Scored(truth, np.array(["a", "q", "a", "a"], dtype=object), labels=("a", "b", "c")))
    assert right.series[""] == (("b", "a"), (0.0, 1.0))
    assert mistakes.series[""] == (("b → no known class",), (pytest.approx(1 / 3),))


def test_residuals_are_those_of_pandas() -> None:
    said = RNG.gamma(2, 10, 6_000)
    truth = said + RNG.normal(0, 1 + said / 10)
    (plot,) = curves(Scored(truth, said))
    groups = pd.Series(truth - said).groupby(pd.qcut(said, np.linspace(0, 1, 21)))
    for name, q in {"95 %": 0.95, "median": 0.5, "5 %": 0.05}.items():
        assert plot.series[name][1] == pytest.approx(groups.quantile(q).to_numpy(), rel=0.02, abs=0.05)
    assert len(plot.series["median"][0]) == 20 and plot.guide == 0


@pytest.mark.parametrize(
    "scored",
    [
        Scored(np.array([]), np.array([])),
        Scored(np.array([np.nan]), np.array([1.0])),
        Scored(np.array([1e308]), np.array([-1e308])),
        Scored(np.array([]), np.array([]), labels=("a", "b")),
        Scored(np.array(["z"]), np.array(["a"]), labels=("a", "b")),
        Scored(np.array(["a"]), np.array(["a"]), np.array([[np.nan, 0.5]]), ("a", "b")),
    ],
)
def test_nothing_to_draw(scored: Scored) -> None:
    assert curves(scored) == ()


@pytest.mark.parametrize(
    ("scored", "drawn"),
    [
        (Scored(np.array([1.0]), np.array([1.0])), 1),
        (Scored(np.ones(99), np.ones(99)), 1),
        (Scored(np.array(["a"]), np.array(["a"]), np.array([[1.0]]), ("a",)), 1),
        (Scored(np.array(["a"]), np.array(["a"]), labels=("a", "b")), 1),
        (Scored(np.array([True, False]), np.array([True, True]), np.array([[0.0, 1], [0.5, 0.5]]), (False, True)), 3),
    ],
)
def test_one_row_one_class_one_value(scored: Scored, drawn: int) -> None:
    plots = curves(scored)
    assert len(plots) == drawn
    assert all(draw(plot).startswith("<svg") for plot in plots)
    assert Section("scores", "", plots=plots).plots == plots  # plain already
