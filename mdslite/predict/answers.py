"""From the outputs that a lane has put into a call to the body of its answer."""

from __future__ import annotations

from collections.abc import Iterator

from mdslite.predict.call import Call
from mdslite.runtimes.protocol import Outputs
from mdslite.serving.answers import encode_answer, encode_parts, is_long, join_pieces
from mdslite.serving.fleet import Served
from mdslite.tensors import Codec


def encode_empty(call: Call, served: Served) -> bytes:
    """The answer to a call without rows."""
    if call.form is None:
        return served.codec.encode_empty(call.columns.form)
    return call.form.write(call, None)


def encode(call: Call) -> bytes:
    """A call's answer in the JSON of the predict URLs."""
    assert call.served is not None
    return encode_answer(call.served.codec, call.pieces, call.columns.form)


def encode_short(codec: Codec, call: Call) -> bytes | None:
    """The same where the codec's rows count and the answer came of one batch and is not long; else None."""
    pieces = call.pieces
    if len(pieces) != 1 or is_long(pieces):
        return None
    return codec.encode(pieces[0][1], call.columns.form)


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
