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
    """A file as it comes, in pieces; `rows` is how many it has, None where that is not told."""

    pieces: T
    rows: int | None


def rows_of(reply: httpx2.Response) -> int | None:
    """How many rows a file has, where its reply tells."""
    said = reply.headers.get("mdslite-rows", "")
    return int(said) if said.isdecimal() else None


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
