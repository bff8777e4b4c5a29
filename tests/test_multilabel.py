"""Models of several labels a row: what scikit-learn's own numbers are, and the whole story of such a model."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from sklearn.datasets import make_multilabel_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from deploy_ext.core import InvalidRequest
from deploy_ext.gates import DEFAULT, parse
from deploy_ext.judge import judge
from deploy_ext.metrics import METRICS, applicable, interval, margin, paired, score, segments
from deploy_ext.output import Output, chances, combined, describe_output, indicators, names
from deploy_ext.scored import Scored, trivial

X, Y = make_multilabel_classification(600, n_features=8, n_classes=4, n_labels=2, random_state=0)
LABELS = ("a", "b", "c", "d")
FRAME = pd.DataFrame(X, columns=[f"x{i}" for i in range(8)])
TARGET = pd.DataFrame(Y.astype(bool), columns=list(LABELS))
TRAIN, HELD = slice(0, 300), slice(300, 600)

MODELS = [
    RandomForestClassifier(10, random_state=0),
    ExtraTreesClassifier(10, random_state=0),
    KNeighborsClassifier(),
    DecisionTreeClassifier(max_depth=5, random_state=0),
    MLPClassifier((8,), max_iter=60, random_state=0),
    OneVsRestClassifier(LogisticRegression()),
    MultiOutputClassifier(LogisticRegression()),
    ClassifierChain(LogisticRegression(), random_state=0),
    make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression())),
]


def fitted(model: Any, target: Any = TARGET) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a network that has not converged
        return model.fit(FRAME[TRAIN], target[TRAIN])


def held_out(model: Any) -> Scored:
    """Answers to the held-out rows beside the truth, in which a column says whether the row is even."""
    found = chances(model.predict_proba(FRAME[HELD]), model.classes_)
    frame = FRAME[HELD].assign(even=np.arange(300) % 2 == 0)
    return Scored(Y[HELD], indicators(model.predict(FRAME[HELD])), found, LABELS, frame)


FOREST = held_out(fitted(MODELS[0]))
LINES = held_out(fitted(MODELS[6]))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("target", [Y, TARGET], ids=["array", "frame"])
def test_a_fitted_model_tells_its_labels_and_its_probabilities_have_one_form(model, target):
    model = fitted(model, target)
    output = describe_output(model, FRAME[TRAIN], target[TRAIN])
    assert (output.kind, output.probabilities) == ("multilabel", True)
    assert output.labels == (LABELS if target is TARGET else ("0", "1", "2", "3"))
    assert Output.from_dict(output.to_dict()) == output
    found, said = chances(model.predict_proba(FRAME[HELD]), model.classes_), indicators(model.predict(FRAME[HELD]))
    assert found.shape == said.shape == (300, 4)
    assert ((found > 0.5) == said).mean() > 0.99  # but for ties, and a chain that looks at its own answers


def test_one_without_probabilities_and_names_that_nobody_gave():
    assert describe_output(fitted(RidgeClassifier()), FRAME[TRAIN]) == Output("multilabel", tuple("0123"), "int", False)


def test_a_label_that_never_held_has_no_chance():
    rare = TARGET.assign(never=False, always=True)
    model = fitted(RandomForestClassifier(5, random_state=0), rare)
    assert describe_output(model, FRAME[TRAIN], rare[TRAIN]).labels == (*LABELS, "never", "always")
    found = chances(model.predict_proba(FRAME[HELD]), model.classes_)
    assert (found[:, 4] == 0).all() and (found[:, 5] == 1).all()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TARGET[TRAIN][["a", "b"]], "answers with 4 labels, and the target has 2 columns"),
        (TARGET[TRAIN].a, "the target has 1 column"),
        (TARGET[TRAIN].set_axis(["a", "b", "a", "c"], axis=1), "two labels are called 'a'"),
        (TARGET[TRAIN].astype(object).replace(True, "yes"), "is yes. Of several labels each one is 0 or 1"),
        (TARGET[TRAIN].astype("boolean").where(FRAME[TRAIN].x0 > 10), "is <NA>"),
    ],
)
def test_a_target_that_does_not_fit(target, message):
    with pytest.raises(InvalidRequest, match=message):
        describe_output(fitted(MODELS[0]), FRAME[TRAIN], target)


def test_a_wide_target_of_a_model_of_one_answer():
    model = LogisticRegression().fit(FRAME[TRAIN], TARGET[TRAIN].a)
    with pytest.raises(InvalidRequest, match="has 4 columns, and LogisticRegression gives one answer a row"):
        describe_output(model, FRAME[TRAIN], TARGET[TRAIN])


class Rule:
    """Any object with predict, of labels when the target says so."""

    def predict(self, data):
        return np.asarray(data)[:, :2] > 10


def test_any_object_is_believed_when_the_target_has_as_many_labels():
    output = describe_output(Rule(), FRAME[TRAIN], TARGET[TRAIN][["a", "b"]])
    assert (output.kind, output.labels, output.probabilities) == ("multilabel", ("a", "b"), False)
    assert "assumed" in output.note
    with pytest.raises(InvalidRequest, match="Register one model for each output"):
        describe_output(Rule(), FRAME[TRAIN])


def test_answers_in_words():
    assert names(Y[:3], LABELS) == [[n for n, holds in zip(LABELS, row, strict=True) if holds] for row in Y[:3]]
    assert combined([[0, 0], [1, 1]], ("late", "diverted")).tolist() == ["none", "late, diverted"]
    assert combined(np.zeros((0, 2)), ("late", "diverted")).tolist() == []


class Said:
    """The answers in a `Scored` as scikit-learn's scorers ask for them."""

    _estimator_type = "classifier"

    def __init__(self, s: Scored):
        self.s, self.classes_ = s, [np.array([0, 1])] * len(s.labels)

    def fit(self, X, y):
        return self

    def predict(self, X):
        return self.s.prediction.astype(int)

    def predict_proba(self, X):
        return [np.column_stack([1 - p, p]) for p in self.s.probabilities.T]

    def __sklearn_tags__(self):
        return DummyClassifier().__sklearn_tags__()


