"""How long a journal of a million predictions takes to read, and to forget somebody in.

Writes 1,000,000 rows of the flights data as a worker does, sixteen requests of one row at a time, with feedback on a
tenth of them, lets them become Parquet as the supervisor does, and reads them with `deploy_ext.journal` in a process of
its own. Once more with everything still in segments, which no endpoint ever has: it is the worst that can be.

Exits 1 when the first takes 3 s or more: .venv/bin/python bench/journal.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle import flights
from machine import machine
from sklearn.dummy import DummyClassifier

from deploy_ext.contract import infer
from deploy_ext.core import Settings, home
from deploy_ext.output import describe_output
from deploy_ext.serve.archive import maintain
from deploy_ext.serve.feedback import Feedback, Truth
from deploy_ext.serve.journal import Batch, Writer, journal_folder

ROWS, JOINED, LIMIT = 1_000_000, 16, 3.0
READ = """
import time, deploy_ext, pandas
began = time.perf_counter()
frame = deploy_ext.journal("flights")
print(time.perf_counter() - began, len(frame), int(frame["outcome"].notna().sum()))
"""
FORGET = """
import time, deploy_ext, pandas
began = time.perf_counter()
print(deploy_ext.journal_forget("flights", ("dest=LGB", "origin=JFK")).rows, time.perf_counter() - began)
"""


def fill(folder: Path, contract: Any, X: Any) -> float:
    """Write the rows and the feedback; seconds of the writing."""
    columns = {name: (values * (ROWS // len(X) + 1))[:ROWS] for name, values in contract.rows(X).items()}
    writer, ids = Writer(folder, contract, "flights", 1, Settings(), b""), []
    said, latencies = [False] * JOINED, [80] * JOINED
    keys: list[str | None] = [None] * JOINED
    chances = np.tile([0.75, 0.25], JOINED).tobytes()
    began = time.perf_counter()
    for start in range(0, ROWS, JOINED):
        asked = {name: values[start : start + JOINED] for name, values in columns.items()}
        names = [f"0a1b2c3d-{start + i:x}" for i in range(JOINED)]
        batch = Batch([1] * JOINED, time.time_ns(), names, keys, latencies, [], said, chances, [])
        segment, first = writer.write(batch, asked) or ("", 0)
        ids.append(f"{segment}-{first}")
        ids.append(f"{segment}-{first + 1}")
    took = time.perf_counter() - began
    writer.close()
    truths = [Truth(name, True) for name in ids[: ROWS // 10]]
    accepted, _, _ = Feedback(folder).take(truths, time.time_ns(), None)
    assert accepted == ROWS // 10
    return took


def run(program: str) -> list[str]:
    """What a program prints, in a process of its own."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def main() -> int:
    X, y = flights()
    contract = infer(X, describe_output(DummyClassifier().fit(X, y), X))
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["DEPLOY_EXT_PROJECT"] = tmp
        os.chdir(tmp)
        folder = journal_folder(home(), "flights")
        wrote = fill(folder, contract, X)
        raw, size = run(READ), sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        began = time.perf_counter()
        maintain(folder, Settings())
        archived = time.perf_counter() - began
        closed, packed = run(READ), sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        gone = run(FORGET)
    assert raw[1:] == closed[1:] == [str(ROWS), str(ROWS // 10)]
    print(machine("deploy_ext", "pandas", "pyarrow", "msgspec"))
    print(f"write {ROWS:,} rows in batches of {JOINED}:  {wrote:.2f} s, {size:.0f} MB of segments")
    print(f"read them with feedback, from segments:  {float(raw[0]):.2f} s")
    print(f"make Parquet of them:                    {archived:.2f} s, {packed:.0f} MB")
    print(f"read them with feedback, from Parquet:   {float(closed[0]):.2f} s (less than {LIMIT:g} wanted)")
    print(f"forget {int(gone[0]):,} of them:                     {float(gone[1]):.2f} s")
    return int(float(closed[0]) >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
