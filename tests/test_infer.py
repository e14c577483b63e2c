"""Infer requests of the Open Inference Protocol and bare tensors, over HTTP/1.1 and over HTTP/2: what is good
is answered alike, and so is what is wrong."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from doors import Deployed, Site, open_site, run
from h1_client import Reply, gzipped, npy, request
from test_differential import Asked, ask_http1, ask_http2, compare, open_corpus_site, post
from waiting import until

from mdslite.http.deflate import INLINE_BYTES
from mdslite.runtimes.protocol import NUMPY_DTYPES
from mdslite.spec import ServiceInfo, Spec

INFER = "/v2/models/p.m/infer"
HEAD = "inference-header-content-length"
OCTETS = ("content-type", "application/octet-stream")
NPY = ("content-type", "application/x-npy")
X = np.array([[1, 2, 3]], np.float32)


def infer(
    message: Any,
    *headers: tuple[str, str],
    raw: bytes = b"",
    target: str = INFER,
    head: Any = None,
    **more: Any,
) -> Asked:
    """An infer request, with `raw` after its JSON; `head` is what the header says of the JSON's length."""
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    says = [(HEAD, str(len(text) if head is None else head))] if raw or head is not None else []
    return Asked("POST", target, text + raw, (*says, *headers), **more)


def binary(array: Any, name: str = "x", datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": array.nbytes}
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": parameters}
    return {"inputs": [tensor], "parameters": {"binary_data_output": True}, **more}


def flat(array: Any, name: str = "x", datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
    return {"inputs": [tensor], **more}


def first(reply: Reply) -> Any:
    """The first output of a reply, as an array."""
    body = reply.body
    match reply.headers.get("content-encoding"):
        case "gzip":
            body = gzip.decompress(body)
        case "deflate":
            body = zlib.decompress(body)
    head_bytes = int(reply.headers.get(HEAD, len(body)))
    output = json.loads(body[:head_bytes])["outputs"][0]
    data = np.frombuffer(body[head_bytes:], np.float32) if HEAD in reply.headers else output["data"]
    return np.array(data, np.float32).reshape(output["shape"])


async def ask_both(site: Site, asked: Asked) -> list[Reply]:
    return [await ask_http1(site, asked), await ask_http2(site, asked)]


NO_ROWS = np.empty((0, 3), np.float32)
WORDS = b"\x03\0\0\0ham"

GOOD = [
    infer(flat(X)),
    infer(flat(X), target="/v2/models/p.m/versions/v1/infer"),
    infer(flat(X), target="/v2/models/p%2Em/versions/v1/infer?a=b"),
    infer(flat(X, id="seven")),
    infer(flat(X), ("content-type", "application/json")),
    infer(flat(X), ("content-type", "application/x-nonsense")),
    infer(flat(X, outputs=[{"name": "y"}])),
    infer(flat(X, outputs=[{"name": "y", "parameters": {"binary_data": True}}])),
    infer(flat(X, outputs=[{"name": "y", "parameters": {"classification": 2}}])),
    infer(flat(X), says_length=False),
    infer(flat(X), head=len(json.dumps(flat(X)))),
    infer(binary(X), raw=X.tobytes()),
    infer(binary(X), OCTETS, raw=X.tobytes()),
    infer(binary(X), raw=X.tobytes(), says_length=False),
    infer(binary(X, parameters={"timeout": 10_000_000, "priority": 1, "mine": "x"}), raw=X.tobytes()),
    infer(b"", raw=X.tobytes(), head=0),
    infer(binary(NO_ROWS), head=len(json.dumps(binary(NO_ROWS)))),
    infer(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[NaN,Infinity,-Infinity]}]}'),
    infer(
        {"inputs": [{"name": "word", "datatype": "BYTES", "shape": [1, 1], "data": ["h\u00e4m"]}]},
        target="/v2/models/p.words/infer",
    ),
    post(X.tobytes(), media_type=OCTETS),
    post(X.tobytes(), ("mdslite-dtype", "float32"), ("mdslite-shape", "1,3"), media_type=OCTETS),
    post(X.tobytes(), ("mdslite-dtype", "FP32"), ("accept", "application/octet-stream"), media_type=OCTETS),
    post(NO_ROWS.tobytes(), ("accept", "application/octet-stream"), media_type=OCTETS),
    post({"instances": X.tolist()}, ("accept", "application/octet-stream;q=0.5, */*")),
    post({"instances": X.tolist()}, ("accept", "text/html, application/json, application/x-npy")),
    post({"instances": X.tolist()}, ("accept", "image/png")),
    post(npy(X), ("accept", "application/x-npy"), media_type=NPY),
    post(npy(NO_ROWS), ("accept", "application/x-npy"), media_type=NPY),
]

