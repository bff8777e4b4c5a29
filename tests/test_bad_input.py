"""What bad input gets: one clear sentence, the exit code of its kind, and nothing that is lost or half made."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import psutil
import pytest
from bundles import cell
from servers import free_port
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from stories import COLUMNS, GATES, flights, good, nothing_made, pipeline, post, processes, said, script, state, until

import deploy_ext
from deploy_ext import cli
from deploy_ext.core import (
    ContractViolated,
    DeployError,
    EndpointFailed,
    GateFailed,
    InvalidRequest,
    TimedOut,
    VerificationFailed,
    home,
)
from deploy_ext.records import Endpoint
from deploy_ext.registry import Registry

CODES = {
    DeployError: 1,
    InvalidRequest: 2,
    GateFailed: 3,
    ContractViolated: 4,
    EndpointFailed: 6,
    TimedOut: 7,
    VerificationFailed: 8,
}
FRAME = flights()
X: Any = FRAME[COLUMNS]
Y: Any = FRAME.late


@contextlib.contextmanager
def refused(kind: type[DeployError], *told: str, lines: int = 1) -> Iterator[pytest.ExceptionInfo[DeployError]]:
    """Inside the block a verb is refused in words that hold all that is `told`, and nothing is made."""
    with nothing_made("flights"), pytest.raises(kind) as caught:
        yield caught
    message = str(caught.value)
    assert type(caught.value).exit_code == CODES[kind]
    assert all(word in message for word in told), message
    assert message.count("\n") < lines, message


# models


class Locked(LogisticRegression):
    """A model that holds something of this process."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Locked:
        self.lock_ = threading.Lock()
        return super().fit(X, y, sample_weight)


def test_an_unfitted_model(story: Path) -> None:
    with refused(InvalidRequest, "this Pipeline is not fitted. Call model.fit(X, y) first."):
        deploy_ext.register(pipeline(), "flights", FRAME, "late")


@pytest.mark.parametrize(
    ("model", "told"),
    [(LogisticRegression, "LogisticRegression is not a fitted model"), (None, "NoneType is not a fitted model")],
)
def test_no_model(model: Any, told: str, story: Path) -> None:
    with refused(InvalidRequest, told):
        deploy_ext.register(model, "flights", FRAME, "late")


def test_a_model_that_cannot_be_serialized(story: Path) -> None:
    data = X[["dep_delay", "hour"]]
    with refused(InvalidRequest, "Locked cannot be saved: Locked.lock_ (lock)", "__getstate__"):
        deploy_ext.register(Locked().fit(data, Y), "flights", data, Y)


def test_a_lambda_of_the_notebook_works_and_is_flagged(story: Path) -> None:
    names = cell("""
from sklearn.preprocessing import FunctionTransformer
border = 15
def over(frame):
    return frame[["dep_delay"]] > border
steps = [FunctionTransformer(over), FunctionTransformer(lambda values: values * 1.0)]
""")
    model = make_pipeline(*names["steps"], LogisticRegression()).fit(X, Y)
    version = deploy_ext.register(model, "notebook", X, Y)
    assert version.runs_code and "runs code on load" in repr(version)
    assert {"over", "<lambda>"} <= set(version.provenance["definitions"])
    deploy_ext.up("notebook/1")
    assert deploy_ext.predict("notebook/1", X[:20]).prediction.tolist() == model.predict(X[:20]).tolist()
    deploy_ext.down("notebook/1")


