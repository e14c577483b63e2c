"""Downloading over HTTP(S): each hop's address checked, every wait and size bounded, nothing decompressed.

Only opens the stream; who reads it counts and hashes. Redirects are followed here and not by the client, so
that each one is judged. Proxies from the environment are not used: through one, no address could be checked.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import httpcore2
import httpx2

from mdslite.errors import ArtifactError
from mdslite.store.addresses import AllowList, CheckedBackend, Resolve, resolve_host

MAX_HOPS = 10
_FETCH_HINT = "download the file, and point uri at it"
_SIGNED_HINT = "use a signed URL that expires, or download the file and point uri at it"
_URL_HINT = "such as https://host/model.onnx"
_MAX_NAME_LENGTH = 120
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HTTP_FAULTS = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
)
# RFC 9110, 8.8.2.2: a modification time this much older than the reply tells one content from the next.
_SETTLED_S = 60.0
_LOOK_S = 0.5  # how often a wait looks whether to go on


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a download may take: to connect, for the next bytes, until a reply's body begins, in all."""

    connect_s: float = 10.0
    read_s: float = 30.0
    head_s: float = 60.0
    total_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Download:
    """A reply whose body is still to be read. `validators` are what to ask with the next time."""

    name: str
    size_bytes: int | None
    validators: Mapping[str, str]
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Network:
    """How to reach the world; tests bring their own resolver, trust and clock."""

    waits: Waits = field(default_factory=Waits)
    resolve: Resolve = resolve_host
    tls: ssl.SSLContext | None = None
    clock: Callable[[], float] = time.monotonic


def _go_on() -> None:
    return


@contextmanager
def open_url(
    url: str,
    *,
    allow: Collection[str] = (),
    validators: Mapping[str, str] | None = None,
    network: Network | None = None,
    check: Callable[[], None] = _go_on,
) -> Iterator[Download | None]:
    """Follow a URL to its content. None when `validators` were given and the content is still the same.
    `check` is called again and again while bytes are waited for; what it raises ends that.

    :raises ArtifactError: not found, refused, broken off, too slow, or at an address that is not allowed
    """
    network = network or Network()
    start = target = _parse_url(url)
    known = validators or {}
    deadline = network.clock() + network.waits.total_s
    watch = _Watch(network.clock, check)
    backend = _WatchedBackend(AllowList.parse(allow), network.resolve, watch)
    with httpcore2.ConnectionPool(ssl_context=network.tls, network_backend=backend) as pool:
        for _ in range(MAX_HOPS):
            watch.begin(target, network.clock() + network.waits.head_s)
            with _exchange(pool, target, known, network.waits) as response:
                watch.begin(target, deadline)
                headers = httpx2.Headers(response.headers)
                if response.status == 304 and known:
                    yield None
                    return
                if response.status not in _REDIRECTS:
                    name = _choose_name(start, headers, target)
                    _check_reply(response.status, headers, target, name)
                    chunks = response.iter_stream()
                    yield Download(name, _content_length(headers), _validators(headers), chunks)
                    return
                target = _next_hop(target, headers)
        raise ArtifactError(f"{_shown(start)} redirects more than {MAX_HOPS} times", hint="use the final URL")


class _Watch:
    """Ends what takes too long though bytes come, and what nobody waits for any more."""

    def __init__(self, clock: Callable[[], float], check: Callable[[], None]) -> None:
        self._clock = clock
        self._check = check
        self._shown = ""
        self._until = 0.0

    def begin(self, target: httpx2.URL, until: float) -> None:
        """Wait for `target` from now on, until that second of the clock."""
        self._shown, self._until = _shown(target), until

    def look(self) -> None:
        self._check()
        if self._clock() > self._until:
            raise ArtifactError(f"{self._shown} sends too slowly", hint=_FETCH_HINT)


class _WatchedStream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        until = time.monotonic() + (timeout or 0.0)
        while True:
            self._watch.look()
            left_s = until - time.monotonic()
            try:
                return self._stream.read(max_bytes, max(0.001, min(left_s, _LOOK_S)))
            except httpcore2.ReadTimeout:
                if left_s <= _LOOK_S:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _WatchedStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._watch)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _WatchedBackend(CheckedBackend):
    def __init__(self, allowed: AllowList, resolve: Resolve, watch: _Watch) -> None:
        super().__init__(allowed, resolve)
        self._watch = watch

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _WatchedStream(super().connect_tcp(*args, **options), self._watch)


