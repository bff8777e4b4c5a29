"""What a fitted model returns, asked of real models; and the models that are refused."""

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from deploy_ext.core import InvalidRequest
from deploy_ext.output import Output, describe_output, vector

X = pd.DataFrame({"a": np.arange(60.0), "b": np.tile([0.0, 1.0, 2.0], 20)})
TWO = (X["a"] > 30).to_numpy()
THREE = X["b"].astype(int).to_numpy()


@pytest.mark.parametrize(
    ("target", "labels", "label_type"),
    [
        (TWO, (False, True), "bool"),
        (THREE, (0, 1, 2), "int"),
        (THREE.astype("uint8"), (0, 1, 2), "int"),
        (np.where(TWO, "late", "on time"), ("late", "on time"), "string"),
        (pd.Series(np.where(TWO, "late", "on time")), ("late", "on time"), "string"),
        (pd.Series(np.where(TWO, "late", "on time"), dtype=object), ("late", "on time"), "string"),
        (THREE.astype(float), (0.0, 1.0, 2.0), "float"),
    ],
)
def test_classifiers_tell_their_labels(target, labels, label_type):
    expected = Output("classification", labels, label_type, True)
    assert describe_output(DecisionTreeClassifier().fit(X, target), X) == expected
    assert describe_output(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, target), X) == expected
    assert Output.from_dict(expected.to_dict()) == expected


def test_a_classifier_without_probabilities():
    for model in (SVC().fit(X, TWO), SGDClassifier(loss="hinge").fit(X, TWO)):
        assert describe_output(model, X) == Output("classification", (False, True), "bool", False)


def test_regressors_whatever_their_target_looks_like():
    for model in (LinearRegression(), RandomForestRegressor(3), DecisionTreeRegressor()):
        assert describe_output(model.fit(X, THREE), X) == Output("regression")
    column = LinearRegression().fit(X, THREE.reshape(-1, 1))  # answers in a column of its own
    assert describe_output(column, X) == Output("regression")


def test_boosters_of_other_libraries():
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMClassifier(n_estimators=2, min_child_samples=1, verbose=-1).fit(X, THREE)
    assert describe_output(model, X) == Output("classification", (0, 1, 2), "int", True)
    with pytest.raises(InvalidRequest, match="not fitted"):
        describe_output(lightgbm.LGBMClassifier(), X)


def test_arrays_and_texts_are_given_as_they_were_fitted():
    assert describe_output(LogisticRegression().fit(X.to_numpy(), TWO), X.to_numpy()).labels == (False, True)
    assert describe_output(LogisticRegression().fit(X.to_numpy(), TWO), X.to_numpy().tolist()).probabilities


class Answers:
    """Any object with predict."""

    def __init__(self, answer):
        self.answer = answer

    def predict(self, data):
        return self.answer(len(data))


@pytest.mark.parametrize(
    ("answer", "kind", "labels"),
    [
        (lambda n: ["yes", "no"] * (n // 2), "classification", ("no", "yes")),
        (lambda n: pd.Series([True, False] * (n // 2)), "classification", (False, True)),
        (lambda n: [0, 1] * (n // 2), "classification", (0, 1)),
        (lambda n: np.arange(n), "regression", ()),
        (lambda n: np.linspace(0, 1, n), "regression", ()),
        (lambda n: pd.DataFrame({"prediction": [0.5] * n}), "regression", ()),
    ],
)
def test_any_object_is_judged_by_its_answers_and_the_assumption_is_noted(answer, kind, labels):
    output = describe_output(Answers(answer), X)
    assert (output.kind, output.labels) == (kind, labels)
    assert "assumed from the answers to 60 training rows" in output.note


def test_clusters_and_outlier_detectors_give_labels():
    assert describe_output(KMeans(3, random_state=0).fit(X), X).labels == (0, 1, 2)
    assert describe_output(IsolationForest(random_state=0).fit(X), X).labels == (-1, 1)


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression()), HistGradientBoostingClassifier()],
)
def test_an_unfitted_model(model):
    with pytest.raises(InvalidRequest, match=r"is not fitted. Call model.fit\(X, y\) first") as e:
        describe_output(model, X)
    assert isinstance(e.value.__cause__, NotFittedError)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (LogisticRegression, "Try LogisticRegression"),
        (StandardScaler().fit(X), "needs a predict method"),
        (None, "NoneType"),
        (MultiOutputClassifier(LogisticRegression()).fit(X, np.c_[THREE, THREE]), "2 outputs, not of 0 and 1 each"),
        (MultiOutputClassifier(LogisticRegression()).fit(X, np.c_[TWO]), "has 1 outputs. Register one model"),
        (DecisionTreeClassifier().fit(X, np.c_[TWO, THREE]), "Register one model for each output"),
        (DecisionTreeClassifier().fit(X, np.where(np.c_[TWO, ~TWO], "late", "on time")), "one model for each output"),
        (LinearRegression().fit(X, np.c_[TWO, ~TWO]), "Register one model for each output"),
        (LogisticRegression().fit(X[["a"]], TWO), "Give the training data"),
        (Answers(lambda n: [1.0]), r"shape \(1,\) for 60 rows"),
        (Answers(lambda n: [[1], [1, 2]] * (n // 2)), "one answer a row"),
        (Answers(lambda n: [None] * n), "are no labels"),
        (Answers(lambda n: np.array(["a", 1] * (n // 2), dtype=object)), "are no labels"),
    ],
)
def test_what_cannot_be_registered(model, message):
    with pytest.raises(InvalidRequest, match=message) as e:
        describe_output(model, X)
    assert "\n" not in str(e.value)


def test_answers_of_any_shape_become_one_array():
    assert vector(pd.DataFrame({"p": [1, 2]}), 2).tolist() == [1, 2]
    assert vector([[1.5], [2.5]], 2).tolist() == [1.5, 2.5]
    with pytest.raises(InvalidRequest):
        vector([1, 2, 3], 2)
