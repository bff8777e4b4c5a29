"""Parameters: what a cell declares, what text and files mean, which faults are told, and what is injected."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import json
import math
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from papermill.cli import _resolve_type
from papermill.translators import PythonTranslator

from deploy_ext.core import InvalidRequest
from deploy_ext.declaration import HIDDEN, Parameter, declared
from deploy_ext.given import Given, given
from deploy_ext.literals import Member, guess, plain
from deploy_ext.parameters import bind, code, grid, table
from deploy_ext.report import spoken


def notebook(source: str | list[str], *before: str, tags: tuple[str, ...] = ("parameters",)) -> dict[str, Any]:
    cells = [{"cell_type": "code", "metadata": {}, "source": s} for s in before]
    cells.append({"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source})
    return {"cells": cells, "metadata": {}, "nbformat": 4}


def of(source: str | list[str], *before: str) -> dict[str, Parameter]:
    return {p.name: p for p in declared(notebook(source, *before))}


def one(annotation: str, text: str, before: str = "") -> Any:
    """What `-p x=text` gives for a parameter of this type."""
    return bind(declared(notebook(f"{before}\nx: {annotation}")), given([f"x={text}"]))["x"]


def value_of(annotation: str, value: Any, before: str = "") -> Any:
    """What a value of a file, or of Python, becomes."""
    return bind(declared(notebook(f"{before}\nx: {annotation}")), given({"x": value}))["x"]


LOSS = "from enum import Enum\nclass Loss(Enum):\n    LOG = 'log_loss'\n    EXP = 'exponential'\n    _hidden = 3\n"


# ---------------------------------------------------------------- what the cell declares


def test_a_notebook_without_a_parameters_cell_has_none() -> None:
    assert declared({"cells": [], "metadata": {}}) == ()
    assert declared(notebook("x = 1", tags=("other",))) == ()
    assert (
        declared({"cells": [{"cell_type": "markdown", "metadata": {"tags": ["parameters"]}, "source": "x = 1"}]}) == ()
    )


@pytest.mark.parametrize(
    "metadata", [{"kernelspec": {"name": "ir", "language": "R"}}, {"language_info": {"name": "julia"}}]
)
def test_a_notebook_of_another_language_has_none(metadata: dict[str, Any]) -> None:
    nb = notebook("x = c(1, 2)\ny <- function(x) {") | {"metadata": metadata}
    assert declared(nb, language=spoken(nb["metadata"])) == ()
    with pytest.raises(InvalidRequest, match="--lenient"):
        bind((), given(["x=1"]))


def test_only_the_first_tagged_cell_counts_and_nothing_runs(tmp_path: Path) -> None:
    nb = nbformat.v4.new_notebook()
    for source in (f"open({str(tmp_path / 'ran')!r}, 'w')\nx = 1", "y = 2"):
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["tags"] = ["parameters"]
        nb.cells.append(cell)
    assert [p.name for p in declared(nb)] == ["x"]
    assert not (tmp_path / "ran").exists()


def test_the_source_may_be_a_list_of_lines_or_of_windows() -> None:
    assert list(of(["x = 1  # one\n", "y: int\n"])) == ["x", "y"]
    assert of("a = 1\r\n# why\r\nb = 2\r\n")["b"].help == "why"
    assert of("\fa = 1\n\fb = '\f'  # why")["b"].default == "\f"


TYPES = {
    "x: int": "int",
    "x: Optional[date]": "date | None",
    "x: None | date": "date | None",
    "x: datetime.date": "date",
    "x: 'int'": "int",
    "x: 'list[int] | None' = None": "list[int] | None",
    "x: List[int]": "list[int]",
    "x: typing.Dict[str, typing.List[float]]": "dict[str, list[float]]",
    "x: Sequence[str]": "list[str]",
    "x: tuple[int, ...]": "tuple[int, ...]",
    "x: tuple[int, str]": "tuple[int, str]",
    "x: Literal['a', 1, None, True, -2]": "Literal['a', 1, None, True, -2]",
    "x: Union[int, str, None]": "int | str | None",
    "x: int | Union[float, Optional[int]]": "int | float | None",
    "x: Annotated[int, 'days']": "int",
    "x: Final[int] = 3": "int",
    "x: Any": "Any",
    "x: np.int64 = 3": "np.int64",
    "x: int = None": "int | None",
    "x = 3": "int",
    "x = -3": "int",
    "x = True": "bool",
    "x = not True": "bool",
    "x = 2.5": "float",
    "x = 24 * 60": "int",
    "x = 1 / 2": "float",
    "x = 1e-3 * 2": "float",
    "x = 'a'": "str",
    "x = f'a{1}'": "str",
    "x = 'a' 'b'": "str",
    "x = 'a' + y": "str",
    "x = None": "Any",
    "x = f(3)": "Any",
    "x = []": "list",
    "x = [1, 2.5]": "list[float]",
    "x = ['a', 1]": "list",
    "x = [i for i in y]": "list",
    "x = (1, 2)": "tuple[int, ...]",
    "x = {'a'}": "set[str]",
    "x = {'a': 1}": "dict",
    "x = Path('a') / 'b'": "Path",
    "x = date(2013, 1, 1)": "date",
    "x = date.today()": "date",
    "x = datetime.now()": "datetime",
    "x = int('3')": "int",
    "x = 1 if y else 2": "int",
    "x = 1 < 2": "bool",
    "x = os.environ['A']": "Any",
    "x = b'bytes'": "Any",
    "x = None  # type: int": "int | None",
    "x = 3  # type: float": "float",
    "x = 3  # type: ignore": "int",
    "x = None  # type: Dict[str, int] of names": "dict[str, int] | None",
}


@pytest.mark.parametrize("source", TYPES)
def test_types(source: str) -> None:
    assert of(source)["x"].type == TYPES[source]


@pytest.mark.parametrize(
    ("before", "annotation", "type"),
    [
        ("import datetime as d", "d.date", "date"),
        ("from datetime import datetime as d", "d", "datetime"),
        ("from typing import Optional as O", "O[int]", "int | None"),
        ("from mine import Path", "Path", "mine.Path"),
        ("class date:\n    pass", "list[date]", "list[__main__.date]"),
        ("import numpy as np", "np.bool", "np.bool"),
        ("from typing import Literal\nMode = Literal['a', 'b']", "Mode", "Literal['a', 'b']"),
        ("Mode: TypeAlias = int | None", "Mode", "int | None"),
        (LOSS, "Loss | None", "Loss | None"),
        (LOSS, "Literal[Loss.LOG]", "Literal[Loss.LOG]"),
    ],
)
def test_names_that_imports_and_classes_give(before: str, annotation: str, type: str) -> None:
    for source, earlier in ((f"{before}\nx: {annotation}", ()), (f"x: {annotation}", (before,))):
        found = of(source, *earlier)
        assert list(found) == ["x"]
        assert found["x"].type == type


def test_a_class_of_another_library_is_not_ours() -> None:
    assert one("Path", "9", "from mine import Path") == 9  # Any: a guess
    assert one("date | None", "9", "class date: pass") == 9
    assert not of("from pydantic import Secret\nx: Secret")["x"].secret


@pytest.mark.parametrize(
    "source",
    [
        "from deploy_ext import Secret\nx: Secret",
        "from deploy_ext import Secret as S\nx: S | None = None",
        "import deploy_ext\nx: deploy_ext.Secret = 'abc'",
        "import deploy_ext as d\nx: d.Secret",
        "x: Optional[Secret] = 'abc'",
        "from deploy_ext import Secret\nx = Secret('abc')",
        "x = 'abc'  # type: Secret",
        "x: Secret\nx = 'abc'",
    ],
)
def test_secrets(source: str) -> None:
    parameters = declared(notebook(source))
    assert parameters[0].secret
    assert "abc" not in parameters[0].to_json() + repr(parameters[0]) + repr(table(parameters, {"x": "abc"}))
    for values in (given(["x=abc"]), given({"x": "abc"}), given(environ={"DEPLOY_EXT_PARAM_X": "abc"})):
        for lenient in (False, True):
            with pytest.raises(InvalidRequest, match="DEPLOY_EXT_SECRET_X") as e:
                bind(parameters, values, lenient)
            assert "abc" not in str(e.value)
    assert bind(parameters, {}) == {}  # a missing secret comes from elsewhere
    assert "abc" not in code(parameters, {"x": "abc"})


def test_settings_can_name_secrets() -> None:
    for source in ("token = 'abc'", "token = None", "token: str = ''", "token, _ = 'abc', 1"):
        p = declared(notebook(source), secrets=["TOKEN"])[0]
        assert p.secret and p.shown_type == "Secret" and p.shown_default in (HIDDEN, "None")


@pytest.mark.parametrize(
    ("sources", "taken"),
    [
        (["read(token)"], True),
        (["token = token or ask()"], True),
        (["token = ask()", "read(token)"], False),
        (["for token in words:\n    print(token)"], False),
        (["[token for token in words]"], False),
        (["def f(token):\n    return token", "f(1)"], False),
        (["def f():\n    return token"], True),
        (["from tokens import token\ntoken()"], False),
        (["!curl -u ada:{token} db"], True),
        (["%%bash\necho $token"], False),
        (["f'{token}'"], True),
        (["x = (1", "read(token)"], True),
        (["'token'  # token"], False),
    ],
)
def test_a_secret_that_nothing_declares_is_taken_where_it_is_read(sources: list[str], taken: bool) -> None:
    cells = [{"cell_type": "code", "metadata": {}, "source": source} for source in sources]
    found = declared({"cells": cells}, True, ["token"])
    assert [p.name for p in found if p.secret] == (["token"] if taken else [])
    assert declared({"cells": cells}, False, ["token"]) == ()


def test_defaults() -> None:
    found = of(
        "a = 1\nb = [1, 'x', {'y': (2.5, None)}]\nc = Path(\"x\")\nd: int\ne = a + 1\nf = Loss.LOG\ng: int = ...\n"
        "h = dict(\n    a=1,\n)\ni = {1, 2}\nj = b'x'\nk = 1e999"
    )
    assert found["b"].default == [1, "x", {"y": (2.5, None)}]
    assert (found["c"].default, found["c"].computed) == ('Path("x")', True)
    assert [p.name for p in found.values() if p.required] == ["d", "g"]
    assert [found[n].default for n in "aefhij"] == [1, "a + 1", "Loss.LOG", "dict(a=1)", {1, 2}, "b'x'"]
    assert [n for n, p in found.items() if p.computed] == ["c", "e", "f", "h", "j"]
    assert all(Parameter.from_dict(json.loads(p.to_json())).name == p.name for p in found.values())


def test_assignments_of_all_kinds() -> None:
    found = of(
        "a, b = 1, 'x'\nc = d = 2.5\ne, *f = g()\n(h, [i, j]) = 1, (2, 3); k = 4\nl: int\nl = 5\nm = 1\nm: float = 2\n"
        "n = 1\nn += 1\no = 1\ndel o\nq['x'] = 1\nr.s = 2\nfor t in u:\n    v = 1\ndef w():\n    w1 = 1\n"
        "if a:\n    x = 1\nelse:\n    x = 2\ntry:\n    y = 1\nexcept E:\n    y = 2\nwith z():\n    z1 = await z2()\n"
        "class C:\n    c1 = 1\n"
    )
    assert "".join(found) == "abcdefhijklmnvxyz1"
    assert (found["b"].default, found["e"].default, found["j"].default) == ("x", "g()[0]", 3)
    assert (found["l"].default, found["l"].type, found["l"].required) == (5, "int", False)
    assert (found["m"].default, found["m"].type) == (2, "float")
    assert (found["n"].default, found["n"].type) == ("n + 1", "int")
    assert [found[name].line for name in "acl"] == [1, 2, 6]


def test_help_is_the_comment_at_the_end_or_above() -> None:
    found = of(
        "# not of a\n\na = 1  # one # two\n# above\n# in two lines\nb = 2\nc = [  # first\n    1,  # inner\n]\n"
        "d = [\n    1,  # inner\n]  # last\n# ----\ne = 1\n# e2 = 3\nf = 1  # noqa: E501\n"
        "# above, too\ng = 1  # type: float\n"
        "h = '# none'\ni = 1  # type: int one day\nj = '''\n# text\n'''\nk = 1\n"
    )
    told = {name: p.help for name, p in found.items()}
    assert told == {
        "a": "one # two", "b": "above in two lines", "c": "first", "d": "last", "e": "", "f": "", "g": "above, too",
        "h": "", "i": "one day", "j": "", "k": "",
    }  # fmt: skip


def test_lines_of_ipython_are_set_aside() -> None:
    found = of(
        "%matplotlib inline\n!pip install x\na = 1\nfiles = !ls *.csv\nb = %time f()\n?a\na?\nc = '''\n%x\n!y\n'''"
    )
    assert list(found) == ["a", "files", "b", "c"]
    assert (found["files"].default, found["files"].type) == ("!ls *.csv", "Any")
    assert found["c"].default == "\n%x\n!y\n"
    assert list(of("%%time\na = 1")) == ["a"]
    assert of("%%bash\nfor f in *; do echo $f; done") == {}


@pytest.mark.parametrize(
    "source", ["a = 1\nb = (\nc = 2", "a = 1\n\tb = 2", "a = 1\nx = '\ud800'", "a = 1\n\0", "(" * 500]
)
def test_a_cell_that_cannot_be_parsed_is_told_with_its_line(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"line 1|line 2"):
        declared(notebook(source))
    assert all(p.name == "a" for p in declared(notebook(source), lenient=True))


@hypothesis_given(st.text(alphabet="ab=:[](){}'\"\\#%!?,.*; \n\t|1\ud800\0\f\r\u2028é", max_size=60))
@settings(max_examples=400, deadline=None)
def test_no_cell_breaks_the_reader(source: str) -> None:
    declared(notebook(source), lenient=True)
    try:
        declared(notebook(source))
    except InvalidRequest as e:
        assert "cannot be parsed" in str(e)


def test_no_warning_of_what_a_cell_says(recwarn: pytest.WarningsRecorder) -> None:
    of("x = '\\d'\ny: Literal['\\d'] = '\\d'\nz = 1  # '\\d'\n# w = '\\d'\nw = x is 3")
    with pytest.raises(InvalidRequest):
        one("list[int]", "['\\d']")
    assert not [w for w in recwarn if issubclass(w.category, (SyntaxWarning, DeprecationWarning))]


PAPERMILL = """
a = 1
b: int = 2  # help
c = "x"  # type: str the help of c
d: float = 3.5
e = None
f: List[int] = [1, 2]
g = {
    "a": 1,
    # inner
    "b": 2,
}  # a dict
h: "str" = 'y'
i = [1,
     2]  # type: list
