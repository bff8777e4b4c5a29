"""A jury of its own process: judges that hang, crash and fail, the document, cases, persons, a second run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import psutil
import pytest
from stories import COLUMNS, children, flights, good, until

import deploy_ext
from deploy_ext import dossier, verbs
from deploy_ext.core import InvalidRequest
from deploy_ext.gates import FACTS, parse
from deploy_ext.jury import JUDGES, aim
from deploy_ext.records import Verdict
from deploy_ext.registry import Registry

HOSTILE = """
import os, signal, subprocess

class Hostile:
    def __init__(self, what, model):
        self.what, self.model = what, model

    def predict(self, frame):
        print("noise on standard output")
        if abs(frame["dep_delay"]).max() > 10_000:  # an answer that only a mistake in units asks for
            hang, die = lambda: subprocess.run(["sleep", "613"]), lambda: os.kill(os.getpid(), signal.SIGKILL)
            {"hang": hang, "die": die}[self.what]()
        return self.model.predict(frame)
"""


def full(rows: pd.DataFrame, **told: Any) -> dossier.Dossier:
    """The document of a full validation."""
    found = deploy_ext.validate("flights", rows, "late", full=True, **told)
    assert isinstance(found, dossier.Dossier)
    return found


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A function that registers a model which behaves until it is asked about a delay of 10,000 minutes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hostile_of_a_test.py").write_text(HOSTILE)

    def register(what: str) -> None:
        import hostile_of_a_test  # type: ignore[import-not-found]

        model = hostile_of_a_test.Hostile(what, good())
        deploy_ext.register(model, "flights", flights()[COLUMNS], flights().late)

    yield register
    sys.modules.pop("hostile_of_a_test", None)


@pytest.mark.parametrize(
    ("what", "told"),
    [("hang", "TimedOut"), ("die", "was killed")],
)
def test_a_judge_without_a_finding_is_a_failed_check_and_the_others_are_heard(hostile, what, told) -> None:
    hostile(what)
    deploy_ext.gates("flights", "balanced_accuracy >= 0.5\nflip_rate.units <= 1 warn")
    found = full(flights(1), budget=40 if what == "hang" else 120)
    assert told in found["robustness"].error
    assert not found.passed and not found.verdict.passed
    (failed,) = [c for c in found.verdict.checks if c.metric == "robustness"]
    assert failed.result == "fail" and told in failed.detail
    (unit,) = [c for c in found.verdict.checks if c.metric == "flip_rate.units"]
    assert unit.result == "warn" and told in unit.detail
    assert {s.name for s in found.sections} == set(JUDGES)
    for name in ("scores", "data", "drift"):
        assert not found[name].error, found[name].error
    assert Registry().latest("flights").verdict == found.verdict
    assert [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "613"]] == []


def test_a_jury_ends_with_whoever_asked_for_it(hostile, tmp_path) -> None:
    hostile("hang")
    code = """if True:
        import sys; sys.path.insert(0, {here!r})
        from stories import flights
        import deploy_ext
        deploy_ext.validate("flights", flights(1), "late", full=True, budget=600)
        """
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-c", code.format(here=str(Path(__file__).parent))]
    parent = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(temporary)})
    try:
        seats = until(lambda: children(parent.pid, "deploy_ext.jury"))
        parent.kill()
        parent.wait()
        assert psutil.wait_procs(seats, timeout=30)[1] == []
        assert list(temporary.iterdir()) == []  # the rows may be about persons
    finally:
        parent.kill()


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Two full validations of one good model on the same rows, and the project."""
    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        prices = "cost[True, False] = 30\ncost[False, True] = 5\ncost.per_1000 <= 5000\n"
        deploy_ext.gates("flights", prices + "selection_rate_ratio[city] >= 0.5\nsimple.roc_auc >= -0.1\n")
        deploy_ext.cases(
            "flights", "dep_delay, hour, carrier, expected\n240,12,AA,True\n-20,12,AA,False\n-30,6,UA,True"
        )
        deploy_ext.register(good(), "flights", flights()[COLUMNS], flights().late)
        unseen = flights(1, 1_000)
        unseen["city"] = np.random.default_rng(0).choice(["x", "y"], len(unseen))
        runs = [full(unseen, sensitive="city", out=folder / f"out{i}") for i in (1, 2)]
        yield runs, folder


def test_every_judge_found_something(judged) -> None:
    (first, _), _ = judged
    assert [s.name for s in first.sections] == list(JUDGES)
    assert {s.name: s.error for s in first.sections if s.error} == {}
    drawn = {s.name for s in first.sections if s.plots}
    assert drawn >= {"scores", "drift", "fairness", "explain", "robustness"}
    shown = {name for s in first.sections for name in s.facts}
    assert {
        n for n in shown if n.partition("[")[0] not in FACTS and "_ratio[" not in n and "_difference[" not in n
    } == set()


def test_a_second_run_gives_the_same_numbers(judged) -> None:
    (first, second), _ = judged
    measured = ("size_mb", "load_ms", "memory_mb", "latency_ms")  # by a clock
    for one, two in zip(first.sections, second.sections, strict=True):
        assert one.facts == two.facts and one.rows == two.rows and one.plots == two.plots, one.name
    assert [(c.metric, c.value) for c in first.verdict.checks if not c.metric.startswith(measured)] == [
        (c.metric, c.value) for c in second.verdict.checks if not c.metric.startswith(measured)
    ]


