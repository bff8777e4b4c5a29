"""A running endpoint, attacked on purpose: whatever is sent, it says what is wrong, goes on, and tells no secret."""

from __future__ import annotations

import contextlib
import copy
import gzip
import http.client
import json
import math
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from stories import clone, processes, until

import deploy_ext
from deploy_ext.core import write_atomic
from deploy_ext.serve import keys
from deploy_ext.serve.openapi import OPERATIONS

pytestmark = pytest.mark.server
SETTINGS = """read_timeout = 2.0
max_connections = 60
max_rows = 1000
"""
HANG = 30.0  # seconds after which no answer is a hang
SECRET = "zebra-in-the-rows"  # must not be found in a log
JSON_TYPE = {"Content-Type": "application/json"}
REFUSED = {400, 422}


# the endpoint


def rows(count: int = 200) -> pd.DataFrame:
    """A column of every type that a contract knows, and whether the flight was late."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "delay": rng.normal(10, 25, count).round(1),
            "hour": rng.integers(5, 24, count),
            "carrier": rng.choice(["AA", "B6", "UA"], count),
            "note": rng.choice(["fog in the morning", "nothing to tell", "a storm, and snow"], count) + " \u00fc",
            "cancelled": rng.random(count) > 0.9,
            "when": pd.date_range("2013-01-01", periods=count, freq="h"),
        }
    )
    frame.loc[3, "delay"] = np.nan
    return frame.assign(late=frame.delay.fillna(0) + frame.hour > 25)


def fitted() -> Any:
    frame = rows()
    columns = make_column_transformer(
        (SimpleImputer(), ["delay", "hour"]),
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
        (TfidfVectorizer(), "note"),
        ("passthrough", ["cancelled"]),
    )
    return make_pipeline(columns, LogisticRegression()).fit(frame.drop(columns="late"), frame.late)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


@dataclass
class Target:
    """An endpoint and a connection to it."""

    folder: Path
    address: tuple[str, int]
    workers: set[int]
    connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection(*self.address, timeout=HANG)

    def send(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST") -> Answer:
        """An answer, which is JSON, tells who gave it, and is never a 500."""
        answer = self._once(path, body, JSON_TYPE if headers is None else headers, method)
        assert answer.status < 500, answer
        assert answer.headers["content-type"] == "application/json", answer
        if answer.status >= 400:
            assert len(answer.told["error"]) < 5000
        return answer

    def _once(self, path: str, body: bytes, headers: dict[str, str], method: str, again: bool = True) -> Answer:
        try:
            self.connection.request(method, path, body, headers)
            reply = self.connection.getresponse()
            return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        except ConnectionError:
            self.connection.close()
            if not again:  # once it may be that the connection was idle for too long
                raise
            return self._once(path, body, headers, method, again=False)

    def ask(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.send(path, json.dumps(body).encode(), headers)

    def infer(self, body: Any) -> Answer:
        return self.ask("/v2/models/flights/infer", body)

    def alive(self) -> None:
        """It still answers, and with the processes that it had."""
        answer = self.ask("/invocations", RECORDS)
        assert (answer.status, len(answer.told["predictions"])) == (200, 2), answer
        assert self.workers == worker_ids(self.folder)

    def raw(self, *parts: bytes, seconds: float = HANG) -> bytes:
        """Everything that comes back for bytes on a connection of their own, until it is closed or silent."""
        heard = b""
        with socket.create_connection(self.address, timeout=seconds) as line, contextlib.suppress(OSError):
            for part in parts:
                line.sendall(part)
            while chunk := line.recv(65536):
                heard += chunk
                line.settimeout(0.3)
        return heard


def worker_ids(folder: Path) -> set[int]:
    """The processes that answer: children of supervisors."""
    found = {p.pid: p for p in processes(folder)}
    workers = set()
    for pid, process in found.items():
        with contextlib.suppress(psutil.Error):
            if process.ppid() in found:
                workers.add(pid)
    return workers


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the version flights/1."""
    folder = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        deploy_ext.register(fitted(), "flights", rows(), "late", range=("delay=-60..600",), only=("carrier",))
    return folder


