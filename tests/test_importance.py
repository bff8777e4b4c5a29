"""What a model leans on: known shares, leaks, noise, and columns that it ignores."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from sklearn.svm import SVC

from deploy_ext.attribution import asker, mixed, prepared
from deploy_ext.bundle import Answers
from deploy_ext.contract import Contract, infer
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.importance import (
    ASKED,
    DRAWN,
    RESAMPLES,
    SAMPLE,
    WORDS,
    Explanation,
    importance,
    permutation,
    stability,
)
from deploy_ext.output import Output, describe_output

RNG = np.random.default_rng(5)
N = 1_000
X = pd.DataFrame(
    {
        "race": RNG.choice(["a", "b", "c"], N),
        "income": RNG.lognormal(10, 0.4, N),
        "debt": np.where(RNG.random(N) < 0.1, np.nan, RNG.random(N)),
        "noise": RNG.normal(size=N),
    }
)
DENIED = (X["debt"].fillna(0.5) * 2 + (X["race"] == "b") + RNG.normal(0, 0.1, N) > 1.4).to_numpy()


def known(model: Any, data: Any = X) -> Contract:
    return infer(data, describe_output(model, data))


def encoded(estimator: Any, encoder: Any = None) -> Any:
    encoder = OrdinalEncoder() if encoder is None else encoder
    return make_pipeline(make_column_transformer((encoder, ["race"]), remainder="passthrough"), estimator)


def test_shares_of_a_linear_model_are_those_of_its_formula() -> None:
    numbers = pd.DataFrame(RNG.normal(size=(N, 3)) * [1, 2, 3] + 5, columns=["a", "b", "c"])
    model = LinearRegression().fit(numbers, numbers.to_numpy() @ [3.0, 1.0, 0.0])
    found = importance(model, numbers, known(model, numbers))
    sizes = (abs(numbers - numbers.mean()) * [3.0, 1.0, 0.0]).mean()
    assert found.method == "shap (linear)" and found.rows == N
    for name in numbers:
        assert found[str(name)].share == pytest.approx(sizes[name] / sizes.sum(), abs=1e-9)


def test_trees_agree_with_shap_called_directly_and_one_hot_columns_are_summed() -> None:
    shap: Any = importlib.import_module("shap")
    model = encoded(RandomForestClassifier(10, max_depth=5, random_state=0), OneHotEncoder(sparse_output=False))
    frame = X.drop(columns="debt")
    model.fit(frame, DENIED)
    found = importance(model, frame, known(model, frame))
    raw = shap.TreeExplainer(model[-1]).shap_values(np.asarray(model[0].transform(frame)))[..., 1]
    sizes = abs(np.column_stack([raw[:, :3].sum(axis=1), raw[:, 3:]])).mean(axis=0)
    expected = dict(zip(frame, sizes / sizes.sum(), strict=True))
    assert {c.column: c.share for c in found.columns} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("estimator", [HistGradientBoostingClassifier(max_iter=30), "asked"], ids=["shap", "asked"])
def test_a_forbidden_column_is_seen(estimator: Any) -> None:
    model = encoded(HistGradientBoostingClassifier(max_iter=30)).fit(X, DENIED)
    contract = known(model)
    found = importance(asker(model, contract) if estimator == "asked" else model, X, contract)
    facts = found.facts()
    assert facts["explain.top_share[race]"] > 0.05 and facts["explain.top_share[debt]"] > 0.05  # type: ignore
    assert facts["explain.top_share"] == max(facts[f"explain.top_share[{c}]"] for c in X)  # type: ignore
    assert set(facts) == {"explain.stability", "explain.top_share", *(f"explain.top_share[{c}]" for c in X)}
    assert {name.partition("[")[0].removeprefix("explain.") for name in facts} == set(WORDS)
    assert sum(c.share or 0 for c in found.columns) == pytest.approx(1)
    blind = importance(model_without_race(), X, contract)
    assert blind.facts()["explain.top_share[race]"] == 0.0


def model_without_race() -> Any:
    drop = make_column_transformer(("passthrough", ["income", "debt", "noise"]))
    return make_pipeline(drop, HistGradientBoostingClassifier(max_iter=10)).fit(X, DENIED)


def test_a_leaking_column_has_the_top_share() -> None:
    leaking = X.assign(leak=DENIED + RNG.normal(0, 0.01, N))
    for estimator in (HistGradientBoostingClassifier(max_iter=10), RandomForestClassifier(5), SVC()):
        numbers = leaking.drop(columns=["race", "debt"]).assign(income=leaking["income"] / leaking["income"].max())
        model = estimator.fit(numbers, DENIED)
        found = importance(model, numbers, known(model, numbers))
        assert found.columns[0].column == "leak" and (found.columns[0].share or 0) > 0.4


def test_stability_is_near_one_for_a_clear_model_and_lower_for_noise() -> None:
    clear = encoded(HistGradientBoostingClassifier(max_iter=30)).fit(X, DENIED)
    many = pd.DataFrame(RNG.normal(size=(N, 12)), columns=[f"c{i}" for i in range(12)])
    noise = RandomForestClassifier(20, random_state=0).fit(many, RNG.random(N) < 0.5)
    good, poor = importance(clear, X, known(clear)), importance(noise, many, known(noise, many))
    assert (good.stability or 0) > 0.95 > 0.9 > (poor.stability or 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=8), st.integers(0, 99))
def test_stability_of_any_sizes(scales: list[float], seed: int) -> None:
    sizes = np.random.default_rng(seed).exponential(1, (200, len(scales))) * scales
    found = stability(sizes, seed)
    assert found is None if not any(scales) else found is not None and -1 <= found <= 1
    assert found == stability(sizes, seed)


def test_stability_is_spearmans_and_ties_are_no_agreement() -> None:
    sizes = np.random.default_rng(1).exponential(1, (300, 6)) * np.linspace(1, 1.5, 6)
    rng = np.random.default_rng(0)
    drawn = np.array([sizes[rng.integers(300, size=DRAWN)].mean(axis=0) for _ in range(RESAMPLES)])
    spearman: Any = importlib.import_module("scipy.stats").spearmanr(drawn, axis=1)
    pairs = spearman.statistic[np.triu_indices(RESAMPLES, 1)]
    assert stability(sizes, 0) == pytest.approx(pairs.mean(), abs=1e-9)
    assert stability(np.ones((300, 2))) == 0.0  # two columns that always do the same have no order
    votes = (np.random.default_rng(2).random((300, 2)) < 0.3).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(stability(votes) or 0) < 0.5  # draws in which both have as many votes


def test_permutation_of_a_known_function() -> None:
    """|a - a'| of two independent uniform numbers is a third on average."""
    frame = pd.DataFrame({"a": RNG.random(4000), "b": RNG.random(4000), "word": ["x", None] * 2000})
    contract = infer(frame, Output("regression"))
    moved, unit = permutation(lambda f: Answers((6 * f["a"]).to_numpy()), prepared(contract, frame), contract)
    assert unit == "number" and moved.mean(axis=0) == pytest.approx([2, 0, 0], abs=0.05)


