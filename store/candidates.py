"""Requests that wait for a label, copied out of the log: a bounded number of each model and rule, the oldest
making room. A database of its own, `candidates.db`: their bodies would only make the registry slow.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mdslite.store.database import Ledger, sqlite_errors
from mdslite.store.labels import Item, Reason

WAITING_MAX = 500  # of a model and rule

_SCHEMA = """
create table if not exists candidates (
  id integer primary key, project text not null, model text not null, reason text not null,
  data blob not null
);
create index if not exists candidates_by_model on candidates (project, model, reason, id);
create table if not exists cursors (name text primary key not null, value integer not null);
"""


@dataclass(slots=True)
class CandidateStore(Ledger):
    """The table."""

    waiting_max: int = WAITING_MAX

    def _lay_out(self, db: sqlite3.Connection) -> None:
        db.executescript(_SCHEMA)

    def add(self, items: Sequence[Item], *, cursors: dict[str, int] | None = None) -> None:
        """Put requests in line, and keep how far the log was read. One that waits already is replaced."""
        with sqlite_errors(self.path), self._open as db:
            db.executemany(
                "insert or replace into candidates (id, project, model, reason, data) values (?, ?, ?, ?, ?)",
                [
                    (
                        one.id,
                        one.project,
                        one.model,
                        one.reason,
                        zlib.compress(msgspec.msgpack.encode(one), 1),
                    )
                    for one in items
                ],
            )
            for name in {(one.project, one.model, one.reason) for one in items}:
                db.execute(
                    "delete from candidates where id in (select id from candidates where project = ?"
                    " and model = ? and reason = ? order by id desc limit -1 offset ?)",
                    (*name, self.waiting_max),
                )
            db.executemany(
                "insert or replace into cursors (name, value) values (?, ?)", (cursors or {}).items()
            )

    def cursors(self) -> dict[str, int]:
        with sqlite_errors(self.path):
            return dict(self._open.execute("select name, value from cursors").fetchall())

    def get(self, item_id: int) -> Item | None:
        with sqlite_errors(self.path):
            row = self._open.execute("select data from candidates where id = ?", (item_id,)).fetchone()
        return None if row is None else _item(row[0])

    def remove(self, item_id: int) -> None:
        with sqlite_errors(self.path), self._open as db:
            db.execute("delete from candidates where id = ?", (item_id,))

    def page(
        self,
        *,
        project: str | None,
        model: str | None,
        reason: Reason | None,
        limit: int,
        before: int | None = None,
    ) -> list[Item]:
        """Who waits, the newest first; ids below `before` alone."""
        with sqlite_errors(self.path):
            rows = self._open.execute(
                f"select data from candidates where {_WHERE} and (?4 is null or id < ?4)"
                " order by id desc limit ?5",
                (project, model, reason, before, limit),
            ).fetchall()
        return [_item(row[0]) for row in rows]

    def count(self, *, project: str | None, model: str | None, reason: Reason | None) -> int:
        with sqlite_errors(self.path):
            row = self._open.execute(
                f"select count(*) from candidates where {_WHERE}", (project, model, reason)
            ).fetchone()
        return int(row[0])

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How many wait, by project, model and rule."""
        with sqlite_errors(self.path):
            rows = self._open.execute(
                "select project, model, reason, count(*) from candidates group by 1, 2, 3"
            ).fetchall()
        return {(project, model, reason): count for project, model, reason, count in rows}


_WHERE = "(?1 is null or project = ?1) and (?2 is null or model = ?2) and (?3 is null or reason = ?3)"


def _item(data: bytes) -> Item:
    return msgspec.msgpack.decode(zlib.decompress(data), type=Item)
