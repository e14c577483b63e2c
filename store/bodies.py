"""Which request and reply bodies the log keeps, and how much of each. Owns no file.

The rule is a fixed budget a version: up to so many errors and so many other requests a second, the first ones
of each second. It is applied in the writer's process.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdslite.store.rows import MAX_BODY_BYTES, REPLY, REQUEST, Labels, Record

# Text where the bytes are text, so that SQL can search it; bytes otherwise.
Content: TypeAlias = str | bytes | None

_MAX_PURSES = 4096
_utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Body:
    """What is kept of one row's bodies; `request_bytes` and `reply_bytes` are the sizes of the whole ones."""

    index: int  # of the row in its block
    request: Content
    reply: Content
    request_bytes: int
    reply_bytes: int


class BodyBudget:
    """A purse of tokens for each version and outcome, refilled by time. Used from one thread.

    `per_second` and `errors_per_second` are bodies a version; 0 keeps none of that kind.
    """

    def __init__(
        self, *, per_second: float = 2.0, errors_per_second: float = 50.0, max_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._per_second = per_second
        self._errors_per_second = errors_per_second
        self._max_bytes = max_bytes
        self._purses: dict[tuple[str | None, str | None, str | None, bool], tuple[float, float]] = {}

    def choose(
        self, rows: Sequence[Record], labels: Sequence[Labels], label: NDArray[np.int64], *, now_s: float
    ) -> tuple[Body, ...]:
        """Spend the budget on these rows and return the kept bodies in row order; `now_s` is monotonic."""
        chosen: list[int] = []
        for number, of in enumerate(labels):
            failed = of.status >= 400
            rate = self._errors_per_second if failed else self._per_second
            purse = (of.project, of.model, of.version, failed)
            most = max(rate, 1.0) if rate else 0.0  # a rate below one a second saves up for its next body
            tokens, since_s = self._purses.get(purse, (most, now_s))
            tokens = min(most, tokens + (now_s - since_s) * rate)
            found = np.flatnonzero(label == number)[: int(tokens)].tolist()
            taken = [index for index in found if rows[index][REQUEST] or rows[index][REPLY]]
            chosen += taken
            self._purses[purse] = (tokens - len(taken), now_s)
        if len(self._purses) > _MAX_PURSES:
            self._purses.clear()
        return tuple(self._cut(index, rows[index]) for index in sorted(chosen))

    def _cut(self, index: int, row: Record) -> Body:
        request_bytes, reply_bytes = row[-2:]
        return Body(
            index=index,
            request=_content(row[REQUEST], request_bytes, self._max_bytes),
            reply=_content(row[REPLY], reply_bytes, self._max_bytes),
            request_bytes=request_bytes,
            reply_bytes=reply_bytes,
        )


def _content(body: bytes | None, whole_bytes: int, limit: int) -> Content:
    """The first `limit` bytes, as text when they are text (a character cut in two is left out)."""
    if body is None:
        return None
    kept = body[:limit]
    if b"\0" in kept:
        return kept
    try:
        return _utf8().decode(kept, final=whole_bytes <= len(kept))
    except UnicodeDecodeError:
        return kept
