"""What the server says of itself: a document that validators accept, and a page that harms nobody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import schemathesis
from jsonschema import Draft202012Validator
from playwright.sync_api import Browser, Page, expect
from schemathesis.core.result import Ok
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from stories import processes, until

import deploy_ext
from deploy_ext.bundle import Answers, make_example
from deploy_ext.contract import infer
from deploy_ext.output import Output
from deploy_ext.serve.openapi import OPERATIONS, docs, openapi
from deploy_ext.serve.protocol import Served

ROWS = 12
OUTPUTS = {
    "labels": Output("classification", ("late", "on time"), "string", True),
    "numbers": Output("classification", (0, 1, 2), "int", False),
    "truth": Output("classification", (False, True), "bool", True),
    "regression": Output("regression"),
}
HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "{{policy}}",
)


def frame() -> pd.DataFrame:
    """A column of every type, with gaps, closed sets, limits and long integers."""
    numbers = np.arange(ROWS)
    return pd.DataFrame(
        {
            "delay": np.where(numbers == 0, np.nan, numbers * 1.5),
            "plane": 2**60 + numbers,
            "carrier": pd.Categorical(["AA", "UA", "B6"] * 4),
            "cancelled": numbers > 5,
            "when": pd.date_range("2013-01-01", periods=ROWS, freq="h"),
            "zone": pd.date_range("2013-01-01", periods=ROWS, freq="D", tz="UTC"),
            "note": [f"a long text of several words, the {n}th of them,\nand of two lines" for n in numbers],
            "gate": pd.Series(["A", None, "B"] * 4, dtype="string"),
        }
    )


def example(contract: Any, data: pd.DataFrame) -> dict[str, Any]:
    labels = contract.output.labels
    wide = np.full((len(data), len(labels)), 1 / len(labels)) if contract.output.probabilities else None
    return make_example(contract, data, Answers(np.array([labels[0] if labels else 1.5] * len(data)), wide))


def document(output: str = "labels", keys: bool = True, data: pd.DataFrame | None = None) -> dict[str, Any]:
    data = frame() if data is None else data
    limits: dict[str, Any] = {"ranges": ["delay=-60..600"], "only": ["carrier"]} if "delay" in data else {}
    contract = infer(data, OUTPUTS[output], **limits)
    served = Served("flights", 3, "sha256:" + "ab12" * 16, "treelite", contract)
    return json.loads(json.dumps(openapi(served, example(contract, data), keys), allow_nan=False))


def references(node: Any) -> Iterator[str]:
    """Every `$ref` below `node`."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from references(value)
    if isinstance(node, dict) and "$ref" in node:
        yield node["$ref"]


