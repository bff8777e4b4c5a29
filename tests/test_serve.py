"""Servers that crash, change and end while clients are talking to them. Real processes, real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bundles import cell, flights, write
from sklearn.linear_model import LogisticRegression
from stories import until

from deploy_ext.core import EndpointFailed, Settings
from deploy_ext.serve.protocol import write_request
from deploy_ext.serve.server import listen
from deploy_ext.serve.supervisor import READY, THREADS, Plan, Release, order

pytestmark = pytest.mark.server
FRAME, LATE = flights()

STRANGE = """
import os, signal, sys, time
from sklearn.base import BaseEstimator, ClassifierMixin
import numpy as np

class Strange(ClassifierMixin, BaseEstimator):
    '''Answers "late", after doing to itself what the first row's hour says.'''
    classes_ = np.array(["late", "on time"])

    def fit(self, X, y):
        return self

    def predict(self, X):
        hour = X.hour.iloc[0]
        if hour == 1: time.sleep(1)
        if hour == 2: os.kill(os.getpid(), signal.SIGSEGV)
        if hour == 3: sys.exit("enough")
        if hour == 4: raise RuntimeError("no idea")
        return np.array(["late"] * len(X))

class Fatal(Strange):
    '''Cannot be loaded again.'''
    def __setstate__(self, state):
        os.kill(os.getpid(), signal.SIGSEGV)

class Endless(Strange):
    '''Is never loaded.'''
    def __setstate__(self, state):
        time.sleep(600)

class Fickle(Strange):
    '''Answers differently outside of the process that made it.'''
    def predict(self, X):
        return np.array(["late" if "bundles" in sys.modules else "on time"] * len(X))
"""


def stat(pid: int) -> list[str]:
    """State and further fields of a process; none when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def gone(pid: int) -> bool:
    return stat(pid)[:1] in ([], ["Z"], ["X"])


@dataclass
class Server:
    """A supervisor and how to talk to it."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    control: str
    line: socket.socket
    log: Path

    def ask(self, hour: int = 12, timeout: float = 30) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        body = json.dumps({"dataframe_records": [{"distance": 800.0, "hour": hour}]})
        with contextlib.closing(connection):
            connection.request("POST", "/invocations", body)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    @property
    def worker(self) -> int:
        """The worker's process."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(found[-1]) if found else 0


def start(folder: Path, release: Release, *, drain: float = 5.0, timeout: float = 30.0) -> Server:
    """A supervisor for `release` that has told how it went, and was not yet confirmed."""
    control, listener, (ours, theirs) = str(folder / "control"), listen("127.0.0.1", 0), socket.socketpair()
    given = Settings(start_timeout=timeout, drain_timeout=drain)
    plan = Plan("flights", release, control, (listener.fileno(),), theirs.fileno(), str(folder), given)
    with (folder / "log").open("wb") as log, listener, theirs:
        inherited = (*plan.listeners, plan.report)
        process = subprocess.Popen(plan.argv, pass_fds=inherited, env=os.environ | THREADS, stderr=log)
        return Server(process, listener.getsockname(), control, ours, folder / "log")


@contextlib.contextmanager
def serving(folder: Path, release: Release, **times: float) -> Iterator[Server]:
    """A supervisor with a ready worker; ended at the end."""
    server = start(folder, release, **times)
    try:
        assert server.line.recv(8192).decode() == READY, server.log.read_text()
        server.line.sendall(b"1")
        yield server
    finally:
        server.line.close()
        server.process.terminate()
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Release]:
    """Two good versions, and models that misbehave at the hours of the docstring above."""
    folder, made = tmp_path_factory.mktemp("bundles"), {}
    strange = cell(STRANGE)
    models: dict[str, Any] = {f"good{i}": LogisticRegression(C=i).fit(FRAME, LATE) for i in (1, 2)}
    models |= {name: strange[name]().fit(FRAME, LATE) for name in ("Strange", "Fatal", "Endless", "Fickle")}
    for number, (name, model) in enumerate(models.items(), 1):
        bundle = write(model, folder / name, FRAME)
        made[name] = Release(str(bundle.folder), number, bundle.digest)
    return made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, releases: dict[str, Release]) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("shared"), releases["good1"], timeout=5.0) as server:
        yield server


@pytest.fixture
def server(shared: Server, releases: dict[str, Release]) -> Server:
    """A server of `good1`, as good as new, which every test may leave as it likes; a start would cost seconds."""
    seen = order(shared.control)
    if seen["version"] != 1 or seen["failure"]:
        order(shared.control, releases["good1"], timeout=30)
    return shared


