"""Files that are scored in streams: the same answers as the model's own, whatever breaks off, and nothing half made."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stories
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

import deploy_ext
from deploy_ext.batch import Order, Scoring, _asker, _listed, rows_at_once, score_file, score_files
from deploy_ext.cli import run
from deploy_ext.contract import infer
from deploy_ext.core import ContractViolated, DeployError, InvalidRequest, VerificationFailed
from deploy_ext.making import make
from deploy_ext.output import describe_output, names
from deploy_ext.parts import folder_of, told_by
from deploy_ext.serve.runtime import borrow
from deploy_ext.stream import _after, _cut, open_stream, pairs
from deploy_ext.values import wire

RNG = np.random.default_rng(0)
ROWS = 3000
FRAME = pd.DataFrame(
    {
        "dep_delay": RNG.normal(10, 25, ROWS).round(1),
        "hour": RNG.integers(5, 24, ROWS),
        "carrier": RNG.choice(["AA", "B6", "UA"], ROWS),
        "weekend": RNG.random(ROWS) < 0.3,
    }
)
LATE = FRAME.dep_delay + 8 * (FRAME.carrier == "B6") > 15
THREE = pd.Series(np.select([FRAME.dep_delay > 30, FRAME.dep_delay > 0], ["late", "a little"], "on time"), name="how")


def pipe(model: Any) -> Any:
    """A model behind an encoder of the carrier."""
    return make_pipeline(make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough"), model)


def ordered(folder: Path, model: Any, X: Any, y: Any = None, **told: Any) -> Order:
    """`model` as a bundle, as registration makes it, and an order for it."""
    contract = infer(X, describe_output(model, X, y), nullable=told.pop("nullable", ()))
    bundle, _ = make(model, contract, X, y, folder / "bundle", "auto")
    return Order(str(bundle.folder), "flights", 3, bundle.digest, **told)


def scored(order: Order, frame: Any, folder: Path, name: str = "data.parquet") -> pd.DataFrame:
    """What comes back for a frame in a file."""
    source = folder / "in" / name
    source.parent.mkdir(exist_ok=True)
    frame.to_parquet(source) if name.endswith(".parquet") else frame.to_csv(source, index=False)
    target = folder / "out.parquet"
    target.unlink(missing_ok=True)
    score_file(order, source, target)
    return pd.read_parquet(target)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Order:
    """A boosted model in its fast form."""
    model = pipe(HistGradientBoostingClassifier(max_iter=10)).fit(FRAME, LATE)
    return ordered(tmp_path_factory.mktemp("late"), model, FRAME, LATE)


def left(folder: Path) -> list[str]:
    """All that is in a folder and below it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# the same answers as the model's own

MODELS: dict[str, tuple[Any, Any]] = {
    "binary, boosted": (pipe(HistGradientBoostingClassifier(max_iter=10)), LATE),
    "binary, linear": (pipe(LogisticRegression(max_iter=500)), LATE),
    "whole numbers as labels": (pipe(RandomForestClassifier(5)), LATE.astype(int)),
    "three classes": (pipe(RandomForestClassifier(5)), THREE),
    "no probabilities": (pipe(LinearSVC()), THREE),
    "regression": (pipe(RandomForestRegressor(5)), FRAME.dep_delay * 2),
    "regression, linear": (pipe(LinearRegression()), FRAME.dep_delay * 2),
    "whole numbers": (pipe(DecisionTreeClassifier()), FRAME.hour),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_gets_the_answers_of_the_model(name: str, tmp_path: Path) -> None:
    model, y = MODELS[name]
    model.fit(FRAME, y)
    order, expected = ordered(tmp_path, model, FRAME, y, rows=700), model.predict(FRAME)
    for suffix in (".parquet", ".csv", ".csv.gz"):
        found = scored(order, FRAME.assign(id=range(ROWS), day="2013-01-01"), tmp_path, f"data{suffix}")
        assert found.prediction.dtype.kind == expected.dtype.kind or expected.dtype.kind in "OU"
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found.prediction, expected, rtol=1e-6)
        else:
            assert found.prediction.tolist() == expected.tolist()
        if hasattr(model, "predict_proba"):
            columns = [f"probability_{label}" for label in model.classes_]
            np.testing.assert_allclose(found[columns], model.predict_proba(FRAME), atol=1e-6)
        else:
            assert not any(str(c).startswith("probability") for c in found)
        assert set(found.version) == {3} and found.id.tolist() == list(range(ROWS))
        pd.testing.assert_frame_equal(pd.DataFrame(found[list(FRAME)]), FRAME)


