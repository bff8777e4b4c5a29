"""Explanations that are right: against shap called directly, against formulas, and against what the model says."""

from __future__ import annotations

import importlib
import itertools
import math
import subprocess
import sys
import textwrap
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    PolynomialFeatures,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import SVC

from deploy_ext.attribution import Unexplained, asker, draw, origins, prepared, said, shap_values
from deploy_ext.bundle import Answers
from deploy_ext.contract import Contract, infer
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.explain import Contributions, contributions, lime, shapley
from deploy_ext.output import Output, describe_output
from deploy_ext.profile import measure

RNG = np.random.default_rng(7)
N = 600
X = pd.DataFrame(
    {
        "carrier": RNG.choice(["AA", "B6", "UA"], N, p=[0.5, 0.3, 0.2]),
        "delay": RNG.exponential(20, N).round(),
        "distance": RNG.integers(100, 3000, N),
        "wind": np.where(RNG.random(N) < 0.15, np.nan, RNG.normal(10, 3, N)),
    }
)
SCORE = X["delay"] - X["distance"] / 200 + 8 * (X["carrier"] == "B6") + RNG.normal(0, 5, N)
BINARY, THREE, NUMBER = np.where(SCORE > 15, "late", "on time"), np.digitize(SCORE, [5, 20]), SCORE.to_numpy()
ROW, BACKGROUND = X.iloc[[3]], X.head(60)


def prepare() -> Any:
    """Gaps filled and told, scaled; the carrier in three columns."""
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    return make_column_transformer((numbers, ["delay", "distance", "wind"]), (OneHotEncoder(), ["carrier"]))


def known(model: Any, data: Any = X) -> Contract:
    return infer(data, describe_output(model, data))


def total(found: Contributions) -> float:
    return found.base + sum(p.contribution for p in found.parts)


def by_column(found: Contributions) -> dict[str, float]:
    return {p.column: p.contribution for p in found.parts}


# what shap has a formula for


def test_a_linear_model_contributes_its_coefficients_times_the_distance_from_the_mean() -> None:
    numbers = X[["delay", "distance"]]
    model = Ridge(alpha=2.0).fit(numbers, NUMBER)
    found = contributions(model, numbers.iloc[[3]], numbers.head(60), known(model, numbers))
    expected = model.coef_ * (numbers.iloc[3] - numbers.head(60).mean())
    assert by_column(found) == pytest.approx(expected.to_dict(), rel=1e-6)
    assert (found.method, found.unit, found.label) == ("shap (linear)", "number", None)
    assert found.output == pytest.approx(model.predict(numbers.iloc[[3]])[0], rel=1e-12)
    assert found.base == pytest.approx(model.predict(numbers.head(60)).mean(), rel=1e-12)


@pytest.mark.parametrize("target", [BINARY, THREE], ids=["two", "three"])
def test_logistic_regression_agrees_with_shap_and_sums_one_hot_columns(target: Any) -> None:
    shap: Any = importlib.import_module("shap")
    model: Any = make_pipeline(prepare(), LogisticRegression(max_iter=500)).fit(X, target)
    derived, background = (np.asarray(model[0].transform(part), float) for part in (ROW, BACKGROUND))
    explainer = shap.LinearExplainer(model[-1], shap.maskers.Independent(background, max_samples=len(background)))
    raw = explainer.shap_values(derived)[0].reshape(derived.shape[1], -1)
    names = model[0].get_feature_names_out()
    owner = [next(c for c in X if c in name) for name in names]
    labels = model.classes_.tolist()
    for k, label in enumerate(labels):
        found = contributions(model, ROW, BACKGROUND, known(model), label=label)
        side = raw[:, k] if len(labels) > 2 else raw[:, 0] * (1 if k else -1)
        expected = {c: sum(v for v, o in zip(side, owner, strict=True) if o == c) for c in X}
        assert by_column(found) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        margin = np.reshape(model.decision_function(ROW), -1)
        shown = margin[k] if len(labels) > 2 else margin[0] * (1 if k else -1)
        assert found.output == pytest.approx(shown, rel=1e-9) and total(found) == pytest.approx(shown, rel=1e-6)


