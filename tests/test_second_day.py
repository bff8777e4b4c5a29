"""What happens to a project that is in use: killed processes, full disks, other columns, files instead of variables."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import psutil
import pytest
from sklearn.linear_model import LogisticRegression
from stories import (
    COLUMNS,
    children,
    clone,
    flights,
    gone,
    good,
    nothing_made,
    pipeline,
    processes,
    said,
    script,
    state,
    until,
)

import deploy_ext
from deploy_ext import cli
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.registry import Registry

FRAME: Any = flights()
UNSEEN: Any = flights(1)


# a candidate that knows other columns


def with_more(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(seats=100 + frame.hour)


def test_a_candidate_with_a_column_more(story: Path) -> None:
    data = with_more(FRAME)
    features = data[[*COLUMNS, "seats"]]
    deploy_ext.register(pipeline().fit(features, data.late), "flights", features, data.late)
    with pytest.raises(ContractViolated, match="seats: is not there"):
        deploy_ext.validate("flights/4", UNSEEN, "late")
    verdict = deploy_ext.validate("flights/4", with_more(UNSEEN), "late")
    assert verdict.passed and "champion" in verdict.checks[1].detail
    assert deploy_ext.promote("flights/4", reason="knows the seats").version == 4
    with pytest.raises(ContractViolated, match=r"the champion flights/4 cannot be compared .*seats: is not there"):
        deploy_ext.validate("flights/3", UNSEEN, "late")
    assert deploy_ext.validate("flights/3", with_more(UNSEEN), "late").passed
    with pytest.raises(ContractViolated, match="weather: is no column of the model"):
        deploy_ext.validate("flights/3", with_more(UNSEEN).assign(weather=1), "late")


# interrupted


REGISTER = """
import deploy_ext
from stories import *
print(deploy_ext.register(good(), "flights", flights(), "late").version)
"""


def reloading(process: subprocess.Popen[str]) -> psutil.Process | None:
    """The clean process that checks the bundle of a registration, once it runs."""
    assert process.poll() is None, process.communicate()
    return next(iter(children(process.pid, "deploy_ext.serve.runtime")), None)


def test_a_killed_registration_leaves_no_version(story: Path) -> None:
    before, process = state(), script(REGISTER)
    clean = until(lambda: reloading(process))
    process.kill()
    process.communicate()
    psutil.wait_procs([clean], timeout=60)
    after = state()
    (left,) = after.pop("temporary")
    assert before.pop("temporary") == [] and after == before
    shutil.rmtree(Path(os.environ["TMPDIR"]) / left)
    assert str(deploy_ext.register(good(), "flights", FRAME, "late")) == "flights/4"
    assert Registry().verify("flights") == []


def test_ctrl_c_takes_everything_back(story: Path) -> None:
    joblib.dump(good(), story / "model.joblib")
    FRAME.to_parquet(story / "train.parquet")
    words = ["register", "model.joblib", "--name", "flights", "--data", "train.parquet", "--target", "late"]
    program = "import sys; from deploy_ext.cli import main; sys.exit(main())"
    with nothing_made("flights"):
        process = script(program, *words)
        clean = until(lambda: reloading(process))
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=60)
        assert process.returncode == 130 and out == "" and "stopped" in told and "Traceback" not in told
        until(lambda: gone(clean))


# full and read-only disks, in a mount namespace of the child's own: nothing stays mounted, whatever happens


def mounting(*commands: str) -> tuple[str, ...]:
    """What to put before a command so that it sees what the shell `commands` mount. In them $0 is the test's folder."""
    unshare = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        told = "no mount namespace can be made here: sysctl kernel.apparmor_restrict_unprivileged_userns=0 allows it"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    return (*unshare, "sh", "-ec", "; ".join([*commands, 'exec "$@"']), os.environ["DEPLOY_EXT_PROJECT"])


