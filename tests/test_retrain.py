"""Retraining jobs in real kernels: what they leave, how they fail, and how they go on after they were killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pytest
from jobs import notebook, outputs, resumed, retrain, started
from stories import until

import deploy_ext
from deploy_ext.core import InvalidRequest, in_kernel
from deploy_ext.order import alone, described, ticket_of, tickets
from deploy_ext.registry import Registry

pytestmark = pytest.mark.usefixtures("begun")

# the whole story


@pytest.mark.server
def test_a_job_moves_the_endpoint_and_one_that_is_refused_does_not(story: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(story / "step.md"))
    book = notebook(
        story / "train.ipynb",
        "# Train",
        "%load_ext deploy_ext\nfrom stories import flights, good\ntrain, unseen = flights(seed), flights(seed + 1)",
        "print(f'{months} months')\nmodel = good()",
        "%deploy register model --name flights --data train --target late",
    )
    deploy_ext.gates("flights", "roc_auc >= 0.7")
    endpoint = deploy_ext.up("flights")
    asked = {"model": "flights", "data": "unseen", "target": "late", "promote": True}
    job = retrain(book, "months=9", **asked)
    assert (job.outcome, job.exit_code, job.ran, job.cells) == ("promoted", 0, 6, 6)
    (served,) = deploy_ext.status("flights")
    assert job.version == f"flights/{served.version}" and served.version != endpoint.version
    assert "9 months" in outputs(job)

    made = Registry().version(str(job.version))
    assert made.provenance["job"] == job.job and made.aliases == ("champion",)
    run = Registry().store.call("get_run", job.run)
    assert run.data.params == {"months": "9"} and run.info.status == "FINISHED"
    files = {f.path for f in Registry().store.call("list_artifacts", job.run)}
    assert files >= {"executed.ipynb", "executed.html", "junit.xml", "summary.json", "environment.txt"}
    cases = [c.get("name") for c in ElementTree.parse(Path(job.folder) / "junit.xml").iter("testcase")]
    assert len(cases) == 7 and "roc_auc >= 0.7" in cases
    assert "| roc_auc |" in (story / "step.md").read_text()

    deploy_ext.gates("flights", "roc_auc >= 0.999")
    refused = retrain(book, **asked)
    assert (refused.outcome, refused.exit_code) == ("refused", 3)
    assert deploy_ext.status("flights")[0].version == served.version
    assert "roc_auc" in refused.told and refused.verdict and not refused.verdict.passed
    deploy_ext.down("flights")


# what is wrong


def test_a_cell_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "# Fit", "x = 1\n\nx / 0")
    job = retrain(book)
    assert (job.outcome, job.exit_code) == ("failed", 5)
    assert job.told == f"{book}, cell 3, line 3: ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in Path(job.executed).read_text()
    assert [how.tag for c in ElementTree.parse(Path(job.folder) / "junit.xml").iter("testcase") for how in c] == [
        "system-out",
        "error",
    ]


@pytest.mark.parametrize(
    ("raised", "outcome", "code"), [("ContractViolated", "violated", 4), ("GateFailed", "refused", 3)]
)
def test_our_own_errors_keep_their_meaning(tmp_path: Path, raised: str, outcome: str, code: int) -> None:
    book = notebook(
        tmp_path / "train.ipynb", f"from deploy_ext.core import {raised}\nraise {raised}('delay is no number')"
    )
    job = retrain(book)
    assert (job.outcome, job.exit_code) == (outcome, code)
    assert "delay is no number" in job.told


def test_a_job_that_takes_too_long(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "x = 1", "import time\ntime.sleep(600)")
    job = retrain(book, cell_timeout="1s")
    assert (job.outcome, job.exit_code) == ("timed out", 7) and "cell 3: it took longer than 1 seconds" in job.told
    whole = retrain(book, timeout="4s")
    assert whole.outcome == "timed out" and "the time of the job is over" in whole.told


def test_what_cannot_be_begun_is_told_before_anything_runs(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "x = 1")
    with pytest.raises(InvalidRequest, match="Did you mean 'months'"):
        retrain(book, "month=3")
    with pytest.raises(InvalidRequest, match="months"):
        retrain(book, "months=many")
    with pytest.raises(InvalidRequest, match=r"train\.ipynb"):
        retrain(str(tmp_path / "trian.ipynb"))
    with pytest.raises(InvalidRequest, match="no job 'yesterday'"):
        resumed("yesterday")
    with pytest.raises(InvalidRequest, match="--resume"):
        deploy_ext.retrain()
    assert tickets() == []


def test_a_secret_that_is_nowhere_is_told_before_anything_runs(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "x = 1", parameters="from deploy_ext import Secret\ntoken: Secret")
    with pytest.raises(InvalidRequest, match="DEPLOY_EXT_SECRET_TOKEN"):
        retrain(book)
    assert tickets() == []


def test_nothing_to_promote_is_no_success(tmp_path: Path) -> None:
    job = retrain(notebook(tmp_path / "train.ipynb", "x = 1"), promote=True)
    assert (job.outcome, job.exit_code) == ("failed", 5) and "registered nothing" in job.told


def test_what_cannot_be_run_is_a_sentence(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "x = 1")
    unknown = retrain(book, kernel="julia-0.1")
    assert unknown.outcome == "failed" and "julia-0.1" in unknown.told
    with pytest.raises(InvalidRequest, match=r"mkdir -p .*none"):
        retrain(book, out=str(tmp_path / "none" / "out.ipynb"))
    with pytest.raises(InvalidRequest, match="names of parameters"):
        retrain(book, out="{weeks}.ipynb")


def test_a_dry_run_shows_parameters_and_runs_nothing(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "open('ran', 'w')")
    plan = retrain(book, "months=9", model="flights", data="unseen", target="late", promote=True, dry_run=True)
    assert (plan.outcome, plan.exit_code) == ("planned", 0)
    assert "how many months of flights" in repr(plan) and "promote" in repr(plan)
    assert not (tmp_path / "ran").exists() and tickets() == []


def test_jobs_of_one_model_do_not_overlap(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "x = 1")
    with alone("flights", "fail"):
        assert retrain(book, model="flights", on_overlap="skip").outcome == "skipped"
        with pytest.raises(InvalidRequest, match="another job of flights is running"):
            retrain(book, model="flights", on_overlap="fail")
    with pytest.raises(InvalidRequest, match="Did you mean 'skip'"):
        retrain(book, model="flights", on_overlap="skp")


def test_a_candidate_that_was_not_registered(tmp_path: Path) -> None:
    job = retrain(notebook(tmp_path / "train.ipynb", "x = 1"), model="flights")
    assert job.outcome == "failed" and "registered nothing" in job.told


def test_a_job_leaves_nothing_open_in_its_process(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "x = 1")
    retrain(book, "months=1")
    before = len(os.listdir("/proc/self/fd"))
    retrain(book, "months=2")
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not in_kernel()  # though ipykernel was imported to start one


# killed, and taken up again

STEPS = (
    "import numpy as np\nimport pandas as pd\nfrom pathlib import Path\nopen('log', 'a').write('1')",
    "np.random.seed(seed)\nframe = pd.DataFrame(np.random.rand(500, 4), columns=list('abcd'))\n"
    "open('log', 'a').write('2')",
    "def noisy(rows, scale=2.0):\n    return rows * scale + np.random.rand(len(rows)) * SHIFT\n"
    "open('log', 'a').write('3')",
    "SHIFT = 3\nfrom sklearn.ensemble import RandomForestRegressor\nopen('log', 'a').write('4')\n"
    "model = RandomForestRegressor(5).fit(frame[['a', 'b', 'c']], noisy(frame.d))",
    "open('log', 'a').write('5')\nprint('told', round(float(model.predict(frame[['a', 'b', 'c']]).sum()), 9))",
)
STOP = "\nimport os, time\nwhile Path('stop').exists(): time.sleep(0.05)"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the notebook prints when nobody kills it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        patch.chdir(folder)
        return outputs(retrain(notebook(folder / "train.ipynb", *STEPS)))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_killed_in_cell_k_it_ends_as_if_nothing_had_been(tmp_path: Path, undisturbed: str, k: int) -> None:
    cells = [step + (STOP if i == k else "") for i, step in enumerate(STEPS, 1)]
    notebook(tmp_path / "train.ipynb", *cells)
    (tmp_path / "stop").touch()
    job = started(tmp_path, "train.ipynb")
    log = tmp_path / "log"
    until(lambda: log.exists() and str(k) in log.read_text())
    job.kill()
    job.wait()
    (tmp_path / "stop").unlink()
    again = resumed("last")
    assert again.outcome == "done", again
    assert "told" in undisturbed and outputs(again) == undisturbed
    assert again.ran == 6 - k, again.notes
    assert log.read_text() == "".join(map(str, [*range(1, k + 1), *range(k, 6)]))
    assert not list(tmp_path.rglob("*.pkl"))  # the state is gone when nobody needs it
    with pytest.raises(InvalidRequest, match="all have ended"):
        resumed("last")
    with pytest.raises(InvalidRequest, match="has ended"):
        resumed(again.job)


@pytest.mark.parametrize(("least", "left"), [("0s", 1), ("2s", 2), ("1h", 5)])
def test_the_state_is_saved_after_each_cell_that_took_so_long(tmp_path: Path, least: str, left: int) -> None:
    cells = ("a = 1", "import time\ntime.sleep(2.1)", "b = 2", "assert months > 3")
    job = retrain(notebook(tmp_path / "train.ipynb", *cells), checkpoint_after=least)
    assert (job.outcome, resumed("last").ran) == ("failed", left)


def test_sigterm_ends_it_with_its_state_saved(tmp_path: Path) -> None:
    notebook(tmp_path / "train.ipynb", *STEPS[:2], f"open('log', 'a').write('x'){STOP}")
    (tmp_path / "stop").touch()
    job = started(tmp_path, "train.ipynb", "--json")
    until(lambda: (tmp_path / "log").exists() and "x" in (tmp_path / "log").read_text())
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 7, err
    told = json.loads(out)
    assert (told["outcome"], told["exit_code"]) == ("timed out", 7) and "SIGTERM" in told["told"]
    assert f"--resume {told['job']}" in " ".join(told["notes"])
    (tmp_path / "stop").unlink()
    again = resumed(told["job"])
    assert (again.outcome, again.ran) == ("done", 1)


def test_a_job_goes_on_with_other_limits_and_with_nothing_else(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "a = 1", "import time\ntime.sleep(3)", "print('sum', a + months)")
    assert retrain(book, "months=2", cell_timeout="1s").outcome == "timed out"
    with pytest.raises(InvalidRequest, match="-p and --check-reproducible and --model: what is resumed goes on as it"):
        resumed("last", parameters=("months=4",), model="flights", check_reproducible=True)
    again = resumed("last", cell_timeout="1m")
    assert (again.outcome, again.ran) == ("done", 2) and "sum 3" in outputs(again)


def test_an_edited_notebook_goes_on_before_the_first_edited_cell(tmp_path: Path) -> None:
    cells = ["a = 1", "b = a + 1", "c = b + 1", "print('sum', a + b + c)\n1 / 0"]
    assert retrain(notebook(tmp_path / "train.ipynb", *cells)).outcome == "failed"
    cells[1], cells[3] = "b = a + 10", "print('sum', a + b + c)"
    notebook(tmp_path / "train.ipynb", *cells)
    again = resumed("last")
    assert (again.outcome, again.ran) == ("done", 3)
    assert "sum 24" in outputs(again)


def test_what_cannot_be_kept_leads_back_to_the_cell_before_it(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("one\ntwo\n")
    cells = ["a = 1", "f = open('lines')", "b = next(f)", "print('read', a, b, next(f))\n1 / 0"]
    failed = retrain(notebook(tmp_path / "train.ipynb", *cells))
    assert any("cell 3: `f`, an open file" in note and "after cell 2" in note for note in failed.notes)
    notebook(tmp_path / "train.ipynb", *cells[:3], "print('read', a, b, next(f))")
    again = resumed("last")
    assert (again.outcome, again.ran) == ("done", 3) and "read 1 one\n two" in outputs(again)


GPU = """
class Device(str):
    type = "cuda"
