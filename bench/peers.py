"""vetiver and MLServer with the pipelines of bench/serving.py, to be asked and loaded like our own endpoint.

Each lives in a virtual environment of its own, bench/.envs/<name>, which uv makes on first use and again when the pins
below change. There the pipeline is fitted anew, from the same source and the same rows, before anything is served: the
start of a peer holds no fit, and no model goes from one environment into another.

The peers are set up generously: the interpreter, pandas, scikit-learn and numpy are ours, uvicorn has uvloop and
httptools (only MLServer would bring uvloop by itself), nothing is logged per request, one process answers HTTP.

Alone it is a smoke test, exits 1 when labels differ: .venv/bin/python bench/peers.py [--only vetiver] [--seconds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from lifecycle import flights
from serving import CELLS, answer, free_port, load, pipelines, running

ENVIRONMENTS = Path(__file__).parent / ".envs"  # uv puts a .gitignore of `*` into each
SHARED = ["httptools==0.9.0", "joblib==1.6.0", "numpy==2.4.6", "pandas==3.1.1", "pyarrow==26.0.1"]
SHARED += ["pydantic==2.14.3", "scikit-learn==1.9.1", "scipy==1.17.1", "uvicorn==0.54.0"]
VETIVER = ["vetiver==0.2.6", "fastapi==0.165.0", "starlette==1.10.0", "uvloop==0.23.0"]
MLSERVER = ["mlserver==1.7.1", "mlserver-sklearn==1.7.1", "fastapi==0.115.14", "starlette==0.46.2"]
MLSERVER += ["uvloop==0.21.0"]  # its workers want the event loop that newer ones no longer make unasked
PINS = {"vetiver": VETIVER + SHARED, "mlserver": MLSERVER + SHARED}
NEWEST = "2026-11-21T00:00:00Z"  # what the pins need in turn is as it was then
WORKERS = 0  # MLServer's parallel_workers, see mlserver()
LEAST = 0.999  # of the labels are scikit-learn's
INSTALL, FIT_WITHIN, END = 600, 300, 10  # seconds at most

FIT = """
import sys
import joblib
import pandas as pd

train = pd.read_parquet(sys.argv[1])
joblib.dump(pipelines()[sys.argv[2]].fit(train.drop(columns="y"), train["y"]), sys.argv[3])
"""
APP = """
import joblib
import pandas as pd
from vetiver import VetiverAPI, VetiverModel

model = joblib.load("model.joblib")
X = pd.read_parquet("../train.parquet").drop(columns="y")
api = VetiverAPI(VetiverModel(model, "peer", prototype_data=X.head()), check_prototype=True).app
"""
KINDS = {"b": "BOOL", "i": "INT64", "u": "UINT64", "f": "FP64"}  # of a dtype, in the V2 protocol; others are BYTES


@dataclass
class Peer:
    """A server that is ready to be started: `running(peer.command, peer.url, peer.bodies[1], cwd=..., env=...)`."""

    name: str  # vetiver or mlserver
    command: list[str]
    cwd: Path | None
    url: str
    bodies: dict[int, bytes]  # what to post, by the number of rows
    env: dict[str, str]  # the whole environment of its process


def environment(name: str) -> Path:
    """The bin folder of the peer's virtual environment, made now unless it is there with these pins."""
    at, uv = ENVIRONMENTS / name, str(Path(sys.executable).parent / "uv")
    made, wanted = at / "pins.txt", "\n".join([sys.version, NEWEST, *PINS[name]])
    if not made.is_file() or made.read_text() != wanted:
        python = str(at / "bin" / "python")
        make = [uv, "venv", "-q", "--clear", "--no-project", "--python", sys.executable, str(at)]
        install = [uv, "pip", "install", "-q", "--python", python, "--exclude-newer", NEWEST, *PINS[name]]
        for command in (make, install):
            subprocess.run(command, check=True, timeout=INSTALL)
        made.write_text(wanted)
    return at / "bin"


def variables(programs: Path) -> dict[str, str]:
    """Our environment variables without what would lead into our own virtual environment or change the peer."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "MLSERVER_", "UVICORN_"))}
    return ours | {"PATH": f"{programs}:{os.environ['PATH']}", "VIRTUAL_ENV": str(programs.parent)}


def fitted(programs: Path, name: str, folder: Path, at: Path) -> None:
    """Fit pipeline `name` in the peer's environment on `folder`/train.parquet and write it to `at`/model.joblib."""
    at.mkdir(exist_ok=True)
    source = "from __future__ import annotations\n" + inspect.getsource(pipelines) + FIT
    command = [str(programs / "python"), "-c", source, str(folder / "train.parquet"), name, str(at / "model.joblib")]
    subprocess.run(command, check=True, timeout=FIT_WITHIN, env=variables(programs))


