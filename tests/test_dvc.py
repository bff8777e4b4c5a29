"""Data in a real DVC repository: its records are read, a job fetches it, and a version leads back to its bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from jobs import notebook, outputs, resumed, retrain, started
from sklearn.linear_model import LogisticRegression
from stories import until

import deploy_ext
from deploy_ext.core import InvalidRequest
from deploy_ext.dvc import Tracked, tracked
from deploy_ext.inputs import read_data
from deploy_ext.lineage import Lineage
from deploy_ext.order import tickets
from deploy_ext.registry import Registry
from deploy_ext.summary import Retrained
from deploy_ext.swept import Swept

pytestmark = pytest.mark.usefixtures("begun")

PYTHON = sys.executable
DVC = str(Path(PYTHON).with_name("dvc"))


def run(*command: str, cwd: str | Path = ".") -> str:
    """What a command that must not fail has printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def md5(content: bytes | str) -> str:
    return hashlib.md5(content.encode() if isinstance(content, str) else content).hexdigest()


@pytest.fixture
def apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DVC leaves nothing outside of this folder, and asks nobody for news."""
    folder = tmp_path_factory.mktemp("dvc")
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_DAEMON", "1")  # no process in the background
    return folder


@pytest.fixture
def repo(tmp_path: Path, apart: Path) -> Path:
    """A project in git and DVC, with a remote in another folder."""
    run("git", "init", "-qb", "main")
    run(DVC, "init", "-q")
    run(DVC, "remote", "add", "-q", "-d", "store", str(apart / "remote"))
    return tmp_path


def keep(path: str, text: str, push: bool = True) -> str:
    """Write a file, let DVC track it and git its record; the commit."""
    write(Path(path), text)
    run(DVC, "add", "-q", path)
    run("git", "add", f"{path}.dvc", ".dvc", ".dvcignore")
    run("git", "commit", "-qm", f"{path} has {len(text)} characters")
    if push:
        run(DVC, "push", "-q")
    return run("git", "rev-parse", "HEAD")


def forget(*paths: str) -> None:
    """As on a fresh checkout: neither the data nor the cache."""
    for path in paths:
        Path(path).unlink()
    run("rm", "-rf", ".dvc/cache")


def past(name: str) -> Lineage:
    """What a version was made of."""
    found = deploy_ext.history(name)
    for command in found.data.fetch:
        assert (command in repr(found) and shlex.quote(command)[1:-1] in found._repr_html_()) or "'" in command
    return found.data


def fetched(lineage: Lineage) -> dict[str, str]:
    """The files that the printed commands bring, with their SHA-256."""
    for command in lineage.fetch:
        words = shlex.split(command)
        assert words[0] == "dvc"
        run(DVC, *words[1:])
    folder = Path(lineage.version.replace("/", "-"))
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".gitignore"]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# the whole story

TRAIN = (
    "%load_ext deploy_ext\nimport pandas as pd\nfrom sklearn.linear_model import LogisticRegression",
    "frame = pd.read_csv('data/flights.csv')\nprint('rows', len(frame))",
    "model = LogisticRegression().fit(frame[['distance']], frame.late)",
    "%deploy register model --name flights --data frame --target late",
)


def flights(rows: int) -> str:
    return "distance,late\n" + "".join(f"{i},{i % 2}\n" for i in range(rows))


def test_a_version_leads_back_to_its_bytes(repo: Path) -> None:
    book = notebook(repo / "train.ipynb", *TRAIN)
    first = keep("data/flights.csv", flights(20))
    one = retrain(book)
    assert one.version == "flights/1", one
    second = keep("data/flights.csv", flights(40))
    forget("data/flights.csv")

    two = retrain(book, dvc_pull=True)
    assert (two.version, two.cached) == ("flights/2", False) and "rows 40" in outputs(two)
    assert "dvc pull: 1 file" in two.notes[0], two.notes
    assert {"dvc.json", "reads.json"} <= {f.path for f in Registry().store.call("list_artifacts", two.run)}
    again = retrain(book, dvc_pull=True)
    assert (again.cached, again.job) == (True, two.job) and "up to date" in again.notes[0]

    forget("data/flights.csv")
    for name, commit, rows in (("flights/1", first, 20), ("flights/2", second, 40)):
        told = past(name)
        (data,) = [file for file in told.files if file.dvc]
        assert data.dvc == Tracked(
            "data/flights.csv.dvc", "data/flights.csv", md5(flights(rows)), changed=False, commit=commit
        )
        assert (data.path, data.size) == ("data/flights.csv", len(flights(rows)))
        assert fetched(told) == {"data/flights.csv": data.sha256}
        assert Path(name.replace("/", "-"), "data", "flights.csv").read_text() == flights(rows)
    assert not Path("data/flights.csv").exists()  # the working copy is as it was
    assert run("git", "status", "--porcelain", "-uno") == ""


def test_registered_by_hand_and_committed_afterwards(repo: Path) -> None:
    keep("data/flights.csv", flights(20))
    write(Path("data/flights.csv"), flights(30))
    run(DVC, "add", "-q", "data/flights.csv")
    frame = read_data("data/flights.csv")
    model = LogisticRegression().fit(frame[["distance"]], frame.late)
    deploy_ext.register(model, "flights", frame, "late")
    told = past("flights/1")
    assert told.fetch == () and "no commit has data/flights.csv.dvc" in repr(told), told

    later = keep("data/flights.csv", flights(30))
    keep("data/flights.csv", flights(50))
    told = past("flights/1")
    assert f"--rev {later}" in told.fetch[0]
    assert fetched(told) == {"data/flights.csv": told.files[0].sha256}
    write(Path("data/flights.csv"), flights(7))
    deploy_ext.register(model, "flights", read_data("data/flights.csv"), "late")
    told = past("flights/2")
    assert told.fetch == () and "was not as data/flights.csv.dvc says" in repr(told)
    with pytest.raises(InvalidRequest, match="no version 9"):
        deploy_ext.history("flights/9")
    assert [e.to for e in deploy_ext.history("flights/2", verify=True).events] == ["2"]


# what dvc pull may do


def told_everywhere(job: Retrained | Swept, *words: str) -> None:
    """The summary of a job whose data could not be fetched stands wherever somebody looks for it."""
    for word in words:
        assert word in job.told and word in Path(job.folder, "summary.txt").read_text()
        (case,) = ElementTree.parse(Path(job.folder, "junit.xml")).iter("testcase")
        assert word in str(case[0].get("message")) + str(case[0].text), ElementTree.tostring(case)
    run = Registry().store.call("get_run", job.run)
    assert run.info.status in ("FAILED", "KILLED") and run.data.tags["deploy_ext.outcome"] == job.outcome


def test_what_cannot_be_fetched_is_a_job_that_failed(repo: Path, apart: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(apart / "step.md"))
    book = notebook(repo / "train.ipynb", "open('ran', 'w')")
    keep("data/flights.csv", flights(20), push=False)
    forget("data/flights.csv")
    job = retrain(book, dvc_pull=True, out="copy.ipynb")
    assert (job.outcome, job.exit_code, job.ran, job.cells, job.executed) == ("failed", 5, 0, 2, ""), job
    assert job.told.startswith("dvc pull failed, so nothing was run: ")
    told_everywhere(job, "dvc pull failed", "data/flights.csv")
    assert "dvc pull failed" in (apart / "step.md").read_text()
    assert f"retrain --resume {job.job} --dvc-pull" in job.notes[-1]
    run(DVC, "remote", "add", "-q", "-d", "-f", "store", "https://ada:s3same@127.0.0.1:9/x")
    private = retrain(book, dvc_pull=True)
    assert private.outcome == "failed" and "s3same" not in repr(private) + json.dumps(private.to_dict())
    process = started(repo, "train.ipynb", "--dvc-pull", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 5 and "Traceback" not in err and "s3same" not in out + err
    assert "dvc pull failed" in json.loads(out)["told"] and not Path("ran").exists() and not Path("copy.ipynb").exists()
    plan = retrain(book, dvc_pull=True, dry_run=True)
    assert "1. dvc pull" in repr(plan)


def test_a_job_whose_data_came_late_goes_on(repo: Path) -> None:
    book = notebook(repo / "train.ipynb", "print('rows', len(open('data/flights.csv').readlines()))")
    keep("data/flights.csv", flights(20), push=False)
    stored = Path(".dvc/cache").rename(".dvc/gone")
    Path("data/flights.csv").unlink()
    failed = retrain(book, dvc_pull=True)
    assert failed.outcome == "failed"
    stored.rename(".dvc/cache")
    again = resumed("last", dvc_pull=True)
    assert (again.job, again.outcome) == (failed.job, "done") and "rows 21" in outputs(again), again


def test_an_older_copy_is_not_taken_for_that_of_a_job_that_did_not_run(repo: Path) -> None:
    book = notebook(repo / "train.ipynb", "x = 1")
    assert retrain(book, out="copy.ipynb").outcome == "done"
    keep("data/flights.csv", flights(20), push=False)
    forget("data/flights.csv")
    job = retrain(book, "months=4", dvc_pull=True, out="copy.ipynb")
    assert job.outcome == "failed" and not Path(job.folder, "executed.ipynb").exists()
    told_everywhere(job, "data/flights.csv")


def test_a_sweep_whose_data_cannot_be_fetched_runs_no_trial(repo: Path) -> None:
    book = notebook(repo / "train.ipynb", "open('ran', 'w')")
    keep("data/flights.csv", flights(20), push=False)
    forget("data/flights.csv")
    swept = deploy_ext.retrain(book, ("months=3,4",), grid=True, dvc_pull=True)
    assert isinstance(swept, Swept) and (swept.outcome, swept.exit_code, swept.trials) == ("failed", 5, ())
    told_everywhere(swept, "dvc pull failed", "data/flights.csv")
    assert not Path("ran").exists()


def test_changes_that_are_not_kept_are_not_written_over(repo: Path) -> None:
    book = notebook(repo / "train.ipynb", "x = 1")
    keep("data/flights.csv", flights(20))
    write(Path("data/flights.csv"), flights(3))
    job = retrain(book, dvc_pull=True)
    assert job.outcome == "failed" and "unsaved" in job.told
    assert Path("data/flights.csv").read_text() == flights(3)


def test_without_dvc_or_repository(tmp_path: Path, apart: Path, monkeypatch: Any) -> None:
    book = notebook(tmp_path / "train.ipynb", "x = 1")
    with pytest.raises(InvalidRequest, match="no DVC repository"):
        retrain(book, dvc_pull=True)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidRequest, match=r"pip install 'deploy_ext\[dvc\]'"):
        retrain(book, dvc_pull=True)
    write(tmp_path / "dvc", "#!/nowhere/python\n").chmod(0o755)
    with pytest.raises(InvalidRequest, match="cannot be run"):
        retrain(book, dvc_pull=True)
    assert tickets() == []


SLOW = "#!/bin/sh\nsleep 600 &\necho $! > child\nwait\n"


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(") ")[2][0] != "Z"


@pytest.fixture
def slow(tmp_path: Path, apart: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, and on PATH a dvc that never ends; the file that will name its child."""
    write(apart / "bin" / "dvc", SLOW).chmod(0o755)
    monkeypatch.setenv("PATH", f"{apart / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(apart / "python"))
    (tmp_path / ".dvc").mkdir()
    return tmp_path / "child"


def test_the_time_of_the_job_is_also_that_of_dvc(slow: Path) -> None:
    book = notebook(slow.parent / "train.ipynb", "x = 1")
    job = retrain(book, dvc_pull=True, timeout="1s")
    assert (job.outcome, job.exit_code, job.ran) == ("timed out", 7, 0)
    told_everywhere(job, "was not done in the time of the job (")
    assert not alive(int(slow.read_text()))


def test_sigterm_ends_dvc_too(slow: Path) -> None:
    notebook(slow.parent / "train.ipynb", "x = 1")
    code = "import sys; from deploy_ext.cli import main; sys.executable = '/nowhere/python'; sys.exit(main())"
    command = [PYTHON, "-c", code, "retrain", "train.ipynb", "--dvc-pull"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: slow.exists() and bool(slow.read_text()))
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 7 and "timed out: dvc pull was stopped by SIGTERM" in out and "Traceback" not in err, err
    assert not alive(int(slow.read_text()))


def test_a_resumed_job_fetches_when_it_is_asked_to(repo: Path) -> None:
    keep("numbers.csv", "a\n1\n")
    cells = ["a = 1", "print('sum', a + int(open('numbers.csv').read().split()[1]))"]
    book = notebook(repo / "train.ipynb", *cells)
    forget("numbers.csv")
    assert retrain(book).outcome == "failed"
    assert resumed("last").outcome == "failed"
    again = resumed("last", dvc_pull=True)
    assert (again.outcome, again.ran) == ("done", 1) and "sum 2" in outputs(again)


# records


def test_records_as_dvc_writes_them(repo: Path) -> None:
    """Files, folders, a pipeline with wdir, a frozen stage, parameters, a foreach, and a lock in a subfolder."""
    keep("data/f.csv", "f")
    for name in ("raw/x.csv", "raw/sub/y.csv", "sub/in/source.txt"):
        write(Path(name), name)
    write(Path("sub/in/params.yaml"), "lr: 1\n")
    run(DVC, "add", "-q", "raw")
    shell = "mkdir -p out && cp source.txt out/big.csv"
    prep = {"cmd": shell, "wdir": "in", "deps": ["source.txt"], "outs": ["out/big.csv"], "params": ["lr"]}
    each = {"foreach": ["a", "b"], "do": {"cmd": "echo ${item} > ${item}.txt", "outs": ["${item}.txt"]}}
    folder = {"cmd": "mkdir -p made && echo 1 > made/one.csv", "outs": ["made"]}
    stages = {"prep": prep, "each": each, "folder": folder}
    write(Path("sub/dvc.yaml"), json.dumps({"stages": stages}))
    run(DVC, "repro", cwd="sub")
    write(Path("sub/dvc.yaml"), json.dumps({"stages": {**stages, "prep": {**prep, "frozen": True}}}))
    run(DVC, "repro", cwd="sub")
    every = ("data/f.csv", "raw/x.csv", "raw/sub/y.csv", "sub/in/out/big.csv", "sub/a.txt", "sub/made/one.csv", "none")
    found = tracked(every, repo)
    assert {name: (t.file, t.path, t.stage, t.changed) for name, t in found.items()} == {
        "data/f.csv": ("data/f.csv.dvc", "data/f.csv", "", False),
        "raw/x.csv": ("raw.dvc", "raw", "", False),
        "raw/sub/y.csv": ("raw.dvc", "raw", "", False),
        "sub/in/out/big.csv": ("sub/dvc.lock", "sub/in/out/big.csv", "prep", False),
        "sub/a.txt": ("sub/dvc.lock", "sub/a.txt", "each@a", False),
        "sub/made/one.csv": ("sub/dvc.lock", "sub/made", "folder", False),
    }
    assert found["raw/x.csv"].member == md5("raw/x.csv") and found["raw/x.csv"].md5.endswith(".dir")
    for name in found:
        write(Path(name), "other")
    assert {t.changed for t in tracked(every, repo).values()} == {True}


def test_a_lock_without_its_pipeline_and_a_cache_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "x.csv", "x")
    (tmp_path / ".dvc").mkdir()
    listing = json.dumps([{"md5": md5("x"), "relpath": "x.csv"}])
    out = {"path": "raw", "hash": "md5", "md5": f"{md5(listing)}.dir"}
    write(tmp_path / "dvc.lock", json.dumps({"schema": "2.0", "stages": {"get": {"cmd": "x", "outs": [out]}}}))
    found = tracked(["raw/x.csv"], tmp_path)["raw/x.csv"]
    assert (found.path, found.changed, found.member) == ("raw", None, None)
    write(tmp_path / "store" / "files" / "md5" / md5(listing)[:2] / f"{md5(listing)[2:]}.dir", listing)
    write(tmp_path / ".dvc" / "config.local", "[cache]\n    dir = ../store\n")
    assert tracked(["raw/x.csv"], tmp_path)["raw/x.csv"].changed is False
    write(tmp_path / "raw" / "new.csv", "")
    assert tracked(["raw/new.csv"], tmp_path)["raw/new.csv"].changed is True