@contextlib.contextmanager
def endpoint(registered: Path, folder: Path) -> Iterator[Target]:
    """The endpoint of flights/1, started by the verb as users start it, in a project of its own."""
    clone(registered, folder)
    (folder / "deploy.toml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        patch.chdir(folder)
        found = deploy_ext.up("flights/1")
        host, _, port = found.url.removeprefix("http://").partition(":")
        try:
            yield Target(folder, (host, int(port)), worker_ids(folder))
        finally:
            for process in processes(folder):
                process.kill()


@pytest.fixture(scope="module")
def target(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """An endpoint without keys, for all tests; each one leaves it alive."""
    with endpoint(registered, tmp_path_factory.mktemp("attacked")) as found:
        yield found


@pytest.fixture(autouse=True)
def _alive(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "target" in request.fixturenames:
        request.getfixturevalue("target").alive()


# requests as they should be

COLUMNS: dict[str, list[Any]] = {
    "delay": [12.5, None],
    "hour": [8, 23],
    "carrier": ["AA", "UA"],
    "note": [SECRET, "fog"],
    "cancelled": [False, True],
    "when": ["2013-01-01T05:00:00", "2013-01-02T05:00:00"],
}
KINDS = {"delay": "FP64", "hour": "INT64", "carrier": "BYTES", "note": "BYTES", "cancelled": "BOOL", "when": "BYTES"}
LINES = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
RECORDS = {"dataframe_records": LINES}
SPLIT = {"dataframe_split": {"columns": list(COLUMNS), "data": [list(line.values()) for line in LINES]}}
TENSORS = [{"name": n, "shape": [2], "datatype": KINDS[n], "data": v} for n, v in COLUMNS.items()]
INFER = {"id": "mine", "inputs": TENSORS, "outputs": [{"name": "predict"}, {"name": "probabilities"}]}
FEEDBACK = {"feedback": [{"prediction_id": "0-0", "outcome": True}]}
GOOD = {
    "records": ("/invocations", RECORDS),
    "split": ("/invocations", SPLIT),
    "instances": ("/invocations", {"instances": LINES, "params": {}}),
    "inputs": ("/invocations", {"inputs": COLUMNS}),
    "infer": ("/v2/models/flights/infer", INFER),
    "feedback": ("/v2/models/flights/feedback", FEEDBACK),
    "index": ("/v2/repository/index", {"ready": True}),
}
PATHS = sorted({path for path, _ in GOOD.values()})


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_request_is_answered(target: Target, kind: str) -> None:
    assert target.ask(*GOOD[kind]).status == 200


# bodies that are none

HOSTILE = [
    "",
    "\x00",
    "\ud800",
    "\u202e",
    "\r\nX-Evil: 1",
    "../../etc/passwd",
    "%2e%2e%2f",
    "'; drop table flights; --",
    "<script>",
    "{{7*7}}",
    "x" * 100_000,
    "\U0001f600" * 1000,
    "e\u0301\u200d\ufeff",
]
WORDS = st.text(max_size=20) | st.sampled_from(HOSTILE)
HUGE = [10**400, -(10**400), 2**63, 2**64, -(2**63) - 1, 2**53 + 1, 1e308, -0.0, 5e-324, math.nan, math.inf, -math.inf]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(HUGE) | WORDS
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=12)
FEW = settings(max_examples=60)
CLIENT_FAULTS = {200, 400, 413, 422}


@FEW
@given(path=st.sampled_from(PATHS), body=ANYTHING)
def test_any_json(target: Target, path: str, body: Any) -> None:
    assert target.ask(path, body).status in CLIENT_FAULTS


@FEW
@given(path=st.sampled_from(PATHS), body=st.binary(max_size=200))
@example("/invocations", b"\xff\xfe{\x00}\x00")
@example("/invocations", b"\xef\xbb\xbf{}")
def test_any_bytes(target: Target, path: str, body: bytes) -> None:
    assert target.send(path, body).status in CLIENT_FAULTS


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key or index below `node`."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from places(node[key])


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, Any]:
    """A good request with one thing in it replaced, removed, renamed or doubled."""
    path, body = copy.deepcopy(GOOD[draw(st.sampled_from(sorted(GOOD)))])
    holder, key = draw(st.sampled_from(list(places(body))))
    how = draw(st.sampled_from(["replace", "remove", "rename", "double"]))
    if how == "replace":
        holder[key] = draw(ANYTHING)
    elif how == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[draw(WORDS)] = holder.pop(key) if how == "rename" else holder[key]
    return path, body


@settings(max_examples=300)
@given(spoilt())
def test_a_good_request_with_one_wrong_thing(target: Target, request_: tuple[str, Any]) -> None:
    answer = target.ask(*request_)
    assert answer.status in CLIENT_FAULTS
    if answer.status == 422:
        assert answer.told["faults"]


@pytest.mark.parametrize("kind", sorted(GOOD))
@pytest.mark.parametrize("word", ["x" * 100_000, "\U0001f600" * 30_000])
def test_an_endless_word_anywhere(target: Target, kind: str, word: str) -> None:
    """As every value, and as every name: the answer stays short."""
    path, body = GOOD[kind]
    for number, (holder, key) in enumerate(places(body)):
        as_value = copy.deepcopy(body)
        list(places(as_value))[number][0][key] = word
        bodies = [as_value]
        if isinstance(holder, dict):
            as_name = copy.deepcopy(body)
            twin = list(places(as_name))[number][0]
            twin[word] = twin.pop(key)
            bodies += [as_name, as_value | {word: 1}]
        for one in bodies:
            answer = target.ask(path, one)
            assert answer.status in CLIENT_FAULTS and (answer.status == 200 or len(answer.body) < 12_000)


@FEW
@given(kind=st.sampled_from(sorted(GOOD)), cut=st.floats(0, 1), flip=st.none() | st.integers(0, 255))
def test_truncated_and_damaged(target: Target, kind: str, cut: float, flip: int | None) -> None:
    path, body = GOOD[kind]
    sent = bytearray(json.dumps(body).encode())
    if flip is None:
        sent = sent[: int(cut * len(sent))]
    else:
        sent[int(cut * (len(sent) - 1))] = flip
    assert target.send(path, bytes(sent)).status in CLIENT_FAULTS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"inputs":[', b'{"dataframe_records":[{"delay":['])
def test_nested_deeply(target: Target, path: str, opening: bytes) -> None:
    assert target.send(path, opening * 200_000).status == 400


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 400, "0x10", "01", ".5", "1_0", '"1"']
)
@pytest.mark.parametrize("column", ["delay", "hour", "cancelled"])
def test_numbers_that_are_none(target: Target, column: str, number: str) -> None:
    mark = json.dumps(COLUMNS[column][0])
    for path, body in (GOOD["records"], GOOD["infer"]):
        one = copy.deepcopy(body)
        holder = one["inputs"][list(COLUMNS).index(column)]["data"] if "inputs" in one else one["dataframe_records"][0]
        holder[column if isinstance(holder, dict) else 0] = "HERE"
        sent = json.dumps(one).replace('"HERE"', number).encode()
        assert target.send(path, sent).status in REFUSED, (mark, sent)


# tensors

WRONG_TENSORS: dict[str, dict[str, Any]] = {
    "no shape": {"shape": []},
    "no rows": {"shape": [0], "data": []},
    "negative": {"shape": [-2]},
    "negative twice": {"shape": [-1, -2]},
    "too few": {"shape": [3]},
    "too many": {"shape": [1]},
    "three sides": {"shape": [1, 2, 1]},
    "immense": {"shape": [2**62, 2**62]},
    "beyond 64 bits": {"shape": [10**30]},
    "halves": {"shape": [2.5]},
    "text": {"shape": "2"},
    "wide": {"shape": [1, 2], "data": [[1, 2]]},
    "ragged": {"shape": [2, 2], "data": [[1], [2, 3]]},
    "nested": {"data": [[8], [[23]]]},
    "objects": {"data": [{}, {}]},
    "no data": {"data": None},
    "a word": {"data": "8, 23"},
    "datatype of another": {"datatype": "BYTES"},
    "too small a datatype": {"datatype": "INT8", "data": [8, 300]},
    "unsigned": {"datatype": "UINT8", "data": [8, -1]},
    "bool": {"datatype": "BOOL", "data": [True, False]},
    "no datatype": {"datatype": ""},
    "unknown datatype": {"datatype": "FP8\u0000"},
    "lower case": {"datatype": "int64"},
    "another name": {"name": "Hour"},
    "no name": {"name": ""},
    "name of another": {"name": "delay"},
}


@pytest.mark.parametrize("change", WRONG_TENSORS.values(), ids=list(WRONG_TENSORS))
def test_a_tensor_that_is_wrong(target: Target, change: dict[str, Any]) -> None:
    tensors = [tensor | change if tensor["name"] == "hour" else tensor for tensor in TENSORS]
    assert target.infer({"inputs": tensors}).status in REFUSED


WRONG_REQUESTS: dict[str, dict[str, Any]] = {
    "no inputs": {"inputs": []},
    "a column too few": {"inputs": TENSORS[1:]},
    "a column twice": {"inputs": [*TENSORS, TENSORS[0]]},
    "all twice": {"inputs": TENSORS * 2},
    "a thousand columns": {"inputs": [{**TENSORS[0], "name": f"c{i}"} for i in range(1000)]},
    "one tensor for all": {"inputs": [{"name": "x", "shape": [1, 6], "datatype": "FP64", "data": [0] * 6}]},
    "an unknown output": {"inputs": TENSORS, "outputs": [{"name": "weights"}]},
    "an id that is no text": {"inputs": TENSORS, "id": {"a": 1}},
    "a long name": {"inputs": [TENSORS[0] | {"name": "x" * 100_000, "shape": [0]}]},
    "a long datatype": {"inputs": [TENSORS[0] | {"datatype": "x" * 100_000}]},
}


@pytest.mark.parametrize("body", WRONG_REQUESTS.values(), ids=list(WRONG_REQUESTS))
def test_tensors_that_do_not_fit_together(target: Target, body: dict[str, Any]) -> None:
    assert target.infer(body).status in REFUSED


def packed(name: str, values: list[Any]) -> bytes:
    """Values as the binary tensor data extension has them: little endian, text with its length before it."""
    if KINDS[name] != "BYTES":
        return np.array(values, {"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}[KINDS[name]]).tobytes()
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


def binary(**change: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """Headers and body of a good request in binary, where tensors of these names are changed; `blob` is their data."""
    tensors, blobs = [], []
    for name, values in COLUMNS.items():
        blob = packed(name, [0.0 if v is None else v for v in values])
        own = dict(change.get(name, {}))
        blobs.append(own.pop("blob", blob))
        told = {"binary_data_size": own.pop("size", len(blobs[-1]))}
        tensors.append({"name": name, "shape": [2], "datatype": KINDS[name], "parameters": told} | own)
    head = json.dumps({"inputs": tensors}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return headers, head + b"".join(blobs)


def test_binary_tensors(target: Target) -> None:
    headers, body = binary()
    assert target.send("/v2/models/flights/infer", body, headers).status == 200


LONG = struct.pack("<I", 0xFFFFFFFF)
WRONG_BINARY: dict[str, dict[str, dict[str, Any]]] = {
    "size too large": {"hour": {"size": 10**18}},
    "size beyond the body": {"when": {"size": 10_000}},
    "size too small": {"hour": {"size": 8}},
    "size not a multiple": {"hour": {"blob": b"\x00" * 15}},
    "no bytes": {"hour": {"blob": b""}},
    "negative size": {"hour": {"size": -16}},
    "size as text": {"hour": {"size": "16"}},
    "size as a half": {"hour": {"size": 16.5}},
    "size is huge": {"hour": {"size": 10**400}},
    "a text of four gigabytes": {"note": {"blob": LONG + b"a" + LONG}},
    "a text cut off": {"note": {"blob": b"\x05\x00\x00\x00abc"}},
    "a length cut off": {"note": {"blob": b"\x01\x00\x00\x00a\x01\x00"}},
    "texts too many": {"note": {"blob": b"\x00\x00\x00\x00" * 3}},
    "text that is no text": {"note": {"blob": b"\x02\x00\x00\x00\xff\xfe" * 2}},
    "a bool of 7": {"cancelled": {"blob": b"\x07\x00", "datatype": "INT8"}},
    "shape too large": {"hour": {"shape": [2**40]}},
    "another datatype": {"hour": {"datatype": "FP16"}},
    "infinity": {"delay": {"blob": struct.pack("<dd", math.inf, 0.0)}},
    "data and bytes": {"hour": {"data": [1, 2]}},
}


@pytest.mark.parametrize("change", WRONG_BINARY.values(), ids=list(WRONG_BINARY))
def test_binary_tensors_that_are_wrong(target: Target, change: dict[str, Any]) -> None:
    headers, body = binary(**change)
    assert target.send("/v2/models/flights/infer", body, headers).status in REFUSED


@pytest.mark.parametrize("length", ["-1", "0", "1", "abc", "", "+20", "1e3", "9" * 400, "0x10", "99999", " ", "1, 2"])
def test_header_lengths_that_are_wrong(target: Target, length: str) -> None:
    headers, body = binary()
    for path in ("/v2/models/flights/infer", "/invocations"):
        answer = target.send(path, body, headers | {"Inference-Header-Content-Length": length})
        assert answer.status in REFUSED, path


@FEW
@given(place=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_binary(target: Target, place: float, value: int, cut: bool) -> None:
    headers, body = binary()
    damaged = bytearray(body)
    damaged[int(place * (len(body) - 1))] = value
    sent = bytes(damaged[: int(place * len(body))] if cut else damaged)
    assert target.send("/v2/models/flights/infer", sent, headers).status in CLIENT_FAULTS


# words


@FEW
@given(word=WORDS)
@example("\r\nX-Evil: 1\r\n\r\n")
@example("\ud800")
def test_unicode_in_every_string(target: Target, word: str) -> None:
    bodies = [
        {"dataframe_records": [LINES[0] | {"note": word}]},
        {"dataframe_records": [LINES[0] | {"carrier": word}]},
        {"dataframe_records": [LINES[0] | {"when": word}]},
        {"dataframe_records": [LINES[0] | {word: 1}]},
        {"dataframe_split": {"columns": [word] * 6, "data": [[1] * 6]}},
        {"inputs": COLUMNS, "params": {word: word}},
    ]
    for body in bodies:
        assert target.ask("/invocations", body).status in {200, *REFUSED}
    tensors = [
        INFER | {"id": word},
        INFER | {"outputs": [{"name": word}]},
        INFER | {"parameters": {word: word}},
        INFER | {"inputs": [*TENSORS[1:], TENSORS[0] | {"name": word}]},
        INFER | {"inputs": [*TENSORS[1:], TENSORS[0] | {"datatype": word}]},
    ]
    for body in tensors:
        answer = target.infer(body)
        assert answer.status in {200, *REFUSED} and "x-evil" not in answer.headers
    for outcome in ({"prediction_id": word, "outcome": True}, {"prediction_id": "a-0", "outcome": word}):
        assert target.ask("/v2/models/flights/feedback", outcome).status in {200, *REFUSED}


CSV = "delay,hour,carrier,note,cancelled,when\n12.5,8,AA,fog,False,2013-01-01T05:00:00\n"
WRONG_CSV = {
    "nothing": b"",
    "no rows": CSV.partition("\n")[0].encode(),
    "an open quote": CSV.replace("fog", '"fog').encode(),
    "a zero byte": CSV.replace("fog", "f\x00g").encode(),
    "not UTF-8": CSV.encode() + b"1,2,AA,\xff\xfe,True,2013-01-01\n",
    "ragged": CSV.encode() + b"1,2\n",
    "longer rows": CSV.encode() + b"1,2,AA,x,True,2013-01-01,9,9\n",
    "names twice": CSV.replace("hour", "delay").encode(),
    "many columns": b",".join(b"c%d" % i for i in range(20_000)) + b"\n1\n",
    "lone carriage returns": CSV.replace("\n", "\r").replace("fog", "f\rog").encode(),
    "a long field": CSV.replace("fog", "x" * 200_000).encode(),
}


@pytest.mark.parametrize("body", WRONG_CSV.values(), ids=list(WRONG_CSV))
def test_csv(target: Target, body: bytes) -> None:
    answer = target.send("/invocations", body, {"Content-Type": "text/csv"})
    assert answer.status in CLIENT_FAULTS


@pytest.mark.parametrize(
    "kind", ["text/csv; charset=utf-16", "text/csv; charset=nonsense", "", "x" * 2000, "application/json; charset=\xff"]
)
def test_content_types(target: Target, kind: str) -> None:
    answer = target.send("/invocations", json.dumps(RECORDS).encode(), {"Content-Type": kind})
    assert answer.status in {200, 400, 415, 422}


# large, compressed and slow


def test_too_many_rows(target: Target) -> None:
    assert target.ask("/invocations", {"dataframe_records": LINES[:1] * 1001}).status == 413
    many = [{**tensor, "shape": [1001], "data": tensor["data"][:1] * 1001} for tensor in TENSORS]
    assert target.infer({"inputs": many}).status == 413
    assert (
        target.send("/invocations", (CSV + CSV.partition("\n")[2] * 1000).encode(), {"Content-Type": "text/csv"}).status
        == 413
    )


def head(*headers: str, path: str = "/invocations") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode("latin-1")


def status(heard: bytes) -> int:
    """The status of the one answer that was heard; 0 for none."""
    found = re.findall(rb"HTTP/1\.[01] (\d{3})", heard)
    assert len(found) <= 1, heard
    return int(found[0]) if found else 0


def test_fifty_megabytes(target: Target) -> None:
    before = [psutil.Process(pid).memory_info().rss for pid in sorted(target.workers)]
    block = b" " * 1_000_000
    assert status(target.raw(head("Content-Length: 50000000"))) == 413  # before a byte of it was sent
    with socket.create_connection(target.address, timeout=HANG) as line:
        line.sendall(head("Transfer-Encoding: chunked"))
        with contextlib.suppress(OSError):  # it may hang up on us
            for _ in range(50):
                line.sendall(b"%x\r\n%b\r\n" % (len(block), block))
        heard = b""
        with contextlib.suppress(OSError):
            heard = line.recv(4096)
    assert status(heard) in {413, 0}
    after = [psutil.Process(pid).memory_info().rss for pid in sorted(target.workers)]
    assert sum(after) - sum(before) < 300e6


@pytest.mark.parametrize("path", PATHS)
def test_a_bomb(target: Target, path: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert target.send(path, bomb, JSON_TYPE | {"Content-Encoding": "gzip"}).status in {400, 413}


def test_compressed_bodies(target: Target) -> None:
    good = gzip.compress(json.dumps(RECORDS).encode())
    zipped = JSON_TYPE | {"Content-Encoding": "gzip"}
    assert target.send("/invocations", good, zipped).status == 200
    for wrong in (good[:-9], good[:20], b"", b"\x1f\x8b", b"PK", good[:10] + b"\xff" * 50):
        assert target.send("/invocations", wrong, zipped).status == 400
    for encoding in ("br", "gzip, gzip", "deflate", "\xff", "x" * 1000):
        assert target.send("/invocations", good, JSON_TYPE | {"Content-Encoding": encoding}).status in {400, 415}


@pytest.mark.parametrize(
    "flood",
    [["A: " + "x" * 1_000_000], [f"X-{i}: {i}" for i in range(5000)], ["X" * 500_000 + ": 1"]],
    ids=["long", "many", "name"],
)
def test_header_floods(target: Target, flood: list[str]) -> None:
    assert status(target.raw(head(*flood, "Content-Length: 2"), b"{}")) in {431, 400, 0}


def test_an_endless_header(target: Target) -> None:
    end, line_of_head = time.monotonic() + HANG, b"X: " + b"y" * 1000 + b"\r\n"
    with socket.create_connection(target.address, timeout=HANG) as line, contextlib.suppress(OSError):
        line.sendall(b"GET /ping HTTP/1.1\r\nHost: here\r\n")
        while time.monotonic() < end:
            line.sendall(line_of_head)
    assert time.monotonic() < end, "it still listens"


SLOW = {
    "nothing": b"",
    "half a line": b"POST /invoc",
    "half a head": b"POST /invocations HTTP/1.1\r\nHost: here\r\n",
    "no body": head("Content-Length: 100"),
    "half a body": head("Content-Length: 100") + b'{"dataframe_rec',
    "half a chunk": head("Transfer-Encoding: chunked") + b"10\r\n{",
}


def test_slow_clients_are_cut_off_and_delay_nobody(target: Target) -> None:
    lines = [socket.create_connection(target.address, timeout=HANG) for _ in range(4) for _ in SLOW]
    for line, start in zip(lines, list(SLOW.values()) * 4, strict=True):
        line.sendall(start)
    assert target.ask("/invocations", RECORDS).status == 200
    for line, kind in zip(lines, list(SLOW) * 4, strict=True):
        if kind != "nothing":  # nobody has to say something: it is kept as an idle connection is
            with line, contextlib.suppress(ConnectionError):
                assert status(heard(line)) in {408, 400, 0}, kind
        line.close()


def heard(line: socket.socket) -> bytes:
    """What is said on the connection until the server closes it. Raises `TimeoutError` when it does not."""
    told = b""
    while chunk := line.recv(65536):
        told += chunk
    return told


@pytest.mark.parametrize(
    "start", [b"POST /invocations HTTP/1.1\r\nX: ", head("Content-Length: 100000")], ids=["head", "body"]
)
def test_dripping_does_not_win_time(target: Target, start: bytes) -> None:
    end = time.monotonic() + HANG
    with socket.create_connection(target.address, timeout=HANG) as line:
        line.sendall(start)
        line.settimeout(0.2)
        while time.monotonic() < end:
            try:
                line.sendall(b"a")
                if line.recv(4096) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("it still listens")


def test_a_client_that_does_not_read(target: Target) -> None:
    tensors = [{**tensor, "shape": [1000], "data": tensor["data"][:1] * 1000} for tensor in TENSORS]
    body = json.dumps({"inputs": tensors}).encode()
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(1)
        line.connect(target.address)
        with pytest.raises(OSError):  # the server stops to read, or hangs up
            for _ in range(1000):
                line.sendall(head(f"Content-Length: {len(body)}", path="/v2/models/flights/infer") + body)
        target.alive()


def test_too_many_connections(target: Target) -> None:
    lines = [socket.create_connection(target.address, timeout=HANG) for _ in range(150)]
    try:
        for line in lines:
            with contextlib.suppress(OSError):
                line.sendall(b"GET /ping HTTP/1.1\r\nHost: here\r\n\r\n")
        told = []
        for line in lines:
            with contextlib.suppress(OSError):
                told.append(status(line.recv(4096)))
        assert 1 <= told.count(200) <= 60 * max(1, len(target.workers))
        assert set(told) <= {200, 503, 0}
    finally:
        for line in lines:
            line.close()
        target.connection.close()
    until(lambda: _pings(target), 20)


def _pings(target: Target) -> bool:
    return status(target.raw(empty("GET", "/ping"))) == 200


# paths and HTTP itself

TRICKS = [
    "/v2/models/../../etc/passwd",
    "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/v2/models/flights/../../../.deploy/keys.json",
    "/v2/models/flights%2Finfer",
    "/v2/models/flights%00/infer",
    "/v2/models/flights;x/infer",
    "/v2/models//infer",
    "//v2//models//flights",
    "/v2/models/" + "a" * 5000,
    "/v2/models/%ff%fe/ready",
    "/v2/models/%F0%9F%98%80",
    "/v2/models/{name}/ready",
    "/v2/models/flights/versions/-1",
    "/v2/models/flights/versions/01",
    "/v2/models/flights/versions/" + "9" * 400,
    "/v2/models/flights/versions/%D9%A1",
    "/v2/models/FLIGHTS",
    "/v2/models/flights/",
    "/docs/../openapi.json",
    "/static/x",
    "/.deploy/keys.json",
    "*",
    "http://elsewhere/ping",
    "?",
    "/ping%0d%0aX-Evil:%201",
    "/v2/models/'%3E%3Cscript%3E",
]


def empty(method: str, path: str) -> bytes:
    """A request without a body, after which the connection is closed."""
    return f"{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", TRICKS)
def test_paths(target: Target, path: str, method: str) -> None:
    told = target.raw(empty(method, path))
    known = {200} if path == "http://elsewhere/ping" else set()  # the absolute form of a path, as proxies write it
    assert status(told) in {400, 404, 405, 431, *known}, told
    assert b"X-Evil" not in told.partition(b"\r\n\r\n")[0] and b"root:" not in told


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "x" * 100])
@pytest.mark.parametrize("path", ["/invocations", "/v2/models/flights/infer", "/ping", "/metrics"])
def test_methods(target: Target, path: str, method: str) -> None:
    told = target.raw(empty(method, path))
    assert status(told) in {400, 404, 405, 501}, told


HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
BROKEN_HTTP = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 160,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /ping\r\n\r\n",
    "HTTP/9": b"GET /ping HTTP/9.9\r\nHost: here\r\n\r\n",
    "two lengths": head("Content-Length: 2", "Content-Length: 50") + b"{}" + HIDDEN,
    "length and chunks": head("Content-Length: 2", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN,
    "chunks in disguise": head("Transfer-Encoding: xchunked", "Content-Length: 2") + b"{}" + HIDDEN,
    "negative length": head("Content-Length: -1") + b"{}",
    "length with a sign": head("Content-Length: +2") + b"{}",
    "length beyond numbers": head("Content-Length: " + "9" * 400) + b"{}",
    "chunk of minus one": head("Transfer-Encoding: chunked") + b"-1\r\n{}\r\n0\r\n\r\n",
    "chunk beyond numbers": head("Transfer-Encoding: chunked") + b"f" * 100 + b"\r\n{}\r\n",
    "a folded header": b"GET /ping HTTP/1.1\r\nHost: here\r\nA: b\r\n c: d\r\n\r\n",
    "a header without name": b"GET /ping HTTP/1.1\r\n: here\r\n\r\n",
    "a zero in a header": b"GET /ping HTTP/1.1\r\nHost: he\x00re\r\n\r\n",
    "upgrade": b"GET /ping HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "bytes": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("sent", BROKEN_HTTP.values(), ids=list(BROKEN_HTTP))
def test_broken_http(target: Target, sent: bytes) -> None:
    told = target.raw(sent, seconds=5)
    assert not re.search(rb"HTTP/1\.[01] 5\d\d", told), told
    assert b"deploy_ext_requests_total" not in told  # a request hidden in another one


@FEW
@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_on_the_line(target: Target, sent: bytes, framed: bool) -> None:
    told = target.raw((b"POST /invocations HTTP/1.1\r\n" if framed else b"") + sent + b"\r\n\r\n", seconds=1)
    assert not re.search(rb"HTTP/1\.[01] 5\d\d", told), told


def test_many_attackers_at_once(target: Target) -> None:
    """What one of them sends does not change what another is told."""
    wrong = {"dataframe_records": [LINES[0] | {"delay": "x"}]}
    seen: list[set[int]] = [set() for _ in range(8)]

    def attack(number: int) -> None:
        own = Target(target.folder, target.address, target.workers)
        for _ in range(50):
            seen[number].add(own.ask("/invocations", wrong if number % 2 else RECORDS).status)
        own.connection.close()

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [{200}, {422}] * 4


# what the document promises


KEPT = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROUTES = [
    (operation.route, mode)
    for some in OPERATIONS.values()
    for operation in some
    for mode in GenerationMode
    if not operation.route.endswith("load") and (mode.is_positive or operation.body or "{" in operation.route)
]


@pytest.fixture(scope="module")
def promised(target: Target) -> Any:
    """The server's own document."""
    schema = schemathesis.openapi.from_dict(target.send("/openapi.json", method="GET").told)
    schema.config.update(base_url="http://{}:{}".format(*target.address))
    return schema


@pytest.mark.parametrize(("route", "mode"), ROUTES)
def test_the_document_is_kept(target: Target, promised: Any, route: str, mode: GenerationMode) -> None:
    """Requests as the document allows them, or not, are answered as it says."""
    method, path = route.split()

    @settings(max_examples=15, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(promised[path][method].as_strategy(generation_mode=mode))
    def kept(case: Any) -> None:
        case.call_and_validate(checks=KEPT, timeout=HANG)

    kept()


# keys


@dataclass
class Guarded:
    """An endpoint with keys, and the keys."""

    target: Target
    secrets: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, **options: Any) -> str:
        made = deploy_ext.key_create("flights", **options)
        self.secrets[name], self.ids[name] = made.secret, made.key.id
        return made.secret

    def status(self, authorization: str | None, path: str = "/invocations", body: Any = RECORDS) -> int:
        told = {"Authorization": authorization} if authorization is not None else {}
        return self.target.ask(path, body, JSON_TYPE | told).status


@pytest.fixture(scope="module")
def guarded(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """An endpoint with a key of every role, and one of another model."""
    with endpoint(registered, tmp_path_factory.mktemp("guarded")) as found:
        door = Guarded(found)
        for role in ("predict", "feedback", "admin"):
            door.make(role, role=role)
        _, door.secrets["other"] = keys.create(found.folder / ".deploy" / "keys.json", "another", "admin")
        until(lambda: door.status(f"Bearer {door.secrets['predict']}") == 200 and door.status(None) == 401, 5)
        yield door


def test_guessing(guarded: Guarded) -> None:
    secret = guarded.secrets["predict"]
    end = secret.removeprefix(f"dx_{guarded.ids['predict']}_")  # a "_" may be in it, at its end, too
    start = secret.removesuffix(f"_{end}")
    swapped = f"dx_{guarded.ids['admin']}_{end}"
    guesses = [
        *("", "Bearer", "Bearer ", "Bearer  ", secret, f"Basic {secret}", f"Token {secret}", f"Bearer {secret}x"),
        *(f"Bearer {secret[:n]}" for n in (1, 3, len(start), len(start) + 1, len(secret) - 1)),
        *(f"Bearer {guess}" for guess in (start, end, secret.upper(), secret.swapcase(), secret[::-1], swapped)),
        *(f"Bearer {guess}" for guess in (f"{secret} {secret}", f"{secret},{secret}", "\xff", "x" * 5000, "null", "*")),
        *(f"Bearer dx_{guess}_{end}" for guess in ("", "*", "../keys", "0", "None")),
        f"Bearer {secret[:-1]}{'a' if secret[-1] != 'a' else 'b'}",
    ]
    assert {guess: guarded.status(guess) for guess in guesses} == dict.fromkeys(guesses, 401)
    reply = guarded.target.ask("/invocations", RECORDS)
    assert "bearer" in reply.headers["www-authenticate"].lower()
    assert guarded.status(f"Bearer {secret}") == 200


@settings(max_examples=100)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_categories=["Cc"]), max_size=60))
def test_guessing_at_random(guarded: Guarded, guess: str) -> None:
    assert guarded.status(f"Bearer {guess}") == 401


ROLES = {
    "predict": ("/invocations", RECORDS),
    "feedback": ("/v2/models/flights/feedback", FEEDBACK),
    "admin": ("/v2/repository/index", {}),
}
MAY = {"predict": {"predict"}, "feedback": {"feedback"}, "admin": {"predict", "feedback", "admin"}, "other": set()}


@pytest.mark.parametrize("wanted", ROLES)
@pytest.mark.parametrize("holder", MAY)
def test_roles(guarded: Guarded, holder: str, wanted: str) -> None:
    told = guarded.status(f"Bearer {guarded.secrets[holder]}", *ROLES[wanted])
    assert told == (200 if wanted in MAY[holder] else 403)


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_key_that_has_ended(guarded: Guarded, end: str) -> None:
    secret = guarded.make(end, role="predict", expires="1h")
    until(lambda: guarded.status(f"Bearer {secret}") == 200, 5)
    if end == "revoked":
        deploy_ext.key_revoke(guarded.ids[end])
    else:
        path = guarded.target.folder / ".deploy" / "keys.json"
        told = json.loads(path.read_text())
        (stored,) = [stored["key"] for stored in told["keys"] if stored["key"]["id"] == guarded.ids[end]]
        stored["expires"] = "2013-01-01T00:00:00Z"  # as if its time had come
        write_atomic(path, json.dumps(told), mode=0o600)
    until(lambda: guarded.status(f"Bearer {secret}") == 401, 5)


def test_a_key_that_is_used_too_often(guarded: Guarded) -> None:
    secret = guarded.make("limited", role="predict", rate="1/s")
    until(lambda: guarded.status(f"Bearer {secret}") == 200, 5)

    def limited() -> Answer | None:
        answer = guarded.target.ask("/invocations", RECORDS, JSON_TYPE | {"Authorization": f"Bearer {secret}"})
        return answer if answer.status == 429 else None

    assert int(until(limited, 20).headers["retry-after"]) >= 1
    assert guarded.status(f"Bearer {guarded.secrets['predict']}") == 200  # another key's limit is its own


def test_what_is_open_tells_nothing_of_the_model(guarded: Guarded) -> None:
    for path in ("/ping", "/health", "/version", "/v2/health/live", "/v2/health/ready"):
        answer = guarded.target.send(path, method="GET")
        assert answer.status == 200 and b"carrier" not in answer.body
    for path in ("/v2/models/flights", "/openapi.json"):
        assert guarded.target.send(path, method="GET").status == 401


def test_nobody_finds_out_which_models_or_keys_there_are(guarded: Guarded) -> None:
    known, unknown = ("Bearer dx_" + i + "_" + "x" * 43 for i in (guarded.ids["predict"], "nobody"))
    told = [
        guarded.target.ask("/invocations", RECORDS, JSON_TYPE | {"Authorization": a}).told for a in (known, unknown)
    ]
    assert told[0]["error"] == told[1]["error"]


def test_no_key_and_no_row_is_in_a_log(guarded: Guarded, target: Target) -> None:
    for folder in (guarded.target.folder, target.folder):
        logs = [path.read_bytes() for path in (folder / ".deploy").rglob("*.log")]
        assert logs
        for word in (SECRET, *guarded.secrets.values()):
            assert not [log for log in logs if word.encode() in log]


def test_keys_are_compared_as_digests_and_in_constant_time(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement would flake; that every comparison is one of digests by `compare_digest` is seen here."""
    import hashlib
    import hmac

    compared: list[tuple[Any, Any]] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    secret = guarded.secrets["predict"]
    known = keys.Keys(guarded.target.folder / ".deploy" / "keys.json", None)
    for guess in (secret, secret[:-1] + "!", "dx_nobody_" + "x" * 43):
        with contextlib.suppress(deploy_ext.core.DeployError):
            known.admit(f"Bearer {guess}".encode(), "flights", "predict")
    assert compared
    digest = hashlib.sha256(secret.encode())
    assert {len(side) for pair in compared for side in pair} <= {32, 64}
    assert {compared[0][0], compared[0][1]} <= {digest.digest(), digest.hexdigest()}


# and after all of it


def test_nothing_of_all_this_ended_a_worker(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(target.folder))
    (found,) = deploy_ext.status("flights/1")
    assert found.state == "ready" and found.restarts == 0


def test_nothing_of_all_this_was_an_error_of_the_server(target: Target) -> None:
    told = target.raw(empty("GET", "/metrics")).decode()
    assert re.findall(r'deploy_ext_requests_total\{.*code="5(?!03)\d\d".*\} [1-9].*', told) == []
    assert re.findall(r"^deploy_ext_worker_restarts_total (\S+)", told, re.MULTILINE) == ["0.0"]
    assert re.findall(r"^deploy_ext_journal_lost_total (\S+)", told, re.MULTILINE) == ["0.0"]