class Tensor:
    device = Device("cuda:0")
def get_rng_state():
    return 0
def set_rng_state(was):
    pass
"""


def test_a_tensor_on_a_gpu_leads_back_to_the_cell_before_it(tmp_path: Path) -> None:
    """With a stand-in for PyTorch: no machine of ours has a GPU."""
    (tmp_path / "torch.py").write_text(GPU)
    cells = ["a = 1", "import torch\nx = torch.Tensor()", "b = 2"]
    failed = retrain(notebook(tmp_path / "train.ipynb", *cells, "assert b == months"))
    assert any("cell 3: `x`, a tensor on cuda:0" in note and "after cell 2" in note for note in failed.notes)
    notebook(tmp_path / "train.ipynb", *cells, "assert b < months")
    again = resumed("last")
    assert (again.outcome, again.ran) == ("done", 3)


# done already


def test_what_was_done_already_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_text("a\n1\n2\n")
    book = notebook(tmp_path / "train.ipynb", "import pandas as pd", "print('sum', pd.read_csv('numbers.csv').a.sum())")
    first = retrain(book, "months=1")
    again = retrain(book, "months=1")
    assert (again.cached, again.ran, again.job) == (True, 0, first.job) and "--force" in repr(again)
    assert not retrain(book, "months=2").cached
    (tmp_path / "numbers.csv").write_text("a\n1\n5\n")
    other = retrain(book, "months=1")
    assert not other.cached and "sum 6" in outputs(other)
    forced = retrain(book, "months=1", force=True)
    assert not forced.cached and forced.job != other.job


@pytest.mark.parametrize("reader", ["csv", "parquet"])
def test_a_job_that_went_on_in_another_kernel_is_not_done_again(tmp_path: Path, reader: str) -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": [1, 2]})
    write = {"csv": frame.to_csv, "parquet": frame.to_parquet}[reader]
    write(tmp_path / f"numbers.{reader}", index=False)
    load = f"import pandas as pd\nframe = pd.read_{reader}('numbers.{reader}')"
    book = notebook(tmp_path / "train.ipynb", load, "assert months == 2 or not open('ready').read()", "total = 3")
    (tmp_path / "ready").write_text("no")
    assert retrain(book, "months=1", checkpoint_after="0s").outcome == "failed"
    (tmp_path / "ready").write_text("")
    on = resumed("last")
    assert (on.outcome, on.ran) == ("done", 2)
    again = retrain(book, "months=1")
    assert (again.cached, again.job) == (True, on.job)
    frame.assign(b=1).to_csv(tmp_path / "more.csv")
    (tmp_path / "ready").write_text("no")
    assert retrain(book, "months=1", force=True, checkpoint_after="0s").outcome == "failed"
    (tmp_path / "ready").write_text("")
    getattr(frame.assign(a=7), f"to_{reader}")(tmp_path / f"numbers.{reader}", index=False)
    mixed = resumed("last")  # its variables come from a file that is another one now
    assert mixed.outcome == "done" and not retrain(book, "months=1").cached


def test_what_went_on_with_other_code_is_not_an_answer(tmp_path: Path) -> None:
    book = notebook(tmp_path / "train.ipynb", "a = 1", "assert a == 2")
    assert retrain(book).outcome == "failed"
    notebook(tmp_path / "train.ipynb", "a = 1", "assert a == 1")
    assert resumed("last").outcome == "done"
    first = retrain(book)
    assert not first.cached and retrain(book).cached


# tried again


def test_a_kernel_that_died_is_tried_again_and_a_mistake_is_not(tmp_path: Path) -> None:
    die = "import os\nif not os.path.exists('died'):\n    open('died', 'w')\n    os.kill(os.getpid(), 9)"
    job = retrain(notebook(tmp_path / "train.ipynb", "a = 1", die, "print('a', a)"), retries=2, backoff="10ms")
    assert (job.outcome, job.attempts) == ("done", 2) and "a 1" in outputs(job)
    broken = retrain(notebook(tmp_path / "broken.ipynb", "a = (1"), retries=2, backoff="10ms")
    assert (broken.outcome, broken.attempts) == ("failed", 1)
    lost = retrain(notebook(tmp_path / "lost.ipynb", "raise ConnectionResetError('gone')"), retries=1, backoff="10ms")
    assert (lost.outcome, lost.attempts) == ("failed", 2)


# secrets


DECLARED = {
    "annotated": ("from deploy_ext import Secret\ntoken: Secret\nmonths: int = 3", "", False),
    "named in settings": ("token = None  # of the database\nmonths: int = 3", "token", False),
    "named, with a type": ("token: str = ''\nmonths: int = 3", "TOKEN", False),
    "named and nowhere declared": ("months: int = 3", "token", True),
}


@pytest.mark.parametrize("how", DECLARED)
def test_a_secret_reaches_the_kernel_and_nothing_else(tmp_path: Path, monkeypatch: Any, how: str) -> None:
    value = "s3same-öffne/dich+2013"
    parameters, named, lenient = DECLARED[how]
    (tmp_path / "deploy.toml").write_text(f"secrets = ['{named}']\n" if named else "")
    monkeypatch.setenv("DEPLOY_EXT_SECRET_TOKEN", value)
    book = notebook(
        tmp_path / "train.ipynb",
        f"assert token == {value[:9]!r} + {value[9:]!r}",
        "import base64, sys\nprint('url: postgres://ada:' + token + '@db/flights')",
        "for letter in token: print(letter, end='', flush=True)",
        "print(base64.b64encode(f'ada:{token}'.encode()).decode())\nsys.stderr.write(repr(token.encode()))",
        "token",
        "{'headers': {'Authorization': 'Bearer ' + token}}",
        "from IPython.display import HTML, display\ndisplay(HTML(f'<a href=\"?t={token}\">x</a>'))",
        "import logging, warnings\nlogging.error('refused: %s', token)\nwarnings.warn(token + ' is old')",
        "print(token.encode().hex())\n!echo {token}",
        "connect = lambda password: 1 / 0\nkept = {'password': token}",
        "raise ValueError(f'cannot log in with {token}')",
        parameters=parameters,
    )
    job = retrain(book, lenient=lenient)
    assert job.outcome == "failed" and "ValueError" in job.told and (job.ran, job.cells) == (12, 12)
    said = repr(job) + json.dumps(job.to_dict())
    run = Registry().store.call("get_run", job.run)
    said += json.dumps([run.data.params, run.data.tags])
    for path in [p for p in (tmp_path / ".deploy").rglob("*") if p.is_file()]:
        assert value.encode() not in path.read_bytes(), path
    assert value not in said and base64_core(value) not in said
    executed = Path(job.executed).read_text()
    assert base64_core(value) not in executed and value.encode().hex() not in executed and "***" in executed


def test_a_secret_of_the_settings_is_taken_and_shown_as_any_other(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "deploy.toml").write_text("secrets = ['db_password']\n")
    book = notebook(tmp_path / "train.ipynb", "assert db_password == 'hunter2-hunter2'", parameters="db_password = ''")
    for source in ("-p", "file", "environment"):
        file, said = tmp_path / "values.yml", ("db_password=hunter3",) if source == "-p" else ()
        file.write_text("db_password: hunter3\n" if source == "file" else "")
        with monkeypatch.context() as patch:
            if source == "environment":
                patch.setenv("DEPLOY_EXT_PARAM_DB_PASSWORD", "hunter3")
            for more in ({}, {"lenient": True}, {"grid": True, "file": None}):
                if source == "-p" or "grid" not in more:
                    with pytest.raises(InvalidRequest, match=r"(?i)db_password is a secret") as told:
                        retrain(book, *said, **{"file": file, **more})
                    assert "hunter3" not in str(told.value) and "DEPLOY_EXT_SECRET_DB_PASSWORD" in str(told.value)
    with pytest.raises(InvalidRequest, match="is in none of three places"):
        retrain(book)
    assert "Secrets are read from DEPLOY_EXT_SECRET_DB_PASSWORD" in described(book)
    (tmp_path / "password").write_text("hunter2-hunter2\n")
    (tmp_path / "password").chmod(0o600)
    monkeypatch.setenv("DEPLOY_EXT_SECRET_DB_PASSWORD_FILE", str(tmp_path / "password"))
    plan = repr(retrain(book, dry_run=True))
    assert "Secret" in plan and "***" in plan and "DEPLOY_EXT_SECRET_DB_PASSWORD" in plan and "hunter2" not in plan
    job = retrain(book)
    assert job.outcome == "done" and "hunter2" not in Path(job.executed).read_text()


def test_a_lenient_job_takes_a_secret_only_where_it_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "deploy.toml").write_text("secrets = ['db_password']\n")
    own = notebook(tmp_path / "own.ipynb", "db_password = 'mine'\nprint(len(db_password))", parameters=None)
    assert "4" in outputs(retrain(own, lenient=True))
    reads = notebook(
        tmp_path / "reads.ipynb", "def ask():\n    return db_password", "print(len(ask()))", parameters=None
    )
    with pytest.raises(InvalidRequest, match="DEPLOY_EXT_SECRET_DB_PASSWORD"):
        retrain(reads, lenient=True)
    monkeypatch.setenv("DEPLOY_EXT_SECRET_DB_PASSWORD", "hunter2-hunter2")
    with pytest.raises(InvalidRequest, match="is a secret"):
        retrain(reads, "db_password=x", lenient=True)
    assert "db_password" in repr(retrain(reads, lenient=True, dry_run=True))
    assert "db_password" not in repr(retrain(reads, dry_run=True))
    assert "15" in outputs(retrain(reads, lenient=True))


def test_a_job_that_goes_on_has_the_secret_of_the_settings_again(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "deploy.toml").write_text("secrets = ['token']\n")
    monkeypatch.setenv("DEPLOY_EXT_SECRET_TOKEN", "hunter2-hunter2")
    book = notebook(
        tmp_path / "train.ipynb", "kept = [token]", "print(len(token), kept)\n1 / 0", parameters="token = None"
    )
    failed = retrain(book)
    for path in [p for p in (tmp_path / ".deploy").rglob("*") if p.is_file()]:
        assert b"hunter2" not in path.read_bytes(), path  # also not in the state
    (tmp_path / "deploy.toml").unlink()  # the job knows what is secret
    notebook(tmp_path / "train.ipynb", "kept = [token]", "print(len(token), kept)", parameters="token = None")
    again = resumed(failed.job)
    assert (again.outcome, again.ran) == ("done", 1) and "15 [***]" in outputs(again)


def base64_core(value: str) -> str:
    """What stands in base64 of `ada:<value>` for certain, whatever surrounds it."""
    import base64

    return base64.b64encode(f"ada:{value}".encode()).decode()[8:24]


# as papermill does


def test_a_notebook_without_parameters_and_a_place_of_ones_own(tmp_path: Path) -> None:
    book = notebook(tmp_path / "plain.ipynb", "print('plain')", parameters=None)
    job = retrain(book, out=str(tmp_path / "out.ipynb"))
    assert job.outcome == "done" and job.executed == str(tmp_path / "out.ipynb") and "plain" in outputs(job)
    assert "plain" in (Path(job.folder) / "executed.html").read_text()
    named = retrain(notebook(tmp_path / "train.ipynb", "print(months)"), "months=7", out="out-{months}.ipynb")
    assert named.executed == "out-7.ipynb" and (tmp_path / "out-7.ipynb").is_file()
    about = nbformat.read(job.executed, as_version=4).metadata.papermill
    assert about.input_path == book and about.output_path == str(tmp_path / "out.ipynb") and about.duration > 0


def test_in_a_kernel(tmp_path: Path) -> None:
    """`%deploy retrain` runs in an event loop of its own kernel."""
    notebook(tmp_path / "train.ipynb", "print('inner', months)")
    outer = notebook(
        tmp_path / "outer.ipynb",
        "%load_ext deploy_ext\njob = %deploy retrain train.ipynb -p months=7\nprint(job.outcome, job.ran)",
        parameters=None,
    )
    job = retrain(outer)
    assert "done 3" in outputs(job), outputs(job)


def test_the_command_line_lists_the_parameters_and_ends_with_the_code(tmp_path: Path) -> None:
    notebook(tmp_path / "train.ipynb", "1 / 0")
    out, _ = started(tmp_path, "train.ipynb", "--help").communicate(timeout=60)
    assert "months" in out and "how many months of flights" in out and "--on-overlap" in out
    job = started(tmp_path, "train.ipynb", "-p", "months=2")
    out, err = job.communicate(timeout=120)
    assert job.returncode == 5 and "ZeroDivisionError" in out, err
    assert ticket_of("last").order.parameters == {"months": 2}


# twice


def test_what_is_made_again_is_told_and_what_is_not_is_refused(tmp_path: Path) -> None:
    same = notebook(
        tmp_path / "train.ipynb", "import random\nrandom.seed(seed)", "score = random.random()", "print(score)"
    )
    job = retrain(same, check_reproducible=True, best="score")
    assert (job.outcome, job.exit_code) == ("done", 0) and "Run twice" in " ".join(job.notes)
    assert retrain(same, check_reproducible=True, best="score").cached

    cells = ("import random", "# Draw", "score = random.random()", "print('drawn', score)", "print('end')")
    job = retrain(notebook(tmp_path / "train.ipynb", *cells), check_reproducible=True, best="score")
    assert (job.outcome, job.exit_code) == ("refused", 3)
    assert "score is 0." in job.told and "cell 5 (print('drawn', score))" in job.told

    away = str(tmp_path / "out.ipynb")
    job = retrain(notebook(tmp_path / "train.ipynb", *cells), check_reproducible=True, out=away)
    assert job.outcome == "refused" and "cell 5" in job.told

    once = "import os\nassert not os.path.exists('ran')\nopen('ran', 'w')"
    job = retrain(notebook(tmp_path / "train.ipynb", once), check_reproducible=True)
    assert job.outcome == "refused" and "second time it failed" in job.told and "AssertionError" in job.told


@pytest.mark.server
def test_a_model_that_is_not_made_again_is_not_promoted(story: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    cells = (
        "%load_ext deploy_ext\nfrom stories import flights, good\ntrain, unseen = flights(seed), flights(seed + 1)",
        "model = good()",
        "%deploy register model --name flights --data train --target late",
    )
    asked = {"model": "flights", "data": "unseen", "target": "late", "promote": True, "check_reproducible": True}
    deploy_ext.gates("flights", "roc_auc >= 0.7")
    job = retrain(notebook(story / "train.ipynb", *cells), **asked)
    assert (job.outcome, job.exit_code) == ("promoted", 0), job
    other = (cells[0], "import time\nmodel = good()\nmodel[-1].intercept_ += time.time() % 1e-3", cells[2])
    refused = retrain(notebook(story / "train.ipynb", *other), **asked)
    assert (refused.outcome, refused.exit_code) == ("refused", 3)
    assert "answers its stored rows in another way" in refused.told and "model.skops" in refused.told
    assert Registry().aliases("flights")["champion"] == Registry().version(str(job.version)).version


MOODY = """import sys
from sklearn.base import BaseEstimator, ClassifierMixin

