"""Every test has its own project folder; see also the conftest.py above, which collects the notebooks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

settings.register_profile("deploy_ext", deadline=None)  # two shared cores: a slow example is not a failure
settings.load_profile("deploy_ext")


@pytest.fixture(scope="session", autouse=True)
def _session_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project for fixtures that outlive one test, and an author for the commits that tests make."""
    folder = tmp_path_factory.mktemp("session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "Test")
            patch.setenv(f"GIT_{role}_EMAIL", "test@localhost")
        yield folder


@pytest.fixture(autouse=True)
def _project(_session_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own folder is project and working directory, unless a wider fixture has chosen a project."""
    if os.environ.get("DEPLOY_EXT_PROJECT") == str(_session_project):
        monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(tmp_path))
        monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _jobs() -> Iterator[None]:
    """No job that a test has started, and that failed, keeps the machine busy."""
    from jobs import RUNNING

    yield
    while RUNNING:
        job = RUNNING.pop()
        if job.poll() is None:
            job.kill()
            job.communicate()


@pytest.fixture(scope="session")
def _blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with MLflow's tables, which take a second to make."""
    from deploy_ext.registry import Registry

    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    Registry(f"sqlite:///{path}").names()
    return path


@pytest.fixture
def begun(_blank: Path) -> None:
    """The project has a database already, as every project that is not new."""
    from deploy_ext.core import home

    shutil.copy(_blank, home() / "mlflow.db")


@pytest.fixture(scope="session")
def _told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `stories.tell` has been told once."""
    from stories import tell

    folder = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        tell()
    return folder


@pytest.fixture
def story(_told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project where flights/1 is champion, /2 has failed and /3 waits; its servers end with the test."""
    from stories import clone, processes

    clone(_told, tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield tmp_path
    for process in processes(tmp_path):
        process.kill()


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server for all tests; it takes seconds to start."""
    from servers import mlflow_server

    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


def without(package: str, what: str) -> NoReturn:
    """Skip for want of a Debian package; fail in CI, which installs it, as a skip there would hide a broken install."""
    told = f"{what}. Run: sudo apt-get install {package}"
    pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser for playwright's `executable_path`."""
    return shutil.which("chromium") or without("chromium", "there is no chromium here")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Chromium without a screen, which asks nobody for news; no longer than a module, as its event loop stays on."""
    from playwright.sync_api import expect, sync_playwright

    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    arguments = [*quiet.split(), "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        expect.set_options(timeout=60_000)  # milliseconds; two shared cores are slow at times
        opened = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def promtool() -> str:
    """What knows the conventions of Prometheus."""
    return shutil.which("promtool") or without("prometheus", "there is no promtool here")


@pytest.fixture(scope="session")
def lightgbm() -> ModuleType:
    """A library whose wheel needs OpenMP from the system."""
    try:
        import lightgbm
    except OSError as e:
        without("libgomp1", f"lightgbm cannot be loaded ({e})")
    return lightgbm
