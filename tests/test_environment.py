"""Environments that really are ill: libraries out of range, kernels of somebody else, templates left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from deploy_ext import environment
from deploy_ext.environment import Finding

REPO = Path(__file__).parents[1]


def distribution(folder: Path, name: str, *metadata: str, files: tuple[str, ...] = ()) -> None:
    """Install into `folder` what importlib.metadata takes for the distribution `name`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *metadata, ""]))
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_libraries_out_of_range_and_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["numpy<1", "no-such-library>=2", "pandas", 'not-here; sys_platform == "none"', 'nor-here; extra == "dev"']
    distribution(tmp_path, "some_app", *(f"Requires-Dist: {line}" for line in needs))
    monkeypatch.syspath_prepend(tmp_path)
    old, missing, rest = environment.libraries("some_app")
    assert (old.what, old.state) == ("numpy", "broken") and old.mend.endswith("install 'numpy<1'")
    assert (missing.what, missing.state) == ("no-such-library", "missing")
    assert missing.mend.startswith(sys.executable) or missing.mend.startswith("uv ")
    assert rest.detail.startswith("1 of 3: mlflow ")


def test_a_library_that_is_installed_and_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "booster", files=("lib_booster.so",))
    (tmp_path / "lib_booster.so").write_bytes(b"no shared library")
    monkeypatch.syspath_prepend(tmp_path)
    found = next(environment.extras({"booster": ("tests", "booster")}))
    assert found.state == "broken" and "lib_booster.so" in found.detail


def kernelspec(folder: Path, name: str, interpreter: str) -> None:
    spec = {"argv": [interpreter, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": name}
    (folder / "kernels" / name).mkdir(parents=True)
    (folder / "kernels" / name / "kernel.json").write_text(json.dumps({**spec, "language": "python"}))


def test_the_kernel_of_another_interpreter_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernelspec(tmp_path, "python3", "/opt/other/bin/python3")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found = next(environment.kernel())
    assert found.state == "missing" and "/opt/other/bin/python3" in found.detail
    kernelspec(tmp_path, "mine", sys.executable)
    found = next(environment.kernel())
    assert found.state == "ok" and "choose 'mine'" in found.detail


def test_in_a_fresh_environment_the_kernel_is_mended_by_typing_it(tmp_path: Path) -> None:
    """The libraries come over PYTHONPATH as with `pip install --target`: the code is there, share/jupyter is not."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    kernelspec(tmp_path / "first", "python3", sys.executable)
    libraries = os.pathsep.join([str(REPO), sysconfig.get_path("purelib")])
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": libraries, "PYTHONDONTWRITEBYTECODE": "1"}
    env["JUPYTER_PATH"] = str(tmp_path / "first")
    code = "from deploy_ext.environment import *; print(*[f.to_json() for f in (*kernel(), *pages())], sep='\\n')"

    def look() -> list[Finding]:
        command = [tmp_path / "env/bin/python", "-c", code]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return [Finding.from_dict(json.loads(line)) for line in done.stdout.splitlines()]

    kernel, *pages = look()
    assert kernel.state == "missing" and f"'python3' is {sys.executable}" in kernel.detail
    assert [p.what for p in pages if p.state == "broken" and "--force-reinstall" in p.mend] == ["nbconvert", "voila"]
    subprocess.run(kernel.mend, shell=True, env=env, check=True, capture_output=True)
    assert look()[0].detail.startswith("choose 'deploy_ext'")
