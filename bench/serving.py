"""Requests a second of an endpoint against its peers and an echo, loaded by wrk, in one run.

For each of three pipelines on the flights data the same rows are sent to `mlflow models serve` (one worker, this
environment), to vetiver and MLServer (bench/peers.py: environments of their own), to our endpoint as `register` made it
(`auto`), to the same with scikit-learn answering (`sklearn`), and, once, to an ASGI application on the same server
software that sends back what it got. Our endpoint has a key, limits, contract checks, the journal and metrics on, as in
production; it is also run without the journal, to see what that costs, and with two workers. One connection and
sixteen, one row and a thousand a request.

Prints a table with ratios and the targets of the project; exits 1 when one is missed. Run it on a quiet machine:
.venv/bin/python bench/serving.py [--seconds 8] [--only LogisticRegression]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from lifecycle import flights
from machine import machine

ECHO = """
import sys, uvicorn
async def echo(scope, receive, send):
    body = (await receive())["body"]
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
quiet = {"log_level": "error", "access_log": False, "server_header": False}
uvicorn.run(echo, port=int(sys.argv[1]), http="httptools", loop="uvloop", lifespan="off", ws="none", **quiet)
"""
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {secret}"
local file = io.open("{body}", "r")
wrk.body = file:read("*a")
done = function(summary, latency, requests)
    local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
    local rate = summary.requests / summary.duration * 1e6
    print(string.format("FOUND %f %f %f %d", rate, latency:percentile(50), latency:percentile(99), bad))
end
"""
ROUNDS = 4  # of which the median counts
CELLS = [(1, 1), (16, 1), (1, 1000), (16, 1000)]  # connections, rows


@dataclass
class Cell:
    """What wrk found: requests/s, microseconds, and requests that failed."""

    rate: float
    p50: float
    p99: float
    bad: int


@dataclass
class Run:
    """One server with one model."""

    model: str
    server: str
    cells: dict[tuple[int, int], Cell]
    memory: float  # MB, the proportional set size of all its processes after the load
    start: float  # seconds to the first answer


def pipelines() -> dict[str, Any]:
    """The models, not fitted, as users write them."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    encode = OneHotEncoder(min_frequency=0.005, handle_unknown="infrequent_if_exist", sparse_output=False)
    numeric = ["dep_delay", "distance", "hour", "weekday"]
    words = ["carrier", "origin", "dest"]

    def columns(numbers: Any) -> Any:
        return ColumnTransformer([("numbers", numbers, numeric), ("words", encode, words)])

    boosting: Any = HistGradientBoostingClassifier(max_iter=100, random_state=0)
    forest = RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1)
    scaled = make_pipeline(SimpleImputer(), StandardScaler())
    return {
        "HistGradientBoosting": make_pipeline(columns("passthrough"), boosting.set_params(early_stopping=False)),
        "LogisticRegression": make_pipeline(columns(scaled), LogisticRegression(max_iter=200)),
        "RandomForest": make_pipeline(columns(SimpleImputer()), forest),
    }


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answer(url: str, body: bytes, secret: str = "") -> Any:
    """What is answered to `body`."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as reply:
        return json.loads(reply.read())


def load(url: str, body: bytes, connections: int, seconds: float, folder: Path, secret: str) -> Cell:
    """Load `url` with wrk."""
    (folder / "body.json").write_bytes(body)
    (folder / "post.lua").write_text(LUA.format(secret=secret, body=folder / "body.json"))
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--timeout",
        "10s",
        "-s",
        str(folder / "post.lua"),
        url,
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"FOUND (\S+) (\S+) (\S+) (\d+)", told)
    assert found, told
    return Cell(float(found[1]), float(found[2]), float(found[3]), int(found[4]))


def middle(found: list[Cell]) -> Cell:
    """The cell of the median rate: on few and busy processors it matters which one wrk gets, for seconds."""
    return sorted(found, key=lambda cell: cell.rate)[len(found) // 2]


def memory(pid: int) -> float:
    """MB of a process and all its children; a page that several share is counted once among them."""
    process = psutil.Process(pid)
    return sum(p.memory_full_info().pss for p in [process, *process.children(recursive=True)]) / 1e6


@contextlib.contextmanager
def running(command: list[str], url: str, body: bytes, **how: Any) -> Iterator[tuple[int, float]]:
    """A server's pid and the seconds until it has answered `body`; ended afterwards."""
    began = time.monotonic()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet, **how)
    try:
        while True:
            with contextlib.suppress(OSError):
                answer(url, body)
                break
            assert process.poll() is None and time.monotonic() - began < 120, f"{command[0]} did not start"
            time.sleep(0.05)
        yield process.pid, time.monotonic() - began
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