j = 1 + 2
_k = 3

# above
l: Dict[str, List[int]] = {}
if a:
    m = 4
%time n = 5
files = !ls
"""


def test_all_that_papermill_finds_is_found() -> None:
    theirs = {p.name: p for p in PythonTranslator().inspect({"source": PAPERMILL})}
    ours = of(PAPERMILL)
    assert set(theirs) == {*"abcdefghijlm", "_k", "files"}
    assert set(theirs) <= set(ours)
    for name, p in theirs.items():
        if p.inferred_type_name != "None":
            assert ours[name].type.lower() == p.inferred_type_name.lower(), name
        if p.help:
            assert ours[name].help == p.help, name


# ---------------------------------------------------------------- text

TEXTS = [
    ("int", "9", 9), ("int", "-9", -9), ("int", " 9 ", 9), ("int", "1_000", 1000), ("int", "007", 7),
    ("int", "0\x1f", 0),
    ("float", "0.1", 0.1), ("float", "1e-3", 1e-3), ("float", "3", 3.0), ("float", ".5", 0.5),
    ("float", "-inf", -math.inf),
    ("bool", "true", True), ("bool", "No", False), ("bool", "1", True), ("bool", "0", False), ("bool", "YES", True),
    ("str", "9", "9"), ("str", "None", "None"), ("str", "1e5", "1e5"), ("str", "", ""), ("str", " a=b ", " a=b "),
    ("str | None", "None", None), ("str | None", "null", None), ("str | None", "none", "none"),
    ("int | None", "null", None),
    ("date", "2013-01-31", date(2013, 1, 31)), ("datetime", "2013-01-31T12:30", datetime(2013, 1, 31, 12, 30)),
    ("datetime", "2013-01-31 12:30:00Z", datetime(2013, 1, 31, 12, 30, tzinfo=dt.UTC)),
    ("datetime", "2013-01-31", datetime(2013, 1, 31)), ("Path", "a b/c", Path("a b/c")),
    ("list[str]", "a,b", ["a", "b"]), ("list[str]", "a", ["a"]), ("list[str]", "1,None", ["1", "None"]),
    ("list[str]", '["a,b", ""]', ["a,b", ""]), ("list[str]", "['a']", ["a"]), ("list[str]", "[]", []),
    ("list[int]", "1, 2", [1, 2]), ("list[int | None]", "1,None", [1, None]),
    ("list[list[int]]", "[[1],[]]", [[1], []]),
    ("list[date]", "2013-01-01,2013-02-01", [date(2013, 1, 1), date(2013, 2, 1)]),
    ("list[date]", '["2013-01-01"]', [date(2013, 1, 1)]), ("list", "1,a,2.5,None", [1, "a", 2.5, None]),
    ("tuple[int, ...]", "1,2,3", (1, 2, 3)), ("tuple[int, str]", "1,2", (1, "2")),
    ("tuple[int, str]", "(1, '2')", (1, "2")),
    ("tuple", "1,a", (1, "a")), ("set[str]", "a,b", {"a", "b"}), ("set[str]", "[]", set()),
    ("dict", '{"a": [1, null]}', {"a": [1, None]}), ("dict[int, float]", '{"3": 1}', {3: 1.0}),
    ("dict[str, date]", '{"a": "2013-01-01"}', {"a": date(2013, 1, 1)}), ("dict", "{'a': None}", {"a": None}),
    ("dict[str, Any]", '{"1": "x"}', {"1": "x"}), ("dict", '{"1": true}', {"1": True}),
    ("Literal['a', 'b']", "b", "b"), ("Literal[1, 2.5, True, None, '3']", "1", 1),
    ("Literal[1, True, None]", "true", True), ("Literal[1, True, None]", "None", None),
    ("Loss", "EXP", Member("Loss", "EXP")), ("Loss", "Loss.EXP", Member("Loss", "EXP")),
    ("Loss | None", "None", None), ("list[Loss]", "LOG,EXP", [Member("Loss", "LOG"), Member("Loss", "EXP")]),
    ("Literal[Loss.LOG]", "LOG", Member("Loss", "LOG")),
    ("int | str", "9", 9), ("str | int", "9", 9), ("str | int", "nine", "nine"), ("bool | int", "1", 1),
    ("float | int", "1", 1), ("float | int", "1.5", 1.5), ("Literal['auto'] | float", "auto", "auto"),
    ("str | list[str]", "a,b", "a,b"), ("str | list[str]", '["a","b"]', ["a", "b"]),
    ("int | list[int]", "1,2", [1, 2]),
    ("date | str", "2013-01-01", date(2013, 1, 1)), ("date | str", "today", "today"),
    ("Any", "01", 1), ("Any", "x", "x"), ("Any", '{"a": 1}', {"a": 1}), ("Any", "[x", "[x"), ("np.int64", "3", 3),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "text", "value"), TEXTS)
def test_texts(annotation: str, text: str, value: Any) -> None:
    found = one(annotation, text, LOSS)
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, (list, tuple)):
        assert list(map(type, found)) == list(map(type, value))


WRONG_TEXTS = [
    ("int", "1.5"), ("int", "9.0"), ("int", "1e3"), ("int", ""), ("int", "true"), ("int", "٣"), ("int", "9" * 5000),
    ("int", "None"), ("float", "x"), ("float", "1e999"), ("float", ""), ("float", "1__0"), ("float", "0x10"),
    ("bool", "2"),
    ("bool", ""), ("bool", "True1"), ("date", "2013-02-30"), ("date", "2013-01-01T10:00"), ("date", "01/02/2013"),
    ("datetime", "noon"), ("Path", ""), ("Path", "a\0b"), ("list[int]", "1,x"), ("list[int]", "1,,2"),
    ("list[int]", ""),
    ("list[int]", "[1, 2.5]"), ("list[int]", '["1"]'), ("list[int]", "[1"), ("list[list[int]]", "1,2"),
    ("list[int]", "[" * 9999), ("tuple[int, int]", "1"), ("tuple[int, int]", "[1,2,3]"), ("set[int]", "1,1"),
    ("set[list[int]]", "[[1]]"), ("dict", "a=1"), ("dict", "[1]"), ("dict[int, int]", '{"x": 1}'),
    ("dict[str, int]", '{"x": "1"}'),
    ("Literal['a']", "A"), ("Literal[1]", "1.0"), ("Loss", "log_loss"), ("Loss", "exp"), ("Loss", "_hidden"),
    ("Loss", "Other.LOG"), ("int | None", "x"), ("int | float", "x"), ("int | None", ""),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "text"), WRONG_TEXTS)
def test_wrong_texts(annotation: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^x=.* \(from -p\) .*\. \S") as e:
        one(annotation, text, LOSS)
    assert len(str(e.value)) < 400


@pytest.mark.parametrize("annotation", dict.fromkeys(a for a, *_ in TEXTS if "Any" not in a and a != "np.int64"))
def test_the_example_in_an_error_can_be_typed(annotation: str) -> None:
    import shlex

    parameters = declared(notebook(f"{LOSS}\nx: {annotation}"))
    with pytest.raises(InvalidRequest, match="required") as e:
        bind(parameters, {})
    words = shlex.split(str(e.value).rpartition(" Type ")[2].removesuffix("."))
    assert words[0] == "-p"
    bind(parameters, given(words[1:]))


# ---------------------------------------------------------------- values that have a type

VALUES = [
    ("int", 3, 3), ("int", 3.0, 3), ("int", np.int64(3), 3), ("float", 3, 3.0), ("float", "1e-3", 1e-3),
    ("float", np.float32(0.5), 0.5),
    ("float", math.inf, math.inf), ("bool", np.True_, True), ("str", "9", "9"), ("str", np.str_("a"), "a"),
    ("str", Path("a"), "a"),
    ("str", date(2013, 1, 1), "2013-01-01"), ("date", "2013-01-01", date(2013, 1, 1)),
    ("date", datetime(2013, 1, 1), date(2013, 1, 1)),
    ("date", pd.Timestamp("2013-01-01"), date(2013, 1, 1)), ("datetime", date(2013, 1, 1), datetime(2013, 1, 1)),
    ("datetime", pd.Timestamp("2013-01-01 10:00"), datetime(2013, 1, 1, 10)), ("Path", "a", Path("a")),
    ("Path", Path("a"), Path("a")),
    ("list[int]", (1, 2), [1, 2]), ("list[float]", np.array([1, 2]), [1.0, 2.0]),
    ("list[str]", pd.Series(["a"]), ["a"]),
    ("tuple[int, ...]", [1], (1,)), ("set[int]", [1, 2], {1, 2}), ("set[int]", {1}, {1}),
    ("dict[int, str]", {"1": "a", 2: "b"}, {1: "a", 2: "b"}),
    ("int | None", None, None), ("int | float", 3, 3), ("int | float", 3.0, 3.0),
    ("str | date", "2013-01-01", "2013-01-01"),
    ("Loss | str", "LOG", Member("Loss", "LOG")), ("Literal[1, True]", True, True), ("Literal[0, 1]", 1, 1),
    ("Any", [1, {"a": (2, None)}], [1, {"a": (2, None)}]), ("Any", "01", "01"), ("list[str] | list[int]", [1], [1]),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "expected"), VALUES)
def test_values(annotation: str, value: Any, expected: Any) -> None:
    found = value_of(annotation, value, LOSS)
    assert found == expected
    assert type(found) is type(expected)


class Colour(enum.Enum):
    RED = 1


WRONG_VALUES = [
    ("int", 1.5), ("int", True), ("int", "9"), ("int", None), ("int", math.nan), ("int", 1e300), ("float", True),
    ("float", "0.1"),
    ("float", 2**53 + 1), ("float", 10**400), ("bool", 1), ("bool", "true"), ("str", 9), ("str", True), ("str", None),
    ("str", datetime(2013, 1, 1)), ("date", datetime(2013, 1, 1, 10)), ("date", 20130101), ("date", pd.NaT),
    ("date", "soon"),
    ("datetime", pd.NaT), ("datetime", pd.Timestamp("2013-01-01 00:00:00.000000001")), ("datetime", 3),
    ("Path", 3), ("list[str]", "a,b"),
    ("list[int]", {1}), ("list[int]", [1, "2"]), ("list[int]", [True]), ("set[int]", [1, 1]),
    ("tuple[int, int]", [1]), ("dict[str, int]", [("a", 1)]),
    ("dict[int, int]", {"1": 1, 1: 2}), ("dict[str, int]", {1: 1}), ("Literal[1]", True), ("Literal['a']", ["a"]),
    ("Loss", "log_loss"), ("Loss", 3),
    ("Loss", Colour.RED), ("Any", object()), ("Any", Colour.RED), ("Any", pd.DataFrame({"a": [1]})), ("Any", b"x"),
    ("int | None", "x"),
    ("int | str | None", 2.5), ("None", 0),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), WRONG_VALUES)
def test_wrong_values(annotation: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"(?s)^x=.* \(from Python\) .*\. \S"):
        value_of(annotation, value, LOSS)


def test_a_list_that_holds_itself_is_a_fault() -> None:
    endless: list[Any] = []
    endless += [endless, endless]
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        value_of("Any", endless)


# ---------------------------------------------------------------- where values come from


def test_the_command_line_wins_over_the_file_and_the_file_over_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "p.yml"
    file.write_text("a: 2\nb: 2\n")
    environ = {
        "DEPLOY_EXT_PARAM_A": "3",
        "DEPLOY_EXT_PARAM_b": "3",
        "DEPLOY_EXT_PARAM_C": "3",
        "OTHER": "x",
        "DEPLOY_EXT_PARAM_": "x",
    }
    found = given(["a=1"], file, environ)
    assert {name: one.source for name, one in found.items() if name.islower()} == {"a": "-p", "b": str(file)}
    assert bind(declared(notebook("a = 0\nb = 0\nc = 0")), found) == {"a": 1, "b": 2, "c": 3}


def test_the_environment_prefers_the_exact_name() -> None:
    parameters = declared(notebook("lr = 0\nLR = 0"))
    environ = {"DEPLOY_EXT_PARAM_LR": "1", "DEPLOY_EXT_PARAM_lr": "2"}
    assert bind(parameters, given(environ=environ)) == {"lr": 2, "LR": 1}
    for order in itertools.permutations({"DEPLOY_EXT_PARAM_A": "1", "DEPLOY_EXT_PARAM_a": "2"}.items()):
        assert bind(declared(notebook("a = 0")), given(environ=dict(order))) == {"a": 2}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.yml", "start: 2013-01-01\nlr: 1e-3\nn: 3\ncolumns: [a, b]\nnone: null\n"),
        ("p.yaml", "{start: '2013-01-01', lr: 0.001, n: 3.0, columns: [a, b], none: ~}"),
        ("p.json", '{"start": "2013-01-01", "lr": 0.001, "n": 3, "columns": ["a", "b"], "none": null}'),
        ("P.JSON", '\ufeff{"start": "2013-01-01", "lr": 1e-3, "n": 3.0, "columns": ["a", "b"], "none": null}'),
    ],
)
def test_files(tmp_path: Path, name: str, content: str) -> None:
    parameters = declared(notebook("start: date\nlr = 0.1\nn = 1\ncolumns = ['x']\nnone: int | None = 3"))
    (tmp_path / name).write_text(content, encoding="utf-8")
    values = {"start": date(2013, 1, 1), "lr": 1e-3, "n": 3, "columns": ["a", "b"], "none": None}
    assert bind(parameters, given(file=tmp_path / name)) == values


def test_toml_has_dates_and_a_text_may_be_one(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("start = 2013-01-01\nat = 2013-01-01T10:00:00Z\ntext = 2013-01-01\n")
    values = bind(declared(notebook("start: date\nat: datetime\ntext = 'x'")), given(file=file))
    assert values == {"start": date(2013, 1, 1), "at": datetime(2013, 1, 1, 10, tzinfo=dt.UTC), "text": "2013-01-01"}


@pytest.mark.parametrize("value", ["no", "0123", "12:30", "1.0", "null", "true"])
def test_what_yaml_takes_for_something_else_must_be_quoted(tmp_path: Path, value: str) -> None:
    parameters, file = declared(notebook("x: str = ''")), tmp_path / "p.yml"
    file.write_text(f"x: {value}")
    with pytest.raises(InvalidRequest, match=r"is no str\. (Put it in quotes|Write x: \"text\")"):
        bind(parameters, given(file=file))
    file.write_text(f"x: '{value}'")
    assert bind(parameters, given(file=file)) == {"x": value}


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n"
LAUGHS += "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in itertools.pairwise("abcdefgh"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.yml", "a: [", "cannot be read"), ("p.yml", "a: 1\na: 2", "twice"),
        ("p.yml", "a: {b: 1, b: 2}", "twice"), ("p.yml", "- 1", "holds a list"),
        ("p.yml", "a: !!python/object:os.system x", "cannot be read"), ("p.yml", "a: &x [*x]", "nested"),
        ("p.yml", LAUGHS, "more than 1,000,000 values"),
        ("p.yml", "on: 1", "not a name"), ("p.yml", "a-b: 1", "such as a_b"),
        ("p.yml", "? [1]\n: 2", "cannot be read|not a name"),
        ("p.json", "{", "cannot be read"), ("p.json", '{"a": 1, "a": 1}', "twice"),
        ("p.json", '{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ("p.json", "[" * 100_000, "cannot be read"), ("p.json", '"a"', "holds a str"),
        ("p.toml", "a = ", "cannot be read"),
        ("p.ini", "a = 1", "is no file of parameters"), ("p", "", "is no file of parameters"),
        ("p.yml", "a: \x00", "cannot be read"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidRequest, match=told) as e:
        given(file=tmp_path / name)
    assert name in str(e.value)


def test_a_missing_file_a_folder_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "march.yml").touch()
    assert given(file=tmp_path / "march.yml") == {}
    with pytest.raises(InvalidRequest, match=r"Did you mean 'march.yml'\?"):
        given(file=tmp_path / "marhc.yml")
    (tmp_path / "folder.yml").mkdir()
    (tmp_path / "bytes.yml").write_bytes(b"a: \xff")
    for name in ("folder.yml", "bytes.yml"):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            given(file=tmp_path / name)


@pytest.mark.parametrize("text", ["months", "=9", "mon-ths=9", "9x=1", "class=1", "", "a b=1", "x;import os=1"])
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(InvalidRequest, match="-p"):
        given([text])


def test_assignments() -> None:
    assert given(["a=b=c", " d =1"]) == {"a": Given("a", "b=c"), "d": Given("d", "1")}
    assert given("a=1") == given(["a=1", "a=1"])
    with pytest.raises(InvalidRequest, match="twice"):
        given(["token=hunter2", "token=hunter3"])
    with pytest.raises(InvalidRequest) as e:
        given(["to-ken=hunter2"])
    assert "hunter2" not in str(e.value)


# ---------------------------------------------------------------- binding


def test_all_faults_are_told_at_once_and_no_unknown_value() -> None:
    parameters = declared(notebook("start: date  # first day\nmonths = 9\nlr = 0.1"))
    with pytest.raises(InvalidRequest) as e:
        bind(parameters, given(["monhts=hunter2", "months=x"], environ={"DEPLOY_EXT_PARAM_LR": "y"}))
    told = str(e.value)
    assert told.startswith("4 parameters are wrong:\n- ")
    assert len(e.value.faults) == 4
    for part in (
        "Did you mean 'months'?",
        "-p months=9",
        "DEPLOY_EXT_PARAM_LR=0.1",
        "start (date: first day) is required",
        "-p start=",
    ):
        assert part in told
    assert "hunter2" not in told


@pytest.mark.parametrize(("suffix", "line"), [("yml", "x: 9"), ("json", '"x": 9'), ("toml", "x = 9")])
def test_a_fault_in_a_file_says_what_to_write_there(tmp_path: Path, suffix: str, line: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Write {line} there"):
        bind(declared(notebook("x: int")), {"x": Given("x", "nine", str(tmp_path / f"p.{suffix}"), False)})


def test_a_notebook_without_parameters_says_how_to_tag_a_cell() -> None:
    with pytest.raises(InvalidRequest, match="add the tag 'parameters'"):
        bind((), given(["x=1"]))
    assert bind((), {}) == {}


def test_a_type_that_was_inferred_can_be_annotated() -> None:
    with pytest.raises(InvalidRequest, match="annotate it in the parameters cell"):
        bind(declared(notebook("x = 1")), given(["x=1.5"]))
    with pytest.raises(InvalidRequest, match=r"Type -p x=9\.$"):
        bind(declared(notebook("x: int = 1")), given(["x=1.5"]))


def test_values_come_in_the_order_of_the_cell() -> None:
    parameters = declared(notebook("a = 1\nb = 2\nc = 3"))
    assert list(bind(parameters, given(["c=1", "a=2"]))) == ["a", "c"]
    assert list(bind(parameters, given(["z=1", "c=1", "a=2"]), lenient=True)) == ["a", "c", "z"]


@hypothesis_given(
    st.one_of(
        st.text(),
        st.integers().map(str),
        st.floats().map(repr),
        st.sampled_from(["True", "None", "nan", "1_0", " 7 ", "٣"]),
    )
)
def test_lenient_is_what_papermill_does(text: str) -> None:
    expected = _resolve_type(text)
    found = bind((), {"x": Given("x", text)}, lenient=True)["x"]
    assert repr(found) == repr(expected) == repr(guess(text))
    assert type(found) is type(expected)


def test_lenient_lets_everything_pass(tmp_path: Path) -> None:
    file = tmp_path / "p.yml"
    file.write_text("day: 2013-01-01\nn: x\nflag: yes\n")
    parameters = declared(notebook("n: int\nneeded: int"))
    assert bind(parameters, given(["more=1"], file), lenient=True) == {
        "n": "x",
        "day": "2013-01-01",
        "flag": True,
        "more": 1,
    }
    odd = bind((), given({"x": object(), "y": Colour.RED, "z": [b"a"]}), lenient=True)
    assert all(isinstance(value, str) for value in odd.values())


# ---------------------------------------------------------------- the injected cell

NAMES = st.sampled_from(["a", "b2", "_date", "_", "float", "set", "date", "nan", "__inf", "é", "print"])
ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(alphabet=st.characters()),
    st.text(alphabet="'\"\\\n\r\0\u2028\ud800\U0001f600{}#", max_size=9), st.dates(),
    st.datetimes(timezones=st.one_of(st.none(), st.timezones())),
    st.text(alphabet="a/'\"\n\udcff.", min_size=1).map(Path),
)  # fmt: skip
HASHABLE = st.recursive(ATOMS, lambda part: st.lists(part, max_size=3).map(tuple), max_leaves=3)
ANY = st.recursive(
    st.one_of(ATOMS, st.sets(HASHABLE, max_size=3)),
    lambda part: st.one_of(
        st.lists(part, max_size=3), st.lists(part, max_size=3).map(tuple), st.dictionaries(HASHABLE, part, max_size=3)
    ),
    max_leaves=8,
)


def alike(a: Any, b: Any) -> bool:
    """Equal in value and type, and NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, set):
        return len(a) == len(b) and all(any(alike(x, y) for y in b) for x in a)
    if isinstance(a, datetime):
        return a.isoformat() == b.isoformat()
    return (a != a and b != b) or (a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b)))


