"""Secrets: found in three places, never pickled, and hidden in every form that ordinary code gives to them."""

from __future__ import annotations

import base64
import copy
import html
import json
import os
import pickle
import pprint
import re
import shlex
import subprocess
import sys
import textwrap
import urllib.parse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import nbformat
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from deploy_ext.core import InvalidRequest
from deploy_ext.disguises import forms
from deploy_ext.scrubber import BLOCK, Scrubber
from deploy_ext.secret import COMMON, Secret, resolve

TOKEN = 'kX9fz2!Qw7/Lr"0+sT4'
PEM = (
    "-----BEGIN PRIVATE KEY-----\n"
    + base64.encodebytes(Random(5).randbytes(400)).decode()
    + "-----END PRIVATE KEY-----\n"
)


def colored(text: str) -> str:
    """As a highlighter does it: a code before each run of letters."""
    return re.sub(r"(\w+)", "\x1b[31m\\1\x1b[39;49;00m", text)


APPEARANCES: dict[str, Callable[[str], str]] = {
    "itself": str,
    "repr": repr,
    "repr of repr": lambda s: repr(repr(s)),
    "bytes": lambda s: repr(s.encode()),
    "JSON": json.dumps,
    "JSON in JSON": lambda s: json.dumps({"body": json.dumps({"k": s})}),
    "JSON in UTF-8": lambda s: json.dumps(json.dumps(s, ensure_ascii=False), ensure_ascii=False),
    "ascii": ascii,
    "unicode_escape": lambda s: s.encode("unicode_escape").decode(),
    "quote": urllib.parse.quote,
    "quote of all": lambda s: urllib.parse.quote(s, safe=""),
    "quote_plus": urllib.parse.quote_plus,
    "quoted again": lambda s: urllib.parse.quote(urllib.parse.quote(s, safe="")),
    "query": lambda s: urllib.parse.urlencode({"key": s, "n": 1}),
    "HTML": html.escape,
    "HTML without quotes": lambda s: html.escape(s, quote=False),
    "HTML of repr": lambda s: html.escape(repr(s)),
    "HTML by numbers": lambda s: s.encode("ascii", "xmlcharrefreplace").decode(),
    "shell": shlex.quote,
    "hex": lambda s: s.encode().hex(),
    "HEX": lambda s: s.encode().hex().upper(),
    "hex with colons": lambda s: s.encode().hex(":"),
    "hex of C": lambda s: "".join(f"\\x{b:02x}" for b in s.encode()),
    "hex list": lambda s: ", ".join(map(hex, s.encode())) if min(s.encode()) > 15 else s,
    "numbers": lambda s: str(list(s.encode())),
    "numbers, lines": lambda s: json.dumps(list(s.encode()), indent=2),
    "reversed": lambda s: s[::-1],
    "list": lambda s: str(list(s)) if not set(s) & set("'\"\\\n\r\t") and s.isprintable() else s,
    "spaces": " ".join,
    "commas": ", ".join,
    "one a line": "\n".join,
    "wrapped": lambda s: "\n".join(s[i : i + 5] for i in range(0, len(s), 5)),
    "wrapped, indented": lambda s: "\r\n    # ".join(s[i : i + 7] for i in range(0, len(s), 7)),
    "wrapped in repr": lambda s: repr("\n".join(s[i : i + 4] for i in range(0, len(s), 4))) if s.isprintable() else s,
    "pprint of bytes": lambda s: pprint.pformat(s.encode("ascii", "ignore") if s.isascii() else s, width=20),
    "colored": colored,
    "every character colored": lambda s: "".join(f"\x1b[38;5;{i}m{c}\x1b[0m" for i, c in enumerate(s)),
    "every character in a span": lambda s: "".join(f'<span class="a">{c}</span>' for c in s),
    "base64 of e-mail": lambda s: base64.encodebytes(("long " * 20 + s + " more").encode()).decode(),
    "repr of that": lambda s: repr(base64.encodebytes(("long " * 20 + s + " more").encode())),
    "hex of a page": lambda s: "\n".join(textwrap.wrap(s.encode().hex(), 32)),
} | {
    f"base64 after {n}, {coding.__name__}": lambda s, n=n, c=coding: c(f"{'x' * n}{s}{'y' * n}".encode()).decode()
    for n in range(4)
    for coding in (base64.b64encode, base64.urlsafe_b64encode)
}  # fmt: skip

