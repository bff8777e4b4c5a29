"""Words become things: real files of every kind, and a namespace as wild as notebooks have it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops.io import dump

from deploy_ext.core import DeployError, InvalidRequest
from deploy_ext.grammar import Option
from deploy_ext.inputs import KINDS, SOURCE, is_a, read_data, read_model, remember, resolve, suggest, variables

FRAME = pd.DataFrame({"dep_delay": [1.0, 40.0], "carrier": ["UA", "B6"]})
MODEL = LogisticRegression().fit([[0.0], [1.0]], [0, 1])


def option(kind: str) -> Option:
    return Option(kind, "", kind, str, True, None, False, kind == "model")


def pickled(model: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(model))


@pytest.mark.parametrize(
    ("file", "write"),
    [("x.parquet", FRAME.to_parquet), ("x.csv", FRAME.to_csv), ("x.csv.gz", FRAME.to_csv)],
)
def test_data_files(tmp_path: Path, file: str, write: Callable[..., None]) -> None:
    write(tmp_path / file, index=False)
    found = read_data(tmp_path / file)
    assert found.to_dict() == FRAME.to_dict() and found.attrs[SOURCE] == str(tmp_path / file)


@pytest.mark.parametrize(
    ("file", "write"),
    [("m.joblib", joblib.dump), ("m.pkl", pickled), ("m.pickle", pickled), ("m.skops", dump)],
)
def test_model_files(tmp_path: Path, file: str, write: Callable[[Any, Path], None]) -> None:
    write(MODEL, tmp_path / file)
    assert (read_model(tmp_path / file).coef_ == MODEL.coef_).all()


@pytest.mark.parametrize("suffix", [".joblib", ".pkl", ".skops", ".parquet", ".csv"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\xff\xfe\x00broken", bytes(range(256)) * 50])
def test_damaged_files_are_told(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    read = read_data if suffix in (".parquet", ".csv") else read_model
    try:
        read(path)
    except DeployError as e:
        assert str(path) in str(e) and e.exit_code != 1


def test_a_model_whose_class_is_not_here_is_told(tmp_path: Path) -> None:
    """What people do: pickle a class of their notebook, and open it on the command line."""
    code = "import pickle, sys\nclass Mine:\n    pass\npickle.dump(Mine(), open(sys.argv[1], 'wb'))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "m.pkl"], check=True)
    with pytest.raises(InvalidRequest, match=r"m.pkl' cannot be read: AttributeError: .*'Mine'"):
        read_model(tmp_path / "m.pkl")


def test_a_skops_file_with_other_types_is_not_opened(tmp_path: Path) -> None:
    from functools import partial

    dump(partial(divmod, 7), tmp_path / "m.skops")
    with pytest.raises(DeployError, match=r"functools.partial|builtins.divmod"):
        read_model(tmp_path / "m.skops")


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    FRAME.to_csv(tmp_path / "new.csv", index=False)
    assert len(read_data("~/new.csv")) == 2
    assert suggest(option("data"), [], "~/n", {}) == ["~/new.csv"]


# variables


class Lazy:
    """An object that does not like to be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("not yet")


NAMESPACE = {
    "X": FRAME,
    "array": np.ones((3, 2)),
    "y": FRAME.carrier,
    "y_array": np.ones(3),
    "model": MODEL,
    "mine": SimpleNamespace(predict=lambda X: X),
    "pipe": make_pipeline(StandardScaler(), MODEL),
    "scaler": make_pipeline(StandardScaler()),
    "Class": LogisticRegression,
    "np": np,
    "lazy": Lazy(),
    "cube": np.ones((2, 2, 2)),
    "number": 3,
    "_": MODEL,
    "_12": FRAME,
}


def test_variables_of_the_right_kind() -> None:
    assert variables(NAMESPACE, "model") == ["model", "mine", "pipe"]
    assert variables(NAMESPACE, "data") == ["X", "array"]
    assert variables(NAMESPACE, "target") == ["y", "y_array"]


@given(st.from_type(type).flatmap(st.from_type) | st.none() | st.text())
def test_whatever_a_notebook_holds(value: Any) -> None:
    assert {is_a(kind, value) for kind in KINDS} <= {True, False}


def test_the_column_wins_over_the_variable() -> None:
    values = {"data": FRAME}
    assert resolve(option("target"), "carrier", values, {"carrier": FRAME.carrier, **NAMESPACE}) == "carrier"
    assert resolve(option("target"), "y", values, NAMESPACE) is NAMESPACE["y"]


@pytest.mark.parametrize(
    ("kind", "word", "told"),
    [
        ("model", "modle", "model: there is no variable 'modle'. Did you mean 'model'?"),
        ("data", "x", "--data: there is no variable 'x'. Did you mean 'X'?"),
        ("data", "X[:2]", "Give the name of one: put the value into a variable first."),
        ("data", "y", "'y' (Series) is no frame or array of rows and columns. Known: X, array."),
        ("model", "X", "'X' (DataFrame) has no predict(). Known: mine, model, pipe."),
        ("target", "X", "'X' (DataFrame) is no series or array with one value a row, nor a table of 0 and 1 with"),
        ("target", "carier", "'carier' is neither a column of the data nor a variable. Did you mean 'carrier'?"),
        ("data", "X.parquet", "there is no data file 'X.parquet'."),
    ],
)
def test_a_wrong_word_names_the_right_one(kind: str, word: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        resolve(option(kind), word, {"data": FRAME}, NAMESPACE)
    assert told in str(error.value)


# Tab


def test_what_would_need_quotes_is_not_offered(tmp_path: Path) -> None:
    odd = pd.DataFrame([[1] * 5], columns=pd.Index(["dep delay", "it's", "-x", "größe", 7], dtype=object))
    assert suggest(option("target"), ["--data", "odd", "--target"], "", {"odd": odd}) == ["größe", "7"]
    for name in ("a b.csv", "it's.csv", "good.csv", ".hidden.csv", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir()
    assert suggest(option("data"), [], "./", {}) == ["./data/", "./good.csv"]
    assert suggest(option("data"), [], "./.h", {}) == ["./.hidden.csv"]
    assert suggest(option("data"), [], "", {}) == []
    assert suggest(option("file"), [], "", {}) == ["data/", "good.csv", "notes.txt"]


def test_tab_leaves_nothing_behind(tmp_path: Path) -> None:
    assert suggest(option("ref"), [], "", {}) == [] and not list(tmp_path.iterdir())
    remember(["flights", "flights@champion", "flights/1"])
    assert suggest(option("ref"), [], "", {}) == ["flights", "flights@champion", "flights/1"]


def test_tab_in_a_full_notebook() -> None:
    namespace = {f"{name}{i}": value for i in range(500) for name, value in NAMESPACE.items()}
    assert len(suggest(option("model"), [], "", namespace)) == 1500