@hypothesis_given(st.dictionaries(NAMES, ANY, max_size=4))
@settings(max_examples=300, deadline=None)
def test_the_cell_gives_back_the_values(values: dict[str, Any]) -> None:
    source = code((), values)
    assert source.splitlines()[0] == "# Parameters"
    source.encode()
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    assert all(alike(namespace[name], value) for name, value in values.items())


@hypothesis_given(st.dictionaries(NAMES, ANY, max_size=4))
@settings(max_examples=200, deadline=None)
def test_plain_values_are_json_and_the_same_each_time(values: dict[str, Any]) -> None:
    held = plain(values)
    text = json.dumps(held, ensure_ascii=False, allow_nan=False)
    text.encode()
    assert json.loads(text) == held
    assert list(held) == list(values)


def test_nan_is_null_and_infinity_a_text() -> None:
    values = {"x": [math.nan, {"y": np.float64("nan")}], "z": -math.inf}
    assert plain(values) == {"x": [None, {"y": None}], "z": "-inf"}


def test_numbers_that_python_writes_in_hex_only() -> None:
    long = -(10**4400)
    namespace: dict[str, Any] = {}
    exec(code((), {"x": [long, {long}]}), namespace)
    assert namespace["x"] == [long, {long}]
    assert plain({"x": long}) == {"x": hex(long)}


