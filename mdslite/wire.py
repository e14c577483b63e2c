"""Protobuf's wire format, as far as a walk through a model's file needs it. Knows no message.

Takes whatever protobuf's own parser takes: a field that is read differently here than by the library that
loads the file would hide from our checks what the library then does.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

VARINT, _FIXED64, BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_TAG_BITS = 0xFFFFFFFF  # protobuf drops those above, and finds a known field below them


class Malformed(Exception):
    """Not protobuf, or cut short: `missing_bytes` is then what the value of field `number` lacks."""

    def __init__(self, missing_bytes: int = 0, *, number: int | None = None) -> None:
        super().__init__(missing_bytes)
        self.missing_bytes = missing_bytes
        self.number = number


def fields(content: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the length-delimited fields of a message, each with its number and its bytes' [begin, end).

    The others are skipped, and groups with all that is in them: no message that is looked into has any, but
    protobuf reads over unknown ones.

    :raises Malformed: after the fields that came before what is broken
    """
    for number, wire, begin, end in records(content, start, stop):
        if wire == BYTES:
            yield number, begin, end


def integer(content: mmap.mmap, start: int, stop: int, *, number: int) -> int | None:
    """The varint in field `number` of a message: the last one, as for protobuf; None when there is none.

    :raises Malformed: as `fields`
    """
    found = None
    for field, wire, begin, end in records(content, start, stop):
        if field == number and wire == VARINT:
            found, _ = _varint(content, begin, end)
    return found


def records(content: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Field numbers, wire types and [begin, end) of the values outside of groups.

    :raises Malformed: as `fields`
    """
    at, depth = start, 0
    while at < stop:
        tag, at = _varint(content, at, stop)
        wire = tag & 7
        begin = at
        if wire == VARINT:
            _, at = _varint(content, at, stop)
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire == BYTES:
            size, begin = _varint(content, at, stop)
            at = begin + size
        elif wire == _GROUP:
            depth += 1
        elif wire == _GROUP_END and depth:
            depth -= 1
        else:
            raise Malformed
        number = (tag & _TAG_BITS) >> 3
        if not number:
            raise Malformed
        if at > stop:
            raise Malformed(at - stop, number=number)
        if not depth:
            yield number, wire, begin, at
    if depth:
        raise Malformed


def _varint(content: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 64:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Malformed
