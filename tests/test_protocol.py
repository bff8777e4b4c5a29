"""The wire: whatever arrives, it is columns that hold to the contract, or an error with a status below 500."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from deploy_ext.bundle import Answers
from deploy_ext.contract import infer
from deploy_ext.core import ContractViolated, DeployError, InvalidRequest
from deploy_ext.output import Output
from deploy_ext.serve import protocol
from deploy_ext.serve.infer import read_infer, write_infer
from deploy_ext.serve.invocation import read_invocation, write_invocation
from deploy_ext.serve.protocol import Asked, Served

FRAME = pd.DataFrame(
    {
        "delay": [1.5, None, -3.0],
        "day": [1, 2, 31],
        "seats": pd.array([100, None, 200], "Int64"),
        "night": [True, False, True],
        "carrier": ["AA", "UA", "AA"],
        "origin": pd.Categorical(["JFK", "LGA", "JFK"]),
        "level": pd.Categorical([1, 3, 3]),
        "when": pd.to_datetime(["2013-01-01", "2013-01-02", "2013-06-01"]),
        "zoned": pd.to_datetime(["2013-01-01", "2013-01-02", "2013-06-01"]).tz_localize("America/New_York"),
    }
)
CONTRACT = infer(FRAME, Output("classification", ("no", "yes"), "string", True))
SERVED = Served("flights", 3, "0" * 64, "sklearn", CONTRACT)
ROWS = CONTRACT.rows(FRAME)
KINDS = {c.name: protocol.datatype(c) for c in CONTRACT.columns}
READERS = (read_infer, read_invocation)


def tensors(**changes: Any) -> list[dict[str, Any]]:
    """The frame as V2 input tensors, each updated by the change of its name."""
    made = [{"name": n, "shape": [3], "datatype": KINDS[n], "data": list(v)} for n, v in ROWS.items()]
    return [t | changes.get(t["name"], {}) for t in made]


def told(read: Any, body: Any) -> tuple[int, dict[str, Any]]:
    """Status and error body of a request that must be refused."""
    with pytest.raises(DeployError) as refused:
        read(body if isinstance(body, bytes) else json.dumps(body).encode(), SERVED)
    status, answer = protocol.write_error(SERVED, refused.value)
    return status, json.loads(answer)


def outcome(read: Any, body: bytes, *more: Any) -> Asked | None:
    """What a reader made of `body`: columns that the model can eat, or a refusal that is the client's to mend."""
    try:
        asked = read(body, SERVED, *more)
    except (InvalidRequest, ContractViolated) as e:
        status, answer = protocol.write_error(SERVED, e)
        assert status in (400, 422) and len(answer) < 20_000 + 200 * len(body)
        assert json.loads(answer)["model_version"] == "3"
        return None
    assert CONTRACT.check(asked.columns) == []
    assert len(CONTRACT.rebuild(asked.columns)) == asked.rows
    assert asked.flags == CONTRACT.flags(asked.columns)
    answers = Answers(np.array(["no"]), np.array([[0.9, 0.1]]))
    content, length = write_infer(SERVED, asked, answers, "r")
    assert json.loads(content[:length])
    return asked


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([10**400, -(2**63) - 1, 1e308, 5e-324, 0.1, "AA", "JFK", "2013-01-01T00:00:00", "NaN", "\ud800"]),
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
datatypes = st.sampled_from(["FP64", "FP32", "INT64", "INT8", "UINT8", "BOOL", "BYTES", "FP46", ""])
shapes = st.lists(st.integers(-2, 4), max_size=3) | st.sampled_from([[3], [3, 1], [3, 9], [10**30, 10**30]])
tensor = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*ROWS, "other", ""]) | st.text(max_size=4),
        "shape": shapes,
        "datatype": datatypes,
        "data": st.lists(scalars, max_size=4) | st.lists(st.lists(scalars, max_size=3), max_size=4) | anything,
    }
)


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """A good V2 request in which one or two things are wrong."""
    good = tensors()
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(good) - 1))
        key = draw(st.sampled_from(["name", "shape", "datatype", "data", "value", "gone"]))
        if key == "gone":
            good[at].pop(draw(st.sampled_from(sorted(good[at]))), None)
        elif key == "value" and isinstance(good[at].get("data"), list) and good[at]["data"]:
            good[at]["data"][draw(st.integers(0, len(good[at]["data"]) - 1))] = draw(anything)
        elif key != "value":
            good[at][key] = draw(tensor)[key]
    return {"inputs": good, **draw(st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), anything))}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@given(body=st.binary(max_size=200) | anything.map(encoded))
def test_any_bytes(body: bytes) -> None:
    for read in READERS:
        outcome(read, body)


@settings(max_examples=200)
@given(request=nearly_right() | st.fixed_dictionaries({"inputs": st.lists(tensor, max_size=4)}))
def test_any_tensors(request: dict[str, Any]) -> None:
    outcome(read_infer, encoded(request))


