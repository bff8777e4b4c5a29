"""A form of a model gives the model's own answers, or is not kept; and whatever a converter does wrong is found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from deploy_ext.bundle import BUNDLE, Bundle, answer, make_example, open_bundle
from deploy_ext.compile import EDGES, Case, Compiled, attempt, compile, edges, prove, strange
from deploy_ext.contract import Contract, infer
from deploy_ext.convert import Unfit, by_numpy, by_onnx_trees, by_skl2onnx, by_treelite
from deploy_ext.core import InvalidRequest, VerificationFailed, digest
from deploy_ext.making import make
from deploy_ext.output import describe_output
from deploy_ext.serve.engines import Plan, start
from deploy_ext.serve.runtime import formed, load
from deploy_ext.translate import translate

RNG = np.random.default_rng(0)
ROWS = 500
FRAME = pd.DataFrame(
    {
        "delay": np.where(RNG.random(ROWS) < 0.1, np.nan, RNG.normal(10, 40, ROWS)),
        "distance": RNG.integers(80, 5000, ROWS),
        "carrier": RNG.choice(["AA", "B6", "DL", "UA"], ROWS),
        "day": RNG.choice(["mon", "tue", "wed"], ROWS),
    }
)
SCORE = FRAME.delay.fillna(0) + (FRAME.carrier == "B6") * 20 + FRAME.distance / 200 + RNG.normal(0, 5, ROWS)
TWO = np.where(SCORE.median() < SCORE, "late", "on time")
THREE = np.where(SCORE < 10, "early", np.where(SCORE < 30, "fine", "late"))
NUMBER = SCORE.to_numpy() - SCORE.min() + 1


def columns() -> ColumnTransformer:
    """Scaler, imputer, one-hot and ordinal encoder."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return make_column_transformer((numbers, ["delay", "distance"]), (hot, ["carrier"]), (ordinal, ["day"]))


def contracted(model: Any, data: Any) -> Contract:
    return infer(data, describe_output(model, data))


def case(model: Any, data: Any, tolerance: float = 1e-6) -> Case:
    contract = contracted(model, data)
    return Case(model, contract, prove(model, contract, data), tolerance, translate(model, contract)[0])


def compiled(model: Any, folder: Path, data: Any = FRAME, want: str = "auto") -> Compiled:
    return compile(model, contracted(model, data), data, folder, want)


def bundled(model: Any, folder: Path, data: Any = FRAME, truth: Any = None, want: str = "auto") -> Bundle:
    """As `register` makes it."""
    truth = np.zeros(len(data)) if truth is None else truth
    return make(model, contracted(model, data), data, truth, folder / "flights", want)[0]


KINDS = [
    (LogisticRegression(), TWO, "numpy"),
    (LogisticRegression(max_iter=500), THREE, "numpy"),
    (LogisticRegression(solver="liblinear"), TWO, "numpy"),
    (SGDClassifier(loss="log_loss", random_state=0), THREE, "numpy"),
    (SGDClassifier(random_state=0), TWO, "numpy"),
    (LinearSVC(), THREE, "numpy"),
    (RidgeClassifier(), TWO, "numpy"),
    (LinearRegression(), NUMBER, "numpy"),
    (Ridge(), NUMBER, "numpy"),
    (Lasso(), NUMBER, "numpy"),
    (ElasticNet(), NUMBER, "numpy"),
    (PoissonRegressor(), NUMBER, "numpy"),
    (GammaRegressor(), NUMBER, "numpy"),
    (TweedieRegressor(power=0), NUMBER, "numpy"),
    (RandomForestClassifier(20, random_state=0), TWO, "onnx"),
    (RandomForestClassifier(20, max_depth=4, random_state=0), THREE, "onnx"),
    (RandomForestRegressor(20, random_state=0), NUMBER, "onnx"),
    (ExtraTreesClassifier(20, random_state=0), TWO, "onnx"),
    (ExtraTreesRegressor(20, random_state=0), NUMBER, "onnx"),
    (GradientBoostingClassifier(n_estimators=20, random_state=0), TWO, "onnx"),
    (GradientBoostingClassifier(n_estimators=20, random_state=0), THREE, "onnx"),
    (GradientBoostingRegressor(n_estimators=20, random_state=0), NUMBER, "onnx"),
    (HistGradientBoostingClassifier(max_iter=20), TWO, "onnx"),
    (HistGradientBoostingClassifier(max_iter=20), THREE, "onnx"),
    (HistGradientBoostingRegressor(max_iter=20), NUMBER, "onnx"),
    (HistGradientBoostingRegressor(max_iter=20, loss="poisson"), NUMBER, "onnx"),
]


