"""The clean process has the installed packages and the bundle, and nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import cell, flights, reseal, write
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from deploy_ext.bundle import Answers, Bundle, answer, compare, make_example, open_bundle, seal
from deploy_ext.contract import infer
from deploy_ext.core import InvalidRequest, VerificationFailed
from deploy_ext.output import describe_output
from deploy_ext.profile import measure
from deploy_ext.serve.runtime import borrow, load
from deploy_ext.trust import Serialization

X, Y = flights()
CHECK = [sys.executable, "-I", "-m", "deploy_ext.serve.runtime"]


def check(folder: Path, **environment: str) -> tuple[dict[str, Any], int]:
    """What the clean process says about a folder, and its exit code."""
    done = subprocess.run([*CHECK, str(folder)], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.stdout.count("\n") == 1, done.stderr
    return json.loads(done.stdout), done.returncode


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with a module `steps_shop` whose class has a parent elsewhere."""
    project = tmp_path / "project"
    (project / "base_shop").mkdir(parents=True)
    (project / "base_shop" / "__init__.py").write_text("from .core import Base\n")
    (project / "base_shop" / "core.py").write_text(
        "from sklearn.base import BaseEstimator, TransformerMixin\n"
        "class Base(TransformerMixin, BaseEstimator):\n"
        "    def fit(self, X, y=None):\n        return self\n"
    )
    (project / "steps_shop.py").write_text(
        "from base_shop import Base\n"
        "class Scale(Base):\n"
        "    def transform(self, X):\n"
        "        from late_shop import factor\n"
        "        return X * factor\n"
    )
    (project / "late_shop.py").write_text("factor = 0.001\n")
    monkeypatch.syspath_prepend(project)
    importlib.invalidate_caches()
    yield project
    for name in [n for n in sys.modules if n.split(".")[0] in ("base_shop", "steps_shop", "late_shop")]:
        del sys.modules[name]


@pytest.fixture
def scaled(shop: Path, tmp_path: Path) -> Bundle:
    """A bundle whose model needs the shop's code."""
    scale = importlib.import_module("steps_shop").Scale()
    return write(make_pipeline(scale, LogisticRegression()).fit(X, Y), tmp_path / "bundle", X)


def test_captured_code_is_enough(scaled: Bundle, shop: Path) -> None:
    assert {n for n in scaled.files if n.startswith("code/")} == {
        "code/steps_shop.py",
        "code/late_shop.py",
        "code/base_shop/__init__.py",
        "code/base_shop/core.py",
    }
    found, code = check(scaled.folder)
    assert (found["ok"], found["rows"], code) == (True, 20, 0), found
    assert {"sklearn", "pandas", "steps_shop", "base_shop", "late_shop"} <= set(found["modules"])
    assert not list(scaled.folder.rglob("__pycache__"))
    open_bundle(scaled.folder, expect=scaled.digest)


@pytest.mark.parametrize("lost", ["steps_shop", "base_shop.core", "late_shop"])
def test_a_missing_module_is_named(scaled: Bundle, shop: Path, lost: str) -> None:
    """Gone from the bundle, and still in the project and on PYTHONPATH, where the clean process must not look."""
    file = f"code/{lost.replace('.', '/')}.py"
    (scaled.folder / file).unlink()
    reseal(scaled.folder, files={n: sha for n, sha in scaled.files.items() if n != file})
    found, code = check(scaled.folder, PYTHONPATH=str(shop))
    assert (found["kind"], found["data"], code) == ("VerificationFailed", {"module": lost}, 8)
    assert f"needs module '{lost}'" in found["error"]


