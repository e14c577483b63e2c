"""What one admin operation is: its path, what it takes and gives, and how a request becomes a call of it.

The routes and the OpenAPI document are both made from these declarations, so that neither can say anything
that the other does not. Owns no operation (see admin.py) and no socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from mdslite.api.caller import Caller, caller_of
from mdslite.api.reading import convert, header, headers_of, parse_json, parse_query, read_body
from mdslite.errors import MdsliteError, NotFound
from mdslite.store.tokens import Scope

Method = Literal["GET", "POST", "PUT", "DELETE"]
Reach = Literal["named", "own", "all"]

JSON = "application/json"
NDJSON = "application/x-ndjson"

# `$` also matches before a last newline in Python, hence the lookahead.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$(?!\n)"
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=_NAME,
        description="letters, digits, _ and -, up to 63",
        extra={"word": "1 to 63 letters, digits, _ or -, the first one no _ or -"},
    ),
]

# A deployments.yaml of several thousand versions is well below this.
MAX_BODY_BYTES = 4 * 1024 * 1024


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters, or no body."""


PathT = TypeVar("PathT", bound=msgspec.Struct)
QueryT = TypeVar("QueryT", bound=msgspec.Struct)
BodyT = TypeVar("BodyT")  # a struct, or a dict of values


@dataclass(frozen=True, slots=True)
class Call(Generic[PathT, QueryT, BodyT]):
    """One request, checked and typed, with its headers by lower-case name and the body as it came. `receive`
    tells a long answer that its reader has left."""

    caller: Caller
    method: Method
    target: str
    path: PathT
    query: QueryT
    headers: Mapping[str, str]
    body: BodyT
    content: bytes
    request_id: str
    receive: Receive

    @property
    def accept(self) -> str:
        return self.headers.get("accept", "")


class Answer(Protocol):
    """A reply that writes itself: a stream, or a status of its own."""

    async def __call__(self, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class Raw:
    """A reply whose bytes are ready."""

    body: bytes
    media_type: str = JSON
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(self, send: Send) -> None:
        headers = list(self.headers)
        if self.status != 304:
            headers += [
                (b"content-type", self.media_type.encode("latin-1")),
                (b"content-length", b"%d" % len(self.body)),
            ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of the API. `errors` are the statuses that it answers beside those that any request can get;
    `same` those that come with the reply of a 200; `stream` is what each line is when NDJSON is asked for,
    which gRPC always does but for what is `unary`; `reads` is what a body is read as where the operation
    itself judges whether it is a `body`; `consumes` what a body may be beside JSON, `produces` what a reply
    may be when that is asked for; `wishes` are headers of the request and `headers` those of the reply, with
    what they say. Without a handler it is answered by an ASGI application that whoever lists it provides.

    `tagged` says that it heeds If-Match and If-None-Match and that its replies have an ETag, `once` that a
    key can keep it from being done twice.

    `scope` is what a caller's token must have, None where none is asked for; `also` is another that will do.
    `reach` says what a token for some projects or models alone may do here: ask for those that the path
    names, get no more than is its own (the handler sees to that), or nothing, as it concerns all."""

    method: Method
    url: str
    group: str
    name: str
    summary: str
    handler: Callable[[Any, Call[Any, Any, Any]], Awaitable[Any]] | None
    path: type[msgspec.Struct]
    query: type[msgspec.Struct]
    body: Any
    reply: Any
    errors: tuple[int, ...] = ()
    same: tuple[int, ...] = ()
    stream: Any = None
    unary: bool = False
    media_type: str = JSON
    reads: Any = None
    consumes: tuple[str, ...] = ()
    produces: tuple[str, ...] = ()
    wishes: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    tagged: bool = False
    once: bool = False
    scope: Scope | None = "admin"
    also: Scope | None = None
    reach: Reach = "all"


def declare(
    method: Method,
    url: str,
    handler: Callable[[Any, Call[Any, Any, Any]], Awaitable[Any]],
    *,
    group: str,
    errors: tuple[int, ...] = (),
    same: tuple[int, ...] = (),
    stream: Any = None,
    unary: bool = False,
    media_type: str = JSON,
    tagged: bool = False,
    once: bool = False,
    scope: Scope | Literal["open", "by method"] = "by method",
    also: Scope | None = None,
    reach: Reach | None = None,
) -> Operation:
    """Declare an operation. What it takes and gives is what its handler's annotations say, its summary the
    handler's docstring. To GET takes the scope read, anything else admin, unless `scope` says otherwise."""
    hints = get_type_hints(handler, include_extras=True)
    path, query, body = get_args(hints["call"])
    replies = [one for one in get_args(hints["return"]) if one is not Answer]
    is_union = get_origin(hints["return"]) is UnionType
    if scope == "by method":
        scope = "read" if method == "GET" else "admin"
    if reach is None:
        reach = "named" if "project" in path.__struct_fields__ else "all"
    return Operation(
        method,
        url,
        group,
        name=handler.__name__,
        summary=(handler.__doc__ or "").strip(),
        handler=handler,
        path=path,
        query=query,
        body=body,
        reply=replies[0] if is_union else hints["return"],
        errors=errors,
        same=same,
        stream=stream,
        unary=unary,
        media_type=media_type,
        tagged=tagged,
        once=once,
        scope=None if scope == "open" else scope,
        also=also,
        reach=reach,
    )


class Endpoint:
    """An operation as an ASGI application."""

    def __init__(self, operation: Operation, parts: Any) -> None:
        self._operation = operation
        self._parts = parts

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Let the caller in, answer, and have written down what it did or was refused."""
        operation, caller, status = self._operation, caller_of(scope), 500

        async def send_watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            authorization = header(scope, b"authorization").encode("latin-1")
            caller.enter(self._parts.issuer.access, authorization, operation.scope, also=operation.also)
            await self._answer(caller, scope, receive, send_watched)
        except MdsliteError as exc:
            status = exc.status
            caller.remark = caller.remark or exc.message
            raise
        finally:
            if (operation.scope == "admin" and operation.method != "GET") or status in (401, 403):
                target = scope["raw_path"].decode("latin-1")
                self._parts.issuer.record(caller.act(operation.name, target, status, scope["request_id"]))

    async def _answer(self, caller: Caller, scope: AsgiScope, receive: Receive, send: Send) -> None:
        operation = self._operation
        names = {name: unquote(text) for name, text in scope["path_params"].items()}
        path = convert(names, operation.path)
        if operation.reach == "named":
            caller.grant.require_model(names["project"], names.get("model"))
        elif operation.reach == "all" and operation.scope is not None:
            caller.grant.require_all()
        query = parse_query(scope["query_string"], operation.query)
        content = await read_body(scope, receive, limit_bytes=MAX_BODY_BYTES)
        kind = operation.reads or operation.body
        call = Call(
            caller=caller,
            method=operation.method,
            target=scope["raw_path"].decode("latin-1"),
            path=path,
            query=query,
            headers=headers_of(scope),
            body=Nothing() if kind is Nothing else parse_json(content, kind),
            content=content,
            request_id=scope["request_id"],
            receive=receive,
        )
        assert operation.handler is not None
        try:
            answer = await operation.handler(self._parts, call)
        except NotFound as exc:
            if caller.grant.project is None:
                raise
            # Such messages name what there is, which is not for everybody.
            raise NotFound("there is none of that name among what the token is for") from exc
        if not callable(answer):
            answer = Raw(msgspec.json.encode(answer))
        await answer(send)
