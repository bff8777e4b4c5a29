"""The verdict as JUnit XML: counts, names that servers keep apart, and text that XML allows."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

from dossiers import ANY_CHECK, FULL, SECTIONS, WILD, hostile, verdict
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_ext.dossier import Dossier, Section
from deploy_ext.junit import junit
from deploy_ext.records import Check


def suites(told: Dossier) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(junit(told).encode())
    assert root.tag == "testsuites"
    return {suite.get("name", "").rpartition(".")[2]: suite for suite in root}


def test_junit_of_all_results() -> None:
    found = suites(FULL)
    gates = {case.get("name"): case for case in found["gates"].iter("testcase")}
    assert list(gates) == [
        "roc_auc >= 0.8 at 95%",
        "drift.psi[income] <= 0.25 warn",
        "selection_rate_ratio[race] >= 0.8",
        "f1 >= champion - 0.01",
    ]
    assert [[c.tag for c in case] for case in gates.values()] == [
        ["system-out"],
        ["system-out"],
        ["failure"],
        ["skipped"],
    ]
    failure = gates["selection_rate_ratio[race] >= 0.8"].find("failure")
    told = "selection_rate_ratio[race] is 0.71 (0.66 .. 0.75), asked for is >= 0.8"
    assert failure is not None and failure.get("message") == told and failure.text == f"{told}\nleast: black"
    assert (gates["drift.psi[income] <= 0.25 warn"].findtext("system-out") or "").startswith("warning: ")
    judges = {case.get("name"): case for case in found["judges"].iter("testcase")}
    assert list(judges) == [s.name for s in SECTIONS] and judges["fairness"].get("time") == "1.250"
    assert judges["adversarial"].findtext("error") == "timed out after 20 s"
    assert found["judges"].get("time") == "21.250" and found["judges"].get("timestamp") == "2026-11-21T14:03:00"
    properties = {p.get("name"): p.get("value") for p in found["gates"].iter("property")}
    assert properties["model"] == "flights" and properties["version"] == "3" and properties["bundle"] == "3" * 64
    assert {case.get("classname") for case in found["gates"].iter("testcase")} == {"flights/3.gates"}


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY_CHECK, max_size=8), st.lists(st.tuples(WILD, WILD, WILD), max_size=6), WILD)
def test_junit_counts_what_is_there(checks: list[Check], judges: list[tuple[str, str, str]], name: str) -> None:
    parts = tuple(Section(n, title, error=error) for n, title, error in judges)
    text = junit(Dossier(verdict(*checks, *checks[:2], name=name), parts))
    root = ElementTree.fromstring(text.encode())
    counted = {"failures": "failure", "errors": "error", "skipped": "skipped", "tests": "testcase"}
    for element in (root, *root):
        for attribute, tag in counted.items():
            assert int(element.get(attribute, "")) == len(list(element.iter(tag)))
    for suite in root:
        names = [case.get("name") for case in suite.iter("testcase")]
        assert len(set(names)) == len(names) and all(names)
        assert all(len(case) == 1 for case in suite.iter("testcase"))
    results = [c.result for c in (*checks, *checks[:2])]
    assert int(root.get("failures", "")) == results.count("fail")
    assert int(root.get("skipped", "")) == results.count("skip")
    assert int(root.get("errors", "")) == sum(bool(p.error) for p in parts)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", text)


def test_junit_without_anything() -> None:
    found = suites(Dossier(verdict()))
    assert [suite.get("tests") for suite in found.values()] == ["0", "0"]


def test_names_that_occur_again_are_numbered() -> None:
    check = Check("f1", 1.0, ">= 0", True)
    found = suites(Dossier(verdict(check, check, replace(check, threshold=">= 0 (2)"), check)))["gates"]
    assert [c.get("name") for c in found.iter("testcase")] == ["f1 >= 0", "f1 >= 0 (3)", "f1 >= 0 (2)", "f1 >= 0 (4)"]


def test_hostile_names_are_legal_xml() -> None:
    ElementTree.fromstring(junit(hostile()).encode())
