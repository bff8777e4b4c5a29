"""Servers for tests: a real MLflow tracking server, and a proxy in front of it that fails when it is told to."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def alive(url: str) -> bool:
    """Does an HTTP server answer 200 at `url`?"""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextlib.contextmanager
def mlflow_server(folder: Path, seconds: float = 120) -> Iterator[str]:
    """The address of an MLflow server with SQLite and proxied artifacts in `folder`; stopped at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DEPLOY_EXT_"))}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=clean | quiet, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        end = time.monotonic() + seconds
        while not alive(f"{url}/health"):
            assert process.poll() is None and time.monotonic() < end, (folder / "server.log").read_text()[-3000:]
            time.sleep(0.1)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # its own session: the workers end with it
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass
class Proxy:
    """A reverse proxy. `rule(method, path)` says "pass", "refuse" (403), "lose" the answer or "drop" the question."""

    url: str
    rule: Callable[[str, str], str] = lambda method, path: "pass"
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of `upstream` whose rule can be set at any time."""
    target = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.seen.append((self.command, self.path))
            rule = made.rule(self.command, self.path)
            if rule == "refuse":
                return self.reply(403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "not you"}).encode())
            if rule == "drop":
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "transfer-encoding")}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if rule == "lose":
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            self.reply(answer.status, content, answer.getheader("Content-Type") or "application/json")

        def reply(self, status: int, content: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.rule = lambda method, path: "drop"  # connections that are kept open end too
        server.shutdown()
        server.server_close()
        thread.join()
