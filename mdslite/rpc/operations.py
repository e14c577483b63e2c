"""The operations of the admin API and of the Open Inference Protocol as RPCs. Each goes through the endpoint
that answers it over REST, so that what it checks, whom it lets in and what it writes down are the same. Owns
no state.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode

import msgspec
from google.protobuf import json_format

from mdslite.api import oip
from mdslite.api.operations import JSON, NDJSON, Endpoint, Operation
from mdslite.errors import NotFound
from mdslite.rpc.exchange import Exchange, Message, trail
from mdslite.rpc.schema import INFERENCE, Schema, parse

OnChunk = Callable[[int, str, bytes], Awaitable[None]]

_FRAMING = (b"content-type", b"content-length")
_NOT_REST = (b"content-type", b"content-encoding", b"content-length", b"accept", b"te")
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Answered:
    """A REST reply: its headers but for those of its framing."""

    status: int
    media_type: str
    headers: Sequence[tuple[str, str]]
    body: bytes


class Invocation:
    """One operation, called for one RPC."""

    def __init__(self, operation: Operation, parts: Any, exchange: Exchange) -> None:
        self._operation = operation
        self._endpoint = Endpoint(operation, parts)
        self._exchange = exchange
        self._metadata = [field for field in exchange.head.metadata if field[0] not in _NOT_REST]

    async def call(
        self,
        *,
        path: Mapping[str, str],
        query: Mapping[str, str],
        body: bytes,
        accept: str = JSON,
        on_chunk: OnChunk | None = None,
    ) -> Answered:
        """Answer it, whole or chunk by chunk.

        :raises MdsliteError: as over REST
        """
        chunks: list[bytes] = []
        status, headers = 500, []
        media_type = ""

        async def send(message: Any) -> None:
            nonlocal status, headers, media_type
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(name.decode(), value.decode("latin-1")) for name, value in message["headers"]]
                media_type = dict(headers).get("content-type", "")
            elif on_chunk is not None:
                await on_chunk(status, media_type, message.get("body", b""))
            else:
                chunks.append(message.get("body", b""))

        await self._endpoint(self._scope(path, query, accept), _Receiver(body), send)
        kept = [field for field in headers if field[0].encode() not in _FRAMING]
        return Answered(status, media_type, kept, b"".join(chunks))

    def _scope(self, path: Mapping[str, str], query: Mapping[str, str], accept: str) -> dict[str, Any]:
        quoted = {name: quote(value, safe="") for name, value in path.items()}
        # A name that is missing stands there as it does in the documents, and in the audit log.
        url = _PARAMETER.sub(lambda found: quoted.get(found[1], found[0]), self._operation.url)
        address, subject = self._exchange.link.address, self._exchange.link.subject
        return {
            "type": "http",
            "method": self._operation.method,
            "path": unquote(url),
            "raw_path": url.encode(),
            "query_string": urlencode(query).encode(),
            "headers": [*self._metadata, (b"accept", accept.encode())],
            "path_params": quoted,
            "client": (address, 0) if address else None,
            "extensions": {} if subject is None else {"tls": {"client_cert_name": subject}},
            "request_id": self._exchange.request_id,
        }


class _Receiver:
    """A request whose body is here. An RPC whose client leaves is cancelled: nothing more is to be told."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> dict[str, Any]:
        if self._body is None:
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class AdminRpc:
    """One operation as an RPC of the service mdslite.v1.Admin."""

    def __init__(self, operation: Operation, parts: Any, schema: Schema) -> None:
        self._operation = operation
        self._parts = parts
        self._schema = schema

    async def answer(self, body: Message, exchange: Exchange) -> bytes:
        """Answer with the whole reply."""
        request = parse(self._schema.AdminRequest, body)
        found = await Invocation(self._operation, self._parts, exchange).call(
            path=request.path, query=request.query, body=request.body
        )
        trail(exchange, found.headers)
        return self._reply(found.status, found.media_type, found.body)

    async def stream(self, body: Message, exchange: Exchange) -> bytes | None:
        """Answer line by line."""
        request = parse(self._schema.AdminRequest, body)
        rest = b""

        async def write(status: int, media_type: str, chunk: bytes) -> None:
            nonlocal rest
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                await exchange.write(self._reply(status, media_type, line))

        found = await Invocation(self._operation, self._parts, exchange).call(
            path=request.path, query=request.query, body=request.body, accept=NDJSON, on_chunk=write
        )
        trail(exchange, found.headers)
        return self._reply(found.status, found.media_type, rest) if rest else None

    def _reply(self, status: int, media_type: str, body: bytes) -> bytes:
        reply = self._schema.AdminReply(status=status, media_type=media_type, body=body)
        return reply.SerializeToString()  # type: ignore[no-any-return]