def faults(told: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """Why `value` is not what a schema of the document describes."""
    return [e.message for e in Draft202012Validator(schema | {"components": told["components"]}).iter_errors(value)]


# the document


@pytest.mark.parametrize("keys", [True, False], ids=["keys", "open"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_document_is_openapi(output: str, keys: bool) -> None:
    told = document(output, keys)
    schema = schemathesis.openapi.from_dict(told)
    schema.validate()
    assert [found for found in schema.get_all_operations() if not isinstance(found, Ok)] == []
    for name in told["components"]["schemas"]:
        Draft202012Validator.check_schema(told["components"]["schemas"][name])


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_example_is_what_its_schema_describes(output: str) -> None:
    told, seen = document(output), 0
    for path, item in told["paths"].items():
        for method in item.keys() - {"parameters"}:
            sent = item[method].get("requestBody", {"content": {}})["content"]
            for media in [*sent.values(), *item[method]["responses"]["200"]["content"].values()]:
                if "example" in media:
                    seen += 1
                    assert faults(told, media["schema"], media["example"]) == [], path
    assert seen == 10
    row = told["components"]["schemas"]["Row"]
    for name, column in row["properties"].items():
        assert all(faults(told, column, value) == [] for value in column["examples"]), name


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    told = document()
    used = set(references(told))
    there = {f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in told["components"][kind]}
    assert used == there


def test_a_row_tells_its_types_limits_and_examples() -> None:
    row = document()["components"]["schemas"]["Row"]
    delay = row["properties"]["delay"]
    assert (delay["type"], delay["minimum"], delay["maximum"]) == (["number", "null"], -60, 600)
    assert row["properties"]["carrier"]["enum"] == ["AA", "B6", "UA"]
    assert row["properties"]["plane"]["examples"][1:] == [2**60, 2**60 + 11]
    assert "seen in training: 2013-01-01T00:00:00 .. 2013-01-01T11:00:00" in row["properties"]["when"]["description"]
    assert None not in row["examples"][0].values()


def test_an_operation_asks_for_a_key_only_where_there_are_keys() -> None:
    told = document(keys=True)
    needed = {path for path, item in told["paths"].items() if "401" in statuses(item)}
    assert told["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert {"/invocations", "/v2/models/{name}/feedback", "/v2/repository/index"} <= needed
    assert not needed & {"/ping", "/health", "/version", "/v2/health/live", "/v2/health/ready", "/docs"}
    assert not {"401", "403", "429"} & {s for item in document(keys=False)["paths"].values() for s in statuses(item)}
    assert "security" not in json.dumps(document(keys=False)["paths"])


def statuses(item: dict[str, Any]) -> list[str]:
    return [status for method in item.keys() - {"parameters"} for status in item[method]["responses"]]


def test_paths_of_a_model_exist_with_and_without_a_version() -> None:
    paths = document()["paths"]
    for suffix in ("", "/ready", "/infer", "/feedback"):
        assert {f"/v2/models/{{name}}{suffix}", f"/v2/models/{{name}}/versions/{{version}}{suffix}"} <= paths.keys()
    assert sum(len(operations) for operations in OPERATIONS.values()) + 4 == len(paths)


# the page


def test_the_page_names_no_other_address_and_tells_nothing_of_the_training_data() -> None:
    told = document()
    page = docs(told | {"info": {"title": HOSTILE[0], "version": HOSTILE[2]}}).decode()
    assert page.count("<script>") == page.count("</script>") == 1 and page.count(HOSTILE[2]) == 2
    assert "://" not in page and "default-src 'none'" in page
    assert "carrier" not in page and "2013" not in page


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A project and the URL of its endpoint; the model's columns and categories have hostile names."""
    folder = tmp_path_factory.mktemp("project")
    numbers = np.arange(40)
    data = pd.DataFrame({"delay": np.where(numbers == 3, np.nan, numbers * 1.5), "plane": 2**60 + numbers})
    data[HOSTILE[0]] = np.where(numbers % 2, HOSTILE[1], HOSTILE[2])
    encode = make_column_transformer((SimpleImputer(), ["delay"]), (OneHotEncoder(), [HOSTILE[0]]))
    target = np.where(numbers > 20, "late", "on time")
    model = make_pipeline(encode, LogisticRegression()).fit(data, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        patch.chdir(folder)
        deploy_ext.register(model, "flights", data, target, range=("delay=-60..600",))
        yield folder, deploy_ext.up("flights/1").url
        for process in processes(folder):
            process.kill()


@pytest.fixture
def tab(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """A browser's tab, and everything that it asks for, says or complains of."""
    page, seen = browser.new_page(), []
    page.set_default_timeout(120_000)
    page.on("request", lambda request: seen.append(request.url))
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("console", lambda message: seen.append(message.text) if "401" not in message.text else None)
    yield page, seen
    page.close()


@pytest.mark.server
def test_what_the_server_tells_is_the_document(endpoint: tuple[Path, str]) -> None:
    told = httpx.get(endpoint[1] + "/openapi.json").json()
    schemathesis.openapi.from_dict(told).validate()
    for path in ("/invocations", "/v2/models/{name}/infer"):
        operation = told["paths"][path]["post"]
        sent = operation["requestBody"]["content"]["application/json"]["example"]
        answered = httpx.post(endpoint[1] + path.format(name="flights"), json=sent)
        schema = operation["responses"][str(answered.status_code)]["content"]["application/json"]["schema"]
        assert (answered.status_code, faults(told, schema, answered.json())) == (200, [])


@pytest.mark.browser
@pytest.mark.server
def test_a_row_is_tried(endpoint: tuple[Path, str], tab: tuple[Page, list[str]]) -> None:
    (_, url), (page, seen) = endpoint, tab
    page.goto(url + "/docs")
    page.get_by_label("plane").fill(str(2**60 + 1))  # which JavaScript cannot hold
    with page.expect_request("**/invocations") as asked:
        page.get_by_role("button", name="Predict").click()
    assert json.loads(asked.value.post_data or "")["dataframe_records"][0]["plane"] == 2**60 + 1
    expect(page.locator("#answer strong")).to_have_text(re.compile("^(late|on time)$"))
    assert page.title() == "flights, version 1"
    expect(page.get_by_label(HOSTILE[0])).to_be_visible()
    assert seen == [f"{url}/docs", f"{url}/openapi.json", f"{url}/invocations"]


@pytest.mark.browser
@pytest.mark.server
def test_a_fault_is_shown_at_its_field(endpoint: tuple[Path, str], tab: tuple[Page, list[str]]) -> None:
    page = tab[0]
    page.goto(endpoint[1] + "/docs")
    delay = page.get_by_label("delay")
    for wrong, told in (("601", "is above 600"), ("soon", "number"), ("-1e9", "is below -60")):
        delay.fill(wrong)
        delay.press("Enter")
        expect(page.locator("#column-0-problem")).to_contain_text(told)
        assert delay.get_attribute("aria-invalid") == "true"
    delay.fill("")  # it may be missing
    delay.press("Enter")
    expect(page.locator("#answer strong")).to_have_class("good")
    page.get_by_role("button", name="Back to the example").click()
    expect(delay).not_to_have_value("")
    expect(page.locator("#answer")).to_be_empty()


@pytest.mark.browser
@pytest.mark.server
def test_the_page_asks_for_a_key(endpoint: tuple[Path, str], tab: tuple[Page, list[str]]) -> None:
    (folder, url), (page, _) = endpoint, tab
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        secret = deploy_ext.key_create("flights", role="predict").secret
    until(lambda: httpx.get(url + "/openapi.json").status_code == 401, 5)
    page.goto(url + "/docs")
    for wrong in ("dx_nobody_x", secret):
        page.get_by_label("Key").fill(wrong)
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#room" if wrong == secret else "#key-problem")).not_to_be_empty()
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer strong")).to_have_class("good")
    assert secret not in page.content() and "$KEY" in page.locator("#curl").inner_text()
