"""From a fitted model to a sealed bundle: what the page does not show."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from deploy_ext.capture import reload
from deploy_ext.contract import infer
from deploy_ext.making import make
from deploy_ext.output import describe_output

ROWS: Any = pd.DataFrame({"dep_delay": [1.0, 40.0, -3.0, 25.0] * 5})
LATE = (ROWS["dep_delay"] > 15).rename("late")


@pytest.mark.parametrize("name", ["code", "bundle", "flights"])
def test_a_model_may_be_called_as_a_folder_of_ours(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halving_steps.py").write_text("def half(rows):\n    return rows / 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        half = importlib.import_module("halving_steps").half
        model = make_pipeline(FunctionTransformer(half), LogisticRegression()).fit(ROWS, LATE)
        contract = infer(ROWS, describe_output(model, ROWS))
        (tmp_path / "work").mkdir()
        bundle, known = make(model, contract, ROWS, LATE, tmp_path / "work" / name)
    finally:
        sys.modules.pop("halving_steps", None)
    assert bundle.name == name and "code/halving_steps.py" in bundle.files and bundle.runs_code
    assert list(known.needs.files) == ["halving_steps.py"]
    assert reload(bundle.folder)["rows"] == 20
