"""From the outputs that a lane has put into a call to the body of its answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdslite.errors import InvalidRequest
from mdslite.http.call import Call
from mdslite.runtimes.protocol import Outputs
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
    codec = call.served.codec
    form = call.columns.form
    pieces = call.pieces
    if len(pieces) == 1 and codec.signature.rows != "none":
        return codec.encode(pieces[0][1], form)
    if isinstance(codec, Codec) and codec.signature.rows == "none":
        return codec.encode_whole([outputs for _, outputs in sorted(pieces, key=_start)], form)
    return codec.encode(gather(call), form)


def gather(call: Call) -> Outputs:
    """A call's outputs with all their rows. Whole tensors of several instances are stacked."""
    assert call.served is not None
    pieces = call.pieces
    if len(pieces) == 1:
        outputs: Outputs = pieces[0][1]
        return outputs
    ordered = [outputs for _, outputs in sorted(pieces, key=_start)]
    join = np.stack if call.served.codec.signature.rows == "none" else np.concatenate
    try:
        return [
            join(parts) if isinstance(parts[0], np.ndarray) else [row for part in parts for row in part]
            for parts in zip(*ordered, strict=True)
        ]
    except ValueError as exc:
        raise InvalidRequest("the answers differ in shape: expected Accept: application/json") from exc


def _start(piece: tuple[int, Any]) -> int:
    return piece[0]