def test_three_classes_and_strange_columns() -> None:
    frame = X.assign(
        when=pd.date_range("2024-01-01", periods=N, freq="h"),
        kind=pd.Categorical(RNG.choice(["u", "v"], N)),
        count=pd.array([None, 1, 2, 3] * (N // 4), "Int64"),
        constant=1,
        empty=np.nan,
    ).set_axis([7] * N, axis=0)
    target = np.array(["low", "mid", "high"])[np.digitize(frame["income"], frame["income"].quantile([0.3, 0.7]))]

    class Custom:
        classes_ = np.array(["high", "low", "mid"])

        def __init__(self) -> None:
            self.model = LogisticRegression().fit(np.log(frame[["income"]]), target)

        def predict(self, rows: Any) -> Any:
            return self.model.predict(np.log(rows[["income"]]))

        def predict_proba(self, rows: Any) -> Any:
            return self.model.predict_proba(np.log(rows[["income"]]))

    model = Custom()
    found = importance(model, frame, known(model, frame))
    assert (found.method, found.unit, found["income"].share) == ("permutation", "probability", 1.0)
    assert found.facts()["explain.stability"] == 1.0 and "SHAP" in repr(found)


def test_a_model_that_uses_nothing_and_too_few_rows() -> None:
    contract = infer(X, Output("regression"))

    def ask(frame: Any) -> Answers:
        return Answers(np.ones(len(frame)))

    found = importance(ask, X, contract)
    assert set(found.facts().values()) == {0.0, "the model uses no column"}
    few = importance(ask, X.head(20), contract)
    assert set(few.facts().values()) == {"too few: 20 rows, 100 are needed"} and few.plots() == ()
    assert "too few" in repr(few) and few.to_json() and found.to_json()
    with pytest.raises(ContractViolated, match="no rows"):
        importance(ask, X.head(0), contract)
    with pytest.raises(ContractViolated, match="finite"):
        importance(ask, X.assign(income=np.inf), contract)
    with pytest.raises(InvalidRequest, match="Did you mean 'race'"):
        found["rase"]


def test_the_same_rows_give_the_same_numbers_and_a_sample_is_enough() -> None:
    large = pd.concat([X] * 40, ignore_index=True)
    model = encoded(HistGradientBoostingClassifier(max_iter=20)).fit(X, DENIED)
    contract = known(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = importance(model, large, contract)
    assert found == importance(model, large, contract) and found.rows == SAMPLE
    assert found != importance(model, large, contract, seed=1)
    assert found["debt"].share == pytest.approx(importance(model, X, contract)["debt"].share, abs=0.05)
    assert Explanation.from_dict(found.to_dict()) == found
    (plot,) = found.plots()
    assert plot.series["share"][0][0] == found.columns[0].column


def test_a_forest_too_large_for_shap_and_a_model_asked_about_many_columns() -> None:
    forest = RandomForestClassifier(100, random_state=0).fit(X[["income", "noise"]], RNG.random(N) < 0.5)
    numbers = X[["income", "noise"]]
    found = importance(forest, pd.concat([numbers] * 3, ignore_index=True), known(forest, numbers))
    assert found.method == "shap (trees)" and 100 <= found.rows < SAMPLE  # fewer rows, but by SHAP
    asked = []
    wide = pd.DataFrame(RNG.normal(size=(500, 250)), columns=[f"c{i}" for i in range(250)])
    contract = infer(wide, Output("regression"))

    def ask(frame: Any) -> Answers:
        asked.append(len(frame))
        return Answers(frame["c7"].to_numpy())

    assert importance(ask, wide, contract)["c7"].share == 1.0
    assert sum(asked) <= max(ASKED, 200 * 251) + 200


def test_rows_that_are_put_together_keep_every_dtype() -> None:
    table = pd.DataFrame(
        {
            "seats": pd.array([1, None, 3], dtype="Int64"),
            "direct": pd.array([True, None, False], dtype="boolean"),
            "carrier": pd.Categorical(["AA", "B6", None]),
            "when": pd.date_range("2013-01-01", periods=3, tz="America/New_York"),
            "remark": pd.Series(["a", None, "b"], dtype=object),
            "small": np.array([1, 2, 3], dtype="int8"),
        }
    )
    found = mixed(table, np.array([[2, 1, 0, 0, 2, 1]] * 4))
    assert found.dtypes.tolist() == table.dtypes.tolist()
    assert found.iloc[3].tolist() == [3, pd.NA, "AA", table["when"][0], "b", 2]