@dataclass
class Client(threading.Thread):
    """A client that asks again and again, on one connection as long as the server leaves it open, or on a new one."""

    address: tuple[str, int]
    keep_alive: bool
    pause: float = 0.0
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        body = write_request({"distance": [800.0], "hour": [12]}, _contract())
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        while not self.stopping.is_set():
            try:
                connection.request("POST", "/v2/models/flights/infer", body)
                reply = connection.getresponse()
                told = reply.read()
                self.versions.append(json.loads(told)["model_version"] if reply.status == 200 else told.decode())
            except OSError as e:
                self.failures.append(repr(e))
                connection.close()
            if not self.keep_alive:
                connection.close()
            self.stopping.wait(self.pause)
        connection.close()


def _contract() -> Any:
    from deploy_ext.contract import infer
    from deploy_ext.output import describe_output

    return infer(FRAME, describe_output(LogisticRegression().fit(FRAME, LATE), FRAME))


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
def test_no_request_fails_while_versions_change(server: Server, releases: dict[str, Release], keep_alive: bool) -> None:
    before = order(server.control)
    clients = [Client(server.address, keep_alive, pause) for pause in (0, 0, 0.01, 0.2)]
    for client in clients:
        client.start()
    for name in ("good2", "good1", "good2"):
        order(server.control, releases[name], timeout=30)
        began = [len(c.versions) for c in clients]
        late = Client(server.address, keep_alive=True)
        late.start()
        until(
            lambda began=began, late=late: (
                all(len(c.versions) > n + 1 for c, n in zip(clients, began, strict=True)) and late.versions
            )
        )
        late.stopping.set()
        late.join()
        # the first answer after the swap may have been on its way when it was done; no later one may be old
        after = {v for c, n in zip(clients, began, strict=True) for v in c.versions[n + 1 :]} | set(late.versions)
        assert after == {str(releases[name].version)}
    for client in clients:
        client.stopping.set()
        client.join()
    assert [c.failures for c in clients] == [[]] * 4
    assert {v for c in clients for v in c.versions} == {"1", "2"}
    asked = sum(len(c.versions) for c in clients)
    seen = order(server.control)
    assert (seen["requests"] - before["requests"] >= asked, seen["errors"]) == (True, before["errors"])


def test_an_idle_connection_does_not_hold_up_a_swap(server: Server, releases: dict[str, Release]) -> None:
    idle = [http.client.HTTPConnection(*server.address) for _ in range(3)]
    for connection in idle:
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().read()
    began = time.monotonic()
    order(server.control, releases["good2"], timeout=30)
    assert time.monotonic() - began < 4.5  # and not the five seconds that a busy one may take
    assert all(connection.sock.recv(1) == b"" for connection in idle)


def test_a_killed_worker_is_back(server: Server, releases: dict[str, Release]) -> None:
    server.ask()
    killed, before = server.worker, order(server.control)
    os.kill(killed, signal.SIGKILL)
    status, told = server.ask()
    assert status == 200 and told["model_version"] == "1"
    assert server.worker != killed
    seen = order(server.control)
    changed = {k: seen[k] - before[k] for k in ("restarts", "requests", "errors")}
    assert (changed, seen["failure"]) == ({"restarts": 1, "requests": 1, "errors": 0}, "")


def test_workers_end_with_a_killed_supervisor(tmp_path: Path, releases: dict[str, Release]) -> None:
    with serving(tmp_path, releases["good1"]) as server:
        worker = server.worker
        server.process.kill()
        server.process.wait()
        until(lambda: gone(worker), 5)
        listen(*server.address).close()  # the port is free again


def test_the_parent_has_one_thread(server: Server, releases: dict[str, Release]) -> None:
    order(server.control, releases["good2"], timeout=30)
    assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Fatal", "exit code -11"),
        ("Endless", "too long"),
        ("Fickle", "answers differently"),
        ("missing", "is no bundle"),
        ("changed", "is not what was registered"),
    ],
)
def test_a_version_that_does_not_start_changes_nothing(
    server: Server, tmp_path: Path, releases: dict[str, Release], name: str, why: str
) -> None:
    bad = releases.get(name) or Release(str(tmp_path / name), 9, releases["good2"].digest)
    if name == "changed":
        shutil.copytree(releases["good2"].folder, bad.folder)
        Path(bad.folder, "model.skops").write_bytes(b"something else")
    worker = server.worker
    with pytest.raises(EndpointFailed, match=why):
        order(server.control, bad, timeout=30)
    assert server.worker == worker
    assert server.ask()[1]["model_version"] == "1"
    seen = order(server.control)
    assert (seen["version"], seen["failure"]) == (1, "")


