"""A bundle is what was sealed, byte for byte, or it is not opened; and the modules of one never leak into another."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from bundles import flights, reseal, write
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from deploy_ext.bundle import (
    EXAMPLE_ROWS,
    SWITCHES,
    Answers,
    Bundle,
    answer,
    compare,
    load_model,
    make_example,
    open_bundle,
    visiting,
)
from deploy_ext.contract import infer
from deploy_ext.core import InvalidRequest, VerificationFailed, digest
from deploy_ext.output import describe_output

X, Y = flights()
FOREST = RandomForestClassifier(5, random_state=0).fit(X, Y)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that nobody changes."""
    folder = tmp_path_factory.mktemp("original") / "bundle"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "helpers.py").write_text("x = 1\n")
    return write(FOREST, folder, X)


@pytest.fixture
def bundle(original: Bundle, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return shutil.copytree(original.folder, tmp_path / "bundle")


def test_round_trip(original: Bundle) -> None:
    opened = open_bundle(original.folder, expect=original.digest)
    assert opened.digest == original.digest == digest(original.folder / "bundle.json")
    assert (opened.name, opened.runtime, opened.format, opened.runs_code) == ("flights", "sklearn", "skops", False)
    assert opened.contract == original.contract
    assert [c.name for c in opened.profile.columns] == ["distance", "hour", "prediction"]
    rows = opened.contract.rebuild(opened.example["columns"])
    assert compare(opened.example, answer(load_model(opened), opened.contract, rows)) is None
    assert "MB" in repr(opened) and "model.skops" in repr(opened)


FILES = ("model.skops", "contract.json", "profile.json", "example.json", "code/helpers.py")


@pytest.mark.parametrize("name", FILES)
def test_one_byte_changed(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(VerificationFailed, match=f"^{name} in") as e:
        open_bundle(bundle)
    assert (e.value.file, e.value.exit_code) == (name, 8)


@pytest.mark.parametrize("name", FILES)
def test_a_file_missing(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(VerificationFailed, match=f"{name} is missing"):
        open_bundle(bundle)


def test_bundle_json_is_bound_by_the_registry(bundle: Path, original: Bundle) -> None:
    """Somebody changes a file and mends its digest: the digest of bundle.json on the version gives him away."""
    (bundle / "code" / "helpers.py").write_text("x = 2\n")
    reseal(bundle, files={**original.files, "code/helpers.py": digest(bundle / "code" / "helpers.py")})
    open_bundle(bundle)
    with pytest.raises(VerificationFailed, match=r"bundle\.json .* has digest .* the registry says"):
        open_bundle(bundle, expect=original.digest)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "code/../../outside", "code//x", "a\\b", "", ".", "x\0y"]
)
def test_names_stay_inside(bundle: Path, original: Bundle, name: str) -> None:
    (bundle.parent / "outside").write_text("x")
    reseal(bundle, files={**original.files, name: digest(bundle.parent / "outside")})
    with pytest.raises(VerificationFailed, match="no path inside a bundle"):
        open_bundle(bundle)


def _link_file(folder: Path) -> None:
    (folder / "model.skops").rename(folder.parent / "model.skops")
    (folder / "model.skops").symlink_to(folder.parent / "model.skops")


def _link_folder(folder: Path) -> None:
    (folder / "code").rename(folder.parent / "code")
    (folder / "code").symlink_to(folder.parent / "code")


def _link_manifest(folder: Path) -> None:
    (folder / "bundle.json").rename(folder.parent / "bundle.json")
    (folder / "bundle.json").symlink_to(folder.parent / "bundle.json")


@pytest.mark.parametrize("change", [_link_file, _link_folder, _link_manifest])
def test_links_are_refused(bundle: Path, change: Callable[[Path], None]) -> None:
    change(bundle)
    with pytest.raises(VerificationFailed, match="is a link"):
        open_bundle(bundle)


def test_a_pipe_is_not_read(bundle: Path) -> None:
    (bundle / "example.json").unlink()
    os.mkfifo(bundle / "example.json")
    with pytest.raises(VerificationFailed, match=r"example\.json is missing"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["code/numpy.py", "code/__pycache__/helpers.cpython-311.pyc", "code/deep/er/x.so"])
def test_nothing_is_added_to_the_code(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"")
    with pytest.raises(VerificationFailed, match=f"{name} in .* was not there"):
        open_bundle(bundle)


def test_what_mlflow_adds_is_ignored(bundle: Path, original: Bundle) -> None:
    (bundle / "registered_model_meta").write_text("model_name: flights\n")
    assert open_bundle(bundle, expect=original.digest).files == original.files


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"format": 1}', '{"format": 1, "files": {}, "serialization": {"x": 1}}', "[" * 100_000],
)
def test_bundle_json_is_no_bundle_json(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_text(text)
    with pytest.raises(VerificationFailed, match="cannot be read"):
        open_bundle(bundle)


@given(st.binary(max_size=200))
def test_any_bundle_json_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(VerificationFailed):
        open_bundle(folder)


def test_another_format(bundle: Path) -> None:
    reseal(bundle, format=2)
    with pytest.raises(InvalidRequest, match="format 2"):
        open_bundle(bundle)


def test_half_a_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / "bundle.json").unlink()
    with pytest.raises(VerificationFailed, match="is no bundle"):
        open_bundle(bundle)
    with pytest.raises(VerificationFailed, match="is no bundle"):
        open_bundle(tmp_path / "nowhere")


