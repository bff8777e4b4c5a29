"""Keys that are guessed, expired, revoked, damaged, made at once and used too often."""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stories import until

from deploy_ext.core import InvalidRequest, now
from deploy_ext.serve import keys
from deploy_ext.serve.keys import (
    SLOTS,
    Forbidden,
    Keys,
    Refused,
    TooMany,
    Unauthorized,
    Unreadable,
    create,
    listed,
    parse_expiry,
    parse_rate,
    revoke,
    wait,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


def change(file: Path, **fields: Any) -> None:
    """Change fields of the last key in the file by hand."""
    told = json.loads(file.read_text())
    told["keys"][-1]["key"].update(fields)
    file.write_text(json.dumps(told))


@given(st.integers(1, 999_999_999), st.sampled_from([("s", 1), ("m", 60), ("h", 3600)]))
def test_rates(number: int, unit: tuple[str, int]) -> None:
    assert parse_rate(f"{number}/{unit[0]}") == (number / unit[1], number)


@given(st.integers(1, 9999), st.sampled_from(["hours", "days", "weeks"]))
def test_expiries(number: int, unit: str) -> None:
    assert parse_expiry(f"{number}{unit[0]}") == timedelta(**{unit: number})


@given(st.text(max_size=8))
def test_other_texts_say_what_to_type(text: str) -> None:
    for parse in (parse_rate, parse_expiry):
        try:
            parse(text)
        except InvalidRequest as e:
            assert "Type" in str(e)


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "1/d", "1.5/s", "100/s ", "1_0/s", "٣/s", "1/s\n"])
def test_no_rates(text: str) -> None:
    with pytest.raises(InvalidRequest, match="100/s"):
        parse_rate(text)


@given(
    st.floats(0.01, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 10) | st.just(0.0), max_size=200),
    st.floats(1, 1e7),
)
def test_no_window_holds_more_than_the_bucket(per_second: float, burst: int, pauses: list[float], boot: float) -> None:
    cells, moment, counted = [0.0], boot, []
    for pause in pauses:
        moment += pause / per_second
        if not wait(cells, 0, moment, 1 / per_second, burst):
            counted.append(moment)
    for i, first in enumerate(counted):
        for j in range(i, len(counted)):
            assert j - i + 1 <= burst + (counted[j] - first) * per_second + 0.51


@given(st.floats(0.01, 1000), st.integers(1, 1000), st.floats(1, 1e7))
def test_the_bucket_is_as_deep_as_told_and_the_pace_is_kept(per_second: float, burst: int, boot: float) -> None:
    cells = [0.0]
    assert not any(wait(cells, 0, boot, 1 / per_second, burst) for _ in range(burst))
    early = wait(cells, 0, boot, 1 / per_second, burst)
    assert early == pytest.approx(1 / per_second, rel=1e-3)
    assert wait(cells, 0, boot + early, 1 / per_second, burst) == 0.0


def test_a_limit_is_told_with_the_time_to_wait(file: Path) -> None:
    key, secret = create(file, "flights", "predict", rate="3/h")
    door = Keys(file)
    for _ in range(3):
        assert door.admit(bearer(secret), "flights", "predict") == key
    with pytest.raises(TooMany, match="3/h") as e:
        door.admit(bearer(secret), "flights", "predict")
    assert 1190 < e.value.retry_after <= 1200
    assert (e.value.status, e.value.headers) == (429, [(b"retry-after", b"1200")])


COUNT = """
import mmap, sys
from pathlib import Path
from deploy_ext.serve.keys import Keys, TooMany
cells = memoryview(mmap.mmap(int(sys.argv[2]), 8192)).cast("d")
door, counted = Keys(Path(sys.argv[1]), cells, int(sys.argv[2])), 0
for _ in range(2000):
    try:
        counted += door.admit(sys.argv[3].encode(), "flights", "predict") is not None
    except TooMany:
        pass
print(counted)
"""


