"""What makes two runs the same: their key, and the environment in it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deploy_ext.cache import digest_of, environment

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(VALUES, VALUES)
def test_the_key_is_the_same_for_the_same_only(one: Any, other: Any) -> None:
    def key(value: Any) -> str:
        return digest_of(["x = 1"], {"x": value}, {})

    assert key(one) == key(one)
    assert (key(one) == key(other)) == (canonical_repr(one) == canonical_repr(other))


def canonical_repr(value: Any) -> str:
    if isinstance(value, dict):
        return "dict" + repr(sorted((k, canonical_repr(v)) for k, v in value.items()))
    return repr([canonical_repr(v) for v in value]) if isinstance(value, list) else repr(value)


def test_what_makes_the_key(tmp_path: Path) -> None:
    gates, other = tmp_path / "a.gates", tmp_path / "b.gates"
    gates.write_text("roc_auc >= 0.7")
    other.write_text("roc_auc >= 0.7")

    def key(cells: tuple[str, ...] = ("a", "b"), secrets: tuple[str, ...] = (), **files: Path | None) -> str:
        return digest_of(cells, {"n": 1, "token": "abc"}, environment(), secrets, files)

    assert key(gates=gates) == key(gates=other) != key() != key(gates=None)
    assert key(("a", "", "b ")) == key() != key(("b", "a"))
    assert key(secrets=("token",)) != key()
    other.write_text("roc_auc >= 0.8")
    assert key(gates=gates) != key(gates=other)
    assert digest_of(["'\udcff'"], {}, {}) != digest_of(["''"], {}, {})


def test_the_environment(tmp_path: Path) -> None:
    def installed(name: str, origin: dict[str, Any] | None = None, record: str = "") -> None:
        place = tmp_path / f"{name}.dist-info"
        place.mkdir(exist_ok=True)
        (place / "RECORD").write_text(record)
        if origin:
            (place / "direct_url.json").write_text(json.dumps(origin))

    installed("plain_One-1.0")
    installed("vcs-2.0", {"url": "x", "vcs_info": {"vcs": "git", "commit_id": "abc"}})
    installed("edit-3.0", {"url": "x", "dir_info": {"editable": True}})
    installed("local-4.0", {"url": "x", "dir_info": {}}, "one")
    script = "from deploy_ext.cache import environment; import json; print(json.dumps(environment()))"

    def look() -> dict[str, str]:
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))),
        }
        done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    first = look()
    assert (first["plain-one"], first["vcs"], first["edit"]) == ("1.0", "2.0 abc", "3.0 editable")
    installed("local-4.0", record="two")
    second = look()
    assert [name for name in first if first[name] != second.get(name)] == ["local"]


def test_the_environment_is_what_python_says() -> None:
    told = environment()
    for distribution in importlib.metadata.distributions():
        name = distribution.name.replace("_", "-").replace(".", "-").lower()
        if name in told:
            assert told[name].split()[0] == importlib.metadata.version(distribution.name)
    assert {"numpy", "pandas", "mlflow"} <= set(told)
