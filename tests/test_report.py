"""The model card as it reaches its readers: one HTML file, and a live page in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import bundles
import httpx
import nbformat
import psutil
import pytest
from playwright.sync_api import Browser, Page
from sklearn.linear_model import LogisticRegression

from deploy_ext.card import card
from deploy_ext.core import InvalidRequest, NotebookFailed, settings
from deploy_ext.records import Check, Endpoint, Event, Verdict, Version
from deploy_ext.registry import Registry
from deploy_ext.report import fill, serve, write
from deploy_ext.targets import down, status

PURPOSE = "Tell the gate <staff> which flights will be late"
HEADINGS = [
    "What it is for",
    "What it expects",
    "How good it is",
    "Was it allowed",
    "Where it comes from",
    "What answers",
    "What happened to it",
    "What is not known",
]


def register(folder: Path, score: float) -> Version:
    """A version whose verdict has the metric `score`."""
    X, y = bundles.flights()
    registry = Registry()
    bundle = bundles.write(LogisticRegression().fit(X, y), folder, X)
    known = {"user": "ada", "notebook": "flights.ipynb", "python": "3.11.2", "requirements": ["scikit-learn==1.9.1"]}
    version = registry.log(folder, bundle, provenance=known, event=Event("register", "flights"), purpose=PURPOSE)
    checks = (
        Check("roc_auc", score, ">= 0.85", True, score - 0.01, score + 0.01),
        Check("f1[hour]", 0.7, ">= 0.5", True),
    )
    verdict = Verdict("flights", version.version, checks, "1" * 64, "2" * 64, bundle.digest, rows=28_889)
    registry.add_verdict(version, verdict)
    registry.append(Event("validate", "flights", to=str(version.version), verdict=verdict.digest))
    return replace(version, verdict=verdict)


def promote(version: Version) -> None:
    """Make `version` the champion, as the verb does."""
    registry = Registry()
    registry.set_alias("flights", "champion", version.version)
    registry.append(Event("promote", "flights", to=str(version.version), reason="better"))


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Version]]:
    """Two versions, the first one champion, in a project whose path has spaces, on a machine with a foreign kernel."""
    folder = tmp_path_factory.mktemp("a project with spaces")
    foreign = folder / "elsewhere" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text('{"argv": ["false"], "display_name": "Python 3", "language": "python"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        patch.setenv("JUPYTER_PATH", str(folder / "elsewhere"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        found = [register(folder / f"bundle {n}", score) for n, score in ((1, 0.9137), (2, 0.9259))]
        promote(found[0])
        yield found


@pytest.fixture
def tab(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """An empty tab, and the list of all URLs that it asks for."""
    page, asked = browser.new_page(), []
    page.set_default_timeout(120_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    yield page, asked
    page.close()


@pytest.fixture(scope="module")
def live(versions: list[Version]) -> Iterator[Endpoint]:
    """The live page of the champion, started by a process that has ended."""
    code = "from deploy_ext.report import serve; print(serve('flights').to_json())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    yield Endpoint.from_dict(json.loads(told))
    if any(e.name == "flights-report" for e in status()):
        down("flights-report", settings())


# one HTML file


@pytest.fixture(scope="module")
def page(versions: list[Version], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("flights/1", tmp_path_factory.mktemp("mail") / "flights.html")


def test_the_file_answers_every_question(page: Path) -> None:
    text = page.read_text()
    assert re.findall("<h2[^>]*>(.*?)</h2>", text) == HEADINGS
    told = ("0.9137", "28,889 rows", "Tell the gate &lt;staff&gt;", "scikit-learn==1.9.1", "ledger is whole")
    assert [word for word in told if word not in text] == []
    assert "not recorded" in text and "%deploy validate" not in text


def test_the_file_tells_no_code_no_secret_and_no_path(page: Path, versions: list[Version]) -> None:
    text = page.read_text()
    assert not re.search("<script|<link|import |://|url\\(", text)
    assert str(Path.home()) not in text and "a project with spaces" not in text


def test_the_file_asks_nobody(page: Path, tab: tuple[Page, list[str]]) -> None:
    shown, asked = tab
    shown.goto(page.as_uri())
    assert shown.locator("h1").inner_text() == "flights version 1"
    assert asked == [page.as_uri()]


def test_what_is_missing_is_told(versions: list[Version]) -> None:
    known = card("flights/1")
    assert {"git commit", "data file", "fairness between groups"} <= {gap.missing for gap in known.unknown}
    assert known.faults == () and [event.what for event in known.history].count("register") == 2


def test_a_damaged_bundle_is_told(versions: list[Version], monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    where = registry.store.call("get_model_version_download_uri", "flights", "2")
    damaged = Path(unquote(urlsplit(where).path)) / "contract.json"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole + b" ")
    try:
        known = card("flights/2")
    finally:
        damaged.write_bytes(whole)
    assert "contract.json" in known.broken and str(Path.cwd()) not in known.broken
    assert "columns" in [gap.missing for gap in known.unknown]


@pytest.mark.parametrize(
    ("ref", "told"),
    [("fligths", "Did you mean 'flights'"), ("flights/9", "no version 9"), ("flights@best", "no alias")],
)
def test_an_unknown_version_is_told_before_anything_runs(
    versions: list[Version], tmp_path: Path, ref: str, told: str
) -> None:
    for say in (lambda: write(ref, tmp_path / "x.html"), lambda: serve(ref)):
        with pytest.raises(InvalidRequest, match=told):
            say()
    assert not list(tmp_path.iterdir())


# the notebook run


def template(folder: Path, source: str) -> Path:
    v4 = nbformat.v4
    first = v4.new_code_cell("model = ''", metadata={"tags": ["parameters"]})
    path = folder / "template.ipynb"
    nbformat.write(v4.new_notebook(cells=[first, v4.new_code_cell(source)]), path)
    return path


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "from deploy_ext.core import InvalidRequest\nraise InvalidRequest('no such thing')",
            "InvalidRequest: no such thing",
        ),
        ("raise ValueError('one\\ntwo')", "ValueError: one. Mend"),
        ("import os; os._exit(3)", "kernel of template.ipynb ended"),
    ],
)
def test_a_failing_cell_is_one_line_and_leaves_the_last_report(tmp_path: Path, source: str, told: str) -> None:
    out = tmp_path / "out.ipynb"
    out.write_text("the last one")
    with pytest.raises(NotebookFailed, match=told) as e:
        fill(template(tmp_path, source), {"model": "x"}, out)
    assert e.value.exit_code == 5 and "\n" not in str(e.value)
    assert out.read_text() == "the last one" and len(list(tmp_path.iterdir())) == 2


def test_a_report_can_be_filled_from_a_notebook(tmp_path: Path) -> None:
    """A kernel has an event loop of its own that runs while the verb does."""
    inner = template(tmp_path, "print('inner', model)").rename(tmp_path / "inner.ipynb")
    source = f"""from pathlib import Path
