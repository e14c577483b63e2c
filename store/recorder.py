"""Puts blocks into the right hour files and keeps the folder in order. Owns the file being written; used from
the writer's one thread only.

Ids are the order of the log: strictly rising over all files, close to the moment of the answer in unix
microseconds, never lower than it. So `id >= since` holds for every row that arrived after `since`, a file's
rows need no other index, and one number says where a reader is. When the clock jumps back, ids go on from the
last one and rows go to the file of the hour that the clock now shows.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from mdslite.errors import MdsliteError, StoreCorrupt
from mdslite.store.blocks import Block, Ints
from mdslite.store.courtesy import Rest, no_rest
from mdslite.store.hourfile import HourFile, Mark, read_mark, read_sampled
from mdslite.store.hours import (
    HOUR_S,
    connect,
    expired,
    hour_of,
    hour_path,
    list_hours,
    remove,
    set_aside,
    translated,
)

CLOCK_JUMP_S = 60.0  # a step back of less keeps rows in the hour of their ids
DISTRUST_S = 600.0  # no file is removed for its age so soon after a start or a jump of the clock

_log = logging.getLogger(__name__)


class Waiting:
    """A block with its ids, and the parts of it that are still to be written. Its last part is written
    together with the mark."""

    def __init__(self, block: Block, ids: Ints, parts: deque[tuple[int, slice]], mark: Mark | None) -> None:
        self.block = block
        self.ids = ids
        self.parts = parts  # (start of the hour, rows)
        self.mark = mark

    @property
    def count(self) -> int:
        return sum(part.stop - part.start for _, part in self.parts)


class Recorder:
    """`max_age_s` and `max_bytes` bound the folder; the file being written is never removed."""

    def __init__(
        self,
        folder: Path,
        *,
        max_age_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rest: Rest = no_rest,
    ) -> None:
        self.set_aside: tuple[str, ...] = ()  # names of the files set aside since the start
        self.size_bytes = 0  # of all files, when the folder was last looked at
        self._folder = folder
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._monotonic = monotonic
        self._rest = rest
        self._file: HourFile | None = None
        self._used = False  # since the last `tidy`
        self._last_id = 0
        self._marks: list[Mark] = []
        self._sampled: dict[Path, int] = {}  # bytes of the log's sample of bodies, by file
        self._clocks = (0.0, 0.0)  # wall and monotonic at the last `tidy`
        self._trusted_from_s = 0.0

    def open(self) -> None:
        """Find the last id of what is there, and the marks.

        :raises StoreError: the folder cannot be read
        """
        self._clocks = (self._clock(), self._monotonic())
        self._trusted_from_s = self._monotonic() + DISTRUST_S
        hours = list_hours(self._folder)
        ends = {hour.path: _end(hour.path) for hour in hours if not hour.set_aside}
        self._last_id = max((end.last_id for end in ends.values()), default=0)
        self._marks = [end.mark for end in ends.values() if end.mark is not None]
        self._sampled = {path: end.sampled_bytes for path, end in ends.items()}
        self.size_bytes = sum(hour.size_bytes for hour in hours)

    @property
    def sampled_bytes(self) -> int:
        """How much of the log's sample of bodies the files hold."""
        return sum(self._sampled.values())

    def position(self, ring: int) -> int:
        """How much of a ring was written before `open`."""
        return max((mark.position for mark in self._marks if mark.ring == ring), default=0)

    def number(self, block: Block, *, mark: Mark | None = None) -> Waiting:
        """Give ids to a block and cut it where the hour turns."""
        ended_us = block.ended_us
        steps = np.arange(block.count)
        floor = ended_us - steps
        floor[0] = max(int(floor[0]), self._last_id + 1)
        ids: Ints = np.maximum.accumulate(floor) + steps
        self._last_id = int(ids[-1])
        moments = np.where(ids - ended_us < CLOCK_JUMP_S * 1e6, ids, ended_us)
        hours = moments // (HOUR_S * 1_000_000)
        bounds = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), block.count]
        parts = deque((int(hours[start]) * HOUR_S, slice(start, stop)) for start, stop in pairwise(bounds))
        return Waiting(block, ids, parts, mark)

    def write(self, waiting: Waiting) -> None:
        """Write what is left of a block; what is written when an error comes stays written.

        :raises StoreError, StorageFull: the rest may be tried again
        """
        fresh = False
        while waiting.parts:
            start, part = waiting.parts[0]
            try:
                file = self._file_of(start)
                if (behind := file.last_id + 1 - int(waiting.ids[part.start])) > 0:
                    waiting.ids = waiting.ids + behind
                    self._last_id = max(self._last_id, int(waiting.ids[-1]))
                mark = waiting.mark if len(waiting.parts) == 1 else None
                file.write(waiting.block, waiting.ids, part, mark=mark)
            except StoreCorrupt as exc:
                self._drop_file()
                if fresh:
                    raise
                self._put_aside(hour_path(self._folder, start), exc)
                fresh = True
                continue
            except BaseException:
                self._drop_file()  # its dictionaries may be ahead of the disk
                raise
            self._used = True
            self._sampled[file.path] = file.sampled_bytes
            waiting.parts.popleft()

    def tidy(self) -> None:
        """Seal what is no longer written, and remove what is too old or too much.

        :raises StoreError: the folder cannot be changed
        """
        now = self._clock()
        if self._file is not None and not self._used and self._file.start != hour_of(now):
            self._seal()
        self._used = False
        current = self._file.start if self._file is not None else hour_of(now)
        hours = list_hours(self._folder)
        for hour in expired(
            hours,
            now=now if self._trusts(now) else None,
            max_age_s=self._max_age_s,
            max_bytes=self._max_bytes,
            current=current,
        ):
            remove(hour.path)
            hours.remove(hour)
            self._sampled.pop(hour.path, None)
        self.size_bytes = sum(hour.size_bytes for hour in hours)
        for hour in hours:
            if not hour.sealed and hour.start != current and not hour.set_aside:
                self._settle(hour.path)

    def close(self) -> None:
        if self._file is not None:
            self._seal()

    def _file_of(self, start: int) -> HourFile:
        if self._file is not None:
            if self._file.start == start:
                return self._file
            self._seal()
        file = HourFile(hour_path(self._folder, start), start=start, rest=self._rest)
        file.open()
        self._file = file
        return file

    def _seal(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.seal()
            except (
                MdsliteError
            ) as exc:  # a reader holds it, it is damaged, the disk is full: `tidy` tries again
                _log.debug("%s is not sealed yet: %s", file.path.name, exc)

    def _drop_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _put_aside(self, path: Path, reason: StoreCorrupt) -> None:
        target = set_aside(path)
        self._sampled.pop(path, None)
        self.set_aside = (*self.set_aside, target.name)
        _log.warning("%s; it is now %s and the log goes on in a new file", reason, target.name)

    def _settle(self, path: Path) -> None:
        """Bring what a crash or a reader left in the -wal into the file."""
        try:
            connection = connect(path, write=True, timeout_s=0.2)
            try:
                connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            finally:
                connection.close()
        except sqlite3.Error as exc:
            reason = translated(exc, path.name, write=True)
            if isinstance(reason, StoreCorrupt):
                self._put_aside(path, reason)

    def _trusts(self, now: float) -> bool:
        wall, monotonic = self._clock(), self._monotonic()
        jumped = abs((wall - self._clocks[0]) - (monotonic - self._clocks[1])) > CLOCK_JUMP_S
        self._clocks = (wall, monotonic)
        if jumped:
            self._trusted_from_s = monotonic + DISTRUST_S
        return monotonic >= self._trusted_from_s


@dataclass(frozen=True, slots=True)
class _End:
    """Where a file ends, how far it tells of a ring, and what it holds of the sample of bodies."""

    last_id: int = 0
    mark: Mark | None = None
    sampled_bytes: int = 0


def _end(path: Path) -> _End:
    try:
        connection = connect(path)
        try:
            (found,) = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
            return _End(int(found), read_mark(connection), read_sampled(connection))
        finally:
            connection.close()
    except sqlite3.Error:  # it is met again, and named, when it is to be written or read
        return _End()
