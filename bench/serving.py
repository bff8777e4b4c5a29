"""Requests a second of an endpoint against its peers and an echo, loaded by wrk, in one run.

For each of three pipelines on the flights data these servers run side by side, and the same rows are sent to them:
`mlflow models serve` (one worker, this environment), vetiver and MLServer (bench/peers.py: environments of their own),
our endpoint as `register` made it (`auto`), with scikit-learn answering (`sklearn`), without the journal and with two
workers, and an ASGI application on the same server software that sends back what it got. Our endpoint has a key,
limits, contract checks, the journal and metrics on, as in production. One connection and sixteen, one row and a
thousand a request.

The servers are loaded in turns, for two seconds each, several times, while the others stand still. The table shows
medians; a ratio is the median of the ratios within the turns, since on a shared host the processors themselves become
faster and slower by a half within minutes. Prints the table and the targets of the project, and exits 1 when one is
missed. Run it on a quiet machine:
.venv/bin/python bench/serving.py [--rounds 5] [--only LogisticRegression]
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
from dataclasses import dataclass, field
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
TURN = 2  # seconds that a server is loaded at a time
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
    """A server with a model: how it is asked, and what was found."""

    model: str
    server: str
    url: str
    pid: int
    start: float  # seconds to the first answer
    bodies: dict[int, bytes]  # by the number of rows
    secret: str = ""
    cells: dict[tuple[int, int], list[Cell]] = field(default_factory=dict)  # one a round
    memory: float = 0.0  # MB, the proportional set size of all its processes after the load

    def median(self, at: tuple[int, int], of: str) -> float:
        """Of the requests/s (`rate`), or of `p50` or `p99`."""
        return statistics.median(getattr(cell, of) for cell in self.cells[at])

    def times(self, other: Run, at: tuple[int, int], of: str = "rate") -> float:
        """How many times the `other`'s it is: the median of the rounds."""
        pairs = zip(self.cells[at], other.cells[at], strict=True)
        return statistics.median(getattr(one, of) / getattr(two, of) for one, two in pairs)


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


def family(pid: int) -> list[psutil.Process]:
    """A process and all its children."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@contextlib.contextmanager
def only(one: Run, runs: list[Run]) -> Iterator[None]:
    """The other servers stand still: what they have to tidy up is not done at the cost of this one."""
    others = [p for run in runs if run is not one for p in family(run.pid)]
    for process in others:
        process.suspend()
    try:
        yield
    finally:
        for process in others:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def memory(pid: int) -> float:
    """MB of a process and all its children; a page that several share is counted once among them."""
    return sum(p.memory_full_info().pss for p in family(pid)) / 1e6


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

    def __init__(self, folder: Path):
        self.folder = folder
        self.X, self.y = flights()
        rows = self.X.sample(1000, random_state=0)
        self.rows = {1: rows.head(1), 1000: rows}
        split = {n: json.loads(part.to_json(orient="split", index=False)) for n, part in self.rows.items()}
        self.bodies = {n: json.dumps({"dataframe_split": part}).encode() for n, part in split.items()}

    def compete(self, name: str, pipeline: Any, peers: list[str], rounds: int) -> list[Run]:
        """Start all servers with a model, load them in turns, and tell what was found."""
        model = pipeline.fit(self.X, self.y)
        with contextlib.ExitStack() as stack:
            runs = [stack.enter_context(self.mlflow(name, model))]
            runs += [stack.enter_context(self.peer(name, model, server)) for server in peers]
            runs += [stack.enter_context(self.echo(name))]
            runs += [stack.enter_context(self.ours(name, model, what)) for what in OURS]
            for at in CELLS:
                connections, rows = at
                for run in runs * rounds:
                    with only(run, runs):
                        cell = load(run.url, run.bodies[rows], connections, TURN, self.folder, run.secret)
                    run.cells.setdefault(at, []).append(cell)
                told = ", ".join(f"{run.server} {run.median(at, 'rate'):,.0f}" for run in runs)
                sys.stderr.write(f"{name}, {connections} connections, {rows} rows: {told}\n")
            for run in runs:
                run.memory = memory(run.pid)
        return runs

    @contextlib.contextmanager
    def echo(self, name: str) -> Iterator[Run]:
        """The same server software with nothing behind it."""
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        with running([sys.executable, "-c", ECHO, str(port)], url, self.bodies[1]) as (pid, start):
            yield Run(name, "echo", url, pid, start, self.bodies)

    @contextlib.contextmanager
    def mlflow(self, name: str, model: Any) -> Iterator[Run]:
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
            yield Run(name, "mlflow", url, pid, start, self.bodies)

    @contextlib.contextmanager
    def peer(self, name: str, model: Any, server: str) -> Iterator[Run]:
        """vetiver or MLServer with the pipeline, fitted in its own environment."""
        import peers

        folder = self.folder / f"{server}-{name}"
        folder.mkdir()
        self.X.assign(y=self.y).to_parquet(folder / "train.parquet")
        peer = getattr(peers, server)(name, folder, self.rows)
        with peers.started(peer) as (pid, start):
            self.check(model, peers.predictions(peer, answer(peer.url, peer.bodies[1000])))
            yield Run(name, server, peer.url, pid, start, peer.bodies)

    @contextlib.contextmanager
    def ours(self, name: str, model: Any, what: str) -> Iterator[Run]:
        """Our endpoint, with a key."""
        import deploy_ext

        runtime, variables = OURS[what]
        own = f"{name}-{what}".replace(" ", "-")
        made = deploy_ext.register(model, own, self.X, self.y, runtime=runtime)
        deploy_ext.promote(str(made), reason="bench", force=True)
        secret = deploy_ext.key_create(own, role="predict").secret
        os.environ.update(variables)
        began = time.monotonic()
        endpoint = deploy_ext.up(own)
        start = time.monotonic() - began
        for variable in variables:
            del os.environ[variable]
        try:
            url = f"{endpoint.url}/invocations"
            self.check(model, answer(url, self.bodies[1000], secret)["predictions"])
            yield Run(name, f"deploy_ext {what} ({made.runtime})", url, endpoint.pid or 0, start, self.bodies, secret)
        finally:
            deploy_ext.down(own)

    def check(self, model: Any, predictions: list[Any]) -> None:
        """Raises AssertionError unless these are the model's own."""
        assert predictions == model.predict(self.rows[1000]).tolist()