DISK = """
import json, os, sys, tempfile
from pathlib import Path
from stories import *
from deploy_ext.core import DeployError

def attempt(verb):
    try:
        return str(verb())
    except DeployError as e:
        return f"{type(e).__name__}: {e}"

def tried(**verbs):
    return {name: attempt(verb) for name, verb in verbs.items()}
"""
FULL = (
    DISK
    + """
small = Path(os.environ["SMALL"])
clone(Path(os.environ["DEPLOY_EXT_PROJECT"]), small)
os.environ["DEPLOY_EXT_PROJECT"] = str(small)
os.chdir(small)
before, told = state(), {}

def full(leave, **verbs):
    filler = small / "filler"
    with filler.open("wb", 0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            file.truncate(max(0, filler.stat().st_size // 4096 * 4096 - leave))
    told[leave] = tried(**verbs)
    filler.unlink()
    assert state() == before, told

model, data = good(), flights()
shutil.rmtree(home() / "bundles" / "flights" / "3")
full(
    0,
    register=lambda: deploy_ext.register(model, "flights", data, "late"),
    validate=lambda: deploy_ext.validate("flights/1", data, "late"),
    promote=lambda: deploy_ext.promote("flights/2", reason="x", force=True),
    fetch=lambda: deploy_ext.up("flights/3"),
    up=lambda: deploy_ext.up("flights"),
    gates=lambda: deploy_ext.gates("flights", "roc_auc >= 0.9"),
    history=lambda: deploy_ext.history("flights").title,
    status=lambda: deploy_ext.status().title,
)
assert (small / "flights.gates").read_text() == GATES
full(40960, register=lambda: deploy_ext.register(model, "flights", data, "late"))
os.environ["TMPDIR"] = tempfile.tempdir = str(small / "tmp")
full(4096, register=lambda: deploy_ext.register(model, "flights", data, "late"))
told["after"] = tried(
    fetch=lambda: Registry().download(Registry().version("flights/3")).name,
    history=lambda: deploy_ext.history("flights", verify=True).notes,
)
print(json.dumps(told))
"""
)


def test_a_full_disk(story: Path) -> None:
    (story / "small").mkdir()
    before = mounting('mount -t tmpfs -o size=24m tmpfs "$0/small"')
    told = json.loads(said(FULL, before=before, SMALL=str(story / "small")).splitlines()[-1])
    for leave, verb in [(0, v) for v in ("register", "validate", "promote", "fetch", "up", "gates")]:
        sentence = told[str(leave)][verb]
        assert "Error" in sentence.split(":")[0] or "Failed" in sentence.split(":")[0], sentence
        assert "disk" in sentence.lower() or "space" in sentence.lower(), sentence
        assert "\n" not in sentence, sentence
    assert told["0"]["history"] == "flights: 7 events" and told["0"]["status"].startswith("nothing runs here")
    for leave in ("40960", "4096"):
        assert "space" in told[leave]["register"] or "disk" in told[leave]["register"], told[leave]
    assert told["after"] == {"fetch": "3", "history": "the chain of 7 events is whole"}
    assert list((story / "small").iterdir()) == []


READ_ONLY = (
    DISK
    + """
model, data = good(), flights()
print(json.dumps(tried(
    register=lambda: deploy_ext.register(model, "flights", data, "late"),
    validate=lambda: deploy_ext.validate("flights/1", data, "late"),
    promote=lambda: deploy_ext.promote("flights/2", reason="x", force=True),
    rollback=lambda: deploy_ext.rollback("flights", to=1),
    up=lambda: deploy_ext.up("flights"),
    gates=lambda: deploy_ext.gates("flights", "roc_auc >= 0.9"),
    history=lambda: deploy_ext.history("flights", verify=True).notes,
    status=lambda: deploy_ext.status().title,
    version=lambda: Registry().version("flights"),
)))
"""
)


