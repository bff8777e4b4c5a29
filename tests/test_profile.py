"""Profiles: what the parts tell is what the whole tells, within the stated error, and it stays small."""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploy_ext.core import InvalidRequest
from deploy_ext.profile import BINS, EDGES, TOP, ColumnProfile, Histogram, Profile, histogram, measure, profile_column

QUICK = settings(max_examples=100, deadline=None)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = arrays.arrays(float, st.integers(1, 60), elements=FINITE)


def column(values) -> ColumnProfile:
    return profile_column(pd.Series(values, name="x"))


def exact(values, x):
    return np.searchsorted(np.sort(values), x, side="right") / len(values)


@st.composite
def samples(draw):
    """Smooth, heavy-tailed, rounded and zero-inflated numbers at any scale and offset."""
    r = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(300, 3000))
    shape = draw(st.sampled_from([r.normal, r.exponential, r.standard_cauchy, r.random, r.standard_normal]))
    values = shape(size=n) * 10.0 ** draw(st.integers(-6, 9)) + draw(st.sampled_from([0, 1, -1e6, 1.37e9]))
    if draw(st.booleans()):
        values = np.round(values)
    if draw(st.booleans()):
        values[r.random(n) < draw(st.floats(0.01, 0.9))] = draw(st.sampled_from([0.0, values[0]]))
    return values


@QUICK
@given(NUMBERS)
def test_any_numbers_are_counted_and_survive_json(values):
    made = histogram(values)
    assert made.n == len(values)
    assert (made.low, made.high) == (values.min(), values.max())
    assert made.discrete
    assert made.cdf(values).tolist() == exact(values, values).tolist()
    assert Histogram.from_dict(json.loads(made.to_json())) == made


@QUICK
@given(samples())
def test_the_cdf_is_exact_at_the_edges_and_near_between_them(values):
    made = histogram(values)
    edges = np.array(made.edges)
    assert len(edges) <= EDGES
    assert (np.diff(edges) > 0).all()
    assert made.n == len(values)
    np.testing.assert_allclose(made.cdf(edges), exact(values, edges), atol=1e-12)
    x = np.sort(np.r_[values, values + 1e-9 * abs(values), np.linspace(values.min(), values.max(), 500)])
    assert abs(made.cdf(x) - exact(values, x)).max() <= 1.2 / BINS + 2 / len(values)
    assert made.cdf(np.nextafter(made.low, -np.inf)) == 0
    assert made.cdf(made.high) == 1


@QUICK
@given(samples(), samples())
def test_two_halves_make_the_whole_within_two_bins(a, b):
    whole, merged = np.r_[a, b], histogram(a).merge(histogram(b))
    assert (merged.n, len(merged.edges) <= EDGES) == (len(whole), True)
    assert (merged.low, merged.high) == (whole.min(), whole.max())
    assert abs(merged.cdf(whole) - exact(whole, whole)).max() <= 2 / BINS + 2 / len(whole)
    direct = histogram(whole)
    np.testing.assert_allclose(merged.mean, direct.mean, rtol=1e-9, atol=1e-9 * (direct.m2 / direct.n) ** 0.5)
    np.testing.assert_allclose(merged.m2, direct.m2, rtol=1e-6, atol=1e-9 * direct.mean**2)


@QUICK
@given(NUMBERS, NUMBERS, NUMBERS)
def test_merging_does_not_care_about_order_while_values_are_few(a, b, c):
    x, y, z = map(histogram, (a, b, c))
    left, right = x.merge(y).merge(z), z.merge(x.merge(y))
    assert (left.edges, left.counts, left.low, left.high) == (right.edges, right.counts, right.low, right.high)
    assert dict(zip(left.edges, left.counts, strict=True)) == pd.Series(np.r_[a, b, c]).value_counts().to_dict()
    assert np.isfinite([left.mean, left.m2]).all()


def test_many_small_parts_stay_near_the_whole():
    values = np.random.default_rng(0).gamma(0.4, 30, 60_000)
    parts = [histogram(part) for part in np.array_split(values, 60)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.n == 60_000
    assert abs(merged.cdf(values) - exact(values, values)).max() < 0.02


def test_profiles_with_different_edges_are_comparable():
    r = np.random.default_rng(0)
    a, b = r.normal(0, 1, 50_000), r.normal(0.2, 1.1, 40_000)
    x = np.union1d(histogram(a).edges, histogram(b).edges)
    from_profiles = abs(histogram(a).cdf(x) - histogram(b).cdf(x)).max()
    every = np.r_[a, b]
    assert abs(from_profiles - abs(exact(a, every) - exact(b, every)).max()) < 1e-3


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1), st.lists(st.sampled_from("abcdefgh"), min_size=1))
def test_counts_merge_exactly_while_all_are_kept(a, b):
    x, y, whole = (column(v) for v in (a, b, a + b))
    assert x.merge(y) == y.merge(x)
    assert x.merge(y).counts == whole.counts
    assert sum(whole.counts.values()) + whole.other + whole.missing == whole.n


