"""An endpoint as its users meet it: curl, Triton's client, MLflow's calls, keys, TLS."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trustme
from stories import COLUMNS, flights, good, processes, until

import deploy_ext
from deploy_ext.core import ContractViolated, InvalidRequest
from deploy_ext.records import Endpoint

pytestmark = pytest.mark.server
FRAME: Any = flights()
ROWS: Any = flights(1).head(40)[COLUMNS]
MODEL: Any = good()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose endpoint `flights` serves `MODEL`."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOY_EXT_PROJECT", str(folder))
        patch.chdir(folder)
        deploy_ext.register(MODEL, "flights", FRAME, "late", only=("carrier",))
        deploy_ext.promote("flights", reason="first", force=True)
        deploy_ext.up("flights")
        yield folder
        for process in processes(folder):
            process.kill()


@pytest.fixture
def endpoint(project: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """The endpoint, with the project in force."""
    monkeypatch.setenv("DEPLOY_EXT_PROJECT", str(project))
    monkeypatch.chdir(project)
    (found,) = deploy_ext.status("flights")
    return found


def post(endpoint: Endpoint, path: str, body: Any, key: str | None = None) -> httpx.Response:
    content, kind = (body, "text/csv") if isinstance(body, str) else (json.dumps(body), "application/json")
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {key}"} if key else {})
    return httpx.post(endpoint.url + path, content=content, headers=headers, timeout=30)


EXPECTED = MODEL.predict(ROWS).tolist()
CHANCES = MODEL.predict_proba(ROWS)


# clients


def test_the_curl_line_that_up_prints(endpoint: Endpoint) -> None:
    told = subprocess.run(endpoint.example, shell=True, capture_output=True, text=True, check=True)
    answered = json.loads(told.stdout)
    assert answered["predictions"] in ([True], [False])
    assert answered["model_name"] == "flights" and answered["model_version"] == "1"
    assert answered["request_id"]


def test_triton_s_client_with_its_defaults(endpoint: Endpoint) -> None:
    from tritonclient.http import InferenceServerClient, InferInput

    client = InferenceServerClient(endpoint.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("flights")
    known = client.get_model_metadata("flights")
    assert known is not None
    inputs = []
    for tensor in known["inputs"]:
        values = ROWS[tensor["name"]].to_numpy()
        made = InferInput(tensor["name"], [len(ROWS)], tensor["datatype"])
        made.set_data_from_numpy(values.astype(object) if tensor["datatype"] == "BYTES" else values)
        inputs.append(made)
    answered: Any = client.infer("flights", inputs, request_id="mine")
    told = answered.get_response()
    assert told["id"] == "mine" and told["model_version"] == "1"
    assert answered.as_numpy("predict").tolist() == EXPECTED
    np.testing.assert_allclose(answered.as_numpy("probabilities"), CHANCES, atol=1e-6)
    client.close()


SPLIT = json.loads(ROWS.to_json(orient="split", index=False))
MLFLOW = {
    "dataframe_split": {"dataframe_split": SPLIT},
    "dataframe_records": {"dataframe_records": ROWS.to_dict(orient="records")},
    "instances": {"instances": ROWS.to_dict(orient="records")},
    "inputs": {"inputs": ROWS.to_dict(orient="list")},
    "csv": ROWS.to_csv(index=False),
}


@pytest.mark.parametrize("body", MLFLOW.values(), ids=list(MLFLOW))
def test_calls_that_were_made_for_mlflow(endpoint: Endpoint, body: Any) -> None:
    answered = post(endpoint, "/invocations", body)
    assert answered.status_code == 200, answered.text
    assert answered.json()["predictions"] == EXPECTED


def test_what_mlflow_s_own_client_code_sends(endpoint: Endpoint) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient(*endpoint.url.removeprefix("http://").split(":"))
    client.ping()
    answered = client.invoke(ROWS)
    assert answered.get_predictions()[0].tolist() == EXPECTED


# many at once


def test_everybody_gets_his_own_answer(endpoint: Endpoint) -> None:
    """Questions that arrive together are answered together: none may get another's rows, nor suffer for them."""
    wrong = {"dataframe_records": [{"dep_delay": "late", "hour": 1, "carrier": "AA"}]}

    def client(number: int) -> list[str]:
        rows: Any = flights(100 + number).head(60)[COLUMNS]
        chances, seen = MODEL.predict_proba(rows), []
        with httpx.Client(base_url=endpoint.url) as http:
            for at in range(0, 60, 1 + number % 3):
                part, expected = rows[at : at + 1 + number % 3], chances[at : at + 1 + number % 3]
                body = {"id": f"{number}-{at}", "inputs": tensors(part)}
                told = http.post("/v2/models/flights/infer", json=body).json()
                found = np.reshape(told["outputs"][1]["data"], (-1, 2))
                if told["id"] != body["id"] or found.shape != expected.shape or abs(found - expected).max() > 1e-6:
                    seen.append(f"{body['id']}: {told}")
                if at % 10 == 0 and http.post("/invocations", json=wrong).status_code != 422:
                    seen.append(f"{number}-{at}: a wrong row was answered")
        return seen

    with ThreadPoolExecutor(16) as threads:
        assert [fault for faults in threads.map(client, range(16)) for fault in faults] == []


