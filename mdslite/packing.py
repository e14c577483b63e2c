"""Values that came as nested lists, packed into a column of a tensor's dtype, and a tensor's values on their
way into JSON. Says what does not fit, and how it names shapes and values in a message.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from mdslite.errors import InvalidRequest, InvalidTensor, clip
from mdslite.npy import MAX_RANK
from mdslite.runtimes.protocol import NUMPY_DTYPES, Datatype, Signature, TensorSpec

Column = bytes | memoryview | list[Any]
RowShape = tuple[int, ...]
Bucket = tuple[tuple[str | int, ...] | None, ...]


class Shared(NamedTuple):
    """One input's value for all rows of a request. It stands in the key, so that only rows with equal ones
    share a batch."""

    name: str
    datatype: Datatype
    shape: RowShape
    data: bytes

    def array(self) -> np.ndarray[Any, Any]:
        return np.frombuffer(self.data, NUMPY_DTYPES[self.datatype]).reshape(self.shape)


# What finite numbers are rounded to infinity from.
_FLOATS = {
    "FP16": 2**16 - 2**4,
    "BF16": 2**128 - 2**119,
    "FP32": 2**128 - 2**103,
    "FP64": 2**1024 - 2**970,
}
_WHOLE = 2.0**63  # from here on, a float may be a whole number that JSON's reader has no integer for


def pack_column(
    spec: TensorSpec,
    values: list[Any],
    shape: Sequence[int | None],
    head: str,
    tail: str | None = "",
    *,
    each: str | None = None,
) -> tuple[Column, RowShape]:
    """Pack nested lists, outermost axis rows, into a column of `spec`'s dtype; returns it and its row shape.
    Who gave the values one by one knows nothing of that axis: `each` is what one of them is to be called.
    They came from `head`, and of each row what stands there at `tail`; None where `head` is the only one.

    :raises InvalidTensor: ragged, of another shape, or with elements of another type
    """
    try:
        found, flat = flatten(spec, values, shape)
        if each is None:
            check_shape(spec, found, shape)
        else:
            check_shape(spec, found[1:], shape[1:], of=each, at=(0,))  # all have it, or they were ragged
        return pack_flat(spec, flat, found), found[1:]
    except InvalidTensor as exc:
        exc.locate(_place(head, tail, exc.at) if exc.at else head)
        raise


def _place(head: str, tail: str | None, at: Sequence[int]) -> str:
    row = "" if tail is None else f"[{at[0]}]{tail}"
    return f"{head}{row}{show_place(at[1:])}"


def pack_shared(
    specs: Mapping[str, TensorSpec], instances: Sequence[Mapping[str, Any]], head: str, tail: str | None = ""
) -> tuple[Shared, ...]:
    """Pack what is given of those inputs that all rows of a request share: lists, or a bare number where one
    is all there is. All instances name the same inputs; `head` and `tail` as for `pack_column`.

    :raises InvalidTensor: as `pack_column`
    :raises InvalidRequest: an instance gives another value than the first
    """
    found = []
    for name, spec in specs.items():
        if name not in instances[0]:
            continue
        try:
            found.append(_share(spec, [instance[name] for instance in instances]))
        except InvalidTensor as exc:
            # A bare number has no place of its own.
            exc.locate(f"{_place(head, tail, exc.at[:1])}.{name}" if exc.at or tail is None else head)
            raise
    return tuple(found)


def _share(spec: TensorSpec, values: Sequence[Any]) -> Shared:
    nested = [_as_nested(value, len(spec.shape)) for value in values]
    shape, flat = flatten(spec, nested, (None, *spec.shape))
    check_shape(spec, shape[1:], spec.shape)
    packed = as_bytes(pack_flat(spec, flat, shape))
    size = len(packed) // len(values)
    first = packed[:size]
    if packed != first * len(values):  # compared as bytes: NaN is itself there
        differs = next(at for at in range(len(values)) if packed[at * size : (at + 1) * size] != first)
        raise InvalidRequest(
            f'another "{spec.name}" than in the first instance: all instances of a request share it',
            field=f"instances[{differs}]",
            hint="send it in another request",
        )
    return Shared(spec.name, spec.datatype, shape[1:], first)


def _as_nested(value: Any, rank: int) -> Any:
    """A bare number as the lists that it stands for."""
    if isinstance(value, list):
        return value
    for _ in range(rank):
        value = [value]
    return value


def as_bytes(column: Column) -> bytes:
    """A column of numbers, to be kept."""
    assert not isinstance(column, list)
    return bytes(column)


def pack_flat(spec: TensorSpec, flat: list[Any], shape: Sequence[int]) -> Column:
    """Pack values in row-major order into a column of `spec`'s dtype; they came in lists of that shape.

    :raises InvalidTensor: a value is of another type, or does not fit into the dtype
    """
    try:
        if spec.datatype == "BYTES":
            if set(map(type, flat)) <= {str}:
                return flat
            return [_string(spec, value, number) for number, value in enumerate(flat)]
        if spec.datatype == "BOOL":
            _check_types(spec, flat, {bool})
        elif spec.datatype in _FLOATS:
            _check_types(spec, flat, {int, float})
        else:
            _check_types(spec, flat, {int})
        return _to_bytes(spec, flat)
    except InvalidTensor as exc:
        if exc.at:
            exc.at = _indices(exc.at[0], shape)
        raise


def _indices(number: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Where an element stands that is counted in row-major order."""
    return tuple(map(int, np.unravel_index(number, shape)))


