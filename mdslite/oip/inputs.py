"""Tensors as a client of the protocol sends them, to the columns that a lane batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdslite.errors import InvalidTensor, clip
from mdslite.npy import MAX_RANK
from mdslite.oip.wire import ITEM_BYTES, Buffer, unpack_strings
from mdslite.packing import Column, as_string, check_shape, flatten, pack_flat, show_place, show_shape
from mdslite.runtimes.protocol import NUMPY_DTYPES, TensorSpec
from mdslite.tensors import SHARED_BYTES, Codec, Columns


@dataclass(frozen=True, slots=True)
class InputTensor:
    """One input as it came: its elements are JSON values (flat in row-major order, or nested), or `raw`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    raw: Buffer | None = None


def take_inputs(codec: Codec, tensors: Sequence[InputTensor]) -> Columns:
    """Check a request's inputs against the signature and pack them.

    :raises InvalidTensor: naming the input, what came and what was expected, with the part that was wrong
    """
    named: dict[str, tuple[Column, tuple[int, ...]]] = {}
    for number, tensor in enumerate(tensors):
        try:
            spec = expect(codec, tensor)
            if tensor.name in named:
                raise given_twice(tensor)
            column = read_column(spec, tensor)
        except InvalidTensor as exc:
            exc.part = part_of(number, exc)
            raise
        named[tensor.name] = column, tensor.shape
    return codec.assemble(named)


def part_of(number: int, error: InvalidTensor) -> str:
    """What of a request was wrong, where that is known of one of its inputs; `number` counts those."""
    return f"inputs[{number}].{error.part}".removesuffix(".")


def locate(error: InvalidTensor) -> None:
    """Say where in a message a tensor stands that was taken from it."""
    error.locate(error.part or "inputs")


def given_twice(tensor: InputTensor) -> InvalidTensor:
    return InvalidTensor(f'input "{clip(tensor.name)}" is given twice, expected it once', part="name")


def expect(codec: Codec, tensor: InputTensor) -> TensorSpec:
    """The signature's input that a tensor is for, once its name, datatype and shape are known to fit.

    :raises InvalidTensor: one of them does not
    """
    spec = codec.input(tensor.name)
    if tensor.datatype != spec.datatype:
        raise InvalidTensor(
            f'input "{spec.name}": datatype {clip(tensor.datatype)}, expected {spec.datatype}',
            part="datatype",
        )
    check_rank(spec, tensor.shape)
    check_shape(spec, tensor.shape, codec.shape_of(spec))
    return spec


def check_rank(spec: TensorSpec, shape: Sequence[int]) -> None:
    """Compare a shape with what any shape has to be.

    :raises InvalidTensor: it has too many dimensions, or a negative one
    """
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise InvalidTensor(
            f'input "{spec.name}": shape {clip(show_shape(shape))}, expected at most {MAX_RANK} '
            "dimensions, none of them negative",
            part="shape",
        )


def check_size(spec: TensorSpec, shape: Sequence[int], size_bytes: int) -> None:
    """Compare the bytes of a tensor of numbers with what its shape takes.

    :raises InvalidTensor: they are fewer or more
    """
    if spec.datatype == "BYTES":
        return
    wanted_bytes = math.prod(shape) * ITEM_BYTES[spec.datatype]
    if size_bytes != wanted_bytes:
        raise InvalidTensor(
            f'input "{spec.name}": {size_bytes} bytes, but {spec.datatype} of shape '
            f"{clip(show_shape(shape))} takes {clip(str(wanted_bytes))}"
        )


def read_column(spec: TensorSpec, tensor: InputTensor) -> Column:
    """An input's elements, however they came; its rank is known to be fine.

    :raises InvalidTensor: as many as its shape asks for are not there, or are no such values
    """
    if tensor.raw is None:
        try:
            return _pack(spec, tensor.data or [], tensor.shape)
        except InvalidTensor as exc:
            exc.part = f"data{show_place(exc.at)}"
            raise
    check_size(spec, tensor.shape, len(tensor.raw))
    return read_raw(spec, tensor.raw, math.prod(tensor.shape))


def read_raw(spec: TensorSpec, raw: Buffer, count: int) -> Column:
    """A column over the wire's bytes of `count` elements; numbers are not copied unless they must be.

    :raises InvalidTensor: strings that are cut short or too many, or booleans other than 0 and 1
    """
    if spec.datatype == "BYTES":
        strings = unpack_strings(raw, count, name=spec.name)
        return [as_string(spec, one, number) for number, one in enumerate(strings)]
    if spec.datatype == "BOOL" and len(raw) and np.frombuffer(raw, np.uint8).max() > 1:
        raise InvalidTensor(f'input "{spec.name}": expected 0 or 1 as each byte of BOOL')
    if isinstance(raw, memoryview):
        # Runtimes read with the processor's own alignment.
        is_aligned = np.frombuffer(raw, NUMPY_DTYPES[spec.datatype]).flags.aligned
        return raw if is_aligned and len(raw) > SHARED_BYTES else bytes(raw)
    return raw


def infer_shape(codec: Codec, spec: TensorSpec, size_bytes: int) -> tuple[int, ...]:
    """The shape of an input that came as bare bytes: of as many rows as they are, or with the one dimension
    that the signature leaves open.

    :raises InvalidTensor: the signature leaves more than that open, or the bytes do not fit it
    """
    wanted = codec.shape_of(spec)
    if codec.signature.rows != "none" and None in wanted[1:]:
        wanted = (1, *wanted[1:])
    free = wanted.count(None)
    if free > 1 or spec.datatype == "BYTES":
        raise InvalidTensor(
            f'input "{spec.name}": expected its shape beside its bytes: {spec.datatype} of '
            f"{show_shape(spec.shape)} does not follow from their number"
        )
    known_bytes = math.prod(size for size in wanted if size is not None) * ITEM_BYTES[spec.datatype]
    count = size_bytes // known_bytes if known_bytes else 0
    if count * known_bytes != size_bytes or (not free and count != 1):
        raise InvalidTensor(
            f'input "{spec.name}": {size_bytes} bytes, expected {"a multiple of " if free else ""}the '
            f"{known_bytes} that {spec.datatype} of shape {show_shape(wanted)} takes"
        )
    return tuple(count if size is None else size for size in wanted)


def _pack(spec: TensorSpec, data: list[Any], shape: tuple[int, ...]) -> Column:
    """Pack JSON values, flat in row-major order or nested as `shape` says.

    :raises InvalidTensor: they are fewer or more, nested otherwise, or no such values
    """
    if any(isinstance(value, list) for value in data):
        found, flat = flatten(spec, data, shape)
        if found != shape:
            raise InvalidTensor(
                f'input "{spec.name}": data nested as {show_shape(found)}, '
                f"but its shape is {clip(show_shape(shape))}"
            )
        return pack_flat(spec, flat, shape)
    if len(data) != math.prod(shape):
        raise InvalidTensor(
            f'input "{spec.name}": {len(data)} values, but its shape {clip(show_shape(shape))} takes '
            f"{clip(str(math.prod(shape)))}"
        )
    return pack_flat(spec, data, (len(data),))
