"""Messages about jobs: what stands in them, what never does, and webhooks that are slow, refuse or are not there."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stories import until
from test_retrain import notebook, outputs, retrain, started

import deploy_ext
from deploy_ext import checkup, notify
from deploy_ext.core import DeployError, InvalidRequest, settings
from deploy_ext.notify import Notice, check, faults, named, notice, send
from deploy_ext.order import tickets

pytestmark = pytest.mark.usefixtures("begun")

SECRET = "xoxb-4711-geheim"


@dataclass
class Hook:
    """A webhook on this machine. answer: the status it answers with; 0: it never answers."""

    port: int = 0
    answer: int = 204
    heard: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Its address, with a token in it."""
        return f"json://ada:{SECRET}@127.0.0.1:{self.port}/{SECRET}"

    @property
    def titles(self) -> list[str]:
        """What it has heard."""
        return [message["title"] for message in self.heard]


@contextlib.contextmanager
def hook(answer: int = 204) -> Iterator[Hook]:
    """A webhook while the block lasts."""
    found = Hook(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not found.answer:
                found.left.wait(60)
                return
            found.heard.append(json.loads(body))
            self.send_response(found.answer)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            found.left.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A webhook that jobs are told to notify."""
    with hook() as found:
        monkeypatch.setenv("DEPLOY_EXT_NOTIFY", found.url)
        yield found


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"json://{SECRET}@127.0.0.1:{free.getsockname()[1]}"


FAILED = Notice("failed", "train.ipynb", code=5, model="flights", job="20130701-train")


# what stands in a message

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
PLACES = st.sampled_from(["told", "notes", "parameters", "folder", "executed", "reads", "detail", "address", "outside"])


@given(st.text("abcdefghijkmnopqrstuvwxyz0123456789", min_size=12, max_size=40), PLACES, TEXTS)
def test_no_secret_no_data_and_no_path_is_in_a_message(secret: str, place: str, around: str) -> None:
    hidden = f"{around}{secret}{around}"
    checked = {"metric": "auc", "value": 0.5, "threshold": ">= 0.7", "passed": False, "warn": False, "detail": hidden}
    summary = {
        "outcome": "refused",
        "exit_code": 3,
        "told": hidden,
        "notes": [hidden],
        "parameters": {"password": hidden, hidden: 1},
        "folder": hidden,
        "executed": hidden,
        "secret": hidden,
        "notebook": "train.ipynb",
        "verdict": {"checks": [checked]},
        "cells": 3,
        "ran": 2,
        "seconds": 1.5,
    }
    if place == "address":
        summary["notebook"] = f"https://ada:{secret}@example.com/{secret}/train.ipynb?sig={secret}#{secret}"
    if place == "outside":
        summary["notebook"] = f"/home/{secret}/train.ipynb"
    made = notice(summary, "flights", "done")
    assert secret not in made._title() + made.body() + made.to_json() + repr(made)
    assert made.notebook == "train.ipynb" and "auc is 0.5, wanted >= 0.7" in made.body()


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=20))
@example("a\r\nBcc: eve@example.com", "b\x1b[31m", ["c\u2028d"])
def test_every_value_stays_on_its_line(model: str, book: str, gates: list[str]) -> None:
    made = Notice("refused", book, code=3, model=model, gates=tuple(gates))
    lines = [made._title(), *made.body().split("\n")]
    assert all(line.isprintable() and len(line) < 260 for line in lines)
    assert len(lines) == 1 + len(made._rows())


@pytest.mark.parametrize(
    ("outcome", "code", "before", "title", "level"),
    [
        ("promoted", 0, None, "retrain flights: promoted", "success"),
        ("promoted", 0, "refused", "retrain flights: promoted, recovered", "success"),
        ("done", 0, "timed out", "retrain flights: done, recovered", "success"),
        ("done", 0, "promoted", None, ""),
        ("done", 0, None, None, ""),
        ("skipped", 0, "done", None, ""),
        ("refused", 3, "done", "retrain flights: refused", "warning"),
        ("violated", 4, None, "retrain flights: violated", "failure"),
        ("failed", 5, "failed", "retrain flights: failed", "failure"),
        ("endpoint failed", 6, None, "retrain flights: endpoint failed", "failure"),
        ("timed out", 7, None, "retrain flights: timed out", "failure"),
    ],
)
def test_what_is_news(outcome: str, code: int, before: str | None, title: str | None, level: str) -> None:
    made = Notice(outcome, "train.ipynb", code=code, model="flights", before=before)
    assert (made._title() if made.news else None) == title
    assert not made.news or made.level == level


def test_a_notebook_is_named_as_the_project_sees_it(tmp_path: Path) -> None:
    (tmp_path / "nbs").mkdir()
    told = {"outcome": "failed", "exit_code": 5}
    for path in ("nbs/train.ipynb", str(tmp_path / "nbs" / "train.ipynb"), "nbs/../nbs/train.ipynb"):
        assert notice({**told, "notebook": path}).notebook == "nbs/train.ipynb"
    for path in ("../train.ipynb", "/root/x/train.ipynb", "s3://bucket/train.ipynb", "https://a:b@train.ipynb"):
        assert notice({**told, "notebook": path}).notebook == "train.ipynb"


# addresses


def test_a_bad_address_is_told_by_its_place_alone(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    bad = [f"slak://{SECRET}", SECRET, f"https://example.com/{SECRET}", f"mailto://{SECRET}", "", f"{SECRET}://x"]
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InvalidRequest) as told:
        check(["json://127.0.0.1", *bad])
    assert "address 2 of 7 (slak://...)" in str(told.value) and "address 3 of 7 is" in str(told.value)
    assert "DEPLOY_EXT_NOTIFY" in str(told.value)
    out, err = capfd.readouterr()
    assert len(faults(bad)) == len(bad)
    assert SECRET not in str(told.value) + caplog.text + out + err
    assert not logging.getLogger("apprise").disabled


@given(st.text(max_size=40) | TEXTS.map("json://{}".format) | TEXTS.map("slack://{}".format))
@example("json://[::1")
@example("json://a json://b")
def test_no_text_breaks_the_check(address: str) -> None:
    told = faults([address])
    assert told in ([], [f"{named([address], 0)} is none that apprise can send to"])


@given(
    st.text("abcdefghijkmnopqrstuvwxyz0123456789", min_size=20, max_size=60),
    st.sampled_from(["{}", "a://{}@b", "{}://"]),
)
def test_of_an_address_only_the_scheme_is_shown(secret: str, shape: str) -> None:
    assert secret not in named(["x", shape.format(secret)], 1)


def test_a_setting_that_cannot_be_read_does_not_show_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import traceback

    for variable in (f"['{SECRET}']", f'["json://x", 1, "{SECRET}"]', f'[{{"a": "{SECRET}"}}]', f'["{SECRET}'):
        monkeypatch.setenv("DEPLOY_EXT_NOTIFY", variable)
        with pytest.raises(InvalidRequest, match="setting 'notify'") as told:
            settings()
        assert SECRET not in "".join(traceback.format_exception(told.value)), variable
    monkeypatch.delenv("DEPLOY_EXT_NOTIFY")
    for line in (f"notify = '{SECRET}'", f"notify = ['{SECRET}', 1]", f"notify = ['{SECRET}'", f"notfy = ['{SECRET}']"):
        (tmp_path / "deploy.toml").write_text(line)
        with pytest.raises(InvalidRequest) as told:
            settings()
        assert SECRET not in "".join(traceback.format_exception(told.value)), line
    (tmp_path / "deploy.toml").write_text(f"notify = ['json://{SECRET}']")
    assert settings().notify == (f"json://{SECRET}",) and SECRET not in repr(settings())


# webhooks that are not well


def test_each_address_is_told_and_those_that_fail_are_named(nobody: str, capfd: Any) -> None:
    with hook() as good, hook(500) as broken, hook(301) as moved:
        missed = send(FAILED, [good.url, broken.url, nobody, f"slak://{SECRET}", moved.url])
        assert missed == (
            "notify: address 2 of 5 (json://...): the answer was 500",
            "notify: address 3 of 5 (json://...): no connection, or no answer",
            "notify: address 4 of 5 (slak://...): not delivered",
            "notify: address 5 of 5 (json://...): the answer was 301",
        )
        (message,) = good.heard
    assert (message["title"], message["type"]) == ("retrain flights: failed", "failure")
    assert "outcome: failed, exit code 5\njob: 20130701-train" in message["message"]
    assert capfd.readouterr() == ("", "")


def test_one_that_never_answers_holds_nobody_up() -> None:
    with hook() as good, hook(0) as silent:
        began = time.monotonic()
        missed = send(FAILED, [f"{silent.url}?rto=300", good.url], limit=6.0)
        took = time.monotonic() - began
        assert missed == ("notify: address 1 of 2 (json://...): no answer in 6 seconds",)
        assert good.titles == ["retrain flights: failed"] and took < 30
    assert not [t for t in threading.enumerate() if "notify" in t.name]


def test_the_addresses_are_no_arguments_of_a_process() -> None:
    seen: list[str] = []
    with hook(0) as silent:
        sender = threading.Thread(target=send, args=(FAILED, [f"{silent.url}?rto=300"], 5.0))
        sender.start()
        while sender.is_alive():
            for line in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.append(line.read_bytes().decode(errors="replace"))
            time.sleep(0.2)
    assert any("deliver()" in line for line in seen) and not any(SECRET in line for line in seen)


def test_what_breaks_the_process_that_sends_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apprise.py").write_text("raise SystemExit('not the one')")
    (tmp_path / "json.py").write_text("raise SystemExit('not the one')")
    with hook() as good:  # what lies in the project's folder is not taken for a library
        assert send(FAILED, [good.url]) == () and len(good.heard) == 1
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        assert send(FAILED, [good.url]) == ("notify: address 1 (json://...): not delivered",)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
        assert send(FAILED, [good.url]) == ("notify: address 1 (json://...): it could not be sent (FileNotFoundError)",)


# jobs

GOOD = "print('well')"
BAD = "raise ValueError('passenger 4711 owes 12.50')"


def test_failure_and_recovery_are_told_and_nothing_else(tmp_path: Path, ear: Hook) -> None:
    book = notebook(tmp_path / "train.ipynb", GOOD)
    first = retrain(book)
    assert first.outcome == "done" and ear.heard == []
    assert retrain(book).cached and ear.heard == []
    notebook(tmp_path / "train.ipynb", "import os\nprint('told', repr(os.environ.get('DEPLOY_EXT_NOTIFY')))", BAD)
    failed = retrain(book, "months=4711")
    assert (failed.outcome, failed.exit_code) == ("failed", 5) and ear.titles == ["retrain train.ipynb: failed"]
    assert "told '[]'" in outputs(failed)  # a cell that prints its environment
    body = ear.heard[0]["message"]
    assert f"job: {failed.job}" in body and f"MLflow run: {failed.run}" in body and "exit code 5" in body
    assert "cells: 4 of 4 run" in body  # with the one that gives the parameters their values
    assert "4711" not in json.dumps(ear.heard).replace(failed.job, "").replace(failed.run, "")
    assert str(tmp_path) not in json.dumps(ear.heard)
    notebook(tmp_path / "train.ipynb", GOOD)
    again = retrain(book, "months=4")
    assert (again.outcome, again.notes) == ("done", ())
    assert ear.titles[1:] == ["retrain train.ipynb: done, recovered"] and ear.heard[1]["type"] == "success"
    assert "job before: failed" in ear.heard[1]["message"]
    retrain(book, "months=5")
    assert len(ear.heard) == 2
    for path in [p for p in (tmp_path / ".deploy").rglob("*") if p.is_file()]:
        assert SECRET.encode() not in path.read_bytes(), path


def test_a_job_that_is_taken_up_again_recovers(tmp_path: Path, ear: Hook) -> None:
    notebook(tmp_path / "train.ipynb", GOOD, BAD)
    retrain(str(tmp_path / "train.ipynb"))
    notebook(tmp_path / "train.ipynb", GOOD, GOOD)
    assert deploy_ext.retrain(resume="last").outcome == "done"
    assert ear.titles == ["retrain train.ipynb: failed", "retrain train.ipynb: done, recovered"]


def test_refusal_promotion_and_recovery(story: Path, ear: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    book = notebook(
        story / "train.ipynb",
        "%load_ext deploy_ext\nfrom stories import flights, good\ntrain, unseen = flights(seed), flights(seed + 1)",
        "model = good()",
        "%deploy register model --name flights --data train --target late",
    )
    asked = {"model": "flights", "data": "unseen", "target": "late", "promote": True}
    deploy_ext.gates("flights", "roc_auc >= 0.999\nf1 >= 0.999\nrecall >= 0")
    refused = retrain(book, **asked)
    assert refused.exit_code == 3 and ear.titles == ["retrain flights: refused"]
    body = ear.heard[0]["message"]
    assert f"candidate: {refused.version}" in body and "champion: flights/1" in body
    assert "failed gate 1: roc_auc is 0." in body and "wanted >= 0.999" in body and "failed gate 2: f1" in body
    assert "recall" not in body and ear.heard[0]["type"] == "warning"
    deploy_ext.gates("flights", "roc_auc >= 0.7")
    promoted = retrain(book, **asked)
    assert promoted.exit_code == 0 and ear.titles[1:] == ["retrain flights: promoted, recovered"]
    assert f"champion: {promoted.version}" in ear.heard[1]["message"]


def test_a_sweep_is_one_job_and_tells_once(tmp_path: Path, ear: Hook) -> None:
    book = notebook(tmp_path / "train.ipynb", "assert months > 4", "score = float(months)")
    swept: Any = deploy_ext.retrain(book, ("months=5,6",), grid=True, best="score")
    assert swept.outcome == "done" and ear.heard == []
    failed: Any = deploy_ext.retrain(book, ("months=1,2",), grid=True, best="score")
    assert failed.exit_code == 5 and ear.titles == ["retrain train.ipynb: failed"]
    assert f"job: {failed.job}" in ear.heard[0]["message"]
    assert retrain(book, "months=5", force=True).outcome == "done"
    assert ear.titles[1:] == ["retrain train.ipynb: done, recovered"]


def test_a_message_that_does_not_arrive_changes_nothing(
    tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_EXT_NOTIFY", nobody)
    failed = retrain(notebook(tmp_path / "train.ipynb", BAD))
    assert (failed.outcome, failed.exit_code) == ("failed", 5)
    assert failed.notes[-1] == "notify: address 1 (json://...): no connection, or no answer"
    assert SECRET not in repr(failed) + failed.to_json()


def test_what_could_not_be_told_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = notebook(tmp_path / "train.ipynb", "open('ran', 'w')")
    monkeypatch.setenv("DEPLOY_EXT_NOTIFY", f"json://127.0.0.1, slak://{SECRET}")
    with pytest.raises(InvalidRequest, match=r"address 2 of 2 \(slak://\.\.\.\)"):
        retrain(book)
    monkeypatch.setenv("DEPLOY_EXT_NOTIFY", "json://127.0.0.1")
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'deploy_ext\[notify\]'"):
        retrain(book)
    assert not (tmp_path / "ran").exists() and tickets() == []
    monkeypatch.delenv("DEPLOY_EXT_NOTIFY")
    assert retrain(book).outcome == "done"  # and apprise is not missed by those who do not use it


def test_a_job_without_a_registry_is_a_failure(tmp_path: Path, ear: Hook) -> None:
    (tmp_path / ".deploy" / "mlflow.db").write_text(f"this is no database, {SECRET}" * 100)
    assert retrain(notebook(tmp_path / "train.ipynb", GOOD)).outcome == "failed"
    assert ear.titles == ["retrain train.ipynb: failed"] and SECRET not in json.dumps(ear.heard)


def test_a_job_that_breaks_is_a_failure(tmp_path: Path, ear: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))  # a folder cannot be written to
    with pytest.raises(DeployError):
        retrain(notebook(tmp_path / "train.ipynb", GOOD))
    assert ear.titles == ["retrain train.ipynb: failed"] and "exit code 1" in ear.heard[0]["message"]


def test_sigterm_and_time_outs_are_told(tmp_path: Path, ear: Hook) -> None:
    wait = "import time\nopen('here', 'w').close()\nwhile True:\n    print(1, flush=True)\n    time.sleep(0.001)"
    book = notebook(tmp_path / "train.ipynb", GOOD, wait)
    assert retrain(book, timeout="5s").exit_code == 7 and ear.titles == ["retrain train.ipynb: timed out"]
    (tmp_path / "here").unlink(missing_ok=True)
    job = started(tmp_path, "train.ipynb", "--json")
    until((tmp_path / "here").exists)  # now what it prints is being heard, and a signal comes in the middle of that
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 7, err
    assert ear.titles[1:] == ["retrain train.ipynb: timed out"] and json.loads(out)["job"] in ear.heard[1]["message"]
    assert SECRET not in out + err


# the doctor


def test_the_doctor_looks_and_sends_only_when_asked(tmp_path: Path, ear: Hook, nobody: str, monkeypatch: Any) -> None:
    (found,) = checkup.notification()
    assert (found.state, found.detail) == ("ok", "address 1 (json://...)") and ear.heard == []
    told = deploy_ext.doctor(notify=True)
    assert ear.titles == ["doctor this is a test: nothing happened"]
    assert "1 of 1 took a test message" in repr(told) and SECRET not in repr(told)
    monkeypatch.setenv("DEPLOY_EXT_NOTIFY", f"{ear.url} {nobody}")
    assert [f.state for f in checkup.delivery()] == ["broken", "ok"]
    monkeypatch.setenv("DEPLOY_EXT_NOTIFY", "[]")
    assert list(checkup.notification()) == []
    with pytest.raises(InvalidRequest, match="notify names nobody"):
        deploy_ext.doctor(notify=True)


def test_the_doctor_says_when_tokens_are_in_git(tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text(f"notify = ['json://{SECRET}']\n")
    assert [f.state for f in checkup.notification()] == ["ok"]
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    assert [f.state for f in checkup.notification()] == ["ok"]
    subprocess.run(["git", "add", "deploy.toml"], cwd=tmp_path, check=True)
    found = list(checkup.notification())
    assert [f.state for f in found] == ["optional", "ok"] and "DEPLOY_EXT_NOTIFY" in found[0].detail
    assert SECRET not in repr(found)


def test_the_doctor_without_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_NOTIFY", "json://127.0.0.1")
    monkeypatch.setitem(sys.modules, "apprise", None)
    (found,) = checkup.notification()
    assert (found.state, "deploy_ext[notify]" in found.mend) == ("missing", True)


def test_apprise_is_not_imported_by_who_does_not_use_it() -> None:
    code = "import sys, deploy_ext.verbs, deploy_ext.notify; sys.exit('apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert notify.LIMIT <= 15  # Kubernetes gives 30 seconds between SIGTERM and SIGKILL


def test_data_that_could_not_be_fetched_is_told_of(tmp_path: Path, ear: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    (tmp_path / ".dvc").mkdir()  # no repository that DVC takes for one
    job = retrain(notebook(tmp_path / "train.ipynb", "x = 1"), dvc_pull=True)
    assert job.outcome == "failed" and "dvc pull failed" in job.told
    assert ear.titles == ["retrain train.ipynb: failed"] and "exit code 5" in ear.heard[0]["message"], ear.heard