def test_a_read_only_disk(story: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = str(tmp_path_factory.mktemp("elsewhere"))
    before = mounting('mount --bind "$0" "$0"', 'mount -o remount,bind,ro "$0"', 'cd "$0"')
    with nothing_made("flights"):
        told = json.loads(said(READ_ONLY, before=before, TMPDIR=elsewhere).splitlines()[-1])
    for verb in ("register", "validate", "promote", "up", "gates"):
        assert "Error:" in told[verb] or "Failed:" in told[verb], told[verb]
        assert "read-only" in told[verb].lower() and "\n" not in told[verb], told[verb]
    assert told["history"] == "the chain of 7 events is whole"
    assert told["status"].startswith("nothing runs here") and told["version"].startswith("flights/1")


# files instead of variables


def say(*words: str) -> tuple[int, str]:
    """Exit code and stdout of the command line."""
    out = io.StringIO()
    return cli.run(list(words), out), out.getvalue()


def typed(rows: int, seed: int) -> pd.DataFrame:
    """A frame whose types a CSV file loses."""
    rng = np.random.default_rng(seed)
    delay = rng.normal(10, 25, rows).round()
    frame = pd.DataFrame(
        {
            "delay": pd.array(delay, dtype="Int64"),
            "direct": pd.array(rng.random(rows) > 0.5, dtype="boolean"),
            "gate": pd.array(rng.integers(1, 9, rows).astype(str), dtype="string"),
            "departure": pd.date_range("2013-01-01", periods=rows, freq="7h"),
        }
    )
    frame.iloc[::9, [0, 1]] = pd.NA
    return frame.assign(late=np.where(delay > 15, "late", "on time"))


class Typed(LogisticRegression):
    """A model that insists on the types that it was fitted on."""

    @staticmethod
    def _floats(data: pd.DataFrame) -> np.ndarray:
        kinds = [str(t).split("[")[0] for t in data.dtypes]
        assert kinds == ["Int64", "boolean", "string", "datetime64"], kinds
        columns = [data[c].to_numpy(float, na_value=0) for c in ("delay", "direct")]
        return np.column_stack([*columns, data.gate.str.len(), data.departure.dt.hour])

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Typed:
        return super().fit(self._floats(X), y, sample_weight)

    def predict(self, X: Any) -> Any:
        return super().predict(self._floats(X))

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(self._floats(X))


def test_the_story_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train, test = typed(300, 0), typed(200, 1)
    model = Typed(max_iter=300).fit(train.drop(columns="late"), train.late)
    joblib.dump(model, tmp_path / "model.joblib")
    train.to_parquet(tmp_path / "train.parquet")
    test.to_csv(tmp_path / "test.csv", index=False)
    test.drop(columns="late").to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "lax.gates").write_text("accuracy >= 0.8\n")
    (tmp_path / "flights.gates").write_text("accuracy >= 1.01\n")

    code, out = say(
        "register", "model.joblib", "--name", "flights", "--data", "train.parquet", "--target", "late", "--json"
    )
    version = json.loads(out)
    assert code == 0 and (version["name"], version["version"], version["provenance"]["rows"]) == ("flights", 1, 300)
    assert version["provenance"]["data_file"] == "train.parquet"

    code, out = say("validate", "flights", "--data", "test.csv", "--target", "late", "--json")
    assert code == 3 and json.loads(out)["passed"] is False and Registry().version("flights/1").verdict
    code, out = say("promote", "flights", "--reason", "first")
    assert code == 3 and out == ""
    code, out = say("validate", "flights", "--data", "test.csv", "--gates", "lax.gates")
    assert code == 0 and "flights/1: PASSED on 200 rows" in out
    assert say("promote", "flights", "--gates", "lax.gates", "--reason", "first")[0] == 0
    assert say("up", "flights")[0] == 0
    code, out = say("predict", "flights", "--data", "new.csv", "--json")
    expected = model.predict(test.drop(columns="late")).tolist()
    assert code == 0 and [row["prediction"] for row in json.loads(out)] == expected
    assert say("down", "flights")[0] == 0 and not processes(tmp_path)
    code, out = say("history", "flights", "--verify")
    assert code == 0 and "the chain of 6 events is whole" in out

    told = {
        ("promote", "flights", "--force"): (2, "--force needs --reason"),
        ("validate", "flights", "--data", "tset.csv", "--target", "late"): (2, "Did you mean 'test.csv'?"),
        ("validate", "flights", "--data", "new.csv"): (2, "validate needs the truth"),
        ("validate", "flights/1", "--data", "lax.gates"): (2, "'lax.gates' is no data file: .parquet, .csv, .gz are"),
        ("predict", "flights", "--data", "new.csv"): (2, "there is no endpoint 'flights' here"),
        ("up", "flights/7"): (2, "flights has no version 7"),
        ("promte", "flights"): (2, "promote"),
    }
    capfd.readouterr()
    for words, (wanted, sentence) in told.items():
        assert say(*words) == (wanted, "")
        assert sentence in capfd.readouterr().err


def test_a_project_that_was_moved(story: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    """MLflow's database holds absolute paths."""
    place = tmp_path_factory.mktemp("place")
    was, now = clone(story, place / "was"), place / "now"
    was.rename(now)
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(now))
    shutil.rmtree(now / ".deploy" / "bundles")
    for verb in (lambda: deploy_ext.up("flights"), lambda: deploy_ext.history("flights")):
        with pytest.raises(InvalidRequest, match="the project was moved here from") as caught:
            verb()
        assert str(caught.value).endswith(f"Lead there: ln -s {now} {was}") and not was.exists()
    was.symlink_to(now)
    assert deploy_ext.validate("flights/1", UNSEEN, "late").passed
    assert str(deploy_ext.register(good(), "flights", FRAME, "late")) == "flights/4"
    assert Registry().verify("flights") == []
