"""The verdict as a page and as JSON: known answers, hostile names, and what a browser makes of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dossiers import ANY_CHECK, CHECKS, FULL, PARTS, SECTIONS, WHEN, WILD, hostile, verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from playwright.sync_api import Browser

from deploy_ext.core import InvalidRequest
from deploy_ext.dossier import KEPT, Dossier, Section, judged, mark, page, read, schema, section
from deploy_ext.records import Check, Plot, Record
from deploy_ext.sheet import CUT, STYLE


class Balance(HTMLParser):
    """Fails on a tag that is closed and was not open, and keeps the names, attributes and text of what is there."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


# records


@dataclass(frozen=True, repr=False)
class Judged(Record):
    rows: Any
    found: Any

    def facts(self) -> dict[str, Any]:
        return self.found

    def _title(self) -> str:
        return "what was found"

    def _rows(self) -> list[dict[str, Any]]:
        return self.rows


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (-np.inf, None),
        (np.float32("inf"), None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (pd.NA, None),
        (pd.NaT, None),
        (np.datetime64("NaT"), None),
        (np.datetime64("2026-11-21"), "2026-11-21"),
        (pd.Timestamp("2026-11-21 14:03"), "2026-11-21 14:03:00"),
        (WHEN, "2026-11-21 14:03:00+00:00"),
        (date(2026, 11, 21), "2026-11-21"),
        (pd.Timedelta("1h"), "0 days 01:00:00"),
        (Decimal("1.5"), "1.5"),
        ((1, np.nan), [1, None]),
        ({"b", "a"}, ["a", "b"]),
        (np.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
        (np.array(["2026-11-21", "NaT"], "datetime64[D]"), ["2026-11-21", None]),
        (pd.Series([1.0, None]), [1.0, None]),
        ({1: {"x": np.nan}}, {"1": {"x": None}}),
        (Path("/x"), "/x"),
        ("\ud800", "?"),
        (10**30, 10**30),
    ],
)
def test_values_made_plain(value: Any, plain: Any) -> None:
    found = Section("a", "b", ({"v": value},))
    assert found.rows == ({"v": plain},)
    assert type(found.rows[0]["v"]) is type(plain)
    assert Section.from_dict(json.loads(found.to_json())) == found


def test_a_section_of_a_record() -> None:
    found = section("x", Judged([{"a": np.nan}], {"a": np.float64(1), "b": np.nan, "c": "too few"}), np.float64(0.25))
    told = Section("x", "what was found", ({"a": None},), {"a": 1.0, "b": "the value is nan", "c": "too few"}, (), 0.25)
    assert found == told


def test_a_section_of_a_record_that_has_only_a_table() -> None:
    found = section("x", CHECKS[0])
    assert found.rows == tuple(CHECKS[0]._rows()) and found.facts == {} and found.plots == ()


def test_a_long_table_is_kept_in_part_and_says_so() -> None:
    found = section("x", Judged([{"a": i} for i in range(KEPT + 5)], {}))
    assert len(found.rows) == KEPT and "the first 1,000 of 1,005 rows" in found.notes


@pytest.mark.parametrize(
    "series", [{"s": ((1, 2), (1,))}, {"s": (("a",), ("b",))}, {"s": ((1,),)}, {"s": ((1,), (1,), (1,))}]
)
def test_a_plot_that_cannot_be_drawn_is_refused_at_once(series: Any) -> None:
    with pytest.raises(InvalidRequest, match="series 's'"):
        Section("x", "y", plots=(Plot("p", "lines", "", "", series),))


def test_an_unknown_kind_of_plot() -> None:
    with pytest.raises(InvalidRequest, match="Did you mean 'lines'"):
        Section("x", "y", plots=(Plot("p", "line", "", "", {}),))


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS, max_size=3))
def test_any_sections_survive_json_and_fit_the_schema(parts: list[Section]) -> None:
    told = Dossier(verdict(*CHECKS), tuple(parts))
    text = told.to_json()
    text.encode()
    assert read(text) == told
    Draft202012Validator(schema()).validate(json.loads(text))


def described(data: Any, of: Any, whole: Any) -> None:
    """Every field that is written is described."""
    of = whole["$defs"][of["$ref"].rpartition("/")[2]] if "$ref" in of else of
    if "properties" in of:
        assert set(data) == set(of["properties"]) == set(of["required"])
        for key, value in data.items():
            described(value, of["properties"][key], whole)
    for value in data if of.get("type") == "array" and "items" in of and of["items"] else ():
        described(value, of["items"], whole)


