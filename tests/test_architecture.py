"""The rules of HOUSE.md that a machine can check: floors, owners of libraries, and what an import costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import deploy_ext

REPO = Path(__file__).parents[1]
HEAVY = ("mlflow", "pandas", "sklearn", "papermill", "voila", "pydantic", "numpy", "starlette", "uvicorn")


def loaded_after(line: str) -> set[str]:
    """The modules that a fresh interpreter has after `line`."""
    code = f"{line}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


LOAD_EXT = """
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance().run_line_magic("load_ext", "deploy_ext")
"""


@pytest.mark.parametrize("line", ["import deploy_ext", LOAD_EXT], ids=["import", "load_ext"])
def test_importing_costs_nothing(line: str) -> None:
    assert not loaded_after(line).intersection(HEAVY)


def test_the_house_rules_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_floors_are_the_numbers_of_the_notebooks() -> None:
    """The layers in pyproject.toml, from the top, never climb; `import-linter` does the rest."""
    numbers = {}
    for page in (REPO / "nbs").glob("*.ipynb"):
        module = re.search(r"#\|\s*default_exp\s+([\w.]+)", page.read_text())
        if module:
            numbers[f"deploy_ext.{module[1]}"] = int(page.name[:2])
        else:  # a page to read, without a module
            assert "#| export" not in page.read_text(), f"{page.name} has no default_exp"
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in (c for c in contracts if c["type"] == "layers"):
        layers = [re.findall(r"\w+", layer) for layer in contract["layers"]]
        floors = [[numbers.get(f"{contract['containers'][0]}.{name}") for name in layer] for layer in layers]
        known = [[n for n in floor if n is not None] for floor in floors if any(n is not None for n in floor)]
        assert all(min(upper) > max(lower) for upper, lower in pairwise(known)), contract["name"]


def imported_by(path: Path) -> set[str]:
    """What the module at `path` imports anywhere, by statement or by `need("...")`, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "need":
            names |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def test_only_metrics_imports_sklearn_metrics() -> None:
    """import-linter sees a library as one module, so this one is looked up here."""
    modules = {path.stem: imported_by(path) for path in (REPO / "deploy_ext").rglob("*.py")}
    owners = {name for name, names in modules.items() if any(n.startswith("sklearn.metrics") for n in names)}
    assert owners <= {"metrics", "curves"}  # the second draws its curves


def test_the_public_names_are_the_verbs() -> None:
    from deploy_ext import secret, verbs

    for name in deploy_ext.__all__:
        assert getattr(deploy_ext, name) is getattr(secret if name == "Secret" else verbs, name)
        assert name in dir(deploy_ext)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'deploy_ext' has no attribute 'registre'"):
        _ = deploy_ext.registre  # type: ignore[attr-defined]


def test_a_room_does_not_hide_the_verb_of_the_same_name() -> None:
    import deploy_ext.gates
    import deploy_ext.report

    assert callable(deploy_ext.gates) and callable(deploy_ext.report)
    assert sys.modules["deploy_ext.gates"] is not deploy_ext.gates
