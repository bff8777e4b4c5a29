"""Where the time of a request goes: py-spy on a worker, one row a request, one connection.

Prints the share of each function with what it calls, for the LogisticRegression pipeline of bench/serving.py, and what
a request costs the worker in processor time, beside the echo on the same server software.
.venv/bin/python bench/profile_serving.py [--model HistGradientBoosting] [--connections 1]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
from machine import machine
from serving import ECHO, Bench, free_port, load, pipelines, running

PYSPY = "py-spy==0.4.3"
ENVIRONMENT = Path(__file__).parent / ".envs" / "py-spy"
SHOWN = 40  # functions


def pyspy() -> str:
    """The program, installed on first use."""
    program = ENVIRONMENT / "bin" / "py-spy"
    if not program.exists():
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "-q", str(ENVIRONMENT)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(ENVIRONMENT), PYSPY], check=True)
    return str(program)


def shares(raw: str) -> list[tuple[float, str]]:
    """Percent of the samples in which each function was on the stack, largest first."""
    inside: Counter[str] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, times = line.rpartition(" ")
        total += int(times)
        for function in {re.sub(r":\d+\)", ")", frame) for frame in stack.split(";")}:
            inside[function] += int(times)
    return [(100 * n / total, function) for function, n in inside.most_common()]


def cost(pid: int, url: str, body: bytes, connections: int, folder: Path, secret: str) -> str:
    """What wrk finds, and the processor time of a request."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    cell = load(url, body, connections, 4, folder, secret)
    after = process.cpu_times()
    each = [(b - a) / (cell.rate * 4) * 1e6 for a, b in zip(before[:2], after[:2], strict=True)]
    return f"{cell.rate:,.0f} requests/s, p50 {cell.p50:.0f} us, {each[0]:.0f} us user and {each[1]:.0f} us system each"


def main() -> int:
    import deploy_ext

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="LogisticRegression", choices=pipelines())
    arguments.add_argument("--connections", type=int, default=1)
    given = arguments.parse_args()
    program = pyspy()
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["DEPLOY_EXT_PROJECT"] = tmp
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(tmp)
        bench, folder = Bench(Path(tmp)), Path(tmp)
        body, connections = bench.bodies[1], given.connections
        made = deploy_ext.register(pipelines()[given.model].fit(bench.X, bench.y), "profiled", bench.X, bench.y)
        deploy_ext.promote(str(made), reason="bench", force=True)
        secret = deploy_ext.key_create("profiled", role="predict").secret
        endpoint = deploy_ext.up("profiled")
        url, (worker,) = f"{endpoint.url}/invocations", psutil.Process(endpoint.pid).children()
        told = cost(worker.pid, url, body, connections, folder, secret)
        command = [program, "record", "-p", str(worker.pid), "-d", "8", "-r", "400", "-f", "raw", "-o", f"{tmp}/raw"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recording:
            load(url, body, connections, 10, folder, secret)
            recording.wait(30)
        deploy_ext.down("profiled")
        port = free_port()
        at = f"http://127.0.0.1:{port}/"
        with running([sys.executable, "-c", ECHO, str(port)], at, body) as (pid, _):
            echo = cost(pid, at, body, connections, folder, secret)
        print(machine("deploy_ext", "uvicorn", "uvloop", "httptools"))
        print(f"{given.model} ({made.runtime}), {connections} connections, 1 row: {told}")
        print(f"echo: {echo}")
        for share, function in shares(Path(tmp, "raw").read_text())[:SHOWN]:
            print(f"{share:6.1f} %  {function}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