def test_the_schema_is_one_and_describes_all() -> None:
    Draft202012Validator.check_schema(schema())
    data = json.loads(FULL.to_json())
    Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(data)
    described(data, schema(), schema())
    assert data["format"] == 1 and data["passed"] is False and data["verdict"]["passed"] is False


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("verdict"),
        lambda d: d["sections"][0].pop("error"),
        lambda d: d["sections"][1]["plots"][0].update(kind="pie"),
        lambda d: d["sections"][1]["plots"][0]["series"].update(a=[[1]]),
        lambda d: d["sections"][0]["facts"].update(roc_auc=None),
        lambda d: d["verdict"]["checks"][0].update(value="0.8"),
        lambda d: d.update(format=2),
    ],
    ids=["no verdict", "no error", "kind", "series", "fact", "value", "format"],
)
def test_the_schema_refuses(spoil: Any) -> None:
    data = json.loads(FULL.to_json())
    spoil(data)
    assert not Draft202012Validator(schema()).is_valid(data)


def test_read_ignores_what_it_does_not_know_and_refuses_what_it_cannot_read() -> None:
    data = json.loads(FULL.to_json())
    data["sections"][0]["later"] = data["later"] = 1
    assert read(json.dumps(data)) == FULL
    for text in ("", "[]", "{}", "null", '{"verdict": 3}', json.dumps(data | {"format": 2})):
        with pytest.raises(InvalidRequest):
            read(text)


def test_the_marks_of_sections() -> None:
    marks = {s.name: mark(s, own) for s, own in judged(FULL)}
    assert marks == {"scores": "skip", "fairness": "fail", "drift": "warn", "adversarial": "error", "cases": "info"}


def test_every_check_has_at_most_one_section() -> None:
    same = replace(FULL, sections=(*SECTIONS, *SECTIONS))
    assert sum(len(own) for _, own in judged(same)) == len(CHECKS)


def test_the_text_is_short() -> None:
    lines = repr(FULL).splitlines()
    assert lines[0] == "flights/3: FAILED on 28,889 rows" and len(lines) == 1 + 1 + 4 + 1 + 1 + 1 + 5
    assert re.search("adversarial +error +timed out after 20 s", lines[-2])


# the page


def test_the_page_in_words() -> None:
    said = Balance(page(FULL)).said
    start = said[: said.index("Checks")]
    for words in (
        "✕ FAILED",
        "flights, version 3",
        "1 of 4 checks failed. This version may not be promoted.",
        "1 check did not hold, which only gives a warning.",
        "1 check could not be decided.",
        "1 judge gave no answer: adversarial.",
        "selection_rate_ratio[race] is 0.71 (range 0.66 .. 0.75); it must be at least 0.8.",
        "The four-fifths rule. Least: black",
        "28,889 rows",
        "2026-11-21 14:03:00 UTC",
        "111111111111",
        "222222222222",
        "333333333333",
    ):
        assert words in start, words
    assert "This judge gave no answer. timed out after 20 s" in said


def test_failed_checks_come_first() -> None:
    said = Balance(page(FULL)).said
    table = said[said.index("threshold detail") :]
    order = ["selection_rate_ratio[race]", "drift.psi[income]", "f1", "roc_auc"]
    assert [table.index(name) for name in order] == sorted(table.index(name) for name in order)


def test_more_than_thirty_bars_are_counted_in_the_caption() -> None:
    many = Plot("importance", "bars", "", "", {"": (tuple(map(str, range(57))), (1.0,) * 57)})
    pairs = Plot("rates", "bars", "", "", {s: (tuple(map(str, range(20))), (1.0,) * 20) for s in "ab"})
    said = Balance(page(Dossier(verdict(), (Section("x", "", plots=(many, pairs)),)))).said
    assert "Importance (30 of 57 shown)" in said and "Rates (15 of 20 shown)" in said


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ((), "No gate was asked, so nothing speaks against this version, and nothing for it."),
        (CHECKS[:1], "The only check passed. This version may be promoted."),
        (CHECKS[:1] * 2, "All 2 checks passed. This version may be promoted."),
        (CHECKS[:2], "1 of 2 checks passed, none failed. This version may be promoted."),
        (CHECKS[3:], "0 of 1 check passed, none failed. This version may be promoted."),
    ],
)
def test_what_follows_from_the_verdict(checks: tuple[Check, ...], words: str) -> None:
    said = Balance(page(Dossier(verdict(*checks)))).said
    assert words in said and "✓ PASSED" in said and "FAILED" not in said


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (">= 0.8 at 95%", "at least 0.8 with 95% confidence"),
        ("<= champion - 0.01", "at most that of the champion - 0.01"),
        ("== 0", "exactly 0"),
        ("> 1", "more than 1"),
    ],
)
def test_a_threshold_in_words(threshold: str, words: str) -> None:
    said = Balance(page(Dossier(verdict(Check("m", None, threshold, False))))).said
    assert f"m has no value; it must be {words}." in said


