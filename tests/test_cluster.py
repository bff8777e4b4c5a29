"""Sweeps and batches on real clusters of two nodes, on loopback: the same results, whichever process dies."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from jobs import notebook, started
from sklearn.tree import DecisionTreeClassifier
from stories import gone, until
from test_batch import FRAME, LATE, ordered, pipe

import deploy_ext
from deploy_ext.batch import Order, Scoring, score_files
from deploy_ext.cluster import LONELY, chosen, engine
from deploy_ext.core import ContractViolated, EndpointFailed, InvalidRequest, home
from deploy_ext.order import tickets
from deploy_ext.parts import folder_of
from deploy_ext.registry import Registry
from deploy_ext.swept import Swept

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("begun")]
STORE = 80_000_000  # bytes
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
LOG = "open(f'log-{depth}', 'a').write('a')"
WAIT = "import os, time\nopen(f'at-{depth}', 'w').close()\nwhile os.path.exists('stop'):\n    time.sleep(0.05)"


def killed(process: psutil.Process) -> None:
    """End a process and all below it at one blow, as when a machine loses its power."""
    found = [process, *process.children(recursive=True)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for one in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)


@dataclass
class Nodes:
    """A Ray cluster: a head with one CPU, where commands are typed, and another node with one."""

    cluster: Any
    other: Any

    @property
    def on(self) -> str:
        return f"ray={self.cluster.address}"

    @property
    def raylets(self) -> list[psutil.Process]:
        nodes = (self.cluster.head_node, self.other)
        return [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]

    def calls(self) -> list[psutil.Process]:
        """The processes of calls, on all nodes."""
        return [p for raylet in self.raylets for p in called(raylet)]

    def renew(self) -> None:
        """In the place of a node that died stands a new one."""
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.other = self.cluster.add_node(num_cpus=1, object_store_memory=STORE, include_log_monitor=False)


def called(node: psutil.Process) -> list[psutil.Process]:
    """The calls that run below a process."""
    found = []
    for process in node.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if "serve()" in " ".join(process.cmdline()) else []
    return found


@pytest.fixture(scope="module", autouse=True)
def _apart() -> Iterator[None]:
    """Ray stays on loopback, and writes to neither the user's home nor the place where others look for a cluster."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets have long names
    token = Path(folder, "token")
    token.write_text("f" * 64)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**LONELY, "RAY_TMPDIR": folder, "RAY_AUTH_TOKEN_PATH": str(token)}.items():
            patch.setenv(name, value)
        patch.setenv("RAY_worker_niceness", "0")  # others are at work here, too
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(_apart: None) -> Iterator[Nodes]:
    """Two real nodes: a head with its raylet, and another raylet."""
    from ray.cluster_utils import Cluster

    few = {"num_cpus": 1, "object_store_memory": STORE, "include_log_monitor": False}
    cluster = Cluster(initialize_head=True, head_node_args={**few, "include_dashboard": False, "_system_config": QUICK})
    try:
        yield Nodes(cluster, cluster.add_node(**few))
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Order:
    """A version with a fast form."""
    return ordered(
        tmp_path_factory.mktemp("late"), pipe(DecisionTreeClassifier(max_depth=4)).fit(FRAME, LATE), FRAME, LATE
    )


def book(folder: Path, *cells: str, more: str = "") -> str:
    """A notebook with a depth."""
    return notebook(folder / "train.ipynb", *cells, parameters=f"depth: int = 3{more}")


TWO = ("train.ipynb", "-p", "depth=3,4", "--grid", "--best", "score", "--checkpoint-after", "0s")


def at_work(job: subprocess.Popen[str], folder: Path) -> None:
    """Wait until both trials have come to where they wait."""
    until(lambda: all((folder / f"at-{depth}").exists() for depth in (3, 4)) or job.poll() is not None, 120)
    assert job.poll() is None, job.communicate()


def sweep(path: str, *parameters: str, **told: Any) -> Swept:
    """A sweep in this process."""
    found = deploy_ext.retrain(path, parameters, grid=True, **told)
    assert isinstance(found, Swept)
    return found


