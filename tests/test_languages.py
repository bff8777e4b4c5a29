"""Jobs whose notebook is not in Python: real kernels that speak bash, or a language that nobody knows."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from jobs import outputs, resumed, retrain, started
from nbformat.v4 import new_code_cell, new_notebook
from stories import until

from deploy_ext.core import InvalidRequest
from deploy_ext.order import described, tickets
from deploy_ext.report import spoken

pytestmark = pytest.mark.usefixtures("begun")

BASH = {"name": "bash", "display_name": "Bash", "language": "bash"}
VALUE = "s3same+dich/2013"

MUTE = """
import sys
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

class Mute(Kernel):
    implementation, implementation_version, banner = "mute", "1", ""
    language_info = {"name": "mute", "mimetype": "text/plain", "file_extension": ".mute"}

    async def do_execute(self, code, silent, *more, **told):
        failed = "fail" in code
        return {"status": "error", "ename": "", "evalue": "7", "traceback": []} if failed else {
            "status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}

IPKernelApp.launch_instance(kernel_class=Mute)
"""


@pytest.fixture(scope="module")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of kernels: bash, and one that tells of no error but in its reply."""
    folder = tmp_path_factory.mktemp("kernels")
    subprocess.run([sys.executable, "-m", "bash_kernel.install", "--prefix", str(folder)], check=True)
    mute = folder / "share" / "jupyter" / "kernels" / "mute"
    mute.mkdir()
    (mute / "mute.py").write_text(MUTE)
    command = [sys.executable, str(mute / "mute.py"), "-f", "{connection_file}"]
    (mute / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Mute", "language": "mute"}))
    return folder / "share" / "jupyter"


@pytest.fixture(autouse=True)
def _known(_kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(_kernels))


def foreign(path: Path, *cells: str, kernel: dict[str, str] = BASH) -> str:
    """A notebook in another language; its first cell is tagged `parameters`."""
    made = [new_code_cell(c, metadata={"tags": ["parameters"]} if i == 0 else {}) for i, c in enumerate(cells)]
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return str(path)


def test_a_notebook_in_bash_is_a_job_as_any_other(tmp_path: Path) -> None:
    book = foreign(tmp_path / "train.ipynb", "months=3\nname=x", "kept=$((months * 2))", 'echo "$kept months of $name"')
    job = retrain(book, "months=9", "name=a 'b' $HOME")
    assert (job.outcome, job.exit_code, job.ran, job.cells) == ("done", 0, 4, 4), job
    assert "18 months of a 'b' $HOME" in outputs(job)
    cells = nbformat.read(job.executed, as_version=4).cells
    assert [c.metadata.tags for c in cells if c.metadata.tags] == [["parameters"], ["injected-parameters"]]
    assert "months=9" in cells[1].source and "18 months" in (Path(job.folder) / "executed.html").read_text()
    assert "no state is kept of a kernel that speaks bash" in repr(job)
    assert "in bash" in described(book)


def test_what_the_kernel_speaks_counts_and_not_what_the_notebook_says(tmp_path: Path) -> None:
    says = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = foreign(tmp_path / "train.ipynb", "months=3", "echo months $months", kernel=says)
    assert "months 4" in outputs(retrain(book, "months=4", kernel="bash"))
    assert [spoken({"kernelspec": {"name": name}}) for name in ("bash", "python3", "none")] == [
        "bash",
        "python",
        "python",
    ]
    assert spoken({"kernelspec": BASH}, "python3") == "python" and spoken({"kernelspec": BASH}, "none") == "bash"


def test_a_job_in_bash_that_failed_is_run_again_from_its_start(tmp_path: Path) -> None:
    cells = ["months=3", "kept=$((months * 2)); echo 1 >> log", "echo sum $kept; no-such-program"]
    failed = retrain(foreign(tmp_path / "train.ipynb", *cells))
    assert (failed.outcome, failed.exit_code) == ("failed", 5) and "cell 3: it failed with 127" in failed.told
    assert any("a resumed job runs all cells again" in note for note in failed.notes)
    foreign(tmp_path / "train.ipynb", *cells[:2], "echo sum $kept")
    again = resumed("last")
    assert (again.outcome, again.ran) == ("done", 3) and "sum 6" in outputs(again)
    assert (tmp_path / "log").read_text() == "1\n1\n"


def test_a_cell_in_bash_that_takes_too_long(tmp_path: Path) -> None:
    job = retrain(foreign(tmp_path / "train.ipynb", "months=3", "sleep 600.25"), cell_timeout="2s")
    assert (job.outcome, job.exit_code) == ("timed out", 7) and "cell 2: it took longer than 2 seconds" in job.told
    until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "600.25"]], 5)