# What scikit-learn computes of an indicator matrix though it means something else: numbers, or one label of many.
OTHERWISE = {"neg_log_loss", "neg_brier_score", "d2_log_loss_score", "d2_brier_score"}
OTHERWISE |= {f"roc_auc_{way}{rest}" for way in ("ovr", "ovo") for rest in ("", "_weighted")}  # roc_auc by other names


def test_every_scorer_of_scikit_learn_for_labels_is_there_with_its_number():
    found = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sk.get_scorer_names():
            try:
                value = sk.get_scorer(name)(Said(FOREST), FRAME[HELD], Y[HELD])
            except Exception:  # the scorer is not for labels
                continue
            metric = METRICS[name.removeprefix("neg_")]
            if metric.kinds == ("regression",) or name in OTHERWISE:
                continue
            assert score(metric, FOREST).value == pytest.approx(value if metric.greater_is_better else -value), name
            found.add(metric.name)
    assert {"accuracy", "f1_samples", "jaccard_macro", "roc_auc", "average_precision", "recall_weighted"} <= found


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "samples"])
@pytest.mark.parametrize("function", ["roc_auc", "average_precision"])
def test_the_averages_of_scores(function, average):
    some = FOREST.take(np.flatnonzero(FOREST.truth.any(axis=1) & ~FOREST.truth.all(axis=1)))
    expected = getattr(sk, f"{function}_score")(some.truth, some.probabilities, average=average)
    assert score(f"{function}_{average}", some).value == pytest.approx(expected)


def test_the_measures_of_an_order():
    for name in ("label_ranking_loss", "coverage_error", "hamming_loss"):
        assert not METRICS[name].greater_is_better
    truth, said, p = FOREST.truth, FOREST.prediction, FOREST.probabilities
    assert score("hamming_loss", FOREST).value == pytest.approx(sk.hamming_loss(truth, said))
    assert score("coverage_error", FOREST).value == pytest.approx(sk.coverage_error(truth, p))
    assert score("label_ranking_loss", FOREST).value == pytest.approx(sk.label_ranking_loss(truth, p))
    expected = sk.label_ranking_average_precision_score(truth, p)
    assert score("label_ranking_average_precision", FOREST).value == pytest.approx(expected)