def test_the_cell_keeps_the_names_of_the_notebook() -> None:
    source = code(
        declared(notebook("import datetime\n_date = 1")), {"start": date(2013, 1, 1), "x": math.nan, "y": Path("a")}
    )
    namespace: dict[str, Any] = {"datetime": dt, "_date": 1}
    exec(source, namespace)
    assert (namespace["datetime"], namespace["_date"]) == (dt, 1)
    assert namespace["start"] == date(2013, 1, 1)
    assert code((), {"x": 1, "y": "a"}) == "# Parameters\nx = 1\ny = 'a'\n"


def test_members_of_enums_are_written_by_name() -> None:
    source = code((), {"x": [Member("Loss", "LOG")], "y": {Member("Loss", "EXP"): 1}})
    namespace: dict[str, Any] = {}
    exec(LOSS + source, namespace)
    loss = namespace["Loss"]
    assert (namespace["x"], namespace["y"]) == ([loss.LOG], {loss.EXP: 1})
    assert plain({"x": [Member("Loss", "LOG")]}) == {"x": ["LOG"]}


def test_what_cannot_be_written_is_refused() -> None:
    for values in ({"a b": 1}, {"x = 1; y": 1}, {"class": 1}, {"x": object()}, {"x": [b"a"]}):
        with pytest.raises(InvalidRequest):
            code((), values)