def test_a_judge_that_was_not_asked_says_why_and_one_without_a_finding_fails() -> None:
    told = Dossier(
        verdict(Check("explain", None, "a finding", False, detail="TimedOut")),
        (
            Section("explain", "explain", error="TimedOut"),
            Section("fairness", "fairness", notes="nobody named columns"),
        ),
    )
    assert [mark(*pair) for pair in judged(told)] == ["error", "info"]
    said = Balance(page(told)).said
    assert "explain has no value; it needs a finding. TimedOut" in said
    assert "Fairness between groups fairness nobody named columns" in said
    assert repr(told).splitlines()[-1].split() == ["fairness", "info", "nobody", "named", "columns"]


def test_a_legend_says_what_the_axis_does_not() -> None:
    alone = Plot("", "bars", "", "rate", {"rate": (("a",), (1.0,))}, guide=0.0)
    told = Plot("", "bars", "", "rate", {"x": (("a",), (1.0,))}, guide=0.5)
    pages = [page(Dossier(verdict(), (Section("x", "", plots=(plot,)),))) for plot in (alone, told)]
    assert ['class="legend"' in p for p in pages] == [False, True] and "at 0.5" in pages[1]


def test_fifty_checks_and_forty_sections() -> None:
    checks = tuple(Check(f"m{i}", i / 50, ">= 0.5", i >= 25) for i in range(50))
    parts = tuple(Section(f"s{i}", f"line {i}", tuple({"row": j} for j in range(i * 3))) for i in range(40))
    told = Dossier(verdict(*checks), parts)
    found = Balance(page(told))
    links = [a["href"] for tag, a in found.tags if tag == "a"]
    ids = [a["id"] for tag, a in found.tags if tag == "section" and "id" in a]
    assert links == [f"#{i}" for i in ids] and len(set(ids)) == 40
    assert "25 of 50 checks failed" in found.said and "and 20 more, below." in found.said
    assert f"{117 - CUT} more rows are in the JSON" in found.said
    assert sum(tag == "tr" for tag, _ in found.tags) <= 51 + 40 * (CUT + 1)
    assert len(repr(told).splitlines()) == 1 + 51 + 1 + 1 + 41


def test_rows_of_different_columns() -> None:
    parts = Section("x", "", ({"a": 1}, {"b": 2, "a": None}), facts={"long": "y" * 5000})
    found = Balance(page(Dossier(verdict(), (parts,))))
    assert "a b 1 - - 2" in found.said
    assert "a  b" in repr(parts)


ALLOWED = {"html", "head", "body", "meta", "title", "style", "div", "header", "nav", "section", "details", "summary"}
ALLOWED |= {
    "h2",
    "h3",
    "p",
    "b",
    "ul",
    "li",
    "dl",
    "dt",
    "dd",
    "code",
    "span",
    "small",
    "a",
    "i",
    "figure",
    "figcaption",
}
ALLOWED |= {"table", "thead", "tbody", "tr", "th", "td", "svg", "g", "path", "use", "text", "defs", "clippath", "rect"}
ATTRIBUTES = {
    "class",
    "id",
    "style",
    "title",
    "href",
    "open",
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "role",
}
ATTRIBUTES |= {"aria-label", "viewbox", "d", "x", "y", "width", "height", "transform", "clip-path"}


