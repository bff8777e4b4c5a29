"""`deploy-ext` as a real process: stdout holds the answer and nothing else, and the exit code says how it went."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple

import joblib
import pytest
from stories import COLUMNS, GATES, flights, good

import deploy_ext
from deploy_ext import cli
from deploy_ext.registry import Registry
from deploy_ext.verbs import COMMANDS

PROGRAM = Path(sys.executable).with_name("deploy-ext")
NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "code", "source": "months = 1", "metadata": {"tags": ["parameters"]}, "outputs": []},
            {"cell_type": "code", "source": "print(months)", "metadata": {}, "outputs": []},
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
)
NOISE = """
import ctypes, os, sys
c = ctypes.CDLL(None)

def noise(event, arguments):
    # when a library is imported, it prints in all the ways in which one can
    if event == "import" and arguments[0] in ("deploy_ext.verbs", "mlflow", "pandas"):
        os.write(1, b"noise of a file descriptor\\n")
        c.printf(b"noise of C, buffered until the process ends\\n")
        print("noise of Python")

sys.addaudithook(noise)
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def say(*words: Any, typed: str = "", out: int | IO[str] = subprocess.PIPE, **environment: str) -> Ran:
    """Run `deploy-ext` with these words."""
    command, told = [PROGRAM, *map(str, words)], os.environ | environment
    ran = subprocess.run(command, input=typed, stdout=out, stderr=subprocess.PIPE, text=True, env=told, timeout=120)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def run(*words: Any) -> Ran:
    """The same in this process, where mlflow is loaded already."""
    out, told = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", told)
        code = cli.run([str(word) for word in words], out)
    return Ran(code, out.getvalue(), told.getvalue())


@pytest.fixture
def files(story: Path) -> Path:
    """A project with files of data and a model."""
    flights().to_parquet(story / "train.parquet")
    flights(1).to_csv(story / "test.csv", index=False)
    flights(1)[COLUMNS].head(3).to_csv(story / "new.csv", index=False)
    joblib.dump(good(), story / "model.joblib")
    (story / "new.gates").write_text(GATES)
    (story / "noise").mkdir()
    (story / "noise" / "sitecustomize.py").write_text(NOISE)
    return story


def test_every_verb_has_stdout_to_itself(files: Path) -> None:
    told: dict[str, Any] = {}

    def ask(verb: str, *words: Any, code: int = 0, typed: str = "") -> Any:
        ran = say(*verb.split(), *words, "--json", typed=typed, PYTHONPATH=str(files / "noise"), PYTHONUNBUFFERED="")
        assert ran.code == code, ran.err
        assert all(f"noise of {source}" in ran.err for source in ("a file descriptor", "C", "Python")), ran.err
        told[verb] = json.loads(ran.out)
        return told[verb]

    ask("doctor")
    made = ask("register", "model.joblib", "--name", "flights", "--data", "train.parquet", "--target", "late")
    assert (made["type"], made["version"], made["format"]) == ("version", 4, 1)
    assert "drift.psi" in [word["metric"] for word in ask("metrics", "drift")["items"]]
    ask("gates", "flights", "--text", "-", typed=GATES)
    assert (files / "flights.gates").read_text() == GATES
    assert ask("validate", "flights/2", "--data", "test.csv", "--target", "late", code=3)["passed"] is False
    (files / "train.py").write_text("trained = sum(range(1000))\n")
    assert ask("fit", "train.py")["seconds"] > 0
    assert ask("cases", "other", "--text", "-", typed="dep_delay,expected\n240,True\n")[0]["expected"] is True
    assert ask("up", "flights")["state"] == "ready"
    assert ask("promote", "flights/3", "--reason", "saves $100 {x}")["aliases"] == ["champion"]
    rows = ask("predict", "flights", "--data", "new.csv")
    assert [set(row) for row in rows] == [{"prediction", "probability_False", "probability_True", "version"}] * 3
    assert ask("rollback", "flights")["version"] == 1
    assert [e["version"] for e in ask("status")["items"]] == [1]
    assert "saves $100 {x}" in [e["reason"] for e in ask("history", "flights", "--verify")["items"]]
    assert ask("report", "flights")["type"] == "card"
    assert ask("explain", "flights", "--row", "new.csv")["contributions"]["method"].startswith("shap")
    assert ask("down", "flights")["name"] == "flights"
    made = ask("key create", "flights", "--role", "admin", "--expires", "30d", "--rate", "100/s")
    assert made["secret"].startswith(f"dx_{made['key']['id']}_")
    assert [key["revoked"] for key in ask("key list")["items"]] == [None]
    assert ask("key revoke", made["key"]["id"])["revoked"]
    rows = ask("journal", "flights", "--since", "1h")
    assert len(rows) == 3 and rows[0]["outcome"] is None and rows[0]["time"].startswith("20")
    assert ask("drift", "flights", "--data", "train.parquet")["columns"][0]["drifted"] is False
    named = rows[0]["prediction_id"]
    assert ask("journal forget", "flights", "--where", f"prediction_id={named}")["rows"] == 1
    (files / "train.ipynb").write_text(NOTEBOOK)
    assert ask("retrain", "train.ipynb", "-p", "months=9")["outcome"] == "done"
    assert ask("init", "ci", "--github", "--model", "flights")["files"] == [".github/workflows/retrain.yml"]
    assert told.keys() == COMMANDS.keys()


