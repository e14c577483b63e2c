"""Rows, clocks and journals for the tests of the request log and the metrics."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdslite.store.blocks import Block, build_block
from mdslite.store.bodies import BodyBudget
from mdslite.store.filters import Filter, parse
from mdslite.store.journal import ROW_FIELDS, Journal, Row
from mdslite.store.letters import Order
from mdslite.store.ring import Ring
from mdslite.store.rows import Run, pack_row, unpack
from mdslite.store.searcher import serve as answer_questions
from mdslite.store.tallies import Tally, tally
from mdslite.store.writer import serve

NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z
HOUR_S = 3600.0

_numbers = itertools.count()


class Clock:
    """Wall and monotonic time that stand still until a test moves them."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now
        self.monotonic_s = 1000.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.monotonic_s

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.monotonic_s += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.now += seconds


def row(**fields: Any) -> Row:
    """A good request at noon, but for what is given."""
    values: dict[str, Any] = {
        "time": NOON,
        "request_id": f"request-{next(_numbers)}",
        "project": "mail",
        "model": "spam",
        "version": "v1",
        "shadow": False,
        "url": "/projects/mail/models/spam:predict",
        "status": 200,
        "code": None,
        "latency_ms": 2.0,
        "queue_ms": 0.5,
        "compute_ms": 1.0,
        "upstream_ms": None,
        "rows": 1,
        "batch_rows": 4,
        "confidence": 0.75,
        "endpoint": "local/0",
        "request": None,
        "reply": None,
        "spans": None,
        "client": None,
        "trace_id": None,
    }
    assert not fields.keys() - values.keys()
    return tuple((values | fields)[name] for name in ROW_FIELDS)


def block(*rows: Row | Run) -> Block:
    records = [one if isinstance(one, Run) else unpack(pack_row(one)) for one in rows]
    budget = BodyBudget()
    budget.grant(0, 0.0)
    return build_block(records, budget=budget)


def counted(*rows: Row | Run) -> Tally:
    return tally(block(*rows))


def wanted(text: str = "", *, now: float = NOON) -> Filter:
    return parse(text, now=now)


class WriterThread:
    """The writer itself, but in a thread of the test's process: quicker to start, and on the test's clock."""

    def __init__(
        self,
        order: Order,
        end: socket.socket,
        ring: Ring,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reason: str | None = None
        self._end = end.dup()
        self._ring = Ring(os.dup(ring.fd))
        self._clock, self._monotonic = clock, monotonic
        self._thread = threading.Thread(target=self._serve, args=(order,), name="writer")
        self._thread.start()

    def kill(self, reason: str | None = None) -> None:
        self.reason = reason
        self._end.shutdown(socket.SHUT_RDWR)

    def wait(self, timeout_s: float | None = None) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self, order: Order) -> None:
        with self._end:
            serve(order, self._end, self._ring, clock=self._clock, monotonic=self._monotonic)
        self._ring.close()


def launch_thread(order: Order, end: socket.socket, ring: Ring) -> WriterThread:
    return WriterThread(order, end, ring)


class SearchThread:
    """The log's reader itself, but in a thread of the test's process: quicker to start."""

    def __init__(self, end: socket.socket, folder: Path, timeout_s: float) -> None:
        self.reason: str | None = None
        self._end = end.dup()
        self._thread = threading.Thread(target=self._serve, args=(folder, timeout_s), name="searcher")
        self._thread.start()

    def kill(self, reason: str | None = None) -> None:
        self.reason = reason or "was killed"
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def wait(self, timeout_s: float | None = None) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self, folder: Path, timeout_s: float) -> None:
        with self._end:
            answer_questions(self._end, folder, timeout_s=timeout_s)


def launch_search_thread(end: socket.socket, folder: Path, timeout_s: float) -> SearchThread:
    return SearchThread(end, folder, timeout_s)


@contextmanager
def running(folder: Path, clock: Clock | None = None, **options: Any) -> Iterator[Journal]:
    """A started journal, closed at the end, that writes in a thread; on a clock of the test's if given."""

    def launch(order: Order, end: socket.socket, ring: Ring) -> WriterThread:
        if clock is None:
            return WriterThread(order, end, ring)
        return WriterThread(order, end, ring, clock=clock.wall, monotonic=clock.monotonic)

    journal = Journal(folder, **({"launch": launch} | options))
    journal.start()
    if clock is not None:
        journal.flush()  # so that the writer has looked at the clock before the test moves it
    try:
        yield journal
    finally:
        journal.close()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
