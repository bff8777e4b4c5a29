"""Notebooks and jobs for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import deploy_ext
from deploy_ext.summary import Retrained

RUNNING: list[subprocess.Popen[str]] = []  # jobs of the test that is under way
PARAMETERS = "months: int = 3  # how many months of flights\nseed: int = 0"


def notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> str:
    """A notebook in which text that begins with # and a space is markdown, and everything else code."""
    made = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
    made += [new_markdown_cell(c) if c.startswith("# ") and "\n" not in c else new_code_cell(c) for c in cells]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=made, metadata=about), path)
    return str(path)


def outputs(job: Retrained) -> str:
    """All that the cells of the executed copy have printed."""
    cells = nbformat.read(job.executed, as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def retrain(book: str, *parameters: str, **told: Any) -> Retrained:
    """A job in this process."""
    found = deploy_ext.retrain(book, parameters, **told)
    assert isinstance(found, Retrained)
    return found


def resumed(word: str, **told: Any) -> Retrained:
    """A job that goes on."""
    found = deploy_ext.retrain(resume=word, **told)
    assert isinstance(found, Retrained)
    return found


def started(folder: Path, *words: str, by: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A job in a process of its own, which has a terminal's signals; it ends with the test at the latest.

    by: a command that starts it."""
    code = "import sys; from deploy_ext.cli import main; sys.exit(main())"
    environment = {**os.environ, "DEPLOY_EXT_PROJECT": str(folder)}
    command = [*by, sys.executable, "-c", code, "retrain", *words]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    RUNNING.append(subprocess.Popen(command, cwd=folder, env=environment, **pipes))
    return RUNNING[-1]
