"""Rows of the request log as they are read again, and what a journal has told."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from log_rows import NOON, wanted

from mdslite.store.requests import Entry, RequestLog
from mdslite.store.tallies import Tally

SPANS = """[{"node": "first", "started_ms": 0.5, "queue_ms": 0.1, "compute_ms": 2.0, "version": "v1"},
 {"node": "second", "started_ms": 2.75, "error": "model_error", "more": 1}]"""


def read(folder: Path, text: str = "", *, now: float = NOON) -> list[Entry]:
    """Every row that passes, oldest first."""
    log, found, after = RequestLog(folder), list[Entry](), 0
    while (page := log.tail(wanted(text, now=now), after=after, limit=10_000)).rows:
        found += page.rows
        after = page.next or 0
    assert not page.skipped
    return found


def ids(folder: Path) -> list[str]:
    return [entry.request_id for entry in read(folder)]


def count(tallies: list[Tally]) -> int:
    return sum(of.count for tally in tallies for of in tally.requests)


def sql(file: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        return db.execute(statement).fetchall()
