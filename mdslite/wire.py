"""Protobuf's wire format, as far as a walk through a model's file needs it. Knows no message."""

from __future__ import annotations

import mmap
from collections.abc import Iterator


class Malformed(Exception):
    """Not protobuf, or cut short."""


def fields(content: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the length-delimited fields of a message, each with its number and its bytes' [begin, end).

    The others are skipped.

    :raises Malformed: after the fields that came before what is broken
    """
    at = start
    while at < stop:
        tag, at = _varint(content, at, stop)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(content, at, stop)
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        elif wire == 2:
            size, at = _varint(content, at, stop)
            if at + size > stop:
                raise Malformed
            yield tag >> 3, at, at + size
            at += size
        else:
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