TREES = {
    "forest": (RandomForestClassifier(20, random_state=0), BINARY, "probability"),
    "forest, three": (RandomForestClassifier(10, random_state=0), THREE, "probability"),
    "forest, numbers": (RandomForestRegressor(10, random_state=0), NUMBER, "number"),
    "boosting": (GradientBoostingClassifier(n_estimators=20, random_state=0), BINARY, "log odds"),
    "boosting, numbers": (GradientBoostingRegressor(n_estimators=20, random_state=0), NUMBER, "number"),
    "histograms": (HistGradientBoostingClassifier(max_iter=20), BINARY, "log odds"),
    "histograms, three": (HistGradientBoostingClassifier(max_iter=10), THREE, "logit"),
    "histograms, numbers": (HistGradientBoostingRegressor(max_iter=20), NUMBER, "number"),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_agree_with_shap_called_directly(name: str) -> None:
    shap: Any = importlib.import_module("shap")
    estimator, target, unit = TREES[name]
    model: Any = make_pipeline(prepare(), estimator).fit(X, target)
    found = contributions(model, ROW, BACKGROUND, known(model))
    assert (found.method, found.unit, found.why) == ("shap (trees)", unit, "")
    explainer = shap.TreeExplainer(model[-1])
    raw = explainer.shap_values(np.asarray(model[0].transform(ROW)))[0].reshape(-1, np.size(explainer.expected_value))
    k = -1 if found.label is None else list(model.classes_).index(found.label) if raw.shape[1] > 1 else -1
    carrier = ["carrier" in c for c in model[0].get_feature_names_out()]
    assert by_column(found)["carrier"] == pytest.approx(raw[carrier, k].sum(), abs=1e-9)
    assert total(found) == pytest.approx(found.output, rel=1e-6, abs=1e-9) and found.rest == pytest.approx(0, abs=1e-9)
    if unit == "probability":
        assert found.output == pytest.approx(model.predict_proba(ROW)[0, k])


def test_gradient_boosters_of_other_libraries_with_their_own_categories() -> None:
    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    coded = X.assign(carrier=X["carrier"].astype("category"))
    for model, target, raw in (
        (xgboost.XGBClassifier(n_estimators=30, enable_categorical=True), BINARY == "late", {"output_margin": True}),
        (xgboost.XGBRegressor(n_estimators=30, enable_categorical=True), NUMBER, {"output_margin": True}),
        (lightgbm.LGBMClassifier(n_estimators=30, verbose=-1), BINARY == "late", {"raw_score": True}),
        (lightgbm.LGBMRegressor(n_estimators=30, verbose=-1), NUMBER, {"raw_score": True}),
    ):
        model.fit(coded, target)
        found = contributions(model, coded.iloc[[3]], coded.head(20), known(model, coded))
        assert found.method == "shap (trees)" and set(by_column(found)) == set(X)
        assert found.unit == ("number" if target is NUMBER else "log odds")
        margin = float(model.predict(coded.iloc[[3]], **raw)[0])
        assert found.output == pytest.approx(margin, rel=1e-6) and total(found) == pytest.approx(margin, rel=1e-5)


def test_a_poisson_regression_adds_up_in_the_logarithm() -> None:
    model = make_pipeline(prepare(), PoissonRegressor()).fit(X, np.exp(NUMBER / 50))
    found = contributions(model, ROW, BACKGROUND, known(model))
    assert found.unit == "log of the number" and total(found) == pytest.approx(np.log(model.predict(ROW)[0]))


# what it has none for, or a wrong one


def test_native_categories_of_histogram_boosting_are_refused_and_walked() -> None:
    coded = X.assign(carrier=X["carrier"].astype("category"))
    model = HistGradientBoostingClassifier(max_iter=20, categorical_features="from_dtype").fit(coded, BINARY)
    found = contributions(model, coded.iloc[[3]], coded.head(60), known(model, coded))
    assert found.method == "shapley sampling" and "native categories" in found.why
    assert total(found) == pytest.approx(model.predict_proba(coded.iloc[[3]])[0, 1], abs=1e-9)
    numbers = coded.assign(carrier=coded["carrier"].cat.codes)  # the same, as codes in a plain column
    model = HistGradientBoostingClassifier(max_iter=20).set_params(categorical_features=[0]).fit(numbers, BINARY)
    with pytest.raises(Unexplained, match="native categories"):
        contributions(model, numbers.iloc[[3]], numbers, known(model, numbers), method="shap")


class Custom:
    """Nothing that any library knows."""

    def predict(self, frame: Any) -> Any:
        return frame["delay"].to_numpy() * 2 + (frame["carrier"] == "B6").to_numpy() * 10


@pytest.mark.parametrize(
    ("model", "target", "told"),
    [
        (make_pipeline(prepare(), SVC()), BINARY, "SVC"),
        (make_pipeline(prepare(), SVC(kernel="linear")), THREE, "off by"),  # coefficients of pairs of classes
        (make_pipeline(prepare(), GradientBoostingClassifier(n_estimators=5)), THREE, "only supported for binary"),
        (make_pipeline(prepare(), PCA(3), LogisticRegression()), BINARY, "mixes"),
        (
            make_pipeline(
                make_column_transformer((make_pipeline(SimpleImputer(), PolynomialFeatures(2)), ["delay", "distance"])),
                Ridge(),
            ),
            NUMBER,
            "mixes delay and distance",
        ),
        (make_pipeline(prepare(), IsolationForest(n_estimators=10, random_state=0)), None, "off by"),
    ],
    ids=["kernel", "linear kernel", "boosting", "components", "products", "isolation"],
)
def test_what_shap_cannot_is_walked_and_says_why(model: Any, target: Any, told: str) -> None:
    model.fit(X, target)
    contract = known(model)
    found = contributions(model, ROW, BACKGROUND, contract)
    assert found.method == "shapley sampling" and told in found.why
    values, unit = said(asker(model, contract)(prepared(contract, ROW)), contract)
    assert found.unit == unit and total(found) == pytest.approx(found.output, abs=1e-9)
    assert np.isclose(values[0], found.output, rtol=1e-12, atol=0).any()
    with pytest.raises(Unexplained, match=told):
        contributions(model, ROW, BACKGROUND, contract, method="shap")


def test_a_custom_object_and_a_function() -> None:
    contract = infer(X, Output("regression"))
    found = contributions(Custom(), ROW, BACKGROUND, contract)
    expected = 2 * (ROW["delay"].iloc[0] - BACKGROUND["delay"].mean())
    assert by_column(found)["delay"] == pytest.approx(expected, rel=0.05)
    assert by_column(found)["distance"] == by_column(found)["wind"] == 0.0
    assert total(found) == pytest.approx(Custom().predict(ROW)[0])
    asked = contributions(lambda frame: Answers(Custom().predict(frame)), ROW, BACKGROUND, contract)
    assert asked.parts == found.parts and "only a function" in asked.why
    with pytest.raises(InvalidRequest, match="cannot be asked"):
        contributions(object(), ROW, BACKGROUND, contract)


def test_sampled_shapley_values_are_those_of_the_definition() -> None:
    """All sets of columns, each with all background rows, weighted as Shapley has it."""
    model = make_pipeline(prepare(), SVC()).fit(X, BINARY)
    row, background = prepared(known(model), ROW), prepared(known(model), X.head(25))
    names, m = list(X), X.shape[1]

    def worth(members: tuple[str, ...]) -> float:
        mixed = background.assign(**{name: row[name].iloc[0] for name in members})
        return float(model.decision_function(mixed).mean())

    sets = [c for size in range(m + 1) for c in itertools.combinations(names, size)]
    worths = {frozenset(c): worth(c) for c in sets}
    exact = [
        sum(
            (worths[frozenset({name, *c})] - worths[frozenset(c)]) / (m * math.comb(m - 1, len(c)))
            for c in sets
            if name not in c
        )
        for name in names
    ]
    spread = float(np.ptp(model.decision_function(X)))
    number = infer(X, Output("regression"))
    found = shapley(lambda frame: Answers(model.decision_function(frame)), row, background, number)
    assert found.values[0, :, 0] == pytest.approx(exact, abs=0.02 * spread)
    assert found.base[0] == pytest.approx(worths[frozenset()], abs=0.02 * spread)
    assert abs(found.gap).max() < 1e-12


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.integers(0, 1000))
def test_walks_add_up_and_ignore_what_is_ignored(weights: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(30, len(weights))), columns=[f"c{i}" for i in range(len(weights))])
    contract = infer(frame, Output("regression"))

    def ask(rows: Any) -> Answers:
        return Answers((rows.to_numpy() * weights).sum(axis=1) ** 2)

    found = shapley(ask, frame.iloc[[0]], frame.iloc[1:], contract, seed)
    assert np.abs(found.gap).max() <= 1e-9 * (1 + np.abs(found.output).max())
    assert all(v == 0 for v, w in zip(found.values[0, :, 0], weights, strict=True) if w == 0)