BAD: list[tuple[Asked, int]] = [
    # the envelope
    (infer(b""), 400),
    (infer(b"{"), 400),
    (infer(b"\xff\xfe"), 400),
    (infer(b"[" * 100_000), 400),
    (infer(b'{"inputs": ' + b"9" * 10_000 + b"}"), 400),
    (infer([]), 400),
    (infer({"inputs": []}), 400),
    (infer(flat(X, id=5)), 400),
    (infer(flat(X, outputs=[{"name": "nobody"}])), 400),
    (infer(flat(X), head=10**6), 400),
    (infer(flat(X), head="ten"), 400),
    (infer(flat(X), head="-1"), 400),
    (infer(flat(X), head="9" * 30), 400),
    (infer(flat(X), head=""), 400),
    (infer(flat(X), head=5), 400),
    (infer(b"", head=0), 200),
    # the bytes
    (infer(binary(X)), 400),
    (infer(binary(X), raw=X.tobytes()[:-1]), 400),
    (infer(binary(X), raw=X.tobytes() + b"\0"), 400),
    (infer(binary(X), raw=X.tobytes(), head=20), 400),
    (infer(b"", raw=X.tobytes()[:-1], head=0), 400),
    (infer(b"", raw=WORDS, head=0, target="/v2/models/p.words/infer"), 400),
    (infer(b"", raw=X.tobytes(), head=0, target="/v2/models/p.two/infer"), 400),
    # the tensors
    (infer(flat(X, name="y")), 400),
    (infer(flat(X, datatype="FP64")), 400),
    (infer(flat(X.reshape(3, 1))), 400),
    (infer({"inputs": [{**flat(X)["inputs"][0], "shape": [-1, 3]}]}), 400),
    (infer({"inputs": [{**flat(X)["inputs"][0], "shape": [2**62, 3]}]}), 400),
    (infer({"inputs": [{**flat(X)["inputs"][0], "shape": [2**64, 3]}]}), 400),
    (infer({"inputs": [{**flat(X)["inputs"][0], "parameters": {"shared_memory_region": "r"}}]}), 400),
    (infer(flat(X), target="/v2/models/p.two/infer"), 400),
    # too much
    (infer(b" " * 100_001), 413),
    (infer(b" " * 100_001, says_length=False), 413),
    (infer(b" " * 100_001, head=100_001), 413),
    (infer(b" " * 300_001, head=1), 413),
    (infer(b" " * 300_001, head=1, says_length=False), 413),
    (infer(flat(np.zeros((1025, 3), np.float32))), 413),
    (infer(gzipped(b" " * 200_000), ("content-encoding", "gzip")), 413),
    (infer(gzipped(b" " * 400_000), ("content-encoding", "gzip"), head=1), 413),
    (infer(gzipped(b"{}")[:-1], ("content-encoding", "gzip")), 400),
    (infer(zlib.compress(b"{}") * 2, ("content-encoding", "deflate")), 400),
    (infer(b"{}", ("content-encoding", "br")), 415),
    # places
    (infer(flat(X), target="/v2/models/p.nobody/infer"), 404),
    (infer(flat(X), target="/v2/models/p.m/versions/v9/infer"), 404),
    (infer(flat(X), target="/v2/models/nobody/infer"), 404),
    (infer(flat(X), target="/v2/models/p.m/versions/infer"), 404),
    (infer(flat(X), target="/v2/models//infer"), 404),
    (infer(flat(X), target="/v2/models/.m/infer"), 400),
    (infer(flat(X), target="/v2/models/p.%2E%2E/infer"), 400),
    (infer(flat(X), target="/v2/models/p.a.b/infer"), 400),
    (infer(flat(X), target="/v2/models/p.idle/infer"), 503),
    # what a model or its lane says
    (
        infer(flat(np.array([[99]]), "index", "INT64"), target="/v2/models/p.gather/infer"),
        500,
    ),
    # bare tensors
    (post(X.tobytes()[:-1], media_type=OCTETS), 400),
    (post(X.tobytes(), ("mdslite-dtype", "float64"), media_type=OCTETS), 400),
    (post(X.tobytes(), ("mdslite-dtype", "object"), media_type=OCTETS), 400),
    (post(X.tobytes(), ("mdslite-shape", "3,1"), media_type=OCTETS), 400),
    (post(X.tobytes(), ("mdslite-shape", "2,3"), media_type=OCTETS), 400),
    (post(X.tobytes(), ("mdslite-shape", "-1,3"), media_type=OCTETS), 400),
    (post(X.tobytes(), ("mdslite-shape", "1,"), media_type=OCTETS), 400),
    (post(X.tobytes(), ("mdslite-shape", "9" * 30), media_type=OCTETS), 400),
    (post(X.tobytes(), media_type=OCTETS, target="/projects/p/models/two:predict"), 400),
    (post(X.tobytes(), ("accept", "application/x-npy"), ("mdslite-output", "z"), media_type=OCTETS), 400),
    (
        post(
            {"instances": [{"a": [1, 2], "b": [3, 4]}]},
            ("accept", "application/x-npy"),
            target="/projects/p/models/two:predict",
        ),
        400,
    ),
    (post(npy(np.array([None]), pickled=True), media_type=NPY), 415),
]


