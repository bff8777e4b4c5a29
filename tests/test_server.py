"""Clients that send too much, too slowly, or nothing, and what the others notice of them. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from stories import until

from deploy_ext.core import InvalidRequest, Settings
from deploy_ext.serve.server import FIELDS, HEAD, SMALL, guard, listen, loopback, make_server, tls

pytestmark = pytest.mark.server
WAYS = ["asgi"]
BEGIN = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
GOOD = BEGIN + b"Content-Length: 2\r\n\r\n{}"


@dataclass
class App:
    """Tells how many bytes it got. `/slow` takes its time, `/large` tells much, `/early` reads nothing."""

    seen: list[tuple[str, int | None]] = field(default_factory=list)  # None: the client left

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return self.seen.append((scope["path"], None))
            size, more = size + len(message["body"]), message["more_body"]
        self.seen.append((scope["path"], size))
        await asyncio.sleep(1.5 * (scope["path"] == "/slow"))
        body = b"x" * 50_000_000 if scope["path"] == "/large" else json.dumps({"bytes": size}).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def short(self, headers: Any, body: bytes, send: Any, source: Any) -> None:
        """The same for `/echo` by a call: every other time later."""
        self.seen.append(("/echo", len(body)))
        told = json.dumps({"bytes": len(body)}).encode()
        answer = partial(send, 200, [(b"content-length", b"%d" % len(told))], told)
        if len(self.seen) % 2:
            source.loop.call_later(0.01, answer)
        else:
            answer()


@dataclass
class Server:
    """A server in a thread."""

    address: tuple[str, int]
    app: App
    uvicorn: Any

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=20)

    def raw(self, *parts: bytes, pause: float = 0.0) -> str:
        """All that comes back, until the server hangs up, for `parts` sent with a pause between them."""
        with self.connect() as client:
            for part in parts:
                with contextlib.suppress(OSError):
                    client.sendall(part)
                time.sleep(pause)
            return rest(client)

    def works(self) -> bool:
        return httpx.post(f"http://{self.address[0]}:{self.address[1]}/echo", content=b"{}").json() == {"bytes": 2}

    @property
    def open(self) -> int:
        """Connections that it knows."""
        return len(self.uvicorn.server_state.connections)


def rest(client: socket.socket) -> str:
    """What comes until the server hangs up."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def one(client: socket.socket) -> str:
    """The status line of one answer, all of which is read."""
    told = ""
    while not told.endswith("}"):
        told += client.recv(65536).decode()
    return told.partition("\r\n")[0]


@contextlib.contextmanager
def serving(answer: Any = None, **fields: Any) -> Iterator[Server]:
    sock, running, app = listen("127.0.0.1", 0), threading.Event(), App()
    short = {b"/echo": answer or app.short} if WAYS[-1] == "short" else {}
    stamp = {"model_name": "flights", "model_version": "7"}
    server = make_server(app, running.set, Settings(**fields), stamp, short=short)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert running.wait(20)
        yield Server(sock.getsockname(), app, server)
    finally:
        server.should_exit = True
        thread.join(20)
        sock.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module", params=["asgi", "short"], autouse=True)
def way(request: Any) -> Iterator[str]:
    """How `/echo` is answered by every server that is started meanwhile."""
    WAYS.append(request.param)
    yield request.param
    WAYS.pop()


