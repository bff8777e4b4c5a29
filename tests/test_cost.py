"""What answers cost: against sums written out by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_ext.core import InvalidRequest
from deploy_ext.cost import Costs, each, function_of, metrics_of, preferred
from deploy_ext.gates import parse
from deploy_ext.judge import judge
from deploy_ext.metrics import SLOW_RESAMPLES, interval, score
from deploy_ext.scored import Scored, trivial

AMOUNTS = st.integers(-5, 50).map(float)
CHANCES = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 1.0])), min_size=1, max_size=30)


def binary(rows: list[tuple[bool, float]], threshold: float = 0.5) -> Scored:
    truth, p = (np.array(side) for side in zip(*rows, strict=True))
    return Scored(truth, p >= threshold, np.column_stack([1 - p, p]), (False, True))


def matrix(prices: dict[tuple[bool, bool], float]) -> Costs:
    return Costs(tuple((*pair, amount) for pair, amount in prices.items()))


@settings(max_examples=300)
@given(CHANCES, st.dictionaries(st.tuples(st.booleans(), st.booleans()), AMOUNTS))
def test_no_threshold_is_cheaper_than_the_preferred_one(rows, prices) -> None:
    def total(threshold: float) -> float:
        return sum(prices.get((truth, p >= threshold), 0.0) for truth, p in rows)

    threshold, least = preferred(matrix(prices), binary(rows))
    assert least == pytest.approx(1000 * total(threshold) / len(rows))
    assert least == pytest.approx(1000 * min(total(t) for t in [*(p for _, p in rows), 2.0]) / len(rows))


@settings(max_examples=100)
@given(CHANCES, st.dictionaries(st.tuples(st.booleans(), st.booleans()), AMOUNTS))
def test_a_matrix_is_a_sum_over_the_rows(rows, prices) -> None:
    scored = binary(rows)
    by_hand = [prices.get(pair, 0.0) for pair in zip(scored.truth.tolist(), scored.prediction.tolist(), strict=True)]
    assert each(matrix(prices), scored).tolist() == by_hand
    found = interval(metrics_of(matrix(prices))["cost.per_1000"], scored, None).value
    assert found == pytest.approx(1000 * np.mean(by_hand))


def test_bounds_are_those_of_the_literal_bootstrap() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(2_000)
    scored = Scored(rng.random(2_000) < p, p > 0.5, np.column_stack([1 - p, p]), (False, True))
    metric = metrics_of(matrix({(True, False): 30.0, (False, True): 5.0}))["cost.per_1000"]
    found = interval(metric, scored)
    drawn = [metric.value(scored.take(rng.integers(2_000, size=2_000))) for _ in range(SLOW_RESAMPLES * 5)]
    low, high = np.quantile(drawn, [0.05, 0.95])
    spread = high - low
    assert found.low == pytest.approx(low, abs=0.1 * spread) and found.high == pytest.approx(high, abs=0.1 * spread)


@pytest.fixture
def pricing(tmp_path, monkeypatch):
    (tmp_path / "deploy.toml").touch()
    (tmp_path / "pricing_of_a_test.py").write_text(
        "def refund(truth, prediction, row):\n    return row['fare'] * (truth > prediction)\n"
        "def broken(truth, prediction, row):\n    return row['fair']\n"
        "def nothing(truth, prediction, row):\n    return float('nan')\n"
    )
    monkeypatch.chdir(tmp_path)
    return "pricing_of_a_test"


def test_a_function_of_the_project_sees_the_row(pricing) -> None:
    frame = pd.DataFrame({"fare": [100.0, 200, 400, 50]})
    scored = Scored(np.array([5.0, 5, 5, 5]), np.array([9.0, 1, 1, 9]), frame=frame)
    gates = parse(f"cost = {pricing}.refund\ncost.per_1000 <= 150000\ncost.per_1000 > 149999\nr2 <= 1")
    checks = judge(gates, scored, champion=None, trivial=trivial(scored), facts={})
    assert [check.result for check in checks] == ["pass", "pass", "pass"]
    assert score(metrics_of(Costs(function=f"{pricing}.refund"))["cost.per_1000"], scored).value == 150_000


def test_a_function_that_fails_is_a_failed_check_with_its_reason(pricing) -> None:
    frame = pd.DataFrame({"fare": [100.0]})
    scored = Scored(np.array([True]), np.array([False]), None, (False, True), frame)
    for name, told in {"broken": "KeyError: 'fair'", "nothing": "no finite number for 1 rows"}.items():
        found = score(metrics_of(Costs(function=f"{pricing}.{name}"))["cost.per_1000"], scored)
        assert found.value is None and told in found.reason


def test_a_name_that_leads_nowhere_says_so_before_anything_is_judged(pricing) -> None:
    scored = binary([(True, 0.2)] * 30)
    gates = parse(f"cost = {pricing}.refnd\ncost.per_1000 <= 1")
    with pytest.raises(InvalidRequest, match="Did you mean 'refund'"):
        judge(gates, scored, champion=None, trivial=trivial(scored), facts={})
    with pytest.raises(InvalidRequest, match="cannot be imported"):
        function_of("no_such_module_anywhere.refund")


def test_prices_go_to_json_and_back() -> None:
    gates = parse("cost['on time', late] = 2\ncost.per_1000 <= 3")
    assert type(gates).from_dict(json.loads(gates.to_json())) == gates
    assert "on time" in repr(gates.costs)


def test_money_that_was_saved_is_positive() -> None:
    rows = [(True, 0.9)] * 40 + [(False, 0.1)] * 40
    good, bad = binary(rows), binary(rows, threshold=1.1)
    gates = parse("cost[True, False] = 10\ncost.saved_vs_champion >= 5000\ncost.per_1000 == 0")
    for champion, results in ((bad, ["pass", "pass"]), (None, ["skip", "pass"])):
        checks = judge(gates, good, champion=champion, trivial=trivial(good), facts={})
        assert [check.result for check in checks] == results
    (lost, _) = judge(gates, bad, champion=good, trivial=trivial(bad), facts={})
    assert lost.result == "fail" and lost.value == -5000
