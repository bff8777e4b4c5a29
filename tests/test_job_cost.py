"""What a retraining job took: of all its processes, of all its attempts, however it ended; or nothing at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stories import until
from test_retrain import STOP, notebook, retrain, started

import deploy_ext
from deploy_ext import effort
from deploy_ext.core import InvalidRequest
from deploy_ext.effort import estimate, terms, used
from deploy_ext.order import tickets
from deploy_ext.registry import Registry
from deploy_ext.summary import Retrained

pytestmark = pytest.mark.usefixtures("begun")

WORK = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"
HOLD = "kept = bytearray({}_000_000)"


def metrics(job: Retrained) -> dict[str, float]:
    """What stands in the MLflow run of a job."""
    return Registry().store.call("get_run", job.run).data.metrics


# processes


def test_a_process_with_children_that_live_and_that_ended(tmp_path: Path) -> None:
    (tmp_path / "lives.py").write_text(WORK.format(1) + "\nprint(1, flush=True)\ninput()")
    (tmp_path / "ends.py").write_text(WORK.format(1))
    (tmp_path / "both.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, 'ends.py'])\n"
        "lives = subprocess.Popen([sys.executable, 'lives.py'], stdin=-1, stdout=-1)\nlives.stdout.readline()\n"
        "kept = bytearray(150_000_000)\nprint(1, flush=True)\ninput()\nlives.communicate(b'\\n')"
    )
    with subprocess.Popen([sys.executable, "both.py"], stdin=-1, stdout=-1, cwd=tmp_path) as process:
        assert process.stdout
        process.stdout.readline()
        took, mine = used(process.pid), used(os.getpid())
        process.communicate(b"\n")
    assert took and 2 <= took[0] < 10 and 150 < took[1] < 600
    assert mine and mine[0] > took[0]  # it is a child of this one
    assert used(process.pid) is None and used(None) is None


def test_a_process_that_died_and_was_not_reaped_has_no_figures() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert used(process.pid) is None
    process.wait()


# electricity


def test_the_estimate_grows_with_processor_time_alone() -> None:
    one, ten, held = (estimate(took, None, 0.30) for took in ((9.0, 1.0, 1.0), (9.0, 10.0, 1.0), (9.0, 1.0, 9.0)))
    assert one.kwh and ten.kwh == pytest.approx(10 * one.kwh) and held.kwh == one.kwh
    assert ten.kwh and ten.eur == pytest.approx(0.30 * ten.kwh) and ten.co2_kg is None
    assert "processor time" in repr(ten) and "whole machine" not in repr(ten)
    assert 1 <= 3.6e6 * one.kwh <= 500  # watts of one thread


def test_without_codecarbon_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    found = estimate((1.0, 1.0, 1.0), *terms("DEU", 0.30))
    assert found.kwh is None and "deploy_ext[cost]" in found.reasons["kwh"]


def test_a_processor_that_codecarbon_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecarbon.core.cpu.TDP", lambda: None)
    effort._watts.cache_clear()
    found = estimate((1.0, 1.0, 1.0), *terms("DEU", 0.30))
    effort._watts.cache_clear()
    assert found.kwh is None and "does not know" in found.reasons["kwh"]


# jobs


def test_a_job_logs_its_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_COUNTRY", "DEU")
    monkeypatch.setenv("DEPLOY_EXT_PRICE", "0.30")
    job = retrain(notebook(tmp_path / "train.ipynb", HOLD.format(300), WORK.format(2)))
    assert job.cost and 2 <= job.cost.cpu_seconds < 30 and 300 < (job.cost.memory_mb or 0) < 1500
    found = metrics(job)
    assert {name: getattr(job.cost, name) for name in ("cpu_seconds", "memory_mb", "kwh", "co2_kg", "eur")} == {
        name: pytest.approx(found[name]) for name in ("cpu_seconds", "memory_mb", "kwh", "co2_kg", "eur")
    }
    assert "s of processor time" in repr(job) and "kg CO2e" in repr(job) and "EUR" in job.markdown()
    assert job.to_dict()["cost"]["cpu_seconds"] == job.cost.cpu_seconds
    assert Retrained.from_dict(json.loads(job.to_json())) == job


def test_without_settings_nothing_is_estimated(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "x = 1")
    job = retrain(book)
    assert job.cost and job.cost.kwh is None and "kwh" not in metrics(job) and "kWh" not in repr(job)
    assert retrain(book).cost == job.cost  # answered from it
    code = "import sys, deploy_ext.retrain; sys.exit('codecarbon' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_country_that_is_none_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = notebook(tmp_path / "train.ipynb", "open('ran', 'w')")
    monkeypatch.setenv("DEPLOY_EXT_COUNTRY", "DUE")
    with pytest.raises(InvalidRequest, match="Did you mean 'DEU'"):
        retrain(book)
    monkeypatch.setenv("DEPLOY_EXT_COUNTRY", "DEU")
    monkeypatch.setenv("DEPLOY_EXT_PRICE", "-1")
    with pytest.raises(InvalidRequest, match="price"):
        retrain(book)
    assert not (tmp_path / "ran").exists()


def test_a_job_that_failed_or_was_too_slow_has_cost_something(tmp_path: Path) -> None:
    failed = retrain(notebook(tmp_path / "train.ipynb", WORK.format(1), "1 / 0"))
    assert failed.outcome == "failed" and failed.cost and failed.cost.cpu_seconds >= 1
    slow = retrain(notebook(tmp_path / "slow.ipynb", "while True: pass"), cell_timeout="3s")
    assert slow.outcome == "timed out" and slow.cost and slow.cost.cpu_seconds >= 1
    assert metrics(slow)["cpu_seconds"] == pytest.approx(slow.cost.cpu_seconds)


def test_attempts_are_added_and_a_resumed_job_goes_on_counting(tmp_path: Path) -> None:
    lost = WORK.format(1) + "\nraise ConnectionResetError('gone')"
    both = retrain(notebook(tmp_path / "train.ipynb", HOLD.format(400), lost), retries=1, backoff="10ms")
    assert both.attempts == 2 and both.cost and both.cost.cpu_seconds >= 2
    notebook(tmp_path / "train.ipynb", HOLD.format(400), WORK.format(1))
    again: Any = deploy_ext.retrain(resume="last")
    assert again.outcome == "done" and again.cost
    assert again.cost.cpu_seconds >= both.cost.cpu_seconds + 1 and again.cost.seconds > both.cost.seconds
    assert (again.cost.memory_mb or 0) >= (both.cost.memory_mb or 0) and "cost" not in " ".join(again.notes)


def test_a_kernel_that_died_took_its_account_with_it(tmp_path: Path) -> None:
    die = "import os\nif not os.path.exists('died'):\n    open('died', 'w')\n    os.kill(os.getpid(), 9)"
    job = retrain(notebook(tmp_path / "train.ipynb", die), retries=1, backoff="10ms")
    assert (job.outcome, job.attempts, job.cost) == ("done", 2, None)
    assert "cpu_seconds" not in metrics(job) and "processor" not in repr(job)


def test_a_job_that_was_killed_is_not_counted_and_that_is_told(tmp_path: Path) -> None:
    notebook(tmp_path / "train.ipynb", "from pathlib import Path\nopen('here', 'w')", "x = 1" + STOP, "1 / 0")
    (tmp_path / "stop").touch()
    job = started(tmp_path, "train.ipynb")
    until(lambda: bool(tickets()) and bool(tickets()[0].run) and (tmp_path / "here").exists())
    job.send_signal(signal.SIGKILL)
    job.communicate()
    (tmp_path / "stop").unlink()
    again: Any = deploy_ext.retrain(resume="last")
    assert again.outcome == "failed" and again.cost and "of this run alone" in " ".join(again.notes)
    assert tickets()[0].summary["cost"]["cpu_seconds"] == again.cost.cpu_seconds


def test_workers_of_joblib_that_still_wait_are_counted(tmp_path: Path) -> None:
    work = (
        "import time\nfrom joblib import Parallel, delayed\ndef work(_):\n    end = time.process_time() + 1.5\n"
        "    while time.process_time() < end: pass\n_ = Parallel(2)(delayed(work)(i) for i in range(2))"
    )
    job: Any = retrain(notebook(tmp_path / "train.ipynb", work))
    assert job.outcome == "done" and job.cost.cpu_seconds >= 3
