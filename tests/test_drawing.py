"""Plots as SVG: anything is drawn, names stay names, and the user's own figures stay as they were."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from dossiers import DRAWN, GAP
from hypothesis import given, settings

from deploy_ext.dossier import Section
from deploy_ext.drawing import draw
from deploy_ext.records import Plot


@settings(max_examples=80, deadline=None)
@given(DRAWN)
def test_anything_is_drawn(plot: Plot) -> None:
    seen: list[Any] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    logging.getLogger("matplotlib").addHandler(handler)
    try:
        svg = draw(Section("x", "y", plots=(plot,)).plots[0])
    finally:
        logging.getLogger("matplotlib").removeHandler(handler)
    ElementTree.fromstring(svg)
    assert not re.search(r'(?i)https?:|<style|<script|href="[^#]|font-family| id="(?!d[0-9a-f]{10}-)', svg)
    assert [record.getMessage() for record in seen if record.levelno >= logging.WARNING] == []


def drawn_text(plot: Plot) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(draw(plot)).iter("text")]


def test_names_are_shown_as_they_are() -> None:
    names = ("<script>", "$x^2$", "_hidden", "a & b", "100 %", r"\frac", "中文", "x" * 90, "\x00a\nb\u202e")
    shown = drawn_text(Plot("", "bars", "", "", {"": (names, (1.0,) * len(names))}))
    assert set(names[:7]) <= set(shown)
    assert "x" * 33 + "…" in shown and "a b" in shown


def test_a_missing_value_is_no_zero() -> None:
    shown = drawn_text(Plot("", "bars", "", "", {"": (("a", "b"), (GAP, 0.0))}))
    assert shown[-2:] == ["-", "0"]


def test_moments_are_drawn_on_a_calendar() -> None:
    days = tuple(str(d.date()) for d in pd.date_range("2026-10-28", periods=8))
    shown = drawn_text(Plot("", "lines", "", "", {"": (days, tuple(map(float, range(8))))}))
    assert "Nov" in shown
    assert "a" in drawn_text(Plot("", "lines", "", "", {"": (("a", "b"), (1.0, 2.0))}))


def test_the_users_own_figures_and_settings_are_left_alone() -> None:
    code = """
import sys
from deploy_ext.drawing import draw
from deploy_ext.records import Plot
plots = [Plot("a", kind, "x", "y", {"s": ((1, 2), (3.0, 4.0))}, guide=1.0, diagonal=True) for kind in ("bars", "lines")]
first = [draw(p) for p in plots]
assert "matplotlib.pyplot" not in sys.modules
import matplotlib, hashlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
plt.style.use("dark_background")
plt.rcParams["font.size"] = 31
plt.figure(); plt.plot([1, 2])
before = dict(plt.rcParams), plt.get_fignums(), matplotlib.get_backend(), len(plt.gcf().axes)
from deploy_ext import drawing
drawing._drawn.cache_clear()
assert [draw(p) for p in plots] == first
assert (dict(plt.rcParams), plt.get_fignums(), matplotlib.get_backend(), len(plt.gcf().axes)) == before
print(hashlib.sha256("".join(first).encode()).hexdigest())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 65