def test_a_failure_that_a_kernel_does_not_show_is_none_the_less_one(tmp_path: Path) -> None:
    mute = {"name": "mute", "display_name": "Mute", "language": "mute"}
    job = retrain(foreign(tmp_path / "train.ipynb", "ok", "fail", "ok", kernel=mute))
    assert (job.outcome, job.exit_code, job.ran) == ("failed", 5, 2) and "cell 2: CellExecutionError" in job.told, job
    with pytest.raises(InvalidRequest, match="papermill cannot write parameters in mute"):
        retrain(foreign(tmp_path / "well.ipynb", "ok", kernel=mute), "months=3")


# secrets


def test_a_secret_is_in_the_environment_of_the_kernel_and_nowhere_else(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "deploy.toml").write_text("secrets = ['token']\n")
    monkeypatch.setenv("DEPLOY_EXT_SECRET_TOKEN", VALUE)
    monkeypatch.setenv("DEPLOY_EXT_SECRET_OTHER", "of-another-notebook")
    book = foreign(
        tmp_path / "train.ipynb",
        "token=$DEPLOY_EXT_SECRET_TOKEN",
        f'[ "$token" = "{VALUE[:5]}""{VALUE[5:]}" ] && echo it is right',
        'echo "postgres://ada:$token@db/flights"; echo "$token" >&2',
        'printf "ada:%s" "$token" | base64; printf %s "$token" | od -An -tx1',
        'for ((i = 0; i < ${#token}; i++)); do echo -n "${token:i:1}"; sleep 0.01; done',
        "env; set | grep -i token",
        "echo '{\"password\": \"'$token'\"}'; cat <<< $token",
        'echo "cannot log in with $token"; false',
    )
    assert "DEPLOY_EXT_SECRET_TOKEN" in described(book)
    job = retrain(book)
    assert (job.outcome, job.ran) == ("failed", 8) and "it is right" in outputs(job), job
    executed = Path(job.executed).read_text()
    assert "***" in executed and base64.b64encode(f"ada:{VALUE}".encode()).decode()[8:24] not in executed
    for path in [p for p in (tmp_path / ".deploy").rglob("*") if p.is_file()]:
        assert not [v for v in (VALUE, "of-another-notebook") if v.encode() in path.read_bytes()], path
    assert VALUE not in repr(job) + json.dumps(job.to_dict())


def test_a_secret_of_a_file_is_read_without_a_setting(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "token").write_text(f"{VALUE}\n")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv("DEPLOY_EXT_SECRET_TOKEN_FILE", str(tmp_path / "token"))
    cells = "months=3", 'echo "${#DEPLOY_EXT_SECRET_TOKEN} $DEPLOY_EXT_SECRET_TOKEN"'
    job = retrain(foreign(tmp_path / "train.ipynb", *cells))
    assert f"{len(VALUE)} ***" in outputs(job), job


def test_a_secret_that_would_not_be_one_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "deploy.toml").write_text("secrets = ['token']\n")
    book = foreign(tmp_path / "train.ipynb", "token=", "curl -u ada:$token db")
    with pytest.raises(InvalidRequest, match="read DEPLOY_EXT_SECRET_TOKEN from its environment"):
        retrain(book)
    reads = foreign(tmp_path / "reads.ipynb", "months=3", "curl -u ada:$DEPLOY_EXT_SECRET_TOKEN db")
    with pytest.raises(InvalidRequest, match="in none of three places"):
        retrain(reads)
    monkeypatch.setenv("DEPLOY_EXT_SECRET_TOKEN", VALUE)
    for book in (reads, foreign(tmp_path / "plain.ipynb", "months=3")):
        with pytest.raises(InvalidRequest, match="token is a secret") as told:
            retrain(book, f"token={VALUE}")
        assert VALUE not in str(told.value)
    assert tickets() == []


def test_what_a_notebook_in_bash_cannot_do_is_a_sentence(tmp_path: Path) -> None:
    book = foreign(tmp_path / "train.ipynb", "months=3")
    with pytest.raises(InvalidRequest, match="a sweep needs parameters that can be read"):
        retrain(book, "months=1,2", grid=True)
    with pytest.raises(InvalidRequest, match="deploy-ext validate"):
        retrain(book, model="flights", data="unseen")
    (tmp_path / "values.yml").write_text("months: {a: 1}\n")
    with pytest.raises(InvalidRequest, match="papermill cannot write parameters in bash"):
        retrain(book, file=tmp_path / "values.yml")
    job = started(tmp_path, "train.ipynb", "-f", "values.yml")
    _, err = job.communicate(timeout=60)
    assert job.returncode == 2 and "Traceback" not in err
    assert tickets() == []
