"""Embedding models for clients of OpenAI's API: `/v1/models` and `/v1/embeddings`.

A model is called `PROJECT.MODEL`, with `@VERSION` behind it for one version. Each input, a text or a list of
tokens, is one instance; its prediction is the embedding: a list of numbers, nested ones as long as they hold
one row, or an object of which one field does.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import orjson
from msgspec import Meta

from mdslite.api.later import Replied
from mdslite.api.operations import Answer, Call, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.schema import Given, Value
from mdslite.errors import InvalidRequest, ModelError, NotFound, TooLarge, Unprocessable
from mdslite.http.paths import check_names, split_model
from mdslite.predict.call import Reply
from mdslite.runtimes.protocol import DATA_SIGNATURE, Signature, TensorSpec
from mdslite.serving.router import predict_url

Dims = tuple[int | None, ...]

INPUTS_MAX = 2048  # as OpenAI's own
_TOKENS = frozenset({"INT64", "INT32", "UINT64", "UINT32"})
_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
_FIELDS = ("embedding", "embeddings", "vector", "sentence_embedding", "pooler_output", "output")


class OpenAIModel(Value, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, Meta(description="when it was loaded, Unix seconds")]
    owned_by: str


class OpenAIModels(Value, frozen=True, kw_only=True):
    """What is ready and may be asked for embeddings."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class EmbeddingsBody(Given, frozen=True, kw_only=True):
    """What OpenAI's clients send. `user` is ignored."""

    model: Annotated[str, Meta(description="PROJECT.MODEL, or PROJECT.MODEL@VERSION")]
    input: Annotated[
        str | list[str | int | list[int]], Meta(description="a text, tokens, or a list of either")
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: (
        Annotated[int, Meta(ge=1, description="must be the model's own: embeddings are not shortened")] | None
    ) = None
    user: str | None = None


class Embedding(Value, frozen=True, kw_only=True):
    """One input's embedding: numbers, or their float32 bytes in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Value, frozen=True, kw_only=True):
    """Tokens are the model's to count: 0 for texts."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Value, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


async def list_openai_models(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> OpenAIModels:
    """Every model that is ready and may give embeddings, as OpenAI's clients list them. A Python package, a
    pipeline or a model elsewhere may, as what it answers is not known before it is asked"""
    found: dict[str, OpenAIModel] = {}
    for served in parts.fleet.all():
        if not call.caller.grant.covers(served.project, served.model):
            continue
        if served.state != "ready" or served.spec.service_info.shadow or served.codec.streams:
            continue
        if may_embed(served.codec.signature):
            name = f"{served.project}.{served.model}"
            created = int(served.loaded_at)
            found.setdefault(name, OpenAIModel(id=name, created=created, owned_by=served.project))
    return OpenAIModels(data=list(found.values()))


async def create_embeddings(
    parts: Parts, call: Call[Nothing, Nothing, EmbeddingsBody]
) -> Embeddings | Answer:
    """The embeddings of texts, as OpenAI's clients ask for them"""
    body = call.body
    name, _, version = body.model.partition("@")
    project, model, chosen = check_names(*split_model(name), version or None)
    call.caller.grant.require_model(project, model)
    inputs = _inputs(body.input)
    reply = await parts.predictor.respond(
        target=predict_url(project, model, chosen).encode(),
        headers=[(b"content-type", b"application/json"), (b"x-request-id", call.request_id.encode())],
        body=orjson.dumps({"instances": inputs}),
        admitted=True,
        client=call.caller.grant.client,
    )
    if reply.status != 200 or reply.pieces is not None:
        return _refusal(reply)
    vectors = [_vector(one) for one in orjson.loads(reply.body).get("predictions", [])]
    if len(vectors) != len(inputs):
        raise ModelError(f"the model gave {len(vectors)} answers for {len(inputs)} inputs")
    if body.dimensions is not None and any(len(vector) != body.dimensions for vector in vectors):
        raise Unprocessable(
            f"dimensions: the model's embeddings have {len(vectors[0])}, and are not shortened"
        )
    tokens = sum(len(one) for one in inputs if isinstance(one, list))
    answer = Embeddings(
        data=[
            Embedding(index=at, embedding=_encode(vector) if body.encoding_format == "base64" else vector)
            for at, vector in enumerate(vectors)
        ],
        model=body.model,
        usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return Replied(Reply(200, _kept(reply), msgspec.json.encode(answer)))


def may_embed(signature: Signature) -> bool:
    """Does it take texts or tokens, and give rows of numbers, as far as that is known?"""
    if signature == DATA_SIGNATURE:
        return True
    skipped = 0 if signature.rows == "none" else 1  # what stands before an instance's own dimensions
    needed = [one for one in signature.inputs if not one.optional] or signature.inputs
    outputs: Sequence[TensorSpec] = signature.outputs
    if len(outputs) > 1:
        outputs = [one for one in outputs if one.name in _FIELDS]
    takes = len(needed) == 1 and _takes_inputs(needed[0], needed[0].shape[skipped:])
    return takes and any(_gives_vectors(one, one.shape[skipped:]) for one in outputs)


def _takes_inputs(one: TensorSpec, dims: Dims) -> bool:
    return not dims if one.datatype == "BYTES" else len(dims) == 1 and one.datatype in _TOKENS


def _gives_vectors(one: TensorSpec, dims: Dims) -> bool:
    return one.datatype in _FLOATS and bool(dims) and all(size == 1 for size in dims[:-1])


def _inputs(given: str | list[str | int | list[int]]) -> list[Any]:
    """One entry an instance."""
    if isinstance(given, str):
        inputs: list[Any] = [given]
    elif given and all(isinstance(one, int) for one in given):
        inputs = [given]
    else:
        inputs = list(given)
    if not inputs or not all(isinstance(one, str | list) and one for one in inputs):
        raise InvalidRequest("expected a text, tokens, or a list of them, none of them empty", field="input")
    if len(inputs) > INPUTS_MAX:
        raise TooLarge(f"input: {len(inputs)} inputs; expected at most {INPUTS_MAX}")
    return inputs


def _vector(prediction: Any) -> list[float]:
    """The embedding in a prediction.

    :raises Unprocessable: there is none: it is no embedding model
    """
    found = prediction
    if isinstance(found, dict):
        found = next((found[name] for name in _FIELDS if name in found), None)
        if found is None and len(prediction) == 1:
            found = next(iter(prediction.values()))
    while isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    if not isinstance(found, list) or not found or not all(isinstance(one, int | float) for one in found):
        raise Unprocessable(
            "the model's answer is no embedding: expected a list of numbers for each input",
            hint='a package can answer {"embedding": [...]}',
        )
    return found


def _encode(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _refusal(reply: Reply) -> Answer:
    if reply.pieces is not None:
        raise Unprocessable("the model streams its answers: it is no embedding model")
    if reply.status == NotFound.status:
        told = orjson.loads(reply.body)
        raise NotFound(told["error"], hint="GET /v1/models lists what may be asked")
    return Replied(Reply(reply.status, _kept(reply), reply.body))


def _kept(reply: Reply) -> list[tuple[bytes, bytes]]:
    """A reply's headers but for the request's id, which every answer gets anyway."""
    return [header for header in reply.headers if header[0] != b"mdslite-request-id"]


def make_operations() -> list[Operation]:
    return [
        declare("GET", "/v1/models", list_openai_models, group="openai", scope="predict", reach="own"),
        declare(
            "POST",
            "/v1/embeddings",
            create_embeddings,
            group="openai",
            errors=(404, 422, 503, 504),
            scope="predict",
            reach="own",
        ),
    ]
