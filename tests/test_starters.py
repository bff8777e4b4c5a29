"""The files of a job that runs by itself: what is told arrives as it was typed, and they do what their comments say."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import nbformat
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploy_ext.core import InvalidRequest
from deploy_ext.declaration import declared
from deploy_ext.starters import KINDS, WEEKDAYS, Cron, Told, calendar, next_steps, sentence, starter, write

HARD = 'it\'s ${{ secrets.X }} }} $(id) `id` $HOME $$ %% %n \\\\% \\ "x" #: - é🛫\ufeff\u2028'
TOLD = Told("nbs/train.ipynb", "flights", ("start=2013-01-01", "months=3"), "flights.gates", "unseen", "late")
HERE = replace(TOLD, folder="/srv/flights", bin="/srv/flights/.venv/bin")


# when


def spans(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(sorted)
    part = number.map(str) | pair.map("{0[0]}-{0[1]}".format)
    part |= st.tuples(pair, st.integers(1, high)).map(lambda t: f"{t[0][0]}-{t[0][1]}/{t[1]}")
    star = st.just("*") | st.integers(1, high).map("*/{}".format)
    return star | st.lists(part, min_size=1, max_size=3).map(",".join)


SCHEDULES = st.tuples(spans(0, 59), spans(0, 23), spans(1, 31), spans(1, 12), spans(0, 7)).map(" ".join)


def covers(field: str, number: int, low: int, high: int) -> bool:
    """crontab(5): does a field cover the number?"""
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        if number in range(int(first), int(last or first) + 1, int(step or 1)):
            return True
    return False


def due(text: str, moment: datetime) -> bool:
    """crontab(5): does it start in this minute? Of two restricted days one is enough."""
    minute, hour, day, month, weekday = text.split()
    number = moment.isoweekday()
    on_day = covers(day, moment.day, 1, 31)
    on_weekday = covers(weekday, number, 0, 6) or covers(weekday, number % 7, 0, 6)
    days = on_day and on_weekday if day[0] == "*" or weekday[0] == "*" else on_day or on_weekday
    clock = covers(minute, moment.minute, 0, 59) and covers(hour, moment.hour, 0, 23)
    return days and clock and covers(month, moment.month, 1, 12)


def elapses(event: str, moment: datetime) -> bool:
    """systemd.time(7): is it one of the times of the calendar event?"""

    def within(field: str, number: int, high: int) -> bool:
        if field == "*":
            return True
        for part in field.split(","):
            span, _, step = part.partition("/")
            first, dots, last = span.partition("..")
            end = int(last) if dots else high if step else int(first)
            if number in range(int(first), end + 1, int(step or 1)):
                return True
        return False

    days, date, clock = event.split() if event[0].isalpha() else ("", *event.split())
    _, month, day = date.split("-")
    hour, minute, second = clock.split(":")
    assert second == "00"
    on_day = not days or WEEKDAYS[moment.isoweekday() % 7].title() in days.split(",")
    on_date = within(month, moment.month, 12) and within(day, moment.day, 31)
    return on_day and on_date and within(hour, moment.hour, 23) and within(minute, moment.minute, 59)


@settings(max_examples=200)
@given(SCHEDULES, st.integers(0, 2**32))
@example("0 0 * * 0,0-0", 0)
@example("0 0 * 1-1/2 *", 0)
def test_systemd_starts_it_when_cron_does(text: str, seed: int) -> None:
    try:
        cron = Cron.parse(text)
    except InvalidRequest as e:
        assert re.search(r"to Kubernetes|never comes", str(e))
        return
    events, random = calendar(cron), Random(seed)
    for _ in range(30):
        moment = datetime(2024, 1, 1) + timedelta(minutes=random.randrange(8 * 366 * 24 * 60))
        near = moment.replace(minute=cron.minute[0].low, hour=cron.hour[0].low)  # or few would be due
        for m in (moment, near):
            assert due(text, m) == due(str(cron), m) == any(elapses(e, m) for e in events), (text, events, m)


@given(SCHEDULES)
def test_a_schedule_that_was_read_is_read_again(text: str) -> None:
    try:
        told = str(Cron.parse(text))
    except InvalidRequest:
        return
    assert str(Cron.parse(told)) == told
    assert not re.search(r"(?<!/)7", told.split()[4])  # Kubernetes knows no seventh day


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 3 1 * *", "0 3 1 * *"),
        ("  0  3 1 jan,JUL sun ", "0 3 1 1,7 0"),
        ("0 0 * * FRI-SUN", "0 0 * * 0,5,6"),
        ("0 0 * * 6-0", "0 0 * * 0,6"),
        ("0 0 * * SUN-SUN", "0 0 * * 0"),
        ("0 0 * * 1-7/2", "0 0 * * 0,1,3,5"),
        ("05 */6 * * *", "5 */6 * * *"),
        ("0 0 29 2 *", "0 0 29 2 *"),
        ("0 0 31 6 1", "0 0 31 6 1"),  # Mondays in June
        ("0 0 */1 * 1", "0 0 * * 1"),
    ],
)
def test_what_a_schedule_says(text: str, said: str) -> None:
    assert str(Cron.parse(text)) == said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "0 fields"),
        ("0 3 1 *", "4 fields"),
        ("@monthly", "five of cron"),
        ("0 0 0 3 1 *", "6 fields"),
        ("60 * * * *", "minute 60 is not between 0 and 59"),
        ("0 24 * * *", "hour 24 is not between"),
        ("0 0 0 * *", "day 0 is not between 1 and 31"),
        ("0 0 * 13 *", "month 13"),
        ("0 0 * * 8", "weekday 8"),
        ("0 0 * foo *", "'foo' is no month"),
        ("0 jan * * *", "'jan' is no hour"),
        ("0 0 * * fri-mon", "runs backwards"),
        ("0 5/2 * * *", "write 5-23/2"),
        ("0 */0 * * *", "step that is not between"),
        ("*/61 * * * *", "step that is not between"),
        ("0 0 1,* * *", "let it stand alone"),
        ("0 0 ? * MON", "'?' is no day"),
        ("0 0 L * *", "'l' is no day"),
        ("0 0 -1 * *", "is no day"),
        ("0 0 1- * *", "is no day"),
        ("0 0 1,, * *", "'' is no day"),
        ("0 0 ١ * *", "is no day"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("0 0 */2 * 1-5", "to Kubernetes"),
        ("0 0 1 * */2", "to Kubernetes"),
    ],
)
def test_a_wrong_schedule_says_which_field(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as e:
        Told(schedule=text)
    assert why.lower() in str(e.value).lower()
    assert "0 3 1 * *" in str(e.value)  # what a right one looks like


# what


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"parameters": ("months",)}, "NAME=VALUE"),
        ({"parameters": ("größe=1",)}, "NAME=VALUE"),
        ({"parameters": ("a b=1",)}, "NAME=VALUE"),
        ({"parameters": ("a=1", "a=2")}, "given twice"),
        ({"parameters": ("a=\0",)}, "no command line can hold"),
        ({"parameters": ("a=\ud800",)}, "no command line can hold"),
        ({"notebook": "--help"}, "./--help"),
        ({"notebook": ""}, "notebook is empty"),
        ({"data": "-x.csv"}, "./-x.csv"),
        ({"target": ""}, "target is empty"),
        ({"model": "flights/3"}, "Give 'flights'"),
        ({"model": "a b"}, "not a model name"),
        ({"python": "3"}, "no version"),
        ({"python": "3.11 # x"}, "no version"),
    ],
)
def test_what_cannot_be_told(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest) as e:
        Told(**wrong)
    assert why in str(e.value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(lambda t: t[:1] != "-"))
@example("Überflüge: neu!")
@example("retrain")
@example("x" * 200)
@example("飛行機")
def test_a_name_is_one_that_kubernetes_takes(name: str) -> None:
    slug = replace(TOLD, name=name).slug
    assert re.fullmatch(r"retrain([a-z0-9-]*[a-z0-9])?", slug)
    assert len(slug) <= 50  # a CronJob's may have 52


def test_which_starters_there_are() -> None:
    with pytest.raises(InvalidRequest, match="Did you mean 'schedule'"):
        starter("shedule", "cron", HERE)
    with pytest.raises(InvalidRequest, match="Say --cron or --kubernetes or --systemd"):
        starter("schedule", "", HERE)
    with pytest.raises(InvalidRequest, match="'jenkins' is no kind of it"):
        starter("ci", "jenkins", HERE)
    with pytest.raises(InvalidRequest, match="Leave it out"):
        starter("retrain", "github", HERE)
    for what, kinds in KINDS.items():
        for kind in kinds:
            made = starter(what, kind, HERE)
            assert made == starter(what, kind, HERE)
            assert all(text.endswith("\n") and not re.search(r"@[a-z]+@", text) for text in made.values())
            assert not any(re.search(r"[ \t]$", text, re.MULTILINE) for text in made.values())
            said = next_steps(kind, HERE)
            assert said
            assert all(Path(name).name in said for name in made if what == "schedule")


@pytest.mark.parametrize("kind", ["cron", "systemd"])
def test_a_schedule_on_this_machine_knows_where(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="absolute folder"):
        starter("schedule", kind, TOLD)
    with pytest.raises(InvalidRequest, match="absolute bin"):
        starter("schedule", kind, replace(TOLD, folder="/srv"))


@pytest.mark.parametrize(("what", "kind"), [("ci", "github"), ("ci", "gitlab"), ("schedule", "kubernetes")])
@pytest.mark.parametrize("notebook", ["/home/me/train.ipynb", "../train.ipynb"])
def test_a_runner_has_the_project_only(what: str, kind: str, notebook: str) -> None:
    with pytest.raises(InvalidRequest, match="within it"):
        starter(what, kind, replace(TOLD, notebook=notebook))


# quotes

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("$%{}'\"\\ `#:\n"))
WORDS = TEXTS.filter(lambda t: t and not t.startswith(("-", "/")) and ".." not in t.split("/"))


@st.composite
def tolds(draw: Callable[[st.SearchStrategy[Any]], Any], texts: Any = TEXTS, words: Any = WORDS) -> Told:
    """Anything that can be told."""
    values = draw(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), texts, max_size=13))
    optional = st.none() | words
    return replace(
        HERE,
        notebook=str(Path(draw(words))),
        parameters=tuple(f"{k}={v}" for k, v in values.items()),
        gates=draw(optional),
        data=draw(optional),
        target=draw(optional),
        branch=draw(words),
        requirements=draw(words),
        image=draw(words),
    )


EVERYWHERE = replace(HERE, notebook=HARD, parameters=(f"a={HARD}", "b=", "A=x"), gates=HARD, data=HARD, branch=HARD)
VALUES = {"RETRAIN_NOTEBOOK": "notebook", "RETRAIN_DATA": "data", "RETRAIN_TARGET": "target"}
VALUES |= {"RETRAIN_MODEL": "model", "RETRAIN_GATES": "gates", "RETRAIN_REQUIREMENTS": "requirements"}


def expected(told: Told) -> dict[str, str]:
    """The variables that a script in CI has to find."""
    some = {name: getattr(told, field) for name, field in VALUES.items()}
    found = {name: value for name, value in some.items() if value is not None}
    return found | {f"P_{p.partition('=')[0]}": p.partition("=")[2] for p in told.parameters}


def evaluated(text: str, inputs: dict[str, str]) -> str:
    """What GitHub's runner makes of a value: `${{` to the `}}` outside of quotes; here literals, inputs, and ||."""
    found, rest = "", text
    while "${{" in rest:
        before, _, rest = rest.partition("${{")
        end, quoted = 0, False
        while quoted or rest[end : end + 2] != "}}":
            quoted ^= rest[end] == "'"
            end += 1
        found += before + _expression(rest[:end].strip(), inputs)
        rest = rest[end + 2 :]
    return found + rest