def test_a_first_version_that_does_not_start_leaves_nothing(tmp_path: Path, releases: dict[str, Release]) -> None:
    server = start(tmp_path, releases["Fatal"])
    assert "exit code -11" in server.line.recv(8192).decode()
    assert server.process.wait(20) == EndpointFailed.exit_code
    assert not Path(server.control).exists()


def test_a_supervisor_that_nobody_confirms_ends(tmp_path: Path, releases: dict[str, Release]) -> None:
    server = start(tmp_path, releases["good1"])
    assert server.line.recv(8192).decode() == READY
    worker = server.worker
    server.line.close()
    assert server.process.wait(20) == EndpointFailed.exit_code
    assert gone(worker)


def test_it_keeps_trying_and_says_why(tmp_path: Path, releases: dict[str, Release]) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(releases["good1"].folder, folder)
    with serving(tmp_path, Release(str(folder), 1, releases["good1"].digest)) as server:
        folder.rename(tmp_path / "away")
        os.kill(server.worker, signal.SIGKILL)
        until(lambda: "is no bundle" in order(server.control)["failure"])
        status, told = server.ask()
        assert status == 503 and "is no bundle" in told["error"] and told["model_version"] == "1"
        (tmp_path / "away").rename(folder)
        until(lambda: server.ask()[0] == 200)
        assert order(server.control)["restarts"] == 1


def test_a_swap_mends_what_keeps_crashing(server: Server, releases: dict[str, Release]) -> None:
    order(server.control, releases["Strange"], timeout=30)
    for _ in range(5):
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.ask(hour=2)
    until(lambda: "in a row" in order(server.control)["failure"])
    assert order(server.control, releases["good1"], timeout=30)["failure"] == ""
    assert server.ask(hour=2)[0] == 200


@pytest.mark.parametrize("hour", [3, 4])
def test_a_model_that_fails_is_told_as_such(server: Server, releases: dict[str, Release], hour: int) -> None:
    order(server.control, releases["Strange"], timeout=30)
    status, told = server.ask(hour)
    assert told["model_version"] and "error" in told
    assert status == 422  # hours below 5 were never seen in training
    assert server.ask()[0] == 200


def test_health_is_answered_while_the_model_computes(server: Server, releases: dict[str, Release]) -> None:
    order(server.control, releases["Strange"], timeout=30)
    answers: list[Any] = []
    slow = threading.Thread(target=lambda: answers.append(server.ask(hour=1)))
    slow.start()
    time.sleep(0.2)
    connection = http.client.HTTPConnection(*server.address)
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 200 and not answers
    connection.close()
    slow.join()
    assert answers[0][0] == 200


def test_sigterm_lets_a_request_finish(tmp_path: Path, releases: dict[str, Release]) -> None:
    with serving(tmp_path, releases["Strange"]) as server:
        answers: list[Any] = []
        slow = threading.Thread(target=lambda: answers.append(server.ask(hour=1)))
        slow.start()
        time.sleep(0.3)
        server.process.terminate()
        slow.join()
        assert answers[0][0] == 200
        assert server.process.wait(20) == 0 and not Path(server.control).exists()


def test_a_drain_has_an_end(tmp_path: Path, releases: dict[str, Release]) -> None:
    with serving(tmp_path, releases["Strange"], drain=0.4) as server:
        connection = http.client.HTTPConnection(*server.address)
        connection.putrequest("POST", "/invocations")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"{")  # and never sends the rest
        began = time.monotonic()
        order(server.control, releases["good1"], timeout=30)
        assert time.monotonic() - began < 4.5  # and not the five seconds that a busy one may take
        connection.close()


def test_orders_are_for_the_owner(server: Server, releases: dict[str, Release]) -> None:
    assert os.stat(server.control).st_mode & 0o777 == 0o600
    for line in (b"", b"swap!\n", b'{"swap": {"folder": 1}}\n', b"[" * 70_000 + b"\n"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(server.control)
            with contextlib.suppress(OSError):
                sock.sendall(line)
                sock.shutdown(socket.SHUT_WR)
                assert b"failed" in sock.makefile("rb").readline()
    assert order(server.control)["version"] == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{",
        b"POST /v2/models/%ff%00/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v2/models/..%2f..%2fetc/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["tls", "version", "short body", "bytes in the path", "slashes in the path", "bad url", "long url"],
)
def test_odd_bytes_on_the_wire(server: Server, sent: bytes) -> None:
    with socket.create_connection(server.address, timeout=10) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.recv(65536)
    assert answer[9:10] in (b"", b"4"), answer
    assert server.ask()[0] == 200
