"""Small bundles for tests, made as registration makes them but without MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deploy_ext.bundle import MODEL_FILE, Bundle, answer, make_example, seal
from deploy_ext.code import needs
from deploy_ext.contract import infer
from deploy_ext.output import describe_output
from deploy_ext.profile import measure
from deploy_ext.trust import serialization


def flights(rows: int = 60) -> tuple[pd.DataFrame, pd.Series]:
    """Distances and hours, and whether the flight was late."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"distance": rng.uniform(100, 3000, rows), "hour": rng.integers(5, 24, rows)})
    return frame, pd.Series(np.where(frame.distance / 200 + frame.hour > 20, "late", "on time"), name="late")


def write(model: Any, folder: Path, data: Any, name: str = "flights") -> Bundle:
    """`model` as a sealed bundle in `folder`, with the project's code that it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    how = serialization(model)
    (folder / MODEL_FILE[how.format]).write_bytes(dumped(model, how.format))
    needs(model).copy(folder)
    contract = infer(data, describe_output(model, data))
    answers = answer(model, contract, contract.require(data))
    return seal(
        folder,
        name=name,
        runtime="sklearn",
        serialization=how,
        contract=contract,
        profile=measure(data, answers.prediction),
        example=make_example(contract, data, answers),
    )


def dumped(model: Any, form: str) -> bytes:
    """The model as MLflow would write it."""
    if form == "skops":
        from skops.io import dumps

        return dumps(model)
    import cloudpickle

    return cloudpickle.dumps(model)


def reseal(folder: Path, **changes: Any) -> None:
    """Overwrite fields of bundle.json, as an attacker would who knows the format."""
    manifest = json.loads((folder / "bundle.json").read_bytes())
    (folder / "bundle.json").write_text(json.dumps({**manifest, **changes}))


def cell(source: str) -> dict[str, Any]:
    """The names that a notebook has after a cell with this source."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace
