"""Profiles: what the parts tell is what the whole tells, within the stated error, and it stays small."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploy_ext.core import InvalidRequest
from deploy_ext.profile import (
    BINS,
    EDGES,
    SKETCH,
    TOP,
    ColumnProfile,
    Histogram,
    Profile,
    Sketch,
    histogram,
    measure,
    profile_column,
    row_hashes,
    sketch,
)

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
    assert abs(made.cdf(x) - exact(values, x)).max() <= 2 / BINS + 2 / len(values)
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


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), FINITE, st.text(max_size=5), st.just(float("nan"))
)


def table(rows: int, seed: int = 0, kinds: int = 2**60) -> pd.DataFrame:
    """Rows of a table; with few `kinds` they coincide."""
    r = np.random.default_rng(seed)
    return pd.DataFrame({"x": r.integers(0, kinds, rows), "y": r.choice(["a", "b"], rows)})


def mixed() -> pd.DataFrame:
    """A column of every kind that has missing values in a CSV file too."""
    frame = pd.DataFrame({n: pd.Series(v, dtype=d) for n, (v, d) in KINDS.items()})
    numbers: Any = np.array([0.1, 1_000.7, -0.0])
    return frame.assign(half=numbers.astype("float16"), single=numbers.astype("float32"), double=numbers, id=2**52 + 1)


def test_a_row_is_the_same_after_a_csv_file_and_in_other_dtypes() -> None:
    frame = mixed()
    hashes = row_hashes(frame).tolist()
    file = io.StringIO(frame.to_csv(index=False))
    back = pd.read_csv(file, parse_dates=["moment", "zone"], dtype={"set": "category"})
    assert row_hashes(back).tolist() == hashes
    assert row_hashes(frame[frame.columns[::-1]].set_axis([7, 7, 7])).tolist() == hashes
    nullable = frame.drop(columns="half")  # which becomes a double, and then is one
    assert row_hashes(nullable.convert_dtypes()).tolist() == row_hashes(nullable).tolist()
    arrow = nullable.drop(columns=["moment", "zone"])
    assert row_hashes(arrow.convert_dtypes(dtype_backend="pyarrow")).tolist() == row_hashes(arrow).tolist()
    same = [
        pd.Series([3, 4, 3], dtype=d) for d in ("int64", "int8", "uint16", "Int32", "float32", "object", "category")
    ]
    assert len({tuple(row_hashes(s.rename("x")).tolist()) for s in same}) == 1


def test_hashes_never_change() -> None:
    """Sketches of old versions are read by new ones."""
    frame = pd.DataFrame({"a": [1.5, None, 7], "b": ["x", "é", None], "c": pd.to_datetime(["2013-01-01"] * 3)})
    assert [f"{h:016x}" for h in row_hashes(frame)] == ["2bc452f5e4bd819e", "80e1d124d2d5b9eb", "e5f892c740491d60"]


@QUICK
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_a_hash_is_of_its_row_alone(rows: list[Any], rng: Any) -> None:
    frame = pd.DataFrame(rows, columns=["a", "b"], dtype=object)
    hashes = row_hashes(frame)
    some = sorted(rng.sample(range(len(rows)), rng.randint(1, len(rows))))
    assert row_hashes(frame.iloc[some]).tolist() == hashes[some].tolist()


@QUICK
@given(st.lists(st.tuples(st.integers(-9, 9), st.sampled_from("ab")), min_size=2, max_size=60))
def test_different_rows_have_different_hashes(rows: list[Any]) -> None:
    frame = pd.DataFrame(rows, columns=["a", "b"])
    assert len(set(row_hashes(frame).tolist())) == len(frame.drop_duplicates())
    swapped = frame.rename(columns={"a": "b", "b": "a"})
    assert not set(row_hashes(swapped).tolist()) & set(row_hashes(frame).tolist())


@pytest.mark.parametrize("kinds", [3, 1_000, 10**9])
@pytest.mark.parametrize("parts", [(1, 1, 1), (5_000, 10, 3_000), (2_048, 2_048, 2_049)])
def test_sketches_of_parts_are_the_sketch_of_the_whole(parts: tuple[int, ...], kinds: int) -> None:
    frames = [table(rows, seed, kinds) for seed, rows in enumerate(parts)]
    a, b, c = map(sketch, frames)
    whole = sketch(pd.concat(frames))
    assert a.merge(b).merge(c) == c.merge(a.merge(b)) == whole
    assert Sketch.from_dict(json.loads(whole.to_json())) == whole
    assert (whole.n, len(whole.hashes)) == (sum(parts), min(SKETCH, len(pd.concat(frames).drop_duplicates())))
    if len(whole.hashes) < SKETCH:
        assert whole.counts.sum() == whole.n


def test_a_sketch_knows_each_row_that_it_could_know() -> None:
    frame, others = table(20_000), table(20_000, seed=1)
    known = sketch(frame)
    small = row_hashes(frame) <= np.uint64(known.limit)
    assert set(row_hashes(frame)[small].tolist()) == set(known.hashes.tolist())
    assert not set(row_hashes(others).tolist()) & set(known.hashes.tolist())
    assert small.mean() == pytest.approx(SKETCH / len(frame), rel=0.01)


def test_sketches_of_other_sizes_merge_to_the_smaller() -> None:
    a, b = sketch(table(3_000)), sketch(table(3_000, 1))
    small = replace(b, size=SKETCH // 2)
    assert len(a.merge(small).hashes) == SKETCH // 2
    assert a.merge(small).hashes.tolist() == a.merge(b).hashes[: SKETCH // 2].tolist()


def test_a_profile_carries_its_rows() -> None:
    frame = table(3_000)
    plain = measure(frame)
    made = replace(plain, rows=sketch(frame))
    assert Profile.from_dict(json.loads(made.to_json())) == made
    assert plain.rows is None and Profile.from_dict({k: v for k, v in plain.to_dict().items() if k != "rows"}) == plain
    parts = [replace(measure(part), rows=sketch(part)) for part in (frame[:1_000], frame[1_000:])]
    assert parts[0].merge(parts[1]).rows == made.rows
    assert parts[0].merge(plain).rows is None
    assert "rows" in repr(sketch(frame)) and len(made.to_json()) < len(plain.to_json()) + 25_000


def test_very_short_tables_and_odd_values_have_hashes() -> None:
    odd = pd.DataFrame(
        {
            "a": [float("inf")],
            "b": [b"\xff"],
            "c": pd.Series(["\ud800"], dtype=object),
            "d": [pd.Timedelta(3)],
            "e": [1j],
        }
    )
    assert len(sketch(odd).hashes) == 1
    with pytest.raises(Exception, match="no rows"):
        sketch(odd.head(0))
