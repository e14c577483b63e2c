"""Predictions that were accepted to be answered later: their requests, and their answers for as long as these
are kept. A database of their own, `deferred.db`: bodies would only make the registry slow.

What `add` has returned from survives a power cut. A request whose answer was not kept yet when the process
ended is answered by the next one: at least once, not exactly once.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mdslite.errors import Overloaded
from mdslite.store.database import connect_writer, reader_uri, sqlite_errors

COUNT_MAX = 10_000
BYTES_MAX = 1 << 30
KEEP_S = 3600.0  # how long an answer is kept
_FULL_RETRY_S = 10.0

State = Literal["waiting", "done", "cancelled"]

_SCHEMA = """
create table if not exists predictions (
  id text primary key not null,
  state text not null,
  project text not null,
  model text not null,
  target blob not null,
  fields text not null,
  body blob not null,
  submitted_at real not null,
  status integer,
  reply_headers text,
  reply blob,
  finished_at real,
  webhook text,
  told integer not null default 0,
  client text
);
create index if not exists predictions_by_end on predictions (finished_at);
"""


@dataclass(frozen=True, slots=True)
class Deferred:
    """A request: `target` and `fields` (lower-case header names) as they came; `client` is what the log calls
    its sender. Times in Unix seconds."""

    id: str
    project: str
    model: str
    target: bytes
    fields: Mapping[bytes, bytes]
    body: bytes
    submitted_at: float
    webhook: str | None = None
    client: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """An answer, and when it was ready."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    finished_at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A request, its state, and its answer once it has one. `told`: its webhook needs no more calls."""

    request: Deferred
    state: State
    result: Result | None = None
    told: bool = False


@dataclass(slots=True)
class DeferredStore:
    """The table. Every method belongs to the one thread that called `open`."""

    path: Path
    count_max: int = COUNT_MAX
    bytes_max: int = BYTES_MAX
    _db: sqlite3.Connection | None = field(default=None, init=False)
    _count: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)

    def open(self) -> list[str]:
        """Open the table, making it if need be; returns what is still to be done, the oldest first."""
        with sqlite_errors(self.path):
            self.path.touch()
            self._db = connect_writer(self.path)
            self._db.executescript(_SCHEMA)
            columns = [row[1] for row in self._db.execute("pragma table_info(predictions)")]
            if "client" not in columns:  # a store from before senders were kept
                self._db.execute("alter table predictions add column client text")
            self._measure()
            rows = self._db.execute(
                "select id from predictions where state = 'waiting' or (webhook is not null and not told"
                " and state = 'done') order by submitted_at, id"
            ).fetchall()
        return [row[0] for row in rows]

    def add(self, request: Deferred) -> None:
        """Keep a request.

        :raises Overloaded: as many are kept as may be
        :raises StorageFull: the disk has no room
        """
        size = len(request.body)
        if self._count >= self.count_max or self._bytes + size > self.bytes_max:
            raise Overloaded("as many deferred predictions are kept as may be", retry_after_s=_FULL_RETRY_S)
        with sqlite_errors(self.path), self._open as db:
            db.execute(
                "insert into predictions (id, state, project, model, target, fields, body, submitted_at,"
                " webhook, client) values (?, 'waiting', ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    request.id,
                    request.project,
                    request.model,
                    request.target,
                    _pack(request.fields.items()),
                    request.body,
                    request.submitted_at,
                    request.webhook,
                    request.client,
                ),
            )
        self._count += 1
        self._bytes += size

    def get(self, prediction_id: str) -> Entry | None:
        with sqlite_errors(self.path):
            row = self._open.execute(
                "select id, project, model, target, fields, body, submitted_at, webhook, state, status,"
                " reply_headers, reply, finished_at, told, client from predictions where id = ?",
                (prediction_id,),
            ).fetchone()
        return None if row is None else _entry(row)

    def finish(self, prediction_id: str, result: Result) -> None:
        """Keep the answer of a request that still waits for one; the request's own bytes are let go."""
        freed = self._size(prediction_id)
        with sqlite_errors(self.path), self._open as db:
            changed = db.execute(
                "update predictions set state = 'done', status = ?, reply_headers = ?, reply = ?,"
                " finished_at = ?, body = x'' where id = ? and state = 'waiting'",
                (result.status, _pack(result.headers), result.body, result.finished_at, prediction_id),
            ).rowcount
        if changed:
            self._bytes += len(result.body) - freed

    def cancel(self, prediction_id: str, now: float) -> None:
        """Forget what a request asks for, or what it was answered."""
        freed = self._size(prediction_id)
        with sqlite_errors(self.path), self._open as db:
            db.execute(
                "update predictions set state = 'cancelled', body = x'', reply = null, reply_headers = null,"
                " status = null, finished_at = ?, told = 1 where id = ?",
                (now, prediction_id),
            )
        self._bytes -= freed

    def note_told(self, prediction_id: str) -> None:
        with sqlite_errors(self.path), self._open as db:
            db.execute("update predictions set told = 1 where id = ?", (prediction_id,))

    def sweep(self, before: float) -> int:
        """Drop what was finished before then; returns how many."""
        with sqlite_errors(self.path), self._open as db:
            gone = db.execute("delete from predictions where finished_at < ?", (before,)).rowcount
        if gone:
            self._measure()
        return gone

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _size(self, prediction_id: str) -> int:
        found = self._open.execute(
            "select length(body) + coalesce(length(reply), 0) from predictions where id = ?", (prediction_id,)
        ).fetchone()
        return 0 if found is None else int(found[0])

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    def _measure(self) -> None:
        self._count, self._bytes = self._open.execute(
            "select count(*), coalesce(sum(length(body) + coalesce(length(reply), 0)), 0) from predictions"
        ).fetchone()


def copy_kept(source: Path, copy: Path, *, since: float) -> None:
    """Copy what still waits, and what was answered since, into a database of its own: no larger than that,
    whatever the source has held and let go.

    :raises StoreCorrupt: the source is damaged
    :raises StorageFull: there is no room for the copy, or no source
    """
    copy.touch(mode=0o600)
    with sqlite_errors(source), closing(sqlite3.connect(copy.absolute().as_uri(), uri=True)) as db:
        db.execute("attach database ? as source", (reader_uri(source),))
        db.executescript(_SCHEMA)
        known = {row[1] for row in db.execute("pragma source.table_info(predictions)")}
        columns = ", ".join(
            row[1] for row in db.execute("pragma main.table_info(predictions)") if row[1] in known
        )
        if columns:  # an appliance that starts makes the file before its table
            with db:
                db.execute(
                    f"insert into main.predictions ({columns}) select {columns} from source.predictions"
                    " where finished_at is null or finished_at >= ?",
                    (since,),
                )


def _entry(row: tuple[Any, ...]) -> Entry:
    (name, project, model, target, fields, body, submitted_at, webhook, state, status, headers, reply,
     finished_at, told, client) = row  # fmt: skip
    request = Deferred(
        name,
        project,
        model,
        target,
        dict(_unpack(fields)),
        body,
        submitted_at,
        webhook=webhook,
        client=client,
    )
    result = None if status is None else Result(status, _unpack(headers), reply, finished_at)
    return Entry(request, state, result, bool(told))


def _pack(pairs: Any) -> str:
    return json.dumps([[name.decode("latin-1"), value.decode("latin-1")] for name, value in pairs])


def _unpack(text: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(text)]
