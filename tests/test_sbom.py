"""The bill of materials: valid under the official schema, the same bytes for the same parts, no stranger named."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from packageurl import PackageURL

from deploy_ext.core import InvalidRequest
from deploy_ext.sbom import sbom

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
INSTALLED = {str(d.name): d.version for d in importlib.metadata.distributions()}


def test_everything_that_is_installed_here_makes_a_valid_bill() -> None:
    bill = sbom("flights", INSTALLED)
    assert VALIDATOR.validate_str(bill) is None
    parts = {part["name"]: part for part in json.loads(bill)["components"]}
    assert set(parts) == {*INSTALLED, "python"}
    assert parts["numpy"]["purl"] == f"pkg:pypi/numpy@{INSTALLED['numpy']}"
    assert "purl" not in parts["deploy_ext"]  # installed from this folder
    told = [name for name, part in parts.items() if "licenses" in part]
    assert len(told) > 0.9 * len(parts)
    names = [one.get("expression") or one["license"].get("name", "") for p in told for one in parts[p]["licenses"]]
    assert not [name for name in names if "\n" in name or len(name) > 200 or "copyright" in name.lower()]


def test_the_root_is_the_model_and_depends_on_every_part() -> None:
    bill = json.loads(sbom("flights", {"numpy": "2.0", "pandas": "2.3"}, "3.12.1"))
    root = bill["metadata"]["component"]
    assert (root["type"], root["name"]) == ("machine-learning-model", "flights")
    needed = next(d["dependsOn"] for d in bill["dependencies"] if d["ref"] == root["bom-ref"])
    assert sorted(needed) == sorted(part["bom-ref"] for part in bill["components"]) and len(needed) == 3
    python = next(part for part in bill["components"] if part["name"] == "python")
    assert (python["type"], python["version"]) == ("platform", "3.12.1")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")


TWICE = """
import json, sys, warnings
warnings.simplefilter("error")
from deploy_ext.sbom import sbom
sys.stdout.write(sbom("flights", json.loads(sys.argv[1]), "3.11.7"))
"""


def test_another_process_with_another_order_gives_the_same_bytes() -> None:
    parts = {name: INSTALLED[name] for name in sorted(INSTALLED)[:60]}

    def bill(parts: dict[str, str], seed: str) -> bytes:
        command = [sys.executable, "-c", TWICE, json.dumps(parts)]
        environment = {"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, capture_output=True, check=True, env=environment).stdout

    first, second = bill(parts, "1"), bill(dict(reversed(parts.items())), "2")
    assert first == second == sbom("flights", parts, "3.11.7").encode()


def test_the_serial_number_is_that_of_the_content() -> None:
    def serial(*arguments: object) -> str:
        return json.loads(sbom(*arguments))["serialNumber"]  # type: ignore[arg-type]

    every = [
        serial("flights", {"numpy": "2.0"}, "3.11.7"),
        serial("flights", {"numpy": "2.1"}, "3.11.7"),
        serial("fraud", {"numpy": "2.0"}, "3.11.7"),
        serial("flights", {"numpy": "2.0"}, "3.11.8"),
        serial("flights", {}, "3.11.7"),
    ]
    assert len(set(every)) == 5
    assert all(one.startswith("urn:uuid:") and one[23] == "5" for one in every)


def install(folder: Path, name: str, version: str, origin: str | None = None, metadata: str = "") -> None:
    """A distribution in `folder`, as an installer leaves it."""
    home = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    home.mkdir()
    (home / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{metadata}\n")
    if origin is not None:
        (home / "direct_url.json").write_text(origin)


def part_of(name: str, version: str) -> dict:
    bill = sbom("flights", {name: version})
    assert VALIDATOR.validate_str(bill) is None
    return next(part for part in json.loads(bill)["components"] if part["name"] == name)


@pytest.mark.parametrize(
    ("origin", "purl"),
    [
        (None, "pkg:pypi/odd-one@1.0%2Bcu118"),
        ('{"url": "file:///home/ann/odd", "dir_info": {"editable": true}}', None),
        ('{"url": "file:///home/ann/odd.whl", "archive_info": {}}', None),
        ('{"url": "https://e.org/odd.whl", "archive_info": {}}', "https://e.org/odd.whl"),
        ('{"url": "https://e.org/odd", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}}', "git+https://e.org/odd@0a1b"),
        ("{", None),
        ("[]", None),
        ('{"url": "https://e.org/odd", "vcs_info": {}}', None),
    ],
)
def test_a_package_url_only_for_what_came_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None, purl: str | None
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "Odd_One", "1.0+cu118", origin)
    part = part_of("Odd_One", "1.0+cu118")
    if purl is None:
        assert "purl" not in part and part["properties"][0]["value"] == "not from PyPI"
        assert "ann" not in json.dumps(part)  # no folder of a person in what is published
        return
    found = PackageURL.from_string(part["purl"])
    assert (found.type, found.name, found.version) == ("pypi", "odd-one", "1.0+cu118")
    assert purl in (part["purl"], *found.qualifiers.values())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("metadata", "licenses"),
    [
        ("License-Expression: MIT", [{"license": {"id": "MIT"}}]),
        ("License-Expression: MIT OR Apache-2.0", [{"expression": "MIT OR Apache-2.0"}]),
        ("License-Expression: no such (thing", [{"license": {"name": "no such (thing"}}]),
        ("License: Apache-2.0", [{"license": {"id": "Apache-2.0"}}]),
        ("License: BSD 3-Clause", [{"license": {"name": "BSD 3-Clause"}}]),
        ("License: UNKNOWN", None),
        ("License: " + "x" * 81, None),
        ("License: =====", None),
        (
            "License: Copyright (c) 2015 A\nClassifier: License :: OSI Approved :: MIT License",
            [{"license": {"name": "MIT License"}}],
        ),
        (
            "Classifier: License :: OSI Approved :: MIT License\nClassifier: License :: Public Domain",
            [{"license": {"name": "MIT License"}}, {"license": {"name": "Public Domain"}}],
        ),
        ("", None),
    ],
)
def test_licenses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: str, licenses: list[dict] | None) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "odd", "1.0", metadata=metadata)
    told = part_of("odd", "1.0").get("licenses")
    for one in told or ():
        one.get("license", one).pop("acknowledgement", None)
    assert told == licenses


def test_a_source_tree_on_the_path_is_not_from_pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    home = tmp_path / "odd.egg-info"
    home.mkdir()
    (home / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (home / "SOURCES.txt").write_text("setup.py\n")
    assert "purl" not in part_of("odd", "1.0")


def test_another_version_than_the_installed_one_has_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "odd", "1.0", '{"url": "file:///x"}', "License-Expression: MIT")
    part = part_of("odd", "2.0")
    assert "licenses" not in part and part["purl"] == "pkg:pypi/odd@2.0"


def test_broken_metadata_is_no_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd-1.0.dist-info").mkdir()
    assert part_of("odd", "1.0")["purl"] == "pkg:pypi/odd@1.0"
    (tmp_path / "odd-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00Name: odd")
    assert part_of("odd", "1.0")["purl"] == "pkg:pypi/odd@1.0"


@hypothesis_settings(max_examples=60)
@given(
    st.text(min_size=1).filter(lambda s: s.strip()),
    st.dictionaries(st.text(), st.one_of(st.none(), st.text()), max_size=5),
    st.text(),
)
def test_any_names_and_versions_make_a_valid_bill(name: str, parts: dict, python: str) -> None:
    bill = sbom(name, parts, python)
    bill.encode()
    assert VALIDATOR.validate_str(bill) is None
    assert bill == sbom(name, dict(reversed(parts.items())), python)


@pytest.mark.parametrize("name", ["", " \n"])
def test_a_model_has_a_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match="needs the name"):
        sbom(name, {})


def test_importing_the_room_does_not_import_the_library() -> None:
    code = "import sys, deploy_ext.sbom; print('cyclonedx' in sys.modules, 'packageurl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