def test_processes_share_a_limit(file: Path) -> None:
    _, secret = create(file, "flights", "predict", rate="500/h")
    shared = os.memfd_create("cells")
    os.truncate(shared, 8192)
    command = [sys.executable, "-c", COUNT, str(file), str(shared), f"Bearer {secret}"]
    begun = time.monotonic()
    workers = [subprocess.Popen(command, pass_fds=[shared], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counted = [int(w.communicate(timeout=60)[0]) for w in workers]
    assert 500 <= sum(counted) <= 501 + (time.monotonic() - begun) * 500 / 3600
    with mmap.mmap(shared, 8192) as cells:
        assert memoryview(cells).cast("d")[0] > time.monotonic()
    os.close(shared)


HOLD = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 1, 0)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_worker_counts_alone_and_a_killed_one_holds_nobody(file: Path) -> None:
    _, secret = create(file, "flights", "predict", rate="500/h")
    shared, cells = os.memfd_create("cells"), memoryview(bytearray(8192)).cast("d")
    door = Keys(file, cells, shared)
    command = [sys.executable, "-c", HOLD, str(shared)]
    told = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, pass_fds=[shared], **told) as other, ThreadPoolExecutor(1) as pool:
        assert other.stdout and other.stdout.readline() == "held\n"
        asked = pool.submit(door.admit, bearer(secret), "flights", "predict")
        with pytest.raises(FutureTimeout):
            asked.result(timeout=0.3)
        assert cells[0] == 0.0
        other.kill()
        assert asked.result(timeout=20)
    assert cells[0] > time.monotonic()
    os.close(shared)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("predict", {"predict", "any"}),
        ("feedback", {"feedback", "any"}),
        ("admin", {"predict", "feedback", "admin", "any"}),
    ],
)
def test_roles(file: Path, role: str, may: set[str]) -> None:
    key, secret = create(file, "flights", role)
    door = Keys(file)
    for wanted in ("predict", "feedback", "admin", "any"):
        if wanted in may:
            assert door.admit(bearer(secret), "flights", wanted) == key
        else:
            with pytest.raises(Forbidden, match=f"is for {role} on flights, not for {wanted}"):
                door.admit(bearer(secret), "flights", wanted)


def test_a_key_is_for_one_model(file: Path) -> None:
    _, secret = create(file, "flights", "admin")
    create(file, "housing", "predict")
    with pytest.raises(Forbidden) as e:
        Keys(file).admit(bearer(secret), "housing", "any")
    assert e.value.status == 403


def test_no_key_is_needed_until_one_exists_and_for_ever_after(file: Path) -> None:
    door = Keys(file)
    assert door.admit(None, "flights", "admin") is None and not door.needed("flights")
    key, secret = create(file, "flights", "predict", expires="1h")
    revoke(file, key.id)
    door = Keys(file)
    assert door.needed("flights") and not door.needed("housing")
    assert door.admit(None, "housing", "predict") is None
    for header in (None, bearer(secret)):
        with pytest.raises(Unauthorized) as e:
            door.admit(header, "flights", "predict")
        assert (e.value.status, dict(e.value.headers)[b"www-authenticate"][:6]) == (401, b"Bearer")


def test_where_keys_are_required_nobody_gets_in_without(file: Path) -> None:
    door = Keys(file, required=True)
    assert door.needed("flights")
    for header in (None, b"Bearer dx_00000000_x"):
        with pytest.raises(Unauthorized):
            door.admit(header, "flights", "predict")


def test_a_running_server_sees_new_revoked_and_vanished_keys(file: Path) -> None:
    door = Keys(file, required=True)

    def let_in(secret: str) -> bool:
        try:
            return door.admit(bearer(secret), "flights", "predict") is not None
        except Refused:
            return False

    key, secret = create(file, "flights", "predict")
    until(lambda: let_in(secret), 2)
    revoke(file, key.id)
    until(lambda: not let_in(secret), 2)
    _, secret = create(file, "flights", "predict")
    until(lambda: let_in(secret), 2)
    file.unlink()
    until(lambda: not let_in(secret), 2)


def test_an_expired_key(file: Path) -> None:
    _, secret = create(file, "flights", "predict", expires="30d")
    change(file, expires=(now() - timedelta(seconds=1)).isoformat())
    assert [key.state for key in listed(file)] == ["expired"]
    with pytest.raises(Unauthorized, match="is expired"):
        Keys(file).admit(bearer(secret), "flights", "predict")
    assert "expired" in repr(listed(file))


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda b: b"Bearer " + b))
def test_no_guess_gets_in(tmp_path_factory: pytest.TempPathFactory, guess: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "guessed.json"
    if not file.exists():
        create(file, "flights", "predict")
    with pytest.raises(Unauthorized):
        Keys(file).admit(guess, "flights", "predict")


def test_near_misses(file: Path) -> None:
    key, secret = create(file, "flights", "predict")
    other, _ = create(file, "flights", "predict")
    door = Keys(file)
    assert door.admit(b"bEARER " + secret.encode(), "flights", "predict") == key  # schemes know no case (RFC 9110)
    swapped = secret.replace(key.id, other.id)
    for wrong in (secret[:-1], secret + "=", secret.upper(), swapped, f" {secret}", f"{secret} ", key.id, "dx_"):
        with pytest.raises(Unauthorized, match="not known"):
            door.admit(bearer(wrong), "flights", "predict")
    with pytest.raises(Unauthorized, match="is needed"):
        door.admit(f"Basic {secret}".encode(), "flights", "predict")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format": 2, "keys": []}',
        b'{"format": 1, "keys": [{}]}',
        {"role": "root"},
        {"rate": "many"},
        {"slot": "first"},
        {"expires": "tomorrow"},
        {"revoked": 1e300},
    ],
    ids=str,
)
def test_damaged_files_let_nobody_in_until_they_are_mended(
    file: Path, caplog: pytest.LogCaptureFixture, content: Any
) -> None:
    key, secret = create(file, "flights", "admin")
    good = file.read_bytes()
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        change(file, **content)
    door = Keys(file)
    assert door.needed("flights") and door.needed("housing")
    for header in (None, bearer(secret)):
        for model in ("flights", "housing"):
            with pytest.raises(Unreadable) as e:
                door.admit(header, model, "predict")
            assert e.value.status == 503 and str(file) not in str(e.value)
    assert [record.name for record in caplog.records] == ["deploy_ext"]
    file.write_bytes(good)

    def mended() -> bool:
        try:
            return door.admit(bearer(secret), "flights", "predict") == key
        except Unreadable:
            return False

    until(mended, 2)


