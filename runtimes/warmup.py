"""Made-up inputs for a model's first runs, from nothing but its signature. Decides nothing about rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdslite.errors import ModelError
from mdslite.runtimes.protocol import NUMPY_DTYPES, Outputs, Session, Signature, TensorSpec

# Lengths to try, one after the other, for free dimensions other than rows: a sequence of one token, then
# sizes that convolutions and pooling do not shrink to nothing.
LENGTHS = (1, 32, 224)

Feeds = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a model did with made-up inputs: its outputs by number of rows, or why it refused them."""

    outputs: dict[int, Outputs]
    refusal: str | None = None


def make_inputs(signature: Signature, rows: int = 1, *, length: int = 1) -> Feeds:
    """Make one batch: zeros, false and empty strings; `length` stands in for free dimensions but the rows'.

    Optional inputs are left out.
    """
    return {
        one.name: np.full(_shape(signature, one, rows, length), "", dtype=object)
        if one.datatype == "BYTES"
        else np.zeros(_shape(signature, one, rows, length), NUMPY_DTYPES[one.datatype])
        for one in signature.inputs
        if not one.optional
    }


def warm(session: Session, *, rows: Sequence[int] = (1, 2)) -> Trial:
    """Run a session on made-up inputs of each number of rows, so that its first caller does not pay for
    allocations and kernel choices.

    A model may rightly refuse zeros (an index that must not be 0, an empty string): that is no fault of the
    model's, and is returned as the trial's `refusal`.

    :raises OutOfMemory: not even this fits
    :raises Unavailable: the device is lost
    """
    signature = session.signature
    counts = rows if signature.inputs and signature.inputs[0].shape[:1] == (None,) else (1,)
    refusal = None
    for length in LENGTHS if _has_free_lengths(signature) else LENGTHS[:1]:
        try:
            return Trial(
                {count: session.run(make_inputs(signature, count, length=length)) for count in counts}
            )
        except ModelError as exc:
            refusal = refusal or exc.message
    return Trial({}, refusal)


def _shape(signature: Signature, one: TensorSpec, rows: int, length: int) -> tuple[int, ...]:
    """The tensor's shape with nothing left free; the first free dimension counts rows wherever it can."""
    first = rows if signature.inputs[0].shape[:1] == (None,) else length
    return tuple(
        (first if axis == 0 else length) if size is None else size for axis, size in enumerate(one.shape)
    )


def _has_free_lengths(signature: Signature) -> bool:
    """Is any dimension free that does not count rows?"""
    start = 1 if signature.rows == "free" else 0
    return any(None in one.shape[start:] for one in signature.inputs)