def test_lime_finds_the_slopes_of_a_linear_model_and_shows_what_it_lacks() -> None:
    numbers = X[["delay", "distance"]].astype(float)
    contract = infer(numbers, Output("regression"))
    row, background = prepared(contract, numbers.iloc[[3]]), prepared(contract, numbers)

    def straight(frame: Any) -> Answers:
        return Answers((frame["delay"] * 3 - frame["distance"] / 100).to_numpy())

    found = lime(straight, row, background, contract)
    away = row.iloc[0] - background.mean()
    expected = np.array([away["delay"] * 3, -away["distance"] / 100])
    assert found.values[0, :, 0] == pytest.approx(expected, abs=3.0)  # the spread of the delays is 60
    bent = make_pipeline(prepare(), SVC()).fit(X, BINARY)
    told = contributions(bent, ROW, BACKGROUND, known(bent), method="lime")
    assert told.method == "lime" and "surrogate" in told.note and "asked for" in told.why
    assert total(told) + told.rest == pytest.approx(told.output)
    assert "not explained" in repr(told)


# through pipelines


def test_derived_columns_of_nested_pipelines_have_their_raw_column() -> None:
    numbers = make_union(
        StandardScaler(),
        KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
        SplineTransformer(),
    )
    own = FunctionTransformer(lambda frame: np.column_stack([frame["wind"].isna(), frame["wind"].fillna(0) ** 2]))
    outer: Any = make_column_transformer(
        (make_pipeline(SimpleImputer(), numbers), ["distance", "delay"]),
        (OneHotEncoder(min_frequency=0.25, handle_unknown="infrequent_if_exist", sparse_output=False), ["carrier"]),
        (own, ["wind"]),
    )
    inner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model = make_pipeline(outer, inner).fit(X, BINARY)
    contract = known(model)
    places = origins([outer], prepared(contract, BACKGROUND), contract)
    width = len(places)
    assert width == np.shape(outer.transform(X))[1]
    pair = [*["distance", "delay"], *["distance"] * 4, *["delay"] * 4, *["distance"] * 7, *["delay"] * 7]
    rest = width - len(pair) - 2
    assert [contract.names[i] for i in places] == [*pair, *["carrier"] * rest, "wind", "wind"]
    found = contributions(model, ROW, BACKGROUND, contract)
    assert found.method == "shap (linear)" and total(found) == pytest.approx(model.decision_function(ROW)[0])


