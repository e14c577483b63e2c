"""Infer requests of the Open Inference Protocol, over HTTP/1.1 and over HTTP/2: what is good is answered
alike, and so is what is wrong."""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from alike import Asked, ask_http1, compare, open_corpus_site, post
from doors import Deployed, open_site, run
from h1_client import gzipped, npy
from infer_messages import HEAD, INFER, OCTETS, X, ask_both, binary, first, flat, infer
from waiting import until

from mdslite.spec import ServiceInfo, Spec

NPY = ("content-type", "application/x-npy")
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
    (infer(flat(X), ("x", "y" * 17_000)), 431),
    (post({"instances": X.tolist()}, ("x", "y" * 17_000)), 431),
    (post({"instances": X.tolist()}, *[(f"x-{number}", "y") for number in range(100)]), 431),
    (post({"instances": X.tolist()}, ("x", "y" * 17_000), target="/projects/p/models/nobody:predict"), 404),
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

            def logged(count: int) -> bool:
                return len(site.rows) == count

            for number, one in enumerate(asked, 1):
                for reply in await ask_both(site, one):
                    assert reply.headers["mdslite-version"] == "v1"
                await until(partial(logged, 4 * number))
            shadows = [row for row in site.logged if row["shadow"]]
            assert [(row["version"], row["status"]) for row in shadows] == [("v2", 200)] * 4
            assert shadows[0]["url"] == INFER

    run(test())


def test_a_timeout_in_the_message_is_the_requests(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.loop(tmp_path / "loop.onnx"))) as site:
            endless = flat(np.array([[-1]]), "turns", "INT64", parameters={"timeout": 20_000})
            for reply in await ask_both(site, infer(endless)):
                assert (reply.status, reply.code) == (504, "deadline_exceeded")
                assert ": 20 ms were allowed" in reply.json["error"]

    run(test())
