"""Which rows of the log a table shows, while more arrive: the newest at the top, or, once a row was chosen,
the same ones as before, however many come. Holds a bounded stretch of the log without holes; draws nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from mdslite.tui.snapshot import Json

LIMIT = 5000  # rows that are held


class Logbook:
    """Rows by `id`, which rises strictly. While it follows, `chosen` is None and the newest row is the first.

    `newer` counts the rows that arrived above what is held, or is at least that where they were too many.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._rows: list[Json] = []  # oldest first
        self._ids: list[int] = []
        self._last = 0  # the newest id that was ever seen
        self.newer = 0
        self.chosen: int | None = None  # an id
        self._top: int | None = None  # the id of the first row that is seen
        self.ended = False  # nothing is older than the oldest row

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def follows(self) -> bool:
        return self.chosen is None

    @property
    def oldest(self) -> int | None:
        return self._ids[0] if self._ids else None

    def clear(self) -> None:
        """Begin anew, with another filter."""
        self._rows, self._ids = [], []
        self._last = self.newer = 0
        self.chosen = self._top = None
        self.ended = False

    def narrowed(self, holds: Callable[[Json], bool]) -> Logbook:
        """The rows for which something holds, the chosen one still chosen: what a narrower filter finds in
        the same stretch of the log."""
        made = Logbook(self._limit)
        made._rows = [row for row in self._rows if holds(row)]
        made._ids = [row["id"] for row in made._rows]
        made._last = made._ids[-1] if made._ids else 0
        made.chosen, made._top, made.ended = self.chosen, self._top, self.ended
        return made

    def absorb(self, newest: Sequence[Json], *, hole: bool = False) -> None:
        """Take in the newest rows, newest first. `hole` says that rows are missing between them and those
        before."""
        arrived = []
        for row in newest:
            if row["id"] <= self._last:
                break
            arrived.append(row)
        if not arrived:
            return
        hole = hole or (bool(self._ids) and len(arrived) == len(newest))
        self._last = arrived[0]["id"]
        if not self.follows:
            # What is looked at stays; what would make a hole, or push it out, is only counted.
            if self.newer or hole or len(self._rows) + len(arrived) > self._limit:
                self.newer += len(arrived)
                return
        elif hole:
            self._rows, self._ids = [], []
            self.ended = False
        self._rows += reversed(arrived)
        self._ids += (row["id"] for row in reversed(arrived))
        surplus = len(self._rows) - self._limit
        if surplus > 0:
            del self._rows[:surplus], self._ids[:surplus]
            self.ended = False

    def extend(self, older: Sequence[Json], *, ended: bool) -> None:
        """Take in a page of older rows, newest first, while one is chosen. The newest go where there is no
        room for all."""
        if self.follows:
            return
        fresh = [row for row in reversed(older) if not self._ids or row["id"] < self._ids[0]]
        self._rows[:0] = fresh
        self._ids[:0] = [row["id"] for row in fresh]
        self._last = max(self._last, self._ids[-1] if self._ids else 0)
        self.ended = ended
        surplus = len(self._rows) - self._limit
        if surplus > 0:
            del self._rows[-surplus:], self._ids[-surplus:]
            self.newer += surplus
            if self.chosen is not None and self.chosen > self._ids[-1]:
                self.chosen = self._top = self._ids[-1]

    def follow(self) -> bool:
        """Back to the newest rows. True when they have to be asked for anew."""
        self.chosen = self._top = None
        if not self.newer:
            return False
        self.clear()
        return True

    def row(self) -> Json | None:
        """The row that is chosen; None while it follows."""
        at = self._place(self.chosen)
        return self._rows[at] if at is not None else None

    def choose(self, steps: int, height: int) -> None:
        """Move the choice `steps` rows down (into the past) and keep it among `height` rows that are seen."""
        if not self._rows:
            return
        newest = len(self._rows) - 1
        was = self._place(self.chosen)
        at = newest if was is None else was
        if self.follows and steps > 0:
            steps -= 1  # the first step down marks the newest row
        elif self.follows:
            return
        elif at - steps > newest and not self.newer and steps == -1:
            self.follow()
            return
        at = max(0, min(newest, at - steps))
        top = self._place(self._top)
        top = newest if top is None else top
        if at > top:
            top = at
        elif at <= top - height:
            top = at + height - 1
        self.chosen, self._top = self._ids[at], self._ids[min(newest, top)]

    def point(self, line: int) -> None:
        """Choose the row in a line of what is seen."""
        top = self._place(self._top)
        at = (len(self._rows) - 1 if top is None else top) - line
        if 0 <= at < len(self._rows):
            self._top = self._top or self._ids[-1]
            self.chosen = self._ids[at]

    def to_end(self, height: int) -> None:
        """Choose the oldest row that is held."""
        if self._rows:
            self.chosen = self._ids[0]
            self._top = self._ids[min(len(self._ids), height) - 1]

    def seen(self, height: int) -> list[Json]:
        """The rows that are to be seen, newest first."""
        top = self._place(self._top)
        top = len(self._rows) - 1 if top is None else top
        if not self.follows and self._ids:  # a taller window may have room above
            top = min(len(self._rows) - 1, max(top, height - 1))
            self._top = self._ids[top]
        return self._rows[max(0, top - height + 1) : top + 1][::-1]

    def wants_older(self, height: int) -> bool:
        """Is the end of what is held so near that the next page is worth asking for?"""
        if self.ended or not self._ids:
            return False
        top = self._place(self._top)
        top = len(self._rows) - 1 if top is None else top
        return top - 2 * height < 0

    def above(self) -> int:
        """How many rows there are above what is seen."""
        top = self._place(self._top)
        return self.newer + (0 if top is None else len(self._rows) - 1 - top)

    def _place(self, number: int | None) -> int | None:
        if number is None or not self._ids:
            return None
        return min(bisect_left(self._ids, number), len(self._ids) - 1)