def _expression(text: str, inputs: dict[str, str]) -> str:
    name = re.match(r"inputs\.(\w+) \|\| ", text)
    if name and inputs.get(name[1]):
        return inputs[name[1]]
    literal = text[name.end() if name else 0 :]
    assert re.fullmatch(r"'([^']|'')*'", literal), literal
    return literal[1:-1].replace("''", "'")


@given(tolds())
@example(EVERYWHERE)
def test_github_gets_what_was_told(told: Told) -> None:
    made = yaml.safe_load(starter("ci", "github", told)[".github/workflows/retrain.yml"])
    variables = made["jobs"]["retrain"]["env"]
    assert {k: evaluated(v, {}) for k, v in variables.items()} == expected(told) | {"FAIL_ON_REFUSAL": "false"}
    on = made[True]  # what YAML 1.1 makes of on
    for pattern, plain in ((on["push"]["paths"][0], told.notebook), (on["push"]["branches"][0], told.branch)):
        assert "${{" not in pattern  # no expression may stand there
        assert re.sub(r"\\(.)", r"\1", pattern) == plain.replace("${{", "*{{")
        assert not re.search(r"(?<!\\)(\\\\)*[?+\[\]!]", pattern)
    asked = (on["workflow_dispatch"] or {}).get("inputs", {})
    assert len(asked) == min(10, len({n.lower() for n in expected(told) if n.startswith("P_")}))
    for name, about in asked.items():
        assert evaluated(variables[f"P_{name}"], {name: "by hand"}) == "by hand"
        default = expected(told)[f"P_{name}"]
        assert about.get("default") == (None if "${{" in default else default)
    setup = next(s for s in made["jobs"]["retrain"]["steps"] if "setup-python" in s.get("uses", ""))
    assert evaluated(setup["with"]["cache-dependency-path"], {}) == told.requirements


