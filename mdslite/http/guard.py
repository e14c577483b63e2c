"""The layers around every route: a request id on each reply, errors in the contract's form, and the
Host/Origin allow-list. Each is a plain ASGI application around another. Owns no route.

A page of another site can make a browser send requests here, by a name of its own that resolves to this
machine (DNS rebinding; the Host header gives it away) or directly (the Origin header does).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from ipaddress import ip_address
from math import ceil
from random import getrandbits
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mdslite.errors import (
    ClientClosed,
    Forbidden,
    InvalidRequest,
    MdsliteError,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    clip,
    quoted,
    unknown_error,
)
from mdslite.http.request import check_repeated

logger = logging.getLogger(__name__)

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_AUTHORITY = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?")
_PORT_MAX = 65_535
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WILDCARD = ("0.0.0.0", "::", "")
_SEEN_HOSTS = 64


def make_request_id(given: bytes | None = None) -> str:
    """The caller's `x-request-id` when it is at most 128 visible ASCII characters, else a fresh id."""
    if given is not None and _SANE_ID.fullmatch(given := given.strip()):
        return given.decode("ascii")
    return getrandbits(96).to_bytes(12).hex()


def error_body(error: MdsliteError, request_id: str, **more: Any) -> bytes:
    """The JSON of an error reply; `more` are fields of its own."""
    plain = {"error": error.message, "code": error.code, "request_id": request_id} | error.details() | more
    return msgspec.json.encode(plain)


def error_headers(error: MdsliteError) -> list[tuple[bytes, bytes]]:
    """What an error's reply says beside its content-length and request id."""
    return [(b"content-type", b"application/json"), *error_fields(error)]


def error_fields(error: MdsliteError) -> list[tuple[bytes, bytes]]:
    """The headers that only some errors have."""
    if error.retry_after_s is not None:
        return [(b"retry-after", b"%d" % max(1, ceil(error.retry_after_s)))]
    return [(b"www-authenticate", error.challenge)] if isinstance(error, Unauthorized) else []


def error_lines(error: MdsliteError) -> str:
    """`error_fields` as they go over the wire."""
    return "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in error_fields(error))


class RequestIds:
    """Names each request, and strips the body from the answer to a HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await _refuse_other(scope, receive, send)
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        request_id = make_request_id(given)
        is_head = scope["method"] == "HEAD"

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if all(name != b"mdslite-request-id" for name, _ in headers):
                    headers.append((b"mdslite-request-id", request_id.encode("ascii")))
                message = {**message, "headers": headers}
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "request_id": request_id}, receive, send_named)
        return None


class Errors:
    """Turns what the routes raise into replies; the unknown becomes an opaque 500 and a line in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        headers: list[tuple[bytes, bytes]] = []
        try:
            return await self._app(scope, receive, send_watched)
        except ClientClosed:
            return None
        except MdsliteError as exc:
            error = exc
        except HTTPException as exc:
            error = _of_router(exc, scope)
            headers = [(key.lower().encode(), value.encode()) for key, value in (exc.headers or {}).items()]
        except Exception:
            logger.exception("request %s failed", scope["request_id"])
            error = unknown_error()
        if started:
            logger.error("request %s broke off its answer: %s", scope["request_id"], error.message)
            raise error
        await _reply(send, error, scope["request_id"], headers)
        return None


class AllowList:
    """Refuses what a foreign web page made a browser send.

    Allowed hosts are loopback's names, the address that the appliance is bound to and `extra` ones; bound
    to a wildcard, also every literal IP address, which no page can rebind. An origin must be the host
    that the request itself names, or one of `extra`.
    """

    def __init__(self, bound: str, *, extra: Iterable[str] = ()) -> None:
        self._extra = frozenset(name.lower() for name in extra)
        self._names = frozenset((*_LOOPBACK, bound.strip("[]").lower(), *self._extra))
        self._any_address = bound in _WILDCARD
        self._seen: set[bytes] = set()

    def admit(self, host: bytes | None, origin: bytes | None = None) -> None:
        """Pass a request with these headers.

        :raises Forbidden: naming the host or origin, and the option that allows it
        :raises InvalidRequest: the host is no host
        """
        if host is not None and host not in self._seen:
            self._check_host(host)
            if len(self._seen) < _SEEN_HOSTS:
                self._seen.add(host)
        if origin is not None:
            self._check_origin(origin, host or b"")

    def _check_host(self, host: bytes) -> None:
        authority = host.decode("latin-1").strip().lower()
        found = _AUTHORITY.fullmatch(authority)
        if found is None or int(found[2] or 0) > _PORT_MAX:
            raise InvalidRequest(
                f"malformed Host header {quoted(authority)}: expected a name or an address, and maybe a port"
            )
        name = _strip_port(authority).removesuffix(".")  # of a name that is spelt to its root
        if name in self._names or authority in self._extra or (self._any_address and _is_address(name)):
            return
        raise Forbidden(
            f"requests for the host {quoted(authority)} are not served here; expected the address that "
            "mdslite is bound to",
            hint="start it with --allow-host NAME to serve under that name",
        )

    def _check_origin(self, origin: bytes, host: bytes) -> None:
        authority = origin.decode("latin-1").strip().lower().partition("://")[2]
        if authority and (authority == host.decode("latin-1").strip().lower() or authority in self._extra):
            return
        if _strip_port(authority) in self._extra:
            return
        raise Forbidden(
            f"requests from pages of {quoted(origin.decode('latin-1'))} are not served here; expected no "
            "Origin or the host of the request",
            hint="start it with --allow-host NAME to admit pages of that name",
        )


class Guard:
    """Applies an allow-list to every request."""

    def __init__(self, app: ASGIApp, allow_list: AllowList) -> None:
        self._app = app
        self._allow_list = allow_list

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = origin = None
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None and host != value:
                    raise InvalidRequest("the request names two hosts; expected one Host header")
                host = value
            elif name == b"origin":
                origin = value
        # HTTP/2's `:authority` becomes a Host header beside one that is there already.
        check_repeated([field for field in scope["headers"] if field[0] != b"host"])
        self._allow_list.admit(host, origin)
        await self._app(scope, receive, send)


async def _refuse_other(scope: Scope, receive: Receive, send: Send) -> None:
    """WebSockets have no route here; a lifespan belongs to whoever built the appliance."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})


async def _reply(send: Send, error: MdsliteError, request_id: str, extra: list[tuple[bytes, bytes]]) -> None:
    body = error_body(error, request_id)
    headers = [*error_headers(error), *extra, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _of_router(exc: HTTPException, scope: Scope) -> MdsliteError:
    if exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "")
        return MethodNotAllowed(
            f"{clip(scope['method'])} does not work on {clip(scope['path'])}; expected {allowed}"
        )
    return NotFound(f"there is nothing at {clip(scope['path'])}", hint="/docs lists every URL")


def _strip_port(authority: str) -> str:
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
