"""What a model file would do when it is loaded: real pickles that are never loaded, picklescan called directly."""

from __future__ import annotations

import base64
import bz2
import copyreg
import gzip
import io
import json
import logging
import lzma
import os
import pickle
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from joblib.numpy_pickle import NumpyArrayWrapper
from picklescan.scanner import scan_pickle_bytes
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, StandardScaler
from sklearn.utils import all_estimators
from skops.io import dumps, get_untrusted_types

from deploy_ext.artifact import WORDS, Audit, audit
from deploy_ext.trust import TRUSTED

KNOWN = TRUSTED | {f"{e.__module__}.{e.__name__}" for _, e in all_estimators()}
MINE = f"{os.name if os.name == 'nt' else 'posix'}.system"
CLEAN = {"artifact.dangerous": 0.0, "artifact.unknown": 0.0, "artifact.runs_code": 0.0}


class Evil:
    """Its pickle runs a command when it is loaded, which no test does."""

    def __reduce__(self) -> Any:
        return os.system, ("echo loaded >> $DEPLOY_EXT_LOADED",)


@pytest.fixture(autouse=True)
def nothing_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The mark of a loaded pickle is not there after any test."""
    monkeypatch.setenv("DEPLOY_EXT_LOADED", str(tmp_path / "loaded"))
    yield
    assert not (tmp_path / "loaded").exists()


def untrusted(data: bytes) -> list[str]:
    return get_untrusted_types(data=data)


def audited(**files: bytes) -> Audit:
    """The audit of files, called model_pkl for model.pkl."""
    found = audit({name.replace("_", "."): data for name, data in files.items()}, untrusted, KNOWN)
    assert Audit.from_dict(json.loads(found.to_json())) == found
    assert set(found.facts()) == set(WORDS)
    assert repr(found) and found._repr_html_()
    return found


def verdicts(found: Audit) -> dict[str, str]:
    return {f.object: f.verdict for f in found.findings}


def zipped(compression: Any = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def dumped(obj: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(obj, buffer, **options)
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


EVIL = pickle.dumps([np.arange(4.0), Evil()])
X = np.random.default_rng(0).random((60, 4))
Y = (X[:, 0] > 0.5).astype(int)
MODELS = [
    make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y),
    make_pipeline(ColumnTransformer([("hot", OneHotEncoder(), [0]), ("bins", KBinsDiscretizer(3), [1])])).fit(X, Y),
    RandomForestClassifier(5).fit(X, Y),
    HistGradientBoostingClassifier(max_iter=5).fit(X, Y),
    KNeighborsClassifier(algorithm="kd_tree").fit(X, Y),
    SGDClassifier().fit(X, np.array(["yes", "no"])[Y]),
    CountVectorizer().fit(["to be or not", "to be"]),
]
MODEL = pickle.dumps(MODELS[0])

WRAPPINGS: dict[str, Callable[[bytes], dict[str, bytes]]] = {
    "as it is": lambda p: {"model_pkl": p},
    "called pickle": lambda p: {"model_pickle": p},
    "called joblib": lambda p: {"model_joblib": p},
    "called torch": lambda p: {"model_pt": p},
    "called anything": lambda p: {"MLmodel": p},
    "called an image": lambda p: {"plot_png": p},
    "gzip": lambda p: {"model_joblib": gzip.compress(p)},
    "zlib": lambda p: {"model_pkl": zlib.compress(p)},
    "bz2": lambda p: {"model_pkl": bz2.compress(p)},
    "xz": lambda p: {"model_pkl": lzma.compress(p)},
    "lzma": lambda p: {"model_pkl": lzma.compress(p, lzma.FORMAT_ALONE)},
    "gzip under another name": lambda p: {"weights": gzip.compress(p)},
    "two streams": lambda p: {"model_pkl": gzip.compress(p[:9]) + gzip.compress(p[9:])},
    "gzip in gzip": lambda p: {"model_pkl": gzip.compress(gzip.compress(p))},
    "in a zip": lambda p: {"model_pt": zipped(data_pkl=p)},
    "in a stored zip": lambda p: {"model_pt": zipped(zipfile.ZIP_STORED, data_pkl=p)},
    "under another name in a zip": lambda p: {"model_zip": zipped(weights=b"\x80\x02" + p)},
    "in a zip in a zip": lambda p: {"model_zip": zipped(inner_zip=zipped(data_pkl=p))},
    "gzip in a zip": lambda p: {"model_zip": zipped(inner_gz=gzip.compress(p))},
    "after a benign pickle": lambda p: {"model_pkl": MODEL + p},
    "before a benign pickle": lambda p: {"model_pkl": p + MODEL},
    "before a zip": lambda p: {"model_pkl": p + zipped(readme_txt=b"hello")},
    "before the mark of a tar": lambda p: {"model_pkl": p.ljust(257, b"N") + b"ustar"},
    "cut off": lambda p: {"model_pkl": p[:-4]},
    "an array of objects": lambda p: {"model_npy": saved(np.array([Evil()], dtype=object))},
    "arrays of objects": lambda p: {"model_npz": zipped(a_npy=saved(np.array([Evil()], dtype=object)))},
    "a field of objects": lambda p: {"model_npy": saved(np.array([(1, Evil())], dtype=[("a", "i4"), ("O", "O")]))},
    "a pickle called npy": lambda p: {"model_npy": p},
    "joblib behind an array": lambda p: {"model_joblib": dumped([np.arange(1000.0), Evil()])},
    "joblib, compressed": lambda p: {"model_joblib": dumped([np.arange(1000.0), Evil()], compress=3)},
    "joblib behind texts": lambda p: {"model_joblib": dumped([np.array(["a", "bcd"] * 99), Evil()])},
    "joblib in objects": lambda p: {"model_joblib": dumped([np.array([1, Evil()], dtype=object), 2])},
    "joblib behind objects": lambda p: {"model_joblib": dumped([np.array([1, "x"], dtype=object), Evil()])},
    "joblib behind fields": lambda p: {"model_joblib": dumped([np.zeros(9, dtype=[("a", "i4"), ("b", "U7")]), Evil()])},
    "joblib of old": lambda p: {"model_joblib": dumped([np.arange(99), Evil()], protocol=0)},
    "joblib of protocol 2": lambda p: {"model_joblib": dumped([np.arange(99), Evil()], protocol=2)},
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("how", WRAPPINGS)
def test_a_command_is_found_wherever_it_hides(how: str, protocol: int) -> None:
    found = audited(**WRAPPINGS[how](pickle.dumps([1.5, "x" * 300, Evil()], protocol=protocol)))
    assert verdicts(found)[MINE] == "dangerous"
    facts: Any = found.facts()
    assert facts["artifact.dangerous"] == 1 and facts["artifact.runs_code"] == 1 and facts["artifact.unknown"] >= 1
    assert MINE in repr(found)


def call(module: bytes, name: bytes, *, by: bytes = b"") -> bytes:
    """A pickle that calls module.name("x"), with more opcodes between the two texts and their use."""
    text = [b"\x8c" + bytes([len(t)]) + t for t in (module, name)]
    return b"\x80\x04" + b"\x94".join(text) + b"\x94" + by + b"\x93\x8c\x01x\x85R."


HIDDEN = {
    "by the memo": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94000h\x00h\x01\x93\x8c\x01x\x85R.".replace(b"000", b"00"),
    "by a place in the memo that was overwritten": (
        b"\x80\x04\x8c\x02os\x8c\x08builtins0q\x05\x8c\x06systemq\x060h\x05h\x06\x93\x8c\x01x\x85R."
    ),
    "by a copy": b"\x80\x04\x8c\x02os\x8c\x06system2" + b"0" + b"\x93\x8c\x01x\x85R.",
    "through a tuple that is thrown away": b"\x80\x04\x8c\x02os\x8c\x06system)0\x93\x8c\x01x\x85R.",
    "through a mark that is thrown away": b"\x80\x04\x8c\x02os\x8c\x06system(K\x01K\x021\x93\x8c\x01x\x85R.",
    "as old as INST": b"(S'x'\nios\nsystem\n.",
    "as old as OBJ": b"(cos\nsystem\nS'x'\no.",
    "without a header": b"cos\nsystem\n(S'x'\ntR.",
    "in long texts": b"\x80\x04" + b"X\x02\x00\x00\x00os" + b"\x8d\x06" + bytes(7) + b"system" + b"\x93\x8c\x01x\x85R.",
    "in old texts": b"\x80\x04U\x02osT\x06\x00\x00\x00system\x93\x8c\x01x\x85R.",
    "that is broken off before its end": call(b"os", b"system")[:-1],
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_name_is_followed_through_the_stack(how: str) -> None:
    assert verdicts(audited(model_pkl=HIDDEN[how]))["os.system"] == "dangerous"
    assert verdicts(audited(anything=HIDDEN[how]))["os.system"] == "dangerous"


def test_a_name_that_is_made_on_load_is_dangerous() -> None:
    made = b"\x80\x04\x8c\x02osc_codecs\nencode\n\x8c\x06system\x85R\x93."
    assert verdicts(audited(model_pkl=made))["a name that is made on load"] == "dangerous"


def test_a_file_that_is_one_thing_to_joblib_and_another_to_pickle() -> None:
    evil = b"cos\nsystem\n(S'x'\ntR0"
    unaligned: Any = None
    array = NumpyArrayWrapper(np.ndarray, (len(evil),), "C", np.dtype("u1"), False, unaligned)
    crafted = pickle.dumps(array, protocol=2)[:-1] + evil + b"."  # to joblib an array of as many bytes
    found = audited(model_pkl=crafted)
    assert verdicts(found)["os.system"] == "dangerous"
    assert found.facts() == dict.fromkeys(CLEAN, 1.0)


@pytest.mark.parametrize(
    "expression",
    [
        call(b"builtins", b"eval"),
        call(b"builtins", b"getattr"),
        call(b"subprocess", b"Popen"),
        call(b"functools", b"partial"),
        call(b"numpy.testing._private.utils", b"runstring"),
        call(b"cloudpickle.cloudpickle", b"_make_function"),
        call(b"http.client", b"HTTPSConnection"),
        call(b"flights.features", b"Distance"),
        call(b"collections", b"OrderedDict"),
    ],
)
def test_the_verdict_is_picklescans(expression: bytes) -> None:
    direct = scan_pickle_bytes(io.BytesIO(expression), "direct").globals[0]
    assert verdicts(audited(model_pkl=expression)) == {f"{direct.module}.{direct.name}": direct.safety.value}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(getattr(m, "steps", [(0, m)])[0][1]).__name__)
def test_the_names_are_those_that_picklescan_reads(model: Any, protocol: int) -> None:
    data = pickle.dumps(model, protocol=protocol)
    direct = {f"{g.module}.{g.name}" for g in scan_pickle_bytes(io.BytesIO(data), "direct").globals}
    assert set(verdicts(audited(model_pkl=data))) == direct


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 1), ("lzma", 1)], ids=str)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(getattr(m, "steps", [(0, m)])[0][1]).__name__)
def test_a_benign_model_raises_no_alarm(model: Any, compress: Any) -> None:
    for protocol in range(6):
        found = audited(
            a_joblib=dumped(model, compress=compress, protocol=protocol), b_pkl=pickle.dumps(model, protocol)
        )
        assert found.facts() == {**CLEAN, "artifact.runs_code": 1.0}, found


def test_a_class_of_ones_own_is_unknown_and_not_dangerous() -> None:
    data = pickle.dumps(Evil).replace(b"Evil", b"Mine")
    found = audited(model_pkl=data)
    assert verdicts(found) == {f"{__name__}.Mine": "suspicious"}
    assert found.facts() == {**CLEAN, "artifact.unknown": 1.0, "artifact.runs_code": 1.0}
    assert audit({"model.pkl": data}, untrusted, {f"{__name__}.Mine"}).facts()["artifact.unknown"] == 0


def test_what_is_dangerous_is_so_even_if_it_is_known() -> None:
    data = call(b"functools", b"partial")
    assert "functools.partial" in KNOWN  # for skops, which looks at what it holds
    assert audited(model_pkl=data).facts()["artifact.dangerous"] == 1


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(getattr(m, "steps", [(0, m)])[0][1]).__name__)
def test_a_skops_file_of_known_types_is_clean(model: Any) -> None:
    found = audited(model_skops=dumps(model))
    assert found.facts() == CLEAN
    assert {f.object for f in found.findings} == set(untrusted(dumps(model)))


class Mine:
    def __init__(self) -> None:
        self.x = 1


def test_a_skops_file_with_a_class_of_ones_own() -> None:
    found = audited(model_skops=dumps([LogisticRegression(), Mine()]), code_py=b"class Mine: ...")
    assert verdicts(found)[f"{__name__}.Mine"] == "suspicious"
    assert found.facts() == {**CLEAN, "artifact.unknown": 1.0, "artifact.runs_code": 1.0}
    assert found.programs == ("code.py",)


def test_a_skops_file_is_known_by_what_is_in_it() -> None:
    assert audited(model_pkl=dumps(Mine())).facts()["artifact.unknown"] == 1


def test_skops_imports_nothing_that_a_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    data = dumps(Mine()).replace(b'"__module__": "%s"' % __name__.encode(), b'"__module__": "strange_module"')
    archive = zipfile.ZipFile(io.BytesIO(dumps(Mine())))
    schema = json.loads(archive.read("schema.json")) | {"__module__": "strange_module"}
    found = audited(model_skops=zipped(schema_json=json.dumps(schema).encode()))
    assert data and verdicts(found)["strange_module.Mine"] == "suspicious"
    assert "strange_module" not in sys.modules


def doubled(depth: int, key: Callable[[int], Any] = int) -> bytes:
    """A skops file of lists that each hold the one before twice."""
    node: Any = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": []}
    tree = node | {"__id__": key(1)}
    for i in range(2, depth):
        tree = node | {"content": [tree, node | {"__id__": key(i - 1)}], "__id__": key(i)}
    return zipped(schema_json=json.dumps(tree | {"protocol": 2, "_skops_version": "0.16"}).encode())


@pytest.mark.parametrize("key", [int, str, float])
def test_a_skops_file_that_would_keep_skops_busy_for_years(key: Callable[[int], Any]) -> None:
    assert audited(model_skops=doubled(8, key)).facts() == CLEAN
    found = audited(model_skops=doubled(60, key))
    assert found.facts()["artifact.unknown"] == 1
    assert "nodes" in found.findings[0].object


@pytest.mark.parametrize(
    "schema",
    [b"", b"{", b"[]", b"1", b'{"a": 1}', b"[" * 100_000, b'{"__loader__": "No", "__class__": "a", "__module__": "b"}'],
    ids=lambda s: str(s[:9]),
)
def test_a_broken_skops_file_is_unreadable(schema: bytes) -> None:
    found = audited(model_skops=zipped(schema_json=schema))
    assert [f.verdict for f in found.findings] == ["unreadable"]


def test_a_skops_file_that_names_a_large_member_often() -> None:
    content = [
        {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode", "type": "numpy", "file": "a.npy"}
    ]
    schema = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": content * 2000}
    schema |= {"protocol": 2, "_skops_version": "0.16"}
    array = saved(np.zeros(1_000_000))
    found = audited(model_skops=zipped(schema_json=json.dumps(schema).encode(), a_npy=array))
    assert "more than a billion bytes" in found.findings[0].object


@pytest.mark.parametrize("cut", range(0, len(EVIL), 3))
def test_a_file_that_is_cut_off_is_told(cut: int) -> None:
    found = audited(model_pkl=EVIL[:cut])
    assert (float(found.facts()["artifact.unknown"]) >= 1) == (cut > 0)
    if b"system" in EVIL[: max(cut - 3, 0)]:
        assert found.facts()["artifact.dangerous"] == 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pkl", b"not a pickle"),
        ("a.joblib", bytes(100)),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99)),
        ("a.joblib", b"\x04\x22\x4d\x18" + bytes(99)),
        ("a.zst", b"\x28\xb5\x2f\xfd" + bytes(99)),
        ("a.tar", bytes(257) + b"ustar" + bytes(99)),
        ("a.pkl", gzip.compress(MODEL)[:-20]),
        ("a.zip", zipped(a_pkl=MODEL)[:-30] + zipped(b=b"")[-22:]),
        ("a.pkl", gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(MODEL))))))),
    ],
)
def test_what_cannot_be_read_is_unknown(name: str, data: bytes) -> None:
    facts: Any = audit({name: data}, untrusted, KNOWN).facts()
    assert facts["artifact.unknown"] >= 1 and facts["artifact.dangerous"] == 0


def test_an_encrypted_archive_is_unknown() -> None:
    data = bytearray(zipped(zipfile.ZIP_STORED, a_pkl=bytes(v ^ 0x5A for v in MODEL)))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    assert float(audited(model_pt=bytes(data)).facts()["artifact.unknown"]) >= 1


@pytest.mark.parametrize(
    "files",
    [
        {
            "requirements_txt": b"cloudpickle==3.1.2\ncatboost\nijson\nnumpy\n.\n",
            "conda_yaml": b"channels:\n- defaults\n",
        },
        {"MLmodel": b"artifact_path: model\nflavors:\n", "README_md": b"# title\n(see above)\n]\n}\n."},
        {
            "a_json": b'{"a": [1, 2, "os", "system"]}',
            "b_csv": b"a,b\n1,2\n",
            "c_json": b"[]",
            "empty": b"",
            "x_bin": b"",
        },
        {"a_npy": saved(np.arange(9)), "b_npy": saved(np.array(["O", "x"])), "c_npz": zipped(a_npy=saved(np.eye(3)))},
        {"f_npy": saved(np.zeros(3, dtype=[("a", "i4"), ("b", "U3")])), "d_bin": bytes(range(256)) * 9},
        {
            "model_pt": zipped(**{"data/0": np.random.default_rng(0).bytes(9999), "version": b"3\n"}),
            "x_txt": b"x^2 + 1",
        },
        {"plain_pkl": pickle.dumps({"a": [1, 2.0, "os", b"system", None, (True,)]})},
    ],
)
def test_data_is_data(files: dict[str, bytes]) -> None:
    assert audited(**files).facts() == CLEAN


def test_random_tensors_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        weights = {f"archive/data/{i}": rng.bytes(300) for i in range(100)}
        tensors = zipped(zipfile.ZIP_STORED, **weights, **{"archive/data_pkl": pickle.dumps([1])})
        assert audited(model_pt=tensors, x_bin=rng.bytes(3000)).facts() == CLEAN


def test_code_beside_the_model_runs() -> None:
    for name in ("code_py", "lib_so", "lib_pyd", "old_pyc"):
        assert audited(**{name: b"", "model_skops": dumps(1)}).facts() == {**CLEAN, "artifact.runs_code": 1.0}


BOMBS = {
    "deep lists": b"\x80\x04" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "deep tuples": b"\x80\x04)" + b"\x85" * 300_000 + b".",
    "tuples that double": b"\x80\x04K\x01\x85" + b"2\x86" * 100_000 + b".",
    "keys that double": b"\x80\x04}K\x01\x85" + b"2\x86" * 5_000 + b"K\x01s.",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a long of a million bytes": b"\x80\x04\x8b" + (1_000_000).to_bytes(4, "little") + b"\x7f" * 1_000_000 + b".",
    "a text that is said to be huge": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"x",
    "many marks": b"\x80\x04" + b"(" * 1_000_000 + b".",
    "many pickles": b"N." * 300_000,
    "many names": b"\x80\x04" + b"".join(b"\x8c\x06%06d\x8c\x02os\x93" % i for i in range(20_000)) + b".",
    "a shape that is huge": b"",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_not_go_off(bomb: str) -> None:
    found = audited(model_pkl=BOMBS[bomb] + EVIL[:0])
    assert found.facts()["artifact.dangerous"] == 0


def test_what_takes_too_long_is_unknown() -> None:
    found = audited(a_pkl=b"\x80\x04N" + b"\x94" * 10_000_000 + b".", b_pkl=EVIL)
    assert found.facts()["artifact.unknown"] == 2
    assert "steps" in repr(found)


def test_what_unpacks_to_too_much_is_unknown() -> None:
    packed = bytearray(zipped(a_pkl=bytes(1000)))
    size = packed.index(b"PK\x01\x02") + 24
    packed[size : size + 4] = (1_000_000_001).to_bytes(4, "little")
    stream = lzma.compress(bytes(250_000_000), preset=0)
    for data in (bytes(packed), stream * 5):
        found = audited(a_joblib=data)
        assert "more than a billion bytes" in found.findings[-1].object
        assert found.facts() == {**CLEAN, "artifact.unknown": float(len(found.findings))}


def test_an_archive_in_an_archive_in_an_archive_ends() -> None:
    data = MODEL
    for _ in range(50):
        data = zipped(a_zip=data)
    found = audited(model_zip=data)
    assert [f.object for f in found.findings] == ["packed more than 4 times"]


def test_names_of_strange_characters_can_be_shown() -> None:
    name = "\ud800\n<script>\x00".encode("utf-8", "surrogatepass")
    data = b"\x80\x04\x8c" + bytes([len(name)]) + name + b"\x8c\x01x\x93."
    found = audit({"a\n<b>\ud800.pkl": data}, untrusted, KNOWN)
    json.loads(found.to_json().encode())
    assert found._repr_html_().encode() and "<script>" not in found._repr_html_()
    assert "\n<" not in repr(found)


def test_the_registry_of_extensions_is_a_name() -> None:
    copyreg.add_extension("os", "system", 77)
    try:
        data = pickle.dumps(os.system, protocol=2) if os.system.__module__ == "os" else b"\x80\x02\x82M."
    finally:
        copyreg.remove_extension("os", "system", 77)
    assert audited(model_pkl=data).facts()["artifact.unknown"] == 1


def test_the_same_files_in_another_order_give_the_same_audit() -> None:
    files = {"b.pkl": EVIL, "a.pkl": MODEL, "c.skops": dumps(MODELS[0])}
    assert audit(files, untrusted, KNOWN) == audit(dict(reversed(files.items())), untrusted, KNOWN)


def test_nothing_is_logged_and_the_logger_is_as_before(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    log = logging.getLogger("picklescan")
    before = log.disabled, log.level, list(log.handlers)
    audited(model_pkl=EVIL, b_pt=EVIL)
    assert (log.disabled, log.level, log.handlers) == before
    assert not caplog.records and capfd.readouterr() == ("", "")


@hypothesis_settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300), st.sampled_from(["pkl", "joblib", "pt", "npy", "skops", "zip", "txt", "gz"]))
def test_any_bytes_make_an_audit(data: bytes, ending: str) -> None:
    audited(**{f"model_{ending}": data})


MAGIC = st.sampled_from(
    [b"\x80\x04", b"\x80\x02", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x1f\x8b\x08", b"x\x9c", b"BZh9", b"]\x00"]
)


@hypothesis_settings(max_examples=300)
@given(MAGIC, st.binary(max_size=200), st.sampled_from(["pkl", "npy", "zip"]))
def test_any_bytes_behind_a_known_beginning_make_an_audit(magic: bytes, data: bytes, ending: str) -> None:
    audited(**{f"model_{ending}": magic + data})


@hypothesis_settings(max_examples=300)
@given(st.data())
def test_any_changed_byte_makes_an_audit(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([EVIL, dumped([np.arange(9), Evil()]), zipped(a_pkl=EVIL), dumps(MODELS[0])]))
    at = data.draw(st.integers(0, len(whole) - 1))
    audited(model_joblib=whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@hypothesis_settings(max_examples=200)
@given(VALUES, st.integers(0, 5))
def test_plain_values_are_data_in_every_protocol(value: Any, protocol: int) -> None:
    names = verdicts(audited(model_pkl=pickle.dumps(value, protocol=protocol)))
    assert set(names) <= {"_codecs.encode", "__builtin__.bytes"} and set(names.values()) <= {"innocuous"}


@hypothesis_settings(max_examples=100)
@given(
    st.sampled_from(["f8", "f4", "i2", "?", "c16", "U3", "S5", "M8[s]", "O", "i4,U2", "i4,O"]),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 5),
    st.sampled_from([0, 3, ("xz", 1)]),
)
def test_a_command_behind_any_array_of_joblib(dtype: str, shape: list[int], protocol: int, compress: Any) -> None:
    array = np.zeros(shape, dtype=dtype)
    found = audited(a_joblib=dumped([array, {"a": array.T}, Evil()], protocol=protocol, compress=compress))
    assert found.facts()["artifact.dangerous"] == 1 and found.facts()["artifact.unknown"] == 1, found


def test_importing_the_room_imports_no_scanner() -> None:
    code = "import sys, deploy_ext.artifact; print({'picklescan', 'skops', 'numpy', 'joblib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_pickle_that_was_sent_as_text_is_data() -> None:
    assert audited(note_txt=base64.b64encode(EVIL)).facts() == CLEAN
