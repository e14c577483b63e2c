"""Which logged requests a replay sends: what its filter means, how many there are, and each with its body.
Reads the log; sends nothing. Everything here blocks, and is for a thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from mdslite.api.inputs import content_of, is_npy
from mdslite.errors import InvalidRequest
from mdslite.http.access import Grant
from mdslite.npy import NPY
from mdslite.store.entries import Entry
from mdslite.store.filters import Filter, parse
from mdslite.store.redaction import REDACTED
from mdslite.store.requests import RequestLog
from mdslite.store.tops import find_top

PAGE = 200
_OIP = "/v2/"
JSON = b"application/json"


@dataclass(slots=True)
class Census:
    """How many logged requests there are, and how many of them can be sent."""

    matched: int = 0
    with_body: int = 0
    truncated: int = 0
    unreadable: int = 0
    total: int = 0
    limited: bool = False  # the limit was met before all had been looked at


@dataclass(frozen=True, slots=True)
class Sendable:
    """A logged request with the bytes that it sent, and what they are."""

    row: Entry
    body: bytes
    media_type: bytes

    @property
    def is_oip(self) -> bool:
        return self.row.url.startswith(_OIP)


def read_filter(text: str, *, project: str, model: str, grant: Grant, now: float) -> str:
    """The whole of a filter: what its text leaves open is said by the version that the requests are for.
    Nothing that comes after `now` passes.

    :raises InvalidRequest: it is none, or asks for what nobody can send
    """
    given = parse(text, now=now)
    names = {term.field for term in given.terms}
    terms = [f"{name}={value}" for name in ("project", "model") if (value := getattr(grant, name))]
    meant = {"project": project, "model": model}
    terms += [f"{name}={value}" for name, value in meant.items() if name not in names]
    if "shadow" not in names:
        terms.append("shadow=false")
    if "client" not in names:
        terms.append('client!~"replay:"')
    if given.since is not None and given.since >= now:
        raise InvalidRequest("the filter's since lies in the future: nothing was logged then")
    whole = " ".join([*terms, text])
    if given.until is None or given.until > now:
        if given.until is not None:
            raise InvalidRequest("the filter's until lies in the future: a replay sends what is there")
        whole += f" until={now:.3f}"
    parse(whole, now=now)
    return whole


def count(log: RequestLog, filter: str, *, limit: int, now: float) -> Census:
    """Count them. Their bodies are looked at until `limit` are found that can be sent."""
    census = Census()
    census.matched = find_top(log, parse(filter, now=now), field="shadow", limit=1).rows
    for row in _with_bodies(log, filter, now=now):
        if census.total >= limit:
            census.limited = True
            break
        if row.request is None:  # its reply alone was kept
            continue
        census.with_body += 1
        if row.request.truncated:
            census.truncated += 1
        elif make_sendable(row) is None:
            census.unreadable += 1
        else:
            census.total += 1
    return census


def read_page(
    log: RequestLog, filter: str, *, after: int, now: float, limit: int = PAGE
) -> tuple[list[Sendable], int | None]:
    """The next requests that can be sent, the oldest first, and where to go on; None at the end."""
    page = log.tail(_bodied(filter, now), after=after, limit=limit)
    found = [one for row in page.rows if (one := make_sendable(row)) is not None]
    return found, page.next if len(page.rows) == limit else None


def make_sendable(row: Entry) -> Sendable | None:
    """A logged request as it can be sent again; None where what was kept of it does not say how."""
    body = row.request
    if body is None or body.truncated or not body.size_bytes:
        return None
    content = content_of(body)
    if REDACTED.encode() in content:
        return None
    if is_npy(content):
        return Sendable(row, content, NPY)
    if body.encoding == "base64":
        return None
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return None
    return Sendable(row, content, JSON)


def _with_bodies(log: RequestLog, filter: str, *, now: float) -> Iterator[Entry]:
    wanted, after = _bodied(filter, now), 0
    while True:
        page = log.tail(wanted, after=after, limit=PAGE)
        yield from page.rows
        if len(page.rows) < PAGE or page.next is None:
            return
        after = page.next


def _bodied(filter: str, now: float) -> Filter:
    return parse(f'{filter} text~""', now=now)
