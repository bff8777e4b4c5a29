"""The whole story through the verbs: registered, judged, promoted, served, replaced, rolled back, and told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from stories import COLUMNS, GATES, flights, good

import deploy_ext
from deploy_ext.core import ContractViolated, GateFailed, InvalidRequest, VerificationFailed
from deploy_ext.records import Endpoint, Verdict
from deploy_ext.registry import Registry

pytestmark = pytest.mark.server
UNSEEN = flights(1)


def served(name: str = "flights") -> int:
    """The version that answers over HTTP."""
    return int(deploy_ext.predict(name, UNSEEN[COLUMNS].head(3)).version.unique().item())


def judged(version: int) -> Verdict:
    """The verdict of a version of flights."""
    found = Registry().version(f"flights/{version}").verdict
    assert found
    return found


def champion() -> int:
    """The version that the alias points to."""
    return Registry().version("flights").version


# the story


def test_the_story(story: Path) -> None:
    endpoint = deploy_ext.up("flights")
    rows = UNSEEN[COLUMNS].sample(100, replace=True, random_state=0)  # an index in disorder, and not unique
    first = deploy_ext.predict("flights", rows)
    model = good(C=0.01)
    assert list(first.columns) == ["prediction", "probability_False", "probability_True", "version"]
    assert first.index.equals(rows.index) and set(first.version) == {1}
    assert (first.prediction == model.predict(rows)).all()
    assert np.allclose(first.probability_True, model.predict_proba(rows)[:, 1], rtol=1e-9)

    with pytest.raises(GateFailed, match=r"flights/2 failed its gates: roc_auc 0\.\d+ \(>= 0\.8\)"):
        deploy_ext.promote("flights/2", reason="try")
    assert (champion(), served()) == (1, 1)

    better = deploy_ext.promote("flights", reason="sees more")
    assert better.aliases == ("champion",) and (better.version, served()) == (3, 3)
    (running,) = deploy_ext.status()
    assert (running.pid, running.url, running.version, running.state) == (endpoint.pid, endpoint.url, 3, "ready")

    deploy_ext.rollback("flights", reason="too many false alarms")
    assert (champion(), served()) == (1, 1)
    assert len(deploy_ext.predict("flights", pd.concat([rows] * 201))) == 20_100  # more than fit in one request
    assert deploy_ext.predict("flights", rows).equals(first)
    assert deploy_ext.down("flights").state == "down" and len(deploy_ext.status()) == 0

    told = deploy_ext.history("flights", verify=True)
    assert told.notes == "the chain of 11 events is whole"
    assert [(e.what, e.from_, e.to) for e in told][-5:] == [
        ("validate", None, "3"),
        ("up", None, "1"),
        ("promote", "1", "3"),
        ("rollback", "3", "1"),
        ("down", "1", None),
    ]
    assert [e.reason for e in told if e.what in ("promote", "rollback")] == [
        "first champion",
        "sees more",
        "too many false alarms",
    ]
    assert all(e.who and e.host and e.when.tzinfo for e in told)
    assert told[-3].verdict == judged(3).digest


def test_a_verdict_is_what_a_manager_can_read(story: Path) -> None:
    verdict, lost = judged(3), judged(2)
    assert verdict.passed and verdict.rows == len(UNSEEN)
    assert [c.threshold for c in verdict.checks][:2] == [">= 0.8", ">= champion - 0.02 at 95%"]
    assert [c.result for c in verdict.checks] == ["pass"] * len(GATES.splitlines())
    assert judged(1).checks[1].result == "skip"  # there was no champion
    assert not lost.passed and [c.result for c in lost.checks][:4] == ["fail"] * 2 + [lost.checks[2].result, "fail"]


# where a rollback leads


def moves(*versions: int) -> None:
    for version in versions:
        deploy_ext.promote(f"flights/{version}", reason="moved", force=True)


def back() -> int:
    return deploy_ext.rollback("flights", reason="back").version


def test_rollbacks_go_down_a_stack(story: Path) -> None:
    moves(3, 2)
    assert [back(), back()] == [3, 1]
    with pytest.raises(InvalidRequest, match=r"flights has had no champion before this one\. See: history flights"):
        back()
    assert champion() == 1
    moves(2)
    assert back() == 1


def test_a_version_may_be_champion_twice(story: Path) -> None:
    moves(3, 1, 2)
    assert [back(), back(), back()] == [1, 3, 1]


def test_rollback_to_any_former_champion(story: Path) -> None:
    moves(2, 3)
    assert deploy_ext.rollback("flights", to=1, reason="far back").version == 1
    assert deploy_ext.rollback("flights", to=3, reason="and forth").version == 3  # it was champion, if not below
    assert back() == 1
    moves(2)
    with pytest.raises(InvalidRequest, match="flights has no version 9"):
        deploy_ext.rollback("flights", to=9)
    assert Registry().verify("flights") == []


def test_rollback_to_what_never_was_champion(story: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"flights/3 never was champion\. Type: promote flights/3"):
        deploy_ext.rollback("flights", to=3)


def test_rollback_of_a_move_that_was_made_elsewhere(story: Path) -> None:
    moves(3)
    Registry().set_alias("flights", "champion", 2)  # as in MLflow's own pages
    assert back() == 3
    assert back() == 1


def test_an_alias_can_be_removed(story: Path) -> None:
    registry = Registry()
    registry.set_alias("flights", "champion", None)
    assert registry.aliases("flights") == {}
    with pytest.raises(InvalidRequest, match="flights has no champion yet"):
        registry.version("flights")


# endpoints that follow, and those that stay


def test_an_endpoint_follows_its_alias_or_stays_on_its_version(story: Path) -> None:
    Registry().set_alias("flights", "candidate", 2)
    for name in ("flights/1", "flights@candidate", "flights"):
        deploy_ext.up(name)
    deploy_ext.promote("flights/3", reason="better")
    assert {e.name: e.version for e in deploy_ext.status()} == {"flights": 3, "flights/1": 1, "flights@candidate": 2}
    assert [served("flights/1"), served("flights@candidate"), served("flights")] == [1, 2, 3]
    deploy_ext.rollback("flights")
    assert [served("flights/1"), served("flights@candidate"), served("flights")] == [1, 2, 1]
    Registry().set_alias("flights", "candidate", 3)
    before, after = deploy_ext.status("flights@candidate")[0], deploy_ext.up("flights@candidate")
    assert (after.version, after.pid, after.url) == (3, before.pid, before.url)
    for endpoint in deploy_ext.status():
        deploy_ext.down(endpoint.name)


def test_promote_brings_up_nothing(story: Path) -> None:
    deploy_ext.promote("flights/3", reason="better")
    assert len(deploy_ext.status()) == 0


# when a promotion is allowed


def refused(told: str, name: str = "flights/3", **how: Any) -> None:
    with pytest.raises(GateFailed, match=told) as caught:
        deploy_ext.promote(name, **how)
    assert caught.value.exit_code == 3 and champion() == 1


def test_force_needs_a_reason_and_is_marked(story: Path) -> None:
    for reason in ("", "  "):
        with pytest.raises(InvalidRequest, match="--force needs --reason"):
            deploy_ext.promote("flights/2", reason=reason, force=True)
    assert champion() == 1
    deploy_ext.promote("flights/2", reason="the pager rang", force=True)
    last = deploy_ext.history("flights", verify=True)[-1]
    assert (last.what, last.to, last.forced, last.reason) == ("promote", "2", True, "the pager rang")
    assert "promote (forced)" in repr(deploy_ext.history("flights"))
    deploy_ext.rollback("flights")


def test_gates_that_changed_since(story: Path) -> None:
    deploy_ext.gates("flights", GATES + "accuracy >= 0.5\n")
    refused("the gates have changed since flights/3 was validated. Type: validate flights/3")
    deploy_ext.gates("flights", "# a comment changes nothing\n" + GATES)
    assert deploy_ext.promote("flights/3", reason="same gates").version == 3


def test_gates_from_a_file(story: Path) -> None:
    file = story / "strict.gates"
    file.write_text("accuracy >= 0.999\n")
    assert not deploy_ext.validate("flights/3", UNSEEN, "late", gates=file).passed
    refused("flights/3 failed its gates: accuracy", gates=file)
    file.write_text("accuracy >= 0.5\n")
    assert deploy_ext.validate("flights/3", UNSEEN, "late", gates=file).passed
    refused("the gates have changed since")  # these are not the gates of the project
    assert deploy_ext.promote("flights/3", gates=file, reason="by the file").version == 3


def test_data_that_has_moved_is_no_ground_for_a_promotion(story: Path) -> None:
    gates = story / "steady.gates"
    gates.write_text("roc_auc >= 0.5\ndrift.psi <= 0.25\ndrift.ks[dep_delay] <= 0.1\ndrift.new[carrier] == 0\n")
    here = deploy_ext.validate("flights/1", UNSEEN, "late", gates=gates)
    assert here.passed, here
    moved = UNSEEN.assign(dep_delay=UNSEEN["dep_delay"] + UNSEEN["dep_delay"].std())
    verdict = deploy_ext.validate("flights/1", moved, "late", gates=gates)
    assert [check.passed for check in verdict.checks] == [True, False, False, True]
    gates.write_text("drift.psi[dep_dely] <= 0.1\n")
    with pytest.raises(InvalidRequest, match="Did you mean 'dep_delay'"):
        deploy_ext.validate("flights/1", UNSEEN, "late", gates=gates)
    drift = deploy_ext.drift("flights/1", moved[COLUMNS])
    assert drift.drifted == ("dep_delay",) and "dep_delay" in repr(drift) and "<table" in drift._repr_html_()


def test_a_bundle_that_is_not_the_one_that_was_judged(story: Path) -> None:
    registry = Registry()
    other = registry.version("flights/1").bundle
    registry.store.call("set_model_version_tag", "flights", "3", "deploy_ext.bundle", other)
    with pytest.raises(VerificationFailed, match="flights/3 is damaged"):
        deploy_ext.promote("flights/3", reason="swapped")
    with pytest.raises(VerificationFailed, match="flights/3 is damaged"):
        deploy_ext.up("flights/3")
    assert champion() == 1


def test_the_latest_verdict_counts(story: Path) -> None:
    noise = UNSEEN.assign(late=UNSEEN.late.sample(frac=1, random_state=0).to_numpy())
    assert not deploy_ext.validate("flights/3", noise, "late").passed
    refused("flights/3 failed its gates")
    with pytest.raises(ContractViolated, match="late: is the target, which the model predicts; drop it"):
        deploy_ext.validate("flights/3", UNSEEN, UNSEEN.late)
    assert deploy_ext.validate("flights/3", UNSEEN[COLUMNS], UNSEEN.late).passed
    assert deploy_ext.promote("flights/3", reason="judged again").version == 3


# models of all kinds, all the way to HTTP


class Above:
    """An object with `predict` and nothing else."""

    def __init__(self, border: float):
        self.border = border

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        return np.where(rows["dep_delay"] > self.border, "late", "on time")


def _object() -> tuple[Any, Any, Any]:
    frame = flights()
    return Above(15), frame[COLUMNS], np.where(frame.late, "late", "on time")


def _lightgbm() -> tuple[Any, Any, Any]:
    from lightgbm import LGBMClassifier

    frame = flights()
    data: Any = frame[COLUMNS].astype({"carrier": "category"})
    return LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(data, frame.late), data, frame.late


def _booster() -> tuple[Any, Any, Any]:
    model, data, target = _lightgbm()
    return model.booster_, data, target.astype(float)


def _nullable() -> tuple[Any, Any, Any]:
    """What pandas may hold, with gaps: the model sees it through a function of the notebook's."""
    rng, rows = np.random.default_rng(0), 200
    data = pd.DataFrame(
        {
            "seats": pd.array(rng.integers(50, 300, rows), dtype="Int64"),
            "direct": pd.array(rng.random(rows) > 0.5, dtype="boolean"),
            "carrier": pd.Categorical(rng.choice(["AA", "B6", "UA"], rows)),
            "departure": pd.date_range("2013-01-01", periods=rows, freq="7h", tz="America/New_York"),
            "delay": pd.array(rng.normal(10, 20, rows), dtype="Float64"),
            "remark": pd.Series(rng.choice(["a", "b"], rows), dtype=object),
        }
    )
    data.iloc[::7, [0, 1, 2, 3, 4, 5]] = pd.NA
    target = np.where(data.delay.fillna(0).astype(float) > 10, "late", "on time")
    return Gaps().fit(data, target), data, target


