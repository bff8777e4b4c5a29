"""The doctor on machines that really are ill: no git, a dead server, a locked database, kernels of somebody else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy_ext import checkup
from deploy_ext.checkup import Finding, examine
from deploy_ext.core import home, settings
from deploy_ext.processes import launch
from deploy_ext.records import Endpoint
from deploy_ext.targets import down, status


def one(findings: Iterator[Finding]) -> Finding:
    [finding] = findings
    return finding


def typed(command: str) -> None:
    """Type the command that mends."""
    subprocess.run(command, shell=True, check=True, capture_output=True)


def test_a_whole_examination_imports_nothing_heavy_and_makes_no_folder(tmp_path: Path) -> None:
    code = """
import json, sys
from deploy_ext.checkup import examine
found = [f.to_dict() for f in examine()]
print(json.dumps([found, [m for m in ("mlflow", "pandas", "sklearn", "papermill", "voila") if m in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    findings, heavy = json.loads(done.stdout)
    assert not heavy and not done.stderr and not list(tmp_path.iterdir())
    told = {f["what"]: Finding.from_dict(f) for f in findings}
    assert {"python", "libraries", "kernel", "git", "settings", "project", "disk", "registry", "port"} <= told.keys()
    assert all(f.sound for f in told.values() if f.what not in ("lightgbm", "git"))
    assert all(f.mend for f in told.values() if f.state in ("missing", "broken"))


def test_findings_come_in_the_order_of_the_table_whichever_ends_first() -> None:
    second_ran = threading.Event()

    def slow() -> Iterator[Finding]:
        second_ran.wait(5)
        yield Finding("slow", "ok")

    def quick() -> Iterator[Finding]:
        second_ran.set()
        yield Finding("quick", "ok")

    assert [f.what for f in examine({"slow": slow, "quick": quick})] == ["slow", "quick"]


def test_every_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_PORT", "many")
    endpoints = home() / "endpoints"
    endpoints.mkdir()
    (endpoints / "flights.json").write_text("{")
    told = {f.what: f for f in examine()}
    assert told["settings"].mend == "unset DEPLOY_EXT_PORT"
    assert "setting 'port'" in told["registry"].detail and told["registry"].state == "broken"
    assert "JSONDecodeError" in told["endpoints"].detail and told["endpoints"].state == "broken"


# git


def test_a_path_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert one(checkup.git()).state == "missing"


def test_a_project_outside_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = one(checkup.git())
    assert found.state == "optional"
    typed(found.mend)
    assert str(tmp_path) in one(checkup.git()).detail


def test_a_repository_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch, for its own tests of this
    found = one(checkup.git())
    assert found.state == "broken" and "belongs to another user" in found.detail
    typed(found.mend)
    assert one(checkup.git()).state == "ok"


def test_a_git_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\necho 'no developer tools were found' >&2; exit 1\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert one(checkup.git()) == Finding("git", "broken", "no developer tools were found")


# The project


def test_a_deploy_toml_with_a_typo_is_opened_in_the_editor(tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text("prot = 1\n")
    found = one(checkup.configuration())
    assert "Did you mean 'port'" in found.detail and found.mend.endswith(f" {tmp_path}/deploy.toml")


def test_a_project_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(tmp_path / "a project"))
    found = one(checkup.folders())
    assert found.state == "broken"
    typed(found.mend)
    assert one(checkup.folders()).state == "ok"


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".deploy").write_text("?")
    _, found = checkup.folders()
    assert (found.what, found.state) == (".deploy", "broken")
    typed(found.mend)
    assert one(checkup.folders()).state == "ok" and (tmp_path / ".deploy.old").read_text() == "?"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_file_system_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", "/proc")
    assert one(checkup.folders()).mend == checkup.ELSEWHERE
    full = one(checkup.disk())
    assert full.state == "broken" and full.detail.startswith("0.0 GB free") and "du -xh" in full.mend


def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    """Root may write all the same; the command is looked up as for anybody else."""
    tmp_path.chmod(0o500)
    mend = checkup._mend_folder(tmp_path, PermissionError(13, "Permission denied"))
    typed(mend)
    assert mend.startswith("chmod ") and tmp_path.stat().st_mode & 0o200


# The registry


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_answers_with_whatever_status_and_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DEPLOY_EXT_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        found = one(checkup.registry())
        server.shutdown()
    assert found.state == "ok" and "(DEPLOY_EXT_TRACKING_URI) answers in" in found.detail
    monkeypatch.setenv("DEPLOY_EXT_TRACKING_URI", "http://ada:secret@localhost:9")
    assert "secret" not in one(checkup.registry()).to_json()


def test_a_dead_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deploy.toml").write_text('tracking_uri = "http://no-such-host.invalid:5000"\n')
    home()
    found = one(checkup.registry())
    assert found.state == "broken" and found.mend == "curl -v http://no-such-host.invalid:5000/health"
    assert found.detail.startswith("from deploy.toml: the MLflow server http://no-such-host.invalid:5000 does not")
    monkeypatch.setenv("DEPLOY_EXT_TRACKING_URI", "http://127.0.0.1:9")
    assert one(checkup.registry()).mend == "mlflow server --port 9"


def test_a_server_that_accepts_and_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        [found] = examine({"registry": checkup.registry})
        assert time.monotonic() - start < checkup.PATIENCE + 1
    assert found.state == "broken" and "does not answer" in found.detail


def test_an_address_that_only_mlflow_understands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host/db")
    [found] = examine({"registry": checkup.registry}, patience=60)
    assert found.state == "broken" and "nonsense" in found.detail


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Path:
    path = home() / "mlflow.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE t (x)")
    made.close()
    return path


def test_the_own_database(database: Path) -> None:
    before = database.read_bytes()
    found = one(checkup.registry())
    assert found.state == "ok" and f"{database} (the project's own)" in found.detail
    assert database.read_bytes() == before and {p.name for p in database.parent.iterdir()} == {
        ".gitignore",
        "mlflow.db",
    }


def test_a_database_that_another_process_holds(database: Path) -> None:
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    found = one(checkup.registry())
    holder.close()
    assert found.state == "broken" and "locked" in found.detail and found.mend == f"fuser -v {database}"
    assert one(checkup.registry()).state == "ok"


def test_what_is_no_database_is_set_aside(database: Path) -> None:
    database.write_bytes(b"a page of an old newspaper" * 100)
    found = one(checkup.registry())
    assert found.state == "broken"
    typed(found.mend)
    assert one(checkup.registry()).detail.endswith("is made when first used")
    database.mkdir()
    assert one(checkup.registry()).mend == f"mv {database} {database}.old"


def test_a_database_in_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team/mlflow.db")
    found = one(checkup.registry())
    assert (found.what, found.state, found.mend) == ("registry", "broken", f"mkdir -p {tmp_path}/team")


# Serving


def test_a_network_namespace_whose_loopback_is_down() -> None:
    code = "from deploy_ext.checkup import port; print(next(port()).to_json())"
    done = subprocess.run(["unshare", "-rn", sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces here: {done.stderr}")
    found = Finding.from_dict(json.loads(done.stdout))
    assert found.state == "broken" and found.mend == "sudo ip link set lo up"


def test_a_temporary_folder_whose_path_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(long))
    found = next(checkup.unix_sockets())
    assert found.state == "broken" and "too long" in found.detail and found.mend == "export TMPDIR=/tmp"


def serve(name: str, kind: str, folder: Path) -> Endpoint:
    """A web server on `folder`, well as long as the file `health` is in it."""
    (folder / "health").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), port]
    return launch(Endpoint(name, 1, None, url, "", kind), argv, health=f"{url}/health", env={}, timeout=30)


@pytest.mark.server
@pytest.mark.parametrize(
    ("name", "kind", "ill", "dead"),
    [
        ("flights/3", "model", "deploy-ext down flights/3 && deploy-ext up flights/3", "deploy-ext up flights/3"),
        ("a report", "report", "deploy-ext down 'a report'", "deploy-ext down 'a report'"),
    ],
)
def test_endpoints_that_are_well_ill_and_dead(tmp_path: Path, name: str, kind: str, ill: str, dead: str) -> None:
    running = serve(name, kind, tmp_path)
    assert running.pid
    try:
        assert one(checkup.endpoints()) == Finding("endpoints", "ok", f"{name} answers")
        (tmp_path / "health").unlink()
        found = one(checkup.endpoints())
        assert found.mend == ill and found.detail.startswith("degraded: it answers with status 404")
        os.kill(running.pid, signal.SIGKILL)
        while status(name)[0].state != "dead":
            time.sleep(0.02)
        found = one(checkup.endpoints())
        assert found.mend == dead and found.detail.startswith("dead: ")
    finally:
        down(name, settings())
    assert not list(checkup.endpoints())


def test_every_command_that_mends_is_one_that_a_shell_can_parse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "it's a project; rm x"
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(project))
    found = one(checkup.folders())
    typed(found.mend)
    assert project.is_dir()
    (project / "deploy.toml").write_text("=")
    mends = [f.mend for f in (*checkup.configuration(), *checkup.disk(1e18), *checkup.git()) if f.mend]
    assert len(mends) >= 2
    for mend in mends:
        subprocess.run([shutil.which("sh") or "sh", "-n", "-c", mend], check=True)
