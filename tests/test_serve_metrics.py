"""What workers count together, and what Prometheus reads of it."""

from __future__ import annotations

import math
import os
import subprocess
from bisect import bisect_right
from dataclasses import replace
from typing import Any

import pytest
from bundles import flights
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from sklearn.linear_model import LogisticRegression

from deploy_ext.contract import Contract, infer
from deploy_ext.output import describe_output
from deploy_ext.serve.metrics import CELLS, FAMILIES, OTHERS, SECONDS, Board, text

FRAME, LATE = flights()
INFO = {"model": {"name": "flights", "version": "3", "runtime": "numpy", "digest": "0" * 64}}


@pytest.fixture(scope="module")
def contract() -> Contract:
    return infer(FRAME, describe_output(LogisticRegression().fit(FRAME, LATE), FRAME))


def read(board: Board, keys: dict[int, str] | None = None) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and label values, as Prometheus would read it."""
    told = text(board, INFO, keys or {}).decode()
    samples = [s for family in text_string_to_metric_families(told) for s in family.samples]
    found = {(s.name, tuple(s.labels.values())): s.value for s in samples}
    assert len(found) == len(samples)
    return found


def test_processes_count_together_without_loss() -> None:
    board, children = Board(slots=4), []
    for slot in range(4):
        if (pid := os.fork()) == 0:
            meter = board.meter(slot)
            for _ in range(5000):
                meter.answered("infer", 200, 0.001)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    assert board.total("requests") == 20_000
    assert read(board)["deploy_ext_request_duration_seconds_count", ()] == 20_000


def test_counters_never_fall_back(contract: Contract) -> None:
    board = Board(slots=2)
    board.learn(contract)
    old = board.meter(0)
    old.predicted(1, ["late"])
    later = replace(contract, output=replace(contract.output, labels=("early", "late")), columns=contract.columns[:1])
    board.learn(later)
    new = board.meter(1)
    old.predicted(1, ["on time"])  # it is still taking its leave
    new.predicted(2, ["early", "late"])
    seen = read(board)
    labels = {k[1][0]: v for k, v in seen.items() if k[0] == "deploy_ext_predictions_total"}
    assert labels == {"late": 2, "on time": 1, "early": 1}
    assert {k[1][0] for k in seen if k[0] == "deploy_ext_outliers_total"} == {"distance", "hour"}


@given(st.lists(st.floats(0, 100) | st.sampled_from(SECONDS), max_size=30))
def test_a_histogram_is_the_cumulative_count(seconds: list[float]) -> None:
    board = Board(slots=1)
    meter = board.meter(0)
    for took in seconds:
        meter.answered("infer", 200, took)
    seen, name = read(board), "deploy_ext_request_duration_seconds"
    for bound in SECONDS:
        assert seen[f"{name}_bucket", (f"{bound:g}",)] == bisect_right(sorted(seconds), bound)
    assert seen[f"{name}_bucket", ("+Inf",)] == seen[f"{name}_count", ()] == len(seconds)
    assert math.isclose(seen[f"{name}_sum", ()], sum(seconds), abs_tol=1e-9)


@given(st.text(), st.text())
def test_any_text_is_a_label(label: str, column: str) -> None:
    output = describe_output(LogisticRegression().fit(FRAME, LATE), FRAME)
    contract = infer(FRAME, output)
    board = Board(slots=1)
    board.learn(
        replace(
            contract,
            output=replace(output, labels=(label, 7, True)),
            columns=(replace(contract.columns[0], name=column),),
        )
    )
    meter = board.meter(0)
    meter.predicted(3, [label, 7, True])
    meter.flagged([column])
    seen = text(board, INFO, {}).decode("utf-8", "surrogatepass")
    assert seen.count("deploy_ext_predictions_total{") == len({label, "7", "True"})


def test_what_is_told_from_the_beginning(contract: Contract) -> None:
    board = Board(slots=1)
    board.learn(contract)
    seen = read(board)
    zero = {"deploy_ext_errors_total", "deploy_ext_outliers_total", "deploy_ext_predictions_total"}
    assert zero <= {name for name, _ in seen}
    assert not [k for k in seen if OTHERS in k[1]]
    assert {v for k, v in seen.items() if not k[0].endswith("_info")} == {0}
    assert [v for k, v in seen.items() if k[0] == "deploy_ext_model_info"] == [1]


def test_keys_are_told_by_their_id_and_nothing_of_their_rows() -> None:
    board = Board(slots=2)
    one, two = board.meter(0), board.meter(1)
    for meter in (one, two):
        meter.asked(5, {"name": ["Grace Hopper"] * 3 + ["Ada"], "age": [37, 37, 38, None]})
    seen = read(board, {5: "a1b2c3d4", 6: "e5f6a7b8"})
    assert seen["deploy_ext_key_rows_total", ("a1b2c3d4",)] == 8
    assert round(seen["deploy_ext_key_distinct_rows", ("a1b2c3d4",)]) == 3  # of both workers together
    assert seen["deploy_ext_key_rows_total", ("e5f6a7b8",)] == 0
    assert b"Grace" not in text(board, INFO, {5: "a1b2c3d4"})


@pytest.mark.parametrize("different", [10, 300, 10_000])
def test_coverage_is_about_the_number_of_different_rows(different: int) -> None:
    board = Board(slots=1)
    meter = board.meter(0)
    meter.asked(0, {"hour": list(range(different)) * 2, "carrier": [str(n) for n in range(different)] * 2})
    assert abs(board.coverage(0) / different - 1) < 0.1


def test_a_board_has_an_end() -> None:
    board = Board(slots=1)
    contract = infer(FRAME, describe_output(LogisticRegression().fit(FRAME, LATE), FRAME))
    labels: tuple[Any, ...] = tuple(range(2 * CELLS))
    board.learn(replace(contract, output=replace(contract.output, labels=labels)))
    board.meter(0).predicted(2, [0, labels[-1]])
    seen = read(board)
    assert seen["deploy_ext_predictions_total", ("0",)] == seen["deploy_ext_predictions_total", (OTHERS,)] == 1


def test_the_parent_and_the_workers_share_what_is_not_counted() -> None:
    board = Board(slots=2, keys=3)
    if (pid := os.fork()) == 0:
        board.limits[2], board.unloaded = 1.5, True
        os._exit(0)
    os.waitpid(pid, 0)
    assert (list(board.limits), board.unloaded) == ([0, 0, 1.5], True)


def test_promtool_has_nothing_to_say(contract: Contract, promtool: str) -> None:
    board = Board(slots=1)
    board.learn(contract)
    meter = board.meter(0)
    meter.answered("infer", 200, 0.001)
    told = text(board, INFO | {"build": {"version": "1", "python": "3.11"}}, {0: "a1b2c3d4"})
    assert {f"# TYPE deploy_ext_{name}" for name in FAMILIES} <= {
        line.rsplit(" ", 1)[0].removesuffix("_total") for line in told.decode().splitlines()
    }
    checked = subprocess.run([promtool, "check", "metrics"], input=told, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
