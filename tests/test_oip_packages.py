"""Python packages over the Open Inference Protocol and with bare tensors, in a running appliance."""

from __future__ import annotations

import io
import json
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import live
import numpy as np
import pytest
from h1_client import npy
from packages import class_text, write_package

METHODS = """
    @mds.predict
    def answer(self, data):
        if hasattr(data, "content_type"):
            return {"type": data.content_type, "bytes": len(data)}
        if isinstance(data, str) and data == "fail":
            raise ValueError("no such thing")
        if isinstance(data, dict):
            return {"keys": sorted(data)}
        return np.asarray(data, np.float32) * 2 if hasattr(data, "shape") or isinstance(data, list) else data
"""
STREAM = """
    @mds.predict
    def answer(self, data):
        for number in range(data):
            yield number
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `p.double`, which doubles arrays and lists and echoes the rest, and `p.stream` are served."""
    folder = tmp_path_factory.mktemp("packages")
    deployments = []
    for name, methods in (("double", METHODS), ("stream", STREAM)):
        text = f"import numpy as np\n{class_text(methods, name=name.title())}"
        write_package(folder / name, {"model.py": text})
        version = {"version": "v1", "spec": {"uri": f"./{name}"}}
        deployments.append({"project": "p", "model": name, "versions": [version]})
    (folder / "deployments.json").write_text(json.dumps({"deployments": deployments}))
    with live.up("deployments.json", cwd=folder) as running:
        yield running.url


