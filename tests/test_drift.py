"""Drift against scipy on all values, false alarms, and what is said when nothing can be said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.drift import ALARMS, MINIMUM, compare, joint, ks, psi, wasserstein, windows
from deploy_ext.profile import Histogram, Profile, histogram, measure

stats: Any = scipy_stats
RNG = np.random.default_rng(7)
SHAPES: dict[str, Any] = {
    "normal": lambda n, by: RNG.normal(by, 1 + by, n),
    "lognormal": lambda n, by: RNG.lognormal(by, 1.5, n),
    "exponential": lambda n, by: RNG.exponential(1 + by, n),
    "uniform": lambda n, by: RNG.uniform(by, 1 + 2 * by, n),
    "counts": lambda n, by: RNG.poisson(3 + by, n),
    "many counts": lambda n, by: RNG.poisson(4000 * (1 + by / 50), n),
    "mostly zero": lambda n, by: np.where(RNG.random(n) < 0.7 - by / 5, 0.0, RNG.gamma(2, 1 + by, n)),
    "two humps": lambda n, by: np.where(RNG.random(n) < 0.5 + by / 5, RNG.normal(-3, 1, n), RNG.normal(3, 1, n)),
    "cents": lambda n, by: RNG.lognormal(3 + by, 1, n).round(2),
}


def exact_psi(old: np.ndarray, new: np.ndarray) -> float:
    cuts = np.unique(np.quantile(old, np.arange(0.1, 1, 0.1), method="inverted_cdf"))
    p, q = (np.diff(np.r_[0, np.searchsorted(np.sort(x), cuts, side="right"), len(x)]) / len(x) for x in (old, new))
    return psi(p, q)


@pytest.mark.parametrize("by", [0.0, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_as_scipy_on_all_values(shape: str, by: float) -> None:
    old, new = SHAPES[shape](200_000, 0.0).astype(float), SHAPES[shape](200_000, by).astype(float)
    a, b = histogram(old), histogram(new)
    found = compare(measure(pd.DataFrame({"x": old})), measure(pd.DataFrame({"x": new})))["x"]
    exact = stats.ks_2samp(old, new, method="asymp")
    assert ks(a, b) == pytest.approx(exact.statistic, abs=1e-3)
    if by:
        assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(old, new), rel=0.01)
    if shape not in ("counts", "mostly zero"):  # there a value is a bin for itself, which deciles cut otherwise
        assert found.psi == pytest.approx(exact_psi(old, new), abs=5e-3, rel=0.05)
    assert found.p == pytest.approx(exact.pvalue, abs=0.15)  # near 1 it moves with the last digit of the distance


@settings(max_examples=200)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.lists(st.integers(-5, 5), min_size=1, max_size=60))
def test_exact_for_few_distinct_values(one: list[int], two: list[int]) -> None:
    old, new = np.array(one, float), np.array(two, float)
    a, b = histogram(old), histogram(new)
    assert ks(a, b) == pytest.approx(stats.ks_2samp(old, new, method="asymp").statistic, abs=1e-12)
    assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(old, new), abs=1e-9)


FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)


@settings(max_examples=200)
@given(st.lists(FLOATS, min_size=1, max_size=400), st.lists(FLOATS, min_size=1, max_size=400))
def test_any_numbers(one: list[float], two: list[float]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        found = compare(*(measure(pd.DataFrame({"x": values})) for values in (one, two)))["x"]
    if min(len(one), len(two)) < MINIMUM:
        assert found.psi is None and "too few" in found.reason and not found.drifted
    else:
        assert found.psi is not None and found.ks is not None and found.p is not None
        assert 0 <= found.ks <= 1 and 0 <= found.p <= 1 and found.psi >= 0 and not math.isnan(found.wasserstein or 0)


def by_hand(one: list[Any], two: list[Any]) -> float:
    shares: list[Any] = [
        pd.Series([v for v in side if v is not None]).value_counts(normalize=True) for side in (one, two)
    ]
    names = set(shares[0].index) | set(shares[1].index)
    return psi(*(np.array([float(share.get(name, 0.0)) for name in names]) for share in shares))


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", None, "\x00other"]), min_size=100, max_size=300)


@settings(max_examples=100)
@given(WORDS, WORDS)
def test_any_words(one: list[Any], two: list[Any]) -> None:
    found = compare(*(measure(pd.DataFrame({"x": values}, dtype="str")) for values in (one, two)))["x"]
    if found.psi is not None:
        assert 0 <= (found.js or 0) <= 1 and found.psi >= 0 and 0 <= (found.p or 0) <= 1
        assert found.psi == pytest.approx(by_hand(one, two), abs=1e-12)
        assert set(found.fresh) == {str(v) for v in two if v} - {str(v) for v in one if v}


def test_chi2_is_scipys() -> None:
    old, new = RNG.choice(list("abcd"), 3000), RNG.choice(list("abcd"), 2000, p=[0.3, 0.3, 0.2, 0.2])
    found = compare(*(measure(pd.DataFrame({"x": v})) for v in (old, new)))["x"]
    table = [[(v == letter).sum() for letter in "abcd"] for v in (old, new)]
    assert found.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)


def tables(n: int, columns: int) -> tuple[Profile, Profile]:
    return tuple(  # type: ignore[return-value]
        measure(pd.DataFrame({f"c{i}": RNG.normal(size=n) if i % 2 else RNG.integers(0, 9, n) for i in range(columns)}))
        for _ in range(2)
    )


def test_no_wolf_in_forty_columns() -> None:
    """A hundred days on which nothing happens. Column by column at 5 %, 87 of them would have an alarm."""
    alarms = sum(any((c.p or 1) <= ALARMS for c in compare(*tables(500, 40)).columns) for _ in range(100))
    assert alarms <= 15  # five are expected


def test_a_large_table_with_a_difference_that_nobody_feels() -> None:
    old, new = RNG.normal(0, 1, 500_000), RNG.normal(0.02, 1, 500_000)
    found = compare(*(measure(pd.DataFrame({"x": v})) for v in (old, new)))["x"]
    assert found.p is not None and found.p < 1e-6 and not found.drifted


def test_constants_gaps_and_what_is_new() -> None:
    n = 1000
    old = pd.DataFrame({"same": 1.0, "gone": RNG.normal(size=n), "word": ["a", "b"] * (n // 2), "moved": 1.0})
    new = pd.DataFrame({"same": 1.0, "gone": np.nan, "word": ["a", "c"] * (n // 2), "moved": 2.0})
    drift = compare(measure(old), measure(new))
    same, gone, word, moved = (drift[name] for name in ("same", "gone", "word", "moved"))
    assert (same.psi, same.ks, same.wasserstein, same.drifted) == (0.0, 0.0, 0.0, False)
    assert (gone.psi, gone.missing, gone.drifted) == (None, 1.0, True) and "too few: 0 new values" in gone.reason
    assert (word.fresh, word.vanished, word.new, word.drifted) == (("c",), ("b",), 0.5, True)
    assert (moved.ks, moved.drifted) == (1.0, True)
    assert drift.drifted == ("gone", "word", "moved")
    facts = drift.facts()
    assert facts["drift.new[word]"] == 0.5 and facts["drift.missing"] == 1.0 and facts["drift.share"] == 2 / 3
    assert "too few" in str(facts["drift.psi[gone]"]) and "not of such" in str(facts["drift.ks[word]"])


def test_halves_merge_into_the_whole() -> None:
    old, new = SHAPES["lognormal"](60_000, 0.0), SHAPES["lognormal"](60_000, 0.2)
    stored, whole = (measure(pd.DataFrame({"x": v})) for v in (old, new))
    parts = [measure(pd.DataFrame({"x": part})) for part in np.array_split(new, 24)]
    half = parts[0].merge(parts[0])
    assert compare(parts[0], half)["x"].psi == pytest.approx(0, abs=1e-3)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    direct, summed = compare(stored, whole)["x"], compare(stored, merged)["x"]
    assert summed.ks == pytest.approx(direct.ks, abs=2 / 256) and summed.psi == pytest.approx(direct.psi, abs=0.02)
    assert summed.wasserstein == pytest.approx(direct.wasserstein, rel=0.1)  # of a long tail, after 23 merges


def test_bad_input_is_told() -> None:
    stored = measure(pd.DataFrame({"x": RNG.normal(size=200), "y": 1}))
    with pytest.raises(ContractViolated, match="no column 'y'"):
        compare(stored, measure(pd.DataFrame({"x": RNG.normal(size=200)})))
    with pytest.raises(ContractViolated, match="was float in training and is string"):
        compare(stored, measure(pd.DataFrame({"x": ["a"] * 200, "y": 1})))
    with pytest.raises(InvalidRequest, match="no column 'at'"):
        list(windows(stored, pd.DataFrame({"x": [1.0]}), "at"))
    with pytest.raises(InvalidRequest, match="no span"):
        list(windows(stored, pd.DataFrame({"x": [1.0], "at": pd.to_datetime(["2026-01-01"])}), "at", "fortnight"))


def test_what_single_columns_hide() -> None:
    x = RNG.normal(size=4000)
    before = pd.DataFrame({"x": x, "y": x + RNG.normal(size=4000), "z": RNG.choice(list("ab"), 4000)})
    after = before.assign(y=RNG.permutation(before["y"]))
    assert compare(measure(before), measure(after)).drifted == ()
    found = joint(before, after)
    assert found.p < 1e-6 and set(found.columns) == {"x", "y"}
    assert joint(before.head(2000), before.tail(2000)).p > 1e-3


def test_a_histogram_of_one_value_and_of_extremes() -> None:
    one, largest = histogram(np.array([5.0])), float(np.finfo(float).max)
    wide = histogram(np.array([-largest, largest]))
    assert isinstance(one, Histogram) and ks(one, one) == 0 and wasserstein(one, one) == 0
    assert ks(one, wide) == 0.5


def test_a_column_without_any_value_is_no_joint_drift() -> None:
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=1_000), "gone": np.nan})
    assert joint(frame.head(500), frame.tail(500)).p > 1e-3


def test_what_moved_farthest_is_drawn_first() -> None:
    rng = np.random.default_rng(0)
    before = pd.DataFrame({"still": rng.normal(size=5_000), "moved": rng.normal(size=5_000)})
    after = before.assign(moved=before.moved + 2)
    (plot,) = compare(measure(before), measure(after)).plots()
    ((names, far),) = plot.series.values()
    assert names == ("moved", "still") and far[0] > (plot.guide or 0) > far[1]
    assert compare(measure(before), measure(after[:3])).plots() == ()
