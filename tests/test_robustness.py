"""Robustness on models whose behaviour is known: rules, constants, models that look at the batch, models that crash."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stories import COLUMNS, flights, good

from deploy_ext.bundle import Answers, answer
from deploy_ext.contract import Contract, infer
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.output import Output, describe_output
from deploy_ext.profile import measure
from deploy_ext.robustness import MINIMUM, WORDS, Robustness, cases, perturb

KINDS = ("noise", "missing", "unseen", "out_of_range", "swapped", "typos", "units", "order", "batch")
LABELS = Output("classification", ("no", "yes"), "string", True)
NUMBER = Output("regression")
RNG = np.random.default_rng(11)
ROWS = 400
TABLE: Any = pd.DataFrame(
    {
        "delay": RNG.normal(0, 10, ROWS),
        "stops": RNG.integers(0, 100, ROWS),
        "vip": RNG.random(ROWS) < 0.5,
        "carrier": RNG.choice(["AA", "B6", "UA"], ROWS),
        "origin": pd.Categorical(RNG.choice(["JFK", "LGA"], ROWS)),
        "note": [f"note number {i}" for i in range(ROWS)],
        "at": pd.Timestamp("2013-01-01") + pd.to_timedelta(np.arange(ROWS), "h"),
    }
)
NULLABLE = list(TABLE)


def yes(chance: Any) -> Answers:
    """Answers of a classifier that says yes from a half on."""
    chance = np.asarray(chance, float)
    return Answers(np.where(chance >= 0.5, "yes", "no"), np.column_stack([1 - chance, chance]))


def facts(ask: Any, table: pd.DataFrame = TABLE, output: Output = LABELS, **rules: Any) -> dict[str, Any]:
    return perturb(ask, table, infer(table, output, **rules), measure(table)).facts()


def overall(told: dict[str, Any], name: str = "flip_rate") -> dict[str, Any]:
    return {kind: told[f"{name}.{kind}"] for kind in KINDS}


def test_words_are_the_facts() -> None:
    told = facts(lambda f: yes(np.zeros(len(f))), nullable=NULLABLE)
    assert {name for name in told if "[" not in name} == {w for w in WORDS if not w.startswith("cases.")}
    assert {name.split("[")[0] for name in told} <= set(WORDS)


def test_a_constant_model_never_flips() -> None:
    told = facts(lambda f: yes(np.full(len(f), 0.3)), nullable=NULLABLE)
    assert set(told.values()) == {0.0}
    still = facts(lambda f: Answers(np.full(len(f), 7.5)), output=NUMBER, nullable=NULLABLE)
    assert set(still.values()) == {0.0}


def test_each_mistake_is_what_it_says() -> None:
    """The frames that the model is shown, kind by kind."""
    seen: list[Any] = []

    def ask(frame: pd.DataFrame) -> Answers:
        seen.append(frame)
        return yes(np.zeros(len(frame)))

    found = perturb(ask, TABLE, infer(TABLE, LABELS, nullable=NULLABLE), measure(TABLE))
    base, shown = seen[0], iter(seen[1:])
    made: dict[tuple[str, str], Any] = {
        (t.kind, t.column): next(shown) for t in found.trials if t.kind not in ("order", "batch")
    }
    pd.testing.assert_frame_equal(base, TABLE)

    def moved(kind: str, column: str) -> np.ndarray:
        others = [c for c in TABLE if c != column]
        pd.testing.assert_frame_equal(made[kind, column][others], base[others])
        return (made[kind, column][column].to_numpy(float) - base[column].to_numpy(float)).round(9)

    deviation, steps = TABLE.delay.std(ddof=0), np.unique(abs(moved("noise", "delay")))
    assert steps == pytest.approx([deviation / 10])
    assert set(moved("noise", "stops")) == {-3.0, 3.0}  # a tenth of 29, whole
    assert made["noise", ""].delay.to_numpy() == pytest.approx(made["noise", "delay"].delay.to_numpy())
    for name in TABLE:
        assert made["missing", name][name].isna().all()
    assert set(made["unseen", "carrier"].carrier) == {"unseen"}
    assert set(made["unseen", "origin"].origin) == {"unseen"}
    assert list(made["unseen", "origin"].origin.cat.categories) == ["JFK", "LGA", "unseen"]
    beyond = made["out_of_range", "delay"].delay
    assert set(beyond.round(6)) == {round(TABLE.delay.max() + deviation, 6), round(TABLE.delay.min() - deviation, 6)}
    stops: Any = made["out_of_range", "stops"].stops
    assert ((stops < 0) | (stops > 99)).all() and stops.dtype == "int64"
    assert (made["swapped", "carrier"].carrier != base.carrier).all()
    assert set(made["swapped", "carrier"].carrier) == {"AA", "B6", "UA"}
    assert (made["swapped", "vip"].vip == ~base.vip).all() and made["swapped", "vip"].vip.dtype == bool
    typos: Any = made["typos", "note"].note
    assert (typos != base.note).all()
    assert (typos.str.len() - base.note.str.len()).isin([0, 1]).all()
    same = typos.str.len() == base.note.str.len()
    assert (typos[same].map(sorted) == base.note[same].map(sorted)).all() and same.sum() > 300
    some = TABLE.stops != 0
    assert (made["units", "stops"].stops.to_numpy() == 1000 * TABLE.stops[some].to_numpy()).all()
    assert {kind for kind, _ in made} == set(KINDS) - {"order", "batch"}
    assert not [pair for pair in made if pair[1] == "at" and pair[0] != "missing"]


def test_flip_rates_of_a_rule() -> None:
    """`delay > 0` is turned by noise exactly where the step crosses 0."""
    step = TABLE.delay.std(ddof=0) / 10
    told = facts(lambda f: yes(f.delay > 0), TABLE[["delay", "carrier"]])
    near = float((abs(TABLE.delay) < step).mean())
    assert near / 4 < told["flip_rate.noise"] < near
    assert told["change.noise"] == 1.0
    assert told["flip_rate.units"] == told["flip_rate.swapped"] == told["flip_rate.typos"] == 0.0
    assert told["flip_rate.out_of_range"] == told["flip_rate.out_of_range[delay]"]
    assert 0.3 < told["flip_rate.out_of_range"] < 0.7


def test_the_worst_column_is_told() -> None:
    told = facts(lambda f: yes(f.carrier == "AA"), TABLE[["delay", "carrier", "origin"]])
    assert told["flip_rate.swapped[origin]"] == 0.0
    share = float((TABLE.carrier == "AA").mean())
    assert told["flip_rate.swapped"] == told["flip_rate.swapped[carrier]"] > share
    assert told["flip_rate.unseen"] == pytest.approx(share)
    assert told["flip_rate.typos[carrier]"] == pytest.approx(share)


def test_change_of_a_regression_is_in_standard_deviations() -> None:
    table = TABLE[["delay", "stops"]]
    told = facts(lambda f: Answers(3.0 * f.delay.to_numpy()), table, NUMBER)
    assert told["change.noise[delay]"] == pytest.approx(0.1)  # the step, for the answer is in proportion
    assert told["change.noise[stops]"] == told["flip_rate.noise[stops]"] == 0.0
    half = facts(lambda f: Answers(f.delay.to_numpy() + 0.99 * 10 * f.vip.to_numpy()), TABLE, NUMBER)
    assert half["flip_rate.swapped[vip]"] == 1.0
    assert half["change.swapped[vip]"] == pytest.approx(9.9 / np.std(TABLE.delay + 9.9 * TABLE.vip))


def test_what_the_contract_refuses_is_no_flip() -> None:
    table = TABLE[["delay", "carrier"]]
    rule: Any = lambda f: yes((f.delay > 0) ^ (f.carrier == "AA"))  # noqa: E731
    free = facts(rule, table)
    low, high = table.delay.min(), table.delay.max()
    strict = infer(table, LABELS, ranges=[f"delay={low - 1}..{high + 1}"], only=["carrier"])
    found = perturb(rule, table, strict, measure(table))
    told, trials = found.facts(), {(t.kind, t.column): t for t in found.trials}
    assert free["flip_rate.unseen"] > 0 < free["flip_rate.out_of_range"]
    for kind in ("unseen", "out_of_range", "missing", "typos"):
        assert told[f"flip_rate.{kind}"] == 0.0
    for pair in (("unseen", "carrier"), ("out_of_range", "delay"), ("missing", "delay"), ("missing", "carrier")):
        assert trials[pair].refused == trials[pair].rows == len(table)
    assert trials["units", "delay"].refused == len(table)
    assert "400" in repr(found).split("refused")[1]


def test_noise_turns_back_at_the_border() -> None:
    table = pd.DataFrame({"x": np.r_[np.zeros(200), np.arange(1.0, 201.0)]})
    contract = infer(table, LABELS, ranges=["x=0.."])
    found = perturb(lambda f: yes(f.x > 0), table, contract, measure(table))
    noise = next(t for t in found.trials if t.kind == "noise")
    assert noise.refused == 0 and noise.flip_rate >= 0.5


def test_a_model_that_raises_has_not_answered() -> None:
    def ask(frame: pd.DataFrame) -> Answers:
        if not set(frame.carrier) <= {"AA", "B6", "UA"}:
            raise ValueError("found unknown categories")
        return yes(frame.delay > 0)

    contract, profile = infer(TABLE, LABELS), measure(TABLE)
    found = perturb(ask, TABLE, contract, profile)
    unseen = next(t for t in found.trials if (t.kind, t.column) == ("unseen", "carrier"))
    assert (unseen.flip_rate, unseen.failed) == (1.0, len(TABLE))
    assert "400 not answered" in repr(found)


def test_failing_rows_are_found_among_others() -> None:
    bad = {17, 18, 250}
    table = pd.DataFrame({"x": np.arange(1.0, 401.0)})

    def ask(frame: pd.DataFrame) -> Answers:
        if any(v / 1000 - 1 in bad for v in frame.x[frame.x >= 1000]):
            raise OverflowError
        return yes(np.zeros(len(frame)))

    found = perturb(ask, table, infer(table, LABELS), measure(table))
    units = next(t for t in found.trials if t.kind == "units")
    assert units.failed == 3 and units.flip_rate == pytest.approx(3 / 400)


def test_a_model_that_cannot_answer_at_all() -> None:
    with pytest.raises(InvalidRequest, match=r"does not answer the rows as they are \(KeyError: 'nothing'\)"):
        facts(lambda f: f["nothing"])
    with pytest.raises(InvalidRequest, match="'maybe', which is none of its labels"):
        facts(lambda f: Answers(np.full(len(f), "maybe")))


def test_a_model_that_looks_at_the_batch() -> None:
    told = facts(lambda f: yes(f.delay > f.delay.mean()))
    assert told["flip_rate.batch"] > 0.3 and told["flip_rate.order"] == 0.0
    soft = facts(lambda f: yes(0.9 + 0.001 * np.tanh(f.delay - f.delay.mean())))  # no label turns, yet it is wrong
    assert soft["flip_rate.batch"] > 0.9 and soft["change.batch"] < 0.01
    number = facts(lambda f: Answers((f.delay - f.delay.mean()).to_numpy()), output=NUMBER)
    assert number["flip_rate.batch"] == 1.0 and number["flip_rate.order"] == 0.0


def test_a_model_that_looks_at_the_order() -> None:
    told = facts(lambda f: yes(np.arange(len(f)) % 2))
    assert 0.3 < told["flip_rate.order"] < 0.7
    filled = TABLE.assign(delay=TABLE.delay.where(TABLE.stops > 50))
    forward = facts(lambda f: yes(f.delay.ffill().fillna(0) > 0), filled)
    assert forward["flip_rate.order"] > 0.1 < forward["flip_rate.batch"]


def test_texts_where_there_is_no_number() -> None:
    table = TABLE[["note"]]
    told = facts(lambda f: Answers(f.note.str.contains("1").map({True: "yes", False: "no"}).to_numpy()), table)
    assert "no numeric column" in told["flip_rate.noise"] and "no numeric column" in told["change.units"]
    assert "no column has known categories" in told["flip_rate.unseen"]
    assert told["change.typos"] == "the model gives no probabilities"
    assert isinstance(told["flip_rate.typos"], float)
    few = facts(lambda f: yes(f.delay > 0), TABLE.iloc[: MINIMUM - 1])
    assert few["flip_rate.noise"] == few["change.noise[delay]"] == f"too few: 19 rows, {MINIMUM} are needed"
    assert few["flip_rate.order"] == few["flip_rate.batch"] == 0.0
    gaps = TABLE.assign(delay=TABLE.delay.where(TABLE.index < 5))[["delay", "stops"]]
    sparse = facts(lambda f: yes(f.stops > 50), gaps)
    assert sparse["flip_rate.units[delay]"].startswith("too few: 5 rows") and sparse["flip_rate.units"] > 0.2


def test_answers_that_are_no_numbers() -> None:
    told = facts(lambda f: Answers(f.delay.to_numpy(float, na_value=np.nan)), TABLE, NUMBER, nullable=NULLABLE)
    assert told["flip_rate.missing[delay]"] == 1.0
    assert told["change.missing"] == told["change.missing[delay]"] == "some answers are no numbers"
    flat = facts(lambda f: Answers(np.where(f.delay.isna(), 1.0, 0.0)), TABLE, NUMBER, nullable=NULLABLE)
    assert flat["flip_rate.missing"] == 1.0 and "all predictions are the same" in flat["change.missing"]


def test_rows_that_are_not_legal() -> None:
    contract, profile = infer(TABLE, LABELS), measure(TABLE)
    with pytest.raises(ContractViolated, match="delay: is missing"):
        perturb(lambda f: yes(f.delay), TABLE.assign(delay=np.nan), contract, profile)
    with pytest.raises(ContractViolated, match="no rows"):
        perturb(lambda f: yes(f.delay), TABLE.head(0), contract, profile)
    with pytest.raises(InvalidRequest, match="at least 1"):
        perturb(lambda f: yes(f.delay), TABLE, contract, profile, rows=0)


def test_strange_dtypes_and_indexes() -> None:
    strange = pd.DataFrame(
        {
            "i8": pd.array(RNG.integers(-100, 100, 60), dtype="int8"),
            "big": pd.array([2**60 + i for i in range(60)], dtype="int64"),
            "gap": pd.array([None, *range(59)], dtype="Int64"),
            "f32": np.linspace(-1e38, 1e38, 60).astype("float32"),
            "obj": pd.Series(["a", None, "b"] * 20, dtype=object),
            "codes": pd.Categorical([1, 2, 3] * 20),
            "flag": pd.array([True, None, False] * 20, dtype="boolean"),
            "same": 5.0,
            "zone": pd.date_range("2020", periods=60, tz="Europe/Berlin"),
        },
        index=[0] * 60,
    )
    contract = infer(strange, LABELS)

    def ask(frame: pd.DataFrame) -> Answers:
        exact = contract.require(frame)
        return yes((exact["big"] % 2 == 0).to_numpy(bool))

    found = perturb(ask, strange, contract, measure(strange))
    trials = {(t.kind, t.column): t for t in found.trials}
    assert trials["units", "i8"].refused > 50  # an int8 cannot hold it
    assert trials["units", "f32"].refused > 0  # nor a float32 this
    assert trials["missing", "big"].refused == 60 and trials["missing", "gap"].rows == 59
    assert trials["swapped", "codes"].rows == 60 and trials["unseen", "codes"].rows == 60
    assert sum(t.failed for t in found.trials) == 0
    assert ("noise", "same") not in trials and ("out_of_range", "same") in trials
    json.loads(found.to_json())


HASH: Any = vars(pd)["util"].hash_pandas_object
VALUES = {
    "float": st.floats(-1e6, 1e6),
    "int": st.integers(-1000, 1000),
    "bool": st.booleans(),
    "string": st.text(st.characters(codec="utf-8"), max_size=5),
}


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4))
    rows = draw(st.integers(1, 30))
    columns = {}
    for i, kind in enumerate(kinds):
        values: list[Any] = draw(st.lists(VALUES[kind], min_size=rows, max_size=rows))
        if draw(st.booleans()):
            values = [None if draw(st.booleans()) else v for v in values]
        dtype = {"float": "float64", "int": "Int64", "bool": "boolean", "string": "str"}[kind]
        columns[f"x{i}"] = pd.array(values, dtype=dtype)
    return pd.DataFrame(columns)


@settings(max_examples=60)
@given(tables(), st.booleans())
def test_any_table(table: pd.DataFrame, regression: bool) -> None:
    """Whatever the table: only legal rows are asked, rates are shares, and it ends in JSON."""
    contract = infer(table, NUMBER if regression else LABELS)

    def ask(frame: pd.DataFrame) -> Answers:
        assert contract.check(frame) == []
        exact = contract.require(frame)
        chance = HASH(exact, index=False).to_numpy() / 2.0**64
        return Answers(chance) if regression else yes(chance)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = perturb(ask, table, contract, measure(table))
    assert all(0 <= t.flip_rate <= 1 and t.refused + t.failed <= t.rows and not t.failed for t in found.trials)
    told = found.facts()
    assert told["flip_rate.order"] == told["flip_rate.batch"] == 0.0
    assert all(v or isinstance(v, float) for v in told.values())
    assert Robustness.from_dict(json.loads(found.to_json())) == found
    assert repr(found) and found._repr_html_() and all(map(repr, found.plots()))


def test_flights_twice() -> None:
    model, frame = good(), flights(3, 3000)[COLUMNS]
    contract, profile = infer(frame, describe_output(model, frame)), measure(frame)

    def ask(rows: pd.DataFrame) -> Answers:
        return answer(model, contract, contract.require(rows))

    found = perturb(ask, frame, contract, profile)
    assert found == perturb(ask, frame, contract, profile) and found.rows == 1000
    told: dict[str, Any] = found.facts()
    assert told["flip_rate.noise"] < 0.1 and told["flip_rate.order"] == told["flip_rate.batch"] == 0.0
    assert told["flip_rate.units[hour]"] > 0.1  # the logistic model has a little weight on the hour
    assert told["flip_rate.swapped[carrier]"] < 0.2
    bars = found.plots()[0].series["flip rate"]
    assert bars[0] == KINDS and bars[1][0] == told["flip_rate.noise"]


# edge cases

FLIGHTS: Contract = infer(
    pd.DataFrame({"delay": [0.0, 30.0], "hour": [5, 23], "carrier": ["AA", "UA"]}),
    LABELS,
    ranges=["delay=-60..1500", "hour=0..23"],
)


def late(frame: pd.DataFrame) -> Answers:
    assert FLIGHTS.check(frame) == []
    return yes(frame.delay > 15)


def test_cases_that_hold_and_one_that_does_not() -> None:
    table = pd.DataFrame(
        {
            "delay": [240.0, -5.0, 3.0, 20.0, np.nan],
            "hour": [12, 9, 25, 12, 3],
            "carrier": ["AA", "UA", "AA", "DL", "AA"],
            "expected": ["yes", "no", "refused", "no", "refused"],
            "note": ["late", None, "no hour 25", "twenty minutes", ""],
        }
    )
    found = cases(late, table, FLIGHTS)
    assert found.facts() == {"cases.failed": 1.0, "cases.share": 0.8}
    assert set(found.facts()) <= set(WORDS)
    (failed,) = found.failed
    assert (failed.row, failed.case, failed.expected, failed.answered) == (3, "twenty minutes", "no", "yes")
    assert "4 of 5 cases hold" in repr(found) and json.loads(found.to_json())["failed"]


def test_cases_that_should_be_refused_and_are_not() -> None:
    table = pd.DataFrame({"delay": [240.0, 2000.0], "hour": [1, 2], "carrier": "AA", "expected": ["refused", "yes"]})
    found = cases(late, table, FLIGHTS)
    assert [(c.expected, c.answered) for c in found.failed] == [("refused", "yes"), ("yes", "refused")]
    assert found.failed[0].case == "delay=240, hour=1, carrier=AA"


def test_a_value_of_the_wrong_type_is_refused_in_its_row_only() -> None:
    table = pd.DataFrame(
        {"delay": ["soon", 20.0], "hour": [1, 2], "carrier": ["AA", "AA"], "expected": ["refused", "yes"]}
    )
    assert cases(late, table, FLIGHTS).failed == ()


def test_cases_from_a_csv(tmp_path: Any) -> None:
    contract = infer(
        pd.DataFrame({"code": ["007", "42"], "at": pd.to_datetime(["2013-01-01", "2013-01-02"]), "ok": [True, False]}),
        Output("classification", (0, 1), "int"),
    )
    path = tmp_path / "x.cases.csv"
    path.write_text(
        "code,at,ok,expected\n7,2013-01-01,true,1\n42,2013-01-05T10:00:00,FALSE,0.0\n1,never,true,refused\n"
    )

    def ask(frame: pd.DataFrame) -> Answers:
        assert str(frame["at"].dtype).startswith("datetime64") and frame.ok.dtype == bool
        return Answers(frame.ok.to_numpy().astype(int))

    assert cases(ask, pd.read_csv(path), contract).failed == ()


def test_cases_of_a_regression_have_a_tolerance() -> None:
    contract = infer(pd.DataFrame({"x": [0.0, 1.0]}), NUMBER)
    table = pd.DataFrame(
        {"x": [1.0, 2.0, 3.0, 4.0], "expected": [2.0, 4.0 + 1e-9, 6.5, 8.5], "tolerance": [None, None, 0.5, 0.4]}
    )
    found = cases(lambda f: Answers(2 * f.x.to_numpy()), table, contract)
    assert [(c.row, c.expected, c.answered) for c in found.failed] == [(3, "8.5", "8")]
    nan = cases(lambda f: Answers(np.full(len(f), np.nan)), table, contract)
    assert nan.facts()["cases.share"] == 0.0


@pytest.mark.parametrize(
    ("labels", "said", "expected"),
    [
        ((False, True), True, "True"),
        ((False, True), True, "true"),
        ((False, True), True, True),
        ((0, 1), 1, "1"),
        ((0, 1), 1, 1.0),
        (("1", "1.0"), "1.0", "1.0"),
        (("refused", "granted"), "refused", "refused"),
    ],
)
def test_labels_as_a_csv_has_them(labels: tuple[Any, ...], said: Any, expected: Any) -> None:
    contract = infer(pd.DataFrame({"x": [0.0, 1.0]}), Output("classification", labels, "int"))
    table = pd.DataFrame({"x": [1.0], "expected": pd.Series([expected], dtype=object)})
    other = next(label for label in labels if label != said)
    assert cases(lambda f: Answers(np.array([said])), table, contract).failed == ()
    assert len(cases(lambda f: Answers(np.array([other])), table, contract).failed) == 1


def test_a_model_that_raises_on_some_cases() -> None:
    def ask(frame: pd.DataFrame) -> Answers:
        if (frame.hour == 7).any():
            raise ZeroDivisionError
        return late(frame)

    table = pd.DataFrame({"delay": 0.0, "hour": np.arange(20) % 10, "carrier": "AA", "expected": "no"})
    found = cases(ask, table, FLIGHTS)
    assert [(c.row, c.answered) for c in found.failed] == [(r, "the model raised an error") for r in (7, 17)]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"delay": [1.0], "hour": [1], "carrier": ["AA"]}, "need a column 'expected'"),
        (
            {"delay": [1.0], "hour": [1], "carrier": ["AA"], "expected": ["ye"]},
            "row 0 expects 'ye'.*Did you mean 'yes'",
        ),
        ({"delay": [1.0], "hour": [1], "carrier": ["AA"], "expected": [None]}, "row 0 expects None"),
        ({"delay": [1.0], "hour": [1], "expected": ["no"]}, "carrier: is not there"),
        ({"delay": [1.0], "hour": [1], "carrier": ["AA"], "day": [1], "expected": ["no"]}, "day: is no column"),
        ({"delay": [], "hour": [], "carrier": [], "expected": []}, "no rows"),
        (
            {"delay": [1.0], "hour": [1], "carrier": ["AA"], "expected": ["no"], "tolerance": ["much"]},
            "value that is no number",
        ),
        ({"delay": [1.0], "hour": [1], "carrier": ["AA"], "expected": ["no"], "tolerance": [-1]}, "a tolerance is -1"),
    ],
)
def test_tables_of_cases_that_make_no_sense(table: dict[str, Any], told: str) -> None:
    with pytest.raises((InvalidRequest, ContractViolated), match=told):
        cases(late, pd.DataFrame(table), FLIGHTS)


def test_a_regression_cannot_expect_a_word() -> None:
    contract = infer(pd.DataFrame({"x": [0.0, 1.0]}), NUMBER)
    for value in ("many", None, np.inf):
        with pytest.raises(InvalidRequest, match="Write a number, or refused"):
            cases(lambda f: Answers(f.x.to_numpy()), pd.DataFrame({"x": [1.0], "expected": [value]}), contract)