def test_several_labels_a_row(tmp_path: Path) -> None:
    Y = pd.DataFrame({"late": LATE, "evening": FRAME.hour > 18})
    model = pipe(MultiOutputClassifier(DecisionTreeClassifier(max_depth=3))).fit(FRAME, Y)
    found = scored(ordered(tmp_path, model, FRAME, Y, rows=1000), FRAME, tmp_path)
    said = names(model.predict(FRAME), ("late", "evening"))
    assert [list(row) for row in found.prediction] == said
    np.testing.assert_allclose(found.probability_late, model.predict_proba(FRAME)[0][:, 1])


def test_texts_of_any_length(tmp_path: Path) -> None:
    X = pd.Series([f"the {word} flight number {i}" for i, word in enumerate(["late", "early"] * 300)], name="x0")
    y = np.array([1, 0] * 300)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(X, y)
    order = ordered(tmp_path, model, X, y)
    found = scored(order, X.to_frame(), tmp_path)
    assert found.prediction.tolist() == y.tolist()
    with borrow(order.folder) as runtime:
        assert rows_at_once(runtime, open_stream(tmp_path / "in/data.parquet", runtime.bundle.contract)) == 5000


class Tuned:
    """Somebody's own object."""

    def fit(self, X: Any, y: Any) -> Tuned:
        self.mean = float(X.dep_delay.mean())
        return self

    def predict(self, X: Any) -> Any:
        return (X.dep_delay > self.mean).to_numpy()


def test_an_object_without_a_fast_form(tmp_path: Path) -> None:
    model = Tuned().fit(FRAME, LATE)
    found = scored(ordered(tmp_path, model, FRAME, LATE), FRAME, tmp_path)
    assert found.prediction.tolist() == model.predict(FRAME).tolist()


def test_columns_of_every_kind(tmp_path: Path) -> None:
    days = pd.date_range("2013-01-01", periods=ROWS, freq="h")
    X = FRAME.assign(
        plane=pd.Categorical(RNG.choice(["jet", "prop"], ROWS)),
        gate=pd.Categorical(RNG.integers(1, 4, ROWS)),
        when=days,
        zoned=days.tz_localize("UTC"),
        seats=pd.array([None if gap else 180 for gap in RNG.random(ROWS) < 0.1], dtype="Int64"),
        wind=np.where(RNG.random(ROWS) < 0.1, np.nan, 5.5),
    )
    X.loc[X.index % 7 == 0, "carrier"] = None

    class Looks:
        """Answers by the types that it was fitted with."""

        def predict(self, frame: Any) -> Any:
            assert frame.dtypes.equals(X.dtypes), (frame.dtypes, X.dtypes)
            late = (frame.when.dt.hour > 12) & (frame.zoned.dt.hour > 12) & (frame.plane.cat.codes == 1)
            return (late & frame.carrier.notna() & frame.seats.notna() & frame.gate.cat.codes.astype(bool)).to_numpy(
                bool
            )

    model = Looks()
    order = ordered(tmp_path, model, X, model.predict(X), rows=1000)
    expected = model.predict(X).tolist()
    assert 0 < sum(expected) < ROWS
    for name in ("data.parquet", "data.csv", "data.csv.gz"):
        assert scored(order, X, tmp_path, name).prediction.tolist() == expected, name
    for other in (X.convert_dtypes(), X.astype({"plane": str, "gate": int, "when": "datetime64[ns]"})):
        assert scored(order, other, tmp_path).prediction.tolist() == expected


@pytest.mark.server
def test_the_answers_are_those_of_the_endpoint(story: Path) -> None:
    frame = stories.flights(5)[stories.COLUMNS]
    frame.to_parquet("data.parquet")
    deploy_ext.up("flights")
    told = deploy_ext.predict("flights", frame)
    done = deploy_ext.predict("flights", "data.parquet", out=Path("scored"), keep=("none",))
    assert isinstance(done, Scoring) and (done.version, done.rows, done.asked) == (1, 600, 600)
    pd.testing.assert_frame_equal(pd.read_parquet("scored/data.parquet"), told)


# what stands in files


