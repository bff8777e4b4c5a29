"""The flights model, retrained month by month with the notebook of `init retrain`; for tests and bench/seasons.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from calendar import month_name
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GATES = """roc_auc >= 0.85
roc_auc >= champion - 0.001
f1 >= 0.7
"""
LAST = 11  # each window is judged by the month after it, and the data ends with December
SAY = "import sys; from deploy_ext.cli import main; sys.exit(main())"


def say(folder: Path, *words: str) -> tuple[int, str, str]:
    """Type `deploy-ext` in a project: the exit code, what it answers, and what it tells on the way."""
    environment = {**os.environ, "DEPLOY_EXT_PROJECT": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-c", SAY, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    return ran.returncode, ran.stdout, ran.stderr


@dataclass(frozen=True)
class Month:
    """How the retraining of one month went. champion: who it was afterwards; figure, other: areas under the ROC."""

    number: int
    code: int
    seconds: float
    told: dict[str, Any] = field(repr=False)

    @property
    def champion(self) -> str:
        """The version that is champion after it."""
        return self.told["champion"] or ""

    @property
    def figure(self) -> float:
        """The candidate's area under the ROC, on the month after the window."""
        return self.told["figures"]["roc_auc"]

    @property
    def other(self) -> float | None:
        """That of the champion before it, on the same month."""
        found = [re.match(r"champion ([\d.]+)", check["detail"]) for check in self.told["verdict"]["checks"]]
        return next((float(f[1]) for f in found if f), None)

    @property
    def why(self) -> str:
        """The gates that have refused it."""
        failed = [c for c in self.told["verdict"]["checks"] if c["passed"] is False]
        return "; ".join(f"{c['metric']} {c['value']:.4f}, wanted {c['threshold']}" for c in failed)


def project(folder: Path) -> Path:
    """A new project in an empty folder: the notebook and the gates."""
    code, _, told = say(folder, "init", "retrain")
    assert code == 0, told
    (folder / "flights.gates").write_text(GATES)
    return folder


def retrain(folder: Path, number: int, *more: str) -> Month:
    """Learn from one month of 2013, and promote what the month after it does not refuse."""
    judged = ("--model", "flights", "--data", "unseen", "--target", "late", "--gates", "flights.gates", "--promote")
    began = time.monotonic()
    window = ("-p", f"start=2013-{number:02}-01", "-p", "months=1")
    code, out, told = say(folder, "retrain", "retrain.ipynb", *window, *judged, "--json", *more)
    assert out, told
    return Month(number, code, time.monotonic() - began, json.loads(out))


def table(months: Iterable[Month]) -> str:
    """The months as text."""
    lines = [
        f"{'learnt from':12}{'judged by':12}{'outcome':10}{'candidate':>10}{'champion':>10}{'seconds':>9}  refused for"
    ]
    for m in months:
        other = f"{m.other:.4f}" if m.other is not None else "-"
        start = f"{month_name[m.number]:12}{month_name[m.number % 12 + 1]:12}{m.told['outcome']:10}"
        lines.append(f"{start}{m.figure:10.4f}{other:>10}{m.seconds:9.1f}  {m.why}".rstrip())
    return "\n".join(lines)
