"""The journal: what was answered is written, whatever is killed, full or forgotten meanwhile."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stories import COLUMNS, clone, flights, good, processes, until, workers

import deploy_ext
from deploy_ext.core import InvalidRequest, Settings, home
from deploy_ext.records import Endpoint
from deploy_ext.serve.archive import command
from deploy_ext.serve.journal import Batch, framed, frames, journal_folder

MODEL: Any = good()
FRAME: Any = flights()
ROWS: Any = flights(1).head(40)[COLUMNS]


# frames


@given(st.lists(st.binary(max_size=200), max_size=8), st.data())
def test_a_torn_tail_costs_what_is_torn_and_no_more(contents: list[bytes], data: st.DataObject) -> None:
    written = [bytes(framed(content)) for content in contents]
    whole = b"".join(written)
    cut = data.draw(st.integers(0, len(whole)))
    kept = [msgspec.msgpack.decode(frame) for frame in frames(whole[:cut])]
    ends = np.cumsum([len(frame) for frame in written])
    assert kept == contents[: int((ends <= cut).sum())]


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), st.data())
def test_a_changed_byte_is_noticed(contents: list[bytes], data: st.DataObject) -> None:
    written = [bytes(framed(content)) for content in contents]
    whole = bytearray(b"".join(written))
    at, other = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    whole[at] ^= other
    hit = int((np.cumsum([len(frame) for frame in written]) <= at).sum())
    assert [msgspec.msgpack.decode(frame) for frame in frames(bytes(whole))][:hit] == contents[:hit]
    assert len(list(frames(bytes(whole)))) == hit


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(data: bytes) -> None:
    assert sum(8 + len(content) for content in frames(data)) <= len(data)


# a project with an endpoint


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        patch.chdir(folder)
        deploy_ext.register(MODEL, "flights", FRAME, "late")
        deploy_ext.promote("flights", reason="first", force=True)
    return folder


@pytest.fixture
def project(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of its own, in which nothing runs yet."""
    clone(registered, tmp_path)
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for process in processes(tmp_path):
        process.kill()


@pytest.fixture
def up(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Endpoint]:
    """Starts the endpoint with these settings."""

    def start(**settings: Any) -> Endpoint:
        for name, value in settings.items():
            monkeypatch.setenv(f"DEPLOY_EXT_{name.upper()}", value if isinstance(value, str) else json.dumps(value))
        return deploy_ext.up("flights")

    return start


def question(rows: Any, request_id: str = "") -> dict[str, Any]:
    """A V2 question."""
    kinds = {"dep_delay": "FP64", "hour": "INT64", "carrier": "BYTES"}
    inputs = [{"name": n, "shape": [len(rows)], "datatype": kinds[n], "data": rows[n].tolist()} for n in COLUMNS]
    return {"inputs": inputs} | ({"id": request_id} if request_id else {})