def test_changed_between_open_and_load(bundle: Path) -> None:
    opened = open_bundle(bundle)
    (bundle / "model.skops").write_bytes(b"PK other")
    with pytest.raises(VerificationFailed, match=r"model\.skops"):
        load_model(opened)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("value", ["false", "False", "0"])
def test_code_can_be_forbidden(
    tmp_path: Path, original: Bundle, monkeypatch: pytest.MonkeyPatch, switch: str, value: str
) -> None:
    doubling = make_pipeline(FunctionTransformer(lambda frame: frame * 2), FOREST)
    pickled = write(doubling, tmp_path / "pickled", X)
    assert pickled.runs_code and "<lambda>" in pickled.serialization.reason
    assert load_model(pickled).predict(X).tolist() == doubling.predict(X).tolist()
    monkeypatch.setenv(switch, value)
    with pytest.raises(VerificationFailed, match=f"<lambda>.*{switch} forbids"):
        load_model(pickled)
    assert load_model(original)


def test_a_pickle_that_fails_is_told(tmp_path: Path) -> None:
    made = write(make_pipeline(FunctionTransformer(lambda x: x), FOREST), tmp_path / "b", X)
    (tmp_path / "b" / "model.pkl").write_bytes(b"cno.such.module\nThing\n.")
    reseal(tmp_path / "b", files={**made.files, "model.pkl": digest(tmp_path / "b" / "model.pkl")})
    with pytest.raises(VerificationFailed, match="needs module 'no'") as e:
        load_model(open_bundle(tmp_path / "b"))
    assert e.value.module == "no"


def code_bundle(folder: Path, sources: dict[str, str]) -> Bundle:
    """A bundle with these files in its code."""
    for name, source in sources.items():
        path = folder / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return write(FOREST, folder, X)


def test_two_versions_of_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "steps_x.py").write_text("age = 'now'\n")
    monkeypatch.syspath_prepend(tmp_path / "project")
    old = code_bundle(tmp_path / "old", {"steps_x.py": "age = 'old'\n"})
    new = code_bundle(tmp_path / "new", {"steps_x.py": "age = 'new'\n"})
    mine, finders = import_module("steps_x"), list(sys.meta_path)
    ages = []
    for bundle in (old, new, old):
        with visiting(bundle):
            ages.append(import_module("steps_x").age)
    assert ages == ["old", "new", "old"]
    assert import_module("steps_x") is mine and mine.age == "now"
    assert sys.meta_path == finders


