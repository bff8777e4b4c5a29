"""Models of several labels a row: what scikit-learn's own numbers are, and the whole story of such a model."""

from __future__ import annotations

import json
import re
import urllib.request
import warnings
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sklearn.metrics as sk
import stories
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_multilabel_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import deploy_ext
from deploy_ext.bundle import Answers, answer
from deploy_ext.capture import data_digest
from deploy_ext.contract import infer
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.gates import DEFAULT, parse
from deploy_ext.inputs import resolve, variables
from deploy_ext.judge import judge
from deploy_ext.metrics import METRICS, applicable, interval, margin, paired, score, segments
from deploy_ext.output import Output, chances, combined, describe_output, indicators, names
from deploy_ext.registry import Registry
from deploy_ext.robustness import cases
from deploy_ext.scored import Scored, trivial
from deploy_ext.serve.archive import array_of, together
from deploy_ext.serve.protocol import write_request
from deploy_ext.serve.runtime import borrow

MADE: Any = make_multilabel_classification(600, n_features=8, n_classes=4, n_labels=2, random_state=0)
X, Y = MADE
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


@pytest.mark.parametrize("order", [["b", "a", "c", "d"], ["b", "c", "d", "a"], ["d", "c", "b", "a"]])
def test_labels_in_another_order_than_the_model_was_fitted_on(order):
    for model in (MODELS[0], MODELS[6]):
        with pytest.raises(InvalidRequest, match="fits them better the other way round"):
            describe_output(fitted(model), FRAME[TRAIN], TARGET[TRAIN][order])


def test_a_model_that_learnt_nothing_fits_any_order():
    nothing = DummyClassifier(strategy="prior").fit(FRAME[TRAIN], TARGET[TRAIN])
    noise = TARGET[TRAIN].sample(frac=1, random_state=0).set_axis(TARGET[TRAIN].index)
    shuffled = DecisionTreeClassifier(max_depth=3, random_state=0).fit(FRAME[TRAIN], noise)
    for model in (nothing, shuffled):
        assert describe_output(model, FRAME[TRAIN], TARGET[TRAIN]).labels == LABELS


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
    found = score("roc_auc_samples", FOREST)
    assert (found.value, found.reason) == (None, "rows in which all labels hold, or none, have no order of them")


def test_bounds_are_those_of_the_literal_bootstrap():
    rng = np.random.default_rng(5)
    drawn = [FOREST.take(rng.integers(300, size=300)) for _ in range(800)]
    for name in ("accuracy", "hamming_loss", "f1_macro", "f1_samples", "recall_micro", "roc_auc_macro"):
        e = interval(name, FOREST)
        values: Any = [score(name, s).value for s in drawn]
        low, high = np.quantile(values, [0.05, 0.95])
        spread = high - low
        assert e.low == pytest.approx(low, abs=0.15 * spread) and e.high == pytest.approx(high, abs=0.15 * spread), name


def test_paired_differences_and_margins():
    for name in ("f1_macro", "hamming_loss", "roc_auc"):
        e: Any = paired(name, FOREST, LINES)
        one, other = (score(name, s).value or 0.0 for s in (FOREST, LINES))
        assert e.value == pytest.approx(one - other)
        assert e.low < e.value < e.high
        assert paired(name, FOREST, FOREST).value == 0
    assert (margin("hamming_loss", FOREST, trivial(FOREST)).value or 0) > 0  # positive is better, always
    renamed = Scored(Y[HELD], Y[HELD], None, ("a", "b", "c", "e"))
    assert paired("f1_macro", FOREST, renamed).reason == "the other model has other labels: a, b, c, e"


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
    losses: list[Any] = [score("hamming_loss", s).value for s in (FOREST, LINES)]
    expected = losses[0] <= losses[1]
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


# The story, in process


