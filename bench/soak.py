"""Ten minutes of load, while versions change and workers are killed: what failed, and what the journal has lost.

An endpoint with two workers is asked by wrk on eight connections and by eight clients that check what they are told.
A version is promoted, or rolled back, every three seconds. In the second half a worker is also killed (SIGKILL) every
ten seconds; a request that it was computing is lost to its client then, and is counted apart.

Prints what happened and exits 1 unless: no request failed in the first half; every answer that was begun after a swap
was reported done names the new version; every answer that a client has seen is in the journal, with what was asked;
a killed worker was replaced within two seconds. .venv/bin/python bench/soak.py [--minutes 10]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from lifecycle import flights
from machine import machine
from serving import LUA, memory, pipelines

import deploy_ext
from deploy_ext.core import home
from deploy_ext.serve.journal import journal_folder

PERIOD, KILLS = 3.0, 10.0  # seconds between two swaps, and between two kills
LATE = 0.5  # seconds before the next swap begins; what is asked later may be answered by its version


class Client(threading.Thread):
    """Asks one row after the other, on a connection that stays open."""

    def __init__(self, url: str, rows: list[dict[str, Any]], number: int, stop: threading.Event):
        super().__init__()
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port
        self.rows, self.number, self.stop = rows, number, stop
        self.seen: list[tuple[float, str, str, float]] = []  # begun, version, prediction id, dep_delay
        self.failed: list[tuple[float, str]] = []

    def run(self) -> None:
        connection, count = http.client.HTTPConnection(self.host, self.port, timeout=30), self.number
        while not self.stop.is_set():
            row, began = self.rows[count % len(self.rows)], time.monotonic()
            body = json.dumps({"dataframe_records": [row]})
            try:
                connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                told = json.loads(reply.read())
                if reply.status == 200:
                    self.seen.append((began, told["model_version"], told["prediction_ids"][0], row["dep_delay"]))
                else:
                    self.failed.append((began, f"{reply.status}: {told}"))
            except (OSError, http.client.HTTPException) as e:
                self.failed.append((began, repr(e)))
                connection.close()
            count += 1
            time.sleep(0.004)  # wrk is the load; these look


class Soak:
    """One run."""

    def __init__(self, folder: Path, minutes: float):
        self.folder, self.half = folder, minutes * 30
        self.moves: list[tuple[float, float, str]] = []  # begun, done, version
        self.kills: list[float] = []
        self.back: list[float] = []

    def workers(self) -> set[int]:
        """The processes that answer."""
        found = psutil.Process(self.endpoint.pid).children()
        return {p.pid for p in found if "deploy_ext.serve.supervisor" in p.cmdline()}

    def prepare(self) -> None:
        """Two versions and an endpoint."""
        X, y = flights()
        model = pipelines()["LogisticRegression"]
        for rows in (50_000, len(X)):
            deploy_ext.register(model.fit(X.head(rows), y.head(rows)), "flights", X, y)
        deploy_ext.promote("flights/1", reason="soak", force=True)
        self.endpoint = deploy_ext.up("flights", workers=2)
        frame = X.dropna().sample(500, random_state=0)
        self.rows = json.loads(frame.to_json(orient="records"))

    def load(self, seconds: float) -> subprocess.Popen[str]:
        """wrk, which counts what fails."""
        (self.folder / "body.json").write_text(json.dumps({"dataframe_records": [self.rows[0]]}))
        (self.folder / "post.lua").write_text(LUA.format(secret="", body=self.folder / "body.json"))
        command = ["wrk", "-t1", "-c8", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", str(self.folder / "post.lua")]
        return subprocess.Popen([*command, f"{self.endpoint.url}/invocations"], stdout=subprocess.PIPE, text=True)

    def change(self, until: float, kills: bool) -> None:
        """Swap and, if asked to, kill, until then."""
        next_kill = time.monotonic() + KILLS
        while (now := time.monotonic()) < until:
            if len(self.moves) % 2 == 0:
                deploy_ext.promote("flights/2", reason="soak", force=True)
            else:
                deploy_ext.rollback("flights", reason="soak")
            self.moves.append((now, time.monotonic(), str(2 - len(self.moves) % 2)))
            if kills and time.monotonic() > next_kill:
                next_kill += KILLS
                self.kill()
            time.sleep(max(0.0, now + PERIOD - time.monotonic()))

    def kill(self) -> None:
        """Kill a worker, and wait until there are two again."""
        before = self.workers()
        psutil.Process(min(before)).kill()
        self.kills.append(time.monotonic())
        while not self.replaced():
            time.sleep(0.01)
        self.back.append(time.monotonic() - self.kills[-1])

    def replaced(self) -> bool:
        """Do the metrics tell that as many workers are ready in the place of others as were killed?"""
        connection = http.client.HTTPConnection(urlsplit(self.endpoint.url).netloc, timeout=10)
        connection.request("GET", "/metrics")
        told = re.search(r"^deploy_ext_worker_restarts_total (\S+)$", connection.getresponse().read().decode(), re.M)
        return told is not None and float(told[1]) >= len(self.kills)

    def run(self) -> int:
        """Everything; how many of the promises were broken."""
        self.prepare()
        stop = threading.Event()
        clients = [Client(self.endpoint.url, self.rows, n, stop) for n in range(8)]
        for client in clients:
            client.start()
        began, first_memory, told = time.monotonic(), memory(self.endpoint.pid or 0), []
        for kills in (False, True):
            wrk = self.load(self.half)
            self.change(time.monotonic() + self.half - PERIOD, kills)
            told.append(wrk.communicate()[0])
            middle = time.monotonic()
            sys.stderr.write(f"{middle - began:.0f} s, {len(self.moves)} swaps, {len(self.kills)} kills\n")
        stop.set()
        for client in clients:
            client.join()
        (status,) = deploy_ext.status("flights")
        last_memory = memory(self.endpoint.pid or 0)
        deploy_ext.down("flights")
        return self.report(clients, told, status, (first_memory, last_memory))

    def report(self, clients: list[Client], told: list[str], status: Any, used: tuple[float, float]) -> int:
        """Print what happened."""
        seen = [s for client in clients for s in client.seen]
        failed = [when for client in clients for when, _ in client.failed]
        near = [any(0 <= kill - when < 30 or 0 <= when - kill < 2 for kill in self.kills) for when in failed]
        loaded = [int(re.search(r"(\d+) requests in", text)[1]) for text in told]  # type: ignore[index]
        bad = [int(re.search(r"FOUND \S+ \S+ \S+ (\d+)", text)[1]) for text in told]  # type: ignore[index]
        journal = deploy_ext.journal("flights")
        told_of = journal.loc[journal["prediction_id"].isin([name for _, _, name, _ in seen])]
        known = dict(zip(told_of["prediction_id"], told_of["dep_delay"], strict=True))
        lost = sum(known.get(name) != value for _, _, name, value in seen)
        old = self.outdated(seen)
        size = sum(p.stat().st_size for p in journal_folder(home(), "flights").iterdir()) / 1e6
        print(machine("deploy_ext", "mlflow", "uvicorn"))
        print(f"{sum(loaded) + len(seen):,} requests, {len(self.moves)} swaps, {len(self.kills)} workers killed")
        print(
            f"failed in the half without kills: {bad[0]} of {loaded[0]:,} (wrk), {near.count(False)} (checking clients)"
        )
        print(
            f"failed in the half with kills:    {bad[1]} of {loaded[1]:,} (wrk), {near.count(True)} (checking clients)"
        )
        print(f"answers that named an old version: {old} of {len(seen):,}")
        print(f"answers seen and not in the journal, or not as asked: {lost} of {len(seen):,}")
        print(f"rows in the journal: {len(journal):,}, {size:.0f} MB")
        print(f"longest time until a killed worker was replaced: {max(self.back, default=0):.2f} s")
        swaps = sorted(done - began for began, done, _ in self.moves)
        print(f"a swap took {swaps[len(swaps) // 2]:.2f} s (median), {swaps[-1]:.2f} s (longest)")
        print(
            f"memory: {used[0]:.0f} MB at the beginning, {used[1]:.0f} MB at the end; restarts told: {status.restarts}"
        )
        short = len(journal) < sum(loaded) - sum(bad)
        return sum(map(bool, (bad[0], near.count(False), old, lost, max(self.back, default=0) > 2, short)))

    def outdated(self, seen: list[tuple[float, str, str, float]]) -> int:
        """Answers that were begun when a swap was done and the next not yet begun, and name another version."""
        starts, wrong = [done for _, done, _ in self.moves], 0
        for began, version, _, _ in seen:
            at = bisect_right(starts, began) - 1
            ends = self.moves[at + 1][0] if at + 1 < len(self.moves) else float("inf")
            wrong += at >= 0 and began < ends and version != self.moves[at][2] and began + LATE < ends
        return wrong


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["DEPLOY_EXT_PROJECT"] = tmp
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(tmp)
        return int(Soak(Path(tmp), given.minutes).run() > 0)


if __name__ == "__main__":
    sys.exit(main())