@contextmanager
def _exchange(
    pool: httpcore2.ConnectionPool, target: httpx2.URL, known: Mapping[str, str], waits: Waits
) -> Iterator[httpcore2.Response]:
    headers = {
        b"host": target.netloc,
        b"accept": b"*/*",
        b"accept-encoding": b"identity",  # a digest is one of the file's own bytes
        b"user-agent": b"mdslite",
    }
    for name, validator in ((b"if-none-match", "etag"), (b"if-modified-since", "last_modified")):
        if validator in known:
            headers[name] = known[validator].encode("latin-1")
    where = httpcore2.URL(
        scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
    )
    timeout = {"connect": waits.connect_s, "read": waits.read_s, "write": waits.read_s}
    with (
        _http_errors(target),
        pool.stream("GET", where, headers=list(headers.items()), extensions={"timeout": timeout}) as response,
    ):
        yield response


@contextmanager
def _http_errors(target: httpx2.URL) -> Iterator[None]:
    try:
        yield
    except httpcore2.TimeoutException as exc:
        raise ArtifactError(
            f"{_shown(target)} gave no answer in time", hint="try again, or download it by other means"
        ) from exc
    except _HTTP_FAULTS as exc:
        reason = str(exc) or "the connection broke off"
        raise ArtifactError(f"{_shown(target)} could not be downloaded: {reason}", hint="try again") from exc


def _parse_url(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError) as exc:
        raise ArtifactError(f"the uri is no URL that can be read: {exc}", hint=_URL_HINT) from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise ArtifactError(
            f"the uri leads to {_shown(url)}; expected http:// or https:// and a host", hint=_URL_HINT
        )
    if url.userinfo:
        # It would be kept in the registry and shown to everybody who may look at a version.
        raise ArtifactError(
            f"the uri {_shown(url)} holds a password; expected one without",
            hint=_SIGNED_HINT,
        )
    return url


def _next_hop(target: httpx2.URL, headers: httpx2.Headers) -> httpx2.URL:
    location = headers.get("location")
    if not location:
        raise ArtifactError(f"{_shown(target)} redirects to nowhere", hint=_FETCH_HINT)
    try:
        onward = _parse_url(str(target.join(location)))
    except (httpx2.InvalidURL, ValueError) as exc:
        raise ArtifactError(
            f"{_shown(target)} redirects to something that is no URL", hint=_FETCH_HINT
        ) from exc
    if target.scheme == "https" and onward.scheme == "http":
        raise ArtifactError(
            f"{_shown(target)} redirects from https to http, where anybody could change it", hint=_FETCH_HINT
        )
    return onward


def _check_reply(status: int, headers: httpx2.Headers, target: httpx2.URL, name: str) -> None:
    if status != 200:
        hint = "check the uri in a browser"
        if status in (401, 403):
            hint = _SIGNED_HINT
        phrase = httpx2.codes.get_reason_phrase(status)
        raise ArtifactError(f"{_shown(target)} answered {status} {phrase}".rstrip(), hint=hint)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    # Some servers name the packing of a .tar.gz itself as the transfer's encoding.
    packed_anyway = encoding in ("gzip", "x-gzip") and name.lower().endswith((".gz", ".tgz"))
    if encoding not in ("", "identity") and not packed_anyway:
        raise ArtifactError(
            f"{_shown(target)} sends {encoding}-encoded content; expected the file's own bytes",
            hint=_FETCH_HINT,
        )


def _content_length(headers: httpx2.Headers) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _validators(headers: httpx2.Headers) -> dict[str, str]:
    """Keep only what changes with every byte: weak tags and fresh time stamps do not."""
    found = {}
    tag = headers.get("etag", "")
    if tag.startswith('"'):
        found["etag"] = tag
    changed, sent = _read_date(headers.get("last-modified")), _read_date(headers.get("date"))
    if changed is not None and sent is not None and (sent - changed).total_seconds() >= _SETTLED_S:
        found["last_modified"] = headers["last-modified"]
    return found


def _read_date(text: str | None) -> datetime | None:
    try:
        return None if text is None else parsedate_to_datetime(text)
    except ValueError:
        return None


def _choose_name(start: httpx2.URL, headers: httpx2.Headers, target: httpx2.URL) -> str:
    """Name the file as the uri does, or as the server does, or as where it was found; by a name with an
    ending if there is one, since the ending tells what it is."""
    message = Message()
    message["content-disposition"] = headers.get("content-disposition", "")
    candidates = [_last_part(start), message.get_filename("") or "", _last_part(target)]
    for candidate in candidates:
        name = _safe_name(candidate)
        if PurePosixPath(name).suffix:
            return name
    return next((name for name in map(_safe_name, candidates) if name), "model")


def _last_part(url: httpx2.URL) -> str:
    return unquote(url.path.rsplit("/", 1)[-1])


def _safe_name(name: str) -> str:
    leaf = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^A-Za-z0-9._+-]", "_", leaf).lstrip("._")[-_MAX_NAME_LENGTH:].lstrip("._")


def _shown(url: httpx2.URL) -> str:
    """The URL without what may be secret: the password, and the query of a signed one."""
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}{url.path}"