def post(
    url: str, path: str, body: bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(url + path, body, {"Content-Type": "", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.headers, exc.read()


def infer(url: str, *tensors: dict[str, Any], model: str = "double") -> tuple[int, Any]:
    status, _, body = post(url, f"/v2/models/p.{model}/infer", json.dumps({"inputs": tensors}).encode())
    return status, json.loads(body)


def texts(*values: Any) -> dict[str, Any]:
    data = [json.dumps(value) for value in values]
    return {"name": "instances", "datatype": "BYTES", "shape": [len(data)], "data": data}


def output(found: Any) -> Any:
    (one,) = found["outputs"]
    return one["datatype"], one["shape"], one["data"]


def test_instances_and_predictions_are_json_texts(url: str) -> None:
    status, found = infer(url, texts({"b": 1, "a": 2}, "späm", 5))
    assert status == 200
    assert output(found) == ("BYTES", [3], ['{"keys":["a","b"]}', '"späm"', "5"])


def test_answers_that_are_arrays_of_one_shape_are_a_tensor(url: str) -> None:
    assert output(infer(url, texts([1, 2], [3, 4]))[1]) == ("FP32", [2, 2], [2, 4, 6, 8])
    assert output(infer(url, texts([1, 2], [3]))[1]) == ("BYTES", [2], ["[2.0,4.0]", "[6.0]"])


def test_rows_of_numbers_are_arrays(url: str) -> None:
    rows = {"name": "instances", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    assert output(infer(url, rows)[1]) == ("FP32", [2, 2], [2, 4, 6, 8])


def test_binary_in_and_out(url: str) -> None:
    raw = b"".join(struct.pack("<I", len(text)) + text for text in (b"[1]", b"[2]"))
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": "instances", "datatype": "BYTES", "shape": [2], "parameters": parameters}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    sizes = {"Inference-Header-Content-Length": str(len(head))}
    status, headers, body = post(url, "/v2/models/p.double/infer", head + raw, sizes)
    assert status == 200
    at = int(headers["Inference-Header-Content-Length"])
    assert json.loads(body[:at])["outputs"][0]["datatype"] == "FP32"
    assert np.frombuffer(body[at:], np.float32).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("tensors", "status", "says"),
    [
        ([texts("fail")], 500, "no such thing"),
        ([texts(1, "fail")], 500, "no such thing"),
        ([], 400, 'expected one input "instances"'),
        ([{**texts(1), "data": ["ham"]}], 400, "element 0 is no JSON"),
        ([{**texts(1), "name": "x"}], 400, 'got "x"'),
    ],
)
def test_what_is_wrong_is_said(url: str, tensors: Any, status: int, says: str) -> None:
    found_status, found = infer(url, *tensors)
    assert found_status == status
    assert says in found["error"]


def test_what_streams_is_asked_at_its_predict_url(url: str) -> None:
    status, found = infer(url, texts(3), model="stream")
    assert status == 400
    assert "predict URL" in found["error"]


def test_a_model_tells_of_its_one_input_and_output(url: str) -> None:
    with urllib.request.urlopen(f"{url}/v2/models/p.double") as reply:
        model = json.load(reply)
    assert model["platform"] == "python"
    assert model["inputs"] == [{"name": "instances", "datatype": "BYTES", "shape": [-1]}]
    assert model["outputs"] == [{"name": "predictions", "datatype": "BYTES", "shape": [-1]}]
    with urllib.request.urlopen(f"{url}/v2/models/p.double/config") as reply:
        assert json.load(reply)["input"][0]["data_type"] == "TYPE_STRING"


# The predict URL

PREDICT = "/projects/p/models/double:predict"
OCTETS = "application/octet-stream"


def test_rows_of_an_array_go_in_and_come_out_as_one(url: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    kinds = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    status, headers, body = post(url, PREDICT, npy(array), kinds)
    assert (status, headers["content-type"]) == (200, "application/x-npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(body)), array * 2)
    status, _, body = post(url, PREDICT, npy(array.ravel()), kinds)
    assert (status, np.load(io.BytesIO(body)).tolist()) == (200, [0, 2, 4, 6, 8, 10])


def test_bytes_are_a_body_unless_the_header_says_that_they_are_numbers(url: str) -> None:
    array = np.arange(4, dtype=np.float32)
    status, _, body = post(url, PREDICT, array.tobytes(), {"Content-Type": OCTETS})
    assert (status, json.loads(body)) == (200, {"type": OCTETS, "bytes": 16})
    numbers = {"Content-Type": OCTETS, "mdslite-dtype": "float32", "mdslite-shape": "2,2", "Accept": OCTETS}
    status, headers, body = post(url, PREDICT, array.tobytes(), numbers)
    assert (status, headers["mdslite-dtype"], headers["mdslite-shape"]) == (200, "float32", "2,2")
    assert np.frombuffer(body, np.float32).tolist() == [0, 2, 4, 6]
    del numbers["mdslite-shape"]
    status, _, body = post(url, PREDICT, array.tobytes(), numbers)
    assert (status, "mdslite-shape" in json.loads(body)["error"]) == (400, True)


def test_a_single_datum_is_answered_with_its_own_array(url: str) -> None:
    kinds = {"Content-Type": "application/json", "Accept": "application/x-npy"}
    status, _, body = post(url, PREDICT, b"[1, 2, 3]", kinds)
    assert status == 200
    assert np.load(io.BytesIO(body)).tolist() == [2, 4, 6]
    status, _, body = post(url, PREDICT, b'{"a": 1}', kinds)
    assert (status, json.loads(body)["code"]) == (400, "invalid_request")


# Later


def test_an_infer_request_may_be_answered_later(url: str) -> None:
    body = json.dumps({"inputs": [texts([1, 2])], "parameters": {"binary_data_output": True}}).encode()
    status, headers, _ = post(url, "/v2/models/p.double/infer", body, {"Prefer": "respond-async"})
    assert status == 202
    deadline = time.monotonic() + 20
    while True:
        with urllib.request.urlopen(f"{url}{headers['Location']}?wait_s=10") as reply:
            if reply.status == 200:
                found, at = reply.read(), int(reply.headers["Inference-Header-Content-Length"])
                break
        assert time.monotonic() < deadline
    assert np.frombuffer(found[at:], np.float32).tolist() == [2, 4]