@given(tolds())
@example(EVERYWHERE)
def test_gitlab_gets_what_was_told(told: Told) -> None:
    made = yaml.safe_load(starter("ci", "gitlab", told)[".gitlab/retrain.yml"])[told.slug]
    variables = made["variables"]
    assert variables.pop("PIP_CACHE_DIR") == "$CI_PROJECT_DIR/.cache/pip"
    for name, value in variables.items():
        if isinstance(value, dict):
            assert value.pop("expand") is False, name
        else:
            assert "$" not in value, name
    plain = {k: v["value"] if isinstance(v, dict) else v for k, v in variables.items()}
    assert plain == expected(told)
    pattern = made["rules"][1]["changes"][0]
    assert re.sub(r"\\(.)", r"\1", pattern.replace("[$]", "$")) == told.notebook
    assert "$" not in pattern.replace("[$]", "")
    assert made["cache"]["key"]["files"] == [told.requirements]


def cron_reads(line: str, halves: bool) -> str:
    """The command that cron hands to the shell: `\\%` is %, a bare % ends it; some also make one of two backslashes."""
    found, i = "", 0
    while i < len(line):
        if line[i] == "\\" and line[i + 1 : i + 2] in (("%", "\\") if halves else ("%",)):
            i += 1
        elif line[i] == "%":
            raise AssertionError(f"the command ends here: {line[i:]}")
        found += line[i]
        i += 1
    return found


PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("$%{}'\"\\ `#:"), max_size=30)
PLAIN_WORDS = PLAIN.filter(lambda t: t and not t.startswith(("-", "/")) and ".." not in t.split("/"))


@given(tolds(PLAIN, PLAIN_WORDS), st.text(st.sampled_from("/ab %'\\é$")))
@example(EVERYWHERE, "")
def test_cron_gets_what_was_told(told: Told, folder: str) -> None:
    told = replace(told, folder=f"/srv{folder}")
    try:
        (text,) = starter("schedule", "cron", told).values()
    except InvalidRequest as e:
        assert "cron takes 998" in str(e)
        return
    line = text.split("\n")[-2]
    assert line.startswith("0 3 1 * * cd ")
    for halves in (False, True):
        command = cron_reads(line.removeprefix("0 3 1 * * "), halves)
        words = shlex.split(command)
        assert words[:8] == ["cd", told.folder, "&&", "mkdir", "-p", ".deploy", "&&", "export"]
        log = [">>", f".deploy/{told.slug}.log", "2>&1"]
        assert words[10:] == ["deploy-ext", *sentence(told), "--on-overlap", "skip", *log]


def test_what_a_crontab_cannot_hold() -> None:
    with pytest.raises(InvalidRequest, match=r"cannot hold the character '\\n'"):
        starter("schedule", "cron", replace(HERE, parameters=("a=two\nlines",)))
    with pytest.raises(InvalidRequest, match="998"):
        starter("schedule", "cron", replace(HERE, parameters=("a=" + "x" * 990,)))


