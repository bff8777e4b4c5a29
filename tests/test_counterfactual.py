"""Every hint is a promise: the model says so at the named value, and the value is legal and was seen."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from deploy_ext.attribution import as_json
from deploy_ext.bundle import Answers
from deploy_ext.contract import infer
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.counterfactual import Axis, Hints, counterfactual
from deploy_ext.output import Output, describe_output
from deploy_ext.profile import measure
from deploy_ext.table import as_frame

RNG = np.random.default_rng(11)
N = 1_500
X = pd.DataFrame(
    {
        "delay": RNG.exponential(20, N).round(2),
        "distance": RNG.integers(100, 3000, N),
        "carrier": RNG.choice(["AA", "B6", "UA"], N, p=[0.5, 0.3, 0.2]),
        "gap": np.where(RNG.random(N) < 0.2, np.nan, RNG.normal(size=N)),
        "sure": RNG.random(N) < 0.7,
        "when": pd.date_range("2024-01-01", periods=N, freq="7h"),
    }
)
PROFILE = measure(X)
YES_NO = infer(X, Output("classification", ("late", "on time"), "string"))


def rule(late: Any) -> Any:
    """A model that says late where `late` of the frame is true."""
    return lambda frame: Answers(np.where(late(frame), "late", "on time").astype(object))


def row(**changes: Any) -> pd.DataFrame:
    base = {"delay": 40.0, "distance": 700, "carrier": "B6", "gap": np.nan, "sure": True, "when": X["when"][9]}
    return pd.DataFrame({k: [v] for k, v in (base | changes).items()}).astype({"when": X["when"].dtype})


def changed(hint: Any, base: pd.DataFrame, contract: Any = YES_NO) -> Any:
    """The row that the hint names."""
    values = contract.rows(base) | {c.column: [c.after] for c in hint.changes}
    return as_frame(contract.rebuild(values))


def test_the_border_of_a_threshold_is_found_and_told_roundly() -> None:
    found = counterfactual(rule(lambda f: f["delay"] > 12.3), row(), YES_NO, PROFILE)
    assert [str(h) for h in found.hints] == ["would be on time if delay <= 12"]
    assert found.hints[0].size == pytest.approx(((X["delay"] > 12) & (X["delay"] <= 40)).mean(), abs=0.01)
    whole = counterfactual(rule(lambda f: f["distance"] < 1234), row(), YES_NO, PROFILE)
    (change,) = whole.hints[0].changes
    assert isinstance(change.after, int) and change.op == ">=" and 1234 <= change.after <= 1234 * 1.05


def test_dates_categories_truth_values_and_gaps() -> None:
    moment = pd.Timestamp("2024-06-01")
    found = counterfactual(
        rule(lambda f: ~((f["when"] >= moment) | (f["carrier"] != "B6") | ~f["sure"] | f["gap"].gt(-9))),
        row(),
        YES_NO,
        PROFILE,
    )
    told = {h.changes[0].column: h.changes[0] for h in found.hints}
    assert set(told) == {"when", "carrier", "sure", "gap"}
    assert told["when"].op == ">=" and pd.Timestamp(told["when"].after) >= moment
    assert (told["carrier"].op, told["carrier"].after) == ("=", "AA")  # the most frequent of those that help
    assert told["sure"].after is False and told["gap"].before is None and told["gap"].op == "="
    assert abs(told["gap"].after) < 0.1  # the median, where any value helps


def test_a_window_is_no_threshold() -> None:
    """Only between 10 and 11 it is on time, so `<= 11` would be a lie."""
    ask = rule(lambda f: ~f["delay"].between(9.0, 12.0))
    (hint,) = counterfactual(ask, row(), YES_NO, PROFILE).hints
    assert hint.changes[0].op == "=" and 9 <= hint.changes[0].after <= 12


def test_two_columns_where_one_is_not_enough() -> None:
    ask = rule(lambda f: ~((f["delay"] < 5) & (f["carrier"] == "AA")))
    found = counterfactual(ask, row(), YES_NO, PROFILE)
    assert found.hints and all(len(h.changes) == 2 for h in found.hints)
    assert {c.column for c in found.hints[0].changes} == {"delay", "carrier"}
    assert all(ask(changed(h, row())).prediction[0] == "on time" for h in found.hints)
    only = counterfactual(ask, row(), YES_NO, PROFILE, columns=["delay"])
    assert only.hints == () and "no change of one or two columns" in only.reason and only.to_json()


def test_the_law_of_the_contract_is_kept() -> None:
    tight = infer(X, YES_NO.output, ranges=["delay=20..60"], only=["carrier"])
    found = counterfactual(rule(lambda f: f["delay"] > 10), row(), tight, PROFILE)
    assert found.hints == ()
    ask = rule(lambda f: f["delay"] > 30)
    (hint,) = counterfactual(ask, row(), tight, PROFILE).hints
    assert not tight.check(changed(hint, row(), tight)) and 20 <= hint.changes[0].after <= 30


def test_a_regression_needs_a_bound() -> None:
    numbers = X[["delay", "distance"]]
    model = RandomForestRegressor(10, random_state=0).fit(numbers, numbers["delay"] * 2)
    contract, profile = infer(numbers, describe_output(model, numbers)), measure(numbers)
    one = numbers.iloc[[int(numbers["delay"].argmax())]]
    found = counterfactual(model, one, contract, profile, want="<= 15")
    assert "would be <= 15 if delay <=" in str(found.hints[0])
    assert model.predict(changed(found.hints[0], one, contract))[0] <= 15
    for wrong in (None, "15", "<= many", 3):
        with pytest.raises(InvalidRequest, match="want='<= 15'"):
            counterfactual(model, one, contract, profile, want=wrong)
    assert counterfactual(model, one, contract, profile, want="> 15").reason == "the model says so already"


def test_three_classes_a_wanted_one_and_probabilities() -> None:
    target = np.array(["early", "fine", "late"])[np.digitize(X["delay"], [5, 25])]
    encode = make_column_transformer((OrdinalEncoder(), ["carrier"]), ("passthrough", ["delay", "distance"]))
    model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=20)).fit(X, target)
    contract = infer(X, describe_output(model, X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = counterfactual(model, row(), contract, PROFILE, want="early")
    assert found.answer == "late" and found.hints[0].changes[0].column == "delay"
    assert all(model.predict(changed(h, row(), contract))[0] == "early" for h in found.hints)
    chance = model.predict_proba(changed(found.hints[0], row(), contract))[0, 0]
    assert found.hints[0].probability == pytest.approx(chance)
    (other,) = counterfactual(model, row(), contract, PROFILE, columns=["delay"]).hints
    assert (str(other).split(" if ")[0], other.changes[0].op) == ("would be fine", "=")  # further down it is early


WINDOWS = st.tuples(st.floats(0, 120), st.floats(0, 60)).map(lambda w: (w[0], w[0] + w[1]))


@settings(max_examples=60, deadline=None)
@given(
    delay=WINDOWS,
    far=st.integers(0, 3200),
    carriers=st.sets(st.sampled_from(["AA", "B6", "UA"])),
    mode=st.sampled_from(["any", "all", "odd"]),
    place=st.integers(0, N - 1),
)
def test_every_hint_is_true(delay: Any, far: int, carriers: set[str], mode: str, place: int) -> None:
    def late(frame: Any) -> Any:
        said = np.column_stack(
            [frame["delay"].between(*delay), frame["distance"] > far, frame["carrier"].isin(carriers)]
        )
        return said.any(axis=1) if mode == "any" else said.all(axis=1) if mode == "all" else said.sum(axis=1) % 2 == 1

    ask, one = rule(late), X.iloc[[place]].reset_index(drop=True)
    found = counterfactual(ask, one, YES_NO, PROFILE)
    assert found.answer == ask(one).prediction[0] and (found.hints or found.reason)
    assert [h.size for h in found.hints] == sorted(h.size for h in found.hints)
    for hint in found.hints:
        asked = changed(hint, one)
        assert not YES_NO.check(asked) and not [f for f in YES_NO.flags(asked) if f.column != "when"]
        assert ask(asked).prediction[0] == hint.answer != found.answer
        for change in hint.changes if len(hint.changes) == 1 else ():
            assert beyond_is_the_same(ask, one, change, hint.answer)


def beyond_is_the_same(ask: Any, one: pd.DataFrame, change: Any, answer: Any) -> bool:
    """What `<=` or `>=` claims, at all that was tried."""
    if change.op == "=":
        return True
    column = next(c for c in YES_NO.columns if c.name == change.column)
    axis = Axis(column, PROFILE[change.column], change.before)
    border = axis.place(change.after)
    some = [v for v in axis.options if (axis.place(v) <= border if change.op == "<=" else axis.place(v) >= border)]
    rows = YES_NO.rows(one)
    table = {n: v * len(some) for n, v in rows.items()} | {change.column: some}
    return bool(some) and set(ask(as_frame(YES_NO.rebuild(table))).prediction.tolist()) == {answer}


def test_the_same_question_has_the_same_answer_and_survives_json() -> None:
    ask = rule(lambda f: f["delay"] + f["distance"] / 100 > 30)
    twice = [counterfactual(ask, X.iloc[5], YES_NO, PROFILE) for _ in range(2)]  # a row as a Series
    assert twice[0] == twice[1] and Hints.from_dict(twice[0].to_dict()) == twice[0]
    assert "size" in repr(twice[0]) and "<table>" in twice[0]._repr_html_()


def test_what_the_profile_does_not_know_is_not_changed() -> None:
    named = X.assign(id=[f"N{i}" for i in range(N)])
    contract = infer(named, YES_NO.output)
    ask = rule(lambda f: f["id"] != "N8")
    found = counterfactual(ask, named.iloc[[3]], contract, measure(named))
    assert found.hints == () and found.reason
    outside = counterfactual(rule(lambda f: f["delay"] > 12), row(delay=9e9), YES_NO, PROFILE)  # never seen
    assert "delay <=" in str(outside.hints[0])
    column = next(c for c in YES_NO.columns if c.name == "when")
    assert as_json(column, 0.0) == "1970-01-01T00:00:00"


def test_errors_say_what_to_type() -> None:
    ask = rule(lambda f: f["delay"] > 12)
    with pytest.raises(InvalidRequest, match="2 rows at once"):
        counterfactual(ask, X.head(2), YES_NO, PROFILE)
    with pytest.raises(InvalidRequest, match="Did you mean 'delay'"):
        counterfactual(ask, row(), YES_NO, PROFILE, columns=["dely"])
    with pytest.raises(InvalidRequest, match="Did you mean 'on time'"):
        counterfactual(ask, row(), YES_NO, PROFILE, want="ontime")
    with pytest.raises(ContractViolated, match="distance"):
        counterfactual(ask, row().drop(columns="distance"), YES_NO, PROFILE)
