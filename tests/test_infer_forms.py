"""Infer requests and bare tensors, compressed or not, over HTTP/1.1 and over HTTP/2."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import models
import numpy as np
import pytest
from alike import Asked, ask_http1, post
from doors import Deployed, open_site, run
from h1_client import npy, request
from infer_messages import INFER, OCTETS, X, ask_both, binary, first, flat, infer
from waiting import until

from mdslite.http.deflate import INLINE_BYTES
from mdslite.runtimes.protocol import NUMPY_DTYPES

NPY = ("content-type", "application/x-npy")


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
