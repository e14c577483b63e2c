"""What a lane says to whom it cannot serve. Decides nothing."""

from __future__ import annotations

import math

from mdslite.errors import Overloaded, TooLarge, Unavailable
from mdslite.serving.knobs import Knobs


def overloaded(name: str, waiting: int, knobs: Knobs, *, batch_s: float) -> Overloaded:
    """A full queue: come back when what waits should have been computed, in batches that take `batch_s`."""
    return Overloaded(
        f"{name} is overloaded: {waiting} of {knobs.queue_rows} rows are waiting",
        retry_after_s=max(1, math.ceil(batch_s * waiting / knobs.batch_size)),
    )


def too_many_rows(name: str, rows: int, knobs: Knobs) -> TooLarge:
    """They would not fit into an empty queue."""
    return TooLarge(
        f"{rows} rows in one request: {name} takes at most {knobs.queue_rows}",
        hint="send several smaller requests",
    )


def out_of_rotation(name: str, reason: str) -> Unavailable:
    """No replica is left, or all of them rest, for the reason given (or none)."""
    why = f": {reason}" if reason else ""
    return Unavailable(f"{name} has no working replica{why}", retry_after_s=1)


def allowed(seconds: float) -> str:
    """How long something might have taken, in words."""
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f} ms were allowed" if milliseconds >= 1 else "less than 1 ms was allowed"
