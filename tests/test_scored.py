"""The record that every judge looks at, the trivial model, and the parts of a column."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier, DummyRegressor

from deploy_ext.core import InvalidRequest
from deploy_ext.scored import Scored, column, split, trivial


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"truth": [1, 2], "prediction": [1]}, "prediction has shape"),
        ({"truth": [1, 2], "prediction": [[1], [2]]}, "prediction has shape"),
        ({"truth": [1, 2], "prediction": [1, 2], "probabilities": np.ones((2, 3)), "labels": (1, 2)}, "probabilities"),
        ({"truth": [1, 2], "prediction": [1, 2], "frame": pd.DataFrame({"a": [1]})}, "frame has shape"),
        ({"truth": ["late"], "prediction": [1.0]}, "must be numbers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments, told):
    with pytest.raises(InvalidRequest, match=told):
        Scored(**arguments)


@pytest.mark.parametrize("labels", [("no", "yes"), (False, True), (0, 1), (1.0, 2.0)])
def test_codes_follow_the_labels_whatever_their_type(labels):
    truth = np.array([labels[0], labels[1], labels[1]])
    s = Scored(truth, truth[::-1], labels=labels)
    assert [c.tolist() for c in s.codes] == [[0, 1, 1], [1, 1, 0]]
    assert s.positive[0].tolist() == [False, True, True]


def test_whole_numbers_and_floats_are_the_same_label():
    assert Scored(np.array([0.0, 1.0]), np.array([0, 1]), labels=(0, 1)).codes[0].tolist() == [0, 1]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=50))
def test_trivial_is_the_dummy_classifier(reference):
    labels = tuple(sorted(set(reference)))
    s = Scored(np.array(["a", "b"]), np.array(["a", "b"]), None, labels)
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((len(reference), 1)), reference)
    ours = trivial(s, np.array(reference))
    assert ours.prediction.tolist() == list(dummy.predict(np.zeros((2, 1))))
    np.testing.assert_allclose(ours.probabilities, dummy.predict_proba(np.zeros((2, 1))))


def test_trivial_is_the_dummy_regressor():
    reference = np.array([1.0, 2.0, 6.0])
    dummy = DummyRegressor().fit(np.zeros((3, 1)), reference)
    ours = trivial(Scored(np.zeros(4), np.ones(4)), reference)
    assert ours.prediction.tolist() == list(np.ravel(dummy.predict(np.zeros((4, 1)))))


COLUMNS = {
    "quantity": np.linspace(0, 1, 100),
    "gaps": np.where(np.arange(100) < 10, np.nan, np.arange(100.0)),
    "nullable": pd.array([None, *range(99)], dtype="Int64"),
    "when": pd.date_range("2013-10-01", periods=100),
    "zoned": pd.date_range("2013-10-01", periods=100, tz="UTC"),
    "kind": pd.Categorical(["x", "y"] * 50),
    "infinite": [-np.inf] * 30 + list(range(40)) + [np.inf] * 30,
    "flag": [True, False] * 50,
    "constant": 1.0,
    "ties": [0.0] * 80 + list(range(20)),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_parts_cover_every_row_once(name):
    s = Scored(np.zeros(100), np.zeros(100), frame=pd.DataFrame(COLUMNS, index=range(7, 107)))
    parts = split(s, name)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(100))
    assert 1 <= len(parts) <= 5
    assert ("missing" in parts) == (name in ("gaps", "nullable"))


def test_an_unknown_column_names_the_nearest():
    s = Scored(np.zeros(1), np.zeros(1), frame=pd.DataFrame({"origin": ["JFK"]}))
    with pytest.raises(InvalidRequest, match="Did you mean 'origin'"):
        column(s, "orgin")
    with pytest.raises(InvalidRequest, match="no column 'origin'"):
        column(Scored(np.zeros(1), np.zeros(1)), "origin")