secret = st.one_of(
    st.text("abcdefXYZ0189", min_size=4, max_size=30),
    st.text("abXY09-_.~/+=@:", min_size=4, max_size=60),
    st.text("aZ9 '\"\\%&<>\n\t#éß日😀", min_size=4, max_size=24),
    st.text(min_size=4, max_size=24, alphabet=st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])),
).filter(
    lambda s: (
        s == s.strip()
        and len(s) >= 4
        and len(set(s)) > 2
        and "*" not in s
        and "\x85" not in s
        and s.lower() not in COMMON
    )
)
around = st.text("qjvw ,.;\n|()é*", max_size=40)


def remains(value: str, name: str, before: str, after: str) -> None:
    scrubber = Scrubber({"s": value})
    shown = APPEARANCES[name](value)
    text = before + " " + shown + " " + after
    assert scrubber.leaks(text)
    done = scrubber.text(text)
    assert not scrubber.leaks(done)
    assert value not in done and shown not in done
    assert done.startswith(before) and done.endswith(after)


@settings(max_examples=80, deadline=None)
@given(secret, st.sampled_from(sorted(APPEARANCES)), around, around)
def test_no_form_remains(value: str, name: str, before: str, after: str) -> None:
    assume(not any(map(Scrubber({"s": value}).leaks, (before, after))))
    remains(value, name, before, after)


@pytest.mark.parametrize("name", APPEARANCES)
@pytest.mark.parametrize("value", [TOKEN, "kX9fz2Qw7Lr0sT4uVx1y", "hunter2!", "99'\"\\x", "p@ß 1"])
def test_no_form_of_these_remains(name: str, value: str) -> None:
    remains(value, name, "", "")
    remains(value, name, "key=", "\n")


@pytest.mark.parametrize("name", APPEARANCES)
def test_what_is_left_of_a_form_tells_nothing(name: str) -> None:
    """Of a long token without special characters at most three of its characters stay, or those that surround it."""
    value = "kX9fz2Qw7Lr0sT4uVx1y"
    text = APPEARANCES[name](value)
    done = Scrubber({"s": value}).text(text)
    rest = re.sub(r"\x1b\[[\d;]*m|</?span[^>]*>|\\n|[^\w]", "", done.replace("***", ""))
    surrounding = Scrubber({"s": value}).text(APPEARANCES[name]("#" * 20))
    if not name.startswith(("base64", "repr of that")):
        assert len(rest) <= 3 + len(re.sub(r"[^\w]|23|35|#|x1b\[[\d;]*m", "", surrounding)), (done, surrounding)
    assert "kX9fz2" not in done


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), secret, min_size=1),
    st.text("kjqKJQ79 \n.,+/=\\%&<>\x1b[m'\"", max_size=300),
)
def test_a_text_without_the_secret_stays(values: dict[str, str], text: str) -> None:
    """No character of the values is in the text, in either case: but encoded they may be."""
    scrubber = Scrubber(values)
    for value in values.values():
        for c in set(value) & set(text):
            text = text.replace(c, "")
    assert scrubber.text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "hunter's 2 hunters went hunting; hunter 2, hunter3!",
        "aHVudGVy",  # base64 of less than the whole
        "68756e746572",
        "h-u n-t e-r 2!",
        "h,u;n,t;e,r;2!",
        "\x1b[31mhunter\x1b[0m 3!",
        "!2retnuh",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert Scrubber({"s": "hunter2!x"}).text(text) == text


def test_pictures_are_not_spoiled_by_chance() -> None:
    """Two million characters of random base64 have none of thirty random secrets."""
    rng = Random(0)
    data = base64.b64encode(rng.randbytes(1_500_000)).decode()
    secrets = {str(i): base64.b64encode(rng.randbytes(6)).decode() for i in range(30)}
    assert Scrubber(secrets).spans(data) == []


