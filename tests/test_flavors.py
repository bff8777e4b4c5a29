"""Models of many kinds, written as MLflow folders and loaded by MLflow itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bundles import cell
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from servers import alive, free_port
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from deploy_ext.contract import Contract, Output, infer
from deploy_ext.core import InvalidRequest
from deploy_ext.flavors import as_sent, predictor, save_flavor, signature
from deploy_ext.output import describe_output
from deploy_ext.store import quiet
from deploy_ext.trust import Serialization, serialization

CLOUDPICKLE = Serialization("cloudpickle")


def every_type(rows: int = 40) -> Any:
    """A column of every type, half of them with gaps."""
    n = np.arange(rows)
    gap = n % 4 == 0
    return pd.DataFrame(
        {
            "plain": n * 1.0,
            "single": n.astype("float32"),
            "small": n.astype("int16"),
            "whole": n,
            "unsigned": n.astype("uint64"),
            "seats": pd.array([None if g else i for i, g in zip(n, gap, strict=True)], dtype="Int64"),
            "late": pd.array([None if g else i % 3 == 0 for i, g in zip(n, gap, strict=True)], dtype="boolean"),
            "night": n % 2 == 0,
            "origin": pd.Categorical([None if g else ("LGA", "JFK")[i % 2] for i, g in zip(n, gap, strict=True)]),
            "carrier": np.where(n % 2, "UA", "AA"),
            "day": pd.date_range("2013-01-01", periods=rows),
            "moment": pd.date_range("2013-01-01", periods=rows, tz="America/New_York"),
        }
    )


class Recorder:
    """Answers 0 and keeps the types it was given."""

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        self.types = {c: str(t) for c, t in rows.dtypes.items()}
        return np.zeros(len(rows))


def of_a_notebook() -> Any:
    """An object whose class was made in a cell."""
    return cell("class Zero:\n    def predict(self, rows):\n        return [0.0] * len(rows)")["Zero"]()


def save(model: Any, folder: Path, X: Any, how: Serialization | None = None, **more: Any) -> Contract:
    """`model` written, with the contract that its training data has."""
    contract = infer(X, describe_output(predictor(model), X))
    save_flavor(model, folder, contract, X[:5], ["scikit-learn", "cloudpickle"], how or serialization(model), **more)
    return contract


def load(folder: Path) -> Any:
    """As MLflow's pyfunc."""
    with quiet():
        from mlflow.pyfunc import load_model

        return load_model(str(folder))


def test_sklearn_in_both_forms(tmp_path: Path) -> None:
    X = every_type()[["plain", "whole"]]
    for form, model in {"skops": RandomForestRegressor(3), "cloudpickle": LinearRegression()}.items():
        model.fit(X, X.plain)
        how = serialization(model) if form == "skops" else CLOUDPICKLE
        assert how.format == form
        save(model, tmp_path / form, X, how)
        with quiet():
            from mlflow.sklearn import load_model

            estimator: Any = load_model(str(tmp_path / form))
        assert np.array_equal(estimator.predict(X), model.predict(X))
        found = load(tmp_path / form)
        assert np.array_equal(found.predict(X), model.predict(X))
        assert found.metadata.signature == signature(infer(X, describe_output(model, X)))
        assert "scikit-learn" in (tmp_path / form / "requirements.txt").read_text()


def test_a_pipeline_over_nullable_and_category_columns(tmp_path: Path) -> None:
    X = every_type()[["seats", "late", "origin", "plain"]]
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2).fit(X, X.plain > 20)
    contract = save(model, tmp_path / "m", X)
    found = load(tmp_path / "m")
    assert [c.required for c in found.metadata.signature.inputs.inputs] == [False, False, False, True]
    assert np.array_equal(found.predict(as_sent(X, contract)), model.predict(X))
    assert np.array_equal(found.predict(found.input_example), model.predict(X[:5]))


def test_a_python_model_sees_the_types_it_was_fitted_on(tmp_path: Path) -> None:
    X = every_type()
    save(Recorder(), tmp_path / "m", X)
    found = load(tmp_path / "m")
    wanted = {c: str(t) for c, t in X.dtypes.items()}
    for rows in (X, X[:3], X[::4], found.input_example):
        assert len(found.predict(rows)) == len(rows)
        assert found.unwrap_python_model().deploy_ext_model.types == wanted


@hypothesis(max_examples=15)
@given(st.sets(st.sampled_from(list(every_type().columns)), min_size=1), st.integers(1, 40))
def test_what_is_sent_fits_the_signature(columns: set[str], rows: int) -> None:
    from mlflow.models.utils import _enforce_schema

    X = every_type()[sorted(columns)]
    contract = infer(X, Output("regression"))
    _enforce_schema(as_sent(X[:rows], contract), signature(contract).inputs)