@pytest.fixture(scope="module")
def patient(way: str) -> Iterator[Server]:
    with serving(max_body=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(way: str) -> Iterator[Server]:
    """It gives its clients half a second."""
    with serving(read_timeout=0.5) as server:
        yield server


def status(answer: str) -> int:
    """The status of a refusal, which has to be whole."""
    head, _, body = answer.partition("\r\n\r\n")
    headers = dict(line.lower().split(": ") for line in head.split("\r\n")[1:])
    assert headers["connection"] == "close" and int(headers["content-length"]) == len(body.encode())
    told = json.loads(body)
    assert told["error"] and (told["model_name"], told["model_version"]) == ("flights", "7")
    return int(head.split()[1])


LARGE_HEADS = {
    "a header without end": [BEGIN + b"X: ", *[b"x" * 1000] * 40],
    "headers without end": [BEGIN, *[b"X: " + b"x" * 1000 + b"\r\n"] * 40],
    "a large header at once": [BEGIN + b"X: " + b"x" * HEAD + b"\r\n\r\n"],
    "a long path": [b"GET /" + b"x" * HEAD + b" HTTP/1.1\r\nHost: x\r\n\r\n"],
    "a path without end": [b"GET /", *[b"x" * 1000] * 40],
    "many headers": [BEGIN + b"X: x\r\n" * FIELDS + b"\r\n"],
    "after a good request": [GOOD, BEGIN + b"X: x\r\n" * FIELDS + b"\r\n"],
}


@pytest.mark.parametrize("parts", LARGE_HEADS.values(), ids=LARGE_HEADS)
def test_large_heads(patient: Server, parts: list[bytes]) -> None:
    with patient.connect() as client:
        if parts[0] == GOOD:
            client.sendall(parts.pop(0))
            assert one(client) == "HTTP/1.1 200 OK"
        with contextlib.suppress(OSError):
            for part in parts:
                client.sendall(part)
        assert status(rest(client)) == 431
    assert patient.works()


def test_a_head_within_the_limits(patient: Server) -> None:
    fields = b"X: x\r\n" * (FIELDS - 2) + b"Content-Length: 0\r\n\r\n"
    with patient.connect() as client:
        for head in (BEGIN + fields, BEGIN + b"X: " + b"x" * (HEAD - 200) + b"\r\nContent-Length: 0\r\n\r\n"):
            client.sendall(head)
            assert one(client) == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["", "expects"])
def test_a_large_body_is_refused_before_it_is_read(patient: Server, expect: bytes) -> None:
    patient.app.seen.clear()
    answer = patient.raw(BEGIN + expect + b"Content-Length: 1000001\r\n\r\n", b"x" * 1_000_001)
    assert status(answer) == 413 and "1,000,000" in answer
    assert set(patient.app.seen) <= {("/echo", None)}


def test_a_client_that_goes_on_sending_reads_why(patient: Server) -> None:
    url = f"http://{patient.address[0]}:{patient.address[1]}/echo"
    with httpx.Client() as client:
        for _ in range(3):
            reply = client.post(url, content=b"x" * 20_000_000)
            assert (reply.status_code, reply.json()["model_version"]) == (413, "7")
        assert client.post(url, content=b"x" * 1_000_000).json() == {"bytes": 1_000_000}
        assert client.post(url, content=iter([b"x" * 999_999, b"x"])).json() == {"bytes": 1_000_000}


def test_a_client_that_never_stops_sending_is_hung_up_on(patient: Server) -> None:
    with patient.connect() as client:
        client.sendall(BEGIN + b"Content-Length: 1000000000000\r\n\r\n")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 15:
                client.sendall(b"x" * 10_000)
                time.sleep(0.01)
    until(lambda: patient.open == 0)


