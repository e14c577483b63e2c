"""A job's answers, put together from the batches that computed them, and as the bytes of a reply."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdslite.data import DataCodec
from mdslite.errors import InvalidRequest
from mdslite.runtimes.protocol import Outputs
from mdslite.tensors import Codec, Form

Pieces = Sequence[tuple[int, Outputs]]  # the first row of each, and its outputs


def encode_answer(codec: Codec | DataCodec, pieces: Pieces, form: Form) -> bytes:
    """The body of a reply to a request of `form`."""
    if isinstance(codec, Codec) and not codec.counted:
        return codec.encode_whole([outputs for _, outputs in sorted(pieces, key=_start)], form)
    return codec.encode(pieces[0][1] if len(pieces) == 1 else join_pieces(codec, pieces), form)


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