def harmless(text: str) -> None:
    found = Balance(text)
    for tag, attributes in found.tags:
        assert tag in ALLOWED and set(attributes) <= ATTRIBUTES, (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
        assert not re.search(r"url\((?!#)|expression|import", attributes.get("style") or "")
    assert "\x00" not in text and "\u202e" not in text and text.encode()


def test_hostile_names() -> None:
    told = hostile()
    harmless(page(told))
    harmless(told._repr_html_())
    harmless(told.sections[0]._repr_html_())
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x^2$" in page(told)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_CHECK, max_size=3), st.lists(PARTS, max_size=2), WILD)
def test_any_page(checks: list[Check], parts: list[Section], name: str) -> None:
    told = Dossier(verdict(*checks, name=name), tuple(parts), {"m": name})
    harmless(page(told))
    assert isinstance(repr(told), str)


def test_the_page_asks_no_network() -> None:
    text = page(FULL)
    assert not re.search(r"https?://|//[a-z]|@import|src=", text)
    assert "Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text


def test_the_fragment_styles_nothing_else() -> None:
    fragment = FULL._repr_html_()
    assert not re.search("<html|<body|<head>|<!doctype", fragment)
    sheets = re.findall("<style>(.*?)</style>", fragment, re.S)
    assert sheets == [STYLE] and STYLE.strip().startswith(":is(.deploy-ext-dossier, #deploy-ext-dossier) {")
    depth = 0
    for i, c in enumerate(STYLE.strip()):  # nothing stands outside of the one block
        depth += {"{": 1, "}": -1}.get(c, 0)
        assert depth > 0 or i < STYLE.strip().index("{") or i == len(STYLE.strip()) - 1


def test_a_page_is_the_same_twice() -> None:
    assert page(FULL) == page(read(FULL.to_json()))


# a browser


def luminance(colour: str) -> float:
    channels = [float(c) / 255 for c in re.findall(r"[\d.]+", colour)[:3]]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True)
    )


def contrast(one: str, two: str) -> float:
    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Browser, tmp_path: Path, scheme: Any) -> None:
    path = tmp_path / "dossier.html"
    path.write_text(page(FULL))
    tab, asked, said = browser.new_page(color_scheme=scheme), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(path.as_uri())
    assert asked == [path.as_uri()] and said == []
    back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(back) < 0.1) == (scheme == "dark")
    for selector in ("header .word", "header h2", "td", ".mark.pass", ".mark.warn", "figure svg text"):
        of = "fill" if "svg" in selector else "color"
        colour = tab.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{of}")
        assert contrast(colour, back) >= 4.5, selector
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.set_viewport_size({"width": 400, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.locator("nav a").nth(3).click()
    assert tab.locator("section:target h3").inner_text().startswith("!")
    tab.close()


@pytest.mark.browser
def test_on_paper_it_is_dark_on_white_and_unfolded(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "dossier.html"
    long = Section("simple", "long", tuple({"row": f"row {i}"} for i in range(CUT + 1)))
    path.write_text(page(replace(FULL, sections=(*SECTIONS, long))))
    tab = browser.new_page(color_scheme="dark", viewport={"width": 690, "height": 1000})
    tab.goto(path.as_uri())
    assert not tab.get_by_text("row 3", exact=True).is_visible()
    tab.emulate_media(media="print")
    assert tab.get_by_text("row 3", exact=True).is_visible()
    assert luminance(tab.evaluate("getComputedStyle(document.querySelector('td')).color")) < 0.1
    assert tab.evaluate("[...document.querySelectorAll('table')].every(t => t.getBoundingClientRect().right <= 690)")
    assert tab.pdf(format="A4").startswith(b"%PDF")
    tab.close()


@pytest.mark.browser
def test_in_a_notebook_the_rest_stays_as_it_was(browser: Browser) -> None:
    other = "<table><tr><td id=t>a</td></tr></table><h2 id=h>b</h2><svg><path id=p d='M 0 0'/></svg>"
    look = "['t', 'h', 'p'].map(i => JSON.stringify(Object.entries(getComputedStyle(document.getElementById(i)))))"
    tab = browser.new_page()
    seen = []
    for inside in ("", FULL._repr_html_()):
        tab.set_content(f'<body data-jp-theme-light="false" style="color: #eee">{other}<div>{inside}</div></body>')
        seen.append(tab.evaluate(look))
    assert seen[0] == seen[1]
    word = tab.evaluate("getComputedStyle(document.querySelector('.word')).color")
    assert contrast(word, "rgb(17, 17, 17)") >= 4.5
    tab.close()