def test_a_file_that_cannot_be_read(file: Path) -> None:
    file.mkdir()
    with pytest.raises(Unreadable, match="cannot be read"):
        listed(file)
    with pytest.raises(Unreadable):
        Keys(file).admit(None, "flights", "predict")


def test_a_stored_hash_that_is_none(file: Path) -> None:
    _, secret = create(file, "flights", "predict")
    told = json.loads(file.read_text())
    told["keys"][0]["sha256"] = "nonsense"
    file.write_text(json.dumps(told))
    with pytest.raises(Unreadable):
        Keys(file).admit(bearer(secret), "flights", "predict")


def test_keys_made_at_once_are_all_there(file: Path) -> None:
    code = "import sys; from pathlib import Path; from deploy_ext.serve.keys import create\n"
    code += "for _ in range(20): create(Path(sys.argv[1]), 'flights', 'predict')"
    makers = [subprocess.Popen([sys.executable, "-c", code, str(file)]) for _ in range(4)]
    assert [maker.wait(60) for maker in makers] == [0] * 4
    made = listed(file)
    assert len({key.id for key in made}) == 80 and sorted(key.slot for key in made) == list(range(80))


def test_slots_stay_and_are_reused_only_when_none_is_left(file: Path) -> None:
    first, _ = create(file, "flights", "predict")
    second, _ = create(file, "flights", "predict")
    revoke(file, second.id)
    assert create(file, "flights", "predict")[0].slot == 2
    told = json.loads(file.read_text())
    stored = told["keys"][0]
    told["keys"] += [{**stored, "key": {**stored["key"], "slot": i}} for i in range(3, SLOTS)]
    file.write_text(json.dumps(told))
    assert create(file, "flights", "predict")[0].slot == second.slot
    with pytest.raises(InvalidRequest, match="Revoke one"):
        create(file, "flights", "predict")
    assert next(key for key in listed(file) if key.id == first.id).slot == 0


def test_fewer_cells_than_slots(file: Path) -> None:
    for _ in range(3):
        _, secret = create(file, "flights", "predict", rate="1/h")
    door = Keys(file, memoryview(bytearray(16)).cast("d"))
    assert door.admit(bearer(secret), "flights", "predict")
    with pytest.raises(TooMany):
        door.admit(bearer(secret), "flights", "predict")


def test_the_secret_is_nowhere(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key, secret = create(file, "flights", "predict", expires="30d", rate="1/h", by="ann")
    door, errors = Keys(file), []
    for role in ("predict", "predict", "admin"):
        try:
            door.admit(bearer(secret), "flights", role)
        except Refused as e:
            errors.append(repr(e) + str(e) + str(e.headers))
    stored = json.loads(file.read_text())["keys"][0]["sha256"]
    shown = [repr(key), key._repr_html_(), key.to_json(), repr(listed(file)), repr(door), caplog.text, *errors]
    shown += [file.read_text()]
    assert len(errors) == 2
    assert not any(secret in text or secret[12:] in text for text in shown)
    assert not any(stored in text for text in shown[:-1])
    assert math.log2(64) * len(secret[12:]) == 192
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_typed_wrong_changes_nothing(file: Path) -> None:
    create(file, "flights", "predict")
    before = file.read_bytes()
    wrong: list[dict[str, Any]] = [{"model": "fl ights"}, {"model": "flights/3"}, {"model": "*"}, {"role": "Predict"}]
    wrong += [{"expires": "soon"}, {"rate": "fast"}]
    for fields in wrong:
        with pytest.raises(InvalidRequest):
            create(file, **({"model": "flights", "role": "predict"} | fields))
    with pytest.raises(InvalidRequest, match="no key"):
        revoke(file, "00000000")
    assert file.read_bytes() == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written"):
        keys.create(tmp_path / "nowhere" / "keys.json", "flights", "predict")