def outcome(done: Swept) -> list[Any]:
    """What a sweep has found."""
    return [done.outcome, done.winner, *((t.parameters, t.figures, t.outcome, t.ran) for t in done.trials)]


TOKEN = "correct-horse-battery"


def test_a_sweep_on_ray_is_the_sweep_that_it_is_here(nodes: Nodes, tmp_path: Path, monkeypatch: Any) -> None:
    """On both nodes, with a secret that neither knows and that Ray does not get to see."""
    cells = (
        "import os, time\nopen(f'node-{depth}', 'w').write(os.environ.get('RAY_RAYLET_PID', 'here'))",
        "assert len(token) == 21 and 'RAY' not in token",
        "while len([f for f in os.listdir() if f.startswith('node-')]) < 2: time.sleep(0.05)",
        "score = depth * 2",
    )
    path = book(tmp_path, *cells, more="\ntoken: Secret = None")
    text = Path(path).read_text().replace('"depth: int', '"from deploy_ext import Secret\\ndepth: int')
    Path(path).write_text(text)
    monkeypatch.setenv("DEPLOY_EXT_SECRET_TOKEN", TOKEN)
    done = sweep(path, "depth=3,4", best="score", on=nodes.on)
    assert done.outcome == "done", [t.told for t in done.trials] + [done.told]
    assert len({(tmp_path / f"node-{depth}").read_text() for depth in (3, 4)}) == 2
    assert outcome(done) == outcome(sweep(path, "depth=3,4", best="score", jobs=2, force=True))
    below = Registry().store.pages("search_runs", ["1"], f"tags.mlflow.parentRunId = '{done.run}'")
    assert len(list(below)) == 2 and list(home().glob(".lease-*")) == []
    session = Path(nodes.cluster.head_node.get_session_dir_path())
    logs = [p for p in session.rglob("*") if p.is_file()]
    assert len(logs) > 5 and not any(TOKEN.encode() in p.read_bytes() for p in logs)


def test_a_node_that_dies_in_the_middle_loses_no_result(nodes: Nodes, tmp_path: Path) -> None:
    book(tmp_path, LOG, WAIT, "score = depth")
    (tmp_path / "stop").touch()
    job = started(tmp_path, *TWO, "--on", nodes.on)
    at_work(job, tmp_path)
    until(lambda: [len(called(raylet)) for raylet in nodes.raylets] == [1, 1])
    killed(nodes.raylets[1])
    (tmp_path / "stop").unlink()
    out, err = job.communicate(timeout=120)
    nodes.renew()
    assert job.returncode == 0, err
    assert [(tmp_path / f"log-{depth}").read_text() for depth in (3, 4)] == ["a"] * 2
    assert "2 trials\n" in out and "best" in out.splitlines()[3]


def test_a_command_that_is_stopped_or_killed_leaves_nothing_running_and_resume_finishes(
    nodes: Nodes, tmp_path: Path
) -> None:
    book(tmp_path, LOG, WAIT, "score = depth")
    (tmp_path / "stop").touch()
    words: tuple[str, ...] = (*TWO, "--on", nodes.on)
    for number, code in ((signal.SIGTERM, 7), (signal.SIGKILL, -9)):
        job = started(tmp_path, *words)
        at_work(job, tmp_path)
        job.send_signal(number)
        _, err = job.communicate(timeout=60)
        assert job.returncode == code, err
        until(lambda: not nodes.calls(), 20)
        for depth in (3, 4):
            (tmp_path / f"at-{depth}").unlink()
        words = ("--resume", "last")
    (tmp_path / "stop").unlink()
    done = deploy_ext.retrain(resume="last", on="local", jobs=2)
    assert isinstance(done, Swept) and (done.outcome, done.winner, [t.ran for t in done.trials]) == ("done", 1, [2, 2])
    assert [(tmp_path / f"log-{depth}").read_text() for depth in (3, 4)] == ["a", "a"]