def test_a_name_that_lies_about_its_column_is_not_believed() -> None:
    """A raw column called as one that is derived from another."""
    frame: Any = X.assign(carrier_B6=X["delay"])[["carrier", "carrier_B6"]]
    encode = make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough")
    model: Any = make_pipeline(encode, Ridge()).fit(frame, NUMBER)
    found = by_column(contributions(model, frame.iloc[[3]], frame.head(60), known(model, frame)))
    weight = model[-1].coef_[-1]
    assert found["carrier_B6"] == pytest.approx(weight * (frame["carrier_B6"][3] - frame["carrier_B6"].head(60).mean()))


@pytest.mark.parametrize(("many", "method"), [(150, "shap (trees)"), (300, "shapley sampling")])
def test_a_rare_category_that_no_background_row_has(many: int, method: str) -> None:
    """The contract knows 150 of them by name; of 300 only those of the rows are known, so the others have no owner."""
    frame = pd.DataFrame({"tail": [f"N{i % many}" for i in range(1200)], "x": RNG.normal(size=1200)})
    encode = make_column_transformer((OneHotEncoder(), ["tail"]), remainder="passthrough", sparse_threshold=0)
    target = np.arange(1200) % many % 7 + frame["x"]
    model = make_pipeline(encode, RandomForestRegressor(5, max_depth=12, random_state=0)).fit(frame, target)
    found = contributions(model, frame.iloc[[3]], frame.head(10), known(model, frame))
    assert found.method == method and ("no raw column is known" in found.why) == (many == 300)
    assert total(found) == pytest.approx(model.predict(frame.iloc[[3]])[0])