def test_text_is_the_record(files: Path) -> None:
    ran = run("history", "flights")
    assert ran == (0, repr(deploy_ext.history("flights")) + "\n", "")
    assert run("gates", "flights", "--text", "new.gates").out == repr(deploy_ext.gates("flights")) + "\n"
    registered = run("register", "model.joblib", "--name", "flights", "--data", "train.parquet", "--target", "late")
    assert registered.out == repr(Registry().version("flights/4")) + "\n"


MISTAKES: list[tuple[int, str, str]] = [
    (2, "regsiter", "unknown verb 'regsiter'. Did you mean 'register'?"),
    (2, "register model.joblib --nmae x", "unknown option '--nmae'. Did you mean '--name'?"),
    (2, "register modle.joblib --name x --data train.parquet", "Did you mean 'model.joblib'?"),
    (2, "register model.joblib --name x --data trian.parquet", "Did you mean 'train.parquet'?"),
    (
        2,
        "register model.joblib --name x --data train.parquet --target lat",
        "no column of the data. Did you mean 'late'",
    ),
    (2, "register model.joblib --name x", "required: --data"),
    (2, "up fligths", "Did you mean 'flights'?"),
    (2, "gates flights --text nothing.gates", "'nothing.gates' cannot be read as text"),
    (2, "rollback flights --to first", "invalid int value: 'first'"),
    (3, "promote flights/2", "GateFailed: flights/2 failed its gates"),
    (4, "validate flights --data new.csv --target carrier", "ContractViolated"),
    (6, "up flights --port {port}", "EndpointFailed: port {port}"),
]


def test_mistakes_are_one_line_and_a_code(files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for code, words, told in MISTAKES:
            ran = run(*words.replace("{port}", port).split(), "--json")
            assert (ran.code, ran.out) == (code, ""), (words, ran)
            assert (
                told.replace("{port}", port) in ran.err
                and ran.err.startswith("deploy-ext: ")
                and ran.err.count("\n") == 1
            ), (words, ran)


def test_a_changed_bundle_is_8(files: Path) -> None:
    deploy_ext.up("flights")
    deploy_ext.down("flights")
    for model in Path(".deploy/artifacts").rglob("contract.json"):
        model.write_text(model.read_text() + " ")
    for model in Path(".deploy/bundles").rglob("contract.json"):
        model.write_text(model.read_text() + " ")
    ran = run("up", "flights")
    assert ran.code == 8 and "contract.json" in ran.err


# help


def test_help_is_on_stdout() -> None:
    overview = say()
    assert overview.code == 0 and not overview.err and all(f"\n  {verb} " in overview.out for verb in COMMANDS)
    assert "--json" in overview.out and "3 gate failed" in overview.out
    assert run("help") == run("--help") == run("-h") == overview
    assert run("help", "register") == run("register", "--help") == run("register", "x", "-h") == run("-h", "register")
    assert run("--version").out == f"deploy-ext {deploy_ext.__version__}\n"
    assert json.loads(run("help", "register", "--json").out).startswith("usage: deploy-ext register")


# the world outside


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    assert say("help", out=write)[::2] == (0, "")
    os.close(write)


def test_a_full_disk_behind_stdout_is_told() -> None:
    with open("/dev/full", "w") as full:
        ran = say("help", out=full)
    assert (ran.code, ran.err) == (1, "deploy-ext: stdout cannot be written: No space left on device\n")


def test_ctrl_c(tmp_path: Path) -> None:
    """It comes the moment that the verb opens its file."""
    hook = "if event == 'open' and str(arguments[0]).endswith('new.gates'): os.kill(os.getpid(), signal.SIGINT)"
    code = f"import os, signal, sys\ndef stop(event, arguments):\n    {hook}\nsys.addaudithook(stop)\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    (tmp_path / "new.gates").write_text(GATES)
    ran = say("gates", "flights", "--text", "new.gates", PYTHONPATH=str(tmp_path))
    assert ran == (130, "", "deploy-ext: stopped\n")
    assert not (tmp_path / "flights.gates").exists()


def test_a_server_that_outlives_it_does_not_hold_the_pipe(story: Path) -> None:
    """`deploy-ext up flights | cat` ends, though the server runs on."""
    ran = subprocess.run(f"{PROGRAM} up flights 2>&1 | cat", shell=True, capture_output=True, text=True, timeout=60)
    assert "flights is ready" in ran.stdout
    assert deploy_ext.status()[0].state == "ready"
