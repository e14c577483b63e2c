"""What the refusal of a prediction says to do next, and which types of bodies it names."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import models
import numpy as np
import pytest
from doors import Deployed, Site, open_site
from h1_client import npy

from mdslite.errors import InvalidRequest, MdsliteError
from mdslite.predict.call import Reply

ONE, TWO = "/projects/p/models/one", "/projects/p/models/two"
ROW = b'{"instances": [[1, 2]]}'
LOOKED_UP = "GET /v2/models/p.one says what it takes and gives"
PARTS = "leave it out, or write it as the Open Inference Protocol has it"
WHOLE = "compress all of it at once, or send it as it is"
PRINTED = "mdslite predict p/one --curl prints a request that it takes"
JSON_ENDS = "where bytes follow the JSON, Inference-Header-Content-Length says where it ends"
BYTES = {"content_type": "application/octet-stream"}
DTYPES = (
    "one of bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64, "
    "float16, float32, float64, bfloat16"
)
SIZES = "rows come first: 8,3,224,224 is eight images"
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


def infer(**parts: Any) -> bytes:
    return json.dumps({"inputs": [INPUT], **parts}).encode()


async def ask(site: Site, target: str, body: bytes, **headers: str) -> Any:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return await respond(site, target, named, body)


async def respond(
    site: Site,
    target: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    error: MdsliteError | None = None,
) -> Any:
    given: Reply = await site.predictor.respond(
        target=target.encode(), headers=headers, body=body, error=error
    )
    return json.loads(given.body) | {"status": given.status}


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    one = Deployed(models.identity(folder / "one.onnx", shape=("N", 2)), model="one")
    opened = open_site(folder, one, Deployed(models.add(folder / "two.onnx"), model="two"))
    yield runner.run(opened.__aenter__())
    runner.run(opened.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("url", "body", "headers", "hint"),
    [
        (f"{ONE}:predict", b'{"instances": [[1, 2, 3]]}', {}, LOOKED_UP),
        (f"{ONE}:predict", b'{"rows": []}', {}, LOOKED_UP),
        (f"{ONE}:predict", b"", {}, LOOKED_UP),
        (f"{ONE}:predict", ROW, {"accept": "application/x-npy", "mdslite_output": "z"}, LOOKED_UP),
        (f"{ONE}:predict", b'{"instances": [[1, 2}', {}, PRINTED),
        (f"{ONE}/versions/v1:predict", b"{'instances': [[1, 2]]}", {}, PRINTED),
        (f"{ONE}:predict", gzip.compress(ROW, mtime=0), {}, "a compressed body says content-encoding: gzip"),
        (
            f"{ONE}:predict",
            npy(np.zeros((1, 2), np.float32)),
            {},
            "an array's content-type is application/x-npy",
        ),
        (f"{ONE}:predict", b"none", {"content_type": "application/x-npy"}, "numpy.save writes one"),
        (f"{ONE}:predict", gzip.compress(ROW, mtime=0)[:-3], {"content_encoding": "gzip"}, WHOLE),
        (f"{ONE}:predict", ROW, {"content_encoding": "gzip"}, WHOLE),
        (f"{ONE}:predict", b'{"signature_name": 1, "instances": []}', {}, "leave it out: there is one"),
        (f"{ONE}:predict", bytes(8), {**BYTES, "mdslite_dtype": "float33"}, DTYPES),
        (f"{ONE}:predict", bytes(8), {**BYTES, "mdslite_shape": "1x2"}, SIZES),
        (f"{ONE}:predict", bytes(8), {**BYTES, "mdslite_shape": "1,3"}, LOOKED_UP),
        ("/v2/models/p.one/infer", infer() + bytes(8), {}, JSON_ENDS),
        ("/v2/models/p.one/infer", infer()[:-1], {}, LOOKED_UP),
        ("/v2/models/p.one/infer", infer(inputs=[]), {}, LOOKED_UP),
        ("/v2/models/p.one/infer", infer(outputs=[{"name": "z"}]), {}, LOOKED_UP),
        ("/v2/models/p.one/infer", infer(id=1), {}, PARTS),
        ("/v2/models/p.one/infer", infer(parameters=[]), {}, PARTS),
        ("/v2/models/p.one/infer", infer(parameters={"timeout": "soon"}), {}, PARTS),
        (
            "/v2/models/p.one/infer",
            infer(),
            {"inference_header_content_length": "9999"},
            "it counts the bytes of the JSON, which the tensors follow",
        ),
    ],
)
def test_a_refusal_names_what_helps(
    site: Site, runner: asyncio.Runner, url: str, body: bytes, headers: dict[str, str], hint: str | None
) -> None:
    said = runner.run(ask(site, url, body, **headers))
    assert (said["status"], said.get("hint")) == (400, hint), said["error"]


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({**BYTES, "mdslite_dtype": "float33"}, "mdslite-dtype"),
        ({**BYTES, "mdslite_shape": "1x2"}, "mdslite-shape"),
        ({**BYTES, "mdslite_dtype": "float64"}, "mdslite-dtype"),
        ({**BYTES, "mdslite_shape": "1,3"}, "mdslite-shape"),
        ({**BYTES, "accept": "application/x-npy", "mdslite_output": "z"}, "mdslite-output"),
    ],
)
def test_a_wrong_header_is_the_field_of_its_refusal(
    site: Site, runner: asyncio.Runner, headers: dict[str, str], field: str
) -> None:
    said = runner.run(ask(site, f"{ONE}:predict", bytes(8), **headers))
    assert (said["status"], said["field"]) == (400, field)
    assert said["error"].startswith(f"{field}: ")


def test_a_body_that_could_not_be_read_is_no_matter_of_the_model(site: Site, runner: asyncio.Runner) -> None:
    said = runner.run(respond(site, f"{ONE}:predict", [], b"", InvalidRequest("malformed HTTP request")))
    assert said["status"] == 400 and "hint" not in said


def test_an_unsupported_type_is_told_those_that_the_model_takes(site: Site, runner: asyncio.Runner) -> None:
    said = runner.run(ask(site, f"{ONE}:predict", b"x", content_type="image/png"))
    named = said["error"].partition(": expected ")[2].replace(" or ", ", ").split(", ")
    assert named == ["application/json", "application/x-npy", "application/octet-stream"]
    bodies = dict(zip(named, (ROW, npy(np.ones((1, 2), np.float32)), bytes(8)), strict=True))
    for kind, body in bodies.items():
        assert runner.run(ask(site, f"{ONE}:predict", body, content_type=kind))["status"] == 200


def test_a_model_of_several_inputs_takes_no_bare_arrays_and_names_none(
    site: Site, runner: asyncio.Runner
) -> None:
    said = runner.run(ask(site, f"{TWO}:predict", b"x", content_type="image/png"))
    assert said["status"] == 415 and said["error"].endswith("expected application/json")
    assert said["hint"] == "/v2/models/PROJECT.MODEL/infer takes the bytes of several inputs"
    for kind in ("application/x-npy", "application/octet-stream"):
        assert runner.run(ask(site, f"{TWO}:predict", bytes(8), content_type=kind))["status"] == 400


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        (infer(inputs=5), {}, "inputs"),
        (infer(inputs=[INPUT | {"shape": [1, 3]}]), {}, "inputs[0].shape"),
        (infer(inputs=[INPUT | {"data": [1, None]}]), {}, "inputs[0].data[1]"),
        (infer(outputs=[{"name": "z"}]), {}, "outputs[0].name"),
        (infer(), {"inference_header_content_length": "9999"}, "inference-header-content-length"),
        (b"[]", {}, None),
    ],
)
def test_what_is_wrong_in_an_infer_request_is_the_field_of_its_refusal(
    site: Site, runner: asyncio.Runner, body: bytes, headers: dict[str, str], field: str | None
) -> None:
    said = runner.run(ask(site, "/v2/models/p.one/infer", body, **headers))
    assert (said["status"], said.get("field")) == (400, field)
    assert said["error"].startswith(f"{field}: " if field else "expected an object")