def test_very_deep_trees_over_many_columns_are_refused() -> None:
    """shap 0.51 loses all digits there: its sums for this forest are off by more than the answers are large."""
    kind = np.arange(1200) % 300
    frame = pd.DataFrame(np.eye(300)[kind], columns=[f"k{i}" for i in range(300)]).assign(x=RNG.normal(size=1200))
    model = RandomForestRegressor(5, random_state=0).fit(frame, np.arange(1200) % 7 + frame["x"])
    rows = prepared(known(model, frame), frame.head(50))
    with pytest.raises(Unexplained, match="off by"):
        shap_values(model, rows, rows, known(model, frame))


def test_text_arrays_nullable_types_and_searches() -> None:
    words = pd.Series(["good day", "bad day", "bad flight", "fine"] * 20, name="text")
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(words, words.str.contains("bad"))
    found = contributions(model, words.iloc[[1]], words, known(model, words))
    assert found.method == "shap (linear)" and total(found) == pytest.approx(model.decision_function(["bad day"])[0])

    array = RNG.normal(size=(200, 3))
    model = HistGradientBoostingRegressor(max_iter=5).fit(array, array[:, 1])
    assert by_column(contributions(model, array[:1], array[:50], known(model, array)))["x0"] == 0

    gaps = pd.DataFrame({"i": pd.array([None, 1, 2, 3] * 50, "Int64"), "b": pd.array([True, None] * 100, "boolean")})
    model = HistGradientBoostingRegressor(max_iter=5).fit(gaps, np.arange(200) % 4)
    found = contributions(model, gaps.iloc[[0]], gaps.head(20), known(model, gaps))
    assert found.method == "shap (trees)" and {p.column: p.value for p in found.parts} == {"i": None, "b": True}

    search = GridSearchCV(make_pipeline(prepare(), Ridge()), {"ridge__alpha": [1.0, 2.0]}, cv=2).fit(X, NUMBER)
    assert contributions(search, ROW, BACKGROUND, known(search)).method == "shap (linear)"


# the record, and what is refused


def test_a_person_can_read_it() -> None:
    model = make_pipeline(prepare(), LogisticRegression(max_iter=500)).fit(X, BINARY)
    found = contributions(model, X.iloc[3], BACKGROUND, known(model), label="late")  # a row as a Series
    sizes = [abs(p.contribution) for p in found.parts]
    assert sizes == sorted(sizes, reverse=True)
    lines = repr(found).splitlines()
    assert lines[0].startswith(found.answer) and "log odds of late" in lines[0]
    assert lines[2].startswith("base") and lines[-2].startswith("output")
    assert lines[3].split()[0] == found.parts[0].column
    assert ("+" * 5 in lines[3]) == (found.parts[0].contribution > 0)
    page = found._repr_html_()
    assert page.count("<tr>") == len(found.parts) + 2 and "background rows" in page
    assert Contributions.from_dict(found.to_dict()) == found and found.to_json()
    (plot,) = found.plots()
    assert plot.series["contribution"][0][0] == found.parts[0].column


def test_many_columns_are_summed_in_the_drawing_and_all_kept() -> None:
    wide = pd.DataFrame(RNG.normal(size=(100, 40)), columns=[f"<b>{i}" for i in range(40)])
    model = Ridge().fit(wide, wide.sum(axis=1))
    found = contributions(model, wide.iloc[[0]], wide, known(model, wide))
    assert len(found.parts) == 40 and "28 other columns" in repr(found) and "<b>" not in found._repr_html_()[60:]


def test_errors_say_what_to_type() -> None:
    model = make_pipeline(prepare(), LogisticRegression(max_iter=500)).fit(X, BINARY)
    contract = known(model)
    with pytest.raises(InvalidRequest, match="2 rows at once"):
        contributions(model, X.head(2), BACKGROUND, contract)
    with pytest.raises(InvalidRequest, match="Did you mean 'late'"):
        contributions(model, ROW, BACKGROUND, contract, label="lat")
    with pytest.raises(InvalidRequest, match="Did you mean 'shapley'"):
        contributions(model, ROW, BACKGROUND, contract, method="shaply")
    with pytest.raises(ContractViolated, match="carrier"):
        contributions(model, ROW.drop(columns="carrier"), BACKGROUND, contract)
    with pytest.raises(ContractViolated, match="finite"):
        contributions(model, ROW.assign(wind=np.inf), BACKGROUND, contract)
    with pytest.raises(ContractViolated, match="no rows"):
        contributions(model, ROW, BACKGROUND.head(0), contract)
    with pytest.raises(InvalidRequest, match="not finite"):
        contributions(lambda f: Answers(np.full(len(f), np.nan)), ROW, BACKGROUND, infer(X, Output("regression")))


