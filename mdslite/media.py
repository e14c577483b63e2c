"""What a body is, by its media type, and the JSON in one."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from mdslite.errors import InvalidJson

OCTETS = b"application/octet-stream"
# curl -d says the last without meaning it, and many clients say nothing at all. Who says text/plain may well
# mean text, which a package gets as such.
_JSON_TYPES = frozenset({b"", b"application/json", b"application/x-www-form-urlencoded"})
_DIGITS_MAX = 300  # of an integer that every float holds
# In lower case, and where no backslash is escaped.
_PAIR = re.compile(rb"\\ud[89ab]..\\ud[c-f]..", re.DOTALL)
_INFINITE = "number is infinity when parsed as double"  # what the parser says
_HALF = re.compile(rb"\\ud[89a-f]")


def plain_type(media_type: bytes) -> bytes:
    """A media type without its parameters, in lower case."""
    return media_type.partition(b";")[0].strip().lower()


def is_json(kind: bytes) -> bool:
    """Whether a plain media type is JSON's, or one that clients put on JSON without meaning it."""
    return kind in _JSON_TYPES or kind.endswith(b"+json")


def parse_json(body: bytes) -> Any:
    """Parse a JSON body, NaN and Infinity literals (which some clients write) included.

    :raises InvalidJson: with the parser's reason
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        if not body:
            raise InvalidJson("the body is empty: expected JSON") from exc
        if b"NaN" in body or b"Infinity" in body:
            return _parse_leniently(body)
        raise _no_json(exc) from exc


def _parse_leniently(body: bytes) -> Any:
    """As strictly as the other parser, but for those literals.

    :raises InvalidJson: with the reason
    """
    try:
        found = json.loads(body.decode(), parse_float=_finite, parse_int=_whole)
    except RecursionError as exc:
        raise InvalidJson("the body is no JSON: depth limit exceeded") from exc
    except ValueError as exc:
        raise _no_json(exc) from exc
    if b"\\u" in body and _has_half_pair(body):  # to this parser a text, and to nobody behind it
        raise InvalidJson("the body is no JSON: a text holds half of a surrogate pair")
    return found


def _no_json(exc: ValueError) -> InvalidJson:
    """What a parser refused. A number may well be JSON, and beyond what anybody could compute with."""
    reason = str(exc)
    if reason.startswith(_INFINITE):
        place = reason.removeprefix(_INFINITE)
        return InvalidJson(f"a number in the body is beyond the range of float64{place}")
    return InvalidJson(f"the body is no JSON: {reason}")


def _has_half_pair(body: bytes) -> bool:
    """Whether half of a surrogate pair is escaped in a JSON text."""
    escapes = body.replace(rb"\\", b"--").lower()
    return b"\\ud" in escapes and _HALF.search(_PAIR.sub(b"-", escapes)) is not None


def _finite(text: str) -> float:
    """A number that was written out: infinite is only what says so."""
    found = float(text)
    if math.isinf(found):
        raise ValueError(_INFINITE)
    return found


def _whole(text: str) -> int:
    if len(text) > _DIGITS_MAX:
        _finite(text)
    return int(text)