def test_good_requests_are_answered_alike(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for asked in GOOD:
                answer = await compare(site, asked)
                assert answer.status == 200, (asked, answer)
                assert answer.row["url"] == asked.target.partition("?")[0].replace("%2E", "."), asked

    run(test())


def test_bad_requests_are_answered_alike_and_name_what_is_wrong(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for asked, status in BAD:
                answer = await compare(site, asked)
                assert answer.status == status, (asked, answer)
                if status != 200:
                    assert answer.headers["content-type"] == "application/json"
                    error = json.loads(answer.body)
                    assert error.keys() >= {"error", "code", "request_id"}, asked
                    assert isinstance(error["error"], str), asked

    run(test())


@pytest.mark.parametrize(
    "message", [flat(X), binary(X), binary(X, id="7"), flat(X, parameters={"binary_data_output": True})]
)
def test_the_answer_is_the_models(tmp_path: Path, message: dict[str, Any]) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            raw = X.tobytes() if "data" not in message["inputs"][0] else b""
            for reply in await ask_both(site, infer(message, raw=raw)):
                assert reply.status == 200
                np.testing.assert_array_equal(first(reply), X)
                is_binary = "parameters" in message
                assert (HEAD in reply.headers) == is_binary
                kind = "application/octet-stream" if is_binary else "application/json"
                assert reply.headers["content-type"] == kind
                assert reply.headers["mdslite-version"] == "v1"
                assert "total;dur=" in reply.headers["server-timing"]

    run(test())


def test_both_kinds_of_urls_take_turns_in_one_round(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx")
        versions = [Deployed(path, version=f"v{number}", weight=50) for number in (1, 2)]
        async with open_site(tmp_path, *versions) as site:
            asked = [infer(flat(X)), post({"instances": X.tolist()})] * 4
            answered = [(await ask_http1(site, one)).headers["mdslite-version"] for one in asked]
            assert answered == ["v1", "v2"] * 4

    run(test())


@pytest.mark.parametrize("same", [True, False])
def test_a_shadow_gets_what_was_asked_in_any_form(tmp_path: Path, same: bool) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx")
        other = path if same else models.mlp(tmp_path / "other.onnx", dims=(3, 4, 2))
        versions = Deployed(path), Deployed(other, version="v2", weight=0)
        async with open_site(tmp_path, *versions) as site:
            spec = Spec(uri="/model", service_info=ServiceInfo(weight=0, shadow=True))
            site.fleet.switch(respecced=[(("p", "m", "v2"), spec)])
            asked = infer(binary(X), raw=X.tobytes()), post(X.tobytes(), media_type=OCTETS)
            for number, one in enumerate(asked, 1):
                for reply in await ask_both(site, one):
                    assert reply.headers["mdslite-version"] == "v1"
                await until(lambda number=number: len(site.rows) == 4 * number)
            shadows = [row for row in site.logged if row["shadow"]]
            assert [(row["version"], row["status"]) for row in shadows] == [("v2", 200)] * 4
            assert shadows[0]["url"] == INFER

    run(test())


# Compression


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("rows", [1, 200, INLINE_BYTES // 8])
def test_bodies_are_compressed_both_ways(tmp_path: Path, coding: str, rows: int) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site:
            array = np.arange(3 * rows, dtype=np.float32).reshape(1, -1)
            plain = infer(binary(array), raw=array.tobytes())
            body = (gzip if coding == "gzip" else zlib).compress(plain.body)
            headers = [*plain.headers, ("content-encoding", coding), ("accept-encoding", coding)]
            for reply in await ask_both(site, Asked("POST", INFER, body, headers)):
                np.testing.assert_array_equal(first(reply), array)
                assert reply.headers.get("content-encoding") == (None if rows == 1 else coding)
                assert int(reply.headers["content-length"]) == len(reply.body)

    run(test())


@pytest.mark.parametrize("wish", ["gzip, deflate", "br", "identity", "gzip;q=0", "*"])
def test_who_names_no_coding_alone_gets_none(tmp_path: Path, wish: str) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site:
            array = np.zeros((1, 1000), np.float32)
            reply = await ask_http1(
                site, infer(binary(array), ("accept-encoding", wish), raw=array.tobytes())
            )
            assert "content-encoding" not in reply.headers
            np.testing.assert_array_equal(first(reply), array)

    run(test())


def test_who_leaves_while_the_answer_is_compressed_breaks_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=("N", "L"))
        async with open_site(tmp_path, Deployed(path)) as site:
            array = np.random.default_rng(1).random((1, 1_000_000), np.float32)
            asked = infer(binary(array), ("accept-encoding", "gzip"), raw=array.tobytes())
            async with site.connect() as wire:
                wire.send(request("POST", INFER, asked.body, headers=asked.headers))
                await wire.drained()
                await until(lambda: site.lane().stats.batches == 1)
            await until(lambda: not site.predictor.books.open)
            assert (await ask_http1(site, infer(flat(np.zeros((1, 2)))))).status == 200

    run(test())


# Time


def test_a_timeout_in_the_message_is_the_requests(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.loop(tmp_path / "loop.onnx"))) as site:
            endless = flat(np.array([[-1]]), "turns", "INT64", parameters={"timeout": 20_000})
            for reply in await ask_both(site, infer(endless)):
                assert (reply.status, reply.code) == (504, "deadline_exceeded")
                assert "ms were allowed" in reply.json["error"]

    run(test())


# Bare tensors


def accept(kind: str) -> tuple[str, str]:
    return ("accept", f"application/{kind}")


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16", "INT64", "UINT8", "BOOL"])
def test_bare_tensors_go_in_and_come_out(tmp_path: Path, datatype: str) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", datatype, shape=("N", 2))
        async with open_site(tmp_path, Deployed(path)) as site:
            dtype = NUMPY_DTYPES[datatype]
            array = np.array([[0, 1], [1, 0]]).astype(dtype)
            name = "bfloat16" if datatype == "BF16" else dtype.name
            asked = post(
                array.tobytes(), ("mdslite-dtype", name), ("mdslite-shape", "2, 2"), accept("octet-stream"),
                media_type=OCTETS,
            )  # fmt: skip
            for reply in await ask_both(site, asked):
                assert reply.headers["content-type"] == "application/octet-stream"
                assert reply.headers["mdslite-dtype"] == name
                assert reply.headers["mdslite-shape"] == "2,2"
                assert reply.body == array.tobytes()
            for reply in await ask_both(site, post(array.tobytes(), accept("x-npy"), media_type=OCTETS)):
                assert reply.headers["content-type"] == "application/x-npy"
                found = np.load(io.BytesIO(reply.body))
                assert found.shape == (2, 2)
                if datatype != "BF16":
                    np.testing.assert_array_equal(found, array)

    run(test())


def test_one_of_several_outputs_is_asked_for_by_name(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.add(tmp_path / "m.onnx"))) as site:
            body = {"instances": [{"a": [1, 2], "b": [3, 4]}]}
            for name, values in (("sum", [[4, 6]]), ("difference", [[-2, -2]])):
                asked = post(body, accept("x-npy"), ("mdslite-output", name))
                assert np.load(io.BytesIO((await ask_http1(site, asked)).body)).tolist() == values
            reply = await ask_http1(site, post(body, accept("x-npy")))
            assert (reply.status, reply.code) == (400, "invalid_request")
            assert '"sum", "difference"' in reply.json["error"]

    run(test())


def test_strings_are_no_bare_tensors(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.identity(tmp_path / "m.onnx", "BYTES"))) as site:
            reply = await ask_http1(site, post({"instances": [["a", "b", "c"]]}, accept("x-npy")))
            assert (reply.status, reply.code) == (400, "invalid_request")
            assert site.lane().stats.batches == 0

    run(test())


def test_whole_tensors_of_several_instances_are_stacked(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.total(tmp_path / "m.onnx"))) as site:
            one, two = (post({"instances": [[1, 2, 3]] * count}, accept("x-npy")) for count in (1, 2))
            assert np.load(io.BytesIO((await ask_http1(site, one)).body)).shape == ()
            assert np.load(io.BytesIO((await ask_http1(site, two)).body)).tolist() == [6, 6]
            scalar = post(X.tobytes(), accept("octet-stream"), media_type=OCTETS)
            reply = await ask_http1(site, scalar)
            assert (reply.headers["mdslite-shape"], reply.body) == ("", np.float32(6).tobytes())

    run(test())


