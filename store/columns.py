"""Columns of logged rows as arrays, and as the bytes that an hour file keeps of them. Owns no file.

A column of a chunk is stored in the smallest type that holds all its values exactly, and not at all where
they are all the same. What is absent is NaN in memory, and the greatest number of a whole type in the file.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Columns: TypeAlias = Mapping[str, Array]

# As in the table `entries`, but for the last one, which is a checksum of the text.
ID = "id"
HASH = "request_hash"
ARRIVED = "arrived_us"  # made of the first two: unix microseconds
FIELDS = (
    ID, "lag_us", "series_id", "url_id", "latency_us", "queue_us", "compute_us", "rows", "batch_rows",
    "confidence", "upstream_us", HASH,
)  # fmt: skip

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_UNSIGNED = tuple(np.dtype(name) for name in ("<u1", "<u2", "<u4", "<u8"))


@dataclass(frozen=True, slots=True)
class Packed:
    """One column of a chunk. `type` is numpy's, with a `?` where values are absent; empty where they all are,
    or all are `low`. `low` and `high` bound those that are there, None when none is."""

    type: str
    low: float | None
    high: float | None
    data: bytes


def hash_id(request_id: str) -> int:
    """What the column HASH has of a request's id."""
    return crc32(request_id.encode("utf-8", "surrogatepass"))


def hash_ids(request_ids: Sequence[str]) -> Array:
    return np.fromiter((crc32(one.encode()) for one in request_ids), np.uint32, len(request_ids))


def pack(values: Array) -> Packed:
    """Whole numbers, or doubles: those that are all whole are stored as whole numbers."""
    absent = np.isnan(values) if values.dtype.kind == "f" else np.zeros(0, dtype=np.bool_)
    there = values[~absent] if absent.any() else values
    if not len(there):
        return Packed("", None, None, b"")
    low, high = there.min(), there.max()
    if low == high and len(there) == len(values):
        return Packed("", float(low), float(high), b"")
    bounds = float(low), float(high)
    some = len(there) < len(values)
    if there.dtype.kind == "f" and not (there == np.rint(there)).all():
        narrow = values.astype("<f4")
        exact = (narrow[~absent] == there).all() if absent.any() else (narrow == there).all()
        data = narrow if exact else values.astype("<f8")
        return Packed(data.dtype.str + "?" * some, *bounds, data.tobytes())
    dtype = _whole_type(int(low), int(high) + some)
    if not some:
        return Packed(dtype.str, *bounds, values.astype(dtype).tobytes())
    data = np.where(absent, 0, values).astype(dtype)
    data[absent] = np.iinfo(dtype).max
    return Packed(f"{dtype.str}?", *bounds, data.tobytes())


def unpack(type: str, low: float | None, data: bytes, rows: int) -> Array:
    """The values of a column; read-only, as they may be the bytes themselves.

    :raises ValueError, TypeError: the bytes are not those of a column of so many rows
    """
    if not type:
        return np.broadcast_to(np.float64("nan" if low is None else low), rows)
    dtype = np.dtype(type.removesuffix("?"))
    if dtype.kind not in "uif" or len(data) != rows * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes are no {rows} numbers of type {type}")
    found = np.frombuffer(data, dtype)
    if dtype.kind == "f" or not type.endswith("?"):
        return found
    return np.where(found == np.iinfo(dtype).max, np.nan, found)


def compare(values: Array, sign: str, value: float) -> Array:
    """A column compared with a double, exactly as doubles would be. One of 4-byte numbers with fractions is
    compared in its own type, several times as fast: with the number of that type which is nearest."""
    if values.dtype == np.float32 and sign not in ("=", "!="):
        # `<` and `>=` ask for the least number that is no less than the value, the others for the greatest
        # that is no greater.
        up = sign in ("<", ">=")
        with np.errstate(over="ignore"):  # what is too great for the type comes to infinity
            near = np.float32(value)
            if up and float(near) < value:
                near = np.nextafter(near, np.float32(np.inf))
            elif not up and float(near) > value:
                near = np.nextafter(near, np.float32(-np.inf))
        return cast(Array, COMPARE[sign](values, near))
    return cast(Array, COMPARE[sign](values, np.float64(value)))


def _whole_type(low: int, high: int) -> np.dtype[Any]:
    """The smallest type for whole numbers of [low, high]."""
    if low < 0:
        return np.dtype("<i8")
    return next(dtype for dtype in _UNSIGNED if high <= np.iinfo(dtype).max)


def join(parts: Sequence[Columns], names: Sequence[str]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
