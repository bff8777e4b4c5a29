"""What happens to retraining jobs on the second day: signals at a bad moment, bad places, servers that hang."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from jobs import notebook, outputs, resumed, retrain, started
from kernels import kernel
from stories import said, until
from test_second_day import mounting

import deploy_ext
from deploy_ext import store
from deploy_ext.core import InvalidRequest
from deploy_ext.keeping import cells_of
from deploy_ext.order import Order, Ticket, alone
from deploy_ext.records import Version
from deploy_ext.registry import Registry
from deploy_ext.retrain import settle
from deploy_ext.stopping import Stopped
from deploy_ext.store import NoAnswer, Store

pytestmark = pytest.mark.usefixtures("begun")

WAIT = "import os, time\nopen('at', 'w')\nwhile os.path.exists('stop'):\n    time.sleep(0.05)"


def ended(job: subprocess.Popen[str], code: int = 7) -> tuple[dict[str, Any], str]:
    """What a job that was started with --json has told, and what stood on stderr."""
    out, told = job.communicate(timeout=60)
    assert job.returncode == code, told
    assert "Traceback" not in told, told
    return json.loads(out or "{}"), told


# signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_stopped_between_two_attempts(tmp_path: Path, number: int) -> None:
    lost = "import os\nif not os.path.exists('there'):\n    raise ConnectionResetError('gone')"
    notebook(tmp_path / "train.ipynb", "a = 1", lost, "print('a', a)")
    job = started(tmp_path, "train.ipynb", "--retries", "3", "--backoff", "10m", "--json")
    assert job.stderr
    for line in job.stderr:
        if "Once more" in line:
            break
    job.send_signal(number)
    told, _ = ended(job)
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert told["told"] == f"stopped by {name} when no cell was running" and "attempt 1" in told["notes"][0]
    assert json.loads((Path(told["folder"]) / "summary.json").read_text())["outcome"] == "timed out"
    assert Registry().store.call("get_run", told["run"]).info.status == "KILLED"
    (tmp_path / "there").touch()
    again = resumed(told["job"])
    assert (again.outcome, again.ran, again.run) == ("done", 2, told["run"]) and "a 1" in outputs(again)


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM, signal.SIGINT)])
def test_it_puts_all_away_though_it_is_stopped_twice(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    notebook(tmp_path / "train.ipynb", "a = 1", WAIT, "print('a', a)")
    (tmp_path / "stop").touch()
    job = started(tmp_path, "train.ipynb", "--json")
    until(lambda: (tmp_path / "at").exists())
    for number in numbers:
        job.send_signal(number)
    told, _ = ended(job)
    assert told["outcome"] == "timed out" and "cell 3: stopped by" in told["told"]
    (tmp_path / "stop").unlink()
    again = resumed("last")
    assert (again.outcome, again.ran) == ("done", 2) and "a 1" in outputs(again)


@pytest.mark.parametrize("words", [(), ("-p", "months=1,2", "--grid", "--jobs", "2")])
def test_what_a_cell_has_started_ends_with_the_kernel_also_after_nohup(tmp_path: Path, words: tuple[str, ...]) -> None:
    def sleeps() -> bool:
        return any(p.info["cmdline"] == ["sleep", "600.5"] for p in psutil.process_iter(["cmdline"]))

    notebook(tmp_path / "train.ipynb", "!sleep 600.5")
    job = started(tmp_path, "train.ipynb", *words, "--cell-timeout", "3s", "--json", by=("nohup",))
    until(sleeps)
    told, _ = ended(job)
    assert ": it took longer than 3 seconds" in told["told"]
    until(lambda: not sleeps(), 5)


def test_it_can_be_stopped_while_it_waits_for_another(tmp_path: Path) -> None:
    notebook(tmp_path / "train.ipynb", "a = 1")
    with alone("flights", "wait"):
        job = started(tmp_path, "train.ipynb", "--model", "flights", "--json")
        assert job.stderr and "this one waits for it" in job.stderr.readline()
        job.send_signal(signal.SIGTERM)
        told, why = ended(job)
    assert told == {} and "TimedOut: stopped by SIGTERM when no cell was running" in why
    assert [p.name for p in (tmp_path / ".deploy" / "jobs").iterdir() if p.is_dir()] == []


def test_a_promotion_that_is_stopped_is_done_or_not_and_said_which(story: Path) -> None:
    registry = Registry()
    order, version = Order("train.ipynb", promote=True), registry.version("flights/3")

    def promote(stop: Callable[[], Any]) -> Callable[[Version, Path | None, str], Version]:
        def stopped(version: Version, gates: Path | None, why: str) -> Version:
            stop()
            raise Stopped("SIGTERM")

        return stopped

    told = settle(order, version, registry, promote(lambda: None), "x")
    assert (told["outcome"], told["champion"]) == ("timed out", "flights/1")
    assert told["told"] == "stopped by SIGTERM before flights/3 was promoted: flights/1 is champion as before"
    told = settle(order, version, registry, promote(lambda: deploy_ext.promote("flights/3", reason="x")), "x")
    assert (told["outcome"], told["champion"]) == ("promoted", "flights/3")


# places


def test_places_that_are_none_are_told_before_anything_runs(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "a = 1")
    (tmp_path / "folder").mkdir()
    for told, why in [
        ({"out": "folder"}, "this is a folder. Type folder/executed.ipynb"),
        ({"out": "nowhere/x.ipynb"}, "there is no folder for it. Make it: mkdir -p .*nowhere"),
        ({"cwd": "nowhere"}, "--cwd nowhere: there is no such folder"),
    ]:
        with pytest.raises(InvalidRequest, match=why):
            retrain(book, **told)
    assert not (tmp_path / ".deploy" / "jobs").exists()


def test_an_answer_is_put_where_its_copy_was_wanted(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "print('one')")
    first = retrain(book)
    again = retrain(book, out="copy.ipynb")
    assert (again.cached, again.job, again.executed) == (True, first.job, "copy.ipynb") and "one" in outputs(again)
    Path("copy.ipynb").unlink()
    assert retrain(book, out="copy.ipynb").cached and Path("copy.ipynb").exists()


def test_another_folder_is_another_job(tmp_path: Path, monkeypatch: Any) -> None:
    book = notebook(tmp_path / "train.ipynb", "print('read', open('data.txt').read())")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text(name)
    assert "read one" in outputs(retrain(book, cwd="one"))
    assert "read two" in outputs(retrain(book, cwd="two"))
    monkeypatch.chdir(tmp_path / "one")
    assert retrain(book).cached


def test_who_is_left_out_is_told_which_notebook_runs(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "a = 1")
    with alone(book, "wait"):
        assert retrain(book, on_overlap="skip").told == f"a job of {book} is running"


def test_an_executed_copy_that_was_cut_off_hides_no_summary(tmp_path: Path) -> None:
    ticket = Ticket("job", Order("train.ipynb")).keep()
    (ticket.folder / "executed.ipynb").write_text('{"cells": [')
    assert cells_of(ticket, None) == []


# servers


def test_a_server_that_hangs_is_not_waited_for(monkeypatch: Any) -> None:
    monkeypatch.setattr(store, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hung:
        known = Store(f"http://127.0.0.1:{hung.getsockname()[1]}")
        known.__dict__["client"] = None  # it was made when the server answered
        with pytest.raises(NoAnswer, match="does not answer"):
            known.call("search_experiments")


def test_a_server_that_may_come_back_is_tried_again(tmp_path: Path) -> None:
    down = "import os\nfrom deploy_ext.store import no_answer\nif not os.path.exists('up'):\n    open('up', 'w')\n"
    book = notebook(tmp_path / "train.ipynb", f"{down}    raise no_answer('http://mlflow', 'refused')")
    job = retrain(book, retries=1, backoff="10ms")
    assert (job.outcome, job.attempts) == ("done", 2) and os.path.exists("up")


# in a notebook


def at_work(folder: Path) -> list[psutil.Process]:
    """The kernels whose working folder this is."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and "ipykernel_launcher" in process.cmdline():
                found.append(process)
    return found