def systemd_reads(line: str) -> list[str]:
    """systemd.service(5): words in double quotes with C's escapes, then specifiers, then variables."""
    words = []
    for quoted in re.findall(r'"((?:[^"\\]|\\.)*)"(?: |$)', line):
        word = re.sub(r'\\(x[0-9a-f]{2}|["\\])', lambda m: m[1] if len(m[1]) == 1 else chr(int(m[1][1:], 16)), quoted)
        for sign in "%$":
            assert not word.replace(sign * 2, "").count(sign), f"a lonely {sign} in {word}"
            word = word.replace(sign * 2, sign)
        words.append(word)
    return words


@given(tolds())
@example(EVERYWHERE)
def test_systemd_gets_what_was_told(told: Told) -> None:
    service, timer = starter("schedule", "systemd", told).values()
    lines = re.split(r"[\n\r]", service)
    (start,) = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    assert systemd_reads(start) == ["/srv/flights/.venv/bin/deploy-ext", *sentence(told)]
    assert not any(line.endswith("\\") for line in lines)  # it would take the next line with it
    assert "OnCalendar=*-*-01 03:00:00\n" in timer


def test_a_folder_in_a_unit() -> None:
    service = starter("schedule", "systemd", replace(HERE, folder="/srv/100% mine"))["schedule/retrain-flights.service"]
    assert "\nWorkingDirectory=/srv/100%% mine\n" in service
    for folder in ("/srv/a\nExecStart=/bin/sh", "/srv/a ", "/srv/a\\", "/srv/$a", '/srv/"a'):
        with pytest.raises(InvalidRequest, match="cannot stand in a unit"):
            starter("schedule", "systemd", replace(HERE, folder=folder))


def kubernetes_reads(text: str) -> str:
    """How a container's arguments are expanded when no variable is set: $$ is $, and $(X) stays."""
    found, i = "", 0
    while i < len(text):
        if text[i] == "$" and text[i + 1 : i + 2] == "$":
            i += 1
        elif text[i] == "$" and text[i + 1 : i + 2] == "(":
            raise AssertionError(f"a variable in {text}")
        found += text[i]
        i += 1
    return found


def container(text: str) -> dict[str, Any]:
    """The one container of a CronJob."""
    _, job = yaml.safe_load_all(text)
    return job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]


@given(tolds())
@example(EVERYWHERE)
def test_kubernetes_gets_what_was_told(told: Told) -> None:
    made = container(starter("schedule", "kubernetes", told)["schedule/retrain-flights.yml"])
    assert tuple(map(kubernetes_reads, made["args"])) == sentence(told)
    assert made["image"] == told.image


# do they do what their comments say?

TEST_DOUBLE = """#!{python}
import json, os, signal, sys
codes = json.load(open("codes.json"))
with open("said.jsonl", "a") as f:
    print(json.dumps(sys.argv[1:]), file=f)
said = len(open("said.jsonl").readlines())
if codes == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    print("ready", flush=True)
    signal.pause()
sys.exit(codes[said - 1])
"""


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A folder with a `deploy-ext` that notes what it was told and ends with the codes in codes.json, one by one."""
    folder = tmp_path / "bin of % 'mine'"
    folder.mkdir()
    (folder / "deploy-ext").write_text(TEST_DOUBLE.format(python=sys.executable))
    (folder / "deploy-ext").chmod(0o755)
    return folder


def run(script: list[str], command: Path, codes: Any, **environ: str) -> tuple[int, str, list[list[str]]]:
    """Run a script beside that `deploy-ext`: its code, its output, and the words of each call."""
    here = command.parent
    (here / "codes.json").write_text(json.dumps(codes))
    (here / "said.jsonl").write_text("")
    env = {"PATH": f"{command}:/usr/bin:/bin", **environ}
    done = subprocess.run(script, cwd=here, env=env, capture_output=True, text=True, timeout=60)
    said = [json.loads(line) for line in (here / "said.jsonl").read_text().splitlines()]
    return done.returncode, done.stdout + done.stderr, said


def steps(told: Told) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of the workflow's job, and its scripts by name."""
    job = yaml.safe_load(starter("ci", "github", told)[".github/workflows/retrain.yml"])["jobs"]["retrain"]
    scripts = {s["name"]: s["run"] for s in job["steps"] if "run" in s}
    assert not any("${{" in script for script in scripts.values())  # a script is the same whatever was told
    return {k: evaluated(v, {}) for k, v in job["env"].items()}, scripts