@pytest.mark.parametrize(
    ("estimator", "truth", "engine"), KINDS, ids=[f"{i}-{type(k[0]).__name__}" for i, k in enumerate(KINDS)]
)
def test_kinds_have_a_fast_form(estimator: Any, truth: Any, engine: str, tmp_path: Path) -> None:
    """Behind a scaler, an imputer, a one-hot and an ordinal encoder; the form answers rows it was not proved with."""
    model = make_pipeline(columns(), estimator).fit(FRAME[::2], truth[::2])
    bundle = bundled(model, tmp_path, FRAME[::2], truth[::2])
    assert bundle.runtime == engine, bundle.form
    other = FRAME[1::2].assign(carrier="never seen")
    expected = answer(model, bundle.contract, other)
    answers = load(bundle.folder).predict(bundle.contract.rows(other))
    if bundle.contract.output.kind == "classification":
        assert answers.prediction.tolist() == expected.prediction.tolist()
    else:
        np.testing.assert_allclose(answers.prediction, expected.prediction, rtol=1e-9)
    if expected.probabilities is not None:
        assert answers.probabilities is not None
        np.testing.assert_allclose(answers.probabilities, expected.probabilities, atol=1e-9)


@pytest.mark.parametrize("estimator", [KINDS[14][0], KINDS[15][0], KINDS[19][0], KINDS[22][0]], ids=str)
def test_treelite_without_the_extra(estimator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    model = make_pipeline(columns(), estimator).fit(FRAME, THREE)
    record = compiled(model, tmp_path)
    assert (record.runtime, record.difference < 1e-12) == ("treelite", True)
    assert "deploy_ext[onnx]" in next(t.reason for t in record.tried if t.kind == "onnx")


@pytest.mark.parametrize("estimator", [KNeighborsClassifier(), SVC(), KNeighborsRegressor(), SVR()], ids=str)
def test_others_are_converted_where_the_converter_is_right(estimator: Any, tmp_path: Path) -> None:
    """And if it is not right, scikit-learn's last step answers, and the record says why."""
    truth = NUMBER if "Regressor" in str(estimator) or "SVR" in str(estimator) else TWO
    model = make_pipeline(columns(), estimator).fit(FRAME, truth)
    bundle = bundled(model, tmp_path, FRAME, truth)
    record = Compiled.from_dict((bundle.form or {})["compiled"])
    assert bundle.runtime in ("onnx", "sklearn") and record.runs
    assert all(t.reason for t in record.tried if t.difference is None)
    assert load(bundle.folder).verify() == 20


def test_text(tmp_path: Path) -> None:
    words = ["Straße", "über", "the", "quick", "brown", "fox", "CAFÉ", "naïve", "don't", "x"]
    text = pd.Series([" ".join(RNG.choice(words, 6)) for _ in range(200)], name="text")
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(text, text.str.contains("fox"))
    record = compiled(model, tmp_path, text)
    assert (record.runtime, record.difference < 1e-12) == ("numpy", True), record


def test_a_search_is_its_best_pipeline(tmp_path: Path) -> None:
    grid = {"logisticregression__C": [0.1, 1.0]}
    model = GridSearchCV(make_pipeline(columns(), LogisticRegression()), grid, cv=2).fit(FRAME, TWO)
    assert bundled(model, tmp_path).runtime == "numpy"


# What converters are known to get wrong without a word: each is refused, and something equal is found.


def refused(model: Any, data: Any, way: Any) -> str:
    told, form = attempt(case(model, data), "converted", way)
    assert form is None, told
    return told.reason


def rounding(way: tuple[Plan, bytes]) -> tuple[Plan, bytes]:
    """What a converter does that has trees in single precision only."""
    return replace(way[0], single=True), way[1]


def test_boosting_far_from_zero() -> None:
    """Single precision has sixteen numbers between 1e6 and 1e6 + 1."""
    data = RNG.normal(size=(1000, 3)) * 0.1 + 1e6
    truth = (data[:, 0] > 1e6) ^ (data[:, 1] > 1e6)
    model = HistGradientBoostingRegressor(max_iter=20).fit(data, truth.astype(float))
    assert refused(model, data, partial(by_skl2onnx, True))
    assert "differs by" in refused(model, data, lambda estimator: rounding(by_treelite(estimator)))
    for way in (by_onnx_trees, by_treelite):
        told, form = attempt(case(model, data), "trees", way)
        assert form and told.difference is not None and told.difference < 1e-12


def test_boosting_with_categories(tmp_path: Path) -> None:
    data = pd.DataFrame({"kind": RNG.integers(0, 12, 1000), "size": RNG.normal(size=1000)})
    truth = (data["kind"] % 3 == 1) ^ (data["size"] > 0.5)
    model = HistGradientBoostingClassifier(max_iter=20).set_params(categorical_features=["kind"]).fit(data, truth)
    assert refused(model, data, partial(by_skl2onnx, True))
    assert "categorical splits" in refused(model, data, by_onnx_trees)
    record = compiled(model, tmp_path, data)
    assert (record.runtime, record.difference < 1e-12) == ("treelite", True)


def test_boosting_with_categories_that_are_floats(tmp_path: Path) -> None:
    """Just below 11 is no category for scikit-learn, and 10 for treelite. And the categories come first inside."""
    data = np.c_[RNG.normal(size=1000), RNG.integers(0, 12, 1000)]
    truth = (data[:, 1] % 3 == 1) ^ (data[:, 0] > 0.5)
    model = HistGradientBoostingClassifier(max_iter=20).set_params(categorical_features=[1]).fit(data, truth)
    assert refused(model, data, by_treelite)
    bundle = bundled(model, tmp_path, data)
    expected = model.predict_proba(data)
    answers = load(bundle.folder).predict(bundle.contract.rows(data))
    assert answers.probabilities is not None
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-6)


