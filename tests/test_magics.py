"""`%deploy` in a real kernel: the whole story, one line for a mistake, and Tab over the Jupyter protocol."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from kernels import Kernel, kernel
from stories import GATES

from deploy_ext import inputs, magics

pytestmark = pytest.mark.server
HERE = Path(__file__).parent
SHELL = InteractiveShell()
START = f"""
import sys
sys.path.append({str(HERE)!r})
from stories import COLUMNS, flights, good, worse
train, unseen, model = flights(), flights(1), good()
X_test, y_test = unseen[COLUMNS], unseen.late
new = X_test.head(3)
%load_ext deploy_ext
"""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Kernel]:
    with kernel(tmp_path) as found:
        yield found


# the story


def test_the_story_in_a_kernel(story: Path) -> None:
    """From the third version on: `story` has registered three, and the first one is champion."""
    with kernel(story) as nb:
        nb.run(START)
        registered = nb.run("v = %deploy register model --name flights --data train --target late\nv")
        assert registered.text.startswith("flights/4\n") and "<table>" in registered.html
        assert nb.run("type(v).__name__, v.name, v.version").text == "('Version', 'flights', 4)"
        nb.run(f"%%deploy gates flights\n{GATES}")
        assert (story / "flights.gates").read_text() == GATES
        nb.run("verdict = %deploy validate flights --data X_test --target y_test")
        assert nb.run("verdict.passed, verdict.version").text == "(True, 4)"
        nb.run("%deploy up flights")
        promoted = nb.run("%deploy promote flights --reason \"saves $100 {v} a day, {1+1} 'times'\"")
        assert "champion" in promoted.text
        asked = nb.run("answers = %deploy predict flights --data new\nanswers")
        assert "probability_True" in asked.text and "<table" in asked.html
        assert nb.run("set(answers.version), answers.index.equals(new.index)").text == "({4}, True)"

        nb.restart()
        assert nb.try_("%deploy status").ename == ""  # IPython's own message: there is no such magic now
        nb.run("%load_ext deploy_ext")
        assert (
            nb.run("s = %deploy status\n[(e.name, e.version, e.state) for e in s]").text == "[('flights', 4, 'ready')]"
        )
        nb.run("%deploy rollback flights --reason 'too many false alarms'")
        history = nb.run("h = %deploy history flights --verify\nh").text
        assert "saves $100 {v} a day, {1+1} 'times'" in history and "too many false alarms" in history
        assert nb.run("[e.what for e in h][-4:]").text == "['validate', 'up', 'promote', 'rollback']"
        assert nb.run("[(e.what, e.from_, e.to) for e in h][-1]").text == "('rollback', '4', '1')"
        assert nb.run("%deploy down flights").text.startswith("flights is down")


def test_files_in_a_notebook(opened: Kernel) -> None:
    opened.run(START)
    opened.run("import joblib; joblib.dump(model, 'model.joblib'); train.to_parquet('my train.parquet')")
    words = "model.joblib --name flights \\\n    --data 'my train.parquet' \\\n    --target late;"
    opened.run(f"v = %deploy register {words}")
    assert "my train.parquet" in opened.run("v.version, str(v.provenance)").text


# mistakes


def test_a_mistake_is_one_line(opened: Kernel) -> None:
    opened.run("%load_ext deploy_ext\nX_train, cost = None, 3")
    for source, told in {
        "%deploy regsiter model": "%deploy: unknown verb 'regsiter'. Did you mean 'register'?",
        "%deploy down --nmae x": "%deploy down: unknown option '--nmae'. It has no options.",
        "%deploy rollback flights --reason too many": "'many' is one word too many",
        "%deploy rollback flights --reason 'too": "No closing quotation",
        "%deploy help regsiter": "Did you mean 'register'?",
        "%%deploy status\nflights": "only %%deploy fit, %%deploy gates, %%deploy cases takes the rest of a cell.",
        "v = %deploy register X_tran --name a --data b": "model: there is no variable 'X_tran'.",
    }.items():
        reply = opened.try_(source)
        assert reply.ename == "InvalidRequest" and told in reply.evalue, (source, reply)
        assert reply.traceback == [f"InvalidRequest: {reply.evalue}"] and "\n" not in reply.evalue


def test_papermill_keeps_the_message(tmp_path: Path) -> None:
    """A UsageError of IPython arrives there as an empty message."""
    command = [sys.executable, "-m", "papermill", HERE / "notebooks" / "mistyped.ipynb", "out.ipynb", "-k", "python3"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    told = "InvalidRequest: %deploy: unknown verb 'promoet'. Did you mean 'promote'?"
    assert ran.returncode == 1 and told in ran.stderr
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert [told] in [output.get("traceback") for cell in cells for output in cell.get("outputs", [])]


# help, loading, Tab


def test_help_is_a_value(opened: Kernel) -> None:
    opened.run("%load_ext deploy_ext")
    shown = [opened.run(f"%deploy {words}").text for words in ("", "help", "--help")]
    assert len({*shown}) == 1 and shown[0].startswith("usage: %deploy <verb> ...\n")
    shown = [opened.run(f"%deploy {words}").text for words in ("help register", "register --help", "register m -h")]
    assert len({*shown}) == 1 and "\n  --purpose PURPOSE    what it is for" in shown[0]
    assert "%deploy register model --name flights" in str(opened.client.inspect("%deploy", reply=True))


def test_loading_and_unloading(opened: Kernel) -> None:
    for line in ("%load_ext deploy_ext", "%load_ext deploy_ext", "%reload_ext deploy_ext"):
        opened.run(line)
        assert opened.tab("%deploy reg") == ["register"]
        assert opened.run("%deploy help").text.startswith("usage")
    opened.run("%unload_ext deploy_ext")
    assert opened.tab("%deploy reg") == [] and "not found" in opened.try_("%deploy help").printed
    opened.run("%load_ext deploy_ext")
    assert opened.tab("%deploy reg") == ["register"]


def test_tab_over_the_protocol(opened: Kernel, tmp_path: Path) -> None:
    inputs.remember(["flights", "flights@champion", "flights/1", "flights/2"])
    (tmp_path / "new.csv").touch()
    opened.run("%load_ext deploy_ext\nimport sys")
    assert opened.tab("%deploy reg") == ["register"]
    assert opened.tab("%deploy up flights@") == ["flights@champion"]
    assert opened.run("[name for name in ('mlflow', 'pandas', 'sklearn') if name in sys.modules]").text == "[]"
    opened.run(START)
    offers = {
        "%deploy ": ["fit", "register", "gates", "metrics", "cases", "validate"],
        "v = %deploy reg": ["register"],
        "x = 1\nfor i in x:\n    v = %deploy reg|\nprint(v)": ["register"],
        "%deploy register --purpose 'a b' mo": ["model"],
        "%deploy register model --data ": ["train", "unseen", "X_test", "new"],
        "%deploy register model --data ./n": ["./new.csv"],
        "%deploy register model --data train --target ": ["dep_delay", "hour", "carrier", "late", "y_test"],
        "%deploy promote flights --re": ["--reason"],
        "%deploy promote flights/": ["flights/1", "flights/2"],
        "%deploy validate \\\n  flights --data X": ["X_test"],
        "%%deploy gates fl|\nroc_auc >= 0.8": ["flights", "flights@champion"],
        "%deploy register zzz": [],
        "%deploy register tra": [],  # it is data, and no model
        "%deploy promote flights --reason 'the mo": [],
        "%deploy help prom": ["promote"],
    }
    for source, expected in offers.items():
        assert opened.tab(source)[: len(expected) or None] == expected, source
    for source in ("%%deploy gates flights\nregi", "print('%deploy regi", "# %deploy regi", "regi"):
        assert "register" not in opened.tab(source)
    assert "train" in opened.tab("x = tra")


@given(
    st.lists(st.sampled_from(["%deploy ", "register", "--data", "'", '"', "\\\n", "\n", " ", "=", "%%"]) | st.text())
)
def test_tab_never_raises(words: list[str]) -> None:
    magics.candidates(SHELL, "".join(words))
