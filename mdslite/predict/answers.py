"""From the outputs that a lane has put into a call to the body of its answer."""

from __future__ import annotations

from mdslite.predict.call import Call
from mdslite.runtimes.protocol import Outputs
from mdslite.serving.answers import encode_answer, join_pieces
from mdslite.serving.fleet import Served


def encode_empty(call: Call, served: Served) -> bytes:
    """The answer to a call without rows."""
    if call.form is None:
        return served.codec.encode_empty(call.columns.form)
    return call.form.write(call, None)


def encode(call: Call) -> bytes:
    """A call's answer in the JSON of the predict URLs."""
    assert call.served is not None
    return encode_answer(call.served.codec, call.pieces, call.columns.form)


def gather(call: Call) -> Outputs:
    """A call's outputs with all their rows."""
    assert call.served is not None
    return join_pieces(call.served.codec, call.pieces)
