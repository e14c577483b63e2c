"""Calls to addresses that a caller names: checked as a model's uri is, bounded in time, never redirected."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from dataclasses import dataclass, field

import httpcore2
import httpx2

from mdslite.errors import ArtifactError, InvalidRequest, Unavailable, quoted
from mdslite.store.addresses import AllowList, CheckedBackend, Resolve, check_host, resolve_host

CALL_S = 10.0
_URL_MAX = 2048


@dataclass(frozen=True, slots=True)
class Webhooks:
    """`allow` are the HOST or HOST:PORT of internal addresses that may be called. Every method blocks."""

    allow: Collection[str] = ()
    resolve: Resolve = resolve_host
    tls: ssl.SSLContext | None = None
    timeout_s: float = field(default=CALL_S)

    def check(self, url: str) -> None:
        """Find out whether an address may be called.

        :raises InvalidRequest: it is none, or an internal one that is not allowed
        """
        target = self._parse(url)
        try:
            check_host(target.host, _port(target), allowed=AllowList.parse(self.allow), resolve=self.resolve)
        except ArtifactError as exc:
            raise InvalidRequest(exc.message, field="webhook", hint=exc.hint) from exc

    def post(self, url: str, body: bytes) -> None:
        """Send a JSON body; any answer of 2xx is a good one. The address is checked again.

        :raises Unavailable: there was no good answer
        """
        target = self._parse(url)
        backend = CheckedBackend(AllowList.parse(self.allow), self.resolve)
        headers = [
            (b"host", target.netloc),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"user-agent", b"mdslite"),
        ]
        where = httpcore2.URL(
            scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
        )
        wait = dict.fromkeys(("connect", "read", "write", "pool"), self.timeout_s)
        try:
            with (
                httpcore2.ConnectionPool(ssl_context=self.tls, network_backend=backend) as pool,
                pool.stream(
                    "POST", where, headers=headers, content=body, extensions={"timeout": wait}
                ) as response,
            ):
                status = response.status
        except ArtifactError as exc:
            raise Unavailable(f"{exc.message}") from exc
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as exc:
            raise Unavailable(f"{target.host} could not be called: {exc or type(exc).__name__}") from exc
        if not 200 <= status < 300:
            raise Unavailable(f"{target.host} answered {status}")

    def _parse(self, url: str) -> httpx2.URL:
        try:
            target = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError) as exc:
            raise InvalidRequest(f"{quoted(url)} is no URL", field="webhook") from exc
        if target.scheme not in ("http", "https") or not target.host or len(url) > _URL_MAX:
            raise InvalidRequest(f"expected an http(s) URL, got {quoted(url)}", field="webhook")
        if target.userinfo:
            raise InvalidRequest("the URL holds a password; expected one without", field="webhook")
        return target


def _port(target: httpx2.URL) -> int:
    return target.port or (443 if target.scheme == "https" else 80)