OURS: dict[str, tuple[str, dict[str, str]]] = {  # what is told of it: its runtime, its settings
    "auto": ("auto", {}),
    "no journal": ("auto", {"DEPLOY_EXT_JOURNAL": "off"}),
    "2 workers": ("auto", {"DEPLOY_EXT_WORKERS": "2"}),
    "sklearn": ("sklearn", {}),
}
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
    head = "".join(f"{f'{c} conn, {n} row' + 's' * (n > 1):>36}" for c, n in CELLS)
    print(f"{'':<56}{head}{'MB':>7}{'start s':>9}")
    print(f"{'model':<22}{'server':<34}" + f"{'req/s':>9}{'x':>7}{'p50 us':>10}{'p99 us':>10}" * 4)
    for run in runs:
        line = f"{run.model:<22}{run.server:<34}"
        for at in CELLS:
            rate, p50, p99 = (run.median(at, of) for of in ("rate", "p50", "p99"))
            line += f"{rate:>9,.0f}{run.times(base[run.model], at):>7.1f}{p50:>10,.0f}{p99:>10,.0f}"
        bad = sum(cell.bad for cells in run.cells.values() for cell in cells)
        print(line + f"{run.memory:>7.0f}{run.start:>9.2f}" + (f"  {bad} requests failed" if bad else ""))


def judged(runs: list[Run]) -> int:
    """Print every target with what was reached; how many were missed."""
    found = {(r.model, r.server.split(" (")[0].removeprefix("deploy_ext ")): r for r in runs}
    missed = 0

    def tell(what: str, reached: float, wanted: float, least: bool = True) -> None:
        nonlocal missed
        good = reached >= wanted if least else reached <= wanted
        missed += not good
        sign = ">=" if least else "<="
        print(f"{'ok' if good else 'MISSED':<8}{what:<72}{reached:>9.1f} {sign} {wanted:g}")

    for kind, connections, rows, models, times in TARGETS:
        for model in (m for m in models if (m, kind) in found):
            reached = found[model, kind].times(found[model, "mlflow"], (connections, rows))
            tell(f"{model} {kind}, {connections} connections, {rows} rows: times mlflow", reached, times)
    for model, run in [(model, run) for (model, kind), run in found.items() if kind == "auto"]:
        tell(
            f"{model}: p50 on one connection, times the echo's",
            run.times(found[model, "echo"], (1, 1), "p50"),
            2.5,
            False,
        )
        tell(f"{model}: MB of memory", run.memory, 160, least=False)
        tell(f"{model}: seconds from `up` to ready", run.start, 1.5, least=False)
        for at in CELLS:
            told, cost = f"{at[0]} connections, {at[1]} rows", 100 - 100 * run.times(found[model, "no journal"], at)
            tell(f"{model}: % that the journal costs, {told}", cost, 15, least=False)
            if at[0] > 1:
                tell(f"{model}: two workers, times one, {told}", found[model, "2 workers"].times(run, at), 1.6)
    failed = sum(cell.bad for r in runs if r.server != "echo" for cells in r.cells.values() for cell in cells)
    tell("requests that failed", failed, 0, least=False)
    return missed


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="of two seconds for each number in the table")
    arguments.add_argument("--only", default="", help="one of the models")
    arguments.add_argument("--peers", nargs="*", default=["vetiver", "mlserver"], help="besides mlflow")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["DEPLOY_EXT_PROJECT"] = tmp
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(tmp)
        bench, runs = Bench(Path(tmp)), []
        for name, pipeline in pipelines().items():
            if given.only in ("", name):
                runs += bench.compete(name, pipeline, given.peers, given.rounds)
    print(machine("deploy_ext", "mlflow", "scikit-learn", "treelite", "onnxruntime", "uvicorn"))
    table(runs)
    return int(judged(runs) > 0)


if __name__ == "__main__":
    sys.exit(main())