@settings(max_examples=30, deadline=None)
@given(
    st.lists(secret, min_size=1, max_size=3),
    st.lists(st.one_of(around, st.sampled_from(sorted(APPEARANCES))), max_size=6),
    st.data(),
)
def test_a_stream_shows_what_the_whole_shows(values: list[str], plan: list[str], data: st.DataObject) -> None:
    scrubber = Scrubber({str(i): v for i, v in enumerate(values)})
    text = "".join(APPEARANCES[p](values[i % len(values)]) if p in APPEARANCES else p for i, p in enumerate(plan))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=20)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    live = scrubber.stream()
    shown = [live.feed(chunk) for chunk in chunks]
    assert "".join([*shown, live.close()]) == scrubber.text(text)


@pytest.mark.parametrize("name", APPEARANCES)
def test_a_stream_of_single_characters(name: str) -> None:
    scrubber = Scrubber({"a": TOKEN, "b": "other-Secret"})
    text = f"before {APPEARANCES[name](TOKEN)} other-Secret {APPEARANCES[name](TOKEN)}"
    live = scrubber.stream()
    assert "".join([live.feed(c) for c in text] + [live.close()]) == scrubber.text(text)


def test_a_stream_holds_nothing_back_for_nothing() -> None:
    live = Scrubber({"token": "kX9fz2Qw7Lr0sT4uVx1y"}).stream()
    for line in ("epoch 1, loss 0.31\n", "task\n", "  5%|#    | 1/20 [00:01<00:19]", "\rdone\n", "kX\n", "x!"):
        assert live.feed(line) == line
    assert live.feed("\nk\n") == "\n"  # a letter alone on its line may be the first of many
    assert live.feed("z\n") == "k\nz\n"
    assert live.feed("the key is kX9f") == "the key is "
    assert live.feed("z and so on.") == "kX9fz and so on."
    assert live.feed("kX9fz2Qw7Lr0sT4uVx1y") == "***"  # complete: nothing to wait for


def test_a_long_secret_in_a_stream() -> None:
    scrubber = Scrubber({"key": PEM})
    for text in (PEM, base64.b64encode(PEM.encode()).decode(), PEM.encode().hex(), PEM.replace("\n", "")):
        whole = f"here\n{text}\nthere\n"
        for size in (64, 100_000) if text != PEM else (3, 64):
            live = scrubber.stream()
            chunks = [whole[i : i + size] for i in range(0, len(whole), size)]
            done = "".join([*map(live.feed, chunks), live.close()])
            assert done == scrubber.text(whole)
            assert done.startswith("here\n") and done.endswith("there\n") and not scrubber.leaks(done)
    assert live.feed("epoch 1\n") == "epoch 1\n"


