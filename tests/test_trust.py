"""Which models are written by skops, and what happens to those that are not."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import (
    calibration,
    compose,
    ensemble,
    feature_extraction,
    feature_selection,
    gaussian_process,
    impute,
    linear_model,
    model_selection,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import make_pipeline

from deploy_ext.core import InvalidRequest
from deploy_ext.trust import TRUSTED, restore, serialization

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4))
Y = np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])
FRAME = pd.DataFrame({"a": X[:, 0], "b": np.array(list("xyz"))[Y], "t": ["red wine", "white bread", "red bread"] * 30})
FRAME.loc[::9, "a"] = np.nan
logistic = linear_model.LogisticRegression()
columns = compose.make_column_transformer(
    (make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler()), ["a"]),
    (preprocessing.OneHotEncoder(handle_unknown="ignore"), compose.make_column_selector("^b$")),
    (feature_extraction.text.TfidfVectorizer(), "t"),
    sparse_threshold=0,
)

FITS_SKOPS = [
    (logistic, X, Y),
    (linear_model.Ridge(), X, X[:, 1]),
    (linear_model.SGDClassifier(loss="modified_huber"), X, Y),
    (linear_model.TweedieRegressor(power=1.5), X, np.abs(X[:, 1])),
    (svm.SVC(), X, Y),
    (naive_bayes.GaussianNB(), X, Y),
    (tree.DecisionTreeClassifier(), X, Y),
    (ensemble.RandomForestClassifier(3), X, Y),
    (ensemble.RandomForestRegressor(3, random_state=np.random.RandomState(0)), X, X[:, 1]),
    (ensemble.ExtraTreesClassifier(3), X, Y),
    (ensemble.GradientBoostingClassifier(n_estimators=3), X, Y),
    (ensemble.GradientBoostingRegressor(loss="huber", n_estimators=3), X, X[:, 1]),
    (ensemble.HistGradientBoostingClassifier(max_iter=3), X, Y),
    (ensemble.HistGradientBoostingRegressor(loss="quantile", quantile=0.9, max_iter=3), X, X[:, 1]),
    (ensemble.HistGradientBoostingClassifier(max_iter=3).set_params(categorical_features=[3]), np.abs(X).round(), Y),
    (ensemble.IsolationForest(n_estimators=3), X, None),
    (ensemble.StackingClassifier([("a", logistic), ("b", ensemble.RandomForestClassifier(3))], cv=3), X, Y),
    (ensemble.VotingClassifier([("a", logistic), ("b", naive_bayes.GaussianNB())], voting="soft"), X, Y),
    (neighbors.KNeighborsClassifier(algorithm="kd_tree"), X, Y),
    (neighbors.KNeighborsRegressor(algorithm="ball_tree", metric="manhattan"), X, X[:, 1]),
    (neural_network.MLPClassifier((4,), max_iter=5), X, Y),
    (calibration.CalibratedClassifierCV(logistic, cv=3), X, Y),
    (calibration.CalibratedClassifierCV(logistic, method="isotonic", cv=3), X, Y),
    (gaussian_process.GaussianProcessClassifier(), X, Y),
    (model_selection.GridSearchCV(logistic, {"C": [1, 2]}, scoring="f1_macro", cv=3), X, Y),
    (model_selection.TunedThresholdClassifierCV(logistic, cv=3), X, Y > 0),
    (make_pipeline(feature_selection.SelectKBest(k=2), logistic), X, Y),
    (make_pipeline(preprocessing.SplineTransformer(), linear_model.Ridge()), X, X[:, 1]),
    (make_pipeline(preprocessing.FunctionTransformer(np.log1p), logistic), np.abs(X), Y),
    (compose.TransformedTargetRegressor(linear_model.Ridge(), func=np.log1p, inverse_func=np.expm1), X, X[:, 1] ** 2),
    (make_pipeline(columns, ensemble.HistGradientBoostingClassifier(max_iter=3)), FRAME, Y),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("model", "data", "target"),
    FITS_SKOPS,
    ids=[f"{type(model).__name__}-{i}" for i, (model, *_) in enumerate(FITS_SKOPS)],
)
def test_scikit_learn_needs_no_code(model: Any, data: Any, target: Any) -> None:
    model.fit(data) if target is None else model.fit(data, target)
    how = serialization(model)
    assert how.format == "skops", how.reason
    assert set(how.trusted) <= TRUSTED

    from skops.io import dumps

    again = restore(dumps(model), "skops")
    np.testing.assert_array_equal(again.predict(data), model.predict(data))


def test_the_list_names_no_door() -> None:
    """Nothing on the list opens a file, imports, evaluates, unpickles or calls what it is given when it is built."""
    words = ("load", "open", "eval", "exec", "import", "fetch", "read", "from", "pickle", "PyFunc", "Memory")
    assert not [name for name in TRUSTED if any(word in name.rpartition(".")[2] for word in words)]
    assert not [name for name in TRUSTED if "*" in name]


class Clip(TransformerMixin, BaseEstimator):
    """A user's own class."""

    def __init__(self, guard: Any = None):
        self.guard = guard

    def fit(self, X: Any, y: Any = None) -> Clip:
        return self

    def transform(self, X: Any) -> Any:
        return np.clip(X, -1, 1)


