"""What belongs to a row of the log, asked for when the row is looked at: its bodies, its shadows or its
primary, its label. Keeps the answers of the last few; draws nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from mdslite import errors, log_calls
from mdslite.tui.feed import Feed
from mdslite.tui.panel import Found
from mdslite.tui.snapshot import Json

SIDES: Final = ("request", "reply")
_KEPT: Final = 64
_KEPT_BYTES: Final = 2_000_000  # of bodies, which may be of a megabyte each


class Lookup:
    """One for each table."""

    def __init__(self) -> None:
        self._found: OrderedDict[int, Found] = OrderedDict()
        self._size = 0

    def known(self, row: Json) -> Found:
        """What is known of a row without asking."""
        return self._found.get(row["id"]) or Found(row)

    def forget(self, number: int) -> None:
        """It has changed: ask anew next time."""
        if (found := self._found.pop(number, None)) is not None:
            self._size -= _size(found)

    async def find(self, feed: Feed, row: Json) -> Found:
        """Ask for what belongs to a row, unless that is known."""
        number = row["id"]
        found = self._found.get(number)
        if found is None:
            found = await _ask(feed, row)
            if not found.note:
                self.forget(number)
                self._found[number] = found
                self._size += _size(found)
                while len(self._found) > _KEPT or self._size > _KEPT_BYTES:
                    self.forget(next(iter(self._found)))
        return found


def _size(found: Found) -> int:
    """Letters of the bodies."""
    bodies = (row.get(side) or {} for row in (found.row, *(found.related or ())) for side in SIDES)
    return sum(len(str(body.get("content", ""))) for body in bodies)


async def _ask(feed: Feed, row: Json) -> Found:
    try:
        told = await feed.ask(log_calls.log_row(row["id"]))
    except errors.MdsliteError as exc:
        return Found(row, note=f"{exc.message}")
    return Found(told.get("row") or row, told.get("related") or (), told.get("label"))