def test_files_on_ray_are_the_files_that_they_are_here(nodes: Nodes, late: Order, tmp_path: Path) -> None:
    """A node that dies in the middle of one loses nothing but what it had in hand."""
    files = [(tmp_path / f"{name}.parquet", tmp_path / "there" / f"{name}.parquet") for name in "ab"]
    for source, _ in files:
        FRAME.to_parquet(source, index=False)
    slow = replace(late, rows=5, seconds=0.0)

    def begun() -> bool:
        """Are parts of a file there, of those that the other node makes?"""
        opened = {Path(f.path).parent for p in called(nodes.raylets[1]) for f in p.open_files()}
        return any(
            len(list(folder_of(target).glob("0*.parquet"))) > 3 for _, target in files if folder_of(target) in opened
        )

    with ThreadPoolExecutor(1) as beside:
        lost = beside.submit(lambda: until(begun) and killed(nodes.raylets[1]))
        done = score_files(slow, files, tmp_path / "there", lambda *told: None, nodes.on)
        lost.result()
    nodes.renew()
    assert sorted(f.state for f in done.files) == ["resumed", "scored"]
    here = score_files(late, [(s, tmp_path / f"here-{s.name}") for s, _ in files], tmp_path, lambda *told: None)
    assert (done.rows, done.faulty, here.rows) == (2 * len(FRAME), 0, 2 * len(FRAME))
    for source, target in files:
        pd.testing.assert_frame_equal(pd.read_parquet(target), pd.read_parquet(tmp_path / f"here-{source.name}"))


def test_a_file_that_breaks_the_contract_ends_it_as_it_would_here(nodes: Nodes, late: Order, tmp_path: Path) -> None:
    wrong = FRAME.astype({"dep_delay": object})
    wrong.loc[7, "dep_delay"] = None
    wrong.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ContractViolated) as told:
        score_files(late, [(tmp_path / "a.parquet", tmp_path / "out.parquet")], tmp_path, print, nodes.on)
    assert type(told.value) is ContractViolated and told.value.faults[0].row == 7
    assert str(told.value) == f"{tmp_path}/a.parquet: row 7, dep_delay: is missing"
    assert [p.name for p in tmp_path.iterdir() if p.name != ".deploy"] == ["a.parquet"]


def test_predict_spreads_files_over_the_cluster(nodes: Nodes, story: Path) -> None:
    from stories import COLUMNS, flights

    Path("in").mkdir()
    for seed in (1, 2):
        flights(seed)[COLUMNS].to_parquet(f"in/{seed}.parquet")
    here = deploy_ext.predict("flights", "in", out=Path("here"))
    there = deploy_ext.predict("flights", "in", out=Path("there"), on=nodes.on)
    assert isinstance(here, Scoring) and isinstance(there, Scoring)
    assert (there.rows, there.asked, there.model, there.version) == (here.rows, here.asked, "flights", here.version)
    for name in ("1.parquet", "2.parquet"):
        assert Path("there", name).read_bytes() == Path("here", name).read_bytes()
    again = deploy_ext.predict("flights", "in", out=Path("there"), on="ray=127.0.0.1:1")  # nothing is left to do
    assert again.skipped == 2


def local_cluster(**told: Any) -> Any:
    """A cluster of Dask on loopback, with one CPU a worker."""
    from distributed import LocalCluster

    quiet: Any = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    return LocalCluster(host="127.0.0.1", protocol="tcp", threads_per_worker=1, **quiet, **told)


def test_dask_loses_no_result_with_a_worker(tmp_path: Path) -> None:
    book(tmp_path, LOG, WAIT, "score = depth")
    (tmp_path / "stop").touch()
    with contextlib.closing(local_cluster(n_workers=2)) as cluster:
        job = started(tmp_path, *TWO, "--on", f"dask={cluster.scheduler_address}")
        at_work(job, tmp_path)
        workers = [psutil.Process(nanny.process.pid) for nanny in cluster.workers.values()]
        until(lambda: [len(called(worker)) for worker in workers] == [1, 1])
        killed(workers[0])
        (tmp_path / "stop").unlink()
        out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert [(tmp_path / f"log-{depth}").read_text() for depth in (3, 4)] == ["a"] * 2
    assert "2 trials\n" in out and "best" in out.splitlines()[3]


