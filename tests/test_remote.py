"""The same story with a team's MLflow server: over HTTP, from several machines, and when the server fails midway."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Proxy, alive, free_port, proxy
from stories import COLUMNS, GATES, flights, good, nothing_made, post, processes, script, state, tell, until

import deploy_ext
from deploy_ext.core import DeployError, home
from deploy_ext.registry import Registry

pytestmark = pytest.mark.server
UNSEEN: Any = flights(1)
ROWS: Any = UNSEEN[COLUMNS].head(20)


@pytest.fixture(scope="module")
def shared(tracking_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The server, on which one machine has told the story of flights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(tmp_path_factory.mktemp("first-machine")))
        patch.setenv("MLFLOW_TRACKING_URI", tracking_server)
        tell()
    return tracking_server


@pytest.fixture
def machine(shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A machine that has never seen a bundle, and has the project's gates; flights/1 is champion again at the end."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "flights.gates").write_text(GATES)
    yield shared
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared)
    for endpoint in deploy_ext.status():
        deploy_ext.down(endpoint.name)
    assert not processes(tmp_path)
    if champion() != 1:
        deploy_ext.promote("flights/1", reason="as before", force=True)


@pytest.fixture
def behind(machine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between this machine and the server."""
    with proxy(machine) as made:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.url)
        yield made


def champion() -> int:
    return Registry().version("flights").version


def running() -> tuple[int, int]:
    """The version that the supervisor tells, and the one that answers."""
    (endpoint,) = deploy_ext.status("flights")
    return endpoint.version or 0, int(deploy_ext.predict("flights", ROWS).version.unique().item())


@contextlib.contextmanager
def from_now(behind: Proxy, rule: str, method: str = "", path: str = "") -> Iterator[None]:
    """Inside the block the proxy does what `rule` says to requests of this method to paths that hold `path`."""
    behind.rule = lambda m, p: rule if method in m and path in p else "pass"
    yield
    behind.rule = lambda m, p: "pass"


def test_the_story_from_a_machine_that_never_saw_the_bundles(machine: str) -> None:
    assert not (home() / "bundles").exists() and not (home() / "mlflow.db").exists()
    assert champion() == 1 and Registry().version("flights/2").verdict
    deploy_ext.up("flights")
    first = deploy_ext.predict("flights", ROWS)
    assert np.allclose(first.probability_True, good(C=0.01).predict_proba(ROWS)[:, 1], rtol=1e-9)
    assert deploy_ext.validate("flights/3", UNSEEN, "late").passed
    deploy_ext.promote("flights/3", reason="better")
    assert (champion(), running()) == (3, (3, 3))
    deploy_ext.rollback("flights", reason="back")
    assert (champion(), running()) == (1, (1, 1))
    assert deploy_ext.predict("flights", ROWS).equals(first)
    deploy_ext.down("flights")
    told = [e.what for e in deploy_ext.history("flights", verify=True)]
    assert told[-5:] == ["up", "validate", "promote", "rollback", "down"]
    assert not (home() / "mlflow.db").exists() and not (home() / "artifacts").exists()


def test_mlflow_loads_what_we_registered(machine: str) -> None:
    from mlflow.models import get_model_info
    from mlflow.sklearn import load_model

    model: Any = load_model("models:/flights/1")
    assert model.predict(ROWS).tolist() == good(C=0.01).predict(ROWS).tolist()
    info = get_model_info("models:/flights@champion")
    assert info.signature and info.signature.inputs.input_names() == COLUMNS
    assert info.saved_input_example_info