def test_rows_without_a_label_have_no_auc_of_their_own():
    assert not FOREST.truth.any(axis=1).all()
    assert score("roc_auc_samples", FOREST).value is None


def test_bounds_are_those_of_the_literal_bootstrap():
    rng = np.random.default_rng(5)
    drawn = [FOREST.take(rng.integers(300, size=300)) for _ in range(800)]
    for name in ("accuracy", "hamming_loss", "f1_macro", "f1_samples", "recall_micro", "roc_auc_macro"):
        e = interval(name, FOREST)
        low, high = np.quantile([score(name, s).value for s in drawn], [0.05, 0.95])
        spread = high - low
        assert e.low == pytest.approx(low, abs=0.15 * spread) and e.high == pytest.approx(high, abs=0.15 * spread), name


def test_paired_differences_and_margins():
    for name in ("f1_macro", "hamming_loss", "roc_auc"):
        e = paired(name, FOREST, LINES)
        assert e.value == pytest.approx(score(name, FOREST).value - score(name, LINES).value)
        assert e.low < e.value < e.high
        assert paired(name, FOREST, FOREST).value == 0
    assert margin("hamming_loss", FOREST, trivial(FOREST)).value > 0  # positive is better, always
    other = Scored(Y[HELD], Y[HELD], None, ("a", "b", "c", "e"))
    assert paired("f1_macro", FOREST, other).reason == "the other model has other labels: a, b, c, e"


def test_nobody_says_what_the_dummy_says():
    dummy = DummyClassifier(strategy="prior").fit(X[HELD], Y[HELD])
    nobody = trivial(FOREST)
    assert (nobody.prediction == dummy.predict(X[HELD])).all()
    assert np.allclose(nobody.probabilities, chances(dummy.predict_proba(X[HELD]), dummy.classes_))
    known = trivial(FOREST, Y[TRAIN])
    assert np.allclose(known.probabilities[0], Y[TRAIN].mean(axis=0))


def test_segments():
    found = segments("f1_macro", FOREST, "even")
    assert [s.rows for s in found] == [150, 150]
    rows = FOREST.take(np.arange(0, 300, 2))
    even = next(s for s in found if s.segment == "True")
    assert even.value == pytest.approx(sk.f1_score(rows.truth, rows.prediction, average="macro"))


def test_metrics_of_other_kinds_say_which_are_for_labels():
    with pytest.raises(
        InvalidRequest, match=r"f1 is for binary, this is multilabel. For multilabel there are f1_macro"
    ):
        applicable("f1", "multilabel")
    with pytest.raises(InvalidRequest, match="hamming_loss is for multilabel, this is binary"):
        applicable("hamming_loss", "binary")


def verdict(text: str, scored: Scored = FOREST, champion: Scored | None = None) -> list[Any]:
    return list(judge(parse(text), scored, champion=champion, trivial=trivial(scored), facts={}))


def test_gates_on_labels():
    checks = verdict(
        "f1_macro >= 0.5\nf1_samples[even] >= 0.9\nhamming_loss <= champion\nbaseline.f1_macro > 0.1 at 95%\n"
        "roc_auc >= champion - 0.2 at 95%\nlabel_ranking_loss <= 0.01 warn",
        champion=LINES,
    )
    assert [c.result for c in checks[:2]] == ["pass", "fail"]
    assert [c.result for c in checks[3:]] == ["pass", "pass", "warn"]
    expected = score("hamming_loss", FOREST).value <= score("hamming_loss", LINES).value
    assert checks[2].passed == expected and "champion" in checks[2].detail
    assert all(c.result in ("pass", "skip") for c in verdict(DEFAULT["multilabel"]))


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("roc_auc_ovr >= 0.5", "roc_auc_ovr is for multiclass, this is multilabel"),
        ("log_loss <= 1", "log_loss is for binary and multiclass, this is multilabel"),
        ("equal_opportunity_ratio[even] >= 0.8", "this is multilabel"),
        ("cost[True, False] = 3\ncost.per_1000 <= 5", "cost.per_1000 is for binary and multiclass, this is multilabel"),
    ],
)
def test_gates_that_make_no_sense_for_labels(gate, message):
    with pytest.raises(InvalidRequest, match=message):
        verdict(gate)
