"""The matrix without scikit-learn is the matrix of scikit-learn, for any rows, or the pipeline is left alone."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from deploy_ext.contract import Contract, infer
from deploy_ext.output import Output
from deploy_ext.serve.features import Featurizer, Sparse
from deploy_ext.translate import Untranslatable, translate

pytestmark = pytest.mark.filterwarnings("ignore:lbfgs failed", "ignore:Your stop_words")
rng = np.random.default_rng(0)
N = 60
FRAME = pd.DataFrame(
    {
        "delay": np.where(rng.random(N) < 0.1, np.nan, rng.normal(10, 30, N)),
        "distance": rng.uniform(1e5, 2e6, N),
        "hour": rng.integers(0, 24, N),
        "night": rng.random(N) < 0.3,
        "carrier": rng.choice(["AA", "UA", "B6", "é"], N, p=[0.5, 0.3, 0.15, 0.05]),
        "origin": pd.Series(rng.choice(np.array(["JFK", "LGA", None], object), N)),
        "plane": pd.Categorical(rng.choice(["a", "b", "c"], N), categories=["a", "b", "c", "never"]),
        "level": rng.choice([10, 20, 30], N),
    }
)
LATE = (FRAME.hour > 12).to_numpy()
CONTRACT = infer(FRAME, Output("classification", (False, True), "bool", True))
NUMBERS, WORDS = ["delay", "distance", "hour"], ["carrier", "origin", "plane"]

SCALERS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler(),
    MinMaxScaler((-1, 1), clip=True),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False),
    Binarizer(threshold=12),
    FunctionTransformer(np.arctan),
    FunctionTransformer(),
    make_pipeline(StandardScaler(), FunctionTransformer(np.square), FunctionTransformer(np.abs)),
    "passthrough",
]
IMPUTERS = [
    SimpleImputer(),
    SimpleImputer(strategy="median", add_indicator=True),
    SimpleImputer(strategy="constant", fill_value=-1),
    SimpleImputer(strategy="most_frequent"),
    None,
]
ENCODERS = [
    OneHotEncoder(),
    OneHotEncoder(handle_unknown="ignore"),
    OneHotEncoder(handle_unknown="ignore", drop="first", sparse_output=False),
    OneHotEncoder(drop="if_binary"),
    OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=8),
    OneHotEncoder(handle_unknown="warn", max_categories=2),
    OrdinalEncoder(),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, min_frequency=8),
    make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder(handle_unknown="ignore")),
    make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder()),
]
REMAINDERS: list[Any] = ["drop", OneHotEncoder(handle_unknown="ignore"), OrdinalEncoder()]


def fitted(scaler: Any, imputer: Any, encoder: Any, remainder: Any) -> Pipeline:
    """A pipeline of these, fitted on the frame."""
    numeric: Any = make_pipeline(imputer, scaler)
    chosen: Any = [("numbers", numeric, NUMBERS), ("words", encoder, WORDS)]
    model = Pipeline([("columns", ColumnTransformer(chosen, remainder=remainder)), ("model", LogisticRegression())])
    with warnings.catch_warnings(action="ignore"):
        return Pipeline([("columns", model[0].fit(FRAME, LATE)), ("model", model[1])])


def dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, float)


def rows(**kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, list[Any]]]:
    row = st.fixed_dictionaries(kinds)
    return st.lists(row, min_size=1, max_size=5).map(lambda rs: {name: [r[name] for r in rs] for name in kinds})


finite = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-100, 100) | st.integers(-(2**53), 2**53)
ROWS = rows(
    delay=st.none() | finite,
    distance=finite.filter(lambda v: v is not None),
    hour=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 23),
    night=st.booleans(),
    carrier=st.sampled_from(["AA", "UA", "B6", "é"]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    origin=st.sampled_from(["JFK", "LGA", "none", None]) | st.text(max_size=2, alphabet="JFK"),
    plane=st.sampled_from(["a", "b", "c", "never", "other"]),
    level=st.sampled_from([10, 20, 30, 40, -1]),
)


@settings(max_examples=200)
@given(
    st.sampled_from(SCALERS), st.sampled_from(IMPUTERS), st.sampled_from(ENCODERS), st.sampled_from(REMAINDERS), ROWS
)
def test_any_rows_through_any_pipeline(scaler: Any, imputer: Any, encoder: Any, remainder: Any, columns: Any) -> None:
    assume(imputer is not None or not isinstance(scaler, Binarizer))  # which refuses missing values
    model = fitted(scaler, imputer, encoder, remainder)
    featurizer = translate(model, CONTRACT)[0]
    again = Featurizer.from_dict(json.loads(json.dumps(featurizer.to_dict())))
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        try:
            expected = dense(model[0].transform(CONTRACT.rebuild(columns)))
        except ValueError as e:  # a category that is not known, or a number that is too large for the pipeline
            if "unknown categories" in str(e):
                with pytest.raises(ValueError, match="no category"):
                    featurizer(columns)
            return
        found = featurizer(columns)
        assert isinstance(found, np.ndarray) and found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(again(columns), found)


@pytest.mark.parametrize(
    "steps",
    [
        [FeatureUnion([("a", StandardScaler()), ("b", MinMaxScaler())])],
        [SimpleImputer(), SelectKBest(k=2)],
        [SimpleImputer(), VarianceThreshold(), make_pipeline(StandardScaler(), Binarizer())],
        ["passthrough"],
        [],
    ],
    ids=str,
)
def test_steps_without_columns(steps: list[Any]) -> None:
    table: Any = FRAME[NUMBERS].fillna(1.0)
    contract = infer(table, CONTRACT.output)
    model = make_pipeline(*steps, LogisticRegression(max_iter=1)).fit(table, LATE)
    expected = dense(model[:-1].transform(table)) if steps else table.to_numpy(float)
    np.testing.assert_array_equal(translate(model, contract)[0](contract.rows(table)), expected)


def test_columns_by_place_mask_slice_and_selector() -> None:
    table: Any = FRAME[["delay", "distance", "hour", "night"]].fillna(0.0)
    contract = infer(table, CONTRACT.output)
    for chosen in ([1, 2], slice(1, 3), [False, True, True, False], make_column_selector(dtype_include="number"), -1):
        numbers = ColumnTransformer(
            [("s", StandardScaler(), chosen if chosen != -1 else [-2])], remainder="passthrough"
        )
        model = make_pipeline(numbers, LogisticRegression(max_iter=1)).fit(table, LATE)
        expected = dense(model[:-1].transform(table))
        np.testing.assert_array_equal(translate(model, contract)[0](contract.rows(table)), expected)


@pytest.mark.parametrize(
    ("function", "dtype", "same"),
    [
        *((np.square, dtype, dtype == "float64") for dtype in ("float64", "int64", "uint8", "bool")),
        *((np.abs, dtype, dtype == "float64") for dtype in ("float64", "int64")),
        *((np.log1p, dtype, dtype.endswith("64")) for dtype in ("float64", "int64", "int16", "bool")),
        *((np.sign, dtype, dtype == "float64") for dtype in ("float64", "uint64")),
    ],
)
def test_functions_of_numbers_that_overflow_or_are_coarse(function: Any, dtype: str, same: bool) -> None:
    """A square of whole numbers overflows in a pipeline, and a logarithm of few bits has few bits."""
    table = pd.DataFrame({"x": np.array([0, 1, 1, 0], dtype), "y": [0.0, 1.0, 2.0, 3.0]})
    steps = ColumnTransformer([("f", FunctionTransformer(function), ["x"])], remainder="passthrough")
    model = make_pipeline(steps, LogisticRegression()).fit(table, [0, 1, 0, 1])
    contract = infer(table, CONTRACT.output)
    if same:
        found = translate(model, contract)[0](contract.rows(table))
        np.testing.assert_array_equal(found, dense(model[0].transform(table)))
    else:
        with pytest.raises(Untranslatable, match=rf"{function.__name__} on column 'x' \({dtype}\)"):
            translate(model, contract)


def test_arrays_and_searches() -> None:
    table = FRAME[NUMBERS].fillna(0.0).to_numpy()
    contract = infer(table, CONTRACT.output)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1, 2]}, cv=2
    )
    model: Any = search.fit(table, LATE)
    featurizer, estimator = translate(model, contract)
    assert estimator is model.best_estimator_[-1]
    np.testing.assert_array_equal(featurizer(contract.rows(table)), model.best_estimator_[0].transform(table))


NOTES = pd.Series(["late snow", "Snow, snow late!", "a fine day", "fine late night", "snow", "no é snow"], name="note")
NO: Any = None
VECTORIZERS = [
    [TfidfVectorizer()],
    [TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=True, norm="l1")],
    [TfidfVectorizer(ngram_range=(2, 2), use_idf=False, norm=NO)],
    [TfidfVectorizer(stop_words="english", lowercase=False, token_pattern=r"\w")],
    [CountVectorizer(binary=True, ngram_range=(1, 2))],
    [CountVectorizer(), TfidfTransformer(sublinear_tf=True)],
]
WORDING = st.lists(st.sampled_from(["late", "snow", "fine", "Day", "é", "a", "???"])).map(" ".join) | st.text()


@pytest.mark.parametrize("vectorizer", VECTORIZERS, ids=str)
@given(texts=st.lists(WORDING, min_size=1, max_size=4))
def test_any_text(vectorizer: list[Any], texts: list[str]) -> None:
    model = make_pipeline(*vectorizer, LogisticRegression()).fit(NOTES, [0, 1, 0, 1, 0, 1])
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    expected = model[:-1].transform(pd.Series(texts))
    found = translate(model, infer(NOTES, CONTRACT.output))[0]({"note": texts})
    assert isinstance(found, Sparse) and len(found) == len(texts)
    assert (found.indptr.tolist(), found.indices.tolist()) == (expected.indptr.tolist(), expected.indices.tolist())
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-14)


def test_text_beside_numbers() -> None:
    table: Any = pd.DataFrame({"note": NOTES, "hour": range(6)})
    scaler: Any = StandardScaler()
    columns = ColumnTransformer([("note", TfidfVectorizer(), "note")], remainder=scaler)
    model = make_pipeline(columns, LogisticRegression()).fit(table, [0, 1, 0, 1, 0, 1])
    contract = infer(table, CONTRACT.output)
    found = translate(model, contract)[0](contract.rows(table))
    np.testing.assert_allclose(found, dense(model[:-1].transform(table)), rtol=1e-14)  # type: ignore[arg-type]


class Mine(StandardScaler):
    """A scaler of the user's own, which may do anything."""


FILLED: Any = FRAME[NUMBERS].fillna(0.0)


def refused(*steps: Any, table: Any = FILLED) -> str:
    model = make_pipeline(*steps, LogisticRegression(max_iter=1)).fit(table, LATE)
    with pytest.raises(Untranslatable) as told:
        translate(model, infer(table, CONTRACT.output))
    return str(told.value)


def test_what_is_not_known_is_left_alone() -> None:
    contract: Contract = CONTRACT
    assert "PCA" in refused(SimpleImputer(), PCA(2))
    assert "KNNImputer" in refused(KNNImputer())
    assert "Mine" in refused(Mine())
    assert "lambda" in refused(FunctionTransformer(lambda x: x + 1))
    assert "missing_values=0" in refused(SimpleImputer(missing_values=0))
    assert "float32" in refused(StandardScaler(), table=FRAME[["distance"]].astype("float32"))
    assert "weights" in refused(FeatureUnion([("a", StandardScaler())], transformer_weights={"a": 2}))
    with pytest.raises(Untranslatable, match="'carrier'"):
        translate(LogisticRegression(), contract)
