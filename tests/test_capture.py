"""Provenance as far as it is known, and the clean process as the judge of what was captured."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bundles import cell, flights, reseal, write
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from deploy_ext.capture import DIFF_BYTES, Capture, capture, cell_of, data_digest, git, notebook, reload
from deploy_ext.core import TimedOut, VerificationFailed

X, Y = flights()
MODEL = LogisticRegression(max_iter=1000).fit(X, Y)


def run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A project under git with one commit."""
    (tmp_path / "train.py").write_text("fit()\n")
    run("git", "init", "-q", "-b", "trunk", cwd=tmp_path)
    run("git", "add", ".", cwd=tmp_path)
    run("git", "commit", "-qm", "one", cwd=tmp_path)
    return tmp_path


def test_git_clean_dirty_untracked(repo: Path) -> None:
    clean = git(repo)
    assert clean.commit and len(clean.commit) == 40
    assert (clean.branch, clean.dirty, clean.diff) == ("trunk", False, "")
    (repo / "new.py").write_text("x\n")
    assert (git(repo).dirty, git(repo).diff) == (True, "")
    (repo / "train.py").write_text("fit(2)\n")
    assert "+fit(2)" in git(repo).diff
    run("git", "checkout", "-q", "--detach", cwd=repo)
    assert git(repo).branch is None


def test_git_diff_can_be_applied_and_is_bounded(repo: Path) -> None:
    (repo / "train.py").write_text("fit(3)\n")
    run("git", "config", "diff.external", "false", cwd=repo)  # a diff driver of the user's
    (repo / "d.patch").write_text(git(repo).diff + "\n")
    (repo / "train.py").write_text("fit()\n")
    run("git", "apply", "d.patch", cwd=repo)
    assert (repo / "train.py").read_text() == "fit(3)\n"
    (repo / "train.py").write_text("x = 1\n" * 300_000)
    assert DIFF_BYTES < len(git(repo).diff) < DIFF_BYTES + 100


def test_no_commit_no_repository_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git(tmp_path).to_dict() == git(tmp_path / "gone").to_dict()
    assert git(tmp_path).commit is None and git(tmp_path).dirty is None
    run("git", "init", "-q", "-b", "new", cwd=tmp_path)
    assert (git(tmp_path).commit, git(tmp_path).branch) == (None, "new")
    monkeypatch.setenv("PATH", "/nowhere")
    assert git(tmp_path).dirty is None


def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert notebook({}) is None
    assert notebook({"__file__": str(tmp_path / "train.py")}) == "train.py"
    monkeypatch.setenv("JPY_SESSION_NAME", "some-console-id")
    assert notebook({}) is None
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "nb" / "a.ipynb"))
    assert notebook({}) == "nb/a.ipynb"
    assert notebook({"PAPERMILL_INPUT_PATH": "b.ipynb"}) == "b.ipynb"
    assert notebook({"__vsc_ipynb_file__": "/elsewhere/c.ipynb"}) == "/elsewhere/c.ipynb"


def test_cell_in_a_real_kernel() -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        said: list[str] = []

        def heard(message: dict[str, Any]) -> None:
            said.append(message["content"].get("text", ""))

        client.execute_interactive("from deploy_ext.capture import cell_of", timeout=60)
        done = client.execute_interactive("print(cell_of(globals()))", timeout=60, output_hook=heard)
        assert done["content"]["execution_count"] == 2 and "(2, None)" in "".join(said)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_cell_outside_of_a_kernel() -> None:
    assert cell_of(globals()) == (None, None)