def test_a_model_that_only_this_process_can_run(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports what is on no path of a clean process, under a name that no search of the code can find."""
    (story / "lib").mkdir()
    (story / "lib" / "hidden_room.py").write_text("BORDER = 15\n")
    monkeypatch.syspath_prepend(story / "lib")
    names = cell("""
import importlib
class Model:
    def predict(self, rows):
        return (rows["dep_delay"] > importlib.import_module("hidden" + "_room").BORDER).to_numpy()
""")
    with refused(VerificationFailed, "hidden_room") as caught:
        deploy_ext.register(names["Model"](), "flights", X, Y)
    assert caught.value.module == "hidden_room"


# data


@pytest.mark.parametrize(
    ("data", "kind", "told"),
    [
        (pd.concat([X, X[["hour"]]], axis=1), ContractViolated, ["hour: stands more than once; drop one"]),
        (X[:0], ContractViolated, ["the table has no rows; give at least one"]),
        (X.drop(columns="hour"), InvalidRequest, ["columns are missing: {'hour'}", "Give the training data."]),
        (FRAME, ContractViolated, ["late: is none of the columns that the model was fitted on; drop it"]),
        (X[:-1], InvalidRequest, ["the data has 599 rows and the target 600"]),
        (X.to_numpy(), InvalidRequest, ["this Pipeline cannot predict this data", "Give the training data."]),
        (None, InvalidRequest, ["a NoneType is no table. Give a DataFrame"]),
        (X.rename(columns={"hour": 3}), ContractViolated, ["3: the name of this column is no text but int"]),
    ],
    ids=["twice", "no rows", "missing", "extra", "shorter", "array", "none", "number"],
)
def test_training_data(data: Any, kind: type[DeployError], told: list[str], story: Path) -> None:
    target = Y[: len(data)] if data is not None and not len(data) else Y
    with refused(kind, *told):
        deploy_ext.register(good(), "flights", data, target)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"target": "lat"}, "the data has no column 'lat' to be the target. Did you mean 'late'?"),
        ({"range": ("hours=0..24",)}, "there is no column 'hours'. Did you mean 'hour'?"),
        ({"range": ("hour=24..0",)}, "the low is above the high. Write hour=-60..600"),
        ({"range": ("hour",)}, "'hour' is no range. Write COLUMN=LOW..HIGH"),
        ({"only": ("dep_delay",)}, "Use --range dep_delay=LOW..HIGH"),
        ({"nullable": ("dep_dealy",)}, "Did you mean 'dep_delay'?"),
    ],
)
def test_options_of_register(how: dict[str, Any], told: str, story: Path) -> None:
    with refused(InvalidRequest, told):
        deploy_ext.register(good(), "flights", FRAME, **{"target": "late", **how})


FAULTY = [
    (X.drop(columns="hour"), ["hour: is not there, and the model needs it"]),
    (X.assign(weekday=1), ["weekday: is no column of the model. Known: carrier, dep_delay, hour."]),
    (X.assign(hour="noon"), ["row 0, hour: 'noon' is not a", "and 597 more, all in .faults"]),
    (X.assign(dep_delay=np.nan), ["row 0, dep_delay: is missing"]),
    (pd.concat([X, X[["hour"]]], axis=1), ["hour: stands more than once"]),
    (X[:0], ["no rows; give at least one"]),
]
FAULTY_IDS = ["missing", "extra", "type", "gap", "twice", "no rows"]


@pytest.mark.parametrize(("data", "told"), FAULTY, ids=FAULTY_IDS)
def test_data_to_validate_on(data: Any, told: list[str], story: Path) -> None:
    with refused(ContractViolated, *told) as caught:
        deploy_ext.validate("flights/1", data, Y[: len(data)])
    assert caught.value.faults


def test_every_fault_is_told(story: Path) -> None:
    with refused(ContractViolated) as caught:
        deploy_ext.validate("flights/1", X.assign(hour="noon", carrier=7, z=1), Y)
    assert {f.column for f in caught.value.faults} == {"hour", "carrier", "z"}
    assert len(caught.value.faults) == 2 * len(X) + 1


@pytest.mark.parametrize(
    ("target", "kind", "told"),
    [
        (None, InvalidRequest, "validate needs the truth: --target"),
        (Y.map({True: "late", False: "on time"}), ContractViolated, "the model answers False, True"),
        (Y[:10], InvalidRequest, "the data has 600 rows and the target 10"),
    ],
    ids=["none", "other words", "short"],
)
def test_truth_to_validate_on(target: Any, kind: type[DeployError], told: str, story: Path) -> None:
    with refused(kind, told):
        deploy_ext.validate("flights/1", X, target)


def test_reordered_columns_and_a_frame_of_one_column_are_well(story: Path) -> None:
    turned = X[COLUMNS[::-1]]
    a, b = deploy_ext.validate("flights/1", X, Y), deploy_ext.validate("flights/1", turned, FRAME[["late"]])
    assert [c.value for c in a.checks][:4] == [c.value for c in b.checks][:4]


def test_an_endpoint_refuses_as_well(story: Path) -> None:
    endpoint = deploy_ext.up("flights")
    for data, told in FAULTY:
        with refused(ContractViolated, *told):
            deploy_ext.predict("flights", data)
    expected = deploy_ext.predict("flights", X)
    assert deploy_ext.predict("flights", X[COLUMNS[::-1]]).equals(expected)
    assert deploy_ext.predict("flights", X[:1]).equals(expected[:1])
    records = X[:2].assign(hour=["noon", 7], z=1).drop(columns="carrier").to_dict("records")
    status, answer = post(f"{endpoint.url}/invocations", {"dataframe_records": records})
    assert status == 422 and {f["column"] for f in answer["faults"]} == {"hour", "carrier", "z"}
    deploy_ext.down("flights")


def test_one_row(story: Path) -> None:
    one = deploy_ext.register(good(), "one", FRAME[:1], "late")
    assert one.provenance["rows"] == 1
    verdict = deploy_ext.validate("one", FRAME[:1], "late")
    assert verdict.rows == 1 and not verdict.passed
    assert "1 rows are too few for bounds" in verdict.checks[0].detail
    with refused(GateFailed, "one/1 failed its gates"):
        deploy_ext.promote("one")


def test_500_columns(story: Path) -> None:
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(200, 500)), columns=[f"measure {i}/{i % 7}" for i in range(500)])
    model = LinearRegression().fit(wide, wide.iloc[:, 0] * 2)
    assert deploy_ext.register(model, "wide", wide, wide.iloc[:, 0] * 2).provenance["columns"] == 500
    deploy_ext.up("wide/1")
    assert np.allclose(deploy_ext.predict("wide/1", wide).prediction, model.predict(wide), rtol=1e-9)
    with refused(ContractViolated, "measure 0/0: is not there", "and 496 more, all in .faults"):
        deploy_ext.predict("wide/1", wide.iloc[:, -1:])
    deploy_ext.down("wide/1")


# names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("my flights", "Try 'my_flights'"),
        ("a/b", "Try 'a_b'"),
        ("../flights", "Try 'flights'"),
        ("", "Try 'model'"),
        ("-flights", "Try 'flights'"),
        ("é" * 70, "is not a model name"),
        ("flights/3", "Type 'flights'"),
        ("flights@champion", "Type 'flights'"),
    ],
)
def test_names(name: str, told: str, story: Path) -> None:
    with refused(InvalidRequest, told, f"'{name}'"):
        deploy_ext.register(good(), name, FRAME, "late")


VERBS: dict[str, Callable[[str], Any]] = {
    "validate": lambda name: deploy_ext.validate(name, FRAME, "late"),
    "promote": lambda name: deploy_ext.promote(name, reason="x"),
    "up": deploy_ext.up,
    "report": deploy_ext.report,
    "register": lambda name: deploy_ext.register(f"models:/{name}", "mine", FRAME, "late"),
}


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "register"])
def test_unknown_names_aliases_and_versions(verb: str, story: Path) -> None:
    for name, told in {
        "flihgts": "there is no model 'flihgts' in sqlite:",
        "flights@chmpion": "flights has no alias 'chmpion'. Did you mean 'champion'?",
        "flights/9": "flights has no version 9. Known: 1, 2, 3.",
        "my flights": "Try 'my_flights'",
    }.items():
        with refused(InvalidRequest, told):
            VERBS[verb](name)


def test_unknown_models_of_others(story: Path) -> None:
    for name, told in {
        "flihgts/1": "Did you mean 'flights'?",
        "flights/9": "no version 9",
        "flights": "Type mod",
    }.items():
        with refused(InvalidRequest, told):
            VERBS["register"](name)


@pytest.mark.parametrize("verb", ["rollback", "gates"])
def test_verbs_about_the_whole_model(verb: str, story: Path) -> None:
    with refused(InvalidRequest, "'flights/3' names one version", "Type 'flights'"):
        getattr(deploy_ext, verb)("flights/3")
    if verb != "gates":
        with refused(InvalidRequest, "Did you mean 'flights'?"):
            getattr(deploy_ext, verb)("flihgts")


def test_endpoints_that_are_not_there(story: Path) -> None:
    for verb in (deploy_ext.down, deploy_ext.status, lambda name: deploy_ext.predict(name, X)):
        with refused(InvalidRequest, "there is no endpoint 'flights' here", "up flights"):
            verb("flights")


# promoting what may not


def test_a_version_that_failed(story: Path) -> None:
    with refused(GateFailed, "flights/2 failed its gates: roc_auc ", "(>= 0.8)", "register it again"):
        deploy_ext.promote("flights/2", reason="please")


def test_a_version_that_was_never_validated(story: Path) -> None:
    joblib.dump(good(), story / "model.joblib")
    FRAME.to_parquet(story / "train.parquet")
    words = ["register", "model.joblib", "--name", "flights", "--data", "train.parquet", "--target", "late"]
    assert cli.run(words, io.StringIO()) == 0
    with refused(GateFailed, "flights/4 was never validated. Type: validate flights/4"):
        deploy_ext.promote("flights")


# gates


def test_a_typo_in_the_gates_file(story: Path) -> None:
    (story / "flights.gates").write_text("roc_acu >= 0.8\nsize_mb <= 50\nlog_loss = 0.4\n")
    told = ["line 1", "roc_acu", "^", "Did you mean 'roc_auc'", "line 3"]
    with refused(InvalidRequest, *told, lines=20):
        deploy_ext.validate("flights/3", FRAME, "late")
    with refused(InvalidRequest, *told, lines=20):
        deploy_ext.promote("flights/3", reason="x")


def test_a_typo_leaves_the_gates_as_they_were(story: Path) -> None:
    with refused(InvalidRequest, "roc_acu", lines=20):
        deploy_ext.gates("flights", "roc_acu >= 0.8")
    assert (story / "flights.gates").read_text() == GATES


def test_a_gates_file_that_is_not_there(story: Path) -> None:
    with refused(InvalidRequest, "there is no gates file", "strict.gates"):
        deploy_ext.validate("flights/3", FRAME, "late", gates=story / "strict.gates")


# files


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def stored(version: int) -> Path:
    """Where the registry keeps the files of a version of flights."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{home() / 'mlflow.db'}"
    return Path(MlflowClient(uri, uri).get_model_version_download_uri("flights", str(version)).removeprefix("file://"))


@pytest.mark.parametrize("file", ["model.skops", "contract.json", "MLmodel"])
def test_one_byte_changed_in_the_registry(file: str, story: Path) -> None:
    damage(stored(3) / file)
    damage(home() / "bundles" / "flights" / "3" / file)
    for verb in (lambda: deploy_ext.up("flights/3"), lambda: deploy_ext.promote("flights/3", reason="x")):
        before = state()
        with pytest.raises(VerificationFailed, match=f"flights/3 is damaged in sqlite:.*{file}") as caught:
            verb()
        assert caught.value.exit_code == 8 and caught.value.file == file
        assert state() == before


def test_one_byte_changed_here(story: Path) -> None:
    """The registry has a sound one, and `up` fetches it again."""
    copy = home() / "bundles" / "flights" / "1" / "model.skops"
    sound = copy.read_bytes()
    for _ in range(2):
        damage(copy)
        assert deploy_ext.up("flights").state == "ready" and copy.read_bytes() == sound
    damage(copy)
    with refused(VerificationFailed, "model.skops in ", "is not what was registered"):
        deploy_ext.predict("flights", X)
    deploy_ext.down("flights")


# servers


def test_a_port_in_use(story: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with refused(EndpointFailed, f"port {port} is in use by process {os.getpid()}", "--port"):
            deploy_ext.up("flights", port=port)


def test_the_port_of_an_endpoint(story: Path) -> None:
    port = free_port()
    assert deploy_ext.up("flights", port=port).url.endswith(f":{port}")
    with refused(EndpointFailed, f"port {port} is in use by endpoint 'flights'", "down flights"):
        deploy_ext.up("flights/3", port=port)
    deploy_ext.down("flights")


def test_up_twice(story: Path) -> None:
    first, second = deploy_ext.up("flights"), deploy_ext.up("flights")
    assert (first.pid, first.url, first.since) == (second.pid, second.url, second.since)
    assert len(deploy_ext.status()) == 1 and len(processes(story)) == 2  # the supervisor and its worker
    with refused(EndpointFailed, f"already runs at {first.url}", "down flights"):
        deploy_ext.up("flights", port=free_port())
    deploy_ext.down("flights")


def test_up_by_two_at_once(story: Path) -> None:
    code = "import deploy_ext; e = deploy_ext.up('flights'); print(e.pid, e.url)"
    both = [script(code) for _ in range(2)]
    told = {p.communicate(timeout=120)[0] for p in both}
    assert len(told) == 1 and len(processes(story)) == 2
    deploy_ext.down("flights")


def test_a_server_killed(story: Path) -> None:
    endpoint = deploy_ext.up("flights")
    assert endpoint.pid
    os.kill(endpoint.pid, signal.SIGKILL)
    (seen,) = until(lambda: [e for e in deploy_ext.status("flights") if e.state == "dead"])
    assert seen.detail == f"process {endpoint.pid} is gone. Run: deploy up flights"
    until(lambda: not processes(story))
    with refused(EndpointFailed, "flights does not answer at", "up flights"):
        deploy_ext.predict("flights", X)
    deploy_ext.promote("flights/3", reason="a dead endpoint does not hinder")
    mended = deploy_ext.up("flights")
    assert (mended.url, mended.version, mended.state) == (endpoint.url, 3, "ready")
    os.kill(mended.pid or 0, signal.SIGKILL)
    until(lambda: deploy_ext.status("flights")[0].state == "dead")
    assert deploy_ext.down("flights").state == "down" and not list((home() / "endpoints").glob("*.json"))


def test_a_worker_killed(story: Path) -> None:
    endpoint = deploy_ext.up("flights")
    (worker,) = psutil.Process(endpoint.pid).children()
    worker.kill()
    until(lambda: deploy_ext.status("flights")[0].restarts == 1)
    until(lambda: deploy_ext.status("flights")[0].state == "ready")
    assert len(deploy_ext.predict("flights", X)) == len(X)
    deploy_ext.down("flights")


def test_a_kernel_restarted(story: Path) -> None:
    """One process brings up, and is gone; this one sees, moves, asks and ends."""
    url = said("import deploy_ext; print(deploy_ext.up('flights').url)")
    (seen,) = deploy_ext.status()
    assert (seen.url, seen.state, seen.version) == (url, "ready", 1)
    deploy_ext.promote("flights/3", reason="after the restart")
    assert set(deploy_ext.predict("flights", X).version) == {3}
    assert deploy_ext.down("flights").state == "down"
    assert len(deploy_ext.status()) == 0 and not processes(story)


# registries


def test_a_tracking_server_that_is_down(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = deploy_ext.up("flights")
    expected = deploy_ext.predict("flights", X)
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    for verb in (
        lambda: deploy_ext.register(good(), "flights", FRAME, "late"),
        lambda: deploy_ext.validate("flights/3", FRAME, "late"),
        lambda: deploy_ext.promote("flights/3", reason="x", force=True),
        lambda: deploy_ext.rollback("flights"),
        lambda: deploy_ext.up("flights/3"),
        lambda: deploy_ext.history("flights"),
        lambda: deploy_ext.report("flights"),
    ):
        before, began = state(), time.monotonic()
        with pytest.raises(DeployError, match=f"the MLflow server {url} does not answer") as caught:
            verb()
        assert caught.value.exit_code == 1 and "Start it, or set DEPLOY_EXT_TRACKING_URI" in str(caught.value)
        assert time.monotonic() - began < 20 and state() == before
    assert deploy_ext.status()[0].state == "ready"
    assert deploy_ext.predict("flights", X).equals(expected)
    with pytest.raises(DeployError, match="flights is down, but the ledger does not know it"):
        deploy_ext.down("flights")
    assert not processes(story) and post_refused(endpoint)


def post_refused(endpoint: Endpoint) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(endpoint.url.rpartition(":")[2])), timeout=2).close()
    except ConnectionRefusedError:
        return True
    return False


REGISTER = """
import deploy_ext
from stories import *
print(deploy_ext.register(good(), {name!r}, flights(), "late").version)
"""


def test_two_register_the_same_new_name_at_once(story: Path) -> None:
    both = [script(REGISTER.format(name="twins")) for _ in range(2)]
    told = [p.communicate(timeout=240) for p in both]
    assert sorted(out.strip() for out, _ in told) == ["1", "2"], told
    assert [v.version for v in Registry().versions("twins")] == [1, 2]
    assert [e.to for e in deploy_ext.history("twins", verify=True)] in (["1", "2"], ["2", "1"])
    for version in ("twins/1", "twins/2"):
        assert deploy_ext.validate(version, FRAME, "late").passed
