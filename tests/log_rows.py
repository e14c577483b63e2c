"""Rows, clocks and journals for the tests of the request log and the metrics."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdslite.store.blocks import Block, build_block
from mdslite.store.bodies import BodyBudget
from mdslite.store.filters import Filter, parse
from mdslite.store.journal import ROW_FIELDS, Journal, Row

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
    }
    assert not fields.keys() - values.keys()
    return tuple((values | fields)[name] for name in ROW_FIELDS)


def block(*rows: Row) -> Block:
    return build_block(rows, budget=BodyBudget(), now_s=0.0)


def wanted(text: str = "", *, now: float = NOON) -> Filter:
    return parse(text, now=now)


@contextmanager
def running(folder: Path, clock: Clock | None = None, **options: Any) -> Iterator[Journal]:
    """A started journal, closed at the end; on a clock of the test's if one is given."""
    if clock is not None:
        options |= {"clock": clock.wall, "monotonic": clock.monotonic}
    journal = Journal(folder, **options)
    journal.start()
    try:
        yield journal
    finally:
        journal.close()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