def test_a_sweep_in_a_notebook_can_be_interrupted_and_its_kernel_killed(tmp_path: Path) -> None:
    wait = WAIT.replace("'at'", "f'at-{depth}'")
    notebook(tmp_path / "train.ipynb", wait, "score = depth", parameters="depth: int = 1")
    (tmp_path / "stop").touch()
    both = [tmp_path / "at-1", tmp_path / "at-2"]

    def when_both_run(act: Callable[[], Any]) -> threading.Thread:
        for path in both:
            path.unlink(missing_ok=True)
        thread = threading.Thread(target=lambda: (until(lambda: all(path.exists() for path in both)), act()))
        thread.start()
        return thread

    with kernel(tmp_path) as opened:
        opened.run("%load_ext deploy_ext")
        interrupting = when_both_run(opened.manager.interrupt_kernel)
        stopped = opened.run("%deploy retrain train.ipynb -p depth=1,2,3 --grid --jobs 2 --best score")
        interrupting.join()
        assert "stopped by Ctrl-C after 0 trials" in stopped.text and "retrain --resume 2" in stopped.text
        assert len(at_work(tmp_path)) == 1
        killing = when_both_run(lambda: opened.manager.signal_kernel(signal.SIGKILL))
        opened.client.execute("%deploy retrain --resume last")
        killing.join()
        until(lambda: not opened.manager.is_alive())
        until(lambda: at_work(tmp_path) == [])  # kernels end when whoever started them is gone
    (tmp_path / "stop").unlink()
    with kernel(tmp_path) as opened:
        opened.run("%load_ext deploy_ext")
        done = opened.run("%deploy retrain --resume last")
        assert "done, 3 trials" in done.text and done.html.count("<tr>") == 4