def test_a_key_of_many_lines() -> None:
    scrubber = Scrubber({"key": PEM})
    lines = PEM.splitlines()
    assert scrubber.text(f"first {lines[3]}!") == "first ***!"
    for text in (
        json.dumps({"key": PEM}),
        repr(PEM),
        textwrap.indent(PEM, "    "),
        urllib.parse.quote(PEM),
        str(PEM.split("\n")),
    ):
        done = scrubber.text(text)
        assert not any(line in done for line in lines[1:-2]), done
        assert len(re.sub(r"%..|\W", "", done)) < 70  # BEGIN, END and the few characters of the last line
    assert scrubber.text("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"


def test_blocks_of_a_large_text() -> None:
    scrubber = Scrubber({"a": TOKEN, "b": "second one"})
    for at in (BLOCK - 25, BLOCK - 10, BLOCK - 1, BLOCK, 2 * BLOCK - 3):
        text = "." * at + TOKEN + "," * BLOCK + "SECOND ONE" + ";"
        assert scrubber.text(text) == "." * at + "***" + "," * BLOCK + "***;"


@settings(max_examples=30, deadline=None)
@given(secret, st.sampled_from(sorted(APPEARANCES)), around)
def test_asking_for_letters_first_misses_nothing(value: str, name: str, before: str) -> None:
    text = f"{before} {APPEARANCES[name](value)}"
    found = {m.span() for form in forms(value) for m in form.whole.finditer(text)}
    joined = Scrubber({"s": value}).spans(text)
    assert all(any(a <= b and d <= e for a, e in joined) for b, d in found)


def test_secrets_that_overlap_are_hidden_together() -> None:
    scrubber = Scrubber({"a": "abcdefgh", "b": "efghijkl", "c": "cdef"})
    assert scrubber.text("x abcdefghijkl y") == "x *** y"
    assert scrubber.text("x efgh y") == "x efgh y"
    assert scrubber.text("x abcdefghabcdefgh y") == "x *** y"
    assert Scrubber({"a": "abcdeabc"}).text("x abcdeabcdeabc y") == "x *** y"


def test_a_secret_with_the_mark_in_it() -> None:
    scrubber = Scrubber({"a": "*ab*cd*"})
    done = scrubber.text("*ab*cd*ab*cd*")
    assert scrubber.mark == "[hidden]" and not scrubber.leaks(done)


def test_nothing_to_hide() -> None:
    scrubber = Scrubber({})
    assert scrubber.text("a") == "a" and scrubber.stream().feed("a") == "a" and not scrubber.leaks("a" * 100_000)


def test_bytes_keep_what_is_no_text() -> None:
    scrubber = Scrubber({"a": "schlüssel-1"})
    assert scrubber.data(b"\xff\xfe schl\xc3\xbcssel-1 \x80") == b"\xff\xfe *** \x80"
    assert scrubber.leaks(b"\x00schl\xc3\xbcssel-1\x00") and not scrubber.leaks(b"\xff" * 50)
    assert scrubber.leaks(pickle.dumps({"x": str(Secret("schlüssel-1", "a"))}))


# --- values and notebooks ---------------------------------------------------------------------------------------------


@dataclass
class Odd:
    token: str

    def __str__(self) -> str:
        return f"Odd with {self.token!s}"


def test_values() -> None:
    scrubber = Scrubber({"t": TOKEN, "pin": "83461729"})
    value = {"a": [1, 2.5, None, True, TOKEN], TOKEN: {"x": (TOKEN, "y")}, "n": 83461729, "p": Path("/x") / "83461729"}
    assert scrubber.value(value) == {
        "a": [1, 2.5, None, True, "***"],
        "***": {"x": ("***", "y")},
        "n": "***",
        "p": "***",
    }
    assert scrubber.value(value | {"s": {TOKEN, "b"}})["s"] == {"***", "b"}
    assert scrubber.value([list(TOKEN), list(TOKEN.encode())]) == [["***"] + [""] * (len(TOKEN) - 1), "***"]
    assert scrubber.value({"first": TOKEN[:9], "x": {"a": 83461, "b": 729}})["first"] == TOKEN[:9]  # no digits apart
    assert scrubber.value([Secret(TOKEN), TOKEN.encode(), Odd(TOKEN)]) == ["***", b"***", "***"]
    assert value["a"][-1] == TOKEN  # not changed in place
    plain = {"b": [1, ("x", 2)], "c": {"d": {3, 4}}, "e": b"x"}
    assert scrubber.value(plain) == plain


CELL = {"cell_type": "code", "id": "a", "execution_count": 1, "metadata": {}, "source": ""}


def cleaned(outputs: list[dict], scrubber: Scrubber | None = None) -> list[dict]:
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{**CELL, "outputs": outputs}]}
    before = copy.deepcopy(notebook)
    done = (scrubber or Scrubber({"t": TOKEN})).notebook(notebook)
    assert notebook == before
    nbformat.validate(nbformat.from_dict(done))
    assert not Scrubber({"t": TOKEN}).leaks(json.dumps(done))
    return done["cells"][0]["outputs"]