def vetiver(name: str, folder: Path, rows: dict[int, pd.DataFrame]) -> Peer:
    """vetiver with pipeline `name`; `folder` holds train.parquet, the columns of X and the target as column "y".

    The application its documentation writes, checking the prototype of every row, by one uvicorn worker.
    """
    folder, programs, port = folder.resolve(), environment("vetiver"), free_port()
    at = folder / f"vetiver-{name}"
    fitted(programs, name, folder, at)
    (at / "app.py").write_text(APP)
    command = [str(programs / "python"), "-m", "uvicorn", "app:api", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--log-level", "error", "--no-access-log"]
    bodies = {n: records(part) for n, part in rows.items()}
    return Peer("vetiver", command, at, f"http://127.0.0.1:{port}/predict", bodies, variables(programs))


def mlserver(name: str, folder: Path, rows: dict[int, pd.DataFrame]) -> Peer:
    """MLServer with pipeline `name`; `folder` holds train.parquet, the columns of X and the target as column "y".

    Its own SKLearnModel, which gets a DataFrame by the content type `pd`. `parallel_workers` is 0: the process that
    speaks HTTP also infers, as with the other servers here. MLServer comes with 1, a second process behind a queue:
    slower on one connection, no faster on sixteen (alternated three times), and asked to end right after a load it was
    still there 20 s later ("Waiting for background tasks"), while after 3 s of rest it ended at once.
    """
    folder, programs = folder.resolve(), environment("mlserver")
    at = folder / f"mlserver-{name}"
    fitted(programs, name, folder, at)
    ports = {kind: free_port() for kind in ("http_port", "grpc_port", "metrics_port")}
    server = {"host": "127.0.0.1", "debug": False, "parallel_workers": WORKERS, **ports}
    model = {"name": "peer", "implementation": "mlserver_sklearn.SKLearnModel"}
    model |= {"parameters": {"uri": "./model.joblib", "content_type": "pd"}}
    (at / "settings.json").write_text(json.dumps(server))
    (at / "model-settings.json").write_text(json.dumps(model))
    url = f"http://127.0.0.1:{ports['http_port']}/v2/models/peer/infer"
    bodies = {n: inference(part) for n, part in rows.items()}
    return Peer("mlserver", [str(programs / "mlserver"), "start", "."], at, url, bodies, variables(programs))


def records(rows: Any) -> bytes:
    """A request of vetiver: a list with an object a row."""
    return rows.to_json(orient="records").encode()


def inference(rows: pd.DataFrame) -> bytes:
    """A request of the V2 protocol with one tensor a column."""
    return json.dumps({"parameters": {"content_type": "pd"}, "inputs": [tensor(rows[c]) for c in rows]}).encode()


def tensor(column: Any) -> dict[str, Any]:
    """A column as the V2 protocol has it; strings need a content type of their own."""
    kind = KINDS.get(column.dtype.kind, "BYTES")
    data = json.loads(column.to_json(orient="values"))
    found = {"name": column.name, "shape": [len(data), 1], "datatype": kind, "data": data}
    return found | ({"parameters": {"content_type": "str"}} if kind == "BYTES" else {})


def predictions(peer: Peer, answer: Any) -> list[Any]:
    """The labels out of what the peer answered."""
    return answer["predict"] if peer.name == "vetiver" else answer["outputs"][0]["data"]


@contextlib.contextmanager
def started(peer: Peer) -> Iterator[tuple[int, float]]:
    """`running` of the peer: its pid and the seconds to its first answer; none of its processes is left afterwards."""
    family: list[psutil.Process] = []
    try:
        with running(peer.command, peer.url, peer.bodies[1], cwd=peer.cwd, env=peer.env) as (pid, start):
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            yield pid, start
    finally:
        for process in psutil.wait_procs(family, END)[1]:
            sys.stderr.write(f"{peer.name}: process {process.pid} did not end by itself\n")
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def agreement(peer: Peer, rows: int, labels: list[Any]) -> float:
    """The share of the labels of `rows` rows in which the peer and scikit-learn agree."""
    found = predictions(peer, answer(peer.url, peer.bodies[rows]))
    assert len(found) == len(labels), f"{peer.name} answered {len(found)} labels to {rows} rows"
    return sum(a == b for a, b in zip(found, labels, strict=True)) / len(labels)


def smoke(peer: Peer, labels: list[Any], seconds: float, folder: Path) -> bool:
    """Start a peer, compare its labels, load it, print what was found; whether the labels agree."""
    with started(peer) as (_, start):
        shares = {n: agreement(peer, n, labels[:n]) for n in peer.bodies}
        print(f"{peer.name}: first answer after {start:.1f} s, labels as scikit-learn's: {shares}")
        for connections, rows in CELLS:
            cell = load(peer.url, peer.bodies[rows], connections, seconds, folder, "")
            print(f"  {connections:>2} connections, {rows:>4} rows: {cell.rate:>6.0f} requests/s, {cell.bad} failed")
    return min(shares.values()) >= LEAST


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=3, help="of wrk, for each of four cells")
    arguments.add_argument("--only", default="", help="one of the peers")
    arguments.add_argument("--model", default="LogisticRegression", help="one of the pipelines of bench/serving.py")
    given = arguments.parse_args()
    peers: dict[str, Callable[..., Peer]] = {"vetiver": vetiver, "mlserver": mlserver}
    X, y = flights()
    sample = X.sample(1000, random_state=0)
    labels = pipelines()[given.model].fit(X, y).predict(sample).tolist()
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        X.assign(y=y).to_parquet(folder / "train.parquet")
        rows = {1: sample.head(1), 1000: sample}
        chosen = [make for name, make in peers.items() if given.only in ("", name)]
        agree = [smoke(make(given.model, folder, rows), labels, given.seconds, folder) for make in chosen]
    return int(not all(agree))


if __name__ == "__main__":
    sys.exit(main())