# a full disk, in a mount namespace of the child's own


FULL = """
import json, os
from pathlib import Path
from jobs import notebook, started

os.chdir("small")
Path("deploy.toml").touch()  # a new project
os.environ["DEPLOY_EXT_PROJECT"] = os.getcwd()
fill = '''
import os
if os.path.exists('full'):
    with open('filler', 'wb', 0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            file.truncate(os.stat('filler').st_size // 4096 * 4096)
'''
told = {}

def attempt(name, *words):
    job = started(Path.cwd(), *words, "--json")
    out, why = job.communicate()
    told[name] = [job.returncode, json.loads(out) if out else why.splitlines()[-1]]

notebook(Path("train.ipynb"), "a = 1", fill, "b = a + 1\\nprint('x' * 20_000)", "print(b)")
notebook(Path("grid.ipynb"), fill + "print('x' * 20_000)\\nscore = depth", parameters="depth: int = 1")
for name, words in [("job", ["train.ipynb"]), ("sweep", "grid.ipynb -p depth=1,2,3 --grid --jobs 2".split())]:
    Path("full").touch()
    attempt(name, *words)
    Path("filler").unlink(missing_ok=True)
    Path("full").unlink()
    attempt(f"{name} again", "--resume", "last")
told["left"] = [p.name for p in Path(".deploy").rglob(".*.*")]

import deploy_ext
from deploy_ext.core import DeployError

os.mkdir("other")  # a new project, and no new process
Path("other/deploy.toml").touch()
os.environ["DEPLOY_EXT_PROJECT"] = os.path.abspath("other")
Path("full").touch()
try:
    deploy_ext.retrain("train.ipynb")
except DeployError as e:
    told["here"] = [e.exit_code, str(e)]
Path("filler").unlink()
Path("full").unlink()
told["here again"] = [0, deploy_ext.retrain(resume="last").to_dict()]
print(json.dumps(told))
"""


def test_a_full_disk_says_where_and_the_job_goes_on_when_there_is_space(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    before = mounting('mount -t tmpfs -o size=12m tmpfs "$0/small"')
    path = os.pathsep.join([str(Path(deploy_ext.__file__).parents[1]), str(Path(__file__).parent)])
    told = json.loads(said(FULL, before=before, PYTHONPATH=path).splitlines()[-1])
    for name in ("job", "sweep", "here"):
        code, why = told[name]
        assert code == 5 and "No space left" in why and "retrain --resume 2" in why and ".deploy/jobs/2" in why, told
    for name in ("job again", "sweep again", "here again"):
        assert told[name][0] == 0 and told[name][1]["outcome"] == "done", told
    assert told["job again"][1]["ran"] < 5 and len(told["sweep again"][1]["trials"]) == 3 and told["left"] == []


# what is seen meanwhile

CLOCK = (
    "import sys; from deploy_ext.core import progress\nwith progress('sweep', 3) as bar:\n    bar('first', 0); input()"
)


def test_what_takes_long_has_a_clock() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    seen = b""
    with subprocess.Popen([sys.executable, "-c", CLOCK], stdin=subprocess.PIPE, stderr=theirs) as job:
        while b"sweep: first 0/3" not in seen or b"00:04" not in seen:
            seen += os.read(ours, 10_000)
        job.communicate(b"\n", timeout=60)
    assert job.returncode == 0 and not os.read(ours, 10_000).split(b"\r")[-2].strip()  # it takes itself away