def is_base64(value: Any) -> bool:
    """Is it `{"b64": ...}`, which stands for bytes?"""
    return isinstance(value, dict) and value.keys() == {"b64"}


def as_string(spec: TensorSpec, data: bytes, number: int) -> str | bytes:
    """A string that came as bytes, as `spec`'s columns hold it; `number` counts strings from 0.

    :raises InvalidTensor: it is no UTF-8, and the model takes texts
    """
    if spec.any_bytes:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidTensor(
            f'input "{spec.name}": string {number} is not valid UTF-8, and this model takes texts',
            at=(number,),
        ) from exc


def show_bytes(data: bytes) -> str | dict[str, str]:
    """Bytes as JSON has them: a text, or `{"b64": ...}` where they are none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(data).decode()}


def _string(spec: TensorSpec, value: Any, number: int) -> str | bytes:
    if isinstance(value, str):
        return value
    if not is_base64(value):
        raise InvalidTensor(
            f'input "{spec.name}": expected {_values_of(spec)}, got {kind_of(value)}', at=(number,)
        )
    text = value["b64"]
    try:
        return as_string(spec, base64.b64decode(text, validate=True), number)
    except (binascii.Error, TypeError, ValueError) as exc:
        raise InvalidTensor(
            f'input "{spec.name}": expected base64 in "b64", got {kind_of(text)}', at=(number,)
        ) from exc


def check_shape(
    spec: TensorSpec,
    found: Sequence[int],
    wanted: Sequence[int | None],
    *,
    of: str = "",
    at: tuple[int, ...] = (),
) -> None:
    """Compare a shape with the one wanted, None standing for any size. `of` is what has it, and `at` where it
    stands.

    :raises InvalidTensor: naming both
    """
    if len(found) != len(wanted) or any(
        size is not None and size != given for given, size in zip(found, wanted, strict=True)
    ):
        raise InvalidTensor(
            f'input "{spec.name}": {of}shape {show_shape(found)}, expected {show_shape(wanted)}',
            at=at,
            part="shape",
        )


def check_filled(signature: Signature, shapes: Sequence[RowShape | None]) -> Sequence[RowShape | None]:
    """The shapes, if the model survives them.

    :raises InvalidTensor: an input has no elements, which an operator does not survive
    """
    if signature.filled is None:
        return shapes
    for spec, shape in zip(signature.inputs, shapes, strict=True):
        if shape is not None and 0 in shape:
            row = "a tensor" if signature.rows == "none" else "a row"
            raise InvalidTensor(
                f'input "{spec.name}": {row} of shape {show_shape(shape)} has no elements, expected some: '
                f"its {signature.filled} needs them"
            )
    return shapes


def flatten(spec: TensorSpec, values: list[Any], wanted: Sequence[int | None]) -> tuple[RowShape, list[Any]]:
    """The shape of nested lists, and their values in row-major order. `wanted`, with what the outermost list
    counts, tells which of lists that differ is the odd one.

    :raises InvalidTensor: ragged, or nested too deep
    """
    shape = [len(values)]
    level = values
    while level and isinstance(level[0], list):
        if len(shape) == MAX_RANK:
            raise InvalidTensor(f'input "{spec.name}": nested deeper than {MAX_RANK} lists')
        size = len(level[0])
        for item in level:
            if not isinstance(item, list) or len(item) != size:
                raise _ragged(spec, level, shape, wanted)
        shape.append(size)
        level = list(chain.from_iterable(level))
    if len(shape) < len(wanted) and any(isinstance(item, list) for item in level):
        raise _ragged(spec, level, shape, wanted)
    return tuple(shape), level


def _ragged(
    spec: TensorSpec, level: list[Any], shape: Sequence[int], wanted: Sequence[int | None]
) -> InvalidTensor:
    """What is wrong at one depth, `shape` being that above it: the first that is not as the others or, where
    that is known, not as it should be."""
    lengths = [len(item) if isinstance(item, list) else None for item in level]
    if len(shape) < len(wanted):
        known = wanted[len(shape)]
        size = known if known is not None else next(one for one in lengths if one is not None)
        expected = f"a list of {size}" if known is not None else f"a list of {size}, as another has"
    else:
        size, expected = None, _values_of(spec)
    number = next(at for at, length in enumerate(lengths) if length != size)
    length = lengths[number]
    got = kind_of(level[number]) if length is None else f"a list of {length}"
    return InvalidTensor(f'input "{spec.name}": expected {expected}, got {got}', at=_indices(number, shape))


def plain_values(spec: TensorSpec, output: Any) -> Any:
    """An output as orjson can write it."""
    if not isinstance(output, np.ndarray):
        return output
    if spec.datatype == "BF16":
        output = from_bfloat16(np.ascontiguousarray(output))
    if output.dtype == object and any(isinstance(value, bytes) for value in output.flat):
        output = _texts(output)
    if output.dtype == object or output.ndim == 0:
        return output.tolist()
    return output if output.flags.c_contiguous else np.ascontiguousarray(output)


def _texts(strings: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Strings with the bytes among them as text, or in base64 where they are none."""
    found = np.empty(strings.size, dtype=object)
    found[:] = [show_bytes(value) if isinstance(value, bytes) else value for value in strings.flat]
    return found.reshape(strings.shape)


