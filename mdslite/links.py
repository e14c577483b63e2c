"""Opening a connection to an appliance, over the network or by the store's own socket, and what its failures
mean. Knows nothing of what is sent over it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shlex
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from mdslite import errors
from mdslite.hosts import SOCKET_NAME, UNIX, short_path, socket_path, start_hint
from mdslite.replies import ELSEWHERE

DEFAULT_URL = "http://127.0.0.1:8500"
_PLACE = re.compile(r"(?:[\w.-]+|\[[\da-fA-F:]+\])(?::\d+)?/?")  # HOST:PORT without a scheme
_STRANGER = f"is that an appliance? {ELSEWHERE}"
_POOL = httpx2.Limits(max_connections=256, max_keepalive_connections=64)


@dataclass(frozen=True, slots=True)
class _Link:
    """What a connection of either kind is made of. `socket` is the path of a store's own, if it is that."""

    base_url: str
    headers: Mapping[str, str]
    socket: str | None = None
    verify: ssl.SSLContext | bool = False
    trust_env: bool = False


def open_link(
    url: str,
    *,
    token: str | None,
    ca_file: str | None,
    cert_file: str | None,
    open_files: contextlib.ExitStack,
) -> httpx2.Client:
    """Make ready to ask; nothing is sent yet. What has to stay open meanwhile is put on `open_files`.

    :raises InvalidRequest: the URL is none, or a file holds no certificate
    """
    link = _describe(url, token, ca_file, cert_file, open_files)
    return httpx2.Client(
        base_url=link.base_url,
        headers=dict(link.headers),
        transport=None if link.socket is None else httpx2.HTTPTransport(uds=link.socket),
        verify=link.verify,
        trust_env=link.trust_env,
        limits=_POOL,
    )


def open_async_link(
    url: str,
    *,
    token: str | None,
    ca_file: str | None,
    cert_file: str | None,
    open_files: contextlib.ExitStack,
) -> httpx2.AsyncClient:
    """What `open_link` does, for asyncio."""
    link = _describe(url, token, ca_file, cert_file, open_files)
    return httpx2.AsyncClient(
        base_url=link.base_url,
        headers=dict(link.headers),
        transport=None if link.socket is None else httpx2.AsyncHTTPTransport(uds=link.socket),
        verify=link.verify,
        trust_env=link.trust_env,
        limits=_POOL,
    )


def _describe(
    url: str,
    token: str | None,
    ca_file: str | None,
    cert_file: str | None,
    open_files: contextlib.ExitStack,
) -> _Link:
    headers = {"user-agent": "mdslite"}
    if token:
        if not (token.isascii() and token.isprintable() and " " not in token):
            # Not shown: it may be a good one with a line's end to it.
            raise errors.InvalidRequest(
                "the token holds a blank, a line's end or another character that is in no token",
                hint="give it as mdslite token create printed it",
            )
        headers["authorization"] = f"Bearer {token}"
    if url.startswith(UNIX):
        return _Link("http://localhost", headers, socket=open_files.enter_context(_socket(url)))
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as exc:
        raise _bad_url(url) from exc
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _bad_url(url)
    # Building a TLS context takes 20 ms, which plain http need not pay: no redirect leads to https.
    verify = _context(ca_file, cert_file) if parsed.scheme == "https" else False
    # A proxy from the environment cannot reach this machine's own loopback.
    return _Link(str(parsed), headers, verify=verify, trust_env=not _is_loopback(parsed.host))


@contextlib.contextmanager
def _socket(url: str) -> Iterator[str]:
    try:
        with short_path(socket_path(url)) as short:
            os.stat(short)
            yield short
    except OSError as exc:
        raise errors.Unavailable(f"no appliance answers at {url}", hint=_start_hint(url)) from exc


def _context(ca_file: str | None, cert_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise errors.InvalidRequest(f"{ca_file} holds no certificates that can be read: {exc}") from exc
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file)
        except OSError as exc:
            raise errors.InvalidRequest(
                f"{cert_file} holds no certificate with its key: {exc}",
                hint="one PEM file holds both: cat cert.pem key.pem > both.pem",
            ) from exc
    return context


def _bad_url(url: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(
        f"{url!r} is not the URL of an appliance: expected http://HOST:PORT or https://HOST:PORT",
        hint=f"did you mean http://{url}?" if _PLACE.fullmatch(url) else f"export MDSLITE_URL={DEFAULT_URL}",
    )


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified  # 0.0.0.0 is how a server on all of them says it
    except ValueError:
        return host == "localhost"


def network_error(exc: Exception, url: str) -> errors.MdsliteError:
    """What a failure of the HTTP library means."""
    if isinstance(exc, httpx2.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(exc):
        return errors.Unavailable(
            f"{url} shows a certificate that this machine does not trust",
            hint="export SSL_CERT_FILE=CERT.pem: with mdslite up --tls-self-signed that is STORE/tls/cert.pem"
            " (.mdslite/tls/cert.pem by default), else the file given to --tls-cert or its authority's",
        )
    if isinstance(exc, httpx2.ConnectError) and "WRONG_VERSION_NUMBER" in str(exc):
        plain = url.replace("https://", "http://", 1)
        return errors.Unavailable(f"what answers at {url} speaks no TLS", hint=f"without TLS it is {plain}")
    if isinstance(exc, httpx2.ConnectError) and "[SSL:" in str(exc):
        return errors.Unavailable(f"{url} and this machine agree on no TLS: {exc}", hint=_STRANGER)
    if isinstance(exc, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return errors.Unavailable(f"no appliance answers at {url}", hint=_start_hint(url))
    if isinstance(exc, httpx2.TimeoutException):
        return errors.DeadlineExceeded(f"{url} took the request and gave no answer in time", hint=_STRANGER)
    if isinstance(exc, httpx2.RemoteProtocolError):
        return errors.Unavailable(
            f"{url} ended the connection before its answer was whole: {exc}", hint=_STRANGER
        )
    return errors.Unavailable(f"the connection to {url} failed: {exc or type(exc).__name__}", hint=_STRANGER)


def _start_hint(url: str) -> str:
    if url.startswith(UNIX):
        path = Path(url.removeprefix(UNIX))
        store = path.parent if path.name == SOCKET_NAME else path
        return f"start it as the same user: mdslite up --store {shlex.quote(str(store))}"
    parsed = httpx2.URL(url)
    if not _is_loopback(parsed.host):
        return f"is it running there? MDSLITE_URL and --url say where to look; the default is {DEFAULT_URL}"
    return start_hint(url)