def test_a_case_that_does_not_hold_fails_the_verdict_though_no_gate_asks(judged) -> None:
    (first, _), _ = judged
    (check,) = [c for c in first.verdict.checks if c.metric == "cases.failed"]
    assert check.result == "fail" and check.value == 1
    assert [row["row"] for row in first["cases"].rows] == [2]


def test_groups_that_the_model_does_not_know_are_compared(judged) -> None:
    (first, _), _ = judged
    (check,) = [c for c in first.verdict.checks if c.metric == "selection_rate_ratio[city]"]
    assert check.result == "pass" and check.low is not None and check.value == pytest.approx(1, abs=0.25)
    assert {row["group"] for row in first["fairness"].rows} == {"x", "y"}
    assert "selection_rate_ratio[city] >= 0.5" in first["thresholds"].title  # as the gate asks; or why none are needed


def test_the_document_is_in_the_folder_and_beside_the_version(judged) -> None:
    (first, _), folder = judged
    out = folder / "out1"
    assert dossier.read((out / "verdict.json").read_text()) == first
    assert "FAILED" in (out / "verdict.html").read_text()
    cases = ElementTree.fromstring((out / "junit.xml").read_text()).iter("testcase")
    assert len(list(cases)) >= len(first.verdict.checks)
    stored = list((folder / ".deploy").rglob(f"verdicts/{first.verdict.digest[:16]}/verdict.html"))
    assert len(stored) == 1


def test_money_is_in_the_document(judged) -> None:
    (first, _), _ = judged
    assert [row["metric"] for row in first["cost"].rows] == ["cost.per_1000", "cost.threshold", "cost.at_threshold"]


def test_on_the_command_line(judged) -> None:
    _, folder = judged
    flights(2, 300).assign(city="x").to_parquet(folder / "unseen.parquet")
    (folder / "queue.py").write_text("raise ImportError('not the module of this name that Python has')")
    words = "validate flights --data unseen.parquet --full --target late --sensitive carrier,city --json --out ci"
    said = subprocess.run(
        [sys.executable, "-P", "-c", "import sys; from deploy_ext.cli import main; sys.exit(main())", *words.split()],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert said.returncode == 3, said.stderr  # a case does not hold
    told = json.loads(said.stdout)
    assert told["type"] == "dossier" and told["passed"] is False
    assert (folder / "ci" / "junit.xml").is_file()


def test_thresholds_aim_at_what_the_gates_ask() -> None:
    assert aim(parse("roc_auc >= 0.5\nequalized_odds_difference[city] <= 0.1\nselection_rate_ratio[city] >= 0.9")) == (
        "equalized_odds_difference",
        0.1,
    )
    assert aim(parse("roc_auc >= 0.5")) == ("selection_rate_ratio", 0.8)


def test_mistakes_in_what_is_named(judged) -> None:
    _, folder = judged
    with pytest.raises(InvalidRequest, match="Did you mean 'carrier'"):
        deploy_ext.validate("flights", flights(1), "late", sensitive=("carier",))
    with pytest.raises(InvalidRequest, match="3 rows"):
        deploy_ext.validate("flights", flights(1), "late", sensitive=pd.DataFrame({"city": list("abc")}))
    with pytest.raises(InvalidRequest, match="no file of cases"):
        deploy_ext.validate("flights", flights(1), "late", cases=folder / "none.csv")
    with pytest.raises(InvalidRequest, match="no time for the judges"):
        deploy_ext.validate("flights", flights(1), "late", full=True, budget=float("nan"))
    with pytest.raises(InvalidRequest, match="no folder that you may write to"):
        deploy_ext.validate("flights", flights(1), "late", out=folder / "flights.gates")


def test_the_document_of_a_verdict_that_could_not_be_stored_is_not_shown(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), verbs._written(tmp_path, {"verdict.html": "PASSED"}):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with verbs._written(tmp_path, {"verdict.html": "PASSED"}):
        assert list(tmp_path.glob("verdict.*")) == []
    assert (tmp_path / "verdict.html").read_text() == "PASSED"
    assert len(list(tmp_path.iterdir())) == 1


def test_rows_that_were_learnt_are_recognized(judged) -> None:
    (first, _), folder = judged
    assert first["data"].facts["data.shared"] == 0
    (folder / "seen.gates").write_text(
        "data.seen == 1\ndata.faults == 0\ndata.poison == 0\nconformal.coverage >= 0.8\n"
    )
    known = flights(0).assign(city="x")
    verdict = deploy_ext.validate("flights", known, "late", sensitive="city", gates=folder / "seen.gates")
    assert isinstance(verdict, Verdict)
    assert [check.result for check in verdict.checks[:4]] == ["pass"] * 4


def test_memory_is_that_of_the_fresh_process_and_not_of_the_one_that_asks(judged) -> None:
    ballast = np.ones(100_000_000)  # 800 MB
    _, folder = judged
    (folder / "memory.gates").write_text("memory_mb <= 500\nmemory_mb > 10\nload_ms > 0\n")
    known = flights(0).assign(city="x")
    verdict = deploy_ext.validate("flights", known, "late", sensitive="city", gates=folder / "memory.gates")
    assert [check.result for check in verdict.checks[:3]] == ["pass"] * 3, verdict
    assert ballast.sum() > 0