FRAMES = {
    "same": X.copy(),
    "index": X.set_axis(X.index * 2),
    "order": X[::-1],
    "shorter": X[:-1],
    "columns": X[["hour", "distance"]],
    "name": X.rename(columns={"hour": "h"}),
    "dtype": X.astype({"hour": "int32"}),
    "value": X.assign(hour=X.hour.where(X.index != 7, 99)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_data_digest(name: str) -> None:
    assert (data_digest(FRAMES[name]) == data_digest(X)) == (name in ("same", "index"))


def test_data_digest_of_all_types_and_containers() -> None:
    frame = pd.DataFrame(
        {
            "float": [1.5, None],
            "int": pd.array([1, None], dtype="Int64"),
            "bool": pd.array([True, None], dtype="boolean"),
            "text": ["a", None],
            "category": pd.Categorical(["x", "y"]),
            "when": pd.to_datetime(["2013-01-01", None]),
        }
    )
    seen = {data_digest(frame), data_digest(frame.iloc[::-1]), data_digest(frame, pd.Series([0, 1]))}
    seen |= {data_digest(frame, pd.Series([1, 0])), data_digest(X.to_numpy()), data_digest(X.hour)}
    assert len(seen) == 6
    assert data_digest(X, Y == "late") == data_digest(X, (Y == "late").to_numpy())


@given(st.lists(st.tuples(st.integers(-5, 5), st.sampled_from("abc")), min_size=2, max_size=8))
def test_data_digest_tells_order(rows: list[tuple[int, str]]) -> None:
    frame = pd.DataFrame(rows, columns=["n", "c"])
    assert (data_digest(frame) == data_digest(frame[::-1])) == (rows == rows[::-1])


def test_capture(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_USER", "ada")
    (repo / "train.py").write_text("fit(2)\n")
    X.to_csv(repo / "x.csv")
    search = GridSearchCV(MODEL, {"C": [1, 2]}, cv=3).fit(X, Y)
    known = capture(search, {"__file__": str(repo / "train.py")}, X, Y, data_file=repo / "x.csv")
    flat = known.provenance()
    assert (flat["user"], flat["notebook"], flat["branch"], flat["dirty"]) == ("ada", "train.py", "trunk", True)
    assert (flat["rows"], flat["columns"], flat["data_file"], flat["dvc"]) == (60, 2, "x.csv", None)
    assert flat["python"] == ".".join(map(str, sys.version_info[:3]))
    assert flat["data"] == data_digest(X, Y) and flat["fit_seconds"] > 0
    assert len(json.dumps(flat)) < 10_000 and "+fit(2)" in known.artifacts()["git.diff"]
    assert capture(MODEL, {}, X, fit_seconds=3.0).fit_seconds == 3.0
    assert capture(MODEL, {}, X).provenance()["fit_seconds"] is None
    assert "trunk" in repr(known)


def test_the_serializer_is_required_and_an_adopted_model_brings_its_own() -> None:
    def names(known: Capture) -> set[str]:
        return {pin.split("==")[0] for pin in known.needs.requirements}

    assert "skops" in names(capture(MODEL, {}, X, serializer="skops"))
    assert "skops" not in names(capture(MODEL, {}, X, serializer="cloudpickle"))
    assert {"skops", "cloudpickle"} <= names(capture(MODEL, {}, X))
    assert "scikit-learn" not in names(capture(None, {}, X, serializer="cloudpickle"))


def test_pyarrow_columns_need_pyarrow() -> None:
    frame = X.astype({"hour": "int64[pyarrow]"})
    assert any(pin.startswith("pyarrow==") for pin in capture(MODEL, {}, frame).needs.requirements)


def test_reload_gives_what_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    found = reload(write(MODEL, tmp_path / "b", X).folder)
    assert found["rows"] == 20 and {"scikit-learn", "numpy", "pandas"} <= set(found["distributions"])


def test_reload_with_a_lambda(tmp_path: Path) -> None:
    names = cell("import numpy as np\nfactor = 3\nstep = lambda frame: np.log1p(frame) * factor")
    model = make_pipeline(FunctionTransformer(names["step"]), LogisticRegression()).fit(X, Y)
    bundle = write(model, tmp_path / "b", X)
    assert bundle.runs_code and "<lambda>" in bundle.serialization.reason
    assert reload(bundle.folder)["ok"]


def test_reload_names_the_module_that_is_imported_by_a_computed_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden_qx.py").write_text("factor = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    names = cell("def step(x):\n    return x * __import__('hidden' + '_qx').factor")
    model = make_pipeline(FunctionTransformer(names["step"]), LogisticRegression()).fit(X, Y)
    bundle = write(model, tmp_path / "b", X)
    with pytest.raises(VerificationFailed, match="needs module 'hidden_qx'") as e:
        reload(bundle.folder)
    assert e.value.module == "hidden_qx"


def test_reload_of_a_changed_bundle(tmp_path: Path) -> None:
    bundle = write(MODEL, tmp_path / "b", X)
    (bundle.folder / "profile.json").write_text("{}")
    with pytest.raises(VerificationFailed, match=r"profile\.json in") as e:
        reload(bundle.folder)
    assert e.value.file == "profile.json"
    reseal(bundle.folder, files={"../b/model.skops": "0"})
    with pytest.raises(VerificationFailed, match="no path inside"):
        reload(bundle.folder)


def test_reload_of_a_model_that_kills_its_process_or_never_answers(tmp_path: Path) -> None:
    source = "import sys\ndef step(x):\n    if 'pytest' not in sys.modules:\n        {}\n    return x"
    ends = {"crash": "__import__('os').abort()", "hang": "import time; time.sleep(600)"}
    folders = {}
    for name, end in ends.items():
        step = cell(source.format(end))["step"]
        model = make_pipeline(FunctionTransformer(step), LogisticRegression()).fit(X, Y)
        folders[name] = write(model, tmp_path / name, X).folder
    with pytest.raises(VerificationFailed, match="the clean process ended with -6"):
        reload(folders["crash"])
    with pytest.raises(TimedOut, match="within 4 s"):
        reload(folders["hang"], timeout=4)