class Moody(ClassifierMixin, BaseEstimator):
    def __init__(self, inner=None):
        self.inner = inner
    def fit(self, X, y):
        self.classes_ = y.unique()
        return self
    def predict(self, X):
        if any("supervisor" in word for word in sys.orig_argv):
            raise RuntimeError("not behind an endpoint")
        return self.inner.predict(X)
    def predict_proba(self, X):
        self.predict(X)
        return self.inner.predict_proba(X)
"""


@pytest.mark.server
def test_an_endpoint_that_refuses_the_new_champion_is_code_6_and_all_is_as_before(
    story: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    (story / "moody.py").write_text(MOODY)
    cells = (
        "%load_ext deploy_ext\nfrom stories import flights, good\nfrom moody import Moody\ntrain = flights(seed)",
        "model = Moody(good()).fit(train, train.late)\nmodel.classes_ = model.inner.classes_",
        "%deploy register model --name flights --data train --target late",
    )
    deploy_ext.gates("flights", "roc_auc >= 0.7")
    before = deploy_ext.up("flights")
    words = {"model": "flights", "data": "train", "target": "late", "promote": True}
    job = retrain(notebook(story / "train.ipynb", *cells), **words)
    assert (job.outcome, job.exit_code) == ("endpoint failed", 6), job.told
    assert "not behind an endpoint" in job.told
    (served,) = deploy_ext.status("flights")
    assert (served.version, served.state) == (before.version, "ready")
    assert Registry().aliases("flights")["champion"] == before.version
    deploy_ext.down("flights")


# as papermill does it


class Shelf:
    """A handler of addresses for papermill, as those for s3:// and gs:// are."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def read(self, path: str) -> str:
        return self.texts[path]

    def write(self, buf: str, path: str, **_: Any) -> None:
        self.texts[path] = buf

    def listdir(self, path: str) -> list[str]:
        return [p for p in self.texts if p.startswith(path)]

    def pretty_path(self, path: str) -> str:
        return path