def stream(text: str | list[str], name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def test_streams_in_pieces() -> None:
    pieces = [stream("a " + TOKEN[:4]), stream("warning\n", "stderr"), stream(TOKEN[4:9]), stream(TOKEN[9:] + " b")]
    assert [o["text"] for o in cleaned(pieces)] == ["a ***", "warning\n", "", " b"]
    mixed = [stream("a " + TOKEN[:4]), stream(TOKEN[4:] + "\n", "stderr"), stream("c")]
    assert [o["text"] for o in cleaned(mixed)] == ["a ***", "\n", "c"]
    lines = [stream(["x\n", TOKEN + "\n", "y\n"]), stream(["z"])]
    assert [o["text"] for o in cleaned(lines)] == [["x\n", "***\n", "y\n"], ["z"]]


def test_tracebacks() -> None:
    shown = ["\x1b[31m---\x1b[39m", f"File x\n  \x1b[32mlogin\x1b[39m({colored(TOKEN)})", f"E: {TOKEN}"]
    error = {"output_type": "error", "ename": "E", "evalue": f"no {TOKEN}", "traceback": shown}
    done = cleaned([error])[0]
    assert len(done["traceback"]) == 3 and done["evalue"] == "no ***"
    assert done["traceback"][0] == shown[0] and done["traceback"][2] == "E: ***"
    assert done["traceback"][1].count("\x1b[39;49;00m") >= 1  # the colours end where they did
    split = {**error, "evalue": "x", "traceback": ["a " + TOKEN[:6], TOKEN[6:] + " b"]}
    assert cleaned([split])[0]["traceback"] == ["a ***", " b"]


def test_data_of_every_kind() -> None:
    picture = base64.b64encode(b"\x89PNG\r\n" + bytes(range(256))).decode()
    data = {
        "text/plain": [f"a {TOKEN}\n", "b"],
        "text/html": f"<td>{html.escape(TOKEN)}</td>",
        "image/svg+xml": f"<svg>{html.escape(TOKEN)}</svg>",
        "application/json": {"k": [{TOKEN: 1}], "n": 5, "chars": list(TOKEN), "bytes": list(TOKEN.encode())},
        "application/vnd.plotly.v1+json": {"layout": {"title": TOKEN}},
        "application/javascript": f"x = {json.dumps(TOKEN)}",
        "image/png": picture,
    }
    shown = {"output_type": "display_data", "metadata": {"note": TOKEN}, "data": data}
    done = cleaned([shown])[0]
    assert done["data"]["text/plain"] == ["a ***\n", "b"] and done["data"]["image/png"] == picture
    assert done["data"]["application/json"]["k"] == [{"***": 1}] and done["metadata"] == {"note": "***"}
    leaking = {**shown, "data": {"image/png": base64.b64encode(b"\x89PNG tEXt" + TOKEN.encode()).decode()}}
    assert list(cleaned([leaking])[0]["data"]) == ["text/plain"]


def test_sources_attachments_and_metadata() -> None:
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"a": {"state": {"value": TOKEN}}}}}
    metadata = {"papermill": {"parameters": {"token": TOKEN}}, "widgets": widgets, "kernelspec": {"name": "python3"}}
    cells = [
        {**CELL, "source": [f"t = {TOKEN!r}\n", "u = 1"], "outputs": [], "metadata": {"tags": [TOKEN]}},
        {
            "cell_type": "markdown",
            "id": "b",
            "source": TOKEN,
            "metadata": {},
            "attachments": {"a.txt": {"text/plain": TOKEN}},
        },
    ]
    notebook: Any = nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})
    done = Scrubber({"t": TOKEN}).notebook(notebook)
    assert isinstance(done, nbformat.NotebookNode) and done.cells[0].source == ["t = '***'\n", "u = 1"]
    assert done.metadata.papermill.parameters.token == "***" and done.metadata.kernelspec.name == "python3"
    assert not Scrubber({"t": TOKEN}).leaks(nbformat.writes(done))
    assert nbformat.reads(nbformat.writes(done), 4).cells[1].attachments["a.txt"]["text/plain"] == "***"