def flights(seed: int = 0, rows: int = 600) -> pd.DataFrame:
    """Flights that may be late at departure, late at arrival, and long, each or none or all of it."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "dep_delay": rng.normal(10, 25, rows).round(),
            "distance": rng.integers(100, 2500, rows),
            "carrier": rng.choice(["AA", "B6", "UA"], rows),
        }
    )
    late = frame.dep_delay > 15
    arrival = frame.dep_delay + 8 * (frame.carrier == "B6") + rng.normal(0, 8, rows) > 15
    return frame.assign(departure=late, arrival=arrival, long=(frame.distance > 1500).astype(int))


INPUTS, HOLDS = ["dep_delay", "distance", "carrier"], ["departure", "arrival", "long"]
GATES = """f1_macro >= 0.6
f1_samples[carrier] >= 0.2
hamming_loss <= champion
baseline.f1_macro >= 0.1
simple.f1_macro >= -0.5
size_mb <= 50
latency_ms.p99 <= 10000 warn
"""


def trained(**settings: Any) -> Any:
    frame = flights()
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough")
    told: dict[str, Any] = {"n_estimators": 15, "max_depth": 6, "random_state": 0} | settings
    forest = RandomForestClassifier(**told)
    return make_pipeline(encode, forest).fit(frame[INPUTS], frame[HOLDS])


@pytest.fixture(scope="module")
def _labelled(tmp_path_factory):
    """A project in which flights/1 is champion and flights/2, which is better, was validated and waits."""
    folder, frame, unseen = tmp_path_factory.mktemp("labelled"), flights(), flights(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        deploy_ext.register(trained(max_depth=1), "flights", frame, HOLDS, purpose="what will be unusual")
        first = deploy_ext.validate("flights", unseen)  # the columns of the labels are known, and so are gates
        deploy_ext.promote("flights", reason="the first")
        deploy_ext.gates("flights", GATES)
        deploy_ext.register(trained(), "flights", frame[INPUTS], frame[HOLDS])
        second = deploy_ext.validate("flights", unseen[INPUTS], unseen[HOLDS[::-1]])  # by name, in whatever order
    return folder, first, second


@pytest.fixture
def labelled(_labelled, tmp_path):
    """The same as the project in force; its servers end with the test."""
    stories.clone(_labelled[0], tmp_path)
    yield _labelled[1:]
    for process in stories.processes(tmp_path):
        process.kill()


def test_the_story_in_process(labelled):
    first, second = labelled
    assert [f"{c.metric} {c.threshold}" for c in first.checks] == parse(DEFAULT["multilabel"]).text.splitlines()
    assert first.passed and second.passed
    unseen, model, checks = flights(1), trained(), {c.metric: c for c in second.checks}
    expected = sk.f1_score(unseen[HOLDS].astype(int), model.predict(unseen[INPUTS]).astype(int), average="macro")
    assert checks["f1_macro"].value == pytest.approx(expected)
    assert "champion" in checks["hamming_loss"].detail and checks["hamming_loss"].result == "pass"
    assert "worst carrier" in checks["f1_samples[carrier]"].detail
    assert deploy_ext.promote("flights").aliases == ("champion",)
    card = deploy_ext.report("flights")
    assert "departure, arrival, long" in str(card.purpose)
    assert "multilabel (departure, arrival, long) with probabilities" in str(card.purpose)
    assert "served by scikit-learn itself" in str(card.runs)
    assert [e.what for e in deploy_ext.history("flights", verify=True).items].count("promote") == 2


def test_a_bundle_of_labels_proves_itself_and_mlflow_can_ask_it(labelled):
    import mlflow

    frame, version = flights(), Registry().version("flights/2")
    folder = Registry().download(version)
    with borrow(folder, version.bundle) as runtime:
        assert runtime.verify() == 20
        said: Any = runtime.predict(runtime.bundle.example["columns"])
        assert said.prediction.dtype == bool and said.prediction.shape == said.probabilities.shape == (20, 3)
        assert runtime.bundle.contract.output.labels == tuple(HOLDS)
        assert runtime.bundle.profile["prediction"].n == 600
    loaded = mlflow.pyfunc.load_model(str(folder))
    assert loaded.metadata.signature.outputs.to_dict()[0]["tensor-spec"]["shape"] == (-1, 3)
    assert (np.asarray(loaded.predict(frame[INPUTS][:20])).astype(bool) == trained().predict(frame[INPUTS][:20])).all()


def test_the_story_over_http(labelled):
    unseen = flights(2, 40)
    model = trained(max_depth=1)
    expected = names(model.predict(unseen[INPUTS]), tuple(HOLDS))
    likely = chances(model.predict_proba(unseen[INPUTS]), model.classes_)
    endpoint = deploy_ext.up("flights")
    found = deploy_ext.predict("flights", unseen[INPUTS])
    assert found.prediction.tolist() == expected
    assert np.allclose(found[[f"probability_{label}" for label in HOLDS]], likely)

    rows = json.loads(str(unseen[INPUTS].to_json(orient="records")))
    status, told = stories.post(f"{endpoint.url}/invocations", {"dataframe_records": rows})
    assert status == 200 and told["predictions"] == expected
    assert told["probabilities"][0] == pytest.approx(dict(zip(HOLDS, likely[0], strict=True)))
    columns = {name: unseen[name].tolist() for name in INPUTS}
    with borrow(Registry().download(Registry().version("flights/1"))) as runtime:
        request = json.loads(write_request(columns, runtime.bundle.contract))
    status, tensors = stories.post(f"{endpoint.url}/v2/models/flights/infer", request)
    predict, probabilities = tensors["outputs"]
    assert (predict["datatype"], predict["shape"], probabilities["shape"]) == ("BOOL", [40, 3], [40, 3])
    assert predict["parameters"] == probabilities["parameters"] == {"labels": HOLDS}
    assert names(np.array(predict["data"]).reshape(40, 3), tuple(HOLDS)) == expected

    ids = told["prediction_ids"]
    truths = [{"prediction_id": ids[0], "outcome": ["long"]}, {"prediction_id": ids[1], "outcome": []}]
    way = f"{endpoint.url}/v2/models/flights/feedback"
    status, answer = stories.post(way, {"feedback": truths})
    assert (status, answer["accepted"]) == (200, 2)
    status, answer = stories.post(way, {"prediction_id": ids[2], "outcome": ["late"]})
    assert (status, answer["faults"][0]["column"]) == (422, "outcome")
    assert "is no list of labels that hold, of departure, arrival, long" in answer["error"]

    journal = deploy_ext.journal("flights")
    assert len(journal) == 120 and journal.prediction.tolist() == expected * 3
    assert np.allclose(journal.probability_long[:40], likely[:, 2])
    outcomes = journal.set_index("prediction_id").outcome
    assert (outcomes[ids[0]], outcomes[ids[1]]) == (["long"], [])
    assert outcomes.notna().sum() == 2
    with urllib.request.urlopen(f"{endpoint.url}/metrics", timeout=30) as page:
        text = page.read().decode()
    held = sum(label == "long" for row in expected * 3 for label in row)
    counted = re.search(r'deploy_ext_predictions_total\{[^}]*"long"[^}]*\} (\d+)', text)
    assert counted and held <= int(counted[1]) <= held + 20  # and of the stored example, which `up` has asked

    with urllib.request.urlopen(f"{endpoint.url}/openapi.json", timeout=30) as page:
        document = json.load(page)
    schemas = document["components"]["schemas"]
    answered = {"components": document["components"], **schemas["InvocationResponse"]}
    jsonschema.validate(told, answered)
    media = document["paths"]["/invocations"]["post"]["responses"]["200"]["content"]["application/json"]
    jsonschema.validate(media["example"], answered)
    jsonschema.validate(truths[0], {"components": document["components"], **schemas["Truth"]})

    deploy_ext.promote("flights/2")  # the endpoint moves on
    assert stories.until(lambda: (deploy_ext.predict("flights", unseen[INPUTS]).version == 2).all())
    drift = deploy_ext.drift("flights", since="1h")
    assert "prediction" in [c.column for c in drift.columns]
    assert deploy_ext.journal_forget("flights", where=(f"prediction_id={ids[0]}",)).rows == 1
    assert ids[0] not in set(deploy_ext.journal("flights").prediction_id)


def test_no_faster_form_is_offered():
    with pytest.raises(InvalidRequest, match="a model of several labels a row is served by scikit-learn itself"):
        deploy_ext.register(trained(), "flights", flights(), HOLDS, runtime="onnx")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda f: f[["departure", "arrival"]], "the truth has no column 'long', and the model answers with 3 labels"),
        (lambda f: f.departure, r"the truth has the shape \(600,\), and the model answers with 3 labels"),
        (lambda f: f[HOLDS].to_numpy()[:, :2], r"the truth has the shape \(600, 2\)"),
        (lambda f: f[HOLDS].astype(float).where(f.distance > 300), "label 'departure' of row .* is nan"),
        (lambda f: ["departure", "arival"], r"no column 'arival' to be the target. Did you mean 'arrival'\?"),
    ],
)
def test_a_truth_that_does_not_fit(labelled, target, message):
    unseen, told = flights(1), target(flights(1))
    with pytest.raises((ContractViolated, InvalidRequest), match=message):
        deploy_ext.validate("flights", unseen if isinstance(told, list) else unseen[INPUTS], told)


def test_the_columns_of_labels_are_named_when_they_are_left_in_the_rows(labelled):
    with pytest.raises(ContractViolated, match="arrival: is the target, which the model predicts; drop it"):
        deploy_ext.validate("flights", flights(1), flights(1)[HOLDS])


def test_a_champion_of_another_kind(labelled):
    frame, unseen = flights(), flights(1)
    one = make_pipeline(make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough"))
    one = make_pipeline(*one, LogisticRegression(max_iter=500)).fit(frame[INPUTS], frame.arrival)
    deploy_ext.register(one, "flights", frame[[*INPUTS, "arrival"]], "arrival")
    deploy_ext.promote("flights/3", force=True, reason="a simpler one")
    with pytest.raises(ContractViolated, match=r"champion flights/3 cannot be compared .* has 3 columns"):
        deploy_ext.validate("flights/2", unseen, HOLDS)


def test_metrics_tell_what_they_are_for():
    found = {word.metric: word.suits for word in deploy_ext.metrics("multilabel")}
    assert found["hamming_loss"] == "multilabel" and found["accuracy"] == "binary, multiclass, multilabel"
    assert "log_loss" not in found and "for" in str(deploy_ext.metrics("hamming")).split()


def test_the_words_of_the_command_line():
    from deploy_ext.grammar import Option

    option = Option("target", "", "target", str, True, None, False, False)
    frame = flights()
    assert resolve(option, "departure,arrival, long", {"data": frame}, {}) == HOLDS
    assert resolve(option, "Y", {"data": frame}, {"Y": frame[HOLDS]}).shape == (600, 3)
    with pytest.raises(InvalidRequest, match=r"no column 'arival'. Did you mean 'arrival'\?"):
        resolve(option, "departure,arival", {"data": frame}, {})
    assert variables({"X": frame[INPUTS], "Y": frame[HOLDS], "Z": np.eye(3), "y": frame.long}, "target") == [
        "Y",
        "Z",
        "y",
    ]


def test_digests_see_every_label():
    frame = flights()
    other = frame[HOLDS].assign(long=1 - frame.long)
    assert data_digest(frame[INPUTS], frame[HOLDS]) != data_digest(frame[INPUTS], other)


CASES = """dep_delay, distance, carrier, expected
-20, 300, AA, none
90, 2000, B6, departure; arrival; long
90, 300, B6, "arrival, departure"
-20, -5, AA, none
"""


def test_every_judge_says_something(labelled, tmp_path, monkeypatch):
    """None of them fails; those to whom several labels mean nothing say so."""
    (tmp_path / "pricing.py").write_text("def of(truth, said, row):\n    return len(set(truth) ^ set(said))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    unseen, text = flights(1), f"{GATES}cost = pricing.of\ncost.per_1000 <= 1000\ncases.failed == 0\n"
    text += "flip_rate.noise <= 0.9\nmembership.auc <= 0.99\ndata.leak <= 1\nsurrogate.agreement <= 1\n"
    deploy_ext.gates("flights", text + "explain.top_share <= 0.99\ndrift.psi[prediction] <= 5\ndata.poison <= 1\n")
    deploy_ext.cases("flights", CASES)
    found = deploy_ext.validate("flights/2", unseen, HOLDS, full=True, sensitive="carrier")
    assert not found.errors, [s.error for s in found.errors]
    assert found.passed, found.verdict
    assert found["cases"].title == "4 of 4 cases hold"
    assert found["conformal"].facts["conformal.coverage"] == "does not apply to several labels a row: " + (
        "the answer is a set already"
    )
    for section, fact in (("labels", "data.label_noise"), ("adversarial", "adversarial.flip_rate")):
        assert str(found[section].facts[fact]).startswith("does not apply to several labels a row")
    assert found["fairness"].title.endswith("this is multilabel")
    model = trained()
    said = model.predict(unseen[INPUTS]).astype(bool)
    wrong = (said != unseen[HOLDS].to_numpy(bool)).sum()
    assert next(c.value for c in found.verdict.checks if c.metric == "cost.per_1000") == pytest.approx(wrong / 0.6)
    assert {r["metric"] for r in found["scores"].rows} >= {"f1_macro", "hamming_loss", "roc_auc"}
    assert [p.title for p in found["scores"].plots] == ["Recall and precision by label"]
    with pytest.raises(InvalidRequest, match="'late' is no label"):
        cases(answers_of(model), unseen[[*INPUTS]].head(1).assign(expected="late"), found_contract())


def answers_of(model: Any) -> Any:
    return lambda frame: Answers(model.predict(frame))


def found_contract() -> Any:
    version = Registry().version("flights/2")
    with borrow(Registry().download(version), version.bundle) as runtime:
        return runtime.bundle.contract


def test_one_answer_is_explained_label_by_label(labelled):
    row = flights(1)[INPUTS].iloc[[0]]
    long = deploy_ext.explain("flights/2", row, label="long")
    assert long.contributions.parts[0].column == "distance"
    assert long.contributions.label == "long"
    assert long.hints is not None and any(h.changes[0].column == "distance" for h in long.hints.hints)
    wanted = deploy_ext.explain("flights/2", row, want="departure")
    assert "departure" in str(wanted.contributions.label)
    assert deploy_ext.explain("flights/2", row).contributions.label in HOLDS
    with pytest.raises(InvalidRequest, match=r"knows no label 'lng'.*Did you mean 'long'"):
        deploy_ext.explain("flights/2", row, label="lng")


def test_a_card_and_its_file(labelled, tmp_path):
    deploy_ext.promote("flights")
    written = deploy_ext.report("flights", html=tmp_path / "card.html")
    text = written.html.read_text()
    assert "departure, arrival, long" in text and "f1_macro" in text


def test_forms_of_bad_answers():
    model = fitted(MODELS[0])
    contract = infer(FRAME[TRAIN], describe_output(model, FRAME[TRAIN], TARGET[TRAIN]))
    assert answer(model, contract, FRAME[HELD]).prediction.shape == (300, 4)
    with pytest.raises(InvalidRequest, match=r"of shape \(300, 2\), and \(300, 4\) are needed"):
        answer(Rule(), replace(contract, output=replace(contract.output, probabilities=False)), FRAME[HELD])


def test_a_journal_of_versions_that_answer_in_different_forms():
    lists = pa.table({"prediction": array_of([["late"], []])})
    empty = pa.table({"prediction": array_of([[], []])})
    words = pa.table({"prediction": array_of(["late", "on time"])})
    flags = pa.table({"prediction": array_of([True, False])})
    assert together([lists, empty]).to_pydict()["prediction"] == [["late"], [], [], []]
    assert together([lists, words]).to_pydict()["prediction"] == ['["late"]', "[]", "late", "on time"]
    assert together([flags, empty]).to_pydict()["prediction"] == ["true", "false", "[]", "[]"]
    assert array_of([None, ["late"]]).to_pylist() == [None, ["late"]]
    assert array_of([["late"], "late"]).to_pylist() == ['["late"]', "late"]
