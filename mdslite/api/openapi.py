"""The OpenAPI 3.1 document of all operations, generated from their declarations. Owns no wording of its own
beyond what every operation shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

import msgspec

from mdslite import __version__
from mdslite.api.operations import JSON, NDJSON, Nothing, Operation
from mdslite.api.schema import ErrorReply

_REF = "#/components/schemas/{name}"
_GROUPS = {
    "predict": "Predictions",
    "oip": "Open Inference Protocol: a model is PROJECT.MODEL",
    "openai": "Embedding models for clients of OpenAI's API",
    "models": "What is deployed",
    "deployments": "Changing what is deployed, and the history of it",
    "requests": "The request log",
    "labels": "What answers should have been, and how right versions are",
    "drift": "Whether versions get and give what they used to, and who is told",
    "access": "Who may do what: tokens, limits and the audit log",
    "appliance": "The appliance itself",
}
# Any request can be malformed, or come by a foreign host's name; any code can have a mistake.
_ALWAYS = (400, 403, 500)
_WITH_TOKEN = (401, 429)
_OF_A_MODEL = (503,)  # while it may be among what is still being loaded
_WITH_BODY = (408, 413, 415)
_TAGS = {
    "type": "string",
    "pattern": r'^(\*|(W/)?"[\x21\x23-\x7e]*"(, ?(W/)?"[\x21\x23-\x7e]*")*)$(?!\n)',
    "examples": ['"0f3a5d6c7b8e9f0011223344"'],
}
_MATCH = {
    "If-Match": "answer 412 unless the present ETag is one of these",
    "If-None-Match": "answer 412 (GET: 304) if the present ETag is one of these; * where there must be none",
}
_ETAG = "the state of what is deployed here; not of the traffic's figures beside it"

Json = dict[str, Any]


def make_document(operations: Sequence[Operation]) -> Json:
    """The document as JSON-able values."""
    schemas = _Schemas(operations)
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.url, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mdslite",
            "version": __version__,
            "summary": "A model-serving appliance for one GPU box",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _GROUPS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": {
                "RequestId": {
                    "description": "the request's `x-request-id` when that is sane, else a fresh id",
                    "schema": {"type": "string"},
                }
            },
        },
    }


class _Schemas:
    """The JSON schemas of everything that is sent, shared as components."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: list[Any] = [ErrorReply]
        for operation in operations:
            types += [one for one in (operation.body, operation.reply, operation.stream) if one is not None]
        schemas, self.components = msgspec.json.schema_components(types, ref_template=_REF)
        self.components = _portable(self.components)
        self.components.pop(Nothing.__name__, None)
        self._schemas = list(zip(types, (_portable(one) for one in schemas), strict=True))

    def of(self, wanted: Any) -> Json:
        return next(schema for one, schema in self._schemas if one == wanted)


def _operation(operation: Operation, schemas: _Schemas) -> Json:
    found: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.group],
        "parameters": [
            *_parameters(operation.path, "path"),
            *_parameters(operation.query, "query"),
            *_header_parameters(operation),
        ],
    }
    errors = {*_ALWAYS, *operation.errors}
    if 404 in errors and "{model}" in operation.url:
        errors |= {*_OF_A_MODEL}
    errors -= {200, *operation.same}
    if operation.tagged:
        errors |= {412}
    if operation.scope is not None:
        errors |= {*_WITH_TOKEN}
        found["security"] = [{"token": []}, {}]
        wanted = operation.scope if operation.also is None else f"{operation.scope} or {operation.also}"
        found["description"] = f"Once there are tokens, this takes one with the scope {wanted}."
    if operation.body is not Nothing:
        content = {JSON: {"schema": schemas.of(operation.body)}}
        content |= {media_type: {} for media_type in operation.consumes}
        found["requestBody"] = {"required": True, "content": content}
        errors |= {*_WITH_BODY}
    replies = {status: _reply(status, operation, schemas) for status in (200, *operation.same)}
    replies |= {status: _error(HTTPStatus(status).phrase, schemas) for status in errors}
    if operation.tagged and operation.method == "GET":
        replies[304] = {"description": HTTPStatus(304).phrase, "headers": _headers({"etag": _ETAG})}
    responses = {str(status): replies[status] for status in sorted(replies)}
    found["responses"] = responses | {"default": _error("Another error", schemas)}
    return found


def _parameters(struct: type[msgspec.Struct], place: Literal["path", "query"]) -> Iterator[Json]:
    if struct is Nothing:
        return
    _, components = msgspec.json.schema_components([struct], ref_template=_REF)
    schema = _portable(components[struct.__name__])
    for name, field in schema["properties"].items():
        kept = {key: value for key, value in field.items() if key != "description"}
        parameter = {"name": name, "in": place, "required": name in schema["required"], "schema": kept}
        if "description" in field:
            parameter["description"] = field["description"]
        yield parameter


def _header_parameters(operation: Operation) -> Iterator[Json]:
    for name, text in operation.wishes:
        schema = {"type": "string"}
        yield {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
    if operation.tagged:
        for name, text in _MATCH.items():
            yield {"name": name, "in": "header", "required": False, "schema": _TAGS, "description": text}
    if operation.once:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$(?!\n)"},
            "description": "for a day, a request that comes again with its key is answered, not carried out",
        }


def _headers(texts: Mapping[str, str]) -> Json:
    """A reply's headers: what each says, by its name."""
    found = {name: {"schema": {"type": "string"}, "description": text} for name, text in texts.items()}
    return {"mdslite-request-id": {"$ref": "#/components/headers/RequestId"}, **found}


def _reply(status: int, operation: Operation, schemas: _Schemas) -> Json:
    content: Json = {operation.media_type: {"schema": schemas.of(operation.reply)}}
    content |= {media_type: {} for media_type in operation.produces}
    if operation.stream is not None:
        line = {"description": "one line", **schemas.of(operation.stream)}
        content[NDJSON] = {"schema": line}
    texts = dict(operation.headers)
    if operation.tagged and operation.method in ("GET", "PUT"):
        texts["etag"] = _ETAG
    return {"description": HTTPStatus(status).phrase, "headers": _headers(texts), "content": content}


def _portable(schema: Any) -> Any:
    """A schema whose patterns are written as JSON Schema's dialect (ECMA 262) has them."""
    if isinstance(schema, dict):
        found = {key: _portable(value) for key, value in schema.items()}
        if isinstance(found.get("pattern"), str):
            found["pattern"] = found["pattern"].replace(r"\A", "^").replace(r"\Z", r"$(?!\n)")
        return found
    return [_portable(one) for one in schema] if isinstance(schema, list | tuple) else schema


def _error(description: str, schemas: _Schemas) -> Json:
    return {
        "description": description,
        "headers": _headers({}),
        "content": {JSON: {"schema": schemas.of(ErrorReply)}},
    }
