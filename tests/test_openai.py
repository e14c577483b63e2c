"""Embedding models as clients of OpenAI's API see them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doors import Site, open_site, run
from h1_client import Reply, request
from lanes import FakeData, GivenRuntime
from minted import make_token

from mdslite.api.openai import may_embed
from mdslite.runtimes.protocol import (
    DATA_SIGNATURE,
    Answers,
    PackageReport,
    ProbeReport,
    Rows,
    Signature,
    TensorSpec,
)
from mdslite.serving.loader import LoadRequest
from mdslite.spec import Spec
from mdslite.store.tokens import Rate


class Embedder(FakeData):
    """Answers a text's or token list's length twice, in the form it was told."""

    def __init__(self, form: str = "%s") -> None:
        super().__init__()
        self.form = form

    def run(self, feeds: Any, handle: Any = None) -> list[Answers]:
        lengths = [len(json.loads(datum)) for datum in feeds["data"]]
        return [Answers((self.form % f"[{length}, {length}.5]").encode() for length in lengths)]


@asynccontextmanager
async def serving(folder: Path, form: str = "%s") -> AsyncIterator[Site]:
    async with open_site(folder) as site:
        site.fleet._loader.runtimes["PYTHON"] = GivenRuntime(Embedder(form))  # type: ignore[index]
        package = PackageReport("e", "v1", "Model", batch_size=8)
        report = ProbeReport(DATA_SIGNATURE, 0, 0.0, False, package)
        wanted = LoadRequest("p", "e", "v1", Spec(uri="/e"), "sha256:00", folder, report, "PYTHON", "MDS")
        site.fleet.switch(added=[await site.fleet.load(wanted)])
        yield site


async def embed(site: Site, **body: Any) -> Reply:
    text = json.dumps({"model": "p.e", **body}).encode()
    return await site.ask(
        request("POST", "/v1/embeddings", text, headers=[("content-type", "application/json")])
    )


def test_models_that_may_give_embeddings_are_listed(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            listed = (await site.ask(request("GET", "/v1/models"))).json
            assert listed["object"] == "list"
            assert [one["id"] for one in listed["data"]] == ["p.e"]  # p.m takes and gives numbers
            assert {one["object"] for one in listed["data"]} == {"model"}

    run(test())


TEXT = TensorSpec("text", "BYTES", (None,))
TOKENS = TensorSpec("tokens", "INT64", (None, None))
VECTOR = TensorSpec("y", "FP32", (None, 384))


def named(name: str) -> TensorSpec:
    return TensorSpec(name, "FP32", (None, 384))


@pytest.mark.parametrize(
    ("inputs", "outputs", "rows", "listed"),
    [
        ((TEXT,), (VECTOR,), "free", True),
        ((TOKENS,), (VECTOR,), "free", True),
        ((TOKENS, TensorSpec("mask", "INT64", (None, None), optional=True)), (VECTOR,), "free", True),
        ((TOKENS, TensorSpec("mask", "INT64", (None, None))), (VECTOR,), "free", False),
        ((TensorSpec("x", "FP32", (None, 3)),), (VECTOR,), "free", False),
        ((TensorSpec("text", "BYTES", (None, 1)),), (VECTOR,), "free", False),
        ((TensorSpec("text", "BYTES", ()),), (TensorSpec("y", "FP32", (384,)),), "none", True),
        ((TEXT,), (TensorSpec("y", "FP32", (None, 1, 384)),), "free", True),
        ((TEXT,), (TensorSpec("y", "FP32", (None, None, 384)),), "free", False),
        ((TEXT,), (TensorSpec("label", "INT64", (None,)),), "free", False),
        ((TEXT,), (named("a"), named("embedding")), "free", True),
        ((TEXT,), (named("a"), named("b")), "free", False),
    ],
)
def test_what_takes_texts_or_tokens_and_gives_vectors_may_give_embeddings(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], rows: Rows, listed: bool
) -> None:
    assert may_embed(Signature(inputs, outputs, rows)) is listed


@pytest.mark.parametrize(
    ("given", "lengths"),
    [("hey", [3]), (["a", "bc"], [1, 2]), ([7, 8, 9, 10], [4]), ([[1], [2, 3]], [1, 2])],
)
def test_each_input_has_its_embedding(tmp_path: Path, given: Any, lengths: list[int]) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            reply = await embed(site, input=given, model="p.e@v1", user="ann")
            assert reply.status == 200
            assert reply.headers["mdslite-version"] == "v1"
            found = reply.json
            assert (found["object"], found["model"]) == ("list", "p.e@v1")
            assert found["data"] == [
                {"object": "embedding", "index": at, "embedding": [float(n), n + 0.5]}
                for at, n in enumerate(lengths)
            ]

    run(test())


def test_embeddings_in_base64_are_float32(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            reply = await embed(site, input="hey", encoding_format="base64")
            raw = base64.b64decode(reply.json["data"][0]["embedding"])
            assert np.frombuffer(raw, "<f4").tolist() == [3.0, 3.5]

    run(test())


@pytest.mark.parametrize("form", ["[%s]", '{"embedding": %s}', '{"other": [%s]}'])
def test_embeddings_are_found_where_models_put_them(tmp_path: Path, form: str) -> None:
    async def test() -> None:
        async with serving(tmp_path, form) as site:
            assert (await embed(site, input="hey")).json["data"][0]["embedding"] == [3.0, 3.5]

    run(test())


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": ""}, 400, "none of them empty"),
        ({"input": []}, 400, "none of them empty"),
        ({"input": ["a"] * 2049}, 413, "at most 2048"),
        ({"input": "x", "model": "none"}, 404, "expected PROJECT.MODEL"),
        ({"input": "x", "model": "p.none"}, 404, "no model p/none"),
        ({"input": "x", "dimensions": 3}, 422, "have 2, and are not shortened"),
        ({"input": {"a": 1}}, 400, "input"),
    ],
)
def test_what_cannot_be_answered_is_said(
    tmp_path: Path, body: dict[str, Any], status: int, words: str
) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            reply = await embed(site, **body)
            assert reply.status == status
            assert words in reply.json["error"]

    run(test())


def test_a_model_that_gives_no_embedding_is_named_as_such(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, '{"label": "x", "n": %s, "m": 1}') as site:
            reply = await embed(site, input="hey")
            assert (reply.status, reply.json["code"]) == (422, "unprocessable")

    run(test())


def test_a_token_opens_the_embeddings(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as site:
            token, text = make_token(project="p", rate=Rate(1, "h"))
            site.predictor.access.replace([token], {})
            headers = [("content-type", "application/json"), ("authorization", f"Bearer {text}")]
            body = json.dumps({"model": "p.e", "input": "hey"}).encode()
            reply = await site.ask(request("POST", "/v1/embeddings", body, headers=headers))
            assert (reply.status, reply.json["data"][0]["embedding"]) == (200, [3.0, 3.5])
            assert [row["client"] for row in site.logged] == ["ci"]

    run(test())
