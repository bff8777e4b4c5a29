"""Attacks on models whose weak points are known: borders at known distances, answers known by heart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier
from stories import COLUMNS, flights, good

from deploy_ext.attacks import ENOUGH, MINIMUM, WORDS, Adversarial, attack, membership, surrogate
from deploy_ext.bundle import Answers, answer
from deploy_ext.contract import Contract, infer
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.output import Output, describe_output
from deploy_ext.profile import measure
from deploy_ext.scored import Scored

BINARY = Output("classification", (False, True), "bool")
RNG = np.random.default_rng(5)
WEIGHTS = np.array([3.0, -1.0, 0.5, 0.0])
TABLE: Any = pd.DataFrame(RNG.normal([0, 100, -5, 1], [1, 20, 0.1, 4], (4_000, 4)), columns=list("abcd"))
MEAN, DEVIATION = TABLE.mean().to_numpy(), TABLE.std(ddof=0).to_numpy()
WIDE = [f"{name}={m - 40 * d}..{m + 40 * d}" for name, m, d in zip("abcd", MEAN, DEVIATION, strict=True)]


def margin(frame: Any) -> np.ndarray:
    """The side of a border: linear in standard deviations."""
    return (frame[list("abcd")].to_numpy(float) - MEAN) / DEVIATION @ WEIGHTS


def linear(frame: Any) -> Answers:
    return Answers(margin(frame) > 0)


def attacked(ask: Any, table: Any = TABLE, output: Output = BINARY, **rules: Any) -> Adversarial:
    return attack(ask, table, infer(table, output, ranges=rules.pop("ranges", ())), measure(table), **rules)


def test_words_are_the_facts() -> None:
    told = attacked(linear).facts() | surrogate(linear, TABLE, infer(TABLE, BINARY)).facts()
    told |= membership(None, Scored(np.array([True]), np.array([True]), labels=(False, True))).facts()
    assert {name for name in told if "[" not in name} == set(WORDS)
    assert {name for name in told if "[" in name} == {f"adversarial.fragile[{c}]" for c in "abcd"}


@pytest.mark.parametrize("rows", [10, 40])
def test_the_distance_of_a_linear_border(rows: int) -> None:
    """The least largest step over a hyperplane is margin / sum of weights."""
    asked: list[Any] = []

    def ask(frame: Any) -> Answers:
        asked.append(frame)
        return linear(frame)

    found = attacked(ask, ranges=WIDE, rows=rows)
    exact = abs(margin(asked[0])) / abs(WEIGHTS).sum()
    assert found.rows == len(asked[0]) == rows == found.turned
    assert found.smallest is not None and np.median(exact) <= found.smallest <= np.median(exact) * 1.1
    assert found.flip_rate == pytest.approx(np.mean(exact <= 1), abs=1 / rows)
    assert sum(map(len, asked)) == found.queries + rows
    shares = {c.column: c.share for c in found.columns}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["a"] > shares["b"] > shares["c"] >= shares["d"] and shares["d"] < 0.02


def test_more_budget_comes_nearer() -> None:
    few, many = (attacked(linear, ranges=WIDE, rows=20, budget=b).smallest for b in (1, 1_000))
    assert few is not None and many is not None and many <= few


def test_only_legal_rows_are_asked_and_others_stay() -> None:
    table = TABLE.assign(a=TABLE.a.round().astype(int), word="x", gap=TABLE.d.where(TABLE.d > 0))
    contract = infer(table, BINARY, ranges=["a=-3..3", "b=..130"], nullable=["gap"])
    asked: list[Any] = []

    def ask(frame: Any) -> Answers:
        assert contract.check(frame) == [] and list(frame) == contract.names
        assert dict(frame.dtypes) == dict(table.dtypes)
        asked.append(frame)
        return Answers((frame.a + (frame.b - 100) / 20 + frame.gap.fillna(0) / 8 > 1).to_numpy())

    inside = table[(table.a.abs() <= 3) & (table.b <= 130)]
    found = attack(ask, inside, contract, measure(inside), rows=30)
    every = pd.concat(asked)
    assert every.a.between(-3, 3).all() and every.b.max() <= 130
    assert every.c.between(table.c.min(), table.c.max()).all()  # no law: what training saw
    assert set(every.word) == {"x"} and {c.column for c in found.columns} == {"a", "b", "c", "d", "gap"}
    assert every.gap.isna().any() and asked[0].gap.isna().sum() / 30 == pytest.approx(every.gap.isna().mean(), abs=0.15)


def test_whole_numbers_as_by_brute_force() -> None:
    table = pd.DataFrame({"i": RNG.integers(-10, 11, 500), "j": RNG.integers(-10, 11, 500)})
    contract, profile = infer(table, BINARY), measure(table)
    asked: list[Any] = []

    def ask(frame: Any) -> Answers:
        assert frame.i.dtype == frame.j.dtype == "int64"
        asked.append(frame)
        return Answers((2 * frame.i + frame.j > 4).to_numpy())

    found = attack(ask, table, contract, profile, rows=25)
    grid = np.array([(i, j) for i in range(-10, 11) for j in range(-10, 11)])
    deviation = table.std(ddof=0).to_numpy()
    exact = []
    for row in asked[0].to_numpy():
        other = (grid @ [2, 1] > 4) != (row @ [2, 1] > 4)
        exact.append(abs((grid[other] - row) / deviation).max(axis=1).min())
    assert found.smallest == pytest.approx(float(np.median(exact)))
    assert found.flip_rate == pytest.approx(float(np.mean(np.array(exact) <= 1)))


def test_steps_of_a_tree() -> None:
    model = DecisionTreeClassifier(max_depth=1).fit(TABLE, TABLE.b > 110)
    asked: list[Any] = []

    def ask(frame: Any) -> Answers:
        asked.append(frame)
        return Answers(model.predict(frame))

    found = attacked(ask, rows=30)
    exact = np.median(abs(asked[0].b - model.tree_.threshold[0]) / TABLE.b.std(ddof=0))  # pyright: ignore
    assert found.smallest is not None and exact <= found.smallest * (1 + 1e-9)
    assert found.smallest <= exact * 1.05
    assert found.columns[0].column == "b" and found.columns[0].share > 0.99


def test_many_labels_and_probabilities() -> None:
    names = np.array(["low", "middle", "high"])

    asked: list[Any] = []

    def ask(frame: Any) -> Answers:
        asked.append(frame)
        codes = np.digitize(frame.a, [-0.5, 0.5])
        return Answers(names[codes], np.eye(3)[codes])

    found = attacked(ask, output=Output("classification", tuple(names), "string", True))
    exact = abs(abs(asked[0].a) - 0.5) / TABLE.a.std(ddof=0)
    assert found.flip_rate == float((exact <= 1).mean()) and found.smallest == pytest.approx(exact.median(), rel=0.1)
    assert found.columns[0].column == "a" and found.columns[0].share > 0.9


def test_a_model_that_cannot_be_turned() -> None:
    found = attacked(lambda f: Answers(np.zeros(len(f), bool)))
    assert (found.flip_rate, found.smallest, found.turned, found.columns, found.plots()) == (0.0, None, 0, (), ())
    assert "no change within the limits was found that turns half of the rows (0 of 50)" in repr(found)
    assert str(found.facts()["adversarial.smallest"]).startswith("no change within the limits")
    json.loads(found.to_json())


def test_a_contract_is_a_defence() -> None:
    """Rows far from the border, in a contract that does not reach it."""
    table = TABLE[TABLE.a < -1]
    free, held = (
        attack(lambda f: Answers((f.a > 0).to_numpy()), table, infer(table, BINARY, ranges=[span]), measure(TABLE))
        for span in ("a=-9..9", "a=-9..-1")
    )
    assert free.turned == 50 and held.turned == 0 and held.flip_rate == 0.0


@pytest.mark.parametrize(
    ("table", "output", "told"),
    [
        (TABLE, Output("regression"), "a regression has no labels that could be turned"),
        (pd.DataFrame({"w": ["a", "b"] * 20, "t": [True, False] * 20}), BINARY, "no numeric column can be moved"),
        (pd.DataFrame({"x": [5.0] * 40, "y": [2**60 + 1, 2**60 + 2] * 20}), BINARY, "no numeric column can be moved"),
        (TABLE.iloc[: MINIMUM - 1], BINARY, f"too few: 9 rows, {MINIMUM} are needed"),
    ],
)
def test_texts_where_there_is_no_number(table: Any, output: Output, told: str) -> None:
    found = attacked(lambda f: Answers(np.zeros(len(f))), table, output)
    assert set(found.facts().values()) == {told} and told in repr(found)


def test_a_closed_set_is_not_moved() -> None:
    table = pd.DataFrame({"a": RNG.normal(size=90), "k": [1, 2, 3] * 30})
    asked: list[Any] = []

    def ask(frame: Any) -> Answers:
        asked.append(frame)
        return Answers((frame.a + frame.k > 2).to_numpy())

    found = attack(ask, table, infer(table, BINARY, only=["k"]), measure(table))
    assert [c.column for c in found.columns] == ["a"] and set(pd.concat(asked).k) == {1, 2, 3}


def test_rows_that_are_not_legal() -> None:
    contract, profile = infer(TABLE, BINARY), measure(TABLE)
    with pytest.raises(ContractViolated, match="a: is missing"):
        attack(linear, TABLE.assign(a=np.nan), contract, profile)
    with pytest.raises(ContractViolated, match="no rows"):
        surrogate(linear, TABLE.head(0), contract)
    for judged in (
        lambda: attack(linear, TABLE, contract, profile, rows=0),
        lambda: surrogate(linear, TABLE, contract, 0),
    ):
        with pytest.raises(InvalidRequest, match="at least 1"):
            judged()
    for judged in (lambda: attacked(lambda f: f["q"]), lambda: surrogate(lambda f: f["q"], TABLE, contract)):
        with pytest.raises(InvalidRequest, match=r"does not answer the rows as they are \(KeyError: 'q'\)"):
            judged()


def test_a_model_that_raises_in_the_search() -> None:
    def ask(frame: Any) -> Answers:
        if (frame.a > TABLE.a.max() - 0.5).any():
            raise OverflowError
        return Answers((frame.a > 0).to_numpy())

    found = attacked(ask, TABLE[TABLE.a < 2], rows=10)
    assert found.rows == 10 and json.loads(found.to_json())["queries"] > 0


def test_a_model_that_looks_at_the_batch_does_not_hang() -> None:
    found = attacked(lambda f: Answers((f.a > f.a.mean()).to_numpy()), rows=10, budget=100)
    assert found.rows == 10


def test_an_error_ends_every_search() -> None:
    """What is no error of the model, such as an interrupt, is not swallowed, and leaves no thread behind."""
    before, count = threading.active_count(), 0

    def ask(frame: Any) -> Answers:
        nonlocal count
        count += 1
        if count == 30:
            raise KeyboardInterrupt
        return linear(frame)

    with pytest.raises(KeyboardInterrupt):
        attacked(ask, rows=10)
    assert count == 30 and threading.active_count() == before


def test_it_leaves_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    np.random.seed(3)
    expected = np.random.random(3)
    np.random.seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = attacked(linear, rows=12)
    assert np.random.random(3) == pytest.approx(expected)
    before = threading.active_count()
    assert attacked(linear, rows=12) == one
    assert threading.active_count() == before
    assert capfd.readouterr() == ("", "")
    assert "torch" not in sys.modules and "tensorflow" not in sys.modules


def test_log_files_stay_open(tmp_path: Path) -> None:
    """The toolbox configures all of logging when it is first imported, which is a process of its own here."""
    code = """if True:
        import logging, sys
        import numpy as np, pandas as pd
        from deploy_ext.attacks import attack
        from deploy_ext.bundle import Answers
        from deploy_ext.contract import infer
        from deploy_ext.output import Output
        from deploy_ext.profile import measure
        logging.basicConfig(filename=sys.argv[1], filemode="w", level="INFO")
        table = pd.DataFrame({"x": np.linspace(-1, 1, 50)})
        contract = infer(table, Output("classification", (False, True), "bool"))
        attack(lambda f: Answers((f.x > 0).to_numpy()), table, contract, measure(table), rows=10)
        logging.warning("still here")
        """
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "log"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "still here" in (tmp_path / "log").read_text()


def test_no_folder_of_the_toolbox_stays_in_the_home_folder(tmp_path: Path) -> None:
    code = "from deploy_ext.attacks import _toolbox; _toolbox(); import os; print(os.environ['HOME'])"
    home = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=home)
    assert done.stdout.strip() == str(tmp_path), done.stderr
    assert not (tmp_path / ".art").exists()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'deploy_ext\[robust\]'"):
        attacked(linear)


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from(["float64", "Int64", "float32", "int8"]), min_size=1, max_size=3),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_any_table(dtypes: list[str], seed: int, gaps: bool) -> None:
    rng = np.random.default_rng(seed)
    columns = {}
    for i, dtype in enumerate(dtypes):
        values = pd.Series(rng.integers(-9, 10, 30)).astype(dtype)
        columns[f"x{i}"] = values.mask(rng.random(30) < 0.3) if gaps and dtype in ("float64", "Int64") else values
    table = pd.DataFrame(columns)
    contract = infer(table, BINARY)

    def ask(frame: Any) -> Answers:
        assert contract.check(frame) == []
        exact: Any = contract.require(frame)
        return Answers(exact.astype("float64").fillna(0).sum(axis=1).to_numpy() > seed % 7)

    found = attack(ask, table, contract, measure(table), rows=12, budget=60)
    assert found == attack(ask, table, contract, measure(table), rows=12, budget=60)
    assert found.reason or sum(c.share for c in found.columns) == pytest.approx(1)
    assert Adversarial.from_dict(json.loads(found.to_json())) == found
    assert repr(found) and found._repr_html_() and all(map(repr, found.plots()))


def test_flights() -> None:
    model, frame = good(), flights(3, 3_000)[COLUMNS]
    contract: Contract = infer(frame, describe_output(model, frame))

    def ask(rows: Any) -> Answers:
        return answer(model, contract, contract.require(rows))

    found = attack(ask, frame, contract, measure(frame))
    assert found.columns[0].column == "dep_delay" and found.columns[0].share > 0.8
    assert found.smallest is not None and 0.1 < found.smallest < 1.5
    copy = surrogate(ask, frame, contract)
    assert copy.agreement is not None and copy.constant is not None
    assert copy.agreement > 0.95 > copy.constant


# stealing


def test_a_rule_is_copied_and_a_lottery_is_not() -> None:
    contract = infer(TABLE, BINARY)
    rule = surrogate(lambda f: Answers((f.a > 0).to_numpy()), TABLE, contract)
    assert rule.agreement is not None and rule.agreement > 0.99 and rule.answers == 1_000
    assert rule.constant == pytest.approx(0.5, abs=0.05)
    tossed = np.random.default_rng(2).random(10_000) > 0.5
    lottery = surrogate(lambda f: Answers(tossed[: len(f)]), TABLE, contract)
    assert lottery.agreement == pytest.approx(0.5, abs=0.06)
    assert surrogate(linear, TABLE, contract) == surrogate(linear, TABLE, contract)


def test_a_copy_of_a_regression() -> None:
    model = LinearRegression().fit(TABLE, margin(TABLE))
    contract = infer(TABLE, Output("regression"))
    copy = surrogate(lambda f: Answers(model.predict(f)), TABLE, contract)
    assert copy.agreement is not None and 0.9 < copy.agreement < 1
    assert copy.constant == pytest.approx(0, abs=0.02)
    flat = surrogate(lambda f: Answers(np.full(len(f), 0.1)), TABLE, contract)
    assert flat.facts() == {"surrogate.agreement": "all predictions are the same on these rows"}
    strange = surrogate(lambda f: Answers(np.full(len(f), np.nan)), TABLE, contract)
    assert strange.facts() == {"surrogate.agreement": "some answers are no numbers"}


def test_copies_of_strange_models() -> None:
    words = pd.DataFrame({"w": RNG.choice(list("abc"), 400), "t": pd.Timestamp("2013-01-01"), "b": [True, False] * 200})
    words.loc[::9, "w"] = None
    contract = infer(words, BINARY)
    copy = surrogate(lambda f: Answers((f.w.isna() | (f.w == "b")).to_numpy(bool)), words, contract)
    assert copy.agreement == 1.0
    constant = surrogate(lambda f: Answers(np.zeros(len(f), bool)), words, contract)
    assert (constant.agreement, constant.constant) == (1.0, 1.0)
    few = surrogate(lambda f: Answers(np.zeros(len(f), bool)), words.head(99), contract)
    assert few.facts() == {"surrogate.agreement": f"too few: 49 answers to learn from, {ENOUGH} are needed"}
    many = Output("classification", tuple(range(40)), "int")
    far = TABLE.assign(a=TABLE.a * 1e300)
    bins = surrogate(lambda f: Answers(np.digitize(f.b, np.linspace(60, 140, 39))), far, infer(far, many))
    assert bins.agreement is not None and bins.agreement > 0.9


# membership


def scored(model: Any, rows: Any, truth: Any) -> Scored:
    return Scored(truth, model.predict(rows), model.predict_proba(rows), tuple(model.classes_.tolist()))


@pytest.fixture(scope="module")
def forest() -> tuple[Scored, Scored]:
    truth = margin(TABLE) + RNG.normal(0, 3, len(TABLE)) > 0
    model = RandomForestClassifier(20, random_state=0).fit(TABLE[:1000], truth[:1000])
    return scored(model, TABLE[:1000], truth[:1000]), scored(model, TABLE[1000:2500], truth[1000:2500])


def test_membership_as_sklearn_has_it(forest: tuple[Scored, Scored]) -> None:
    found = membership(*forest)
    sure = [s.probabilities[np.arange(s.rows), s.truth.astype(int)] for s in forest]
    exact = roc_auc_score(np.repeat([1, 0], [1000, 1500]), np.concatenate(sure))
    assert found.auc == pytest.approx(exact) and exact > 0.7
    assert (found.members, found.others, found.sure) == (1000, 1500, "members")
    turned = membership(forest[1], forest[0])
    assert turned.auc == pytest.approx(exact) and turned.sure == "others"
    assert membership(forest[0], forest[0]).auc == pytest.approx(0.5)


def test_membership_without_probabilities(forest: tuple[Scored, Scored]) -> None:
    plain = [Scored(s.truth, s.prediction, None, s.labels) for s in forest]
    gap = [float(np.mean(s.truth == s.prediction)) for s in forest]
    assert membership(*plain).auc == pytest.approx(0.5 + (gap[0] - gap[1]) / 2)


def test_membership_of_a_regression() -> None:
    truth = RNG.normal(size=400)
    near, far = (Scored(truth, truth + by * RNG.normal(size=400)) for by in (0.01, 1.0))
    found = membership(near, far)
    assert found.auc is not None and found.auc > 0.95 and found.sure == "members"


def test_membership_that_cannot_be_told(forest: tuple[Scored, Scored]) -> None:
    members, others = forest
    assert membership(None, others).facts() == {"membership.auc": "the training rows are not at hand"}
    few = membership(members.take(np.arange(ENOUGH - 1)), others)
    assert few.facts() == {"membership.auc": f"too few: 49 rows, {ENOUGH} are needed on both sides"}
    strange = Scored(np.full(60, "maybe", object), others.prediction[:60], others.probabilities[:60], others.labels)
    assert "too few: 0 rows" in str(membership(strange, others).facts()["membership.auc"])
    with pytest.raises(InvalidRequest, match="Ask one model about both"):
        membership(members, Scored(others.truth, others.prediction, None, others.labels))


def test_a_column_without_any_value_does_not_hinder_a_copy() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=200), "gone": np.where(rng.random(200) < 0.5, np.nan, 1.0)})
    contract = infer(frame, BINARY)
    found = surrogate(lambda f: Answers((f["a"] > 0).to_numpy(), None), frame.assign(gone=np.nan), contract)
    assert found.agreement is not None and found.agreement > 0.9