def test_a_bound_default_is_the_default() -> None:
    """What the table shows as the default can be given, and sets the same value."""
    cell = "a = 9\nb = 'x y'\nc = 1.5\nd = True\ne: str | None = None"
    parameters, namespace = declared(notebook(cell)), dict[str, Any]()
    exec(cell.replace(": str | None", ""), namespace)
    values = bind(parameters, given([f"{p.name}={p.default}" for p in parameters]))
    assert values == {p.name: namespace[p.name] for p in parameters}


# ---------------------------------------------------------------- tables and grids


def test_the_table() -> None:
    parameters = declared(notebook(f"{LOSS}start: date  # day one\nn = 9\nloss = Loss.LOG\ntoken: Secret = 'hunter2'"))
    helped = repr(table(parameters))
    assert helped.splitlines()[1].split() == ["name", "type", "default", "help"]
    for part in ("required", "day one", "Loss (LOG, EXP)", "DEPLOY_EXT_SECRET_TOKEN", "***"):
        assert part in helped
    values = bind(parameters, given(["start=2013-01-01", "more=1"]), lenient=True) | {"token": "hunter2"}
    shown = table(parameters, values)
    assert [row["value"] for row in shown._rows()] == ["'2013-01-01'", "", "", "***", "1"]
    assert "hunter2" not in helped + repr(shown) + shown.to_json() + shown._repr_html_()
    assert "no parameters" in repr(table(()))
    assert table((), {"x": "<b>"})._repr_html_().count("&lt;b&gt;") == 1