def test_packages_relative_and_namespace(tmp_path: Path) -> None:
    sources = {
        "pack_x/__init__.py": "from .inner import value\n",
        "pack_x/inner.py": "from pack_x.deep.leaf import value\n",
        "pack_x/deep/leaf.py": "value = __name__\n",  # pack_x/deep has no __init__.py
    }
    bundle = code_bundle(tmp_path / "b", sources)
    with visiting(bundle):
        assert import_module("pack_x").value == "pack_x.deep.leaf"
    assert "pack_x" not in sys.modules
    assert not list(bundle.folder.rglob("__pycache__"))


def test_code_changed_after_open_is_not_imported(tmp_path: Path) -> None:
    bundle = code_bundle(tmp_path / "b", {"late_x.py": "x = 1\n"})
    (bundle.folder / "code" / "late_x.py").write_text("x = 2\n")
    with visiting(bundle), pytest.raises(VerificationFailed, match=r"code/late_x\.py"):
        import_module("late_x")


def test_seal_refuses_links(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(VerificationFailed, match="is a link"):
        write(FOREST, tmp_path / "b", X)
    assert not (tmp_path / "b" / "bundle.json").exists()


@pytest.mark.parametrize("rows", [1, 2, 19, 20, 21, 60])
def test_example_is_spread_over_the_data(rows: int) -> None:
    contract = infer(X, describe_output(FOREST, X))
    example = make_example(contract, X[:rows], answer(FOREST, contract, X[:rows]))
    assert len(example["prediction"]) == min(rows, EXAMPLE_ROWS)
    assert example["columns"]["distance"][0] == X.distance[0]
    assert example["columns"]["distance"][-1] == X.distance[rows - 1]
    again = json.loads(json.dumps(example, allow_nan=False))
    assert compare(again, answer(FOREST, contract, contract.rebuild(again["columns"]))) is None


@pytest.mark.parametrize("container", ["frame", "array"])
@pytest.mark.parametrize("model", [LogisticRegression(max_iter=2000), LinearRegression()], ids=["labels", "number"])
def test_example_of_any_container(container: str, model: LogisticRegression | LinearRegression) -> None:
    data = X if container == "frame" else X.to_numpy()
    model = model.fit(data, np.arange(len(X)) % 3)
    contract = infer(data, describe_output(model, data))
    answers = answer(model, contract, data)
    example = make_example(contract, data, answers)
    assert (answers.probabilities is None) == isinstance(model, LinearRegression)
    assert compare(example, answer(model, contract, contract.rebuild(example["columns"]))) is None


@given(st.lists(st.floats(-1e300, 1e300) | st.just(math.nan), min_size=1, max_size=30), st.floats(1e-8, 1e-2))
def test_floats_are_the_same_within_a_billionth(values: list[float], off: float) -> None:
    expected = {"prediction": [None if v != v else v for v in values], "probabilities": None}
    near = np.array(values) * (1 + 1e-11)
    far = np.array([v if v != v else v * (1 + off) + (1e-6 if abs(v) < 1e-3 else 0) for v in values])
    assert compare(expected, Answers(near)) is None
    assert (compare(expected, Answers(far)) is None) == all(v != v for v in values)


@pytest.mark.parametrize(("a", "b"), [("late", "Late"), (1, True), (1, 1.0), (0, None), ("1", 1)])
def test_labels_are_equal_or_not(a: object, b: object) -> None:
    expected = {"prediction": ["x", a], "probabilities": None}
    assert compare(expected, Answers(np.array(["x", a], dtype=object))) is None
    told = compare(expected, Answers(np.array(["x", b], dtype=object)))
    assert told == f"row 1: expected {a!r}, got {b!r}"


def test_bundle_is_light() -> None:
    """What a server imports before it has seen a bundle."""
    code = "import sys, deploy_ext.serve.runtime; print({'pandas','sklearn','skops','mlflow'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