def test_mlflow_serves_what_we_registered(machine: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/flights/1", "--env-manager", "local"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where MLflow looks for uvicorn
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            env={**os.environ, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until(lambda: server.poll() is not None or alive(f"http://127.0.0.1:{port}/ping"), 120)
        assert server.poll() is None, (tmp_path / "serve.log").read_text()[-2000:]
        expected = {"predictions": good(C=0.01).predict(ROWS).tolist()}
        for body in (
            {"dataframe_split": ROWS.to_dict("split")},
            {"dataframe_records": ROWS.to_dict("records")},
        ):
            assert post(f"http://127.0.0.1:{port}/invocations", body) == (200, expected)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def test_a_model_of_others_is_adopted(machine: str) -> None:
    from mlflow import start_run
    from mlflow.sklearn import log_model

    how: dict[str, Any] = {"pip_requirements": ["scikit-learn"], "serialization_format": "cloudpickle"}
    with start_run():
        log_model(good(), name="m", registered_model_name="other", **how)
    version = deploy_ext.register("models:/other/1", "adopted", UNSEEN, "late", purpose="taken over")
    assert (str(version), version.runtime, version.runs_code) == ("adopted/1", "pyfunc", True)
    assert deploy_ext.validate("adopted", UNSEEN, "late").passed
    deploy_ext.up("adopted/1")
    assert deploy_ext.predict("adopted/1", ROWS).prediction.tolist() == good().predict(ROWS).tolist()
    deploy_ext.down("adopted/1")
    for name, told in {"other": "other has no champion", "other/1": "register models:/other/1"}.items():
        with pytest.raises(DeployError, match=told):
            deploy_ext.up(name)


# the server goes away, or refuses, between two calls


def test_a_server_that_goes_down_between_two_verbs(behind: Proxy) -> None:
    deploy_ext.up("flights")
    with from_now(behind, "drop"):
        for verb in (
            lambda: deploy_ext.promote("flights/3", reason="x"),
            lambda: deploy_ext.rollback("flights", to=1),
            lambda: deploy_ext.validate("flights/1", UNSEEN, "late"),
            lambda: deploy_ext.register(good(), "flights", UNSEEN, "late"),
        ):
            with pytest.raises(DeployError, match=f"the MLflow server {behind.url} does not answer"):
                verb()
        assert running() == (1, 1)
    assert deploy_ext.promote("flights/3", reason="it is back").version == 3
    assert running() == (3, 3)


def standing(uri: str) -> dict[str, Any]:
    """What there is, with processes counted: a worker that was swapped back is another process."""
    return {k: len(v) if k == "processes" else v for k, v in state(uri).items()}


PLACES = {
    "the alias": ("POST", "registered-models/alias"),
    "the ledger": ("POST", "runs/create"),
}


@pytest.mark.parametrize(("rule", "place"), [("refuse", "the ledger"), ("drop", "the alias")])
def test_a_promotion_that_fails_midway_is_taken_back(rule: str, place: str, behind: Proxy, machine: str) -> None:
    deploy_ext.up("flights")
    before = standing(machine)
    with (
        from_now(behind, rule, *PLACES[place]),
        pytest.raises(DeployError, match=r"refused to|does not answer") as caught,
    ):
        deploy_ext.promote("flights/3", reason="x")
    assert "\n" not in str(caught.value)
    assert running() == (1, 1) and standing(machine) == before
    assert Registry().verify("flights") == []


def test_two_promotions_do_not_overtake_each_other(behind: Proxy) -> None:
    """The first to move the alias is held up until the other has written its event; that one has to wait for it."""
    deploy_ext.up("flights")
    moves, written = [], threading.Event()

    def rule(method: str, path: str) -> str:
        if method == "POST" and "registered-models/alias" in path:
            moves.append(path)
            if len(moves) == 1:
                written.wait(3)
        elif method == "POST" and "runs/create" in path:
            written.set()
        return "pass"

    behind.rule = rule
    with ThreadPoolExecutor() as both:
        names = ["flights/2", "flights/3"]
        list(both.map(lambda name: deploy_ext.promote(name, reason="race", force=True), names))
    assert len(moves) == 2 and running() == (champion(), champion())
    assert Registry().verify("flights") == []


def test_up_without_the_right_to_write_the_ledger(behind: Proxy, machine: str) -> None:
    with (
        nothing_made("flights", uri=machine),
        from_now(behind, "refuse", "POST", "runs/create"),
        pytest.raises(DeployError, match=r"refused to create run: .*not you"),
    ):
        deploy_ext.up("flights")


# a registration that is killed while it speaks with the server

REGISTER = """
import deploy_ext
from stories import *
deploy_ext.register(good(), "killed", flights(), "late")
"""


def test_a_registration_killed_at_the_server(behind: Proxy, machine: str) -> None:
    """First before the version is made; then between the version and its event, and the ledger tells that."""

    def killed(at: str, nth: int) -> None:
        process, seen = script(REGISTER), 0

        def rule(method: str, path: str) -> str:
            nonlocal seen
            seen += method == "POST" and at in path
            if seen < nth:
                return "pass"
            process.kill()
            return "drop"

        behind.rule = rule
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        behind.rule = lambda m, p: "pass"

    killed("model-versions/create", 1)
    with contextlib.suppress(DeployError):
        assert Registry().versions("killed") == []
    killed("runs/create", 2)
    assert [str(v) for v in Registry().versions("killed")] == ["killed/1"]
    assert str(deploy_ext.register(good(), "killed", UNSEEN, "late")) == "killed/2"
    (told,) = Registry().verify("killed")
    assert "version 1" in told