rows = st.lists(st.dictionaries(st.sampled_from([*ROWS, "other"]), scalars), max_size=3)
tables = st.fixed_dictionaries(
    {
        "columns": st.lists(st.sampled_from([*ROWS, "other"]), max_size=10) | st.just(list(ROWS)),
        "data": st.lists(st.lists(scalars, max_size=10), max_size=3),
    }
)


@given(records=rows, split=tables)
def test_any_table(records: list[dict[str, Any]], split: dict[str, Any]) -> None:
    for request in (
        {"dataframe_records": records},
        {"dataframe_split": split},
        {"instances": records},
        {"instances": split["data"]},
        {"inputs": dict(zip(split["columns"], split["data"], strict=False))},
    ):
        outcome(read_invocation, encoded(request))


@given(table=st.text(max_size=60) | st.lists(st.lists(st.text(max_size=6))).map(lambda t: "\n".join(map(",".join, t))))
def test_any_csv(table: str) -> None:
    for head in ("", ",".join(ROWS) + "\n"):
        outcome(read_invocation, (head + table).encode("utf-8", "surrogatepass"), "text/csv")


def test_csv() -> None:
    table = FRAME.assign(when=ROWS["when"], zoned=ROWS["zoned"]).to_csv(index=False)
    asked = outcome(read_invocation, table.encode(), "text/csv; charset=utf-8")
    assert asked and asked.columns == ROWS


sizes = st.none() | st.integers(-1, 40) | st.text(max_size=2)


@settings(max_examples=200)
@given(request=nearly_right(), sizes=st.lists(sizes, max_size=9), raw=st.binary(max_size=60), length=st.integers(-2, 3))
def test_any_binary_tensors(request: dict[str, Any], sizes: list[Any], raw: bytes, length: int) -> None:
    for tensor, size in zip(request["inputs"], sizes, strict=False):
        if size is not None:
            tensor.pop("data", None)
            tensor["parameters"] = {"binary_data_size": size}
    head = encoded(request)
    outcome(read_infer, head + raw, len(head) if length > 0 else length)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client(binary: bool) -> None:
    made = []
    for name, kind in KINDS.items():
        values = ROWS[name] if name not in ("delay", "seats") else [1.0, 2.0, 3.0]
        dtype = {"INT64": np.int64, "FP64": np.float64, "BOOL": bool, "BYTES": object}[kind]
        made.append(InferInput(name, [3], kind))
        made[-1].set_data_from_numpy(np.array(values, dtype), binary_data=binary)
    wanted = [InferRequestedOutput("predict"), InferRequestedOutput("probabilities", binary_data=binary)]
    body, length = InferenceServerClient.generate_request_body(made, outputs=wanted, request_id="r")
    asked = outcome(read_infer, body, length)
    assert asked and asked.columns["carrier"] == ROWS["carrier"] and asked.columns["night"] == ROWS["night"]
    assert asked.binary == ({"predict", "probabilities"} if binary else {"predict"})
    answers = Answers(np.array(["no", "é", ""], object), np.array([[0.9, 0.1]] * 3))
    content, length = write_infer(SERVED, asked, answers, "r")
    result: Any = InferenceServerClient.parse_response_body(content, header_length=length)
    assert [text.decode() for text in result.as_numpy("predict")] == ["no", "é", ""]
    assert result.as_numpy("probabilities").tolist() == [[0.9, 0.1]] * 3


@given(
    delay=st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    data=st.data(),
)
def test_there_and_back(delay: list[float | None], data: st.DataObject) -> None:
    n = len(delay)
    integers = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n)
    words = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=n, max_size=n)
    columns = {name: [values[0]] * n for name, values in ROWS.items()}
    columns |= {"delay": delay, "day": data.draw(integers), "carrier": data.draw(words)}
    asked = outcome(read_infer, protocol.write_request(columns, CONTRACT))
    assert asked and asked.columns == columns
    records = [{name: values[i] for name, values in columns.items()} for i in range(n)]
    again = outcome(read_invocation, encoded({"dataframe_records": records}))
    assert again and again.columns == columns