def test_forests_in_double_precision() -> None:
    """skl2onnx compares what was not rounded with thresholds that scikit-learn compares with rounded values."""
    data = np.repeat(RNG.normal(size=(40, 3)), 25, axis=0) * 1e-3 + 1.0
    data += RNG.normal(size=data.shape) * 1e-8
    model = RandomForestRegressor(20, random_state=0).fit(data, data.sum(axis=1) + RNG.normal(size=len(data)))
    assert refused(model, data, partial(by_skl2onnx, False))
    told, form = attempt(case(model, data), "trees", by_onnx_trees)
    assert form and told.difference is not None and told.difference < 1e-12


def test_linear_models_in_single_precision() -> None:
    data = pd.DataFrame({"a": RNG.normal(1e6, 10, 500), "b": RNG.normal(size=500)})
    model = LinearRegression().fit(data, data.a * 3 + data.b)
    assert "differs by" in refused(model, data, partial(by_skl2onnx, True))
    assert attempt(case(model, data), "numpy", by_numpy)[1]


def test_exponential_loss_is_refused(tmp_path: Path) -> None:
    """treelite takes the sum of its trees for log-odds, and it is half of them."""
    model = GradientBoostingClassifier(loss="exponential", n_estimators=10).fit(FRAME[["distance"]], TWO)
    assert "differs by" in refused(model, FRAME[["distance"]], by_treelite)
    assert compiled(model, tmp_path, FRAME[["distance"]]).runtime == "sklearn"


# What no form may answer in place of the model.


def test_another_threshold_is_no_argmax(tmp_path: Path) -> None:
    """The labels do not follow from the probabilities, so both are asked as ever."""
    likely: Any = FixedThresholdClassifier(make_pipeline(columns(), LogisticRegression()))
    model = likely.set_params(threshold=0.8).fit(FRAME, TWO)
    bundle = bundled(model, tmp_path)
    assert (bundle.runtime, (bundle.form or {})["plans"]) == ("sklearn", [])
    expected = model.predict(FRAME).tolist()
    assert load(bundle.folder).predict(bundle.contract.rows(FRAME)).prediction.tolist() == expected


class Stubborn(LogisticRegression):
    """A logistic regression that is none."""

    def predict_proba(self, X):
        return super().predict_proba(X)[:, ::-1]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def test_a_derived_class_may_compute_anything(tmp_path: Path) -> None:
    model = make_pipeline(columns(), Stubborn()).fit(FRAME, TWO)
    with pytest.raises(Unfit, match="Stubborn is not linear"):
        by_numpy(model[-1])
    assert compiled(model, tmp_path).runtime in ("onnx", "sklearn")