def test_an_editable_project_is_taken_away(shop: Path) -> None:
    """As `pip install -e` would put it on the path of each interpreter: a folder, or an import hook."""
    code = (
        f"import sys; sys.path.append({str(shop)!r})\n"
        "class Finder:\n    find_spec = lambda *_: None\n    __module__ = '__editable___shop_finder'\n"
        "sys.meta_path.append(Finder)\n"
        "from deploy_ext.serve.runtime import isolate; isolate()\n"
        f"print({str(shop)!r} in sys.path, Finder in sys.meta_path)\n"
        "import sklearn, json, deploy_ext.serve.app"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


def test_a_talkative_model(tmp_path: Path) -> None:
    talk = "import os\ndef talk(x):\n    print('from Python')\n    os.write(1, b'from C')\n    return x"
    model = make_pipeline(FunctionTransformer(cell(talk)["talk"]), LogisticRegression()).fit(X, Y)
    assert check(write(model, tmp_path / "b", X).folder)[0]["ok"] is True


def test_other_answers_are_shown(tmp_path: Path) -> None:
    here = "import sys\ndef here(x):\n    return x * (1 if 'pytest' in sys.modules else -1)"
    model = make_pipeline(FunctionTransformer(cell(here)["here"]), LogisticRegression()).fit(X, Y)
    found, code = check(write(model, tmp_path / "b", X).folder)
    assert (found["kind"], code) == ("VerificationFailed", 8)
    assert "answers differently: row " in found["error"]
    assert "expected" in found["error"] and "got" in found["error"]


def test_a_broken_bundle_and_none(tmp_path: Path) -> None:
    bundle = write(LogisticRegression().fit(X, Y), tmp_path / "b", X)
    (bundle.folder / "model.skops").write_bytes(b"other")
    found, code = check(bundle.folder)
    assert (found["data"], code) == ({"file": "model.skops"}, 8)
    assert "is no bundle" in check(tmp_path)[0]["error"]


def test_borrowed_modules_go_back(scaled: Bundle, shop: Path) -> None:
    """The project has moved on; the version still computes as it did, and the notebook keeps its own modules."""
    (shop / "late_shop.py").write_text("factor = 5000.0\n")
    sys.modules.pop("late_shop", None)
    mine = importlib.import_module("late_shop")
    before = list(sys.path), list(sys.meta_path)
    with borrow(scaled.folder, expect=scaled.digest) as runtime:
        assert runtime.verify() == 20
        assert importlib.import_module("late_shop").factor == 0.001
    assert importlib.import_module("late_shop") is mine
    assert (list(sys.path), list(sys.meta_path)) == before


def test_unknown_runtime(tmp_path: Path) -> None:
    bundle = write(LogisticRegression().fit(X, Y), tmp_path / "b", X)
    reseal(bundle.folder, runtime="sklaern")
    with pytest.raises(InvalidRequest, match="Did you mean 'sklearn'"), borrow(bundle.folder):
        pass


NEAREST = """
import numpy as np

class Nearest:  # a model that is no estimator
    def predict(self, data):
        return np.round(data["distance"].to_numpy() / 1000)
"""


@pytest.fixture(scope="module")
def pyfunc(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that MLflow loads."""
    from deploy_ext.flavors import save_flavor

    folder, model = tmp_path_factory.mktemp("pyfunc") / "bundle", cell(NEAREST)["Nearest"]()
    contract = infer(X, describe_output(model, X))
    how = Serialization("cloudpickle", (), "holds __main__.Nearest")
    runtime = save_flavor(model, folder, contract, X[:3], ["numpy"], how)
    assert runtime == "pyfunc"
    example = make_example(contract, X, answer(model, contract, X))
    return seal(
        folder, name="near", runtime=runtime, serialization=how, contract=contract, profile=measure(X), example=example
    )


def test_pyfunc(pyfunc: Bundle) -> None:
    found, code = check(pyfunc.folder)
    assert (found["ok"], code) == (True, 0), found
    with borrow(pyfunc.folder) as runtime:
        assert runtime.predict({"distance": [900.0, 2100.0], "hour": [5, 6]}).prediction.tolist() == [1.0, 2.0]


def test_pyfunc_can_be_forbidden(pyfunc: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    with pytest.raises(VerificationFailed, match="forbids"), borrow(pyfunc.folder):
        pass


def test_sklearn_needs_no_mlflow(tmp_path: Path) -> None:
    bundle = write(LogisticRegression().fit(X, Y), tmp_path / "b", X)
    assert "mlflow" not in check(bundle.folder)[0]["modules"]
    assert load(bundle.folder).verify() == 20


def test_a_bundle_without_a_form_answers_by_its_object(tmp_path: Path) -> None:
    runtime = load(write(LogisticRegression().fit(X, Y), tmp_path / "b", X).folder)
    assert (runtime.kind, runtime.bundle.form, runtime.bundle.tolerance) == ("sklearn", None, 0.0)
    assert runtime.predict(runtime.bundle.example["columns"]).probabilities is not None
    assert list(runtime.measure()) == [1, 16, 256] and all(s > 0 for s in runtime.measure().values())


@pytest.mark.parametrize(("away", "same"), [(1e-7, True), (1e-5, False)])
def test_a_form_may_be_as_far_away_as_was_proved(tmp_path: Path, away: float, same: bool) -> None:
    """The example holds the answers of the model, which a form may miss by the tolerance."""
    bundle = write(LogisticRegression().fit(X, Y), tmp_path / "b", X)
    example = bundle.example
    near = Answers(np.array(example["prediction"]), np.array(example["probabilities"]) + np.array([away, -away]))
    assert (compare(example, near, tolerance=1e-6) is None) == same
    assert compare(example, near) is not None
