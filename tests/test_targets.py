"""Endpoints on this machine: brought up, found again, mended, moved and ended, by real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import flights, reseal, write
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression
from stories import until

from deploy_ext import processes, targets
from deploy_ext.bundle import open_bundle
from deploy_ext.contract import Contract
from deploy_ext.core import (
    ContractViolated,
    EndpointFailed,
    InvalidRequest,
    Settings,
    TimedOut,
    VerificationFailed,
    home,
    now,
)
from deploy_ext.processes import born, file_of, find, keep, launch
from deploy_ext.records import Endpoint, Version

pytestmark = pytest.mark.server
FRAME, LATE = flights()
ROW = {"distance": [800.0], "hour": [12]}
SETTINGS = Settings()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Version]]:
    """Bundles of three versions of `flights`."""
    folder, found = tmp_path_factory.mktemp("bundles"), {}
    for number in (1, 2, 3):
        bundle = write(LogisticRegression(C=number).fit(FRAME, LATE), folder / str(number), FRAME)
        found[number] = bundle.folder, Version("flights", number, "sklearn", bundle.digest, now())
    return found


@pytest.fixture
def contract(made: dict[int, tuple[Path, Version]]) -> Contract:
    return open_bundle(made[1][0]).contract


@pytest.fixture(autouse=True)
def nothing_left(_project: None) -> Iterator[None]:
    """Whatever a test brought up is brought down, also when it failed."""
    yield
    for running in processes.find_all():
        targets.down(running.endpoint.name, SETTINGS)


def supervisors(folder: Path) -> list[int]:
    """The processes, supervisors and workers, that serve out of `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode()
        except OSError:
            continue
        if "deploy_ext.serve.supervisor" in line and str(folder) in line and born(int(path.parts[2])):
            found.append(int(path.parts[2]))
    return found


def free(port: int) -> socket.socket | None:
    """The port, taken; None when it is not free."""
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", port))


def port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.rpartition(":")[2])


def script(code: str, **names: Any) -> subprocess.Popen[str]:
    """`code` in another process of the same project, in a process group of its own, as a kernel is."""
    head = "from pathlib import Path\nfrom deploy_ext import targets\n"
    head += "from deploy_ext.core import *\nfrom deploy_ext.records import *\n"
    head += "".join(f"{name} = {value!r}\n" for name, value in names.items())
    return subprocess.Popen(
        [sys.executable, "-c", head + code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


UP = """
version = Version("flights", number, "sklearn", digest, now())
print(targets.up(folder, version, "champion", Settings()).to_json(), flush=True)
"""


def up_elsewhere(made: dict[int, tuple[Path, Version]], number: int, more: str = "") -> subprocess.Popen[str]:
    folder, version = made[number]
    return script(UP + more, folder=str(folder), number=number, digest=version.bundle)


def test_the_life_of_an_endpoint(made: dict[int, tuple[Path, Version]], contract: Contract) -> None:
    up = targets.up(*made[1], "champion", SETTINGS)
    assert (up.name, up.version, up.follows, up.state) == ("flights", 1, "champion", "ready")
    pasted = subprocess.run(up.example, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(pasted.stdout)["model_version"] == "1"
    assert targets.ask(up, contract.rows(FRAME), contract, 10).version == 1

    again = targets.up(*made[1], "champion", SETTINGS)
    assert (again.pid, again.url, again.requests) == (up.pid, up.url, 3)

    moved = targets.swap("flights", *made[2], SETTINGS)
    assert (moved.pid, moved.url, moved.version, moved.state) == (up.pid, up.url, 2, "ready")
    assert targets.up(*made[3], "champion", SETTINGS).pid == up.pid  # another version: a swap
    (seen,) = targets.status("flights")
    assert (seen.version, seen.errors, seen.restarts, seen.detail) == (3, 0, 0, "")

    down = targets.down("flights", SETTINGS)
    assert (down.state, targets.status(), born(up.pid or 0)) == ("down", [], "")
    socket.create_server(("127.0.0.1", port_of(up))).close()
    with pytest.raises(InvalidRequest, match="no endpoint 'flights'"):
        targets.down("flights", SETTINGS)


def test_endpoints_of_one_model_live_side_by_side(made: dict[int, tuple[Path, Version]], contract: Contract) -> None:
    ways = ((1, "champion"), (2, "challenger"), (3, None))
    up = [targets.up(*made[number], follows, SETTINGS) for number, follows in ways]
    assert [e.name for e in up] == ["flights", "flights@challenger", "flights/3"]
    assert [e.name for e in targets.status()] == ["flights", "flights/3", "flights@challenger"]
    assert [targets.ask(e, ROW, contract, 10).version for e in up] == [1, 2, 3]
    targets.down("flights/3", SETTINGS)
    assert {e.state for e in targets.status()} == {"ready"} and len(targets.status()) == 2


def test_it_outlives_its_kernel(made: dict[int, tuple[Path, Version]], contract: Contract) -> None:
    kernel = up_elsewhere(made, 1, "import time; time.sleep(600)")
    assert kernel.stdout
    told = Endpoint.from_dict(json.loads(kernel.stdout.readline()))
    os.killpg(kernel.pid, signal.SIGKILL)  # as Jupyter ends a kernel
    kernel.communicate()
    (seen,) = targets.status("flights")
    assert (seen.state, seen.pid, seen.version) == ("ready", told.pid, 1)
    assert targets.ask(seen, ROW, contract, 10).version == 1


def test_two_processes_bring_up_one_endpoint(made: dict[int, tuple[Path, Version]]) -> None:
    both = [up_elsewhere(made, 1) for _ in range(2)]
    told = [Endpoint.from_dict(json.loads(p.communicate(timeout=60)[0])) for p in both]
    assert told[0].pid == told[1].pid and told[0].url == told[1].url
    assert len(supervisors(home())) == 2  # one, and its worker


def test_a_killed_supervisor_is_seen_and_mended(made: dict[int, tuple[Path, Version]], contract: Contract) -> None:
    up = targets.up(*made[1], "champion", SETTINGS)
    os.kill(up.pid or 0, signal.SIGKILL)
    until(lambda: targets.status("flights")[0].state == "dead", 5)
    (dead,) = targets.status("flights")
    assert dead.pid is None and "deploy up flights" in dead.detail
    until(lambda: not supervisors(home()), 5)
    with pytest.raises(EndpointFailed, match="Run: deploy up flights"):
        targets.ask(up, ROW, contract, 10)
    with pytest.raises(EndpointFailed, match=r"is dead. Run: deploy up flights"):
        targets.swap("flights", *made[2], SETTINGS)
    mended = targets.up(*made[2], "champion", SETTINGS)
    assert (mended.url, mended.version, mended.state) == (up.url, 2, "ready")


def test_a_dead_endpoint_goes_elsewhere_when_its_port_is_taken(made: dict[int, tuple[Path, Version]]) -> None:
    up = targets.up(*made[1], "champion", SETTINGS)
    os.kill(up.pid or 0, signal.SIGKILL)
    with until(lambda: free(port_of(up))):
        mended = targets.up(*made[1], "champion", SETTINGS)
        assert mended.state == "ready" and mended.url != up.url


def test_a_process_number_that_belongs_to_another_is_left_alone(made: dict[int, tuple[Path, Version]]) -> None:
    up = targets.up(*made[1], "champion", SETTINGS)
    running = find("flights")
    assert running
    targets.down("flights", SETTINGS)
    innocent = subprocess.Popen(["sleep", "60"])
    keep(replace(running, endpoint=replace(up, pid=innocent.pid)))
    assert targets.status("flights")[0].state == "dead"
    assert targets.down("flights", SETTINGS).state == "down"
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


def test_a_port_in_use_is_told_with_its_user(made: dict[int, tuple[Path, Version]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointFailed, match=f"port {port} is in use by process {os.getpid()}") as failed:
            targets.up(*made[1], "champion", replace(SETTINGS, port=port))
    assert failed.value.exit_code == 6 and targets.status() == [] and not supervisors(home())
    up = targets.up(*made[1], "champion", replace(SETTINGS, port=port))
    assert port_of(up) == port
    with pytest.raises(EndpointFailed, match=r"in use by endpoint 'flights'. Run: deploy down flights"):
        targets.up(*made[2], None, replace(SETTINGS, port=port))
    with pytest.raises(EndpointFailed, match="flights already runs at"):
        targets.up(*made[1], "champion", replace(SETTINGS, port=port + 1))
    assert targets.up(*made[1], "champion", replace(SETTINGS, port=port)).pid == up.pid


def test_what_cannot_start_leaves_nothing(made: dict[int, tuple[Path, Version]], tmp_path: Path) -> None:
    folder, version = tmp_path / "bundle", made[1][1]
    shutil.copytree(made[1][0], folder)
    (folder / "model.skops").write_bytes(b"something else")
    with pytest.raises(VerificationFailed, match=r"model.skops .* is not what was registered"):
        targets.up(folder, version, "champion", SETTINGS)

    other = write(DummyRegressor().fit(FRAME, FRAME.hour), tmp_path / "other", FRAME)
    reseal(other.folder, runtime="onyx")
    wrong = replace(version, bundle=open_bundle(other.folder).digest)
    with pytest.raises(EndpointFailed, match=r"flights did not start: no runtime 'onyx'.*The log is .*flights.log"):
        targets.up(other.folder, wrong, "champion", SETTINGS)
    with pytest.raises(TimedOut, match=r"not ready after 0.01 s"):
        targets.up(*made[1], "champion", replace(SETTINGS, start_timeout=0.01))
    assert targets.status() == [] and not supervisors(home())


def test_a_version_that_does_not_start_leaves_the_old_one(
    made: dict[int, tuple[Path, Version]], tmp_path: Path, contract: Contract
) -> None:
    up = targets.up(*made[1], "champion", SETTINGS)
    bad = write(LogisticRegression(C=9).fit(FRAME, LATE), tmp_path / "bad", FRAME)
    reseal(bad.folder, runtime="onyx")
    version = Version("flights", 9, "onyx", open_bundle(bad.folder).digest, now())
    with pytest.raises(EndpointFailed, match=r"flights/9 did not start: no runtime 'onyx'.*flights runs as before"):
        targets.swap("flights", bad.folder, version, SETTINGS)
    (seen,) = targets.status("flights")
    assert (seen.version, seen.state, seen.pid) == (1, "ready", up.pid)
    assert targets.ask(seen, ROW, contract, 10).version == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_up_leaves_nothing(made: dict[int, tuple[Path, Version]], how: int) -> None:
    kernel = up_elsewhere(made, 1)
    until(lambda: supervisors(home()))
    os.kill(kernel.pid, how)
    kernel.communicate()
    until(lambda: not supervisors(home()))
    assert targets.status() == []
    assert targets.up(*made[1], "champion", SETTINGS).state == "ready"


def test_a_degraded_endpoint_says_why_and_up_mends_it(made: dict[int, tuple[Path, Version]], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(made[1][0], folder)
    up = targets.up(folder, made[1][1], "champion", SETTINGS)
    shutil.rmtree(folder)
    (worker,) = set(supervisors(home())) - {up.pid}
    os.kill(worker, signal.SIGKILL)
    seen = until(lambda: [e for e in targets.status() if "is no bundle" in e.detail])[0]
    assert (seen.state, seen.pid) == ("degraded", up.pid)
    mended = targets.up(*made[1], "champion", SETTINGS)
    assert (mended.state, mended.pid, mended.detail) == ("ready", up.pid, "")


def test_a_hung_supervisor_is_degraded_and_can_be_ended(made: dict[int, tuple[Path, Version]]) -> None:
    up = targets.up(*made[1], "champion", SETTINGS)
    for process in supervisors(home()):
        os.kill(process, signal.SIGSTOP)
    (seen,) = targets.status("flights")
    assert seen.state == "degraded" and "does not answer" in seen.detail
    targets.down("flights", replace(SETTINGS, drain_timeout=0.1))
    assert not born(up.pid or 0) and not supervisors(home())


def test_errors_of_asking(
    made: dict[int, tuple[Path, Version]], contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = targets.up(*made[1], "champion", SETTINGS)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert targets.ask(up, ROW, contract, 10).version == 1
    with pytest.raises(ContractViolated) as violated:
        targets.ask(up, {"distance": ["far"], "hour": [None]}, contract, 10)
    assert {(f.row, f.column) for f in violated.value.faults} == {(0, "distance"), (0, "hour")}
    with pytest.raises(EndpointFailed, match=r"answered 404.*serves 'flights'"):
        targets.ask(replace(up, name="other"), ROW, contract, 10)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        elsewhere = replace(up, url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TimedOut, match=r"within 0.2 s"):
            targets.ask(elsewhere, ROW, contract, 0.2)


def test_a_long_project_path(
    made: dict[int, tuple[Path, Version]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep" * 20) / ("deeper" * 10)
    deep.mkdir(parents=True)
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(deep))
    up = targets.up(*made[1], "champion", SETTINGS)
    running = find("flights")
    assert running and Path(running.control).exists() and not running.control.startswith(str(deep))
    assert targets.swap("flights", *made[2], SETTINGS).version == 2
    targets.down("flights", SETTINGS)
    assert not Path(running.control).parent.exists() and not born(up.pid or 0)


def test_a_full_disk_is_told(made: dict[int, tuple[Path, Version]], monkeypatch: pytest.MonkeyPatch) -> None:
    home()
    (home() / "endpoints").write_text("in the way of the folder")
    with pytest.raises(EndpointFailed, match=r"flights: .*endpoints.* Check the space"):
        targets.up(*made[1], "champion", SETTINGS)
    (home() / "endpoints").unlink()


def test_other_servers_are_launched_seen_and_ended(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    page = Endpoint("flights-report", 3, None, url, "starting", kind="report")
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port), "--directory", str(tmp_path)]
    argv = ["sh", "-c", "sleep 600 & exec " + " ".join(server)]  # it has a child of its own
    up = launch(page, argv, health=url, env={"COLOUR": "blue"}, timeout=30)
    (seen,) = targets.status()
    assert (seen.state, seen.kind, seen.pid, seen.requests) == ("ready", "report", up.pid, None)
    with pytest.raises(EndpointFailed, match="flights-report already runs"):
        launch(page, argv, health=url, env={}, timeout=30)
    child = int(Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text())
    assert b"COLOUR=blue" in Path(f"/proc/{child}/environ").read_bytes()
    os.kill(up.pid or 0, signal.SIGSTOP)
    assert targets.status()[0].state == "degraded"
    os.kill(up.pid or 0, signal.SIGCONT)
    assert targets.down("flights-report", SETTINGS).state == "down"
    until(lambda: not born(up.pid or 0) and not born(child), 5)


def test_a_launch_that_fails_shows_the_log() -> None:
    page = Endpoint("flights-report", 3, None, "http://127.0.0.1:9/", "starting", kind="report")
    broken = [sys.executable, "-c", "raise SystemExit('no such notebook')"]
    with pytest.raises(EndpointFailed, match=r"exit code 1(.|\n)*no such notebook"):
        launch(page, broken, health=page.url, env={}, timeout=30)
    with pytest.raises(TimedOut, match=r"not ready after 0.1 s"):
        launch(page, ["sleep", "600"], health=page.url, env={}, timeout=0.1)
    assert targets.status() == [] and file_of(page.name, "log.1").exists()


def test_a_swap_seen_by_a_client_that_predicts(made: dict[int, tuple[Path, Version]], contract: Contract) -> None:
    up, answered, failed = targets.up(*made[1], "champion", SETTINGS), [], []
    stop = threading.Event()

    def predict() -> None:
        while not stop.is_set():
            try:
                answered.append(targets.ask(up, ROW, contract, 10).version)
            except EndpointFailed as e:
                failed.append(e)

    client = threading.Thread(target=predict)
    client.start()
    for number in (2, 1, 3):
        before = len(answered)
        targets.swap("flights", *made[number], SETTINGS)
        done = len(answered)
        until(lambda done=done: len(answered) > done + 3)
        assert set(answered[done + 1 :]) == {number} and done > before
    stop.set()
    client.join()
    assert failed == []
