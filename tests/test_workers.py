"""Several workers behind one port: they share the load, the counters, and the fate of a version."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from stories import COLUMNS, flights, gone, good, processes, until, workers

import deploy_ext
from deploy_ext.core import EndpointFailed, InvalidRequest
from deploy_ext.records import Endpoint

pytestmark = pytest.mark.server
ROWS: Any = flights(1).head(20)[COLUMNS]
BODY = {"dataframe_records": ROWS.to_dict("records")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with two versions of `flights`, the first of them champion."""
    folder, frame = tmp_path_factory.mktemp("workers"), flights()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        patch.chdir(folder)
        for strength in (1.0, 0.01):
            deploy_ext.register(good(C=strength), "flights", frame, "late")
        deploy_ext.promote("flights/1", reason="first", force=True)
        yield folder
        for process in processes(folder):
            process.kill()


@pytest.fixture
def endpoint(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """The endpoint with two workers, from version 1 on."""
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(project))
    monkeypatch.chdir(project)
    yield deploy_ext.up("flights", workers=2)
    if deploy_ext.status("flights")[0].version != 1:
        deploy_ext.rollback("flights", reason="as it was")
    deploy_ext.down("flights")


def metrics(endpoint: Endpoint, name: str) -> float:
    """The sum of a family, as any of the workers tells it."""
    told = httpx.get(f"{endpoint.url}/metrics").text
    return sum(float(line.split()[-1]) for line in told.splitlines() if re.match(rf"{name}[ {{]", line))


def ask(endpoint: Endpoint, client: Any = httpx) -> dict[str, Any]:
    reply = client.post(f"{endpoint.url}/invocations", json=BODY, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_both_answer_and_count_together(endpoint: Endpoint) -> None:
    before = metrics(endpoint, "deploy_ext_rows_total")
    named = Counter(ask(endpoint)["prediction_ids"][0].split("-")[0] for _ in range(60))
    assert len(named) == 2 and min(named.values()) > 5
    for _ in range(6):  # whoever is asked
        assert metrics(endpoint, "deploy_ext_rows_total") == before + 60 * len(ROWS)
    assert metrics(endpoint, "deploy_ext_workers") == 2
    assert deploy_ext.status("flights")[0].requests == 61  # with the one that `up` asks


def test_what_prometheus_reads_is_clean(endpoint: Endpoint) -> None:
    ask(endpoint)
    httpx.post(f"{endpoint.url}/invocations", content=b"{")
    told = httpx.get(f"{endpoint.url}/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    checked = subprocess.run(["promtool", "check", "metrics"], input=told.text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    for line in (
        'deploy_ext_requests_total{code="400",endpoint="invocations"} 1.0',
        'deploy_ext_errors_total{kind="invalid"} 1.0',
        'deploy_ext_predictions_total{label="True"}',
        'deploy_ext_outliers_total{column="hour"} 0.0',
        "deploy_ext_journal_lost_total 0.0",
        'model_name="flights",model_version="1"',
        "deploy_ext_request_duration_seconds_bucket",
    ):
        assert line in told.text, line


def test_a_killed_worker_is_back_and_the_other_answers_meanwhile(endpoint: Endpoint) -> None:
    victim = workers(endpoint)[0]
    victim.kill()
    until(lambda: len(workers(endpoint)) == 2 and victim.pid not in [w.pid for w in workers(endpoint)])
    until(lambda: metrics(endpoint, "deploy_ext_workers") == 2)
    assert len({ask(endpoint)["prediction_ids"][0].split("-")[0] for _ in range(40)}) == 2
    assert metrics(endpoint, "deploy_ext_worker_restarts_total") == 1


def test_no_request_fails_while_all_workers_change(endpoint: Endpoint) -> None:
    stop, answers, failed = threading.Event(), [], []
    body = json.dumps(BODY).encode()

    def ask(keep: httpx.Client | None) -> httpx.Response:
        """A kept connection may be closed the moment before it is used again (RFC 9112, 9.3.1): then a new one is."""
        if keep:
            with contextlib.suppress(httpx.RemoteProtocolError):
                return keep.post(f"{endpoint.url}/invocations", content=body, timeout=30)
        return httpx.post(f"{endpoint.url}/invocations", content=body, timeout=30)

    def client(keep: httpx.Client | None) -> None:
        while not stop.is_set():
            try:
                began = time.monotonic()
                reply = ask(keep)
                answers.append((began, reply.status_code, reply.json()["model_version"]))
            except httpx.HTTPError as e:
                failed.append((bool(keep), repr(e)))

    threads = [threading.Thread(target=client, args=[httpx.Client() if n % 2 else None]) for n in range(8)]
    for thread in threads:
        thread.start()
    moves = []
    for number in range(6):
        version = 2 - number % 2
        began = time.monotonic()
        deploy_ext.promote(f"flights/{version}", reason="to and fro", force=True)
        moves.append((began, time.monotonic(), str(version)))
        enough = len(answers) + 40
        until(lambda enough=enough: len(answers) > enough)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == [] and {status for _, status, _ in answers} == {200}
    ends = [began for began, _, _ in moves[1:]] + [float("inf")]
    for (_, done, version), end in zip(moves, ends, strict=True):
        assert {v for began, _, v in answers if done < began < end} == {version}


def test_a_killed_supervisor_takes_its_workers_along_and_up_mends_it(endpoint: Endpoint) -> None:
    before = workers(endpoint)
    psutil.Process(endpoint.pid).kill()
    until(lambda: all(map(gone, before)), 10)
    assert deploy_ext.status("flights")[0].state == "dead"
    again = deploy_ext.up("flights", workers=2)
    assert again.url == endpoint.url and len(workers(again)) == 2
    ask(again)


def test_nobody_else_gets_the_port(endpoint: Endpoint) -> None:
    port = int(endpoint.url.rpartition(":")[2])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
    with pytest.raises(EndpointFailed, match="in use by endpoint 'flights'"):
        deploy_ext.up("flights/2", port=port, workers=2)


def test_a_number_of_workers_that_is_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(project))
    with pytest.raises(InvalidRequest, match="--workers 1"):
        deploy_ext.up("flights", workers=0)
    told = [str(Path(sys.executable).parent / "deploy-ext"), "up", "flights", "--workers", "two"]
    assert subprocess.run(told, capture_output=True).returncode == 2


def test_what_each_key_asks_is_counted(endpoint: Endpoint) -> None:
    made = [deploy_ext.key_create("flights", role=role) for role in ("predict", "admin")]
    asker, admin = ({"Authorization": f"Bearer {key.secret}"} for key in made)
    until(lambda: httpx.get(f"{endpoint.url}/metrics").status_code == 401)
    until(lambda: httpx.get(f"{endpoint.url}/metrics", headers=admin).status_code == 200)
    for _ in range(10):  # both workers are asked the same rows
        assert httpx.post(f"{endpoint.url}/invocations", json=BODY, headers=asker).status_code == 200
    counted = f'deploy_ext_key_rows_total{{key="{made[0].key.id}"}} {10.0 * len(ROWS)}'
    until(lambda: counted in httpx.get(f"{endpoint.url}/metrics", headers=admin).text)
    told = httpx.get(f"{endpoint.url}/metrics", headers=admin).text
    (found,) = re.findall(rf'deploy_ext_key_distinct_rows{{key="{made[0].key.id}"}} (\S+)', told)
    assert len(ROWS) - 2 < float(found) < len(ROWS) + 2
    for key in made:
        deploy_ext.key_revoke(key.key.id)
        assert key.secret not in told