@pytest.mark.parametrize(
    "parts",
    [
        [BEGIN],
        [BEGIN, *[b"X: x\r\n"] * 20],
        [b"G"],
        [BEGIN + b"Content-Length: 100\r\n\r\n{"],
        [BEGIN + b"Content-Length: 100\r\n\r\n", *[b"{"] * 20],
        [BEGIN + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n{\r\n"] * 20],
    ],
    ids=["head", "header by header", "a letter", "body", "byte by byte", "chunk by chunk"],
)
def test_slow_clients(hasty: Server, parts: list[bytes]) -> None:
    hasty.app.seen.clear()
    began = time.monotonic()
    assert status(hasty.raw(*parts, pause=0.1)) == 408
    assert time.monotonic() - began < 10
    assert set(hasty.app.seen) <= {("/echo", None)}  # the app is told that nothing more will come
    assert hasty.works()


@pytest.mark.parametrize("parts", [[], [b"\r\n"] * 20], ids=["nothing", "empty lines"])
def test_who_says_nothing_is_let_go_without_a_word(hasty: Server, parts: list[bytes]) -> None:
    assert hasty.raw(*parts, pause=0.1) == ""


def test_who_is_idle_or_computed_for_is_not_slow(hasty: Server) -> None:
    connection = http.client.HTTPConnection(*hasty.address, timeout=20)
    connection.request("POST", "/slow", b"{}")
    assert connection.getresponse().read() == b'{"bytes": 2}'
    time.sleep(1.6)  # three times the limit, and at least one look
    local = connection.sock.getsockname()
    connection.request("POST", "/echo", b"{}")
    assert connection.getresponse().status == 200 and connection.sock.getsockname() == local
    connection.close()


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["keep-alive", "close"])
def test_a_client_that_stops_reading_is_hung_up_on(hasty: Server, close: bytes) -> None:
    with hasty.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(BEGIN.replace(b"/echo", b"/large") + close + b"Content-Length: 0\r\n\r\n")
        assert client.recv(10).startswith(b"HTTP/1.1")
        began = time.monotonic()
        while time.monotonic() - began < 3:  # several limits long it is slow
            assert client.recv(100_000)
            time.sleep(0.02)
        assert hasty.open == 1
        until(lambda: hasty.open == 0)  # and then it stops
        assert hasty.works()


def test_an_answer_before_the_body_is_there(hasty: Server) -> None:
    early = BEGIN.replace(b"/echo", b"/early") + b"Content-Length: 3\r\n\r\n"
    with hasty.connect() as client:
        client.sendall(early + b"x")
        assert one(client) == "HTTP/1.1 200 OK"
        client.sendall(b"xx" + GOOD)
        assert one(client) == "HTTP/1.1 200 OK"
        client.sendall(early)
        assert one(client) == "HTTP/1.1 200 OK"
        assert rest(client) == ""  # the rest never came


def test_slow_clients_hold_up_nobody(hasty: Server) -> None:
    clients = [hasty.connect() for _ in range(100)]
    for round_ in range(3):
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(BEGIN if round_ == 0 else b"X: x\r\n")
        assert hasty.works()
    assert {status(rest(client)) for client in clients} == {408}
    for client in clients:
        client.close()


def test_too_many_connections() -> None:
    with serving(max_connections=3) as server:
        held = [server.connect() for _ in range(3)]
        for client in held:
            client.sendall(GOOD)
            assert one(client) == "HTTP/1.1 200 OK"
        surplus = [server.connect() for _ in range(3)]
        until(lambda: server.open == 6)
        assert server.raw(GOOD) == ""  # beyond twice as many it hangs up
        for client in surplus:
            client.sendall(GOOD)
            assert status(rest(client)) == 503
            client.close()
        for client in held:
            client.sendall(GOOD)
            assert one(client) == "HTTP/1.1 200 OK"
            client.close()
        until(lambda: server.open == 0)
        assert server.works()


@pytest.mark.parametrize(
    "second", [b"nonsense\r\n\r\n", BEGIN + b"X: x\r\n" * 101 + b"\r\n", BEGIN], ids=["bad", "large", "slow"]
)
def test_a_refusal_does_not_overtake_an_answer(hasty: Server, second: bytes) -> None:
    answer = hasty.raw(GOOD.replace(b"/echo", b"/slow") + second)
    assert answer.startswith("HTTP/1.1 200 OK") and '{"bytes": 2}' in answer


def test_pipelined_requests_are_answered_in_order(patient: Server) -> None:
    with patient.connect() as client:
        client.sendall(b"".join(BEGIN + b"Content-Length: %d\r\n\r\n" % n + b"x" * n for n in (1, 2, 3)))
        told = ""
        while told.count("bytes") < 3:
            told += client.recv(65536).decode()
    places = [told.index(f'{{"bytes": {n}}}') for n in (1, 2, 3)]
    assert places == sorted(places)


def test_a_thousand_requests_in_one_packet_hold_up_nobody(way: str) -> None:
    """The model takes 4 ms. Were they all answered in one go, the other client would wait for two seconds."""

    def model(headers: Any, body: bytes, send: Any, source: Any) -> None:
        time.sleep(0.004)
        send(200, [(b"content-length", b"2")], b"{}")

    with serving(answer=model) as server, server.connect() as greedy, server.connect() as other:
        other.settimeout(20)
        other.sendall(GOOD)
        one(other)
        greedy.sendall(GOOD * 500)
        began = time.monotonic()
        other.sendall(GOOD)
        one(other)
        assert time.monotonic() - began < 1
        told = b""
        while told.count(b" 200 OK") < 500:
            told += greedy.recv(65536)


def sized(size: int, *headers: bytes) -> tuple[bytes, int]:
    head = b"".join(header + b"\r\n" for header in (b"Content-Length: %d" % size, *headers))
    return BEGIN + head + b"\r\n" + b"x" * size, size


ORDINARY = [
    sized(0),
    sized(2),
    sized(SMALL),
    sized(SMALL + 1),
    sized(HEAD + 30_000),
    sized(5, b"Connection: keep-alive"),
    sized(7, b"Expect: 100-continue"),
    (BEGIN + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 3),
    (GOOD.replace(b"/echo", b"/echo?why=not"), 2),
]
LAST = [sized(4, b"Connection: close"), (sized(4)[0].replace(b"HTTP/1.1", b"HTTP/1.0"), 4)]


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(ORDINARY), max_size=6), st.sampled_from(LAST), st.lists(st.integers(0, 10**6), max_size=8)
)
def test_requests_come_in_any_pieces(patient: Server, before: list[Any], last: Any, cuts: list[int]) -> None:
    requests = [*before, last]
    sent = b"".join(request for request, _ in requests)
    with patient.connect() as client:
        for start, stop in itertools.pairwise(sorted({0, len(sent), *(cut % len(sent) for cut in cuts)})):
            client.sendall(sent[start:stop])
        answer = rest(client)
    found = [int(part) for part in re.findall(r'{"bytes": (\d+)}', answer)]
    assert found == [size for _, size in requests] and answer.count(" 200 OK") == len(requests), answer