from deploy_ext.report import fill
print(fill(Path({str(inner)!r}), {{"model": model}}, Path({str(tmp_path / "out.ipynb")!r})))"""
    fill(template(tmp_path, source), {"model": "flights"}, tmp_path / "outer.ipynb")
    assert "inner flights" in (tmp_path / "out.ipynb").read_text()


def test_no_kernel_stays_behind(tmp_path: Path) -> None:
    fill(template(tmp_path, "import os\nprint('pid', os.getpid())"), {"model": "x"}, tmp_path / "out.ipynb")
    found = re.search(r"pid (\d+)", (tmp_path / "out.ipynb").read_text())
    assert found and not psutil.pid_exists(int(found[1]))


# the live page


def test_the_page_shows_the_champion_of_this_minute(
    live: Endpoint, versions: list[Version], tab: tuple[Page, list[str]]
) -> None:
    shown, asked = tab
    for version, score in ((versions[0], "0.9137"), (versions[1], "0.9259")):
        promote(version)
        shown.goto(live.url)
        shown.get_by_text("What is not known").wait_for()
        assert shown.locator("h1").inner_text() == f"flights version {version.version}"
        assert (
            shown.locator("#quality, table")
            .filter(has_text="roc_auc")
            .first.get_by_text(score, exact=True)
            .is_visible()
        )
        assert [heading.inner_text().strip("¶") for heading in shown.locator("h2").all()] == HEADINGS
    assert len(re.findall(rb"/Type\s*/Page\b", shown.pdf())) > 1, "the page is printed whole"
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert str(Path.home()) not in shown.content() and "a project with spaces" not in shown.locator("body").inner_text()


def test_the_page_is_refused_without_the_token(live: Endpoint, tab: tuple[Page, list[str]]) -> None:
    shown, _ = tab
    base = live.url.partition("?")[0]
    assert httpx.get(base).status_code == 302 and httpx.get(f"{base}?token=wrong").status_code == 302
    shown.goto(base)
    assert "/login" in shown.url and "roc_auc" not in shown.content()
    for path in ("voila/files/voila.json", "voila/files/report.ipynb", "api/kernels", "voila/render/report.ipynb"):
        reply = httpx.get(base + path, follow_redirects=True)
        assert reply.status_code >= 400 or "/login" in str(reply.url), path


def test_the_token_stands_in_no_public_place(live: Endpoint) -> None:
    token = live.url.partition("token=")[2]
    process = psutil.Process(live.pid)
    assert len(token) >= 32 and not any(token in word for word in process.cmdline())
    readable = [f for f in Path(".deploy").rglob("*") if f.is_file() and f.stat().st_mode & 0o077]
    assert not [f for f in readable if token.encode() in f.read_bytes()]


def test_a_page_without_its_champion_says_so(
    live: Endpoint, versions: list[Version], tab: tuple[Page, list[str]]
) -> None:
    shown, _ = tab
    Registry().store.call("delete_registered_model_alias", "flights", "champion")
    shown.goto(live.url)
    shown.get_by_text("flights has no champion yet").wait_for()
    assert "Traceback" not in shown.content()
    promote(versions[0])


def test_status_knows_it_and_saying_serve_twice_gives_it(live: Endpoint) -> None:
    (found,) = [e for e in status() if e.kind == "report"]
    assert (found.name, found.state, found.follows, found.url) == ("flights-report", "ready", "champion", live.url)
    assert serve("flights").pid == live.pid


def test_down_ends_it_with_its_kernels(live: Endpoint) -> None:
    family = [psutil.Process(live.pid), *psutil.Process(live.pid).children(recursive=True)]
    assert len(family) > 1
    down("flights-report", settings())
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert not [e for e in status() if e.kind == "report"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(live.url)
