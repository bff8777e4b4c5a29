"""The gate language, and what it means for a gate to hold."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from deploy_ext.core import InvalidRequest
from deploy_ext.cost import Costs
from deploy_ext.gates import DEFAULT, FACTS, OPERATORS, Gate, Gates, parse, words
from deploy_ext.judge import judge
from deploy_ext.metrics import METRICS, Metric, interval, margin, paired, score, segments
from deploy_ext.records import Check
from deploy_ext.scored import Scored, trivial

EXAMPLE = """
roc_auc >= 0.85
roc_auc >= champion - 0.005 at 95%      # the paired bootstrap bound, not the point value
f1[origin] >= 0.50                      # the worst segment of a column with at least 50 rows
log_loss <= 0.4
size_mb <= 50
latency_ms.p99 <= 20
baseline.roc_auc >= 0.05                # margin over a trivial model
"""

# ---- reading


def test_the_example_is_read():
    assert parse(EXAMPLE).gates == (
        Gate("roc_auc", ">=", 0.85),
        Gate("roc_auc", ">=", -0.005, champion=True, level=0.95),
        Gate("f1", ">=", 0.5, segment=("origin",)),
        Gate("log_loss", "<=", 0.4),
        Gate("size_mb", "<=", 50.0),
        Gate("latency_ms.p99", "<=", 20.0),
        Gate("baseline.roc_auc", ">=", 0.05),
    )
    assert [gate.line for gate in parse(EXAMPLE).gates] == [2, 3, 4, 5, 6, 7, 8]


GATES = st.builds(
    Gate,
    metric=st.sampled_from(sorted(words())),
    op=st.sampled_from(sorted(OPERATORS.values())),
    number=st.floats(allow_nan=False, allow_infinity=False),
    segment=st.lists(st.text(), max_size=3, unique=True).map(tuple),
    champion=st.booleans(),
    level=st.none() | st.sampled_from([0.51, 0.57, 0.8, 0.95, 0.975, 0.99]),
    warn=st.booleans(),
)


SENSELESS = ("no segments", "one column at a time", "no bounds", "compare ", "compares groups")


LABELS = st.text() | st.booleans() | st.integers(-5, 5)
AMOUNTS = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)  # -0.0 is written 0
PAIRS = st.lists(st.tuples(LABELS, LABELS, AMOUNTS), min_size=1, max_size=3, unique_by=lambda row: row[:2])
COSTS = PAIRS.map(lambda rows: Costs(tuple(rows))) | st.just(Costs(function="pricing.refund"))


@settings(max_examples=300, deadline=None)
@given(st.lists(GATES, min_size=1, max_size=3), COSTS)
def test_what_is_written_is_read_back(gates, costs):
    text = "\n".join([*costs.lines(), *map(str, gates)])
    try:
        parse(text)
    except InvalidRequest as e:  # read, but without sense: a segment of a size
        assert all(any(told in problem for told in SENSELESS) for _, _, problem in e.mistakes)
        reject()
    assert parse(text).gates == tuple(gates)
    assert parse(text).costs == costs
    assert str(parse(text)) == text or any(gate.number == 0 for gate in gates)  # -0.0 is written 0
    assert parse(str(parse(text))).digest == parse(text).digest


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_garbage_is_a_request_error_and_nothing_else(text):
    with pytest.raises(InvalidRequest):
        parse(text)


PIECES = ["roc_auc", "f1", "[", "]", "origin", ">=", "<", "champion", "-", "+", "0.5", "1e999", "at", "95%", "warn"]
PIECES += ["#", "'", '"', "(", ")", ",", ".", "baseline.", "size_mb", "\n", "\\", "lambda: 0", "\t", "é", "\ud800"]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14), st.sampled_from(["", " "]))
def test_garbage_made_of_the_right_words(pieces, space):
    try:
        found = parse(space.join(pieces))
    except InvalidRequest:
        return
    assert parse(str(found)).gates == found.gates


@pytest.mark.parametrize(
    "text", ["(" * 100_000, "-" * 100_000 + "1", "f1" + "[a]" * 10_000, "9" * 10_000, "f1 > " + "9" * 5_000, "f1 > 1\0"]
)
def test_absurd_lines_are_refused(text):
    with pytest.raises(InvalidRequest):
        parse(text)


def test_nothing_is_evaluated(tmp_path):
    make = f"__import__('os').mkdir({str(tmp_path / 'x')!r})"
    for attack in (f"{make} >= 1", f"roc_auc >= {make}", f"f1[{make}] > 1", f"f1 >= champion - {make}"):
        with pytest.raises(InvalidRequest):
            parse(attack)
    assert list(tmp_path.iterdir()) == []


def test_all_mistakes_are_told_at_once_with_their_places():
    text = "roc_auc >= 0.85\nroc_acu >= 0.85\n   f1[origin] >= champoin\n# fine\nlog_loss =< 0.4\nsize_mb < 5 at 95%\n"
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert [(line, column) for line, column, _ in caught.value.mistakes] == [(2, 1), (3, 18), (5, 10), (6, 1)]
    assert str(caught.value).splitlines()[:3] == [
        "4 mistakes in the gates:",
        "line 2: roc_acu >= 0.85",
        "        ^ no metric 'roc_acu'. Did you mean 'roc_auc'?",
    ]


@pytest.mark.parametrize(
    ("line", "column", "told"),
    [
        ("rmse <= 12", 1, "Write 'root_mean_squared_error'"),
        ("baseline.roc_acu >= 0", 1, "Did you mean 'baseline.roc_auc'?"),
        ("latency_ms.p95 <= 20", 1, "Did you mean 'latency_ms.p9"),
        ("f1['größe'] >= champio", 16, "Did you mean 'champion'?"),
        ("f1[a, 0] >= 1", 7, "the name of a column"),
        ("roc_auc >= 0.85 at 95", 20, "'at 95%'"),
        ("roc_auc >= 0.85 at 0.95", 20, "'at 95%'"),
        ("roc_auc >= 0.85 at 100%", 20, "'at 95%'"),
        ("roc_auc <> 0.85", 9, "cannot be read"),
        ("roc_auc is 1", 9, "the operators are"),
        ("0.85 <= roc_auc", 1, "begins with the name of a metric"),
        ("roc_auc", 1, "one comparison"),
        ("0 < roc_auc < 1", 1, "one comparison"),
        ("roc_auc >= 0.8 and f1 >= 0.5", 1, "one comparison"),
        ("load_ms[origin] <= 5", 1, "no segments"),
        ("load_ms <= champion + 5", 1, "compare with a number"),
        ("baseline.f1 >= champion", 1, "compare f1 itself"),
    ],
)
def test_a_mistake_says_where_and_what_was_meant(line, column, told):
    with pytest.raises(InvalidRequest) as caught:
        parse(line)
    ((number, at, problem),) = caught.value.mistakes
    assert (number, at) == (1, column)
    assert told in problem


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet", "   # x\n"])
def test_a_text_without_gates_would_pass_anything(text):
    with pytest.raises(InvalidRequest, match="there is no gate"):
        parse(text)


def test_the_digest_is_of_the_meaning():
    one = parse("roc_auc >= .850   # good enough\n\n")
    assert one.digest == parse("\n\troc_auc>=0.85").digest
    assert one.digest != parse("roc_auc >= 0.851").digest
    assert one.digest != parse("roc_auc >= 0.85 warn").digest
    assert parse("f1 > 0\nf1 < 1").digest != parse("f1 < 1\nf1 > 0").digest


def test_gates_go_to_json_and_back():
    gates = parse(EXAMPLE)
    assert Gates.from_dict(json.loads(gates.to_json())) == gates
    assert "latency_ms.p99 <= 20" in gates._repr_html_().replace("&lt;", "<")


# ---- judging


def classifier(seed: int, skill: float = 1.5, rows: int = 1_000) -> Scored:
    """A third of the flights are late; LGA is hard; EWR has few rows. Truth and frame depend on `rows` alone."""
    fixed = np.random.default_rng(rows)
    late = fixed.random(rows) < 0.33
    origin = fixed.choice(["JFK", "LGA", "EWR"], rows, p=[0.6, 0.38, 0.02])
    noise = np.random.default_rng(seed).normal(size=rows) * np.where(origin == "LGA", 2, 1)
    p = 1 / (1 + np.exp(-(skill * (late - 0.5) + noise - 0.5)))
    frame = pd.DataFrame({"origin": origin, "dep delay": np.linspace(-10, 60, rows)})
    return Scored(late, p > 0.5, np.column_stack([1 - p, p]), (False, True), frame)


def one(text: str, scored: Scored, champion: Scored | None = None, facts: dict[str, float] | None = None) -> Check:
    (check,) = judge(parse(text), scored, champion=champion, trivial=trivial(scored), facts=facts or {})
    return check


CANDIDATE, CHAMPION = classifier(1), classifier(2)
AUC = score("roc_auc", CANDIDATE).value or 0.0
ALONE = interval("roc_auc", CANDIDATE)
LOSS = interval("log_loss", CANDIDATE)
BESIDE = paired("roc_auc", CANDIDATE, CHAMPION)
BESIDE_LOSS = paired("log_loss", CANDIDATE, CHAMPION)
E = 1e-6


@pytest.mark.parametrize(
    ("text", "bound", "upwards"),
    [
        ("roc_auc >= {}", ALONE.value, True),
        ("roc_auc > {}", ALONE.value, True),
        ("roc_auc >= {} at 95%", ALONE.low, True),
        ("log_loss <= {}", LOSS.value, False),
        ("log_loss < {} at 95%", LOSS.high, False),
        ("roc_auc >= champion + {}", BESIDE.value, True),
        ("roc_auc >= champion + {} at 95%", BESIDE.low, True),
        ("log_loss <= champion + {} at 95%", BESIDE_LOSS.high, False),
        ("baseline.roc_auc >= {} at 95%", (ALONE.low or 0) - 0.5, True),
        ("baseline.log_loss >= {}", margin("log_loss", CANDIDATE, trivial(CANDIDATE)).value, True),
    ],
)
def test_a_gate_holds_up_to_its_bound_and_no_further(text, bound, upwards):
    inside, outside = (bound - E, bound + E) if upwards else (bound + E, bound - E)
    assert one(text.format(f"{inside:.9f}"), CANDIDATE, CHAMPION).passed is True
    assert one(text.format(f"{outside:.9f}"), CANDIDATE, CHAMPION).passed is False


def test_equal_means_equal_to_twelve_digits():
    s = Scored(np.ones(1_000, int), (np.arange(1_000) < 900).astype(int), None, (0, 1))
    better = Scored(s.truth, (np.arange(1_000) < 905).astype(int), None, (0, 1))
    assert one("accuracy == 0.9", s).passed
    assert one("accuracy >= champion - 0.005", s, better).passed
    assert not one("accuracy > champion - 0.005", s, better).passed
    assert not one("accuracy == 0.901", s).passed


def test_every_interval_is_shown():
    for text in ("roc_auc > 0", "roc_auc > 0 at 80%", "roc_auc >= champion - 1", "f1[origin] > 0", "baseline.f1 > 0"):
        check = one(text, CANDIDATE, CHAMPION)
        assert check.low is not None and check.value is not None and check.high is not None
        assert check.low < check.value < check.high


def test_a_comparison_tells_the_champion_and_the_difference():
    check = one("roc_auc >= champion - 0.2 at 95%", CANDIDATE, CHAMPION)
    assert f"champion {score('roc_auc', CHAMPION).value:.4g}" in check.detail
    assert f"({BESIDE.low:+.4g} .. {BESIDE.high:+.4g})" in check.detail


def test_a_point_that_would_do_while_its_bound_does_not_is_told():
    assert "the value would do" in one(f"roc_auc >= {AUC - 0.001} at 95%", CANDIDATE).detail
    assert "the value would do" not in one(f"roc_auc >= {AUC + 0.001} at 95%", CANDIDATE).detail


def test_without_a_champion_a_comparison_is_skipped_visibly():
    for text in ("roc_auc >= champion - 0.005 at 95%", "f1[origin] >= champion"):
        check = one(text, CANDIDATE)
        assert (check.passed, check.result) == (None, "skip")
        assert "no champion" in check.detail


def test_warn_stops_nobody():
    assert one("roc_auc >= 0.999 warn", CANDIDATE).result == "warn"


# ---- parts


def test_the_worst_part_decides_and_is_named():
    check = one("roc_auc[origin] >= 0.5", CANDIDATE)
    assert "worst origin: LGA" in check.detail
    assert "1 of 3 parts have fewer than 50 rows" in check.detail
    parts = {p.segment: p.value for p in segments("roc_auc", CANDIDATE, "origin")}
    assert check.value == parts["LGA"] == min(v for v in parts.values() if v is not None)
    assert "worst dep delay: " in one("log_loss['dep delay'] <= 9", CANDIDATE).detail


def test_a_part_is_judged_by_its_bound_and_against_the_champion_there():
    lga = np.flatnonzero(CANDIDATE.frame["origin"] == "LGA")
    there = paired("roc_auc", CANDIDATE.take(lga), CHAMPION.take(lga)).low or 0.0
    jfk = np.flatnonzero(CANDIDATE.frame["origin"] == "JFK")
    elsewhere = paired("roc_auc", CANDIDATE.take(jfk), CHAMPION.take(jfk)).low or 0.0
    least = min(there, elsewhere)
    text = "roc_auc[origin] >= champion - {:.9f} at 95%"
    assert one(text.format(-least + E), CANDIDATE, CHAMPION).passed
    assert not one(text.format(-least - E), CANDIDATE, CHAMPION).passed


def test_no_part_with_enough_rows_is_skipped_visibly():
    check = one("f1[origin] >= 0.5", classifier(1, rows=40))
    assert check.passed is None
    assert "skipped" in check.detail


def test_a_part_without_a_value_does_not_count_but_is_named():
    where = np.repeat(["all late", "mixed"], 100)
    late = np.concatenate([np.ones(100, bool), np.arange(100) % 2 == 0])
    p = np.where(late, 0.8, 0.2)
    s = Scored(late, p > 0.5, np.column_stack([1 - p, p]), (False, True), pd.DataFrame({"where": where}))
    check = one("roc_auc[where] >= 0.9", s)
    assert check.passed
    assert "all late has no value: Only one class" in check.detail
    nowhere = one("roc_auc[where] >= 0.9", s.take(np.arange(100)))
    assert nowhere.passed is False


# ---- what cannot be shown


def test_what_cannot_be_shown_fails_with_its_reason():
    labels_only = replace(CANDIDATE, probabilities=None)
    assert "no probabilities" in one("log_loss <= 9", labels_only).detail
    assert "no probabilities" in one("roc_auc >= champion - 1", CANDIDATE, replace(CHAMPION, probabilities=None)).detail
    assert "too few for bounds" in one("accuracy >= 0 at 95%", classifier(1, rows=15)).detail
    assert "no rows" in one("accuracy >= 0", CANDIDATE.take(np.arange(0))).detail
    assert "not measured" in one("size_mb <= 50", CANDIDATE).detail
    assert "not measured" in one("size_mb <= 50", CANDIDATE, facts={"size_mb": math.nan}).detail
    checks = [one("log_loss <= 9", labels_only), one("accuracy >= 0 at 95%", classifier(1, rows=15))]
    assert [c.passed for c in checks] == [False, False]


def test_a_failing_metric_of_a_user_is_a_failed_check_and_the_others_run(monkeypatch):
    def fare(s: Scored) -> float:
        return s.frame["fare"].sum()

    monkeypatch.setitem(METRICS, "fare", Metric("fare", "money", fare))
    checks = judge(parse("fare >= 0\naccuracy >= 0"), CANDIDATE, champion=None, trivial=trivial(CANDIDATE), facts={})
    assert [c.passed for c in checks] == [False, True]
    assert checks[0].detail == "fare failed with KeyError: 'fare'"


def test_facts_are_compared_as_they_are():
    for name in FACTS:
        assert one(f"{name} <= 20", CANDIDATE, facts={name: 20}).passed
        assert not one(f"{name} < 20", CANDIDATE, facts={name: 20}).passed


def test_gates_that_do_not_fit_the_model_are_no_verdict():
    text = "accuracy >= 0.5\nr2 >= 0.5\nbaseline.r2 >= 0\nf1[orgin] >= 0.5"
    with pytest.raises(InvalidRequest) as caught:
        judge(parse(text), CANDIDATE, champion=None, trivial=trivial(CANDIDATE), facts={})
    assert [line for line, _, _ in caught.value.mistakes] == [2, 3, 4]
    assert "roc_auc" in str(caught.value) and "Did you mean 'origin'?" in str(caught.value)


# ---- the default


def regression(seed: int) -> Scored:
    truth = np.random.default_rng(0).normal(10, 3, 500)
    return Scored(truth, truth + np.random.default_rng(seed).normal(size=500))


def manyclass(seed: int, skill: float = 1.0) -> Scored:
    truth = np.random.default_rng(0).integers(3, size=600)
    right = np.random.default_rng(seed).random(600) < 0.4 + 0.4 * skill
    words_ = np.array(["early", "late", "on time"])
    return Scored(words_[truth], words_[np.where(right, truth, (truth + 1) % 3)], None, tuple(words_))


@pytest.mark.parametrize("good", [CANDIDATE, regression(1), manyclass(1)])
def test_the_default_passes_a_good_model_and_refuses_a_trivial_or_worse_one(good):
    text = DEFAULT["regression" if good.kind == "regression" else "classification"]

    def results(s: Scored, champion: Scored | None) -> list[str]:
        return [c.result for c in judge(parse(text), s, champion=champion, trivial=trivial(s), facts={})]

    assert results(good, None) == ["pass", "skip"]
    assert results(good, good) == ["pass", "pass"]
    assert results(trivial(good), good) == ["fail", "fail"]


def test_the_worst_crossing_decides() -> None:
    origin, month = np.repeat(["EWR", "JFK"], 400), np.tile(np.repeat([1, 2], 200), 2)
    truth = np.tile([True, False], 400)
    said = np.where((origin == "JFK") & (month == 2), ~truth, truth)
    scored = Scored(truth, said, None, (False, True), pd.DataFrame({"origin": origin, "month": month}))
    gates = parse("accuracy[origin] >= 0.5\naccuracy[origin,month] >= 0.5")
    single, crossed = judge(gates, scored, champion=None, trivial=trivial(scored), facts={})
    assert (single.value, single.passed) == (0.5, True)
    assert (crossed.metric, crossed.value, crossed.passed) == ("accuracy[origin,month]", 0.0, False)
    assert "worst origin, month: JFK, 2, 200 rows" in crossed.detail