def plain_rows(value: Any) -> Any:
    """Rows that orjson can write. It refuses NumPy's `longlong` scalars, which is what int64 comes out as."""
    is_integers = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iub"
    return value.tolist() if is_integers else value


def _check_types(spec: TensorSpec, flat: list[Any], allowed: set[type]) -> None:
    if set(map(type, flat)) <= allowed:
        return
    types = list(map(type, flat))  # and no loop of ours over a million values, as others wait
    number = min(map(types.index, set(types) - allowed))
    wrong = f"expected {_values_of(spec)}, got {kind_of(flat[number])}"
    if types[number] is float and abs(flat[number]) >= _WHOLE:
        wrong = f"{kind_of(flat[number])} does not fit into {spec.datatype}"
    raise InvalidTensor(f'input "{spec.name}": {wrong}', at=(number,))


def _values_of(spec: TensorSpec) -> str:
    return "strings" if spec.datatype == "BYTES" else f"{spec.datatype} values"


def _to_bytes(spec: TensorSpec, flat: list[Any]) -> bytes:
    try:
        with np.errstate(over="raise"):
            if spec.datatype != "BF16":
                return np.array(flat, dtype=NUMPY_DTYPES[spec.datatype]).tobytes()
            wide = np.array(flat, dtype=np.float32)
    except (OverflowError, FloatingPointError) as exc:
        raise _misfit(spec, flat) from exc
    found = to_bfloat16(wide)
    if np.count_nonzero(found & 0x7FFF == 0x7F80) != np.count_nonzero(np.isinf(wide)):
        raise _misfit(spec, flat)
    return found.tobytes()


def _misfit(spec: TensorSpec, flat: list[Any]) -> InvalidTensor:
    """Which of the values is too large or too small for a dtype."""
    if spec.datatype in _FLOATS:
        most: float = _FLOATS[spec.datatype] - 1
        least = -most
    else:
        limits = np.iinfo(NUMPY_DTYPES[spec.datatype])
        least, most = limits.min, limits.max
    beyond = (at for at, one in enumerate(flat) if most < one < math.inf or -math.inf < one < least)
    number = next(beyond, None)
    what = "a value" if number is None else kind_of(flat[number])
    return InvalidTensor(
        f'input "{spec.name}": {what} does not fit into {spec.datatype}',
        at=() if number is None else (number,),
    )


def to_bfloat16(array: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Round float32 to bfloat16 bit patterns, to nearest even; NaN stays NaN."""
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Widen bfloat16 bit patterns to float32."""
    return (array.astype(np.uint32) << 16).view(np.float32)


def coarse(shape: RowShape) -> RowShape:
    """A shape by its dimensions' powers of two. Not by their product: a sequence of a thousand may take a
    million times as long as a thousand sequences of one."""
    return tuple(map(int.bit_length, shape))


def show_place(at: Sequence[int]) -> str:
    """Indices as they are written behind a list's name."""
    return "".join(f"[{index}]" for index in at)


def show_shape(shape: Sequence[int | None]) -> str:
    return "[" + ",".join("?" if size is None else str(size) for size in shape) + "]"


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