@pytest.mark.parametrize(
    "sent",
    [
        BEGIN + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BEGIN + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        BEGIN + b"Content-Length: -2\r\n\r\n{}",
        BEGIN + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        BEGIN + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        BEGIN + b"X : x\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["both", "two lengths", "negative", "huge", "chunk", "space", "nonsense", "tls"],
)
def test_what_is_no_http(patient: Server, sent: bytes) -> None:
    assert status(patient.raw(sent)) == 400
    assert patient.works()


PIECES = [BEGIN, GOOD, b"\r\n", b"Content-Length: 9\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n"]


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=60) | st.sampled_from(PIECES), max_size=6))
def test_any_bytes(patient: Server, parts: list[bytes]) -> None:
    with patient.connect() as client:
        with contextlib.suppress(OSError):
            client.sendall(b"".join(parts))
            client.shutdown(socket.SHUT_WR)
        answer = rest(client)
    assert answer[:10] in ("", "HTTP/1.1 2", "HTTP/1.1 4"), answer
    assert patient.works()


def test_no_key_and_no_row_is_logged(hasty: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = b"Connection: close\r\nAuthorization: Bearer dx_0123abcd_SECRET\r\n"
    for rest_ in (
        b"\r\n",
        b"Content-Length: 9\r\n\r\nSECRET",
        b"Content-Length: -1\r\n\r\nSECRET",
        b"X: " + b"SECRET" * 9999,
    ):
        hasty.raw(BEGIN + secret + rest_)
    assert "SECRET" not in caplog.text


def test_ports_are_shared_only_when_both_say_so() -> None:
    with listen("127.0.0.1", 0, shared=True) as first:
        with pytest.raises(OSError):
            listen(*first.getsockname())
        with listen(*first.getsockname(), shared=True) as second:
            clients = [socket.create_connection(first.getsockname()) for _ in range(40)]
            accepted = dict.fromkeys((first, second), 0)
            for sock in accepted:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock.accept()[0].close()
                        accepted[sock] += 1
            assert sum(accepted.values()) == 40 and all(accepted.values())
            for client in clients:
                client.close()


@dataclass(frozen=True)
class Certificate:
    cert: str
    cert_key: str
    trusted: ssl.SSLContext


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued, trusted = authority.issue_cert("127.0.0.1", "localhost"), ssl.create_default_context()
    authority.configure_trust(trusted)
    chain, key = folder / "cert.pem", folder / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    issued.private_key_pem.write_to_path(key)
    return Certificate(str(chain), str(key), trusted)


@pytest.fixture(scope="module")
def secure(certificate: Certificate) -> Iterator[Server]:
    with serving(cert=certificate.cert, cert_key=certificate.cert_key, read_timeout=0.5, max_body=1_000_000) as server:
        yield server


def secret_connection(server: Server, trusted: ssl.SSLContext) -> ssl.SSLSocket:
    return trusted.wrap_socket(server.connect(), server_hostname="127.0.0.1")


def test_tls(secure: Server, certificate: Certificate) -> None:
    url = f"https://{secure.address[0]}:{secure.address[1]}/echo"
    with httpx.Client(verify=certificate.trusted) as client:
        assert client.post(url, content=b"{}").json() == {"bytes": 2}
        refused = client.post(url, content=b"x" * 5_000_000)
        assert (refused.status_code, refused.json()["model_version"]) == (413, "7")
        assert client.post(url, content=b"{}").json() == {"bytes": 2}
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.post(url, content=b"{}")
    with secret_connection(secure, certificate.trusted) as client:
        assert client.version() == "TLSv1.3"


def test_old_tls_and_no_tls(secure: Server, certificate: Certificate) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        secret_connection(secure, old)
    assert secure.raw(GOOD) == ""
    with secret_connection(secure, certificate.trusted) as client:
        client.sendall(GOOD)
        assert one(client) == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("sent", [BEGIN, BEGIN + b"Content-Length: 9\r\n\r\n{"], ids=["head", "body"])
def test_slow_clients_over_tls(secure: Server, certificate: Certificate, sent: bytes) -> None:
    with secret_connection(secure, certificate.trusted) as client:
        client.sendall(sent)
        assert status(rest(client)) == 408


def test_a_server_with_tls_drains(certificate: Certificate) -> None:
    with serving(cert=certificate.cert, cert_key=certificate.cert_key) as server:
        slow, idle = (secret_connection(server, certificate.trusted) for _ in range(2))
        idle.sendall(GOOD)
        assert one(idle) == "HTTP/1.1 200 OK"
        slow.sendall(GOOD.replace(b"/echo", b"/slow"))
        until(lambda: ("/slow", 2) in server.app.seen)
        server.uvicorn.should_exit = True
        answer = rest(slow)
        assert answer.startswith("HTTP/1.1 200 OK") and "connection: close" in answer
        assert rest(idle) == ""


def test_slow_clients_do_not_hold_up_the_end() -> None:
    with serving(drain_timeout=1.5) as server:
        clients = [server.connect() for _ in range(5)]
        for client in clients:
            client.sendall(BEGIN + b"Content-Length: 9\r\n\r\n{")
        until(lambda: server.open == 5)
        began = time.monotonic()
        server.uvicorn.should_exit = True
        assert [rest(client) for client in clients] == [""] * 5
        assert time.monotonic() - began < 10


def test_certificates_that_cannot_be_used(certificate: Certificate, tmp_path: Path) -> None:
    other, damaged = tmp_path / "other.pem", tmp_path / "damaged.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    damaged.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n")
    for key in (other, damaged, tmp_path / "missing.pem", tmp_path):
        with pytest.raises(InvalidRequest, match="cannot be used"):
            guard(Settings(cert=certificate.cert, cert_key=str(key)), keys_exist=True)
    for half in (Settings(cert=certificate.cert), Settings(cert_key=certificate.cert_key)):
        with pytest.raises(InvalidRequest, match="both --cert and --key"):
            tls(half)


def test_who_may_reach_it(certificate: Certificate) -> None:
    pair: dict[str, Any] = {"cert": certificate.cert, "cert_key": certificate.cert_key}
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert loopback(host)
        guard(Settings(host=host), keys_exist=False)
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "example.org", "::ffff:10.0.0.1"):
        assert not loopback(host)
        guard(Settings(host=host, **pair), keys_exist=True)
        guard(Settings(host=host, behind_proxy=True), keys_exist=True)
        wrong: list[tuple[dict[str, Any], bool, str]] = [(pair, False, "key create"), ({}, False, "key create")]
        for fields, exist, told in (*wrong, ({}, True, "--behind-proxy")):
            with pytest.raises(InvalidRequest, match=told):
                guard(Settings(host=host, **fields), keys_exist=exist)