class Gaps(HistGradientBoostingClassifier):
    """Boosting over what the columns become as floats; an own class, as a notebook has them."""

    def __init__(self, max_iter: int = 5):
        super().__init__(max_iter=max_iter)

    @staticmethod
    def _floats(data: pd.DataFrame) -> np.ndarray:
        """Strict about its types: what comes back from HTTP has to be what was there in training."""
        kinds = ["Int64", "boolean", "category", "datetime64[us, America/New_York]", "Float64", "object"]
        assert [str(t).replace("[ns", "[us") for t in data.dtypes] == kinds, data.dtypes
        hours = data.departure.dt.hour.to_numpy(float, na_value=np.nan)
        columns = [data[c].to_numpy(float, na_value=np.nan) for c in ("seats", "direct", "delay")]
        return np.column_stack([*columns, data.carrier.cat.codes, hours, data.remark == "a"])

    def fit(self, X: Any, y: Any) -> Gaps:
        return super().fit(self._floats(X), y)

    def predict(self, X: Any) -> Any:
        return super().predict(self._floats(X))

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(self._floats(X))


def _regression() -> tuple[Any, Any, Any]:
    frame = flights()
    data = frame[["dep_delay", "hour"]].to_numpy(float)
    return (
        RandomForestRegressor(5, max_depth=3, random_state=0).fit(data, frame.dep_delay * 2),
        data,
        frame.dep_delay * 2,
    )