RESUMED = ["retrain", "--resume", "last"]


@pytest.mark.parametrize(
    ("codes", "more", "ended", "said"),
    [
        ([0], {}, 0, ""),
        ([3], {}, 0, "::warning title=Refused by the gates::"),
        ([3], {"FAIL_ON_REFUSAL": "true"}, 3, "::warning title=Refused by the gates::"),
        ([4], {}, 4, "::error title=Contract violated::"),
        ([5], {}, 5, "::error title=A cell failed::"),
        ([6], {}, 6, "::error title=Endpoint failed::"),
        ([7, 0], {}, 0, ""),
        ([7, 3], {}, 0, "::warning title=Refused by the gates::"),
        ([7, 7], {}, 7, "::error title=Out of time::"),
        ([2], {}, 2, "::error title=Not run::deploy-ext ended with code 2."),
    ],
)
def test_the_workflow_ends_by_code(
    codes: list[int], more: dict[str, str], ended: int, said: str, command: Path
) -> None:
    told = replace(TOLD, parameters=(f"a={HARD}\n!", "b="), data=HARD)
    variables, scripts = steps(told)
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", scripts["Retrain"]]  # as a runner calls it
    code, output, calls = run(bash, command, codes, **(variables | more))
    assert code == ended
    assert output.startswith(said) if said else output == ""
    assert calls[0] == [*sentence(told), "--timeout", "2h"]
    assert calls[1:] == [RESUMED] * (len(codes) - 1)


def test_the_workflow_asks_for_a_server_first(command: Path) -> None:
    _, scripts = steps(TOLD)
    first = next(iter(scripts))
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", scripts[first]]
    code, output, _ = run(bash, command, [], DEPLOY_EXT_TRACKING_URI="")
    assert code == 2
    assert output.startswith("::error title=No MLflow server::Set the repository secret DEPLOY_EXT_TRACKING_URI")
    assert run(bash, command, [], DEPLOY_EXT_TRACKING_URI="https://mlflow.example.com")[:2] == (0, "")


def test_what_the_workflow_may_do_and_keeps() -> None:
    made = yaml.safe_load(starter("ci", "github", TOLD)[".github/workflows/retrain.yml"])
    assert made["permissions"] == {"contents": "read"}
    assert made["concurrency"] == {"group": "retrain-flights", "cancel-in-progress": False}
    assert set(made[True]) == {"schedule", "push", "workflow_dispatch"}
    job = made["jobs"]["retrain"]
    used = [s["uses"] for s in job["steps"] if "uses" in s]
    assert used == ["actions/checkout@v4", "actions/setup-python@v5", "actions/upload-artifact@v4"]
    upload = job["steps"][-1]
    assert upload["if"] == "always()"
    assert upload["with"]["include-hidden-files"] is True  # .deploy is one
    assert "checkpoint" not in upload["with"]["path"]
    assert "secrets." not in json.dumps(job["env"])  # the installation does not see them
    assert (
        yaml.safe_load(starter("ci", "github", Told())[".github/workflows/retrain.yml"])[True]["workflow_dispatch"]
        is None
    )


@pytest.mark.parametrize(("codes", "ended"), [([0], 0), ([3], 3), ([5], 5), ([7, 0], 0), ([7, 3], 3), ([7, 7], 7)])
@pytest.mark.parametrize("shell", [["bash", "-eo", "pipefail", "-c"], ["sh", "-e", "-c"]])
def test_the_pipeline_ends_by_code(shell: list[str], codes: list[int], ended: int, command: Path) -> None:
    told = replace(TOLD, parameters=(f"a={HARD}\n!", "b="), data=HARD)
    made = yaml.safe_load(starter("ci", "gitlab", told)[".gitlab/retrain.yml"])["retrain-flights"]
    (script,) = made["script"]
    code, output, calls = run([*shell, script], command, codes, **expected(told))
    assert (code, output) == (ended, "")
    assert calls[0] == [*sentence(told), "--timeout", "80m"]
    assert calls[1:] == [RESUMED] * (len(codes) - 1)
    assert made["allow_failure"] == {"exit_codes": [3]}
    assert made["artifacts"]["reports"] == {"junit": ".deploy/jobs/*/junit.xml"}
    assert made["resource_group"] == "retrain-flights"
    assert run([*shell, made["before_script"][0]], command, [])[0] == 2


@pytest.mark.parametrize("name", ["plain", "100% of 'my' \\\\ $HOME"])
def test_the_line_of_cron_runs(name: str, command: Path) -> None:
    project = command.parent / name
    project.mkdir()
    told = replace(TOLD, parameters=(f"a={HARD}", "b="), folder=str(project), bin=str(command))
    (text,) = starter("schedule", "cron", told).values()
    line = cron_reads(text.split("\n")[-2].removeprefix("0 3 1 * * "), True)
    for file in ("codes.json", "said.jsonl"):
        (project / file).symlink_to(command.parent / file)
    code, output, calls = run(["env", "PATH=/usr/bin:/bin", "sh", "-c", line], command, [5, 0])
    assert (code, output) == (5, "")
    assert calls == [[*sentence(told), "--on-overlap", "skip"]]
    assert (project / ".deploy/retrain-flights.log").read_text() == ""


def in_container(told: Told) -> list[str]:
    """What the CronJob's container executes."""
    made = container(starter("schedule", "kubernetes", told)["schedule/retrain-flights.yml"])
    return [kubernetes_reads(word) for word in [*made["command"], *made["args"]]]


@pytest.mark.parametrize(("code", "ended"), [(0, 0), (3, 0), (4, 4), (5, 5), (6, 6), (7, 7)])
def test_the_container_ends_by_code(code: int, ended: int, command: Path) -> None:
    told = replace(TOLD, parameters=(f"a={HARD}\n!", "b="))
    assert run(in_container(told), command, [code]) == (ended, "", [list(sentence(told))])


def test_the_container_hands_the_signal_on(command: Path) -> None:
    (command.parent / "codes.json").write_text('"wait"')
    env = {"PATH": f"{command}:/usr/bin:/bin"}
    with subprocess.Popen(in_container(TOLD), cwd=command.parent, env=env, stdout=subprocess.PIPE, text=True) as shell:
        try:
            assert shell.stdout
            assert shell.stdout.readline() == "ready\n"
            shell.send_signal(signal.SIGTERM)
            assert shell.wait(60) == 7
        finally:
            shell.kill()


@pytest.mark.parametrize("version", ["1.27", "1.30", "1.34"])
def test_kubernetes_takes_the_manifest(version: str) -> None:
    try:
        validator = importlib.import_module("kubernetes_validate")
    except ImportError:
        told = "kubernetes-validate is not installed. Run: pip install 'deploy_ext[dev]'"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    for told in (HERE, EVERYWHERE):
        claim, job = yaml.safe_load_all(starter("schedule", "kubernetes", told)["schedule/retrain-flights.yml"])
        validator.validate(claim, version, strict=True)
        validator.validate(job, version, strict=True)
        job["spec"]["concurrencyPolcy"] = "Forbid"
        with pytest.raises(validator.ValidationError):
            validator.validate(job, version, strict=True)


def test_the_container_has_few_rights() -> None:
    _, job = yaml.safe_load_all(starter("schedule", "kubernetes", HERE)["schedule/retrain-flights.yml"])
    run_as = job["spec"]["jobTemplate"]["spec"]
    pod = run_as["template"]["spec"]
    (only,) = pod["containers"]
    assert (job["spec"]["concurrencyPolicy"], run_as["backoffLimit"], pod["restartPolicy"]) == ("Forbid", 0, "Never")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert only["securityContext"]["readOnlyRootFilesystem"] is True
    assert only["securityContext"]["allowPrivilegeEscalation"] is False
    mounts = {m["name"]: m["mountPath"] for m in only["volumeMounts"]}
    assert mounts == {"deploy": "/project/.deploy", "tmp": "/tmp"}
    assert {v["name"] for v in pod["volumes"]} == set(mounts)