def test_order_index_and_other_columns(late: Order, tmp_path: Path) -> None:
    expected = scored(late, FRAME, tmp_path).prediction.tolist()
    moved = FRAME[list(FRAME)[::-1]].assign(**{"note, long": None, "tags": [["a"]] * ROWS})
    moved.index = pd.Index([f"F{i}" for i in range(ROWS)], name="flight")
    found = scored(late, moved, tmp_path)
    assert found.prediction.tolist() == expected
    pd.testing.assert_index_equal(found.index, moved.index)
    twice = moved.set_axis(pd.MultiIndex.from_arrays([moved.index, range(ROWS)]))
    assert scored(late, twice, tmp_path).index.equals(twice.index)
    numbered = scored(late, FRAME.set_axis(np.arange(ROWS) * 3), tmp_path)
    assert numbered.index.tolist() == list(range(0, 3 * ROWS, 3))
    few = scored(replace(late, keep=("flight", "hour")), moved, tmp_path)
    assert list(few) == ["hour", "prediction", "probability_False", "probability_True", "version"]
    assert few.index.name == "flight"
    none = scored(replace(late, keep=()), moved, tmp_path)
    assert list(none) == list(few)[1:] and none.index.equals(pd.RangeIndex(ROWS))


def test_types_of_a_csv_are_those_of_the_whole_file(late: Order, tmp_path: Path) -> None:
    zips, notes = [f"{i % 100:05d}" for i in range(ROWS)], [str(i) for i in range(ROWS - 1)] + ["x"]
    big = FRAME.assign(id=range(ROWS), zip=zips, note=notes, fare=0.5, empty=None)
    found = scored(late, big, tmp_path, "data.csv")
    assert (found.zip.tolist(), found.note.tolist(), found.id.tolist()) == (zips, notes, list(range(ROWS)))
    assert str(found.fare.dtype) == "float64" and pd.isna(found["empty"].to_numpy()).all()


def test_a_csv_with_lines_in_its_cells_and_a_mark_at_its_head(late: Order, tmp_path: Path) -> None:
    frame = FRAME[:5].assign(note='two\nlines, and a "quote"')
    source = tmp_path / "data.csv"
    source.write_text("\ufeff" + frame.to_csv(index=False), encoding="utf-8")
    score_file(late, source, tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.note.tolist() == frame.note.tolist() and len(found.prediction) == 5


def test_no_rows(late: Order, tmp_path: Path) -> None:
    for name in ("data.parquet", "data.csv"):
        assert len(scored(late, FRAME, tmp_path, name)) == ROWS
        schema = pq.read_schema(tmp_path / "out.parquet")
        assert len(scored(late, FRAME[:0], tmp_path, name)) == 0
        assert pq.read_schema(tmp_path / "out.parquet").equals(schema)


def test_a_million_groups_of_rows_and_one(late: Order, tmp_path: Path) -> None:
    expected = scored(late, FRAME, tmp_path)
    for group in (1, 17, 10_000):
        FRAME.to_parquet(tmp_path / "groups.parquet", row_group_size=group)
        score_file(replace(late, rows=100), tmp_path / "groups.parquet", tmp_path / f"{group}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{group}.parquet"), expected)


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 9), st.integers(0, 30))
def test_rows_are_cut_anew(sizes: list[int], rows: int, skip: int) -> None:
    numbers = pa.record_batch({"n": range(sum(sizes))})
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    batches = (numbers.slice(start, size) for start, size in zip(starts, sizes, strict=True))
    cut = [table["n"].to_pylist() for table in _cut(_after(batches, skip), rows)]
    wanted = list(range(skip, sum(sizes)))
    assert cut == [wanted[i : i + rows] for i in range(0, len(wanted), rows)]


def test_columns_become_the_same_lists_as_on_the_wire() -> None:
    columns: list[Any] = [
        [1, 2],
        [1.5, None],
        [np.nan, np.inf],
        [True, False],
        ["a", None],
        pd.Categorical(["a", None]),
        pd.array([1, None], dtype="Int64"),
        pd.array([True, None], dtype="boolean"),
        pd.array(["a", None], dtype="string[pyarrow]"),
        pd.to_datetime(["2013-01-01", None]),
        pd.to_datetime(["2013-01-01", None]).tz_localize("Europe/Berlin"),
        np.array([1, 2], dtype="uint8"),
        np.array([1.5, 2], dtype="float32"),
        np.array([True, None, "a"], dtype=object),
    ]
    for values in columns:
        series = pd.Series(values)
        found = _listed(series)
        assert found == wire(series) and list(map(type, found)) == list(map(type, wire(series))), series


# rows and files that are wrong


