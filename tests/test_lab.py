"""What a user sees in JupyterLab: records are tables, a mistake is one line, and Tab offers our words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser]

CELLS = [
    "%load_ext deploy_ext",
    "from stories import flights, good\n\ntrain, unseen, model = flights(), flights(1), good()",
    "%%deploy gates flights\nroc_auc >= 0.8\nroc_auc >= champion - 0.02 at 95%\nf1[carrier] >= 0.99",
    "v = %deploy register model --name flights --data train --target late --purpose 'late arrivals'\nv",
    "%deploy validate flights --data unseen --target late",
    "%deploy promote flights",
    "",
]
QUIET = {"fetchNews": "false", "checkForUpdates": False}
READY = """() => {
    const app = window.jupyterapp, context = app?.shell.currentWidget?.sessionContext;
    const kernel = context?.session?.kernel;
    const idle = context?.isReady && kernel?.connectionStatus === 'connected' && kernel?.status === 'idle';
    return idle && app.commands.hasCommand('notebook:run-all-cells');
}"""


def written(folder: Path) -> dict[str, str]:
    """A notebook in `folder`, and the environment of a Lab that has its settings there and asks nobody for news."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "story.ipynb")
    settings = folder / ".lab" / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(QUIET))
    own = {f"JUPYTER_{name}_DIR": str(folder / ".lab" / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(folder / ".lab" / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    return {**os.environ, **own, "DEPLOY_EXT_PROJECT": str(folder), "PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    """The address of a notebook in a JupyterLab of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = ["--no-browser", "--allow-root", "--ServerApp.port=0", "--KernelManager.transport=ipc"]
        command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}", *options]
        command.append("--LabApp.expose_app_in_browser=True")
        log = Path(folder) / ".log"
        with log.open("w") as told:
            server = subprocess.Popen(command, cwd=folder, env=written(Path(folder)), stderr=told)
        try:
            while not (found := re.search(r"(http://127\.0\.0\.1:\d+/lab)(\?token=\w+)", log.read_text())):
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            yield f"{found[1]}/tree/story.ipynb{found[2]}"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def page(lab: str, browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1200, "height": 1500})
    opened.set_default_timeout(120_000)
    opened.goto(lab)
    opened.wait_for_function(READY)
    yield opened
    opened.close()


def test_the_story_in_lab(page: Page) -> None:
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    verdict = cells.nth(4).locator(".deploy-ext")
    expect(verdict.locator("b")).to_have_text("flights/1: FAILED on 600 rows", timeout=90_000)
    assert [row.split("\t")[0] for row in verdict.locator("tr").all_inner_texts()] == [
        "metric",
        "roc_auc",
        "roc_auc",
        "f1[carrier]",
    ]
    assert verdict.get_by_text("fail", exact=True).evaluate("e => getComputedStyle(e).color") == "rgb(207, 34, 46)"
    expect(cells.nth(3).locator(".deploy-ext table")).to_contain_text("late arrivals")
    mistake = cells.nth(5).locator(".jp-OutputArea-output")
    expect(mistake).to_contain_text("GateFailed: flights/1 failed its gates: f1[carrier]")
    assert "Traceback" not in mistake.inner_text()

    cells.nth(6).locator(".cm-content").click()
    page.keyboard.type("%deploy re")
    page.keyboard.press("Tab")
    offered = page.locator(".jp-Completer:not(.lm-mod-hidden) .jp-Completer-match")
    expect(offered).to_have_text(["register", "report", "retrain"])
    page.keyboard.press("Enter")
    expect(cells.nth(6).locator(".cm-content")).to_have_text("%deploy register")