def test_grids() -> None:
    parameters = declared(
        notebook("lr = 0.1\ndepth = 3\ncolumns = ['a']\nname = 'x'\nloss: Literal['a', 'b'] = 'a'\nm: int | None = 1")
    )
    assert grid(parameters, ["lr=0.05,0.1", "depth=3,6"]) == [
        {"lr": 0.05, "depth": 3}, {"lr": 0.05, "depth": 6}, {"lr": 0.1, "depth": 3}, {"lr": 0.1, "depth": 6},
    ]  # fmt: skip
    assert [run["columns"] for run in grid(parameters, ["columns=a,b;a;[]"])] == [["a", "b"], ["a"], []]
    assert [run["m"] for run in grid(parameters, ["m=1,None"])] == [1, None]
    assert grid(parameters, ["name=1, 2"]) == [{"name": "1"}, {"name": "2"}]
    assert grid(parameters, {"lr": [0.05, 1], "columns": [["a"], ["b"]], "depth": 3})[0] == {
        "lr": 0.05,
        "columns": ["a"],
        "depth": 3,
    }
    assert grid(parameters, []) == [{}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lr=0.1,,0.2", "empty part"), ("lr=", "empty part"), ("columns=a;", "empty part"), ("lr=0.1,0.10", "twice"),
        ("depth=3,x", "is no int"), ("dpeth=3,6", "Did you mean 'depth'"),
        ("token=a,b", "DEPLOY_EXT_SECRET_TOKEN"), ("columns=a;a", "twice"),
    ],
)  # fmt: skip
def test_faults_of_grids(text: str, told: str) -> None:
    parameters = declared(notebook("lr = 0.1\ndepth = 3\ncolumns = ['a']\ntoken: Secret"))
    with pytest.raises(InvalidRequest, match=told):
        grid(parameters, [text])
    with pytest.raises(InvalidRequest, match="2 of the grid are wrong"):
        grid(parameters, [text, "depth=x" if "depth" not in text.split("=")[0] else "lr=x"])


ALPHABETS: dict[str, Callable[[], st.SearchStrategy[str]]] = {
    "any": st.text,
    "dense": lambda: st.text("[]{}(),:'\"1.eE-_nullNone "),
}


@pytest.mark.parametrize("annotation", dict.fromkeys(a for a, *_ in TEXTS))
@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_no_text_breaks_the_binding(annotation: str, alphabet: str) -> None:
    """Any text is read or refused, and what is read can be written and read back."""
    parameters = declared(notebook(f"{LOSS}\nx: {annotation}"))

    @hypothesis_given(ALPHABETS[alphabet]())
    @settings(max_examples=25, deadline=None)
    def check(text: str) -> None:
        try:
            values = bind(parameters, given([f"x={text}"]))
        except InvalidRequest as e:
            assert str(e).startswith("x=")
            return
        namespace: dict[str, Any] = {}
        exec(LOSS + code(parameters, values), namespace)
        json.dumps(plain(values), allow_nan=False)

    check()
