"""Dossiers for tests: one with every result in it, one of hostile names, and all others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from deploy_ext.dossier import Dossier, Section
from deploy_ext.records import Check, Plot, Verdict

WHEN = datetime(2026, 11, 21, 14, 3, tzinfo=UTC)
GAP: Any = None  # in the values of a plot
CHECKS = (
    Check("roc_auc", 0.8521, ">= 0.8 at 95%", True, 0.8391, 0.8653),
    Check("drift.psi[income]", 0.31, "<= 0.25", False, warn=True, detail="since May"),
    Check("selection_rate_ratio[race]", 0.71, ">= 0.8", False, 0.66, 0.75, detail="least: black"),
    Check("f1", None, ">= champion - 0.01", None, detail="skipped: there is no champion to compare with"),
)
NASTY = "<script>alert(1)</script> $x^2$ \x00\x0b \u202e 中文 🛩 \ud800 ]]> --> &amp; \" ' `" + "w" * 3000
PLOTS = (
    Plot("bars", "bars", "group", "rate", {"": (("a", "b", None), (0.2, GAP, -0.3))}, guide=0.25),
    Plot("lines", "lines", "day", "psi", {"x": (("2026-11-01", "2026-11-02"), (0.1, 0.2)), "y": ((), ())}),
    Plot("points", "points", "a", "b", {"x": ((1, 2.5), (1e308, 5e-324))}, diagonal=True),
)


def verdict(*checks: Check, name: str = "flights") -> Verdict:
    return Verdict(name, 3, checks, "1" * 64, "2" * 64, "3" * 64, 28_889, WHEN)


SECTIONS = (
    Section("scores", "0.85", ({"metric": "roc_auc", "value": 0.8521},), {"roc_auc": 0.8521, "f1": "no champion"}),
    Section("fairness", "2 groups", plots=PLOTS, facts={"selection_rate_ratio[race]": 0.71}, seconds=1.25),
    Section("drift", "1 of 9 columns", notes="against 5,000 rows"),
    Section("adversarial", "", seconds=20, error="timed out after 20 s"),
    Section("cases", "12 of 12 hold"),
)
FULL = Dossier(verdict(*CHECKS), SECTIONS, {"selection_rate_ratio": "the four-fifths rule"})

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
WILD = st.text(st.characters(), max_size=12)
PLACES = st.one_of(st.none(), st.floats(), st.text(max_size=4), st.datetimes(), st.booleans())
POINT_PAIRS = st.lists(st.tuples(PLACES, st.one_of(st.none(), st.floats())), max_size=6)
SERIES_SETS = st.dictionaries(
    WILD, POINT_PAIRS.map(lambda p: tuple(zip(*p, strict=True)) if p else ((), ())), max_size=3
)
DRAWN = st.builds(
    Plot,
    WILD,
    st.sampled_from(["bars", "lines", "points"]),
    WILD,
    WILD,
    SERIES_SETS,
    st.none() | st.floats(),
    st.booleans(),
)
PARTS = st.builds(
    Section,
    WILD,
    WILD,
    st.lists(st.dictionaries(WILD, JSON, max_size=3), max_size=3).map(tuple),
    st.dictionaries(WILD, st.floats() | WILD, max_size=3),
    st.lists(DRAWN, max_size=1).map(tuple),
    st.floats(),
    WILD,
    WILD,
)
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
ANY_CHECK = st.builds(
    Check, WILD, NUMBERS, WILD, st.sampled_from([True, False, None]), NUMBERS, NUMBERS, st.booleans(), WILD
)


def hostile() -> Dossier:
    plot = Plot(NASTY, "bars", NASTY, NASTY, {NASTY: ((NASTY, None), (1.0, GAP)), "": (("a",), (2.0,))})
    part = Section(NASTY, NASTY, ({NASTY: NASTY, "pass": "fail", "": None},), {NASTY: NASTY}, (plot,), 1, NASTY, NASTY)
    checks = (Check(NASTY, None, NASTY, False, detail=NASTY), Check(NASTY, float("inf"), NASTY, None))
    return Dossier(verdict(*checks, name=NASTY), (part, part), {NASTY: NASTY})
