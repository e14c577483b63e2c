"""The operations of the admin API and of the Open Inference Protocol as RPCs. Each goes through the endpoint
that answers it over REST, so that what it checks, whom it lets in and what it writes down are the same. Owns
no state.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlencode

import msgspec
from google.protobuf import json_format

from mdslite.errors import MdsliteError, NotFound
from mdslite.http import oip
from mdslite.http.guard import make_request_id
from mdslite.http.operations import JSON, NDJSON, Endpoint, Operation
from mdslite.rpc.schema import INFERENCE, Schema, parse
from mdslite.rpc.statuses import REQUEST_ID, refuse, unknown_error

logger = logging.getLogger(__name__)

OnChunk = Callable[[int, str, bytes], Awaitable[None]]

_FRAMING = (b"content-type", b"content-length")
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

    def __init__(self, operation: Operation, parts: Any, context: Any) -> None:
        self._operation = operation
        self._endpoint = Endpoint(operation, parts)
        self._context = context
        self.metadata = [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in context.invocation_metadata()
            if isinstance(value, str) and name not in ("content-encoding", "content-length", "accept")
        ]
        given = next((value for name, value in self.metadata if name == b"x-request-id"), None)
        self.request_id = make_request_id(given)

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
        url = _PARAMETER.sub(lambda found: quoted.get(found[1], ""), self._operation.url)
        kind, _, address = unquote(self._context.peer()).partition(":")
        client = (address.rpartition(":")[0].strip("[]"), 0) if kind in ("ipv4", "ipv6") else None
        names = self._context.auth_context().get("x509_common_name", ())
        subject = names[0].decode("utf-8", "replace") if names else None
        return {
            "type": "http",
            "method": self._operation.method,
            "path": unquote(url),
            "raw_path": url.encode(),
            "query_string": urlencode(query).encode(),
            "headers": [*self.metadata, (b"accept", accept.encode())],
            "path_params": quoted,
            "client": client,
            "extensions": {} if subject is None else {"tls": {"client_cert_name": subject}},
            "request_id": self.request_id,
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

    async def answer(self, body: bytes, context: Any) -> bytes:
        """Answer with the whole reply."""
        work = partial(self._answer, body=body, context=context)
        return await _guarded(self._operation, self._parts, context, work)

    async def stream(self, body: bytes, context: Any) -> None:
        """Answer line by line."""
        await _guarded(
            self._operation, self._parts, context, partial(self._follow, body=body, context=context)
        )

    async def _answer(self, invocation: Invocation, *, body: bytes, context: Any) -> bytes:
        request = parse(self._schema.AdminRequest, body)
        found = await invocation.call(path=request.path, query=request.query, body=request.body)
        _trail(context, invocation, found)
        return self._reply(found.status, found.media_type, found.body)

    async def _follow(self, invocation: Invocation, *, body: bytes, context: Any) -> bytes:
        request = parse(self._schema.AdminRequest, body)
        rest = b""

        async def write(status: int, media_type: str, chunk: bytes) -> None:
            nonlocal rest
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                await context.write(self._reply(status, media_type, line))

        found = await invocation.call(
            path=request.path, query=request.query, body=request.body, accept=NDJSON, on_chunk=write
        )
        if rest:
            await context.write(self._reply(found.status, found.media_type, rest))
        _trail(context, invocation, found)
        return b""

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

    async def answer(self, body: bytes, context: Any) -> bytes:
        """Answer with the reply's message."""
        try:
            request = parse(self._request, body)
        except MdsliteError as exc:
            await refuse(context, exc, make_request_id())
        path = _path_of(request)
        operation = next((one for one in self._operations if _names(one) == path.keys()), self._operations[0])
        work = partial(self._answer, path=path, content=_content_of(request), context=context)
        return await _guarded(operation, self._parts, context, work)

    async def _answer(
        self, invocation: Invocation, *, path: Mapping[str, str], content: bytes, context: Any
    ) -> bytes:
        found = await invocation.call(path=path, query={}, body=content)
        _trail(context, invocation, found)
        plain = msgspec.json.decode(found.body)
        message = json_format.ParseDict(
            {self._wrap: plain} if self._wrap else plain, self._reply(), ignore_unknown_fields=True
        )
        return message.SerializeToString()  # type: ignore[no-any-return]


class ReadyRpc(OipRpc):
    """A model that is not there is not ready, which is no error over gRPC."""

    async def _answer(
        self, invocation: Invocation, *, path: Mapping[str, str], content: bytes, context: Any
    ) -> bytes:
        try:
            return await super()._answer(invocation, path=path, content=content, context=context)
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


def _trail(context: Any, invocation: Invocation, found: Answered) -> None:
    context.set_trailing_metadata(((REQUEST_ID, invocation.request_id), *found.headers))


async def _guarded(
    operation: Operation,
    parts: Any,
    context: Any,
    work: Callable[[Invocation], Awaitable[bytes]],
) -> bytes:
    """Do it, and turn what is raised into a status."""
    invocation = Invocation(operation, parts, context)
    error: MdsliteError | None = None
    try:
        return await work(invocation)
    except MdsliteError as exc:
        error = exc
    except Exception:
        logger.exception("request %s failed", invocation.request_id)
    return await refuse(context, error or unknown_error(), invocation.request_id)