def test_the_most_frequent_are_kept_and_a_merged_count_is_low_by_no_more_than_stated():
    r = np.random.default_rng(0)
    values = [str(v) for v in r.zipf(1.3, 50_000) % 5000]
    parts = [column(values[:20_000]), column(values[20_000:])]
    merged, whole = parts[0].merge(parts[1]), pd.Series(values).value_counts()
    assert len(merged.counts) == TOP
    assert sum(merged.counts.values()) + merged.other == merged.n == 50_000
    slack = sum(min(p.counts.values()) for p in parts)
    assert all(0 <= whole[v] - n <= slack for v, n in merged.counts.items())


def test_free_text_is_not_kept():
    names = profile_column(pd.Series([f"passenger {i}" for i in range(1000)] + ["-"] * 5, name="who"))
    assert names.counts == {"-": 5}
    assert names.other == 1000
    long = profile_column(pd.Series(["x" * 10_000, "x" * 10_001], name="note"))
    assert len(long.counts) == 2
    assert all(len(key) < 70 for key in long.counts)


KINDS = {
    "number": ([1.5, None, 2.5], "float64"),
    "whole": ([1, None, 2], "Int64"),
    "truth": ([True, None, False], "boolean"),
    "object_truth": ([True, None, False], "object"),
    "object_number": ([1, None, 2], "object"),
    "text": (["a", None, "b"], "str"),
    "set": (["a", None, "b"], pd.CategoricalDtype(["a", "b", "unused"])),
    "moment": (pd.to_datetime(["2013-01-01", None, "2013-01-02"]), "datetime64[us]"),
    "zone": (pd.to_datetime(["2013-01-01T00:00Z", None, "2013-01-02T00:00Z"]), "datetime64[ns, UTC]"),
}


def test_every_kind_of_column():
    profile = measure(pd.DataFrame({n: pd.Series(v, dtype=d) for n, (v, d) in KINDS.items()}), np.array([0, 1, 1]))
    assert [c.missing for c in profile.columns] == [1] * len(KINDS) + [0]
    assert profile["set"].counts == {"a": 1, "b": 1}
    assert profile["truth"].counts == profile["object_truth"].counts == {"true": 1, "false": 1}
    assert profile["moment"].histogram == profile["zone"].histogram
    moments, answers = profile["moment"].histogram, profile["prediction"].histogram
    assert moments is not None and answers is not None
    assert moments.low == datetime(2013, 1, 1, tzinfo=UTC).timestamp()
    assert answers.counts == (1, 2)
    assert Profile.from_dict(json.loads(profile.to_json())) == profile
    assert "profile of 3 rows" in repr(profile)


def test_infinite_and_missing_numbers_are_missing():
    one, nothing = column([1.0, np.inf, -np.inf, np.nan]), column([np.nan, np.inf])
    assert (one.n, one.missing) == (4, 3)
    assert nothing.histogram is None
    assert nothing.merge(one) == one.merge(nothing)
    assert nothing.merge(one).n == 6


@pytest.mark.parametrize("values", [pd.Series([None, None], dtype=object), pd.Series([None], dtype="str")])
def test_a_part_without_values_merges_with_anything(values):
    known = column([1, 2])
    merged = profile_column(values.rename("x")).merge(known)
    assert (merged.type, merged.n, merged.missing) == ("int", 2 + len(values), len(values))


def test_what_cannot_be_merged_says_so():
    a, b = measure(pd.DataFrame({"x": [1]})), measure(pd.DataFrame({"y": [1]}))
    with pytest.raises(InvalidRequest, match="different columns"):
        a.merge(b)
    with pytest.raises(InvalidRequest, match="do not match"):
        a.merge(measure(pd.DataFrame({"x": ["text"]})))
    with pytest.raises(InvalidRequest, match="Did you mean 'x'"):
        a["X"]


def test_a_data_column_named_prediction_stays_apart_from_the_answers():
    profile = measure(pd.DataFrame({"prediction": [1.0, 2.0]}), np.array(["late", "late"]))
    assert [(c.name, c.role) for c in profile.columns] == [("prediction", "input"), ("prediction", "prediction")]
    assert profile["prediction"].counts == {"late": 2}
    assert profile.merge(profile)["prediction"].counts == {"late": 4}


def test_about_3_kb_a_column():
    r = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "normal": r.normal(size=20_000),
            "tiny": r.normal(size=20_000) * 1e-9 + 1,
            "epoch": 1.37e9 + r.random(20_000) * 3e7,
            "cauchy": r.standard_cauchy(20_000),
            "words": r.integers(0, 3000, 20_000).astype(str),
        }
    )
    for made in measure(frame).columns:
        assert len(made.to_json()) < 6000, made.name
    assert len(measure(frame).to_json()) < 4000 * frame.shape[1]


def test_an_older_reader_ignores_what_it_does_not_know():
    made = column([1.0])
    assert ColumnProfile.from_dict({**made.to_dict(), "later": 1}) == made
    with pytest.raises(InvalidRequest, match="Upgrade"):
        Profile.from_dict({"format": 2, "columns": []})