def test_arrays_and_text(tmp_path: Path) -> None:
    A = np.arange(20.0).reshape(-1, 2)
    save(LinearRegression().fit(A, A[:, 0]), tmp_path / "array", A)
    assert load(tmp_path / "array").predict(A) == pytest.approx(A[:, 0])
    text = pd.Series(["late and later", "on time", "so late", "just in time"], name="remark")
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(text, [1, 0, 1, 0])
    save(model, tmp_path / "text", text)
    found = load(tmp_path / "text")
    for rows in (text, text.to_numpy(dtype=object), found.input_example):
        assert len(found.predict(rows)) == len(rows) > 1


def check_booster(model: Any, folder: Path, rows: Any, python_model: bool) -> None:
    """MLflow's answers are the model's own, and the flavor is the expected one."""
    contract = save(model, folder, rows, CLOUDPICKLE)
    assert load(folder).predict(as_sent(rows, contract)) == pytest.approx(predictor(model).predict(rows))
    assert ("python_model" in (folder / "MLmodel").read_text()) == python_model


def test_xgboost_bare_and_as_an_estimator(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    X = every_type()[["plain", "whole", "origin"]]
    booster = xgboost.train({"max_depth": 2}, xgboost.DMatrix(X, X.plain > 20, enable_categorical=True), 3)
    check_booster(booster, tmp_path / "booster", X, True)
    numbers = X[["plain", "whole"]]
    check_booster(xgboost.XGBClassifier(n_estimators=3).fit(numbers, X.plain > 20), tmp_path / "model", numbers, False)


def test_lightgbm_bare_and_as_an_estimator(tmp_path: Path) -> None:
    lightgbm: Any = pytest.importorskip("lightgbm")
    X = every_type()[["plain", "whole", "origin"]]
    few = {"num_leaves": 3, "verbose": -1, "min_data_in_leaf": 1}
    booster = lightgbm.train(few, lightgbm.Dataset(X, X.plain > 20), 3)
    check_booster(booster, tmp_path / "booster", X, True)
    numbers = X[["plain", "whole"]]
    estimator = lightgbm.LGBMClassifier(n_estimators=3, **few).fit(numbers, X.plain > 20)
    check_booster(estimator, tmp_path / "model", numbers, False)


WITHOUT_US = """
import sys
sys.modules["deploy_ext"] = None
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
print(len(model.predict(model.input_example)))
"""


def test_it_loads_without_deploy_ext(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "corner_shop").mkdir(parents=True)
    (project / "corner_shop" / "__init__.py").write_text("")
    (project / "corner_shop" / "prices.py").write_text("def double(frame):\n    return frame * 2\n")
    sys.path.insert(0, str(project))
    try:
        from corner_shop.prices import double  # type: ignore[import-not-found]

        X = every_type()[["plain", "whole"]]
        model = make_pipeline(FunctionTransformer(double), LinearRegression()).fit(X, X.plain)
        save(model, tmp_path / "code", X, CLOUDPICKLE, code=project)
    finally:
        sys.path.remove(str(project))
        for module in [m for m in sys.modules if m.split(".")[0] == "corner_shop"]:
            del sys.modules[module]
    save(of_a_notebook(), tmp_path / "object", X)
    for kind in ("code", "object"):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_US, str(tmp_path / kind)], cwd="/", capture_output=True, text=True
        )
        assert done.stdout == "5\n", done


class Held:
    """Holds what cannot be pickled."""

    def __init__(self) -> None:
        self.file = (i for i in range(3))

    def predict(self, rows: Any) -> Any:
        return np.zeros(len(rows))


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    X = every_type()[["plain"]]
    with pytest.raises(InvalidRequest, match="a Held cannot be written as a model: cannot pickle 'generator' object"):
        save(Held(), tmp_path / "m", X, CLOUDPICKLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.server
def test_mlflow_serves_it(tmp_path: Path) -> None:
    save(of_a_notebook(), tmp_path / "m", every_type())
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = ["models", "serve", "-m", str(tmp_path / "m"), "--env-manager", "local", "-p", str(port)]
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": tools}
    with (tmp_path / "log").open("wb") as log:
        serve = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command], stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        end = time.monotonic() + 120
        while not alive(f"{url}/ping"):
            assert serve.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.1)
        body = (tmp_path / "m" / "serving_input_example.json").read_bytes()
        request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.loads(answer.read()) == {"predictions": [0.0] * 5}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(serve.pid, signal.SIGTERM)  # its own session
        serve.wait(20)
