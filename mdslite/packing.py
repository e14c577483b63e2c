"""Values that came as nested lists, packed into a column of a tensor's dtype. Says what does not fit, and how
it names shapes and values in a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from mdslite.errors import InvalidTensor
from mdslite.npy import MAX_RANK
from mdslite.runtimes.protocol import NUMPY_DTYPES, TensorSpec

Column = bytes | memoryview | list[Any]
RowShape = tuple[int, ...]

_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})


def pack_column(spec: TensorSpec, values: list[Any], shape: Sequence[int | None]) -> tuple[Column, RowShape]:
    """Pack nested lists, outermost axis rows, into a column of `spec`'s dtype; returns it and its row shape.

    :raises InvalidTensor: ragged, of another shape, or with elements of another type
    """
    found, flat = _flatten(spec, values)
    check_shape(spec, found, shape)
    if spec.datatype == "BYTES":
        _check_types(spec, flat, {str})
        return flat, found[1:]
    if spec.datatype == "BOOL":
        _check_types(spec, flat, {bool})
    elif spec.datatype in _FLOATS:
        _check_types(spec, flat, {int, float})
    else:
        _check_types(spec, flat, {int})
    return _to_bytes(spec, flat), found[1:]


def check_shape(spec: TensorSpec, found: Sequence[int], wanted: Sequence[int | None]) -> None:
    """Compare a shape with the one wanted, None standing for any size.

    :raises InvalidTensor: naming both
    """
    if len(found) != len(wanted) or any(
        size is not None and size != given for given, size in zip(found, wanted, strict=True)
    ):
        raise InvalidTensor(f'input "{spec.name}": shape {show_shape(found)}, expected {show_shape(wanted)}')


def _flatten(spec: TensorSpec, values: list[Any]) -> tuple[RowShape, list[Any]]:
    shape = [len(values)]
    level = values
    while level and isinstance(level[0], list):
        if len(shape) == MAX_RANK:
            raise InvalidTensor(f'input "{spec.name}": nested deeper than {MAX_RANK} lists')
        size = len(level[0])
        for item in level:
            if not isinstance(item, list) or len(item) != size:
                got = f"a list of {len(item)}" if isinstance(item, list) else kind_of(item)
                raise InvalidTensor(
                    f'input "{spec.name}": ragged: a list of {size} stands beside {got}; '
                    f"expected shape {show_shape(spec.shape)}"
                )
        shape.append(size)
        level = list(chain.from_iterable(level))
    return tuple(shape), level


def _check_types(spec: TensorSpec, flat: list[Any], allowed: set[type]) -> None:
    if set(map(type, flat)) <= allowed:
        return
    wrong = next(value for value in flat if type(value) not in allowed)
    raise InvalidTensor(f'input "{spec.name}": expected {spec.datatype} values, got {kind_of(wrong)}')


def _to_bytes(spec: TensorSpec, flat: list[Any]) -> bytes:
    try:
        with np.errstate(over="ignore"):
            if spec.datatype == "BF16":
                return to_bfloat16(np.array(flat, dtype=np.float32)).tobytes()
            return np.array(flat, dtype=NUMPY_DTYPES[spec.datatype]).tobytes()
    except OverflowError as exc:
        raise InvalidTensor(f'input "{spec.name}": a value does not fit into {spec.datatype}') from exc


def to_bfloat16(array: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Round float32 to bfloat16 bit patterns, to nearest even; NaN stays NaN."""
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Widen bfloat16 bit patterns to float32."""
    return (array.astype(np.uint32) << 16).view(np.float32)


def show_shape(shape: Sequence[int | None]) -> str:
    return "[" + ",".join("-1" if size is None else str(size) for size in shape) + "]"


def kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return f'the text "{clip(value)}"'
        case int() | float():
            return f"the number {clip(str(value))}"
    return type(value).__name__


def clip(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