def refused(order: Order, frame: pd.DataFrame, tmp_path: Path, kind: type[DeployError] = ContractViolated) -> str:
    """What is told about a frame, which leaves nothing behind."""
    with pytest.raises(kind) as told:
        scored(order, frame, tmp_path)
    assert left(tmp_path) == ["in", "in/data.parquet"]
    return str(told.value)


def test_a_row_that_breaks_the_contract_is_named(late: Order, tmp_path: Path) -> None:
    wrong = FRAME.astype({"dep_delay": object})
    wrong.loc[2345, "dep_delay"] = None
    told = refused(replace(late, rows=100, seconds=0.0), wrong, tmp_path)
    assert told == f"{tmp_path}/in/data.parquet: row 2345, dep_delay: is missing"
    (tmp_path / "in/data.parquet").unlink()
    text = FRAME.astype({"hour": str})
    text.loc[7, "hour"] = "noon"
    for name in ("text.csv",):
        with pytest.raises(ContractViolated, match=r"text\.csv: row 7, hour: 'noon' is not a whole number"):
            scored(late, text, tmp_path, name)
    assert left(tmp_path) == ["in", "in/text.csv"]


def test_columns_that_are_not_there(late: Order, tmp_path: Path) -> None:
    told = refused(late, FRAME[["hour", "carrier"]].assign(Dep_Delay=1.0), tmp_path)
    assert "dep_delay: is not there" in told and "weekend: is not there" in told
    with pytest.raises(InvalidRequest, match=r"no column 'Id'\. Did you mean 'id'"):
        scored(replace(late, keep=("Id",)), FRAME.assign(id=1), tmp_path)
    with pytest.raises(InvalidRequest, match=r"has a column 'prediction' already.*--keep"):
        scored(late, FRAME.assign(prediction=1), tmp_path)
    assert len(scored(replace(late, keep=("hour",)), FRAME.assign(prediction=1), tmp_path)) == ROWS


@pytest.mark.parametrize("name", ["data.parquet", "data.csv"])
def test_rows_that_break_the_contract_are_marked(name: str, late: Order, tmp_path: Path) -> None:
    wrong = FRAME.astype({"dep_delay": object, "hour": object})
    wrong.loc[5, "dep_delay"] = None
    wrong.loc[[1234, 2999], "hour"] = 7.5
    wrong.loc[5, "hour"] = 8.5
    expected = scored(late, FRAME, tmp_path)
    order = replace(late, on_fault="mark", rows=100)
    wrong = wrong.astype({"dep_delay": float, "hour": float})
    found = scored(order, wrong, tmp_path, name)
    bad = [5, 1234, 2999]
    assert found.index[found.fault.notna()].tolist() == bad
    assert found.fault[5] == "dep_delay: is missing; hour: 8.5 is not a whole number"
    said = ["prediction", "probability_False", "probability_True"]
    assert found.loc[bad, said].isna().all(axis=None)
    good = found.drop(index=bad)
    assert good.prediction.tolist() == expected.drop(index=bad).prediction.tolist()
    np.testing.assert_array_equal(good.probability_True, expected.drop(index=bad).probability_True)
    every = scored(order, wrong.loc[bad], tmp_path, name)
    assert every.prediction.isna().all() and every.fault.notna().all()
    with pytest.raises(ContractViolated, match="hour: is not there"):
        scored(order, wrong.drop(columns="hour"), tmp_path, name)


def test_a_row_at_which_the_model_fails(tmp_path: Path) -> None:
    encode = make_column_transformer((OrdinalEncoder(), ["carrier"]), remainder="passthrough")
    model = make_pipeline(encode, RandomForestClassifier(5)).fit(FRAME, LATE)
    order = ordered(tmp_path, model, FRAME, LATE, rows=1000)
    wrong = FRAME.copy()
    wrong.loc[[1717, 2222], "carrier"] = "ZZ"
    with pytest.raises(ContractViolated, match=r"data\.parquet: row 1717, the model: cannot answer.*carrier"):
        scored(order, wrong, tmp_path)
    found = scored(replace(order, on_fault="mark"), wrong, tmp_path)
    assert found.index[found.fault.notna()].tolist() == [1717, 2222] and "ZZ" in found.fault[1717]
    assert found.prediction[found.fault.isna()].tolist() == model.predict(FRAME)[found.fault.isna()].tolist()
    with pytest.raises(ContractViolated, match="row 1000"):  # not single rows
        scored(replace(order, on_fault="mark"), FRAME.assign(carrier=["AA"] * 1000 + ["ZZ"] * 2000), tmp_path)


