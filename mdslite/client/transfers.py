"""What both clients have of a transfer: its request, the file that comes, and what its failures mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx2

from mdslite.asks import CONNECT_WAIT_S, Ask
from mdslite.links import network_error

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Download(Generic[T]):
    """A file as it comes, in pieces; `rows` is how many it has, None where that is not told. `skipped` names
    what should be in it and could not be read."""

    pieces: T
    rows: int | None
    skipped: tuple[str, ...] = ()


def make_download(pieces: T, reply: httpx2.Response) -> Download[T]:
    """The file that a reply brings, with what its headers tell of it."""
    rows = reply.headers.get("mdslite-rows", "")
    skipped = reply.headers.get("mdslite-skipped", "").replace(",", " ").split()
    return Download(pieces, int(rows) if rows.isdecimal() else None, tuple(skipped))


def make_request(
    link: httpx2.Client | httpx2.AsyncClient, ask: Ask[T], timeout_s: float | None
) -> httpx2.Request:
    """The request that a call describes, which waits for its answer no longer than either bound."""
    wait_s = ask.wait_s
    if wait_s is not None and timeout_s is not None:
        wait_s = min(wait_s, timeout_s)
    return link.build_request(
        ask.method,
        ask.path,
        params=dict(ask.params) or None,
        content=ask.content,
        headers=dict(ask.headers),
        timeout=httpx2.Timeout(wait_s, connect=CONNECT_WAIT_S),
    )


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """:raises MdsliteError: in the place of what HTTP's library raises inside the block"""
    try:
        yield
    except (httpx2.HTTPError, httpx2.StreamError) as exc:
        raise network_error(exc, url) from exc
