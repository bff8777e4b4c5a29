"""What is published works alone: the wheel, built from the sdist, in a clean environment without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
REGISTRATION = """
import sys
import numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
import deploy_ext

X = pd.DataFrame({"a": np.arange(40.0), "b": np.arange(40) % 7})
y = np.arange(40) % 2
version = deploy_ext.register(LogisticRegression().fit(X, y), "tiny", X, y)
assert (version.name, version.version) == ("tiny", 1)
print(deploy_ext.__file__)
"""


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run `command` with an environment that leads neither to this repository nor to its .venv."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "IN_TEST")}
    done = subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """A folder that is gone afterwards: a whole environment is too large to keep as pytest keeps tmp_path."""
    with tempfile.TemporaryDirectory(prefix="deploy_ext-install-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def wheel(room: Path) -> Path:
    """The wheel, built from an sdist, built from a copy: setuptools leaves build/ behind and would reuse it."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPO).split("\0")
    for name in filter(None, listed):
        if (REPO / name).is_file():
            (room / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, room / "source" / name)
    run(
        UV, "build", "--no-build-isolation", "--python", sys.executable, "--out-dir", room / "dist", cwd=room / "source"
    )
    [wheel] = (room / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, room: Path) -> Path:
    """The bin folder of a clean environment that has the wheel and what it requires, nothing else."""
    run(UV, "venv", "--python", sys.executable, room / "venv", cwd=room)
    python = room / "venv" / "bin" / "python"
    run(UV, "pip", "install", "--python", python, "--constraints", REPO / "constraints.txt", wheel, cwd=room)
    return python.parent


def test_the_wheel_holds_every_module_and_template(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(REPO)) for p in (REPO / "deploy_ext").rglob("*.py")}
    templates = {f"deploy_ext/templates/{p.name}" for p in (REPO / "templates").glob("*.ipynb")}
    assert not (modules | templates) - names
    assert all(n.startswith(("deploy_ext/", "deploy_ext-")) for n in names)


def test_the_command_line_answers(installed: Path, tmp_path: Path) -> None:
    assert "register" in run(installed / "deploy-ext", "--help", cwd=tmp_path)


def test_a_registration_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "registration.py").write_text(REGISTRATION)
    where = run(installed / "python", "registration.py", cwd=tmp_path, DEPLOY_EXT_PROJECT=str(tmp_path))
    assert Path(where.strip().splitlines()[-1]).is_relative_to(installed.parent)
    assert (tmp_path / ".deploy" / "mlflow.db").exists()
