"""Projects for tests that tell the whole story: flights, models good and bad, and what stands in a project."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

import deploy_ext
from deploy_ext.core import home
from deploy_ext.records import Endpoint
from deploy_ext.registry import Registry

GATES = """roc_auc >= 0.8
roc_auc >= champion - 0.02 at 95%
f1[carrier] >= 0.3
baseline.roc_auc >= 0.05
size_mb <= 50
latency_ms.p99 <= 10000 warn
"""
COLUMNS = ["dep_delay", "hour", "carrier"]


def flights(seed: int = 0, rows: int = 600) -> pd.DataFrame:
    """Flights with the target in the frame: `late` depends on the delay at departure and a little on the carrier."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "dep_delay": rng.normal(10, 25, rows).round(),
            "hour": rng.integers(5, 24, rows),
            "carrier": rng.choice(["AA", "B6", "UA"], rows),
        }
    )
    return frame.assign(late=frame.dep_delay + 8 * (frame.carrier == "B6") + rng.normal(0, 8, rows) > 15)


def pipeline(**settings: Any) -> Pipeline:
    """A small pipeline that is not fitted."""
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough")
    return make_pipeline(encode, LogisticRegression(max_iter=500, **settings))


def good(**settings: Any) -> Pipeline:
    """A model that passes `GATES`."""
    frame = flights()
    return pipeline(**settings).fit(frame[COLUMNS], frame.late)


def worse() -> Pipeline:
    """A model that learnt nothing, for its targets were shuffled."""
    frame = flights()
    return pipeline().fit(frame[COLUMNS], frame.late.sample(frac=1, random_state=0).to_numpy())


def tell(name: str = "flights") -> None:
    """The story so far, in the project in force: /1 is champion, /2 failed its gates, /3 passed them and waits."""
    frame, unseen = flights(), flights(1)
    deploy_ext.gates(name, GATES)
    for number, model in enumerate((good(C=0.01), worse(), good()), 1):
        deploy_ext.register(model, name, frame, "late", purpose="late arrivals")
        deploy_ext.validate(f"{name}/{number}", unseen, "late")
        if number == 1:
            deploy_ext.promote(f"{name}/1", reason="first champion")


def clone(source: Path, folder: Path) -> Path:
    """A copy of the project `source` in `folder`; MLflow's database holds absolute paths, which are mended."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    places = {
        "experiments": ["artifact_location"],
        "runs": ["artifact_uri"],
        "logged_models": ["artifact_location"],
        "model_versions": ["source", "storage_location"],
    }
    with contextlib.closing(sqlite3.connect(folder / ".deploy" / "mlflow.db")) as database, database:
        for table, columns in places.items():
            for column in columns:
                database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(source), str(folder)))
    return folder


def processes(folder: Path) -> list[psutil.Process]:
    """Processes of deploy_ext that work in the project `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and any("deploy_ext" in word for word in process.cmdline()):
                found.append(process)
    return found


def state(uri: str | None = None) -> dict[str, Any]:
    """Everything that a verb could leave behind, as MLflow, the disk and the process table tell it."""
    from mlflow import MlflowClient

    uri = uri or f"sqlite:///{home() / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    artifacts = home() / "artifacts"
    return {
        "versions": {
            (v.name, v.version): (client.get_model_version(v.name, v.version).aliases, v.tags)
            for v in client.search_model_versions()
        },
        "models": [m.name for m in client.search_registered_models()],
        "runs": sorted(r.info.run_id for r in client.search_runs(experiments)),
        "logged models": sorted(m.model_id for m in client.search_logged_models(experiments)),
        "files": sorted(str(p.relative_to(artifacts)) for p in artifacts.rglob("*") if p.is_file()),
        "half fetched": sorted(str(p) for p in (home() / "bundles").glob("*/.*")),
        "endpoints": sorted(p.name for p in (home() / "endpoints").glob("*.json")),
        "temporary": sorted(p.name for p in Path(tempfile.gettempdir()).glob("deploy*")),
        "processes": sorted(p.pid for p in processes(home().parent)),
    }


@contextlib.contextmanager
def nothing_made(*names: str, uri: str | None = None) -> Iterator[None]:
    """Inside the block nothing is made or moved, and the ledgers of `names` are whole afterwards."""
    before = state(uri)
    while (now := state(uri)) != before:  # a process of an earlier step may just be ending
        before = now
    yield
    with contextlib.suppress(AssertionError):
        until(lambda: state(uri) == before, 20)
    after = state(uri)
    moved = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert not moved, moved
    for name in names:
        assert Registry(uri).verify(name) == []


def script(code: str, *arguments: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
    """A second process in the same project that runs `code`."""
    command = [*before, sys.executable, "-c", code, *arguments]
    told = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=told, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def said(code: str, *arguments: str, before: tuple[str, ...] = (), **environment: str) -> str:
    """What a second process prints that runs `code` to its end."""
    process = script(code, *arguments, before=before, **environment)
    out, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    return out.strip()


def post(url: str, body: Any) -> tuple[int, Any]:
    """Status and content of what a server answers to JSON."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What `condition` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
    return found


def children(pid: int | None, word: str) -> list[psutil.Process]:
    """The processes that a process has started with `word` in their command."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends while it is looked at
            found += [child] if word in child.cmdline() else []
    return found


def gone(process: psutil.Process) -> bool:
    """It has ended, though nobody may have asked yet how."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def workers(endpoint: Endpoint) -> list[psutil.Process]:
    """The processes that answer."""
    return children(endpoint.pid, "deploy_ext.serve.supervisor")