def _text() -> tuple[Any, Any, Any]:
    texts = pd.Series(["bags are lost", "crew is late", "gate is closed"] * 20, name="remark")
    target = np.array(["bags", "crew", "gate"] * 20)
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, target), texts, target


KINDS = [_object, _lightgbm, _booster, _nullable, _regression, _text]


@pytest.mark.parametrize("make", KINDS, ids=[k.__name__.strip("_") for k in KINDS])
def test_a_model_of_any_kind(make: Any, request: pytest.FixtureRequest, story: Path) -> None:
    if make in (_lightgbm, _booster):
        request.getfixturevalue("lightgbm")
    model, data, target = make()
    version = deploy_ext.register(model, "kind", data, target)
    assert deploy_ext.validate("kind", data, target).passed
    endpoint = deploy_ext.up(str(version))
    rows = data[:30]
    answers = deploy_ext.predict(str(version), rows)
    expected = np.asarray(model.predict(rows))
    if expected.dtype.kind == "f":
        assert np.allclose(answers.prediction, expected, rtol=1e-9)
    else:
        assert answers.prediction.tolist() == expected.tolist()
    if hasattr(model, "predict_proba"):
        labels = [f"probability_{label}" for label in model.classes_]
        assert np.allclose(answers[labels], model.predict_proba(rows), rtol=1e-9)
    assert curled(endpoint) == expected.tolist()[:1]
    if make is _nullable:
        strange = rows.assign(carrier="ZZ")  # to scikit-learn an unseen category is a missing one
        known = rows.assign(carrier=pd.Categorical([None] * len(rows), categories=data.carrier.cat.categories))
        answers = deploy_ext.predict(str(version), strange)
        assert np.allclose(answers.probability_late, model.predict_proba(known)[:, 0], rtol=1e-9)
    deploy_ext.down(str(version))


def curled(endpoint: Endpoint) -> list[Any]:
    """What the line that `up` shows answers when it is pasted into a shell."""
    done = subprocess.run(endpoint.example, shell=True, capture_output=True, text=True, timeout=60)
    return [p if not isinstance(p, dict) else p["prediction"] for p in json.loads(done.stdout)["predictions"]]