class Bench:
    """One run of everything."""

    def __init__(self, seconds: float, folder: Path):
        self.seconds, self.folder, self.runs = seconds, folder, []
        self.beside: dict[tuple[str, str, tuple[int, int]], float] = {}  # model, what, cell: times the usual way
        self.X, self.y = flights()
        rows = self.X.sample(1000, random_state=0)
        self.rows = {1: rows.head(1), 1000: rows}
        split = {n: json.loads(part.to_json(orient="split", index=False)) for n, part in self.rows.items()}
        self.bodies = {n: json.dumps({"dataframe_split": part}).encode() for n, part in split.items()}

    def take(
        self, model: str, server: str, url: str, pid: int, start: float, secret: str = "", bodies: Any = None
    ) -> None:
        """Load a server that answers and keep what was found."""
        cells, bodies = {}, bodies or self.bodies
        for connections, rows in CELLS:
            how = url, bodies[rows], connections, max(1, round(self.seconds / ROUNDS)), self.folder, secret
            cells[connections, rows] = middle([load(*how) for _ in range(ROUNDS)])
        self.runs.append(Run(model, server, cells, memory(pid), start))
        sys.stderr.write(f"{model} {server}: {cells[1, 1].rate:.0f} {cells[16, 1].rate:.0f} requests/s\n")

    def echo(self) -> None:
        """The same server software with nothing behind it."""
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        with running([sys.executable, "-c", ECHO, str(port)], url, self.bodies[1]) as (pid, start):
            self.take("", "echo", url, pid, start)

    def mlflow(self, name: str, model: Any) -> None:
        """`mlflow models serve` of the model."""
        from mlflow.sklearn import save_model

        port, at = free_port(), self.folder / f"mlflow-{name}"
        save_model(model, str(at), serialization_format="cloudpickle")
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(at), "--env-manager", "local"]
        url = f"http://127.0.0.1:{port}/invocations"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where it looks for uvicorn
        command += ["-p", str(port), "--workers", "1"]
        with running(command, url, self.bodies[1], env=os.environ | {"PATH": path}) as (pid, start):
            self.check(model, answer(url, self.bodies[1000])["predictions"])
            self.take(name, "mlflow", url, pid, start)

    def peer(self, name: str, model: Any, server: str) -> None:
        """vetiver or MLServer with the pipeline, fitted in its own environment."""
        import peers

        folder = self.folder / f"{server}-{name}"
        folder.mkdir()
        self.X.assign(y=self.y).to_parquet(folder / "train.parquet")
        peer = getattr(peers, server)(name, folder, self.rows)
        with peers.started(peer) as (pid, start):
            self.check(model, peers.predictions(peer, answer(peer.url, peer.bodies[1000])))
            self.take(name, server, peer.url, pid, start, bodies=peer.bodies)

    def ours(self, name: str, model: Any, runtime: str) -> None:
        """Our endpoint, with a key; the compiled one also beside itself without a journal, and with two workers."""
        import deploy_ext

        made = deploy_ext.register(model, name, self.X, self.y, runtime=runtime)
        deploy_ext.promote(str(made), reason="bench", force=True)
        secret = deploy_ext.key_create(name, role="predict").secret
        began = time.monotonic()
        endpoint = deploy_ext.up(name)
        start = time.monotonic() - began
        url = f"{endpoint.url}/invocations"
        self.check(model, answer(url, self.bodies[1000], secret)["predictions"])
        self.take(name, f"deploy_ext {runtime} ({made.runtime})", url, endpoint.pid or 0, start, secret)
        for what, variables in OTHERWISE.items() if runtime == "auto" else ():
            os.environ.update(variables)
            other = deploy_ext.up(str(made))
            for at in CELLS if what == "no journal" else CELLS[1::2]:
                self.beside[name, what, at] = self.compare(at, secret, f"{other.url}/invocations", url)
            deploy_ext.down(str(made))
            for variable in variables:
                del os.environ[variable]
        deploy_ext.down(name)

    def compare(self, at: tuple[int, int], secret: str, *urls: str) -> float:
        """How many times as many requests/s the first of two servers answers, taken in turns: the median."""
        connections, rows = at
        turns = [
            [load(url, self.bodies[rows], connections, 2, self.folder, secret).rate for url in urls] for _ in range(5)
        ]
        return statistics.median(one / other for one, other in turns)

    def check(self, model: Any, predictions: list[Any]) -> None:
        """Raises AssertionError unless these are the model's own."""
        assert predictions == model.predict(self.rows[1000]).tolist()


OTHERWISE = {"no journal": {"DEPLOY_EXT_JOURNAL": "off"}, "2 workers": {"DEPLOY_EXT_WORKERS": "2"}}
TARGETS = [  # of, connections, rows, models, times mlflow's requests/s
    ("auto", 1, 1, ("HistGradientBoosting", "LogisticRegression", "RandomForest"), 30),
    ("auto", 16, 1, ("HistGradientBoosting", "RandomForest"), 100),
    ("auto", 16, 1, ("LogisticRegression",), 60),
    ("sklearn", 16, 1, ("HistGradientBoosting", "LogisticRegression", "RandomForest"), 10),
    ("sklearn", 1, 1, ("HistGradientBoosting", "LogisticRegression", "RandomForest"), 1.5),
    ("auto", 1, 1000, ("LogisticRegression",), 8),
    ("auto", 1, 1000, ("HistGradientBoosting",), 4),
    ("auto", 1, 1000, ("RandomForest",), 2),
]


def table(runs: list[Run]) -> None:
    """Every run, with its ratios to mlflow's for the same model."""
    base = {r.model: r for r in runs if r.server == "mlflow"}
    head = "".join(f"{f'{c} conn, {n} row' + 's' * (n > 1):>34}" for c, n in CELLS)
    print(f"{'':<56}{head}{'MB':>7}{'start s':>9}")
    print(f"{'model':<22}{'server':<34}" + f"{'req/s':>9}{'x':>7}{'p50 us':>9}{'p99 us':>9}" * 4)
    for run in runs:
        line = f"{run.model:<22}{run.server:<34}"
        for at in CELLS:
            cell, other = run.cells[at], base.get(run.model)
            times = f"{cell.rate / other.cells[at].rate:.1f}" if other else "-"
            line += f"{cell.rate:>9,.0f}{times:>7}{cell.p50:>9,.0f}{cell.p99:>9,.0f}"
        bad = sum(cell.bad for cell in run.cells.values())
        print(line + f"{run.memory:>7.0f}{run.start:>9.2f}" + (f"  {bad} requests failed" if bad else ""))


def judged(runs: list[Run], beside: dict[tuple[str, str, tuple[int, int]], float]) -> int:
    """Print every target with what was reached; how many were missed."""
    found = {(r.model, r.server.split(" (")[0].removeprefix("deploy_ext ")): r for r in runs}
    echo, missed = found["", "echo"].cells[1, 1].p50, 0

    def tell(what: str, reached: float, wanted: float, least: bool = True) -> None:
        nonlocal missed
        good = reached >= wanted if least else reached <= wanted
        missed += not good
        sign = ">=" if least else "<="
        print(f"{'ok' if good else 'MISSED':<8}{what:<72}{reached:>9.1f} {sign} {wanted:g}")

    for kind, connections, rows, models, times in TARGETS:
        for model in (m for m in models if (m, kind) in found):
            at = connections, rows
            reached = found[model, kind].cells[at].rate / found[model, "mlflow"].cells[at].rate
            tell(f"{model} {kind}, {connections} connections, {rows} rows: times mlflow", reached, times)
    for (model, kind), run in found.items():
        if kind == "auto":
            tell(f"{model}: p50 on one connection, times the echo's", run.cells[1, 1].p50 / echo, 2.5, least=False)
            tell(f"{model}: MB of memory", run.memory, 160, least=False)
            tell(f"{model}: seconds from `up` to ready", run.start, 1.5, least=False)
    for (model, what, (connections, rows)), times in beside.items():
        told = f"{model}: {what}, {connections} connections, {rows} rows"
        if what == "no journal":
            tell(f"{told}: % that it costs", 100 - 100 / times, 15, least=False)
        elif connections > 1:
            tell(f"{told}: times one", times, 1.6)
    tell("requests that failed", sum(c.bad for r in runs for c in r.cells.values()), 0, least=False)
    return missed


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=8, help="of each cell of the table")
    arguments.add_argument("--only", default="", help="one of the models")
    arguments.add_argument("--peers", nargs="*", default=["vetiver", "mlserver"], help="besides mlflow")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["DEPLOY_EXT_PROJECT"] = tmp
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(tmp)
        bench = Bench(given.seconds, Path(tmp))
        bench.echo()
        for name, pipeline in pipelines().items():
            if given.only in ("", name):
                model = pipeline.fit(bench.X, bench.y)
                bench.mlflow(name, model)
                for server in given.peers:
                    bench.peer(name, model, server)
                bench.ours(name, model, "auto")
                bench.ours(name, model, "sklearn")
    print(machine("deploy_ext", "mlflow", "scikit-learn", "treelite", "onnxruntime", "uvicorn"))
    table(bench.runs)
    return int(judged(bench.runs, bench.beside) > 0)


if __name__ == "__main__":
    sys.exit(main())