def test_a_notebook_may_lie_where_a_handler_of_papermill_reads(tmp_path: Path) -> None:
    from papermill.iorw import papermill_io

    shelf, handlers = Shelf(), list(papermill_io._handlers)
    shelf.texts["shelf://train.ipynb"] = Path(notebook(tmp_path / "train.ipynb", "print('months', months)")).read_text()
    papermill_io.register("shelf://", shelf)
    try:
        job = retrain("shelf://train.ipynb", "months=5", out="shelf://out-{months}.ipynb")
        assert (job.outcome, job.executed) == ("done", "shelf://out-5.ipynb")
        assert "months 5" in shelf.texts["shelf://out-5.ipynb"]
        assert "months 5" in (Path(job.folder) / "executed.html").read_text()
        with pytest.raises(InvalidRequest, match=r"shelf://none\.ipynb"):
            retrain("shelf://none.ipynb")
    finally:
        papermill_io._handlers[:] = handlers


def test_papermill_reads_what_we_leave_and_we_what_it_leaves(tmp_path: Path) -> None:
    import papermill

    book = notebook(
        tmp_path / "train.ipynb", "print('months', months)", parameters="months = 3  # type: int\nname = 'x'"
    )
    assert set(papermill.inspect_notebook(book)) == {"months", "name"}
    job = retrain(book, "months=4")
    papermill.execute_notebook(job.executed, tmp_path / "theirs.ipynb", {"months": 5}, progress_bar=False)
    ours = retrain(str(tmp_path / "theirs.ipynb"), "months=6", out=str(tmp_path / "ours.ipynb"))
    cells = nbformat.read(tmp_path / "ours.ipynb", as_version=4).cells
    assert [c.metadata.tags for c in cells if c.metadata.get("tags")] == [["parameters"], ["injected-parameters"]]
    assert outputs(ours) == "months 6\n"
