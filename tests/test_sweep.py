"""Sweeps: jobs of one notebook, several at a time, the best at the gates, and what is left when all is stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
from ast import literal_eval
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from jobs import notebook, outputs, retrain, started
from stories import until

import deploy_ext
from deploy_ext.core import InvalidRequest
from deploy_ext.order import tickets
from deploy_ext.registry import Registry
from deploy_ext.swept import Swept

pytestmark = pytest.mark.usefixtures("begun")

PARAMETERS = "depth: int = 3\nrate: float = 0.1"
WAIT = "import os, time\nwhile os.path.exists('stop'):\n    time.sleep(0.02)"


def book(folder: Path, *cells: str, parameters: str = PARAMETERS) -> str:
    """A notebook with a depth and a rate."""
    return notebook(folder / "train.ipynb", *cells, parameters=parameters)


def sweep(path: str, *parameters: str, **told: Any) -> Swept:
    """A sweep in this process."""
    found = deploy_ext.retrain(path, parameters, **{"grid": "sweep" not in told, **told})
    assert isinstance(found, Swept)
    return found


def below(run: str) -> list[Any]:
    """The MLflow runs that hang below one."""
    store = Registry().store
    where = store.call("get_run", run).info.experiment_id
    return list(store.pages("search_runs", [where], f"tags.mlflow.parentRunId = '{run}'"))


def test_a_grid_is_a_run_of_mlflow_with_one_below_it_for_each_trial(tmp_path: Path) -> None:
    done = sweep(book(tmp_path, "score = depth * rate"), "depth=3,6", "rate=0.1,0.2", jobs=2, best="score")
    assert (done.outcome, done.exit_code, done.winner) == ("done", 0, 3)
    assert [t.parameters for t in done.trials] == [{"depth": d, "rate": r} for d in (3, 6) for r in (0.1, 0.2)]
    runs = {(r.data.params["depth"], r.data.params["rate"]): r for r in below(done.run)}
    assert len(runs) == 4 and runs["6", "0.2"].info.status == "FINISHED"
    assert runs["6", "0.2"].data.metrics["score"] == pytest.approx(1.2)
    with open(Registry().store.call("download_artifacts", done.run, "trials.csv")) as f:
        rows = list(csv.DictReader(f))
    assert [(row["depth"], row["rate"], row["outcome"]) for row in rows][2:] == [
        ("6", "0.1", "done"),
        ("6", "0.2", "best"),
    ]

    more = sweep(book(tmp_path, "score = depth * rate"), "depth=3,6,7", "rate=0.1,0.2", jobs=2, best="score:min")
    assert [t.cached for t in more.trials] == [True] * 4 + [False] * 2 and more.winner == 0


@pytest.mark.server
def test_the_best_trial_goes_on_to_the_gates(story: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    path = notebook(
        story / "train.ipynb",
        "%load_ext deploy_ext\nfrom stories import flights, good, worse\ntrain, unseen = flights(0), flights(1)",
        "model = {'good': good, 'worse': worse}[kind]()",
        "%deploy register model --name flights --data train --target late",
        parameters="from typing import Literal\n\nkind: Literal['good', 'worse']",
    )
    deploy_ext.gates("flights", "roc_auc >= 0.7")
    asked = {"model": "flights", "data": "unseen", "target": "late", "best": "roc_auc", "promote": True}
    done = sweep(path, "kind=worse,good", **asked)
    assert (done.outcome, done.winner) == ("promoted", 1), [t.told for t in done.trials]
    assert done.trials[0].figures["roc_auc"] < done.trials[1].figures["roc_auc"]
    assert Registry().version(str(done.version)).aliases == ("champion",)
    assert done.version == done.trials[1].version and done.verdict and done.verdict.passed
    deploy_ext.gates("flights", "roc_auc >= 0.999")
    refused = sweep(path, "kind=worse,good", **asked)
    assert (refused.outcome, refused.exit_code) == ("refused", 3)


def test_trials_that_fail_are_told_of_and_the_best_of_the_others_counts(tmp_path: Path) -> None:
    path = book(tmp_path, "score = 6 / (depth - 3)")
    done = sweep(path, "depth=3,4,5", jobs=2, best="score")
    assert (done.outcome, done.winner, done.trials[0].outcome) == ("done", 1, "failed")
    assert "1 of 3 trials failed" in " ".join(done.notes) and "ZeroDivisionError" in done.trials[0].told
    without = sweep(path, "depth=3,4,5", jobs=2)
    assert (without.outcome, without.exit_code) == ("failed", 5) and "ZeroDivisionError" in without.told
    nothing = sweep(path, "depth=4,5", best="roc_auc")
    assert nothing.outcome == "failed" and "roc_auc" in nothing.told


def test_trials_that_failed_can_go_on_though_the_best_was_found(tmp_path: Path) -> None:
    lost = "import os\nif depth == 3 and not os.path.exists('there'):\n    raise OSError('no route')"
    path = book(tmp_path, "open(f'log-{depth}', 'a').write('a')", lost, "score = depth")
    done = sweep(path, "depth=3,4", best="score")
    assert (done.outcome, done.winner, done.trials[0].outcome) == ("done", 1, "failed")
    assert done.notes[-1] == f"Go on with the trials that did not end: retrain --resume {done.job}"
    (tmp_path / "there").touch()
    with pytest.raises(InvalidRequest, match="--timeout: what is resumed goes on as it was ordered"):
        deploy_ext.retrain(resume="last", timeout="1h")
    again = deploy_ext.retrain(resume="last")
    assert isinstance(again, Swept) and (again.job, again.run) == (done.job, done.run)
    assert [t.outcome for t in again.trials] == ["done", "done"] and not any("--resume" in n for n in again.notes)
    assert [(tmp_path / f"log-{d}").read_text() for d in (3, 4)] == ["a", "a"]


def test_killed_in_the_middle_it_runs_only_what_had_not_ended(tmp_path: Path) -> None:
    book(
        tmp_path,
        "open(f'log-{depth}', 'a').write('a')",
        f"if depth > 4:\n    open(f'at-{{depth}}', 'w')\n    {WAIT.replace(chr(10), chr(10) + '    ')}",
        "score = depth",
    )
    (tmp_path / "stop").touch()
    job = started(tmp_path, "train.ipynb", "-p", "depth=3,4,5,6", "--grid", "--jobs", "2", "--best", "score")
    until(lambda: (tmp_path / "at-5").exists() and (tmp_path / "at-6").exists())
    job.kill()
    job.wait()
    (tmp_path / "stop").unlink()
    done = deploy_ext.retrain(resume="last")
    assert isinstance(done, Swept) and (done.outcome, done.winner, len(done.trials)) == ("done", 3, 4)
    assert [(tmp_path / f"log-{d}").read_text() for d in (3, 4, 5, 6)] == ["a"] * 4
    assert [t.ran for t in done.trials[2:]] == [2, 2]
    with pytest.raises(InvalidRequest, match="all have ended"):
        deploy_ext.retrain(resume="last")


def test_sigterm_stops_all_of_them(tmp_path: Path) -> None:
    book(tmp_path, "open(f'at-{depth}', 'w')", WAIT)
    (tmp_path / "stop").touch()
    job = started(tmp_path, "train.ipynb", "-p", "depth=3,4,5", "--grid", "--jobs", "2", "--json")
    until(lambda: (tmp_path / "at-3").exists() and (tmp_path / "at-4").exists())
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 7, err
    told = json.loads(out)
    assert told["outcome"] == "timed out" and f"--resume {told['job']}" in " ".join(told["notes"])
    assert not (tmp_path / "at-5").exists()
    (tmp_path / "stop").unlink()
    done = deploy_ext.retrain(resume=told["job"])
    assert isinstance(done, Swept) and (done.outcome, len(done.trials)) == ("done", 3)


@pytest.mark.parametrize("count", [32, pytest.param(200, marks=pytest.mark.slow)])
def test_many_short_notebooks_eight_at_a_time(tmp_path: Path, count: int) -> None:
    done = sweep(book(tmp_path, "score = depth"), f"depth={','.join(map(str, range(count)))}", jobs=8, best="score")
    assert [t.told for t in done.trials if t.outcome != "done"] == [] and done.winner == count - 1
    assert len(below(done.run)) == count


def mlflows() -> dict[str, str]:
    """The variables of MLflow as they are now."""
    return {name: value for name, value in dict(os.environ).items() if name.startswith("MLFLOW_")}


@pytest.mark.parametrize("last", [1, 4])
def test_variables_stand_still_while_threads_work_and_kernels_have_those_of_the_user(
    tmp_path: Path, monkeypatch: Any, last: int
) -> None:
    """A variable that went while another thread read all of them has ended a sweep in its middle."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "50")
    before, seen, over = mlflows(), list[dict[str, str]](), Event()

    def look() -> None:
        until((tmp_path / "begun-1").exists, 60)
        while not (tmp_path / f"ended-{last}").exists() and not over.is_set():
            seen.append(mlflows())

    ask = "import os, time\nprint({k: v for k, v in os.environ.items() if k.startswith('MLFLOW_')})\ntime.sleep(1)"
    marks = [f"open(r'{tmp_path}/{word}-' + str(depth), 'w').close()" for word in ("begun", "ended")]
    path = book(tmp_path, marks[0], ask, marks[1])
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(look)
        try:
            done = retrain(path, "depth=1") if last == 1 else sweep(path, "depth=1,2,3,4", jobs=2)
        finally:
            over.set()
        looking.result()
    assert [literal_eval(outputs(job)) for job in getattr(done, "trials", [done])] == [before] * last
    assert seen and all(one == seen[0] for one in seen)
    assert mlflows() == before


