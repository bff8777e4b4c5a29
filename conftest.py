"""Pages are tests: pytest collects nbs/*.ipynb, one test per code cell, run in order in one shell per notebook."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CELL_TIMEOUT = 120.0  # seconds
LONG = (  # files of tests that take minutes: they begin first, so that no process has to wait for one at the end
    *("test_retrain", "test_registry", "test_job_second_day", "test_sweep", "test_notify", "test_dvc", "test_cluster"),
    *("test_targets", "test_cli", "test_bad_input", "test_server", "test_batch", "test_compile", "test_report"),
)
RUNNERS = ("execnb", "fastcore", "IPython")  # frames of these say nothing about the page


def pytest_configure() -> None:
    """Take from the environment what would lead a test to a real server or to the user's own project.

    Who runs the tests in the background has Ctrl-C ignored, and so would all processes that tests interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DEPLOY_EXT_"))]:
        del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run also the tests that take minutes, marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first. Without --slow, tests marked slow are deselected; -m slow asks for them, too."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    if config.getoption("--slow") or "slow" in str(config.getoption("markexpr")):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return Notebook.from_parent(parent, path=file_path) if file_path.match("nbs/*.ipynb") else None


class CellFailed(Exception):
    """A cell raised; the message is the traceback, from the cell inwards."""


class Notebook(pytest.File):
    """A page. Its shell, a temporary project folder and a clean environment live from the first cell to the last."""

    def collect(self) -> Iterator[Cell]:
        from nbdev.test import nb_test_cells

        self.cells = nb_test_cells(self.path)
        self.ran = 0
        self.broken: str | None = None
        for i, cell in enumerate(self.cells):
            yield Cell.from_parent(self, name=cell.id, index=i)

    def setup(self) -> None:
        from execnb.shell import CaptureShell
        from IPython.core.interactiveshell import InteractiveShell

        before = dict(os.environ), list(sys.path), sys.modules["__main__"], Path.cwd()
        folder = tempfile.TemporaryDirectory(prefix=f"{self.path.stem}-", ignore_cleanup_errors=True)
        os.chdir(folder.name)
        os.environ |= {"DEPLOY_EXT_PROJECT": folder.name, "IN_TEST": "1"}
        self.shell: Any = CaptureShell(mpl_format="")  # no matplotlib at the start

        def restore() -> None:
            self.shell.close()
            atexit.unregister(self.shell.atexit_operations)  # it would collect garbage, page after page
            del self.shell
            InteractiveShell._instance = None  # type: ignore[assignment]
            os.environ.clear()
            os.environ.update(before[0])
            sys.path[:], sys.modules["__main__"] = before[1], before[2]
            os.chdir(before[3])
            folder.cleanup()

        self.addfinalizer(restore)

    def run_to(self, index: int) -> None:
        """Run what has not run yet, up to the cell at `index`; cells that -k left out run too, later ones need them."""
        if self.broken:
            pytest.skip(f"cell {self.broken} failed")
        while self.ran <= index:
            cell = self.cells[self.ran]
            self.ran += 1
            self.shell.run(cell.source, timeout=CELL_TIMEOUT)
            if self.shell.exc is not None:
                self.broken = cell.id
                raise CellFailed(_from_the_page_inwards(cell, self.shell.exc))


class Cell(pytest.Item):
    """One code cell that nbdev would run."""

    def __init__(self, *, index: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.index = index

    def runtest(self) -> None:
        page = self.parent
        assert isinstance(page, Notebook)
        page.run_to(self.index)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, CellFailed) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.name} cell {self.name}"


def _from_the_page_inwards(cell: Any, error: BaseException) -> str:
    frame = error.__traceback__
    while frame and frame.tb_frame.f_globals.get("__name__", "").partition(".")[0] in RUNNERS:
        frame = frame.tb_next
    shown = "".join(traceback.format_exception(type(error), error, frame or error.__traceback__))
    return f"{type(error).__name__} in cell {cell.id}: {error}\n\n{cell.source}\n\n{shown}"
