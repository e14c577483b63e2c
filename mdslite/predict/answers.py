"""From the outputs that a lane has put into a call to the body of its answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import orjson

from mdslite.predict.call import Call
from mdslite.runtimes.protocol import Outputs
from mdslite.serving.answers import LONG_VALUES, encode_answer, encode_parts, is_long, join_pieces
from mdslite.serving.fleet import Served
from mdslite.tensors import NUMPY_JSON, PREDICTIONS, Codec


def encode_empty(call: Call, served: Served) -> bytes:
    """The answer to a call without rows."""
    if call.form is None:
        return served.codec.encode_empty(call.columns.form)
    return call.form.write(call, None)


def encode(call: Call) -> bytes:
    """A call's answer in the JSON of the predict URLs."""
    assert call.served is not None
    return encode_answer(call.served.codec, call.pieces, call.columns.form)


def encode_short(call: Call) -> bytes | None:
    """The same where that is a plain codec's common answer: numbers of one output from one batch, and few.
    None where it is any other."""
    pieces = call.pieces
    if len(pieces) != 1 or call.columns.form != "instances":
        return None
    output = pieces[0][1][0]
    if output.__class__ is not np.ndarray or output.size > LONG_VALUES:
        return None
    return PREDICTIONS + orjson.dumps(output, option=NUMPY_JSON) + b"}"


def encode_long(call: Call) -> Iterator[bytes] | None:
    """The parts of an answer that takes a while to write; None where it does not."""
    if not is_long(call.pieces):
        return None
    assert call.served is not None
    codec = call.served.codec
    if not isinstance(codec, Codec) or not codec.counted:
        return None
    return encode_parts(codec, call.pieces, call.columns.form)


def gather(call: Call) -> Outputs:
    """A call's outputs with all their rows."""
    assert call.served is not None
    return join_pieces(call.served.codec, call.pieces)