def test_shap_is_refused_where_its_sum_is_not_the_models() -> None:
    """A booster that was changed after training, so that the trees say one thing and the model another."""

    class Shifted(GradientBoostingRegressor):
        def predict(self, rows: Any) -> Any:
            return super().predict(rows) + 1

    numbers = X[["delay", "distance"]]
    model = Shifted(n_estimators=5).fit(numbers, NUMBER)
    contract, rows = known(model, numbers), prepared(known(model, numbers), numbers.head(20))
    with pytest.raises(Unexplained, match="off by"):
        shap_values(model, rows, rows, contract)


def test_the_same_inputs_give_the_same_numbers_without_warnings() -> None:
    model = make_pipeline(prepare(), SVC()).fit(X, BINARY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twice = [contributions(model, ROW, BACKGROUND, known(model), method=m) for m in ("auto", "lime") * 2]
    assert twice[0] == twice[2] and twice[1] == twice[3]


WITHOUT = """
    import sys
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "shap":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Blocker())
    import numpy as np, pandas as pd
    from sklearn.linear_model import Ridge
    from deploy_ext.contract import infer
    from deploy_ext.explain import contributions
    from deploy_ext.importance import importance
    from deploy_ext.output import describe_output
    X = pd.DataFrame({"a": np.arange(200.0), "b": np.arange(200.0)[::-1] % 7})
    model = Ridge().fit(X, X["a"])
    contract = infer(X, describe_output(model, X))
    found = contributions(model, X.head(1), X, contract)
    print(found.method, "|", found.why)
    print(importance(model, X, contract).method)
    contributions(model, X.head(1), X, contract, method="shap")
"""


def test_without_shap_all_is_walked_and_the_pip_line_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(WITHOUT)], capture_output=True, text=True, timeout=120)
    method, why, judge = done.stdout.replace("\n", " | ").split(" | ")[:3]
    assert (method, judge) == ("shapley sampling", "permutation") and "pip install 'deploy_ext[explain]'" in why
    last = done.stderr.strip().splitlines()[-1]
    assert "InvalidRequest" in last and last.endswith("pip install 'deploy_ext[explain]'")


def test_importing_the_rooms_imports_no_heavy_library() -> None:
    told = "import sys, deploy_ext.explain, deploy_ext.importance, deploy_ext.counterfactual as _; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=120, check=True)
    assert not {"shap", "sklearn", "scipy", "pandas", "mlflow"} & set(done.stdout.split())


# a background without data


def test_rows_drawn_from_a_profile_look_like_the_data() -> None:
    frame = X.assign(
        when=pd.date_range("2024-01-01", periods=N, freq="7h", tz="Europe/Berlin"),
        sure=RNG.random(N) < 0.9,
        size=pd.Categorical(RNG.choice([1, 2, 3], N)),
    )
    contract = infer(frame, Output("regression"), ranges=["delay=0..30"])
    drawn: Any = draw(contract, measure(frame), 2_000)
    assert not contract.check(drawn) and not [f for f in contract.flags(drawn) if f.column != "when"]
    assert drawn["carrier"].value_counts(normalize=True)["AA"] == pytest.approx(0.5, abs=0.05)
    assert drawn["wind"].isna().mean() == pytest.approx(frame["wind"].isna().mean(), abs=0.03)
    assert drawn["distance"].mean() == pytest.approx(frame["distance"].mean(), rel=0.05)
    assert drawn["sure"].mean() == pytest.approx(0.9, abs=0.05) and set(drawn["size"]) == {1, 2, 3}
    pd.testing.assert_frame_equal(drawn, draw(contract, measure(frame), 2_000))
    names = pd.DataFrame({"id": [f"N{i}" for i in range(500)]})
    with pytest.raises(InvalidRequest, match="nothing is known of the values of 'id'"):
        draw(infer(names, Output("regression")), measure(names))