def test_a_killed_command_stops_what_it_had_on_dask(tmp_path: Path) -> None:
    code = """
import time
from deploy_ext.cluster import engine
with engine({!r}) as found:
    found.pool.submit(time.sleep, 3600).result()
"""
    with contextlib.closing(local_cluster(n_workers=1, processes=False)) as cluster:
        command = [sys.executable, "-c", code.format(f"dask={cluster.scheduler_address}")]
        job = subprocess.Popen(command)
        until(lambda: called(psutil.Process()) or job.poll() is not None)
        job.kill()
        job.wait()
        until(lambda: not called(psutil.Process()), 20)


def test_a_cluster_of_our_own_keeps_to_loopback_and_ends_with_the_block(capfd: Any) -> None:
    before, others = signal.getsignal(signal.SIGTERM), set(psutil.Process().children(recursive=True))
    with engine("ray") as found:
        assert list(found.pool.map(math.sqrt, (4.0, 9.0))) == [2.0, 3.0]
        below = set(psutil.Process().children(recursive=True)) - others
        names = {p.name() for p in below}
        assert {"raylet", "gcs_server"} <= names
        listening = {c.laddr.ip for p in below for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening and listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    until(lambda: all(map(gone, below)), 20)
    assert signal.getsignal(signal.SIGTERM) == before
    out, err = capfd.readouterr()
    assert (
        out == "" and err.startswith("On a ray cluster of its own, on this machine: 1 nodes") and err.count("\n") == 1
    )


@contextlib.contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """A server that says one thing to whoever comes first."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                line.recv(100)
                line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_a_cluster_that_is_not_there_is_told_before_anything_is_begun(tmp_path: Path) -> None:
    path = book(tmp_path, "score = depth")
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as dashboard:
        for on in ("ray=127.0.0.1:1", f"ray=127.0.0.1:{dashboard}", "dask=127.0.0.1:1", "ray=nowhere.invalid:6379"):
            with pytest.raises(EndpointFailed, match=r"cannot be joined.*Look whether it runs"):
                sweep(path, "depth=3,4", on=on)
    assert tickets() == [] and list(home().glob(".lease-*")) == []


@pytest.mark.parametrize(
    ("on", "why"),
    [("rai", "Did you mean 'ray'"), ("", "no engine ''"), ("ray=here", "no address"), ("ray://h:10001", "no engine")],
)
def test_words_that_are_no_engine(tmp_path: Path, on: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        sweep(book(tmp_path, "score = depth"), "depth=3,4", on=on or "=")
    assert tickets() == []


def test_where_on_has_no_meaning_or_no_library(tmp_path: Path, monkeypatch: Any) -> None:
    path = book(tmp_path, "score = depth")
    with pytest.raises(InvalidRequest, match="--on is for sweeps"):
        deploy_ext.retrain(path, on="ray")
    with pytest.raises(InvalidRequest, match="--on are for answers in files"):
        deploy_ext.predict("flights", FRAME, on="ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "distributed", None)
    for on in ("ray", "dask"):
        with pytest.raises(InvalidRequest, match=rf"pip install 'deploy_ext\[{on}\]'"):
            sweep(path, "depth=3,4", on=on)
    plan = sweep(path, "depth=3,4", on="ray", dry_run=True)
    assert "2 trials on ray, as many as it has CPUs at a time" in repr(plan) and tickets() == []


def test_where_the_address_comes_from(monkeypatch: Any, tmp_path: Path) -> None:
    assert chosen("local") == ("local", "") and chosen("ray") == ("ray", "")
    (tmp_path / "deploy.toml").write_text('ray_address = "toml:1"\n')
    assert chosen("ray") == ("ray", "toml:1") and chosen("dask") == ("dask", "")
    monkeypatch.setenv("RAY_ADDRESS", "env:1")
    assert chosen("ray") == ("ray", "env:1") and chosen("ray=said:1") == ("ray", "said:1")
    assert chosen("ray=local") == ("ray", "") and os.environ["RAY_ADDRESS"] == "env:1"