def tensors(rows: Any) -> list[dict[str, Any]]:
    kinds = {"dep_delay": "FP64", "hour": "INT64", "carrier": "BYTES"}
    return [{"name": n, "shape": [len(rows)], "datatype": k, "data": rows[n].tolist()} for n, k in kinds.items()]


# what is refused


def test_rows_that_training_never_saw(endpoint: Endpoint) -> None:
    far = ROWS.head(2).assign(dep_delay=[5.0, 9999.0])
    frame = deploy_ext.predict("flights", far)
    assert len(frame) == 2
    with pytest.raises(ContractViolated, match="known values"):
        deploy_ext.predict("flights", far.assign(carrier="ZZ"))
    body = {"dataframe_records": [*ROWS.head(1).to_dict("records"), {"dep_delay": "late", "hour": 1.5}]}
    answered = post(endpoint, "/invocations", body)
    assert answered.status_code == 422
    found = {(f["row"], f["column"]) for f in answered.json()["faults"]}
    assert found == {(1, "dep_delay"), (1, "hour"), (1, "carrier")}


# keys


def test_keys(endpoint: Endpoint) -> None:
    body = {"dataframe_records": ROWS.head(1).to_dict(orient="records")}
    assert post(endpoint, "/invocations", body).status_code == 200  # on loopback, as long as there is none
    made = deploy_ext.key_create("flights", role="predict", expires="1d", rate="1000/s")
    until(lambda: post(endpoint, "/invocations", body).status_code == 401, 5)
    assert post(endpoint, "/invocations", body, made.secret).status_code == 200
    assert httpx.get(endpoint.url + "/ping").status_code == 200
    assert post(endpoint, "/v2/repository/index", {}, made.secret).status_code == 403
    assert len(deploy_ext.predict("flights", ROWS)) == 40  # whoever started it needs none
    assert made.secret not in (Path(".deploy") / "keys.json").read_text()
    (listed,) = deploy_ext.key_list("flights")
    assert listed.id == made.key.id and made.secret not in repr(listed)
    deploy_ext.key_revoke(made.key.id)
    until(lambda: post(endpoint, "/invocations", body, made.secret).status_code == 401, 5)
    told = [(e.what, e.reason) for e in deploy_ext.history("flights")][-2:]
    assert told[0][0] == "key create" and "1000/s" in told[0][1] and told[1][0] == "key revoke"
    assert not any(made.secret in reason for _, reason in told)


def test_beyond_this_machine(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"on 0\.0\.0\.0 without TLS keys and rows could be read"):
        deploy_ext.up("flights/1", host="0.0.0.0")
    authority = trustme.CA()
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate = authority.issue_cert("localhost")
    key.write_bytes(certificate.private_key_pem.bytes())
    chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made = deploy_ext.key_create("flights", role="admin")
    found = deploy_ext.up("flights/1", cert=chain, key=key)
    try:
        assert found.state == "ready" and found.url.startswith("https://127.0.0.1:")
        url = found.url.replace("127.0.0.1", "localhost")
        known = {"Authorization": f"Bearer {made.secret}"}
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        answered = httpx.post(
            url + "/invocations", json={"inputs": ROWS.to_dict("list")}, headers=known, verify=trusted
        )
        assert answered.json()["predictions"] == EXPECTED
    finally:
        deploy_ext.down("flights/1")