def test_files_that_cannot_be_read(late: Order, tmp_path: Path) -> None:
    whole = io.BytesIO()
    FRAME.to_parquet(whole, row_group_size=500)
    body = bytearray(whole.getvalue())
    body[len(body) // 3 : len(body) // 2] = bytes(len(body) // 2 - len(body) // 3)
    broken = {
        "none.parquet": b"",
        "text.parquet": b"dep_delay,hour\n1,2\n",
        "short.parquet": whole.getvalue()[:-100],
        "holes.parquet": bytes(body),
        "none.csv": b"",
        "latin.csv": (FRAME[:3].assign(carrier="\u00e9").to_csv(index=False)).encode("latin-1"),
        "ragged.csv": FRAME.to_csv(index=False).encode() + b"1,2\n",
        "text.csv.gz": b"dep_delay,hour\n1,2\n",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises((InvalidRequest, ContractViolated), match=name.replace(".", r"\.")) as told:
            score_file(replace(late, rows=300, seconds=0.0), tmp_path / name, tmp_path / "out" / "out.parquet")
        assert "\n" not in str(told.value), name
        (tmp_path / name).unlink()
    assert left(tmp_path) == ["out"]
    twice = pd.concat([FRAME, FRAME[["hour"]]], axis=1)
    twice[:3].to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(ContractViolated, match=r"twice\.csv.*hour.*more than once"):
        score_file(late, tmp_path / "twice.csv", tmp_path / "out.parquet")


def test_places_that_cannot_be(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "deep").mkdir(parents=True)
    for name in ("a.parquet", "b.csv", "_success.csv", ".hidden.csv", "notes.txt", "deep/a.parquet"):
        (data / name).touch()
    short = lambda found: [(str(s.relative_to(tmp_path)), str(t.relative_to(tmp_path))) for s, t in found]  # noqa: E731
    found = [
        ("data/a.parquet", "out/a.parquet"),
        ("data/b.csv", "out/b.parquet"),
        ("data/deep/a.parquet", "out/deep/a.parquet"),
    ]
    assert short(pairs([data], out)) == found
    assert short(pairs([f"{data}/[ab]*"], out)) == found[:2]
    assert short(pairs([f"{data}/**/[ab]*"], out)) == found
    assert short(pairs([f"{data}/*/a.parquet"], out)) == found[2:]
    assert short(pairs([data / "a.parquet", data / "b.csv", data / "a.parquet"], out)) == found[:2]
    (data / "scored").mkdir()
    (data / "scored" / "a.parquet").touch()
    assert len(pairs([data], data / "scored")) == 3 and len(pairs([f"{data}/**/[ab]*"], data / "scored")) == 3
    for words, place, told in [
        ([tmp_path / "dat"], out, "no data file"),
        ([f"{data}/*.orc"], out, "no data file in"),
        ([data / "c.parquet"], out, r"Did you mean 'a\.parquet'|Known: .*a\.parquet"),
        ([data / "notes.txt"], out, "is no data file: .parquet, .csv"),
        ([data / "a.parquet", data / "deep/a.parquet"], out, "would both become.*Name their folder"),
        ([data], data, "holds the data itself"),
        ([data / "b.csv"], data, "holds the data itself"),
        ([out], out, "no data file"),
    ]:
        with contextlib.suppress(FileNotFoundError), pytest.raises(InvalidRequest, match=told):
            pairs(words, place)
            pytest.fail(f"{words} {place}")
    (tmp_path / "link").symlink_to(data)
    with pytest.raises(InvalidRequest, match="holds the data itself"):
        pairs([data / "a.parquet"], tmp_path / "link")


def test_a_file_of_others_stays(late: Order, tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    for content in (pa.BufferOutputStream(), b"text"):
        mine = tmp_path / "mine.parquet"
        pq.write_table(pa.table({"a": [1]}), mine) if not isinstance(content, bytes) else mine.write_bytes(content)
        before = mine.read_bytes()
        with pytest.raises(InvalidRequest, match="not made by predict"):
            score_file(late, tmp_path / "a.parquet", mine)
        assert mine.read_bytes() == before
    assert left(tmp_path) == ["a.parquet", "mine.parquet"]


def test_a_bundle_that_is_not_what_was_registered(late: Order, tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(VerificationFailed):
        score_file(replace(late, digest="0" * 64), tmp_path / "a.parquet", tmp_path / "out.parquet")
    with pytest.raises(InvalidRequest, match=r"--on-fault: 'skip' is none\. Known: fail, mark"):
        score_file(replace(late, on_fault="skip"), tmp_path / "a.parquet", tmp_path / "out.parquet")
    assert left(tmp_path) == ["a.parquet"]


# said again


def test_what_is_done_is_passed_over_and_what_has_changed_is_not(late: Order, tmp_path: Path) -> None:
    source, target = tmp_path / "a.parquet", tmp_path / "out" / "a.parquet"
    FRAME.to_parquet(source)
    told = [score_file(late, source, target).state, score_file(late, source, target).state]
    FRAME[:10].to_parquet(source)
    told += [score_file(late, source, target).state]
    os.utime(source, ns=(0, 0))
    told += [score_file(late, source, target).state, score_file(replace(late, version=4), source, target).state]
    told += [score_file(replace(late, version=4, keep=()), source, target).state]
    assert told == ["scored", "skipped", "scored", "scored", "scored", "scored"]
    assert len(pd.read_parquet(target)) == 10
    damaged = replace(late, version=4, keep=(), digest="0" * 64)  # is not even looked at when all is done
    mark = told_by(target)
    assert mark and (mark["format"], mark["version"], mark["source"], mark["rows"]) == (1, 4, "a.parquet", 10)
    with pytest.raises(VerificationFailed):
        score_file(damaged, source, target)
    done = score_files(replace(damaged, digest=late.digest, folder="/nowhere"), [(source, target)], "out")
    assert (done.skipped, done.asked, done.rows) == (1, 0, 10)


def test_a_source_that_changes_meanwhile(late: Order, tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"
    FRAME.to_parquet(source)

    def touch(path: Path, rows: int, share: float) -> None:
        os.utime(path, ns=(0, 0))

    with pytest.raises(InvalidRequest, match="was changed while it was read"):
        score_file(late, source, tmp_path / "out.parquet", touch)
    assert left(tmp_path) == ["a.parquet"]


SCORE = """
import json, os, sys
from deploy_ext.batch import Order, score_file

order, source, target = json.load(sys.stdin)
order["keep"] = order["keep"] and tuple(order["keep"])
done = score_file(Order(**order), source, target)
print(done.to_json())
"""


def process(order: Order, source: Path, target: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that scores a file."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen([sys.executable, "-c", before + SCORE], **pipes)
    assert started.stdin
    started.stdin.write(json.dumps([order.__dict__, str(source), str(target)]))
    started.stdin.close()
    started.stdin = None
    return started


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_killed_in_the_middle_of_a_file_it_goes_on_behind_the_last_part(
    suffix: str, late: Order, tmp_path: Path
) -> None:
    source, target = tmp_path / f"a{suffix}", tmp_path / "out" / "a.parquet"
    large = pd.concat([FRAME] * 40, ignore_index=True).assign(id=range(40 * ROWS))
    large.to_parquet(source, row_group_size=7_000) if suffix == ".parquet" else large.to_csv(source, index=False)
    order = replace(late, rows=500, seconds=0.0)
    started = process(order, source, target)
    work = folder_of(target)
    stories.until(lambda: len(list(work.glob("*.parquet"))) > 20 or started.poll() is not None)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL and not target.exists()
    parts = len(list(work.glob("0*.parquet")))
    done = score_file(order, source, target)
    assert (done.state, done.rows, done.asked) == ("resumed", 40 * ROWS, 40 * ROWS - 500 * parts)
    assert left(tmp_path / "out") == ["a.parquet"]
    score_file(late, source, tmp_path / "undisturbed.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(target), pd.read_parquet(tmp_path / "undisturbed.parquet"))


def test_killed_while_the_parts_are_put_together(late: Order, tmp_path: Path) -> None:
    source, target = tmp_path / "a.parquet", tmp_path / "out.parquet"
    FRAME.to_parquet(source)
    kill = """
import os, signal
import pyarrow.parquet as pq
read, calls = pq.ParquetFile.read_row_group, []
def group(self, i):
    calls.append(i)
    return os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 3 else read(self, i)
pq.ParquetFile.read_row_group = group
"""
    order = replace(late, rows=500, seconds=0.0)
    started = process(order, source, target, kill)
    assert started.wait(60) == -signal.SIGKILL and not target.exists()
    done = score_file(order, source, target)
    assert (done.state, done.asked) == ("resumed", 0)
    score_file(order, source, tmp_path / "other.parquet")
    assert pq.read_table(target).equals(pq.read_table(tmp_path / "other.parquet"))
    assert left(tmp_path) == ["a.parquet", "other.parquet", "out.parquet"]


def test_parts_of_another_version_are_not_taken(late: Order, tmp_path: Path) -> None:
    source, target = tmp_path / "a.parquet", tmp_path / "out.parquet"
    FRAME.to_parquet(source)

    def stop(path: Path, rows: int, share: float) -> None:
        if rows > 1500:
            raise KeyboardInterrupt

    order = replace(late, rows=500, seconds=0.0)
    for other in (replace(order, version=4), order):
        with pytest.raises(KeyboardInterrupt):
            score_file(other, source, target, stop)
    assert {(told_by(p) or {})["version"] for p in folder_of(target).glob("0*.parquet")} == {3}
    first = min(folder_of(target).glob("0*.parquet"))
    first.write_bytes(first.read_bytes()[:100])  # the disk was not so good
    done = score_file(order, source, target)
    assert (done.state, done.asked, set(pd.read_parquet(target).version)) == ("scored", ROWS, {3})


def test_two_at_once(late: Order, tmp_path: Path) -> None:
    source, target = tmp_path / "a.parquet", tmp_path / "out" / "a.parquet"
    pd.concat([FRAME] * 20, ignore_index=True).to_parquet(source)
    order = replace(late, rows=500, seconds=0.0)
    told = []
    for started in [process(order, source, target) for _ in range(3)]:
        out, err = started.communicate(timeout=120)
        assert started.returncode == 0, err
        told.append(json.loads(out)["state"])
    assert sorted(told) == ["scored", "skipped", "skipped"]
    assert left(tmp_path / "out") == ["a.parquet"]
    assert len(pd.read_parquet(target)) == 20 * ROWS


def test_a_disk_that_takes_no_more(late: Order, tmp_path: Path) -> None:
    """A file may not grow beyond a limit: the kernel then refuses to write, as it does on a full disk."""
    source, target = tmp_path / "a.parquet", tmp_path / "out" / "a.parquet"
    pd.concat([FRAME] * 20, ignore_index=True).assign(noise=RNG.random(20 * ROWS)).to_parquet(source)
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))\n"
    started = process(replace(late, rows=500), source, target, limit)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 1 and f"File too large: '{target}'" in err and "Exception ignored" not in err, err
    assert left(tmp_path / "out") == []
    small = replace(late, rows=500, seconds=0.0)
    started = process(small, source, target, limit)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 1 and "File too large" in err, err
    assert not target.exists()
    assert (score_file(small, source, target).asked, left(tmp_path / "out")) == (0, ["a.parquet"])


MEMORY = """
from pathlib import Path
import atexit
def tell():
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM")).split()[1])
atexit.register(tell)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_memory_does_not_grow_with_the_file(suffix: str, late: Order, tmp_path: Path) -> None:
    used = []
    for times in (150, 1000):
        source = tmp_path / f"a{times}{suffix}"
        if suffix == ".parquet":
            table = pa.Table.from_pandas(pd.concat([FRAME] * 50).assign(noise=RNG.random(50 * ROWS)))
            with pq.ParquetWriter(source, table.schema) as writer:
                for _ in range(times // 50):
                    writer.write_table(table)
        else:
            with source.open("w") as file:
                noted = FRAME.assign(note="nothing to say about this flight at all")
                noted.to_csv(file, index=False)
                body = noted.to_csv(index=False, header=False)
                for _ in range(times - 1):
                    file.write(body)
        started = process(late, source, tmp_path / f"{times}.parquet", MEMORY)
        out, err = started.communicate(timeout=180)
        assert started.returncode == 0, err
        done, peak = out.splitlines()
        assert json.loads(done)["rows"] == times * ROWS
        used.append(int(peak) / 1024)
    assert used[1] < used[0] + 100, used  # MB; as Python has them, the rows alone are several hundred


# as a sentence


def test_the_sentence_in_a_shell(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("big").mkdir()
    for month in (1, 2):
        stories.flights(month).assign(id=range(600)).to_parquet(f"big/{month}.parquet")
    files = ["big/1.parquet", "big/2.parquet"]  # as a shell makes them of big/*.parquet

    def say(*words: str) -> tuple[int, Any, str]:
        out = io.StringIO()
        code = run(["predict", "flights/3", "--data", *words, "--json"], out)
        return code, json.loads(out.getvalue() or "null"), capsys.readouterr().err

    code, told, _ = say(*files, "--out", "scored", "--keep", "id,late")
    assert (code, told["type"], told["version"], told["rows"], told["skipped"]) == (0, "scoring", 3, 1200, 0)
    table = pd.read_parquet("scored")
    assert list(table) == ["id", "late", "prediction", "probability_False", "probability_True", "version"]
    assert len(table) == 1200 and (table.late == table.prediction).mean() > 0.8
    code, told, _ = say("big", "--out", "scored", "--keep", "id", "--keep", "late")
    assert (code, told["skipped"], [f["state"] for f in told["files"]]) == (0, 2, ["skipped", "skipped"])
    for words, expected, sentence in [
        (files, 2, "one at a time is answered here. To score files, name a folder for the answers: --out"),
        ([*files, "--keep", "id"], 2, "one at a time"),
        (["big/1.parquet", "--keep", "id"], 2, "--keep, --on-fault and --on are for answers in files"),
        (["big/3*.parquet", "--out", "scored"], 2, "no data file in 'big/3*.parquet'"),
        (["big", "--out", "big"], 2, "holds the data itself"),
        (["big", "--out", "scored", "--on-fault", "skip"], 2, "--on-fault: 'skip' is none"),
        (["big", "--out", "big/1.parquet"], 2, "is no folder that you may write to"),
        (["big", "--out", "other", "--keep", "ids"], 2, "has no column 'ids'. Did you mean 'id'?"),
    ]:
        code, _, err = say(*words)
        assert code == expected and sentence in err, err
    stories.flights(3).assign(dep_delay=np.nan).to_parquet("big/3.parquet")
    code, _, err = say("big", "--out", "next")
    assert code == 4 and "big/3.parquet: row 0, dep_delay: is missing" in err
    assert left(Path("next")) == ["1.parquet", "2.parquet"]
    if os.getuid():
        Path("closed").mkdir(mode=0o500)
        code, _, err = say("big", "--out", "closed")
        assert code == 2 and "no folder that you may write to" in err


def test_the_sentence_in_a_notebook(story: Path) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    deploy_ext.load_ipython_extension(shell)
    Path("big").mkdir()
    frame = stories.flights(1)
    frame.to_parquet("big/1.parquet")
    frame.to_csv("big/2.csv", index=False)
    shell.push({"new": frame, "some": ["big/1.parquet"]})
    say = lambda line: shell.run_line_magic("deploy", line)  # noqa: E731
    done = say("predict flights --data big/* --out scored")
    assert isinstance(done, Scoring) and (done.rows, done.version) == (1200, 1)
    assert "1,200 rows" in repr(done) and "scored/2.parquet" in done._repr_html_()
    one, other = (pd.read_parquet(f"scored/{n}.parquet") for n in (1, 2))
    pd.testing.assert_frame_equal(one, other)
    assert "2 done already" in repr(say("predict flights --data big/*.parquet big/2.csv --out scored"))
    assert "1 done already" in repr(say("predict flights --data some --out scored"))
    with pytest.raises(InvalidRequest, match="DataFrame, and answers in files are for data in files"):
        say("predict flights --data new --out scored")
    with pytest.raises(InvalidRequest, match="no endpoint 'flights'"):
        say("predict flights --data new")


KILLED = "import sys; from deploy_ext.cli import main; sys.exit(main())"


def test_the_sentence_is_killed_and_said_again(story: Path) -> None:
    Path("big").mkdir()
    table = pa.Table.from_pandas(pd.DataFrame(pd.concat([stories.flights(1)] * 500)))
    for name in ("a", "b"):
        pq.write_table(table, f"big/{name}.parquet")
    command = [sys.executable, "-c", KILLED, "predict", "flights", "--data", "big/a.parquet", "big/b.parquet"]
    started = subprocess.Popen([*command, "--out", "scored"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stories.until(lambda: Path("scored/a.parquet").exists() or started.poll() is not None)
    stories.until(lambda: folder_of(Path("scored/b.parquet")).exists() or started.poll() is not None)
    started.kill()
    assert started.wait() == -signal.SIGKILL
    done = deploy_ext.predict("flights", "big", out=Path("scored"))
    assert done.files[0].state == "skipped" and done.rows == 600_000
    assert left(Path("scored")) == ["a.parquet", "b.parquet"]
    assert pq.read_table("scored/a.parquet").equals(pq.read_table("scored/b.parquet"))


def test_the_fast_form_is_what_answers(late: Order) -> None:
    with borrow(late.folder) as runtime:
        assert runtime.bundle.form and runtime.bundle.form["plans"]
        _asker(runtime)(FRAME.head(10))
        assert "model" not in vars(runtime)  # the registered object was never loaded