class Odd(TransformerMixin, BaseEstimator):
    """A step that nobody can translate."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X[["distance"]] % 7


@pytest.mark.parametrize("step", [Odd(), FunctionTransformer(lambda X: X[["distance"]] % 7)], ids=["class", "lambda"])
def test_steps_that_nobody_can_translate(step: Any, tmp_path: Path) -> None:
    """The pipeline is asked whole, once, and the record says which step it was."""
    model = make_pipeline(step, LogisticRegression()).fit(FRAME, TWO)
    record = compiled(model, tmp_path)
    assert (record.runtime, record.runs, record.difference) == ("sklearn", "sklearn", 0)
    assert type(step).__name__ in record.tried[0].reason and record.tried[0].kind == "without pandas"


def test_rows_that_the_model_refuses(tmp_path: Path) -> None:
    """A missing value that scikit-learn refuses is not answered by an engine that would not mind."""
    data = FRAME[["distance", "delay"]]
    model = LogisticRegression().fit(data.fillna(0.0), TWO)
    contract = infer(data, describe_output(model, data.fillna(0.0)))
    compile(model, contract, data.dropna(), tmp_path)
    proof = prove(model, contract, data.dropna())
    assert None in proof.refused["delay"] and None not in proof.columns["delay"]
    form = json.loads((tmp_path / "form.json").read_text())
    assert form["plans"][0]["engine"] == "numpy"


def test_a_broken_form_does_not_start(tmp_path: Path) -> None:
    bundle = bundled(make_pipeline(columns(), LogisticRegression()).fit(FRAME, TWO), tmp_path)
    (bundle.folder / "form" / "weights.npy").write_bytes(b"other")
    with pytest.raises(VerificationFailed, match=r"form/weights\.npy"):
        load(bundle.folder)


def test_the_clean_process_checks_form_and_object(tmp_path: Path) -> None:
    """A form that answers something else is found, and so is an object."""
    bundle = bundled(make_pipeline(columns(), LogisticRegression()).fit(FRAME, TWO), tmp_path)
    check = [sys.executable, "-I", "-m", "deploy_ext.serve.runtime", str(bundle.folder)]
    assert json.loads(subprocess.run(check, capture_output=True).stdout)["ok"] is True
    form = json.loads((bundle.folder / "form.json").read_text())
    form["plans"][0]["link"] = "ovr"
    (bundle.folder / "form.json").write_text(json.dumps(form))
    manifest = json.loads((bundle.folder / BUNDLE).read_text())
    manifest["files"]["form.json"] = digest(bundle.folder / "form.json")
    (bundle.folder / BUNDLE).write_text(json.dumps(manifest))
    found = json.loads(subprocess.run(check, capture_output=True).stdout)
    assert (found["ok"], found["kind"]) == (False, "VerificationFailed")


@pytest.mark.parametrize("estimator", [KINDS[0][0], KINDS[14][0]], ids=str)
def test_a_server_of_a_form_needs_no_sklearn(estimator: Any, tmp_path: Path) -> None:
    bundle = bundled(make_pipeline(columns(), estimator).fit(FRAME, TWO), tmp_path)
    code = (
        "import sys; from deploy_ext.serve.runtime import load\n"
        f"print(load({str(bundle.folder)!r}).verify(), 'sklearn' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "20 False False\n", done.stderr


# What is wanted.


@pytest.mark.parametrize(
    ("want", "told"),
    [("numpy", "is equal to the model"), ("onxx", "Did you mean 'onnx'"), ("pyfunc", "no probabilities")],
)
def test_a_wish_that_cannot_be_granted(want: str, told: str, tmp_path: Path) -> None:
    model = make_pipeline(columns(), RandomForestClassifier(5)).fit(FRAME, TWO)
    with pytest.raises(InvalidRequest, match=told):
        bundled(model, tmp_path, want=want)


@pytest.mark.parametrize("want", ["onnx", "treelite", "sklearn"])
def test_a_wish_that_is_granted(want: str, tmp_path: Path) -> None:
    model = make_pipeline(columns(), RandomForestClassifier(5)).fit(FRAME, TWO)
    bundle = bundled(model, tmp_path, want=want)
    assert (bundle.runtime, load(bundle.folder).kind) == (want, want)
    assert load(bundle.folder).verify() == 20


def test_pyfunc_can_be_wanted(tmp_path: Path) -> None:
    bundle = bundled(make_pipeline(columns(), Ridge()).fit(FRAME, NUMBER), tmp_path, want="pyfunc")
    assert (bundle.runtime, bundle.form) == ("pyfunc", None)
    assert load(bundle.folder).verify() == 20


class Mean:
    """A model that is no estimator."""

    def predict(self, data: Any) -> np.ndarray:
        return data[["distance"]].mean(axis=1).to_numpy()


def test_only_sklearn_models_have_forms(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no scikit-learn model"):
        bundled(Mean(), tmp_path, want="numpy")
    assert bundled(Mean(), tmp_path / "again").form is None


# The proof itself.


def test_edges_are_legal_and_strange() -> None:
    contract = infer(FRAME, describe_output(KINDS[0][0].fit(FRAME[["distance"]], TWO), FRAME[["distance"]]))
    found = edges(contract, contract.rows(FRAME[:9]))
    assert contract.check(found) == []
    delay, distance, carrier, _ = (strange(c) for c in contract.columns)
    assert None in delay and None not in distance and 1e300 in delay
    assert 2**24 + 1 in distance and all(isinstance(v, int) for v in distance)
    assert {"AA", "never seen"} <= set(carrier)


def test_a_wide_table_has_edges_in_every_column_and_not_too_many() -> None:
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 1200))).rename(columns=str)
    output = describe_output(KINDS[0][0].fit(FRAME[["distance"]], TWO), FRAME[["distance"]])
    contract = infer(wide, output)
    found = edges(contract, contract.rows(wide))
    assert sum(map(len, found.values())) < 1.1 * EDGES
    assert all({*strange(column)} <= {*found[column.name]} for column in contract.columns)
    few = infer(wide.iloc[:, :1], output)
    alone = edges(few, few.rows(wide.iloc[:, :1]))["0"]
    assert len(alone) == 4 * len(strange(few.columns[0])) and alone[:3] == [strange(few.columns[0])[0]] * 3


def test_edges_obey_the_law() -> None:
    output = describe_output(KINDS[0][0].fit(FRAME[["distance"]], TWO), FRAME[["distance"]])
    contract = infer(FRAME[["distance", "day"]], output, ranges=["distance=0..9000"], only=["day"])
    distance, day = (strange(c) for c in contract.columns)
    assert set(day) == {"mon", "tue", "wed"} and max(distance) <= 9000


def test_the_second_form_answers_from_its_switch_on(tmp_path: Path) -> None:
    """Two engines in one form: both answer alike, on either side of the switch."""
    model = make_pipeline(columns(), RandomForestClassifier(5, random_state=0)).fit(FRAME, TWO)
    compiled(model, tmp_path, want="treelite")
    form = json.loads((tmp_path / "form.json").read_text())
    form |= {"plans": [*form["plans"], form["plans"][0] | {"engine": "sklearn"}], "switch": 3}
    contract = contracted(model, FRAME)
    predict = formed(form, contract, lambda name: (tmp_path / name).read_bytes(), lambda: model)
    for rows in (1, 2, 3, 50):
        answers, expected = predict(contract.rows(FRAME[:rows])), model.predict_proba(FRAME[:rows])
        assert answers.probabilities is not None
        np.testing.assert_allclose(answers.probabilities, expected, atol=1e-12)


def test_one_leaf_and_deep_trees() -> None:
    """A tree may be a single leaf."""
    data, truth = RNG.normal(size=(60, 2)), RNG.normal(size=60)
    for model in (
        RandomForestRegressor(3, min_samples_split=1000).fit(data, truth),
        HistGradientBoostingRegressor(max_iter=3).fit(data[:20], truth[:20]),
        RandomForestClassifier(3, random_state=0).fit(data, [0] * 30 + [1] * 30),
    ):
        plan, content = by_onnx_trees(model)
        values, chances = start(plan, lambda _, content=content: content, lambda: None)(data)
        expected = model.predict(data) if chances is None else model.predict_proba(data)  # type: ignore[union-attr]
        np.testing.assert_allclose(values if chances is None else chances, expected, atol=1e-12)


def test_the_example_is_the_models_own(tmp_path: Path) -> None:
    model = make_pipeline(columns(), LogisticRegression()).fit(FRAME, TWO)
    bundle = open_bundle(bundled(model, tmp_path).folder)
    contract = bundle.contract
    assert bundle.example == make_example(contract, contract.require(FRAME), answer(model, contract, FRAME))
    assert bundle.tolerance == 1e-6
