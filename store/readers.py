"""Hour files as they are opened for questions. Owns the connections to those that stay open from one question
to the next: of finished hours alone, and between questions without a lock, so that nobody waits for them.

A file that is opened anew is mapped into memory anew, page by page: that costs more than to read what it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mdslite.store.reading import HourReader

State: TypeAlias = tuple[int, ...]


def file_state(path: Path) -> State:
    """What changes when the file is written: time, size and inode of it, and of its -wal where it has one."""
    state: list[int] = []
    for name in (path, path.with_name(path.name + "-wal")):
        try:
            found = os.stat(name)
        except FileNotFoundError:
            continue
        state += (found.st_mtime_ns, found.st_size, found.st_ino)
    return tuple(state)


@dataclass(frozen=True, slots=True)
class _Kept:
    reader: HourReader
    state: State


class Readers:
    """At most `kept` files stay open, those that were asked for last; with any, it is used from one thread
    alone. `mapped` as of `HourReader`."""

    def __init__(self, *, mapped: bool = False, kept: int = 0) -> None:
        self._mapped = mapped
        self._limit = kept
        self._kept: dict[Path, _Kept] = {}  # the one that was used last stands last

    @property
    def kept(self) -> frozenset[Path]:
        """The files that are open while nothing is asked."""
        return frozenset(self._kept)

    @contextmanager
    def open(self, path: Path, late: Callable[[], bool], *, bodies: bool = True) -> Iterator[HourReader]:
        """`late` and `bodies` as of `HourReader` and its `begin`.

        :raises StoreError, DeadlineExceeded: as of `HourReader`
        """
        state = file_state(path)
        known = self._kept.pop(path, None)
        if known is not None and known.state != state:
            known.reader.close()
            known = None
        reader = HourReader(path, late=late, mapped=self._mapped) if known is None else known.reader
        reader.begin(late, bodies=bodies)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        if self._limit and _is_finished(state):
            reader.rest()
            self._kept[path] = _Kept(reader, state)
            while len(self._kept) > self._limit:
                self._kept.pop(next(iter(self._kept))).reader.close()
        else:
            reader.close()

    def keep_only(self, paths: Collection[Path]) -> None:
        """Close all others: what was removed takes up its room for as long as somebody has it open."""
        for path in [path for path in self._kept if path not in paths]:
            self._kept.pop(path).reader.close()


def _is_finished(state: State) -> bool:
    """Whether it has no -wal: nobody writes it, as far as one can see."""
    return len(state) == 3
