"""A stretch of an appliance's life, kept in a file and played over and over as if it happened now. Owns how
its times become those of today; what is asked of it is `demo`'s.
"""

from __future__ import annotations

import lzma
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from time import time

import msgspec

from mdslite.blame import is_error
from mdslite.tui.snapshot import Json
from mdslite.tui.terms import Terms

Key = tuple[str | None, str | None, str | None, bool]  # project, model, version, shadow

FORMAT = 1
_FILTERS = 64  # whose rows are remembered
_DISORDER_S = 2.0  # rows stand in the order of their answers, not of their arrivals
BEFORE_S = 3600  # how long it has been going on when it begins to be watched


class Tape(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds. Times count in seconds from its beginning, ids in microseconds; `models` are the
    answers of every few seconds, `history` has a value a second, `revisions` happened before it began."""

    format: int
    period_s: int
    status: Json
    rows: list[Json]
    models: list[tuple[float, list[Json]]]
    history: Json
    revisions: list[Json]


def write_tape(tape: Tape) -> bytes:
    return lzma.compress(msgspec.json.encode(tape), preset=9 | lzma.PRESET_EXTREME)


def read_tape(content: bytes | None = None) -> Tape:
    """The one that comes with mdslite, unless another's content is given.

    :raises msgspec.ValidationError: it is none
    """
    if content is None:
        content = resources.files("mdslite.tui").joinpath("demo.json.xz").read_bytes()
    return msgspec.json.decode(lzma.decompress(content), type=Tape)


class Recording:
    """A tape that goes round: what is at offset `s` of it happens at `begin + s`, and every period before and
    after that."""

    def __init__(self, tape: Tape, *, clock: Callable[[], float] = time) -> None:
        self.tape = tape
        self.period_s = tape.period_s
        self._clock = clock
        self.begin = int(clock())
        self._ids = [row["id"] for row in tape.rows]
        self._times = [row["time"] for row in tape.rows]
        self._found: dict[str, list[int]] = {}

    @property
    def now(self) -> float:
        return self._clock()

    @property
    def first(self) -> float:
        """When it began to go round."""
        return self.begin - BEFORE_S

    def offset(self, moment: float) -> float:
        return (moment - self.begin) % self.period_s

    def rows(self, terms: Terms, filter: str, *, before: int | None = None) -> Iterator[Json]:
        """What was logged, newest first; `filter` is the text that `terms` was made of, but for its times."""
        found = self._matching(filter, terms)
        last = min(self.now, terms.until or self.now)
        first = max(self.first, terms.since or self.first)
        round_now = int((last - self.begin) // self.period_s)
        for turn in range(round_now, round_now - int(BEFORE_S / self.period_s) - 3, -1):
            shift = self.begin + turn * self.period_s
            for at in reversed(found):
                moment = shift + self._times[at]
                number = int(shift * 1_000_000) + self._ids[at]
                if moment >= last or (before is not None and number >= before):
                    continue
                if moment < first:
                    return
                yield {**self.tape.rows[at], "id": number, "time": moment}

    def row(self, number: int) -> Json | None:
        """The row of an id."""
        shift = int((number / 1e6 - self.begin) // self.period_s) * self.period_s + self.begin
        place = bisect_left(self._ids, number - int(shift * 1_000_000))
        if place == len(self._ids) or self._ids[place] != number - int(shift * 1_000_000):
            return None
        return {**self.tape.rows[place], "id": number, "time": shift + self._times[place]}

    def related(self, row: Json) -> list[Json]:
        """The shadows of a primary, or the primary of a shadow."""
        shift = row["time"] - self._times[bisect_left(self._ids, self._own_id(row["id"]))]
        return [
            {**other, "id": int(shift * 1_000_000) + other["id"], "time": shift + other["time"]}
            for other in self.tape.rows
            if other["request_id"] == row["request_id"] and other["shadow"] != row["shadow"]
        ]

    def models(self, moment: float) -> list[Json]:
        offset = self.offset(moment)
        found = self.tape.models[0][1]
        for at, models in self.tape.models:
            if at > offset:
                break
            found = models
        return found

    def counts(
        self, terms: Terms, filter: str, *, since: float, interval_s: float, buckets: int
    ) -> dict[Key, tuple[list[int], list[int]]]:
        """Requests and failures by version in `buckets` intervals from `since` on."""
        found: dict[Key, tuple[list[int], list[int]]] = {}
        until = min(self.now, since + buckets * interval_s)
        matching = self._matching(filter, terms)
        times = [self._times[at] for at in matching]
        turn = int((since - self.begin) // self.period_s)
        while (shift := self.begin + turn * self.period_s) < until:
            for at in matching[bisect_left(times, since - shift - _DISORDER_S) :]:
                moment = shift + self._times[at]
                if moment >= until + _DISORDER_S:
                    break
                if not max(since, self.first) <= moment < until:
                    continue
                row = self.tape.rows[at]
                key = (row["project"], row["model"], row["version"], row["shadow"])
                counts, errors = found.setdefault(key, ([0] * buckets, [0] * buckets))
                bucket = min(buckets - 1, int((moment - since) / interval_s))
                counts[bucket] += 1
                errors[bucket] += is_error(row["status"])
            turn += 1
        return found

    def seconds(self, since: float, until: float) -> Sequence[float]:
        """The full seconds of a span that are recorded."""
        first = max(int(since) + 1, int(self.first))
        return [float(second) for second in range(first, int(min(until, self.now)) + 1)][-BEFORE_S:]

    def _own_id(self, number: int) -> int:
        shift = int((number / 1e6 - self.begin) // self.period_s) * self.period_s + self.begin
        return number - int(shift * 1_000_000)

    def _matching(self, filter: str, terms: Terms) -> list[int]:
        """The places of the rows that pass, in the order of their ids."""
        found = self._found.get(filter)
        if found is None:
            if len(self._found) >= _FILTERS:
                self._found.clear()
            found = [at for at, row in enumerate(self.tape.rows) if terms.match(row)]
            self._found[filter] = found
        return found