def test_columns_in_any_order_and_as_n_by_1() -> None:
    as_column = [t | {"shape": [3, 1], "data": [[v] for v in t["data"]]} for t in reversed(tensors())]
    asked = outcome(read_infer, encoded({"inputs": as_column, "id": "a"}))
    assert asked and asked.columns == ROWS and asked.id == "a"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{",
        b"[" * 1_000_000,
        b'{"inputs":' * 100_000,
        b'{"inputs": [NaN]}',
        b'{"inputs": [], "id": "\xff"}',
        b'{"inputs": [{"name": "day", "shape": [1], "datatype": "FP64", "data": [1e999]}]}',
        {"inputs": tensors(day={"shape": [2]})},
        {"inputs": tensors(day={"shape": [3, 1, 1]})},
        {"inputs": tensors(day={"shape": [0], "data": []})},
        {"inputs": tensors(day={"shape": [-3]})},
        {"inputs": tensors(day={"datatype": "INT65"})},
        {"inputs": tensors() + tensors()[:1]},
        {"inputs": tensors(), "outputs": [{"name": "x" * 10_000}]},
        {"inputs": tensors(), "id": 7},
    ],
    ids=str,
)
def test_400(body: Any) -> None:
    status, answer = told(read_infer, body)
    assert status == 400 and len(answer["error"]) < 500 and "faults" not in answer


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        ({"day": {"data": [1, "2", 3]}}, [(1, "day", "2")]),
        ({"day": {"data": [1, None, 2.5]}}, [(1, "day", None), (2, "day", 2.5)]),
        ({"day": {"data": [10**400, 1, 1]}}, [(0, "day", "an integer of 401 digits")]),
        ({"day": {"datatype": "INT8", "data": [1, 300, -128]}}, [(1, "day", 300)]),
        ({"day": {"datatype": "UINT8", "data": [-1, 255, 256]}}, [(0, "day", -1), (2, "day", 256)]),
        ({"day": {"datatype": "BYTES", "data": [1, 2, 3]}}, [(None, "day", None)]),
        ({"night": {"data": [1, True, "x"]}}, [(0, "night", 1), (2, "night", "x")]),
        ({"day": {"name": "dya"}}, [(None, "day", None), (None, "dya", None)]),
        ({"day": {"shape": [2], "data": [1, 2]}}, [(None, "day", None)]),
        (
            {"when": {"data": ["2013-02-30", "2013-01-01Z", 5]}},
            [(0, "when", "2013-02-30"), (1, "when", "2013-01-01Z"), (2, "when", 5)],
        ),
        (
            {"carrier": {"data": [["AA"], {"a": 1}, 5]}},
            [(0, "carrier", "['AA']"), (1, "carrier", "{'a': 1}"), (2, "carrier", 5)],
        ),
    ],
    ids=str,
)
def test_422_lists_every_fault(change: dict[str, Any], faults: list[tuple[Any, ...]]) -> None:
    status, answer = told(read_infer, {"inputs": tensors(**change)})
    assert status == 422
    assert sorted(((f["row"], f["column"], f["value"]) for f in answer["faults"]), key=str) == sorted(faults, key=str)
    assert all(f["problem"] for f in answer["faults"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"dataframe_records": [{}], "dataframe_split": {"columns": [], "data": []}},
        {"dataframe_records": {"delay": [1]}},
        {"dataframe_split": {"columns": ["delay"], "data": [[1, 2]]}},
        {"dataframe_split": {"columns": ["delay", "delay"], "data": [[1, 2]]}},
        {"inputs": [[1]], "instances": [[1]]},
    ],
    ids=str,
)
def test_invocations_400(body: Any) -> None:
    assert told(read_invocation, body)[0] == 400


def test_a_left_out_key_is_null_and_only_some_columns_may_be() -> None:
    records = FRAME.drop(columns=["when", "zoned"]).astype(object).where(FRAME.notna(), None).to_dict("records")
    for record, when, zoned in zip(records, ROWS["when"], ROWS["zoned"], strict=True):
        record |= {"when": when, "zoned": zoned}
    del records[0]["delay"], records[1]["day"]
    status, answer = told(read_invocation, {"dataframe_records": records})
    assert status == 422
    assert [(f["row"], f["column"], f["problem"]) for f in answer["faults"]] == [(1, "day", "is missing")]


def test_the_answer_has_what_was_asked_for() -> None:
    answers = Answers(np.array(["no", "yes", "no"]), np.array([[0.9, 0.1], [0.2, 0.8], [np.nan, 0.4]]))
    asked = Asked(ROWS, 3, [], None, ("probabilities",))
    answer = json.loads(write_infer(SERVED, asked, answers, "a")[0])
    assert answer == {
        "model_name": "flights",
        "model_version": "3",
        "id": "a",
        "parameters": {},
        "outputs": [
            {
                "name": "probabilities",
                "datatype": "FP64",
                "shape": [3, 2],
                "parameters": {"labels": ["no", "yes"]},
                "data": [0.9, 0.1, 0.2, 0.8, None, 0.4],
            }
        ],
    }


@pytest.mark.parametrize(
    ("output", "prediction", "kind"),
    [
        (Output("regression"), np.array([1.5]), "FP64"),
        (Output("classification", (0, 1), "int"), np.array([1]), "INT64"),
        (Output("classification", (False, True), "bool"), np.array([True]), "BOOL"),
        (Output("classification", ("a", "b"), "string"), np.array(["a"], object), "BYTES"),
    ],
)
def test_outputs_are_typed(output: Output, prediction: np.ndarray, kind: str) -> None:
    served = Served("m", 1, "0" * 64, "sklearn", infer(FRAME[["delay"]], output))
    (out,) = protocol.metadata(served)["outputs"]
    assert (out["name"], out["datatype"]) == ("predict", kind)
    asked = Asked({"delay": [1.0]}, 1, [])
    body, _ = write_infer(served, asked, Answers(prediction), "r")
    got = protocol.read_reply(body)
    assert (got.prediction, got.probabilities) == (prediction.tolist(), None)
    told, _ = write_invocation(served, asked, Answers(prediction), "r")
    assert json.loads(told)["predictions"] == prediction.tolist()


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"model_name": "x", "model_version": "1", "outputs": []}'])
def test_a_reply_that_is_none(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        protocol.read_reply(body)
