"""The contract against random frames and hostile JSON: exact on the way there and back, complete about faults."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Literal

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy_ext.column import Column, close, describe, judge, limit, scan
from deploy_ext.contract import Contract, Fault, as_frame, infer
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.output import Output
from deploy_ext.values import short

OUTPUT = Output("classification", (0, 1), "int", True)
WORDS = st.text(st.characters(codec="utf-8"), max_size=5)
MOMENTS = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def floats(width: Literal[32, 64] = 64):
    return st.floats(allow_nan=False, allow_infinity=False, width=width)


def ints(bits, unsigned=False):
    return st.integers(0, 2**bits - 1) if unsigned else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


# dtype, its values, and what a gap is (... means that the column holds none)
KINDS = [
    ("float64", floats(), np.nan),
    ("float32", floats(32), np.nan),
    ("Float64", floats(), None),
    ("int64", ints(64), ...),
    ("int8", ints(8), ...),
    ("uint64", ints(64, unsigned=True), ...),
    ("Int64", ints(64), None),
    ("UInt8", ints(8, unsigned=True), None),
    ("bool", st.booleans(), ...),
    ("boolean", st.booleans(), None),
    ("object", st.booleans(), None),
    ("str", WORDS, None),
    ("string", WORDS, None),
    ("object", WORDS, None),
    ("object", WORDS, np.nan),
    ("datetime64[us]", MOMENTS, None),
    ("datetime64[ns]", MOMENTS, None),
    ("datetime64[s]", MOMENTS.map(lambda m: m.replace(microsecond=0)), None),
    ("datetime64[us, UTC]", MOMENTS.map(lambda m: m.replace(tzinfo=UTC)), None),
    ("datetime64[ns, America/New_York]", MOMENTS.map(lambda m: m.replace(tzinfo=UTC)), None),
    ("int64[pyarrow]", ints(64), None),
]
CATEGORIES = [("str", WORDS), ("object", WORDS), ("int64", ints(64)), ("bool", st.booleans()), ("float64", floats())]
CATEGORIES += [("datetime64[us]", MOMENTS)]


@st.composite
def plain_columns(draw, rows):
    dtype, values, gap = draw(st.sampled_from(KINDS))
    cells = draw(st.lists(values, min_size=rows, max_size=rows))
    if gap is not ... and rows > 1:  # one value stays: an object column of gaps alone has no type
        cells[1:] = [gap if draw(st.booleans()) else c for c in cells[1:]]
    return pd.Series(cells, dtype=dtype)


@st.composite
def category_columns(draw, rows):
    dtype, values = draw(st.sampled_from(CATEGORIES))
    known = pd.Index(draw(st.lists(values, min_size=1, max_size=4, unique=True)), dtype=dtype)
    codes = draw(st.lists(st.integers(-1, len(known) - 1), min_size=rows, max_size=rows))
    return pd.Series(pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(known, draw(st.booleans()))))


@st.composite
def frames(draw):
    rows = draw(st.integers(1, 8))
    names = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    repeat = draw(st.sampled_from([1, 1, 8]))  # 32 rows and more take the quick pass
    columns = {n: draw(st.one_of(plain_columns(rows), category_columns(rows))) for n in names}
    return pd.concat([pd.DataFrame(columns)] * repeat, ignore_index=True)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    WORDS,
    st.sampled_from(
        ["\ud800", "NaN", "2013-02-30", "2013-01-01", "2013-01-01T05:00:00Z", "2013-01-01 05:00:00.123456789"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(WORDS, st.integers(), max_size=1),
)


@QUICK
@given(frames())
def test_what_training_saw_passes_and_comes_back_exactly(frame):
    contract = infer(frame, OUTPUT)
    assert Contract.from_dict(json.loads(contract.to_json())) == contract
    assert contract.check(frame) == []
    assert contract.flags(frame) == []
    pd.testing.assert_frame_equal(contract.require(frame), frame)
    sent = json.loads(json.dumps(contract.rows(frame), allow_nan=False))
    assert contract.check(sent) == []
    assert contract.flags(sent) == []
    back = contract.rebuild(sent)
    pd.testing.assert_frame_equal(back, frame)
    for name in frame:
        if frame[name].dtype == object:  # assert_frame_equal takes None and nan for the same
            assert [type(v) for v in back[name]] == [type(v) for v in frame[name]]


@QUICK
@given(frames(), st.data())
def test_every_fault_of_any_json_is_found_and_what_passes_can_be_rebuilt(frame, data):
    contract = infer(frame, OUTPUT)
    rows = data.draw(st.sampled_from([1, 3, 40]))
    cells = {c.name: data.draw(st.lists(JUNK, min_size=3, max_size=3)) for c in contract.columns}
    sent = {n: (v * 14)[:rows] for n, v in cells.items()}
    faults = contract.check(sent)
    told = {(f.column, f.row, f.problem) for f in faults}
    expected = {
        (c.name, row, problem)
        for c in contract.columns
        for row, value in enumerate(sent[c.name])
        if (problem := judge(c, value, c.law))
    }
    assert told == expected
    assert len(faults) == len(told)
    json.dumps([f.to_dict() for f in faults], ensure_ascii=False, allow_nan=False).encode()
    faulty = {row for _, row, _ in told}
    if legal := [row for row in range(rows) if row not in faulty]:
        kept = contract.rebuild({n: [v[row] for row in legal] for n, v in sent.items()})
        assert len(kept) == len(legal)
        unseen = {c.name for c in contract.columns if c.type == "category"}  # became missing, as documented
        assert [f for f in contract.check(kept) if not (f.column in unseen and f.problem == "is missing")] == []


@QUICK
@given(frames(), frames())
def test_the_quick_pass_over_a_foreign_column_agrees_with_judging_each_value(frame, other):
    column = describe(frame.iloc[:, 0])
    foreign = other.iloc[:, 0]
    for bounds in (column.law, column.seen):
        values = foreign.astype(object).where(foreign.notna(), None).tolist()
        one_by_one = [(i, p) for i, v in enumerate(values) if (p := judge(column, v, bounds))]
        assert [(i, p) for i, _, p in scan(column, foreign, bounds)] == one_by_one
        assert [(i, p) for i, _, p in scan(column, values, bounds)] == one_by_one


@QUICK
@given(frames(), st.data())
def test_the_json_schema_says_the_same_as_the_check(frame, data):
    contract = infer(frame, OUTPUT)
    columns = [c for c in contract.columns if c.kind[0] in ("int", "bool", "string")]
    validator = jsonschema.Draft202012Validator(contract.json_schema())
    row = {n: v[0] for n, v in contract.rows(frame).items()}
    assert validator.is_valid(row)
    for column in columns:
        value = data.draw(JUNK.filter(lambda v: v == v and v not in (float("inf"), -float("inf"), "\ud800")))
        legal = contract.check({n: [value if n == column.name else v] for n, v in row.items()}) == []
        assert validator.is_valid({**row, column.name: value}) == legal


@given(st.recursive(JUNK, lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_a_quotation_is_short_and_can_be_sent(value):
    quoted = short(value)
    assert len(json.dumps(quoted, allow_nan=False, ensure_ascii=False).encode()) < 400
    assert len(str(quoted)) <= 60


FLIGHTS = pd.DataFrame(
    {
        "dep_delay": [2.0, None, -6.0],
        "distance": [1400, 94, 1416],
        "carrier": ["UA", "UA", "AA"],
        "origin": pd.Categorical(["EWR", "JFK", "EWR"]),
        "time_hour": pd.to_datetime(["2013-01-01 05:00", "2013-01-01 06:00", "2013-12-31 23:00"]),
    }
)


def one(**cells):
    row = {
        "dep_delay": 1.0,
        "distance": 100,
        "carrier": "UA",
        "origin": "JFK",
        "time_hour": "2013-06-01T00:00:00",
    }
    return {n: [v] for n, v in (row | cells).items()}


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("dep_delay", True, "is not a number"),
        ("dep_delay", "NaN", "is not a number"),
        ("dep_delay", "5", "is not a number"),
        ("dep_delay", float("inf"), "is not a finite number"),
        ("dep_delay", 10**400, "is too large a number"),
        ("dep_delay", [1.0], "is not a number"),
        ("dep_delay", 1, None),
        ("dep_delay", None, None),
        ("dep_delay", float("nan"), None),
        ("distance", True, "is not a whole number"),
        ("distance", 1.0, None),
        ("distance", 1.5, "is not a whole number"),
        ("distance", 10**400, "is outside of"),
        ("distance", 2**63, "is outside of"),
        ("distance", float("inf"), "is not a whole number"),
        ("distance", None, "is missing"),
        ("carrier", 5, "is not text"),
        ("carrier", {}, "is not text"),
        ("carrier", "\ud800", "is not valid Unicode text"),
        ("carrier", "ZZ", None),
        ("origin", "LGA", None),
        ("origin", 1, "is not text"),
        ("time_hour", "2013-06-01", None),
        ("time_hour", "2013-06-01 05:00", None),
        ("time_hour", "2013-06-01T05:00:00Z", "has a time zone"),
        ("time_hour", "2013-13-01", "is not an ISO date and time"),
        ("time_hour", "0000-01-01", "is not an ISO date and time"),
        ("time_hour", 1356998400, "is not an ISO date and time"),
    ],
)
def test_one_value(column, value, problem):
    contract = infer(FLIGHTS, OUTPUT)
    faults = contract.check(one(**{column: value}))
    if problem is None:
        assert faults == []
        assert contract.require(one(**{column: value})).dtypes.tolist() == FLIGHTS.dtypes.tolist()
    else:
        assert [(f.row, f.column) for f in faults] == [(0, column)]
        assert faults[0].problem.startswith(problem)


def test_a_zone_is_needed_where_training_had_one():
    contract = infer(FLIGHTS.assign(time_hour=FLIGHTS["time_hour"].dt.tz_localize("America/New_York")), OUTPUT)
    assert "needs a time zone" in contract.check(one(time_hour="2013-06-01T05:00:00"))[0].problem
    frame = contract.require(one(time_hour="2013-06-01T09:00:00Z"))
    assert frame["time_hour"][0] == pd.Timestamp("2013-06-01 05:00", tz="America/New_York")
    assert str(frame["time_hour"].dtype) == "datetime64[us, America/New_York]"


def test_missing_extra_and_ragged_columns_are_all_told():
    contract = infer(FLIGHTS, OUTPUT, target="late")
    sent = {"dep_delay": [1.0, 2.0], "distanse": [3], "late": [0, 1], "carrier": "UA", "origin": [], 5: [1, 2]}
    told = [str(f) for f in contract.check(sent)]
    for expected in (
        "distance: is not there",
        "time_hour: is not there",
        "Did you mean 'distance'?",
        "late: is the target",
        "carrier: 'UA' is no list of values",
        "distanse: has 1 values, where others have 2",
        "origin: has 0 values",
        "5: is no column",
    ):
        assert any(expected in t for t in told), expected
    assert [f.problem for f in contract.check({})][-1] == "there are no rows; give at least one"


def test_a_reordered_frame_is_realigned_and_keeps_its_index():
    contract = infer(FLIGHTS, OUTPUT)
    shuffled = FLIGHTS[FLIGHTS.columns[::-1]].set_axis(["a", "b", "c"])
    pd.testing.assert_frame_equal(contract.require(shuffled), FLIGHTS.set_axis(["a", "b", "c"]))


def test_frames_of_other_dtypes_become_the_training_dtypes():
    contract = infer(FLIGHTS.assign(gap=pd.Series([1, None, 3], dtype="Int64")), OUTPUT)
    given_ = pd.DataFrame(
        {
            "dep_delay": [1, 2],
            "distance": [1.0, 2.0],
            "carrier": pd.Categorical(["UA", "ZZ"]),
            "origin": ["EWR", "LGA"],
            "time_hour": ["2013-01-01", "2013-01-02T05:00:00"],
            "gap": [1.0, None],
        }
    )
    frame = contract.require(given_)
    assert frame.dtypes.tolist()[:-1] == FLIGHTS.dtypes.tolist()
    assert str(frame["gap"].dtype) == "Int64"
    assert frame["origin"].isna().tolist() == [False, True]  # a category training did not see becomes missing ...
    assert Fault(1, "origin", "is none of the 2 known values", "LGA") in contract.flags(given_)  # ... and is flagged
    assert contract.check(given_.assign(distance=[1.5, None]))[0].problem == "is not a whole number"
    assert len(contract.check(given_.assign(distance=[1.5, None]))) == 2


def test_the_message_is_short_and_the_faults_are_all_there():
    contract = infer(FLIGHTS, OUTPUT)
    many = pd.concat([FLIGHTS] * 5000, ignore_index=True).assign(distance="far")
    with pytest.raises(ContractViolated) as e:
        contract.require(many)
    assert len(str(e.value)) < 300
    assert "and 14,997 more" in str(e.value)
    assert [f.row for f in e.value.faults] == list(range(15_000))
    assert e.value.exit_code == 4


def test_law_and_what_was_seen_are_kept_apart():
    ranges = ["dep_delay=-60..600", "distance=0..", "time_hour=2013-01-01..2014-01-01"]
    contract = infer(FLIGHTS, OUTPUT, ranges=ranges, only=["carrier"])
    assert contract.check(one(dep_delay=600, distance=0)) == []
    assert [f.problem for f in contract.check(one(dep_delay=-61))] == ["is below -60"]
    assert [f.problem for f in contract.check(one(distance=-1))] == ["is below 0"]
    assert [f.problem for f in contract.check(one(carrier="ZZ"))] == ["is none of the 2 known values"]
    assert contract.check(one(time_hour="2014-01-02"))[0].problem.startswith("is above 2014-01-01")
    assert [f.problem for f in contract.flags(one(dep_delay=3))] == ["is above 2"]
    assert contract.flags(one(dep_delay=-61)) == []  # illegal, so not merely unusual
    assert [c.enforce for c in contract.columns] == [True, True, True, False, True]
    schema = contract.json_schema()["properties"]
    assert (schema["dep_delay"]["minimum"], schema["dep_delay"]["maximum"]) == (-60, 600)
    assert schema["carrier"]["enum"] == ["AA", "UA"]


def test_a_range_may_exclude_training_rows():
    contract = infer(FLIGHTS, OUTPUT, ranges=["distance=100.."])
    assert [(f.row, f.value) for f in contract.check(FLIGHTS)] == [(1, 94)]
    pd.testing.assert_frame_equal(contract.legal(FLIGHTS), FLIGHTS.iloc[[0, 2]])
    with pytest.raises(ContractViolated, match="is below 100"):
        contract.legal(FLIGHTS[1:2])
    array = np.array([[1.0], [5.0]])
    assert infer(array, OUTPUT, ranges=["x0=..2"]).legal(array).tolist() == [[1.0]]


def test_nullable_by_declaration_takes_the_nullable_dtype_only_when_it_must():
    contract = infer(FLIGHTS.assign(night=[True, False, True]), OUTPUT, nullable=["distance", "night"])
    full, gap = one(night=True), one(night=None, distance=None)
    assert contract.require(full)["distance"].dtype == "int64"
    assert contract.require(full)["night"].dtype == "bool"
    assert contract.require(gap)["distance"].dtype == "Int64"
    assert contract.require(gap)["night"].dtype == "boolean"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": ["dep_dely=0..1"]}, "Did you mean 'dep_delay'?"),
        ({"only": ["carier"]}, "Did you mean 'carrier'?"),
        ({"nullable": ["orgin"]}, "Did you mean 'origin'?"),
        ({"ranges": ["dep_delay"]}, "Write COLUMN=LOW..HIGH"),
        ({"ranges": ["dep_delay=.."]}, "Write dep_delay=-60..600"),
        ({"ranges": ["dep_delay=5"]}, "Write dep_delay=-60..600"),
        ({"ranges": ["dep_delay=a..b"]}, "Write dep_delay=-60..600"),
        ({"ranges": ["dep_delay=nan..1"]}, "is not a finite number"),
        ({"ranges": ["dep_delay=9..1"]}, "the low is above the high"),
        ({"ranges": ["carrier=AA..ZZ"]}, "Use --only carrier"),
        ({"ranges": ["time_hour=1..2"]}, "Write time_hour=2013-01-01..2013-12-31"),
        ({"only": ["dep_delay"]}, "Use --range dep_delay=LOW..HIGH"),
    ],
)
def test_a_mistyped_law_names_the_way_out(options, message):
    with pytest.raises(InvalidRequest) as e:
        infer(FLIGHTS, OUTPUT, **options)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_whole_numbers_can_be_closed_too():
    column = close(describe(pd.Series([1, 2, 12], name="month"), closed=True))
    assert column.categories == (1, 2, 12)
    assert judge(column, 3, column.law) == "is none of the 3 known values"
    assert [row for row, _, _ in scan(column, [1, 3] * 50, column.law)] == list(range(1, 100, 2))
    assert limit(column, "0.5..").law.low == 0.5


@pytest.mark.parametrize("texts", [["ada", "bob"], ["x" * 100] * 3, [f"N{i % 201}" for i in range(999)]])
def test_names_and_free_text_do_not_go_into_the_contract(texts):
    assert infer(pd.DataFrame({"who": texts}), OUTPUT).columns[0].categories is None


def test_free_text_keeps_no_set_unless_it_is_closed():
    many = pd.DataFrame({"tailnum": [f"N{i}" for i in range(201)]})
    assert infer(many, OUTPUT).columns[0].categories is None
    closed = infer(many, OUTPUT, only=["tailnum"])
    assert len(closed.columns[0].categories or ()) == 201
    assert len(closed.check({"tailnum": ["N1", "N999"]})) == 1


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (FLIGHTS[["carrier", "carrier"]], "stands more than once"),
        (FLIGHTS[:0], "the table has no rows"),
        (FLIGHTS[[]], "the table has no columns"),
        (pd.DataFrame(np.ones((2, 2))), "is no text but int"),
        (pd.DataFrame({("a", "b"): [1]}), "is no text but tuple"),
        (FLIGHTS.assign(x=pd.Timedelta("1h")), ".dt.total_seconds()"),
        (FLIGHTS.assign(x=pd.Period("2013-01", "M")), ".dt.to_timestamp()"),
        (FLIGHTS.assign(x=pd.Series(["a", 1, None], dtype=object)), ".astype(str)"),
        (FLIGHTS.assign(x=pd.Series([None] * 3, dtype=object)), "holds empty values"),
        (FLIGHTS.assign(x=1j), "complex"),
        (FLIGHTS.assign(x=pd.arrays.SparseArray([0.0, 1.0, 0.0])), ".sparse.to_dense()"),
        (FLIGHTS.assign(x=pd.cut([1, 2, 3], 2)), ".astype(str)"),
        (FLIGHTS.assign(x=[1.0, float("inf"), 2.0]), "not a finite number"),
    ],
)
def test_data_that_no_contract_can_be_made_of(data, problem):
    with pytest.raises(ContractViolated) as e:
        infer(data, OUTPUT)
    assert problem in str(e.value)
    assert "\n" not in str(e.value)


def test_all_columns_that_cannot_be_described_are_named_at_once():
    with pytest.raises(ContractViolated) as e:
        infer(FLIGHTS.assign(a=pd.Timedelta("1h"), b=1j), OUTPUT)
    assert [f.column for f in e.value.faults] == ["a", "b"]


@pytest.mark.parametrize("data", [5, "text", None, np.ones(3), np.ones((2, 2, 2)), [[1], [2, 3]], [1.0, 2.0]])
def test_what_is_no_table(data):
    with pytest.raises(InvalidRequest):
        as_frame(data)


@pytest.mark.parametrize(
    "data",
    [
        np.arange(6.0).reshape(3, 2),
        np.array([[1, 2]], dtype="float32"),
        np.array([[np.nan, 2]], dtype="float32"),
        np.array([[1, 2]]),
        np.array([[True, False]]),
        np.array([["a", 1], ["b", 2]], dtype=object),
        pd.Series(["a", "b"], name="text"),
        pd.Series(["a", None], name="text", dtype=object),
        pd.Series([1.5, 2.5], name="x"),
    ],
    ids=str,
)
def test_arrays_and_series_come_back_as_they_were(data):
    contract = infer(data, OUTPUT)
    assert contract.check(data) == []
    for back in (contract.require(data), contract.rebuild(json.loads(json.dumps(contract.rows(data))))):
        if isinstance(data, pd.Series):
            pd.testing.assert_series_equal(back, data)
        else:
            np.testing.assert_array_equal(back, data)
            assert back.dtype == data.dtype


def test_lists_of_dicts_and_arrow_tables_are_frames():
    import pyarrow

    contract = infer(FLIGHTS, OUTPUT)
    assert contract.check(pyarrow.Table.from_pandas(FLIGHTS[["carrier", "distance"]]))[0].problem.startswith(
        "is not there"
    )
    assert infer(FLIGHTS.to_dict("records"), OUTPUT).container == "frame"


def test_a_csv_read_becomes_what_training_had(tmp_path):
    extra = {
        "night": [True, None, False],
        "flight": ["1545", "12", "7"],
        "stops": pd.Series([1, None, 2], dtype="Int64"),
    }
    frame = FLIGHTS.assign(**extra)
    frame["night"] = frame["night"].astype("boolean")
    contract = infer(frame, OUTPUT)
    frame.to_csv(tmp_path / "flights.csv", index=False)
    read = pd.read_csv(tmp_path / "flights.csv")
    pd.testing.assert_frame_equal(contract.require(contract.coerce(read)), frame)


def test_a_csv_with_one_bad_cell_names_that_cell_only(tmp_path):
    contract = infer(FLIGHTS, OUTPUT)
    text = FLIGHTS.astype({"distance": object}).assign(distance=["1400", "n/a?", "94"])
    text.to_csv(tmp_path / "flights.csv", index=False)
    faults = contract.check(contract.coerce(pd.read_csv(tmp_path / "flights.csv")))
    assert [(f.row, f.column, f.value) for f in faults] == [(1, "distance", "n/a?")]


def test_wide_and_long_frames():
    wide = pd.DataFrame(np.ones((1, 500)), columns=[f"c{i}" for i in range(500)])
    contract = infer(wide, OUTPUT)
    row = contract.rows(wide)
    assert contract.check(row) == []
    contract.rebuild(row)
    long = pd.concat([FLIGHTS] * 33_000, ignore_index=True)
    long = pd.concat([long.add_suffix(f"_{i}") for i in range(4)], axis=1)
    contract = infer(long, OUTPUT)
    assert contract.check(long) == []


def test_checking_json_imports_no_pandas(tmp_path):
    (tmp_path / "contract.json").write_text(infer(FLIGHTS, OUTPUT, ranges=["dep_delay=0.."]).to_json())
    code = (
        "import json, sys; from pathlib import Path; from deploy_ext.contract import Contract\n"
        f"contract = Contract.from_dict(json.loads(Path({str(tmp_path / 'contract.json')!r}).read_text()))\n"
        "rows = {'dep_delay': [-1] * 50, 'distance': [1.5] * 50, 'carrier': ['ZZ'] * 50, 'origin': [1] * 50,"
        " 'time_hour': ['x'] * 50}\n"
        "faults = contract.check(rows); contract.flags(rows); contract.json_schema()\n"
        "print(len(faults), [m for m in ('pandas', 'sklearn', 'mlflow', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "200 []"


def test_a_contract_of_a_later_format_is_refused():
    written = infer(FLIGHTS, OUTPUT).to_dict()
    with pytest.raises(InvalidRequest, match="Upgrade deploy_ext"):
        Contract.from_dict({**written, "format": 2})
    assert Contract.from_dict({**written, "later": 1}) == infer(FLIGHTS, OUTPUT)


def test_a_column_shows_what_was_seen_and_what_is_law():
    shown = repr(infer(FLIGHTS, OUTPUT, ranges=["dep_delay=-60..600"], only=["carrier"]))
    assert "frame of 5 columns -> classification (0, 1) with probabilities" in shown
    assert "-60 .. 600" in shown
    assert "only these" in shown
    assert "<table>" in Column("x", "float", "float64")._repr_html_()


# the quick look


@QUICK
@given(frames(), st.data())
def test_what_is_familiar_has_neither_fault_nor_flag(frame, data):
    contract = infer(frame, OUTPUT, nullable=data.draw(st.lists(st.sampled_from(list(frame.columns)), max_size=2)))
    columns = contract.rows(frame)
    for name in data.draw(st.lists(st.sampled_from(list(columns)), max_size=2)):
        columns[name][data.draw(st.integers(0, len(frame) - 1))] = data.draw(JUNK | st.sampled_from(columns[name]))
    if contract.familiar(columns):
        assert contract.check(columns) == [] and contract.flags(columns) == []


def test_rows_as_training_saw_them_are_familiar():
    frame = pd.DataFrame({"a": [1.0, None], "b": [1, 2], "c": ["x", "y"], "d": [True, False]})
    frame = pd.concat([frame] * 2, ignore_index=True)
    assert infer(frame, OUTPUT).familiar(infer(frame, OUTPUT).rows(frame))
