"""In a real kernel: the training cell is measured, cases are written, one answer is explained."""

from pathlib import Path

import pytest
from kernels import Kernel, kernel
from stories import COLUMNS, flights, good

import deploy_ext
from deploy_ext.core import InvalidRequest, NotebookFailed
from deploy_ext.effort import WORDS
from deploy_ext.gates import FACTS

HERE = Path(__file__).parent
SETUP = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
from stories import *
frame, unseen = flights(), flights(1)
X_train, y_train, X_new = frame[COLUMNS], frame.late, unseen[COLUMNS]
%load_ext deploy_ext
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A kernel in which a measured model is champion."""
    with kernel(tmp_path_factory.mktemp("fit")) as k:
        k.run(SETUP)
        k.run("%%deploy fit --country FRA --price 0.2\nmodel = pipeline().fit(X_train, y_train)\n!echo a shell line")
        k.run("%deploy register model --name flights --data X_train --target y_train")
        k.run("%%deploy gates flights\ntrain.seconds <= 600\ntrain.memory_mb > 0\nroc_auc >= 0.8")
        k.run("%deploy validate flights --data unseen --target late")
        k.run("%deploy promote flights")
        yield k


def test_what_training_took_is_known_of_the_version(opened: Kernel) -> None:
    found = opened.run("%deploy validate flights --data unseen --target late")
    assert "PASSED" in found.text and "train.seconds" in found.text
    told = opened.run(
        "from deploy_ext.registry import Registry\nRegistry().latest('flights').provenance['effort']['kwh']"
    )
    assert float(told.text) > 0


def test_a_cell_that_fails_says_so_and_leaves_the_model_as_it_was(opened: Kernel) -> None:
    failed = opened.try_("%%deploy fit\nmodel = pipeline().fit(X_train, nothing)")
    assert failed.ename == "NotebookFailed" and "NameError: name 'nothing'" in failed.evalue
    assert opened.run("model.predict(X_new[:3]).shape").text == "(3,)"
    assert opened.try_("%%deploy fit --country FRAN\nspoiled = 1").ename == "InvalidRequest"
    assert opened.try_("spoiled").ename == "NameError"


def test_cells_that_cannot_be_measured_or_end_in_their_own_way(opened: Kernel) -> None:
    waits = opened.try_("%%deploy fit\nimport asyncio\nawait asyncio.sleep(0)")
    assert waits.ename == "InvalidRequest" and "'await' outside of functions" in waits.evalue
    assert opened.try_("%%deploy fit\nimport sys; sys.exit(3)").evalue == "the cell failed with SystemExit: 3"
    opened.run("%%deploy fit\nimport asyncio\nasync def later():\n    await asyncio.sleep(0)")


def test_a_model_that_is_only_used_keeps_what_its_own_training_took(opened: Kernel) -> None:
    took = "from deploy_ext import verbs\nverbs._efforts[model].seconds"
    before = opened.run(took).text
    opened.run("%%deploy fit\nother = model.predict(X_new)")
    assert opened.run(took).text == before
    opened.run("%%deploy fit\nmodel.fit(X_train, y_train)")
    assert opened.run(took).text != before


def test_one_answer_is_explained_with_a_true_hint(opened: Kernel) -> None:
    late = opened.run("row = X_new[X_new.dep_delay > 60].iloc[0]\n%deploy explain flights --row row")
    assert "dep_delay" in late.text and "would be False if dep_delay <=" in late.text
    bound = float(late.text.split("would be False if dep_delay <=")[1].split()[0])
    assert (
        opened.run(f"model.predict(row.to_frame().T.assign(dep_delay={bound}).astype(X_new.dtypes))[0]").text
        == "np.False_"
    )


def test_mistakes_name_the_row(opened: Kernel) -> None:
    assert "X_new.iloc[0]" in opened.try_("%deploy explain flights --row X_new").evalue
    assert "no row 9999" in opened.try_("%deploy explain flights --row X_new.iloc[9999]").evalue
    assert "Did you mean 'X_new'" in opened.try_("%deploy explain flights --row X_nw.iloc[0]").evalue


def test_cases_are_written_below_the_magic(opened: Kernel) -> None:
    wrong = opened.try_("%%deploy cases flights\ndep_delay, hour\n1, 2")
    assert "'expected'" in wrong.evalue
    opened.run("%%deploy cases flights\ndep_delay, hour, carrier, expected\n240, 12, AA, False")
    found = opened.run("%deploy validate flights --data unseen --target late")
    assert "FAILED" in found.text and "cases.failed" in found.text


def test_every_name_of_the_effort_is_a_fact_that_gates_can_name() -> None:
    assert set(WORDS) <= set(FACTS)


def test_in_python_the_code_runs_in_the_callers_module() -> None:
    with pytest.raises(NotebookFailed, match="ZeroDivisionError"):
        deploy_ext.fit("1 / 0")
    with pytest.raises(NotebookFailed, match="SystemExit: 0") as failed:
        deploy_ext.fit("import sys; sys.exit(0)")
    assert failed.value.effort.seconds > 0
    with pytest.raises(InvalidRequest, match="%%deploy fit"):
        deploy_ext.fit(" ")


def test_an_unmeasured_training_is_told_in_the_gate() -> None:
    deploy_ext.register(good(), "flights", flights()[COLUMNS], flights().late)
    deploy_ext.gates("flights", "train.kwh <= 2")
    (check,) = deploy_ext.validate("flights", flights(1), "late").checks
    assert check.result == "fail" and "%%deploy fit" in check.detail