def test_dvc_2_took_the_carriage_returns_out(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(b"a\r\nb\r\n")
    write(tmp_path / "f.csv.dvc", f"outs:\n- md5: {md5('a' + chr(10) + 'b' + chr(10))}\n  size: 6\n  path: f.csv\n")
    assert tracked(["f.csv"], tmp_path)["f.csv"].changed is False


def test_a_file_that_is_a_link_into_the_cache(tmp_path: Path) -> None:
    write(tmp_path / ".dvc" / "cache" / "abc", "f")
    (tmp_path / "f.csv").symlink_to(tmp_path / ".dvc" / "cache" / "abc")
    write(tmp_path / "f.csv.dvc", f"outs:\n- md5: {md5('f')}\n  hash: md5\n  path: f.csv\n")
    assert tracked(["f.csv"], tmp_path)["f.csv"].changed is False


def test_records_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    write(tmp_path / "data" / "f.csv", "f")
    (tmp_path / ".dvc").mkdir()
    for broken in ("[", "a: b: c", "\0", "outs:\n<<<<<<< HEAD\n- md5: x\n", "&a [*b]"):
        write(tmp_path / "data" / "f.csv.dvc", broken)
        write(tmp_path / "dvc.lock", broken)
        found = tracked(["data/f.csv", "free.csv"], tmp_path)
        assert found["data/f.csv"].file == "data/f.csv.dvc" and found["free.csv"].file == "dvc.lock"
        assert all(t.fault.startswith("it is no YAML") and not t.md5 for t in found.values())
    for empty in ("", "- a", "outs: 3", "outs:\n- 3\n", "outs:\n- path: f.csv\n", "stages: 7", "stages: {a: 3}"):
        write(tmp_path / "data" / "f.csv.dvc", empty)
        write(tmp_path / "dvc.lock", empty)
        assert tracked(["data/f.csv"], tmp_path) == {}


def test_a_merge_in_the_lock_is_told_by_the_job(tmp_path: Path) -> None:
    write(tmp_path / "numbers.csv", "a\n1\n")
    write(tmp_path / "dvc.lock", "<<<<<<< HEAD\nstages: {}\n=======\n")
    job = retrain(notebook(tmp_path / "train.ipynb", "print('sum', len(open('numbers.csv').read()))"))
    assert job.outcome == "done" and "What dvc.lock tracks is not known: it is no YAML" in repr(job)