def ask(endpoint: Endpoint, rows: Any, request_id: str = "") -> dict[str, Any]:
    reply = httpx.post(f"{endpoint.url}/v2/models/flights/infer", json=question(rows, request_id), timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


def ids(answer: dict[str, Any]) -> list[str]:
    return answer["parameters"]["prediction_ids"]


def tell(endpoint: Endpoint, truths: dict[str, Any]) -> dict[str, Any]:
    body = {"feedback": [{"prediction_id": name, "outcome": outcome} for name, outcome in truths.items()]}
    reply = httpx.post(f"{endpoint.url}/v2/models/flights/feedback", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.server
def test_what_was_asked_is_in_the_frame(up: Callable[..., Endpoint]) -> None:
    endpoint = up()
    before = pd.Timestamp.now("UTC")
    answered = ask(endpoint, ROWS, "mine")
    old = httpx.post(f"{endpoint.url}/invocations", json={"dataframe_records": ROWS.head(1).to_dict("records")}).json()
    found = deploy_ext.journal("flights", since="1h")
    assert found["prediction_id"].tolist() == ids(answered) + old["prediction_ids"]
    assert found["request_id"].tolist() == ["mine"] * len(ROWS) + [old["request_id"]]
    pd.testing.assert_frame_equal(found[COLUMNS].head(len(ROWS)), ROWS.reset_index(drop=True), check_dtype=False)
    assert found["prediction"].tolist()[: len(ROWS)] == MODEL.predict(ROWS).tolist()
    chances = found[["probability_False", "probability_True"]].to_numpy()[: len(ROWS)]
    assert np.abs(chances - MODEL.predict_proba(ROWS)).max() < 1e-6
    assert set(found["version"]) == {1} and (found["latency_ms"] > 0).all() and found["outcome"].isna().all()
    assert (found["time"] >= before.floor("s")).all() and found["time"].is_monotonic_increasing
    assert len(deploy_ext.journal("flights", until="1h")) == 0


@pytest.mark.server
def test_flags_and_keys_are_in_the_frame(up: Callable[..., Endpoint]) -> None:
    endpoint = up()
    key = deploy_ext.key_create("flights", role="predict")
    odd = pd.DataFrame({"dep_delay": [9000.0], "hour": [8], "carrier": ["AA"]})

    def asked() -> bool:  # the key is known within two seconds
        held = {"Authorization": f"Bearer {key.secret}"}
        reply = httpx.post(f"{endpoint.url}/v2/models/flights/infer", json=question(odd), headers=held)
        told = deploy_ext.journal("flights").tail(1)
        return reply.status_code == 200 and told["key_id"].tolist() == [key.key.id]

    until(asked)
    told = deploy_ext.journal("flights").tail(1).iloc[0]
    assert told["flags"].startswith("dep_delay ")
    assert key.secret not in "".join(p.read_text("latin-1") for p in home().rglob("*") if p.is_file())


@pytest.mark.server
def test_the_truth_is_joined(up: Callable[..., Endpoint]) -> None:
    endpoint = up(workers=2)
    named = ids(ask(endpoint, ROWS.head(4)))
    told = tell(endpoint, {named[0]: True, named[1]: False, "nobody-1": True})
    assert (told["accepted"], told["unknown"], told["repeated"]) == (2, ["nobody-1"], [])
    for _ in range(8):  # whichever of the workers is asked
        told = tell(endpoint, {named[0]: False})
        assert (told["accepted"], told["repeated"]) == (0, [named[0]])
    deploy_ext.down("flights")
    again = up(workers=2)
    assert tell(again, {named[0]: False, named[2]: True})["repeated"] == [named[0]]
    found = deploy_ext.journal("flights")
    assert [None if pd.isna(v) else v for v in found["outcome"]] == [True, False, True, None]
    assert found["outcome_time"].notna().tolist() == [True, True, True, False]


@pytest.mark.server
def test_what_was_asked_is_compared_with_the_training_data(up: Callable[..., Endpoint]) -> None:
    endpoint = up(journal_drop=["hour"], journal_hash=["carrier"])
    with pytest.raises(InvalidRequest, match="Did you mean 'flights'"):
        deploy_ext.drift("fligths")
    with pytest.raises(InvalidRequest, match="nobody has asked flights/1"):
        deploy_ext.drift("flights", since="1h")
    ask(endpoint, FRAME[COLUMNS].head(400))
    before = deploy_ext.drift("flights", since="1h")
    assert [c.column for c in before.columns] == ["dep_delay", "prediction"]  # the carriers are hashes
    assert not before["dep_delay"].drifted and before.rows == 400
    ask(endpoint, FRAME[COLUMNS].head(1600).assign(dep_delay=lambda f: f["dep_delay"] * 60))  # minutes, not hours
    after = deploy_ext.drift("flights", since="1h")
    assert "dep_delay" in after.drifted and (after["dep_delay"].ks or 0) > 0.2
    with pytest.raises(InvalidRequest, match="leave out --data"):
        deploy_ext.drift("flights", FRAME, since="1h")


@pytest.mark.server
def test_a_kill_loses_no_answer_that_somebody_has_seen(up: Callable[..., Endpoint]) -> None:
    endpoint, seen, stop = up(workers=2), [], threading.Event()

    def client(number: int) -> None:
        with httpx.Client() as http:
            for count in range(100_000):
                if stop.is_set():
                    return
                rows = ROWS.sample(1 + count % 3, random_state=count)
                name = f"{number}-{count}"
                try:
                    reply = http.post(f"{endpoint.url}/v2/models/flights/infer", json=question(rows, name), timeout=30)
                except httpx.TransportError:
                    continue
                if reply.status_code == 200:
                    seen.append((name, ids(reply.json()), rows["dep_delay"].tolist()))

    threads = [threading.Thread(target=client, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    killed: set[int] = set()
    while len(killed) < 6:
        enough = len(seen) + 150
        until(lambda enough=enough: len(seen) >= enough, 60)
        victim = random.Random(len(killed)).choice(workers(endpoint))
        victim.kill()
        killed.add(victim.pid)
        until(lambda: len({p.pid for p in workers(endpoint)} - killed) == 2, 30)
    stop.set()
    for thread in threads:
        thread.join()
    found = deploy_ext.journal("flights")
    by_id = dict(zip(found["prediction_id"], zip(found["request_id"], found["dep_delay"], strict=True), strict=True))
    assert len(by_id) == len(found) and len(seen) > 900
    lost = [
        i for name, row_ids, values in seen for i, v in zip(row_ids, values, strict=True) if by_id.get(i) != (name, v)
    ]
    assert lost == []
    until(lambda: deploy_ext.status("flights")[0].restarts == len(killed))


@pytest.mark.server
def test_a_torn_tail_is_cut_and_counted(up: Callable[..., Endpoint]) -> None:
    endpoint = up()
    named = ids(ask(endpoint, ROWS))
    (worker,) = workers(endpoint)
    worker.kill()
    until(lambda: worker.pid not in [p.pid for p in workers(endpoint)])
    deploy_ext.down("flights")
    (log,) = [p for p in journal_folder(home(), "flights").glob("*.segment") if p.stem == named[0].split("-")[0]]
    half = bytes(framed(Batch([1], 1, ["r"], [None], [1], [[1.0], [1], ["AA"]], [True], bytes(16), [])))[:-3]
    log.write_bytes(log.read_bytes() + half)
    endpoint = up()
    torn = "deploy_ext_journal_torn_total 1.0"
    until(lambda: torn in httpx.get(f"{endpoint.url}/metrics").text or ask(endpoint, ROWS.head(1)) is None, 90)
    assert log.with_suffix(".parquet").exists() and not log.exists()
    assert set(named) <= set(deploy_ext.journal("flights")["prediction_id"])


def limit(endpoint: Endpoint, size: int) -> None:
    """No file of the workers may become longer than `size` bytes, as if the disk were full; -1: any may."""
    for worker in workers(endpoint):
        hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))


@pytest.mark.server
def test_on_a_full_disk_it_goes_on_and_says_so(up: Callable[..., Endpoint]) -> None:
    endpoint = up()
    kept = ids(ask(endpoint, ROWS))
    limit(endpoint, 100)
    answered = ask(endpoint, ROWS)
    assert "prediction_ids" not in answered["parameters"]
    health = f"{endpoint.url}/v2/health/ready"
    until(lambda: httpx.get(health).json()["journal"] == "File too large")
    reply = httpx.get(health)
    assert reply.status_code == 200 and reply.json()["journal_lost"] == len(ROWS)
    assert f"deploy_ext_journal_lost_total {len(ROWS)}.0" in httpx.get(f"{endpoint.url}/metrics").text
    (seen,) = deploy_ext.status("flights")
    assert seen.state == "degraded" and f"{len(ROWS)} rows are lost" in seen.detail
    limit(endpoint, -1)
    until(lambda: deploy_ext.status("flights")[0].state == "ready")
    kept += ids(ask(endpoint, ROWS))
    assert deploy_ext.journal("flights")["prediction_id"].tolist() == kept


@pytest.mark.server
def test_a_journal_that_is_required_and_cannot_be_written_stops_the_answers(up: Callable[..., Endpoint]) -> None:
    endpoint = up(journal="required")
    ask(endpoint, ROWS)
    limit(endpoint, 100)
    reply = httpx.post(f"{endpoint.url}/v2/models/flights/infer", json=question(ROWS))
    assert reply.status_code == 503 and "File too large" in reply.json()["error"]
    until(lambda: httpx.get(f"{endpoint.url}/v2/health/ready").status_code == 503)
    limit(endpoint, -1)
    until(lambda: httpx.get(f"{endpoint.url}/v2/health/ready").status_code == 200)
    ask(endpoint, ROWS)
    assert len(deploy_ext.journal("flights")) == 2 * len(ROWS)


@pytest.mark.server
@pytest.mark.parametrize("mode", ["off", "fsync"])
def test_modes(up: Callable[..., Endpoint], mode: str) -> None:
    endpoint = up(journal=mode)
    answered = ask(endpoint, ROWS)
    if mode == "fsync":
        assert deploy_ext.journal("flights")["prediction_id"].tolist() == ids(answered)
        return
    assert answered["parameters"] == {}
    assert httpx.get(f"{endpoint.url}/v2/health/ready").json()["journal"] == "off"
    truth = {"prediction_id": "a-1", "outcome": True}
    assert "off" in httpx.post(f"{endpoint.url}/v2/models/flights/feedback", json=truth).json()["error"]
    with pytest.raises(InvalidRequest, match="no journal of 'flights'"):
        deploy_ext.journal("flights")


@pytest.mark.server
def test_what_is_private_is_not_written(up: Callable[..., Endpoint]) -> None:
    endpoint = up(journal_drop=["hour"], journal_hash=["carrier"], journal_round={"dep_delay": -1})
    rows = pd.DataFrame({"dep_delay": [12.25, 17.75], "hour": [8, 9], "carrier": ["SECRET-CARRIER", "AA"]})
    ask(endpoint, rows)
    found = deploy_ext.journal("flights")
    assert "hour" not in found and found["dep_delay"].tolist() == [10.0, 20.0]
    assert found["carrier"].str.fullmatch("[0-9a-f]{16}").all() and found["carrier"].nunique() == 2
    written = b"".join(p.read_bytes() for p in home().rglob("*") if p.is_file() and "bundles" not in p.parts)
    assert b"SECRET-CARRIER" not in written and b"17.75" not in written
    deploy_ext.down("flights")
    subprocess.run(command(journal_folder(home(), "flights"), Settings()), check=True, stdout=subprocess.DEVNULL)
    assert deploy_ext.journal_forget("flights", ("carrier=SECRET-CARRIER",)).rows == 1
    assert len(deploy_ext.journal("flights")) == 1
    assert oct((home() / "journal" / "salt").stat().st_mode)[-3:] == "600"


@pytest.mark.server
def test_somebody_is_forgotten_while_others_come(up: Callable[..., Endpoint]) -> None:
    endpoint, stop, failed, asked = up(workers=2), threading.Event(), [], []

    def client() -> None:
        with httpx.Client() as http:
            while not stop.is_set():
                reply = http.post(f"{endpoint.url}/v2/models/flights/infer", json=question(ROWS.head(2)), timeout=30)
                (asked if reply.status_code == 200 else failed).append(reply.json())

    person = pd.DataFrame({"dep_delay": [77.125], "hour": [8], "carrier": ["AA"]})
    named = [i for _ in range(6) for i in ids(ask(endpoint, person))]
    tell(endpoint, dict.fromkeys(named, True))
    thread = threading.Thread(target=client)
    thread.start()
    until(lambda: len(asked) > 50)
    gone = deploy_ext.journal_forget("flights", ("dep_delay=77.125", "carrier=AA"))
    after = len(asked)
    until(lambda: len(asked) > after + 50)
    stop.set()
    thread.join()
    assert gone.rows == 6 and failed == []
    found = deploy_ext.journal("flights")
    assert not set(named) & set(found["prediction_id"])
    assert {i for answer in asked for i in ids(answer)} == set(found["prediction_id"])
    assert tell(endpoint, dict.fromkeys(named[:2], True))["unknown"] == named[:2]
    event = deploy_ext.history("flights", verify=True)[-1]
    assert event.what == "journal forget" and "6 rows" in event.reason and "77" not in event.reason


@pytest.mark.server
def test_whoever_makes_parquet_may_be_killed(up: Callable[..., Endpoint]) -> None:
    endpoint = up(journal_mb=0.008)
    named = [i for _ in range(60) for i in ids(ask(endpoint, ROWS))]
    tell(endpoint, dict.fromkeys(named[:500], True))
    folder = journal_folder(home(), "flights")
    assert len(list(folder.glob("*.segment"))) > 5
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import pyarrow.parquet, pandas, deploy_ext.serve.archive"], check=True)
    usual, chance = time.monotonic() - began, random.Random(0)
    for _ in range(8):
        process = subprocess.Popen(command(folder, Settings()), stdout=subprocess.DEVNULL)
        time.sleep(usual * chance.uniform(0.6, 1.4))  # somewhere in the middle of its work
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert deploy_ext.journal("flights")["prediction_id"].tolist() == named
    subprocess.run(command(folder, Settings()), check=True, stdout=subprocess.DEVNULL)
    assert len(list(folder.glob("*.segment"))) == 1 and list(folder.glob("*.parquet"))
    found = deploy_ext.journal("flights")
    assert found["prediction_id"].tolist() == named and found["outcome"].notna().sum() == 500
    assert tell(endpoint, dict.fromkeys(named[498:502], False))["accepted"] == 2


@pytest.mark.server
def test_on_the_command_line(up: Callable[..., Endpoint]) -> None:
    endpoint = up()
    named = ids(ask(endpoint, ROWS.head(2)))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        told = [str(Path(sys.executable).parent / "deploy-ext"), *words]
        return subprocess.run(told, capture_output=True, text=True, timeout=120, env=os.environ)

    told = run("journal", "flights", "--since", "1h")
    assert told.returncode == 0 and named[1] in told.stdout
    assert run("journal", "flight").returncode == 2 and "flights" in run("journal", "flight").stderr
    assert run("journal", "flights", "--since", "soon").returncode == 2
    assert run("journal", "forget", "flights").returncode == 2
    told = run("journal", "forget", "flights", "--where", "prediction_id=" + named[0])
    assert told.returncode == 0 and "1 rows were removed" in told.stdout
    assert deploy_ext.journal("flights")["prediction_id"].tolist() == named[1:]


@pytest.mark.server
@pytest.mark.parametrize("journal", ["on", "off"])
def test_an_endpoint_that_nobody_asks_takes_no_processor(up: Callable[..., Endpoint], journal: str) -> None:
    endpoint = up(journal=journal)
    family = [psutil.Process(endpoint.pid), *workers(endpoint)]

    def used() -> float:
        return sum(sum(p.cpu_times()[:2]) for p in family)

    before = used()
    time.sleep(2)
    assert used() - before < 0.4
