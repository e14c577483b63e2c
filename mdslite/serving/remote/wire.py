"""Connections to endpoints: kept open between requests, every wait with an end. How many there are is bounded
by those who ask: see `pool`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpcore2

from mdslite.errors import LoadFailed, quoted
from mdslite.serving.remote.pool import Address
from mdslite.serving.remote.speech import Answer, Question

KEPT_MAX = 64
KEPT_S = 30.0
CONNECT_S = 2.0
READ_S = 600.0  # an end for who asks without a deadline; requests have theirs
ANSWER_BYTES_MAX = 256 * 1024 * 1024

_FAULTS = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)
# OpenSSL's numbers of what is wrong with a certificate (X509_V_ERR_...).
_OTHER_TIME = frozenset({9, 10})
_OTHER_NAME = frozenset({62, 64})
_NEVER_SENT = (httpcore2.ConnectError, httpcore2.ConnectTimeout)


class Unanswered(Exception):
    """No answer came. `sent` says that the endpoint may have got the request."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class Wires:
    """The connections of one version to all its endpoints. `token_env` names the variable of the environment
    that holds what to be let in with, so that no secret stands in a spec."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, token: str | None = None, token_env: str | None = None
    ) -> None:
        self._connections = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=None,
            max_keepalive_connections=KEPT_MAX,
            keepalive_expiry=KEPT_S,
        )
        token = token or (os.environ.get(token_env) if token_env else None)
        self._headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        self._token_env = token_env
        self._closing: asyncio.Task[None] | None = None

    def refusal(self, status: int) -> str:
        """What it means that an endpoint answers 401 or 403, and what to do about it."""
        if self._headers:
            name = "our token" if self._token_env is None else f"the token of {self._token_env}"
            return f"it refuses {name} ({status})"
        return f"it lets nobody in without a token ({status}): options: {{token_env: NAME}} says where one is"

    async def post(
        self, address: Address, question: Question, *, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> Answer:
        """`more` are header fields beside the question's own.

        :raises Unanswered: no answer came, or one that is too long
        """
        length = (b"content-length", b"%d" % len(question.body))
        headers = [*question.headers, *more, length]
        return await self._ask("POST", address, question.path, headers, question.body)

    async def get(self, address: Address, path: str) -> Answer:
        """:raises Unanswered: as `post`"""
        return await self._ask("GET", address, path, [], None)

    async def _ask(
        self,
        method: str,
        address: Address,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | None,
    ) -> Answer:
        parts = urlsplit(address.url)
        target = (parts.path.rstrip("/") + path).encode("ascii", "replace")
        secure = parts.scheme == "https"
        url = httpcore2.URL(
            scheme=parts.scheme.encode(),
            host=(parts.hostname or "").encode("idna"),
            port=parts.port or (443 if secure else 80),
            target=target,
        )
        host = address.host or parts.netloc
        fields = [(b"host", host.encode("idna")), (b"user-agent", b"mdslite"), *self._headers, *headers]
        waits = {"connect": CONNECT_S, "read": READ_S, "write": READ_S}
        extensions = {"timeout": waits}
        if address.host is not None and secure:
            extensions["sni_hostname"] = address.host.partition(":")[0]  # type: ignore[assignment]
        try:
            async with self._connections.stream(
                method, url, headers=fields, content=body, extensions=extensions
            ) as response:
                chunks, size = [], 0
                async for chunk in response.aiter_stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > ANSWER_BYTES_MAX:
                        raise Unanswered(f"its answer is longer than {ANSWER_BYTES_MAX} bytes", sent=True)
                found = {
                    name.lower().decode("latin-1"): value.decode("latin-1")
                    for name, value in response.headers
                }
                return Answer(response.status, found, b"".join(chunks))
        except _FAULTS as exc:
            raise Unanswered(_told(exc), sent=not isinstance(exc, _NEVER_SENT)) from exc

    def close(self) -> None:
        """Close all connections, in the background."""
        closing = self._connections.aclose()
        self._closing = asyncio.get_running_loop().create_task(closing, name="close endpoints")


def read_trust(options: Mapping[str, Any], *, more: Path | None = None) -> ssl.SSLContext | None:
    """Who is trusted: the authorities in the file of option `ca` and in `more`; None, the system's, without.

    :raises LoadFailed: a file cannot be read; or its path starts nowhere, as in a store that has it as it was
        written
    """
    ca = options.get("ca")
    if ca is not None and not os.path.isabs(ca):
        raise LoadFailed(
            f"endpoints_infos: option ca: expected an absolute path, got {quoted(ca)}",
            hint="apply its deployments file again: it says where that starts",
        )
    files = [file for file in (ca, more) if file is not None]
    if not files:
        return None
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for file in files:
        try:
            trust.load_verify_locations(file)
        except (OSError, ssl.SSLError) as exc:
            raise LoadFailed(f"endpoints_infos: option ca: {file} cannot be read: {exc}") from exc
    return trust


def _told(exc: Exception) -> str:
    if isinstance(exc, httpcore2.ConnectError):
        return _told_of_tls(exc) or "it cannot be connected to"
    if isinstance(exc, httpcore2.ConnectTimeout):
        return f"it took no connection within {CONNECT_S:g} s"
    return str(exc) or type(exc).__name__


def _told_of_tls(exc: BaseException) -> str | None:
    """What TLS found wrong, in words that do not say where the endpoint is; None where it was not that."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if not isinstance(cause, ssl.SSLCertVerificationError):
        why = (cause.reason or "unknown").lower().replace("_", " ")
        return f"TLS with it fails ({why})"
    if cause.verify_code in _OTHER_NAME:
        return "its certificate is for another name than its URL has"
    if cause.verify_code in _OTHER_TIME:
        return f"its certificate is not valid now ({cause.verify_message})"
    return (
        f"its certificate is not trusted ({cause.verify_message}): options: {{ca: FILE}} says whom to trust"
    )
