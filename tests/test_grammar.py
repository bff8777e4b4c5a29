"""One grammar: Python, magic and command line agree on every verb, and no words make it raise anything unexpected."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

import deploy_ext
from deploy_ext import cli, magics
from deploy_ext.core import InvalidRequest
from deploy_ext.grammar import Command, Face, Option, asked_help, completions, parse, parser, say
from deploy_ext.verbs import COMMANDS

SHELL, NOTEBOOK = cli.face(), magics.face(InteractiveShell())
FACES = pytest.mark.parametrize("face", [SHELL, NOTEBOOK], ids=["shell", "notebook"])
VERBS = pytest.mark.parametrize("cmd", COMMANDS.values(), ids=list(COMMANDS))


def test_every_name_of_the_package_is_a_verb() -> None:
    verbs = [name for name in deploy_ext.__all__ if name != "Secret"]  # which a notebook's parameters speak of
    assert sorted(verbs) == sorted(verb.replace(" ", "_") for verb in COMMANDS)
    assert all(getattr(deploy_ext, verb.replace(" ", "_")) is cmd.call for verb, cmd in COMMANDS.items())


@VERBS
def test_every_parameter_tells_what_it_is(cmd: Command) -> None:
    assert cmd.summary.endswith(".") and len(cmd.summary) <= 120
    for option in cmd.options:
        assert option.help and not option.help.endswith("."), option
        assert option.kind in (
            "model",
            "data",
            "tables",
            "target",
            "ref",
            "cell",
            "file",
            "columns",
            "row",
            "notebook",
            "text",
        ), option


@VERBS
def test_the_faces_agree_with_the_signature(cmd: Command) -> None:
    parameters = list(inspect.signature(cmd.call).parameters)
    assert [o.name for o in SHELL.options(cmd)] == parameters
    below = NOTEBOOK.below(cmd)
    assert [name for name in parameters if not below or name != below.name] == [o.name for o in NOTEBOOK.options(cmd)]
    for face in (SHELL, NOTEBOOK):
        known = {word for action in parser(face, cmd)._actions for word in action.option_strings or [action.dest]}
        assert known == {flag for o in face.options(cmd) for flag in o.flags}


@VERBS
def test_the_faces_have_the_same_help(cmd: Command) -> None:
    shell, notebook = (str(asked_help(face, ["help", *cmd.verb.split()])) for face in (SHELL, NOTEBOOK))
    for option in cmd.options:
        assert " ".join(option.help.split()) in " ".join(shell.split())
        assert " ".join(option.help.split()) in " ".join(notebook.split())
    if not NOTEBOOK.below(cmd):
        usage = len(parser(SHELL, cmd).format_usage()), len(parser(NOTEBOOK, cmd).format_usage())
        assert shell[usage[0] :] == notebook[usage[1] :]


# any words

fragment = st.sampled_from(
    ["--data", "--name", "flights", "--", "-", "--force", "help", "--help", "-1", "--to=3", "=", ""]
)
word = fragment | st.text() | st.builds("--{}={}".format, st.sampled_from(["name", "nmae", ""]), st.text())
sentence = st.sampled_from([[], *map(str.split, COMMANDS)]).flatmap(lambda verb: st.lists(word).map(lambda w: verb + w))


def harmless(face: Face) -> Face:
    """The same face, whose verbs return what they were given."""
    commands = {verb: Command(verb, dict, cmd.options) for verb, cmd in face.commands.items()}
    return Face(face.prog, commands, lambda option, word, values: word, lambda *_: ["X", "y"], cells=face.cells)


@FACES
@given(words=sentence, body=st.none() | st.text())
def test_any_words_are_carried_out_or_refused(face: Face, words: list[str], body: str | None) -> None:
    try:
        done = say(harmless(face), words, body)
    except InvalidRequest as e:
        assert str(e)
    else:
        assert isinstance(done, (str, dict))


@FACES
@given(words=sentence, begun=word)
def test_any_words_can_be_completed(face: Face, words: list[str], begun: str) -> None:
    assert all(offered.startswith(begun) for offered in completions(harmless(face), words, begun))


# what can be said can be read


def value(option: Option) -> st.SearchStrategy[Any]:
    """Values that the option can have."""
    if option.type is bool:
        return st.booleans()
    if option.type in (int, float):
        return st.integers() if option.type is int else st.floats(allow_nan=False)
    one = st.text(min_size=1)
    if option.kind in ("file", "cell"):
        one = st.from_regex(r"[a-z /.]*[a-z]", fullmatch=True)
        one = one.map(Path) if option.kind == "file" else one
    if option.positional:
        one = one.filter(lambda text: not text.startswith("-"))
    return st.lists(one, min_size=int(option.required), max_size=3).map(tuple) if option.many else one


def spoken(cmd: Command, values: dict[str, Any]) -> list[str]:
    """A sentence that gives the options these values, without its verb."""
    words = []
    for option in cmd.options:
        given = values.get(option.name)
        if option.positional and given is not None:
            words.append(given)
        elif option.type is bool:
            words += [option.flag] if given else []
        elif given is not None:
            words += [f"{option.flag}={one}" for one in (given if option.many else [given])]
    return words


@VERBS
@given(data=st.data())
def test_what_is_said_is_read(cmd: Command, data: st.DataObject) -> None:
    drawn = {o.name: data.draw(value(o) if o.required else value(o) | st.just(o.default)) for o in cmd.options}
    line = shlex.join(spoken(cmd, drawn))
    assert parse(SHELL, cmd, magics.split(line)) == drawn