LEAKS = [
    "print(token)",
    "token_plain = str(token); token_plain",
    "from IPython.display import HTML, JSON, display; display(HTML(f'<b>{token}</b>')); display(JSON({'k': [token]}))",
    "import base64; print('Authorization: Basic', base64.b64encode(f'me:{token}'.encode()).decode())",
    "import sys\nfor c in (token[:9], token[9:]):\n    print(c, end='', flush=True); print('.', file=sys.stderr)",
    "print(list(token)); list(token.encode())",
    "import logging; logging.warning('https://example.com/?key=%s', token)",
    "import textwrap; print(textwrap.fill('the token is ' + token, 12)); print(token.encode().hex(), token[::-1])",
    "import json; json.dumps({'a': json.dumps([token])})",
    "def connect(url):\n    raise ConnectionError(f'no answer from {url}')\nconnect(f'postgres://me:{token}@db')",
]


def test_a_real_notebook_that_leaks_in_ten_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_SECRET_TOKEN", TOKEN)
    start = (
        "import os\nfrom deploy_ext.secret import Secret, resolve\ntoken: Secret = resolve('token', os.environ)\ntoken"
    )
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in [start, *LEAKS]])
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    scrubber = Scrubber({"token": TOKEN})
    first, *others = notebook.cells
    assert first.outputs[0].data["text/plain"] == "***" and not scrubber.leaks(json.dumps(first))
    done = scrubber.notebook(notebook)
    assert len(others) == 10
    for before, after in zip(others, done.cells[1:], strict=True):
        assert before.outputs and before.outputs != after.outputs, before.source
        assert not scrubber.leaks(json.dumps(after)), before.source
    text = nbformat.writes(done)
    assert not scrubber.leaks(text) and TOKEN[4:9] not in text and "***" in text
    nbformat.validate(done)


# --- the string -------------------------------------------------------------------------------------------------------


def test_a_secret_is_a_string_that_does_not_show_itself() -> None:
    token = Secret(TOKEN, "token")
    assert isinstance(token, str) and token == TOKEN and hash(token) == hash(TOKEN) and f"{token}" == TOKEN
    assert (
        repr([token, {"k": (token,)}]) == "[***, {'k': (***,)}]"
        and f"{token=}" == "token=***"
        and f"{token!r}" == "***"
    )
    assert pprint.pformat([token] * 50).count("***") == 50
    assert copy.copy(token) is token and copy.deepcopy({"a": [token]})["a"][0] is token
    assert Secret(token).name == "token"
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(token)
    assert data["text/plain"] == "***" and TOKEN not in str(data)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_has_the_name_only(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = pickle.dumps({"login": [Secret(TOKEN, "token")]}, protocol)
    assert not Scrubber({"t": TOKEN}).leaks(written)
    monkeypatch.setenv("DEPLOY_EXT_SECRET_TOKEN", "another one, later")
    loaded = pickle.loads(written)["login"][0]
    assert isinstance(loaded, Secret) and str(loaded) == "another one, later" and loaded.name == "token"
    with pytest.raises(InvalidRequest, match="without a name"):
        pickle.dumps(Secret(TOKEN), protocol)


def test_cloudpickle_and_joblib_keep_to_it(tmp_path: Path) -> None:
    import cloudpickle
    import joblib

    token = Secret(TOKEN, "token")
    joblib.dump({"a": token}, tmp_path / "x")
    scrubber = Scrubber({"t": TOKEN})
    assert not scrubber.leaks((tmp_path / "x").read_bytes())
    assert not scrubber.leaks(cloudpickle.dumps(lambda: token))


def test_a_scrubber_shows_and_writes_nothing() -> None:
    scrubber = Scrubber({"t": TOKEN})
    assert repr(scrubber) == "Scrubber(t)"
    with pytest.raises(InvalidRequest, match="not written"):
        pickle.dumps(scrubber)


# --- where it comes from ----------------------------------------------------------------------------------------------

NAME = "DEPLOY_EXT_SECRET_TOKEN"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("abc", "has 3 characters, 4 are the least"),
        ("True", "everyday word"),
        ("********", "one character again and again"),
    ],
)
def test_values_that_cannot_be_hidden(value: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        resolve("token", {NAME: value})
    with pytest.raises(InvalidRequest, match=told):
        Scrubber({"token": value})


def test_the_environment_wins_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("in the file\n")
    path.chmod(0o600)
    assert str(resolve("Token", {NAME: "in the environment", NAME + "_FILE": str(path)})) == "in the environment"
    assert str(resolve("token", {NAME + "_FILE": str(path)})) == "in the file"
    assert str(resolve("token", {}, path)) == "in the file"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"value\r\n", "value"),
        (b"two\nlines\n\n", "two\nlines\n"),
        (b"\xef\xbb\xbfby Notepad", "by Notepad"),
        (" schlüssel ".encode(), " schlüssel "),
    ],
)
def test_files(content: bytes, value: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(resolve("token", {}, path)) == value
    path.chmod(0o644)
    with pytest.warns(UserWarning, match="chmod 600"):
        resolve("token", {}, path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=rf"No such file or directory. Mend {NAME}_FILE"):
        resolve("token", {NAME + "_FILE": str(tmp_path / "none")})
    for bad in (tmp_path, Path("/dev/zero")):
        with pytest.raises(InvalidRequest, match="is no file of"):
            resolve("token", {}, bad)
    (tmp_path / "bytes").write_bytes(b"\xff\xff\xff\xff\xff")
    with pytest.raises(InvalidRequest, match="not UTF-8") as caught:
        resolve("token", {}, tmp_path / "bytes")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["", "a b", "a-b", "ключ", "../x", "9a"])
