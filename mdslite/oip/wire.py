"""The protocol's bytes: little-endian numbers row by row, and strings that each follow their length."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from mdslite.errors import InvalidTensor
from mdslite.runtimes.protocol import NUMPY_DTYPES

Buffer = bytes | memoryview

# Bytes an element; strings have no fixed size. BF16 travels as the upper half of an FP32.
ITEM_BYTES = {name: dtype.itemsize for name, dtype in NUMPY_DTYPES.items() if name != "BYTES"}

_LENGTH = struct.Struct("<I")


def pack_strings(values: Iterable[Any]) -> bytes:
    """Write texts (as UTF-8) and bytes, each after its length."""
    parts: list[bytes] = []
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def unpack_strings(raw: Buffer, count: int, *, name: str) -> list[bytes]:
    """Read `count` strings that are all of `raw`; `name` is the input that they are of.

    :raises InvalidTensor: there are more or fewer, or one is cut short
    """
    found: list[bytes] = []
    at, size_bytes = 0, len(raw)
    while at < size_bytes:
        if size_bytes - at < _LENGTH.size:
            raise InvalidTensor(
                f'input "{name}": {size_bytes - at} bytes are left over after {len(found)} strings, '
                "expected four bytes of length before each string"
            )
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > size_bytes - at:
            raise InvalidTensor(
                f'input "{name}": string {len(found)} has {length} bytes, but {size_bytes - at} are left'
            )
        if len(found) == count:
            raise InvalidTensor(f'input "{name}": more strings than the {count} that its shape says')
        found.append(bytes(raw[at : at + length]))
        at += length
    if len(found) != count:
        raise InvalidTensor(f'input "{name}": {len(found)} strings, but its shape says {count}')
    return found