SWEEP = "method: {}\nruns: 6\nseed: 1\nparameters:\n  depth: [3, 4, 5, 6]\n  rate: {{min: 0.01, max: 1.0, log: true}}\n"


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_sweep_from_a_file(tmp_path: Path, method: str) -> None:
    file = tmp_path / "sweep.yml"
    file.write_text(SWEEP.format(method))
    done = sweep(book(tmp_path, "score = depth - rate"), sweep=file, jobs=2, best="score")
    assert (done.outcome, len(done.trials)) == ("done", 6)
    assert all(0.01 <= t.parameters["rate"] <= 1 and t.parameters["depth"] in (3, 4, 5, 6) for t in done.trials)
    assert [t.told for t in done.trials if t.told] == [] and done.winner is not None
    assert done.trials[done.winner].figures["score"] == max(t.figures["score"] for t in done.trials)


@pytest.mark.parametrize(
    ("words", "told", "why"),
    [
        (("depth=3,x",), {}, "x"),
        (("dept=3,4",), {}, "depth"),
        ((), {}, "needs values"),
        (("depth=3,4",), {"promote": True}, "--best"),
        (("depth=3,4",), {"jobs": 0}, "--jobs 0"),
        (("depth=3,4",), {"check_reproducible": True}, "one job"),
        (("depth=3,4",), {"best": "loss:least"}, "loss:least"),
        (("depth=3,4",), {"out": "out.ipynb"}, "braces"),
        (("depth=3,4", "rate=0.1,0.2"), {"out": "out-{depth}.ipynb"}, "same file"),
    ],
)
def test_what_cannot_be_swept_is_told_before_anything_runs(tmp_path: Path, words: Any, told: Any, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        sweep(book(tmp_path, "score = 1"), *words, **told)
    assert tickets() == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("parameters: {depth: [3]}\nrun: 3", "run"),
        ("method: bayes\nparameters: {depth: [3]}", "bayes"),
        ("method: random\nparameters: {depth: [3]}", "runs"),
        ("parameters: {depth: {min: 1, max: 3}}", "range"),
        ("method: random\nruns: 2\nparameters: {rate: {min: 1e-3, max: 1}}", "1.0e-3"),
        ("method: random\nruns: 2\nparameters: {rate: {min: 0, max: 1, log: true}}", "above 0"),
        ("method: random\nruns: 2\nparameters: {rate: {min: 0.0, max: 1.0, step: 2}}", "step"),
        ("method: optuna\nruns: 2\nparameters: {depth: [3]}", "--best"),
        ("depth: [3]", "parameters"),
        ("- 3", "parameters"),
        ("parameters: [", "cannot be read"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "sweep.yml").write_text(text)
    with pytest.raises(InvalidRequest, match=why):
        sweep(book(tmp_path, "score = 1"), sweep=tmp_path / "sweep.yml")
    assert tickets() == []


def test_a_dry_run_shows_the_trials(tmp_path: Path) -> None:
    plan = sweep(book(tmp_path, "open('ran', 'w')"), "depth=3,6", "rate=0.1,0.2", best="loss:min", dry_run=True)
    assert plan.outcome == "planned" and len(plan.trials) == 4 and "smallest loss" in repr(plan)
    assert not (tmp_path / "ran").exists() and tickets() == []