def test_a_model_with_a_fixed_first_dimension_takes_many_rows(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx", shape=(1, 3))
        async with open_site(tmp_path, Deployed(path)) as site:
            array = np.arange(12, dtype=np.float32).reshape(4, 3)
            np.testing.assert_array_equal(first(await ask_http1(site, infer(flat(array)))), array)

    run(test())


@pytest.mark.parametrize("values", [[math.nan, math.inf, -math.inf]])
def test_what_is_no_number_stays_what_it_is_in_binary(tmp_path: Path, values: Sequence[float]) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            array = np.array([values], np.float32)
            for reply in await ask_both(site, infer(binary(array), raw=array.tobytes())):
                np.testing.assert_array_equal(first(reply), array)
            for reply in await ask_both(site, infer(flat(array))):
                assert json.loads(reply.body)["outputs"][0]["data"] == [None, None, None]

    run(test())


def test_requests_of_all_forms_share_batches(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            forms = [
                infer(flat(X)),
                infer(binary(X), raw=X.tobytes()),
                post({"instances": X.tolist()}),
                post(npy(X), media_type=NPY),
                post(X.tobytes(), media_type=OCTETS),
            ]
            replies = await asyncio.gather(*(ask_http1(site, one) for one in forms * 8))
            assert {reply.status for reply in replies} == {200}
            assert max(row["batch_rows"] for row in site.logged) > 1

    run(test())