def test_names(name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a secret"):
        resolve(name, {})


BACKEND = """
import os, time
from keyring.backend import KeyringBackend

class Known(KeyringBackend):
    priority = 1
    def get_password(self, service, username):
        if username == "LOCKED":
            input("password of the keyring: ")
        if username == "SLOW":
            time.sleep(60)
        return {("deploy_ext", "TOKEN"): "in the keyring"}.get((service, username))
    def set_password(self, service, username, password):
        raise AssertionError("written")
"""


@pytest.fixture
def keyring(tmp_path: Path) -> dict[str, str]:
    """An environment in which keyring has a backend that knows one key."""
    pytest.importorskip("keyring")
    (tmp_path / "known_keyring.py").write_text(BACKEND)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": paths, "PYTHON_KEYRING_BACKEND": "known_keyring.Known"}


def test_the_keyring_comes_last(keyring: dict[str, str], tmp_path: Path) -> None:
    assert str(resolve("token", keyring)) == "in the keyring"
    assert str(resolve("token", {**keyring, NAME: "in the environment"})) == "in the environment"
    with pytest.raises(InvalidRequest, match=r"in none of three places.*keyring set deploy_ext OTHER"):
        resolve("other", keyring)


def test_a_locked_keyring_does_not_wait(keyring: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match=r"in none of three places.*EOF"):
        resolve("locked", keyring)
    monkeypatch.setattr("deploy_ext.secret.PATIENCE", 3.0)
    with pytest.raises(InvalidRequest, match=r"may be locked\. Unlock it, or set DEPLOY_EXT_SECRET_SLOW"):
        resolve("slow", keyring)


def test_without_keyring_the_three_places_are_told() -> None:
    hide = "import sys, importlib.util as u; found = u.find_spec\n"
    hide += "u.find_spec = lambda name, *more: None if name == 'keyring' else found(name, *more)\n"
    ask = "from deploy_ext.secret import resolve\nresolve('token', {})"
    done = subprocess.run([sys.executable, "-c", hide + ask], capture_output=True, text=True)
    for place in (f"Set {NAME};", f"{NAME}_FILE", "keyring set deploy_ext TOKEN", "pip install 'deploy_ext[keyring]'"):
        assert place in done.stderr


def test_importing_it_imports_no_library() -> None:
    code = (
        "import sys, deploy_ext.secret; print(sorted({'keyring', 'numpy', 'IPython', 'nbformat'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