class OipRpc:
    """One RPC of the Open Inference Protocol beside infer. `operations` are its REST form: for one model, for
    one version of it, for all of them, as far as there are such."""

    def __init__(
        self, parts: Any, classes: tuple[type[Any], type[Any]], operations: Sequence[Operation], wrap: str
    ) -> None:
        self._parts = parts
        self._request, self._reply = classes
        self._operations = operations
        self._wrap = wrap  # the field that holds all of the answer, where there is one

    async def answer(self, body: Message, exchange: Exchange) -> bytes:
        """Answer with the reply's message."""
        request = parse(self._request, body)
        path = _path_of(request)
        operation = next((one for one in self._operations if _names(one) == path.keys()), self._operations[0])
        invocation = Invocation(operation, self._parts, exchange)
        found = await invocation.call(path=path, query={}, body=_content_of(request))
        trail(exchange, found.headers)
        plain = msgspec.json.decode(found.body)
        message = json_format.ParseDict(
            {self._wrap: plain} if self._wrap else plain, self._reply(), ignore_unknown_fields=True
        )
        return message.SerializeToString()  # type: ignore[no-any-return]


class ReadyRpc(OipRpc):
    """A model that is not there is not ready, which is no error over gRPC."""

    async def answer(self, body: Message, exchange: Exchange) -> bytes:
        try:
            return await super().answer(body, exchange)
        except NotFound:
            return self._reply(ready=False).SerializeToString()  # type: ignore[no-any-return]


def make_oip_rpcs(parts: Any, schema: Schema) -> dict[str, OipRpc]:
    """The protocol's RPCs beside infer, by name."""
    known = {operation.name: operation for operation in oip.make_operations()}
    classes = schema.methods(INFERENCE)
    return {
        name: (ReadyRpc if name == "ModelReady" else OipRpc)(
            parts, classes[name], [known[one] for one in names], wrap
        )
        for name, (names, wrap) in _RPCS.items()
    }


_RPCS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "ServerLive": (("get_live",), ""),
    "ServerReady": (("get_ready",), ""),
    "ServerMetadata": (("get_server",), ""),
    "ModelReady": (("get_model_ready", "get_version_ready"), ""),
    "ModelMetadata": (("get_oip_model", "get_oip_version"), ""),
    "ModelConfig": (("get_model_config", "get_version_config"), "config"),
    "ModelStatistics": (("get_model_statistics", "get_version_statistics", "get_all_statistics"), ""),
    "RepositoryIndex": (("index_repository",), "models"),
    "RepositoryModelLoad": (("load_repository_model",), ""),
    "RepositoryModelUnload": (("unload_repository_model",), ""),
}


def _names(operation: Operation) -> set[str]:
    return {name for name, _ in _PARAMETER.findall(operation.url)}


def _path_of(request: Any) -> dict[str, str]:
    """The names that a request's URL would have."""
    name = getattr(request, "model_name", "") or getattr(request, "name", "")
    given = {"name": name, "version": getattr(request, "version", "")}
    return {key: value for key, value in given.items() if value}


def _content_of(request: Any) -> bytes:
    """The body that it would have."""
    if hasattr(request, "ready"):
        return msgspec.json.encode({"ready": request.ready})
    parameters = {}
    for name, parameter in getattr(request, "parameters", {}).items():
        kind = parameter.WhichOneof("parameter_choice")
        parameters[name] = None if kind is None else getattr(parameter, kind)
    return msgspec.json.encode({"parameters": parameters} if parameters else {})