# write


def test_written_once(tmp_path: Path) -> None:
    made = starter("schedule", "systemd", HERE)
    paths = write(made, tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == list(made)
    assert [p.read_text() for p in paths] == list(made.values())
    assert write(made, tmp_path) == ()
    paths[1].unlink()
    assert write(made, tmp_path) == paths[1:]
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "retrain-flights.service",
        "retrain-flights.timer",
        "schedule",
    ]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    made = starter("schedule", "systemd", HERE)
    second = tmp_path / list(made)[1]
    second.parent.mkdir()
    second.write_text("mine")
    with pytest.raises(InvalidRequest, match=r"retrain-flights\.timer is there already and differs.*--force"):
        write(made, tmp_path)
    assert [p.name for p in second.parent.iterdir()] == [second.name]  # all or none
    assert second.read_text() == "mine"
    assert len(write(made, tmp_path, force=True)) == 2
    assert second.read_text() == made[list(made)[1]]


def test_what_stands_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "retrain.ipynb").mkdir()
    with pytest.raises(InvalidRequest, match="move what stands in its place"):
        write(starter("retrain", "", Told()), tmp_path, force=True)
    (tmp_path / ".github").write_text("a file")
    with pytest.raises(InvalidRequest, match="move what stands in its place"):
        write(starter("ci", "github", TOLD), tmp_path, force=True)
    (tmp_path / ".gitlab").mkdir()
    (tmp_path / ".gitlab/retrain.yml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match="differs"):
        write(starter("ci", "gitlab", TOLD), tmp_path)


# the notebook

NOTEBOOK = json.loads((files("deploy_ext.templates") / "retrain" / "retrain.ipynb").read_text(encoding="utf-8"))
CELLS = {c["id"]: "".join(c["source"]) for c in NOTEBOOK["cells"]}


def test_the_notebook_is_ready_to_copy() -> None:
    book = nbformat.reads(starter("retrain", "", Told())["retrain.ipynb"], as_version=4)
    nbformat.validate(book)
    found = {p.name: (str(p.type), bool(p.help)) for p in declared(book)}
    assert found["start"] == ("date", True)
    assert {n: t for n, (t, _) in found.items()} == {
        "start": "date",
        "months": "int",
        "test_months": "int",
        "max_rows": "int",
        "seed": "int",
    }
    assert all(told for _, told in found.values())
    assert not any(c.get("outputs") or c.get("execution_count") for c in book.cells)
    said = [line for c in book.cells if c.cell_type == "code" for line in c.source.splitlines() if "%deploy" in line]
    assert any(line.startswith("%deploy register model --name flights --data train --target late") for line in said)
    assert not any("validate" in line for line in said)  # the job does it


def loaded(start: str, **given: int) -> dict[str, Any]:
    """The notebook's variables after its data is loaded."""
    parameters = {"months": 1, "test_months": 1, "max_rows": 20_000, "seed": 0} | given
    scope: dict[str, Any] = {"start": start, **parameters}
    exec(compile(ast.parse(CELLS["retrain-load"]), "retrain-load", "exec"), scope)
    return scope


def test_the_notebook_knows_what_it_has_not_seen() -> None:
    january = loaded("2013-01-01")
    whole, day = january["flights"], january["day"]
    assert len(january["train"]) == 20_000
    assert len(january["unseen"]) == int(day.between("2013-02-01", "2013-02-28").sum())
    assert list(january["train"]) == list(january["unseen"]) == [*january["columns"], "late"]
    assert january["train"].equals(loaded("2013-01-01")["train"])  # the seed decides
    window = loaded("2013-09-01", months=2, max_rows=10**9)
    assert len(window["train"]) == int(day.between("2013-09-01", "2013-10-31").sum())
    assert len(window["unseen"]) == int((whole["month"] == 11).sum())
    with pytest.raises(ValueError, match="no flights from 2014-01-01"):
        loaded("2013-12-01")