def test_own_class_is_pickled_and_named() -> None:
    how = serialization(make_pipeline(Clip(), logistic).fit(X, Y))
    assert how.format == "cloudpickle"
    assert f"{Clip.__module__}.Clip" in how.reason


def test_lambda_is_pickled_and_named() -> None:
    how = serialization(make_pipeline(preprocessing.FunctionTransformer(lambda x: x * 2), logistic).fit(X, Y))
    assert (how.format, "<lambda>" in how.reason) == ("cloudpickle", True)


class Box:
    """Something with an attribute."""

    def __init__(self, inside: Any):
        self.inside = inside


GUARD = threading.Lock()


def guarded(x: Any) -> Any:
    with GUARD:
        return x


guarded.__module__ = "__main__"  # as if the notebook had defined it


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (make_pipeline(Clip(threading.Lock()), logistic), "Pipeline.steps[0][1].guard (lock)"),
        (make_pipeline(Clip({"rows": (i for i in [])}), logistic), "Pipeline.steps[0][1].guard['rows'] (generator)"),
        (Clip(Box([1, Box(threading.Lock())])), "Clip.guard.inside[1].inside (lock)"),
        (make_pipeline(preprocessing.FunctionTransformer(guarded), logistic), ".func uses GUARD (lock)"),
    ],
    ids=["attribute", "dict", "deep", "global"],
)
def test_what_cannot_be_saved_is_named(model: Any, path: str) -> None:
    with pytest.raises(InvalidRequest) as e:
        serialization(model)
    assert path in str(e.value)


def test_an_object_that_holds_itself_ends() -> None:
    box = Box(threading.Lock())
    box.inside = [box, box.inside]
    with pytest.raises(InvalidRequest, match="cannot be saved"):
        serialization(box)


def test_a_crafted_file_cannot_approve_itself() -> None:
    from skops.io import dumps

    model = make_pipeline(preprocessing.FunctionTransformer(np.load), logistic)
    assert serialization(model).format == "cloudpickle"
    with pytest.raises(Exception, match=r"numpy.load|numpy.lib"):
        restore(dumps(model), "skops")


def test_a_process_that_opens_a_model_imports_no_other_library_for_arrays() -> None:
    code = """
import sys
from deploy_ext.trust import dump, harmless, restore, serialization
from sklearn.linear_model import Ridge
model = Ridge().fit([[1.0], [2.0]], [1.0, 2.0])
assert serialization(model).format == "skops"
restore(dump(model), "skops").predict([[1.0]])
assert "sklearn.linear_model._ridge.Ridge" in harmless()
assert not {"dask", "torch", "cupy"} & set(sys.modules)
import sklearn.externals.array_api_compat.dask.array  # where it is wanted, it can be had
assert "dask" in sys.modules
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
