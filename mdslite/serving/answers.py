"""A job's answers, put together from the batches that computed them, and as the bytes of a reply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from mdslite.data import DataCodec
from mdslite.errors import InvalidRequest
from mdslite.packing import plain_values
from mdslite.runtimes.protocol import Outputs
from mdslite.tensors import Codec, Form

LONG_VALUES = 32768  # which take orjson about a millisecond
_OPENING, _CLOSING = b'{"predictions":[', b"]}"

Pieces = Sequence[tuple[int, Outputs]]  # the first row of each, and its outputs


def encode_answer(codec: Codec | DataCodec, pieces: Pieces, form: Form) -> bytes:
    """The body of a reply to a request of `form`."""
    if isinstance(codec, Codec) and not codec.counted:
        return codec.encode_whole([outputs for _, outputs in sorted(pieces, key=_start)], form)
    return codec.encode(pieces[0][1] if len(pieces) == 1 else join_pieces(codec, pieces), form)


def is_long(pieces: Pieces) -> bool:
    """Whether to write an answer as JSON would keep the event loop from others for long."""
    for output in pieces[0][1]:  # of every answer: a comprehension took twice as long
        if output.__class__ is np.ndarray and output.size * len(pieces) > LONG_VALUES:
            return True
    return False


def encode_parts(codec: Codec, pieces: Pieces, form: Form) -> Iterator[bytes]:
    """The same body as `encode_answer`'s for a model whose rows count, each part written in a moment."""
    specs = codec.signature.outputs
    outputs = join_pieces(codec, pieces)
    if form == "inputs":
        for at, (spec, output) in enumerate(zip(specs, outputs, strict=True)):
            yield (b"," if at else b'{"outputs":{') + orjson.dumps(spec.name) + b":"
            yield from _write(plain_values(spec, output))
        yield b"}}"
    elif len(specs) == 1:
        yield b'{"predictions":'
        yield from _write(plain_values(specs[0], outputs[0]))
        yield b"}"
    else:
        rows = len(outputs[0])
        step = max(1, LONG_VALUES * rows // sum([np.size(one) for one in outputs]))
        for start in range(0, rows, step):
            part = codec.encode([one[start : start + step] for one in outputs], form)
            yield (b"," if start else _OPENING) + part[len(_OPENING) : -len(_CLOSING)]
        yield _CLOSING


def _write(value: Any) -> Iterator[bytes]:
    """A value as JSON, an array of many values in parts."""
    size = np.size(value) if isinstance(value, np.ndarray) else 0
    if size <= LONG_VALUES:
        yield orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
        return
    row = size // len(value)
    step = max(1, LONG_VALUES // row)
    for start in range(0, len(value), step):
        yield b"," if start else b"["
        if row > LONG_VALUES:
            yield from _write(value[start])
        else:
            yield orjson.dumps(value[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"


def join_pieces(codec: Codec | DataCodec, pieces: Pieces) -> Outputs:
    """The outputs with all rows, in their order. Whole tensors of several instances are stacked.

    :raises InvalidRequest: they differ in shape
    """
    if len(pieces) == 1:
        return pieces[0][1]
    ordered = [outputs for _, outputs in sorted(pieces, key=_start)]
    join = np.stack if codec.signature.rows == "none" else np.concatenate
    try:
        return [
            join(parts) if isinstance(parts[0], np.ndarray) else [row for part in parts for row in part]
            for parts in zip(*ordered, strict=True)
        ]
    except ValueError as exc:
        raise InvalidRequest(
            "the answers differ in shape: expected Accept: application/json",
            hint="or send each instance in a request of its own",
        ) from exc


def _start(piece: tuple[int, Outputs]) -> int:
    return piece[0]
