"""Which request and reply bodies the log keeps, and how much of each. Owns no file.

The event loop has chosen a few (`serving/samples.py`); what is decided here, in the writer's process, is
what there is room for. The sample that every version's log holds shares one bound over all files: at any
moment it may take what is left of it within a day, so that it is never full, and an even traffic is sampled
evenly. Bodies that a version's own rule asks for are bounded by the log's size alone, whose oldest hours go;
but no hour may fill it by itself.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import random
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdslite.store.redaction import Redactor
from mdslite.store.rows import CONFIDENCE, KEEPING, REPLY, REQUEST, SAMPLED, Keeping, Labels, Record

SPREAD_S = 86_400.0  # in which the sample may take what is left for it
BURST_S = 600.0  # what is not used up adds up for so long
GOOD_SHARE = 0.75  # of that, which good answers may use: the rest is for errors
ROW_BYTES = 24  # what a row of the table takes beside its bodies

# Text where the bytes are text, so that SQL can search it; bytes otherwise.
Content: TypeAlias = str | bytes | None

_REDACTORS_MAX = 256
_utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Body:
    """What is kept of one row's bodies; `request_bytes` and `reply_bytes` are the sizes of the whole ones,
    of redacted ones as they are then."""

    index: int  # of the row in its block
    request: Content
    reply: Content
    request_bytes: int
    reply_bytes: int
    redacted: bool = False
    sampled: bool = True
    even: bool = True  # chosen by chance alone, whatever came of the request

    @property
    def size_bytes(self) -> int:
        return _size(self.request) + _size(self.reply) + ROW_BYTES


class Purse:
    """So many bytes a second, saved up for BURST_S."""

    def __init__(self, rate: float, now_s: float) -> None:
        self.rate = rate
        self.bytes = rate * BURST_S
        self._since_s = now_s

    def fill(self, rate: float, now_s: float) -> None:
        self.bytes = min(self.bytes + rate * (now_s - self._since_s), rate * BURST_S)
        self.rate, self._since_s = rate, now_s


class BodyBudget:
    """`sample_bytes` bounds the sample in all files, `hour_bytes` what rules of the versions' own add in an
    hour. Used from one thread."""

    def __init__(self, *, sample_bytes: int = 1 << 30, hour_bytes: int = 1 << 31) -> None:
        self.kept = 0
        self.left_out = 0  # chosen by the event loop, but there was no room for them
        self._sample_bytes = sample_bytes
        self._hour_rate = hour_bytes / 3600
        self._sample: Purse | None = None
        self._asked: Purse | None = None
        self._redactors: dict[tuple[str, ...], Redactor] = {}

    def grant(self, used_bytes: int, now_s: float) -> None:
        """So many bytes of the sample are in the files; `now_s` is monotonic."""
        rate = max(0, self._sample_bytes - used_bytes) / SPREAD_S
        if self._sample is None or self._asked is None:
            self._sample, self._asked = Purse(rate, now_s), Purse(self._hour_rate, now_s)
        self._sample.fill(rate, now_s)
        self._asked.fill(self._hour_rate, now_s)

    def choose(
        self, rows: Sequence[Record], labels: Sequence[Labels], label: NDArray[np.int64]
    ) -> tuple[Body, ...]:
        """Spend the budget on these rows and return the kept bodies in row order."""
        chosen: list[Body] = []
        if self._sample is None or self._asked is None:
            return ()
        for index in _in_turns(rows, labels, label):
            keeping = _keeping(rows[index])
            failed = labels[int(label[index])].status >= 400
            purse = self._asked if keeping.asked else self._sample
            saved = 0.0 if failed or keeping.asked else (1 - GOOD_SHARE) * purse.rate * BURST_S
            body = None
            if purse.bytes > saved:
                body = self._body(index, rows[index], keeping, failed=failed)
                if body is None:
                    continue
            if body is None or purse.bytes - body.size_bytes < saved:
                self.left_out += 1
                continue
            purse.bytes -= body.size_bytes
            chosen.append(body)
        self.kept += len(chosen)
        return tuple(sorted(chosen, key=lambda body: body.index))

    def redactor(self, names: tuple[str, ...]) -> Redactor:
        if names not in self._redactors:
            if len(self._redactors) >= _REDACTORS_MAX:
                self._redactors.clear()
            self._redactors[names] = Redactor(names)
        return self._redactors[names]

    def _body(self, index: int, row: Record, keeping: Keeping, *, failed: bool) -> Body | None:
        request, reply, (request_bytes, reply_bytes) = row[REQUEST], row[REPLY], row[-2:]
        if keeping.redact:
            redactor = self.redactor(keeping.redact)
            request = None if not request else redactor.redact(request)
            reply = None if not reply else redactor.redact(reply, is_error=failed)
            if request is None and reply is None:
                return None
            request_bytes, reply_bytes = len(request or b""), len(reply or b"")
        return Body(
            index=index,
            request=_content(request, request_bytes, keeping.max_bytes),
            reply=_content(reply, reply_bytes, keeping.max_bytes),
            request_bytes=request_bytes,
            reply_bytes=reply_bytes,
            redacted=bool(keeping.redact),
            sampled=not keeping.asked,
            even=not failed and _is_even(row[CONFIDENCE], keeping),
        )


def _in_turns(rows: Sequence[Record], labels: Sequence[Labels], label: NDArray[np.int64]) -> list[int]:
    """The rows with bodies: each version's first, then each one's second, so that a busy one leaves room."""
    turns: Counter[tuple[str | None, ...]] = Counter()
    order = []
    for index, row in enumerate(rows):
        if row[REQUEST] or row[REPLY]:
            version = labels[int(label[index])][:3]
            turns[version] += 1
            order.append((turns[version], index))
    return [index for _, index in sorted(order)]


def _keeping(row: Record) -> Keeping:
    told = row[KEEPING]
    return SAMPLED if told is None else Keeping(told[0], tuple(told[1]), *told[2:])


def _is_even(confidence: float | None, keeping: Keeping) -> bool:
    """Was a good answer chosen as all others were? Of the doubtful ones, which were all kept, so many are."""
    if keeping.below is None or confidence is None or not confidence < keeping.below:
        return True
    return random() < keeping.share


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


def _size(content: Content) -> int:
    if content is None:
        return 0
    return len(content) if isinstance(content, bytes) else len(content.encode())
