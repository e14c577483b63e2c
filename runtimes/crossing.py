"""A model's tensors as rows of a frame, on their way to its own process and back: arrays as they are, texts
and what is no tensor packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import msgspec
import numpy as np

from mdslite.errors import ModelError
from mdslite.runtimes.frames import BadFrame
from mdslite.runtimes.protocol import NUMPY_DTYPES, Answers, Datum, Outputs, Signature

Feeds = Mapping[str, "np.ndarray[Any, Any]"]


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """Strings of a tensor of `shape`, or, without one, a list of whatever a model gave."""

    shape: tuple[int, ...] | None
    values: list[Any]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode
_decode_names = msgspec.msgpack.Decoder(list[str]).decode


def pack_feeds(feeds: Feeds) -> list[Datum]:
    """A batch as rows: the names of the inputs, and each input."""
    return [_encode(list(feeds)), *map(_pack, feeds.values())]


def unpack_feeds(rows: Sequence[Datum]) -> dict[str, np.ndarray[Any, Any]]:
    """
    :raises BadFrame, msgspec.DecodeError: the rows are no batch
    """
    names = rows[0]
    if not isinstance(names, bytes):
        raise BadFrame("an array for the inputs' names")
    return dict(zip(_decode_names(names), map(_unpack, rows[1:]), strict=True))


def pack_outputs(outputs: Outputs) -> Answers:
    return Answers(map(_pack, outputs))


def unpack_outputs(answers: Answers, signature: Signature) -> Outputs:
    """The outputs of a model with this signature.

    :raises BadFrame, msgspec.DecodeError: they are none
    """
    if len(answers) != len(signature.outputs):
        raise BadFrame(f"{len(answers)} outputs of {len(signature.outputs)}")
    outputs: list[Any] = []
    for spec, answer in zip(signature.outputs, answers, strict=True):
        if isinstance(answer, ModelError):  # of this output alone: it is too large to cross
            raise answer
        output = _unpack(answer)
        if isinstance(output, np.ndarray) and output.dtype != NUMPY_DTYPES.get(spec.datatype):
            raise BadFrame(f'output "{spec.name}" as {output.dtype}')
        outputs.append(output)
    return outputs


def _pack(value: Any) -> Datum:
    if not isinstance(value, np.ndarray):
        return _encode(_Packed(None, value))
    if value.dtype == object:
        return _encode(_Packed(value.shape, value.ravel().tolist()))
    return value


def _unpack(row: Any) -> Any:
    if isinstance(row, np.ndarray):
        return row
    if not isinstance(row, bytes):
        raise BadFrame(f"a {type(row).__name__} for a tensor")
    packed = _decode(row)
    if packed.shape is None:
        return packed.values
    if prod(packed.shape) != len(packed.values):
        raise BadFrame(f"{len(packed.values)} texts of shape {list(packed.shape)}")
    texts = np.empty(len(packed.values), object)
    texts[:] = packed.values
    return texts.reshape(packed.shape)
