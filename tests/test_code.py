"""What a model needs is found in the model, through the project, and nowhere else."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import cell
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from deploy_ext.code import needs, references, requirements, trace

X = np.arange(40.0).reshape(20, 2)
Y = [0, 1] * 10
Project = Callable[[dict[str, str]], Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A function that writes modules into a project which is on the path; all have `qx` in their names."""

    def write(sources: dict[str, str]) -> Path:
        for name, source in sources.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(source)
        importlib.invalidate_caches()
        return tmp_path

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in [name for name in sys.modules if "qx" in name.split(".")[0]]:
        del sys.modules[name]


def test_parent_class_in_another_module(project: Project, tmp_path: Path) -> None:
    """mlflow#19745: the module of the parent class is named by no pickle."""
    project(
        {
            "model_qx.py": "from base_qx import Base\nclass Model(Base):\n    pass\n",
            "base_qx.py": "class Base:\n    def predict(self, X):\n        return [0] * len(X)\n",
        }
    )
    model = importlib.import_module("model_qx").Model()
    assert references(model)[0] >= {"model_qx"} and "base_qx" not in references(model)[0]
    found = needs(model)
    assert list(found.files) == ["base_qx.py", "model_qx.py"]
    code = found.copy(tmp_path / "out")
    assert code and (code / "base_qx.py").read_bytes() == (tmp_path / "base_qx.py").read_bytes()


IMPORTS = {
    "import leaf_qx": ["leaf_qx.py"],
    "import leaf_qx as other": ["leaf_qx.py"],
    "from leaf_qx import value": ["leaf_qx.py"],
    "from leaf_qx import *": ["leaf_qx.py"],
    "import pack_qx.a.b": ["pack_qx/__init__.py", "pack_qx/a/__init__.py", "pack_qx/a/b.py"],
    "from pack_qx.a import b": ["pack_qx/__init__.py", "pack_qx/a/__init__.py", "pack_qx/a/b.py"],
    "from pack_qx import sibling": ["leaf_qx.py", "pack_qx/__init__.py", "pack_qx/sibling.py"],
    "import space_qx.deep.leaf": ["space_qx/deep/leaf.py"],
    "def f():\n    from leaf_qx import value": ["leaf_qx.py"],
    "class A:\n    def f(self):\n        import leaf_qx": ["leaf_qx.py"],
    "try:\n    import leaf_qx\nexcept ImportError:\n    import absent_qx": ["leaf_qx.py"],
    "import numpy, json, sklearn.pipeline": [],
}


@pytest.mark.parametrize("line", IMPORTS)
def test_each_way_to_import(project: Project, line: str) -> None:
    project(
        {
            "start_qx.py": line + "\n",
            "leaf_qx.py": "value = 1\n",
            "unused_qx.py": "raise SystemExit('nobody may run me')\n",
            "pack_qx/__init__.py": "",
            "pack_qx/a/__init__.py": "",
            "pack_qx/a/b.py": "value = 2\n",
            "pack_qx/sibling.py": "from . import a_name\nimport leaf_qx\n",
            "space_qx/deep/leaf.py": "value = 3\n",
        }
    )
    files, _ = trace(["start_qx"])
    assert sorted({*IMPORTS[line], "start_qx.py"}) == list(files)


def test_relative_imports_and_cycles(project: Project) -> None:
    project(
        {
            "pack_qx/__init__.py": "from .one import a\n",
            "pack_qx/one.py": "from . import two\nfrom .sub.three import c\na = 1\n",
            "pack_qx/two.py": "from .one import a\n",
            "pack_qx/sub/__init__.py": "",
            "pack_qx/sub/three.py": "from ..two import b\nc = 1\n",
        }
    )
    files, _ = trace(["pack_qx.one"])
    assert set(files) == {f"pack_qx/{n}.py" for n in ("__init__", "one", "two", "sub/__init__", "sub/three")}


def test_reading_runs_nothing(project: Project) -> None:
    folder = project({"boom_qx/__init__.py": "open('ran', 'w')\n", "boom_qx/part.py": "open('ran', 'w')\n"})
    files, _ = trace(["boom_qx.part"])
    assert list(files) == ["boom_qx/__init__.py", "boom_qx/part.py"]
    assert not (folder / "ran").exists() and "boom_qx" not in sys.modules


def test_notebook_function_with_imports_of_all_kinds(project: Project) -> None:
    project({"late_qx.py": "import base_qx\n", "base_qx.py": "", "early_qx.py": "factor = 2\n"})
    names = cell(
        "import early_qx\nfrom sklearn.base import BaseEstimator\n"
        "def inner(x):\n    import late_qx\n    return x\n"
        "def outer(x):\n    return inner(x) * early_qx.factor\n"
        "class Model(BaseEstimator):\n    def predict(self, X):\n        return outer(X)\n"
    )
    found = needs(names["Model"]())
    assert {"inner", "outer", "Model"} <= set(found.definitions)
    assert list(found.files) == ["base_qx.py", "early_qx.py", "late_qx.py"]


def test_lambda_is_told() -> None:
    found = needs(make_pipeline(FunctionTransformer(lambda x: x), LogisticRegression()).fit(X, Y))
    assert any("<lambda>" in name for name in found.definitions)


def test_plain_estimator_needs_packages_only() -> None:
    found = needs(HistGradientBoostingClassifier(max_iter=2).fit(X, Y), also=["pandas"])
    assert (found.files, found.definitions) == ({}, ())
    pins = dict(pin.split("==") for pin in found.requirements)
    for package in ("scikit-learn", "numpy", "scipy", "joblib", "threadpoolctl", "pandas", "python-dateutil"):
        assert pins[package] == version(package)
    assert not {"mlflow", "pytest", "deploy-ext", "deploy_ext", "jupyterlab"} & set(pins)


def test_requirements_can_be_installed_as_written() -> None:
    """No package is there twice, and pip agrees that the set is consistent."""
    pins = requirements(["sklearn", "pandas", "skops"])
    names = [re.sub("[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins]
    assert names == sorted(set(names))
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run([uv, "pip", "check", "-q", "--python", sys.executable], capture_output=True, text=True)
    assert not [line for line in done.stderr.splitlines() if any(name in line for name in ("scikit-learn", "pandas"))]


def test_requirements_of_git_and_editable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, direct: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        (info / "direct_url.json").write_text(direct)

    install("gitqx", '{"url": "https://host/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}')
    install("editqx", '{"url": "file:///w", "dir_info": {"editable": true}}')
    monkeypatch.syspath_prepend(tmp_path)
    assert requirements(["gitqx.sub", "editqx"]) == ["gitqx @ git+https://host/r.git@abc"]


def test_a_large_model_costs_little() -> None:
    """Listening to the pickler copies no array."""
    model: Any = LogisticRegression().fit(X, Y)
    model.weights_ = np.zeros(50_000_000)  # 400 MB
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    references(model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@given(st.lists(st.sampled_from(["sklearn.base", "json", "no_such_qx", "numpy.linalg", "no_such_qx.sub"])))
def test_modules_outside_are_no_files(modules: list[str]) -> None:
    files, outside = trace(modules)
    assert files == {}
    assert outside == {name for name in modules if "qx" not in name}
