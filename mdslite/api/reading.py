"""A request as it came, turned into what an operation takes: its headers, its body and the texts of its URL,
each bounded and checked. How a refusal is put in words is the affair of `refusals`.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope

from mdslite.api.refusals import explain
from mdslite.document import place_text
from mdslite.errors import (
    BODY_HINT,
    ClientClosed,
    InvalidJson,
    InvalidRequest,
    RequestTimeout,
    TooLarge,
    UnsupportedMedia,
    quoted,
)
from mdslite.http.budget import BODIES, Claim

T = TypeVar("T")  # a struct, or a dict of values
StructT = TypeVar("StructT", bound=msgspec.Struct)

BODY_TIMEOUT_S = 30.0
MIN_RATE_BYTES_PER_S = 16 * 1024  # what has come of a body gets so much time on top


def headers_of(scope: Scope) -> dict[str, str]:
    """A request's headers; of a repeated one the values with commas between them."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def header(scope: Scope, name: bytes) -> str:
    """The first header of that (lower-case) name, or an empty text."""
    for key, value in scope["headers"]:
        if key == name:
            return cast(str, value.decode("latin-1"))
    return ""


async def read_body(
    scope: Scope,
    receive: Receive,
    *,
    limit_bytes: int,
    timeout_s: float = BODY_TIMEOUT_S,
    compressed: bool = False,
    claim: Claim | None = None,
) -> bytes:
    """Read a request's body, never more than `limit_bytes` of it. A large one counts while it is read; where
    there is a `claim`, until whoever made that closes it.

    :raises TooLarge: as soon as it is known, without reading the rest
    :raises Unavailable: large bodies have taken all the memory there is for them
    :raises RequestTimeout: not all of it came within `timeout_s`, longer by its size over the least rate
    :raises UnsupportedMedia: it is compressed, which only who passes `compressed` can read
    :raises ClientClosed: the client left
    """
    _check_announced(scope, limit_bytes, compressed=compressed)
    chunks: list[bytes] = []
    held, done = claim or BODIES.open(0), False
    try:
        async with asyncio.timeout(timeout_s) as limit:
            await _collect(receive, chunks, held, limit_bytes, limit)
        body = b"".join(chunks)
        chunks.clear()
        held.settle(len(body))
        done = True
        return body
    except TimeoutError as exc:
        raise RequestTimeout("the request's body did not arrive in time") from exc
    finally:
        # At once: an error's traceback knows this frame, and may be in a circle with whoever caught it.
        chunks.clear()
        if not done or claim is None:
            held.close()


def _check_announced(scope: Scope, limit_bytes: int, *, compressed: bool) -> None:
    """Refuse by its head a body that would not be read."""
    encoding = header(scope, b"content-encoding").strip().lower()
    if not compressed and encoding not in ("", "identity"):
        raise UnsupportedMedia(
            f"{quoted(encoding)} is not read here",
            field="content-encoding",
            hint="send the body uncompressed",
        )
    declared = header(scope, b"content-length")
    if declared.isascii() and declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)


async def _collect(
    receive: Receive, chunks: list[bytes], held: Claim, limit_bytes: int, limit: asyncio.Timeout
) -> None:
    """Read a body's pieces, which count as long as more are to come: what is in one piece was counted by who
    put it together. Each piece gives those behind it more time."""
    size_bytes, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientClosed("the client left before its request was complete")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        if more:
            held.grow(len(chunk))
            limit.reschedule((limit.when() or 0) + len(chunk) / MIN_RATE_BYTES_PER_S)
        chunks.append(chunk)


def parse_json(body: bytes, into: type[T]) -> T:
    """Decode a JSON body into a struct; an empty body counts as `{}`.

    :raises InvalidJson: it is not JSON
    :raises InvalidRequest: it is JSON of another shape
    """
    try:
        return msgspec.json.decode(body or b"{}", type=into)
    except msgspec.ValidationError as exc:
        place, words = explain(exc, lambda: json.loads(body, parse_float=_float_or_text), into)
        words = words if place else f"the body does not fit: {words}"
        raise InvalidRequest(words, field=place, hint=BODY_HINT) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidJson(f"the body is no JSON: {exc}; expected one JSON object", hint=BODY_HINT) from exc
    except RecursionError as exc:
        message = "the body is JSON nested too deep; expected one flat JSON object"
        raise InvalidJson(message, hint=BODY_HINT) from exc


def _float_or_text(text: str) -> float | str:
    """A number to look a mistake up by: one that no float holds is no number, as it was none when decoded."""
    number = float(text)
    return number if math.isfinite(number) else text


def parse_query(query: bytes, into: type[StructT]) -> StructT:
    """Turn a query string into a struct; each parameter at most once.

    :raises InvalidRequest: naming the parameter, what came and what was expected
    """
    given: dict[str, str] = {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError as exc:
        raise InvalidRequest(
            "the query string is malformed; expected name=value pairs in percent-encoding"
        ) from exc
    for name, value in pairs:
        if name in given:
            raise InvalidRequest("given twice; expected it once", field=place_text((name,)))
        given[name] = value
    unknown = given.keys() - set(into.__struct_encode_fields__)
    if unknown:
        known = ", ".join(into.__struct_encode_fields__) or "none"
        raise InvalidRequest(f"unknown parameter; this URL takes: {known}", field=place_text((min(unknown),)))
    return convert(given, into)


def convert(given: dict[str, str], into: type[StructT]) -> StructT:
    """Turn texts from a URL into a struct.

    :raises InvalidRequest: naming the parameter, what came and what was expected
    """
    try:
        return msgspec.convert(given, into, strict=False)
    except msgspec.ValidationError as exc:
        culprit, wrong = explain(exc, lambda: given, into)
        wrong = wrong.removesuffix(", got text")  # as all is in a URL
        came = f"; got {quoted(given[culprit])}" if culprit in given and "; got " not in wrong else ""
        raise InvalidRequest(f"{wrong}{came}", field=culprit) from exc


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body is longer than {limit_bytes} bytes")
