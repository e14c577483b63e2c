"""One hour of the request log as its writer sees it: schema, dictionaries, rows, bodies, spans, rollups.

A block of rows is one transaction, written with statements that insert many rows each. Names that repeat
(label sets, urls) are stored once a file and are bounded, so that a flood of made-up urls cannot grow the
dictionaries without end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import StoreCorrupt
from mdslite.store import rollups
from mdslite.store.blocks import Block, Ints
from mdslite.store.chunks import ChunkWriter
from mdslite.store.columns import HASH, Array, hash_ids
from mdslite.store.courtesy import Rest, no_rest
from mdslite.store.hours import APPLICATION_ID, SCHEMA_VERSION, check_kind, connect, translated
from mdslite.store.rows import Labels

MAX_SERIES = 1024
MAX_URLS = 4096
OTHER_URL = "(other)"
SAMPLED_BYTES = "sampled_body_bytes"  # a fact: of the log's own sample, not of bodies that a rule asked for
_INSERT_ROWS = 256  # of one INSERT

_ENTRY_COLUMNS = (
    "id", "lag_us", "series_id", "url_id", "request_id", "latency_us", "queue_us", "compute_us", "rows",
    "batch_rows", "confidence", "upstream_us",
)  # fmt: skip

_SPANS = "CREATE TABLE spans (id INTEGER PRIMARY KEY REFERENCES entries(id), spans TEXT NOT NULL);"
_TRACES = "CREATE TABLE traces (id INTEGER PRIMARY KEY REFERENCES entries(id), trace_id BLOB NOT NULL);"
_VIEW = """
CREATE VIEW requests AS
SELECT
  e.id, (e.id - e.lag_us) / 1e6 AS time,
  strftime('%Y-%m-%dT%H:%M:%f', (e.id - e.lag_us) / 1e6, 'unixepoch') AS at,
  e.request_id, s.project, s.model, s.version, s.shadow, u.url, s.status, s.code,
  e.latency_us / 1e3 AS latency_ms, e.queue_us / 1e3 AS queue_ms, e.compute_us / 1e3 AS compute_ms,
  e.upstream_us / 1e3 AS upstream_ms, e.rows, e.batch_rows, e.confidence, s.endpoint, b.request, b.reply,
  p.spans, s.client, nullif(lower(hex(t.trace_id)), '') AS trace_id
FROM entries e JOIN series s ON s.id = e.series_id JOIN urls u ON u.id = e.url_id
LEFT JOIN bodies b ON b.id = e.id LEFT JOIN spans p ON p.id = e.id LEFT JOIN traces t ON t.id = e.id;
"""
SCHEMA = f"""
CREATE TABLE series (
  id INTEGER PRIMARY KEY, project TEXT, model TEXT, version TEXT, shadow INTEGER NOT NULL,
  endpoint TEXT NOT NULL, status INTEGER NOT NULL, code TEXT, client TEXT
);
CREATE TABLE urls (id INTEGER PRIMARY KEY, url TEXT NOT NULL);
CREATE TABLE entries (
  id INTEGER PRIMARY KEY, lag_us INTEGER NOT NULL, series_id INTEGER NOT NULL REFERENCES series(id),
  url_id INTEGER NOT NULL REFERENCES urls(id), request_id TEXT NOT NULL, latency_us INTEGER NOT NULL,
  queue_us INTEGER, compute_us INTEGER, rows INTEGER NOT NULL, batch_rows INTEGER NOT NULL, confidence REAL,
  upstream_us INTEGER
);
CREATE TABLE bodies (
  id INTEGER PRIMARY KEY REFERENCES entries(id), request, reply, request_bytes INTEGER NOT NULL,
  reply_bytes INTEGER NOT NULL, redacted INTEGER NOT NULL DEFAULT 0
);
{_SPANS}
{_TRACES}
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
{rollups.SCHEMA}
{_VIEW}
INSERT INTO facts VALUES ('max_lag_us', 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
# The first schema knew neither spans nor clients, the second neither traces nor redaction.
_UPGRADES = {
    1: f"ALTER TABLE series ADD COLUMN client TEXT; {_SPANS}",
    2: f"ALTER TABLE bodies ADD COLUMN redacted INTEGER NOT NULL DEFAULT 0; {_TRACES}",
}
_ADD_FACT = "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
_MARK = "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_TABLES = {"series", "urls", "entries", "bodies", "facts", "seconds", "minutes", "requests"}


@dataclass(frozen=True, slots=True)
class Mark:
    """Everything before `position` in the ring of this number is written."""

    ring: int
    position: int


class HourFile:
    """Open for writing, by one thread. After any error it must be closed and opened again.

    Every method raises StorageFull, StoreCorrupt or StoreError, as `hours.translated` says.
    """

    def __init__(self, path: Path, *, start: int, rest: Rest = no_rest) -> None:
        self.path = path
        self.start = start
        self.last_id = 0
        self.sampled_bytes = 0
        self._connection: sqlite3.Connection | None = None
        self._series: dict[Labels, int] = {}
        self._urls: dict[str, int] = {}
        self._chunks: ChunkWriter | None = None
        self._max_lag_us = 0
        self._rest = rest

    def open(self) -> None:
        """Open the file, make it when it is not there, check it when it is."""
        if self.path.exists() and not self.path.is_file():
            raise StoreCorrupt(f"{self.path.name} is no file")
        try:
            self._connection = connect(self.path, write=True)
            version = check_kind(self._connection, self.path.name)
            if version:
                self._check()
                if version != SCHEMA_VERSION:
                    self._connection.executescript(_upgrade(version))
                self._load()
            else:
                self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            self._connection.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 2000;"
                "PRAGMA journal_size_limit = 8388608; PRAGMA temp_store = MEMORY; PRAGMA secure_delete = OFF"
            )
            self._chunks = ChunkWriter(self._connection, rest=self._rest)
            self._chunks.open()
        except sqlite3.Error as exc:
            self.close()
            raise translated(exc, self.path.name, write=True) from exc
        except BaseException:
            self.close()
            raise

    def write(self, block: Block, ids: Ints, part: slice, *, mark: Mark | None = None) -> None:
        """Write one part of a block and a mark, all or nothing. `ids` are those of the whole block."""
        connection = self._opened()
        try:
            connection.execute("BEGIN IMMEDIATE")
            series_ids = self._series_ids(block)[block.label[part]]
            self._insert_entries(block, ids, part, series_ids)
            self._insert_extras(block, ids, part)
            for table, columns, sums in (
                ("seconds", rollups.SECOND_COLUMNS, rollups.second_sums),
                ("minutes", rollups.MINUTE_COLUMNS, rollups.minute_sums),
            ):
                for sql, values in rollups.statements(table, columns, sums(block, part, series_ids)):
                    connection.execute(sql, values)
                self._rest()
            if mark is not None:
                connection.executemany(_MARK, (("ring", mark.ring), ("position", mark.position)))
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            raise translated(exc, self.path.name, write=True) from exc
        self.last_id = int(ids[part][-1])
        self.sampled_bytes += _sampled(block, part)

    def seal(self) -> None:
        """Make it a plain file without companions, when no reader holds it just now; then close it."""
        try:
            connection = self._opened()
            if self._chunks is not None:
                connection.execute("BEGIN IMMEDIATE")
                self._chunks.finish()
                connection.execute("COMMIT")
            connection.execute("PRAGMA busy_timeout = 200")
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        except sqlite3.Error as exc:
            raise translated(exc, self.path.name, write=True) from exc
        finally:
            self.close()

    def close(self) -> None:
        """Close without an error, whatever state the disk is in."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreCorrupt(f"{self.path.name} is not open")
        return self._connection

    def _check(self) -> None:
        connection = self._opened()
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        if verdict != "ok" or not names >= _TABLES:
            raise StoreCorrupt(
                f"{self.path.name} is damaged: {verdict if verdict != 'ok' else 'tables are missing'}"
            )

    def _load(self) -> None:
        connection = self._opened()
        for number, project, model, version, shadow, *more in connection.execute(
            "SELECT id, project, model, version, shadow, endpoint, status, code, client FROM series"
        ):
            self._series[Labels(project, model, version, bool(shadow), *more)] = number
        self._urls = {url: number for number, url in connection.execute("SELECT id, url FROM urls")}
        (self.last_id,) = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
        (self._max_lag_us,) = connection.execute(
            "SELECT value FROM facts WHERE name = 'max_lag_us'"
        ).fetchone()
        self.sampled_bytes = read_sampled(connection)

    def _insert_entries(self, block: Block, ids: Ints, part: slice, series_ids: Ints) -> None:
        connection = self._opened()
        columns = _columns(block, ids, part, series_ids, self._url_ids(block))
        request_ids = block.request_ids[part]
        absent = np.isnan(columns["upstream_us"]).all()
        names = _ENTRY_COLUMNS[:-1] if absent else _ENTRY_COLUMNS
        for start in range(0, len(request_ids), _INSERT_ROWS):
            here = slice(start, start + _INSERT_ROWS)
            parts: list[Sequence[Any]] = [
                request_ids[here] if name == "request_id" else columns[name][here].tolist() for name in names
            ]
            values = list(chain.from_iterable(zip(*parts, strict=True)))
            connection.execute(_insert(len(parts[0]), len(names)), values)
            self._rest()
        if self._chunks is not None:
            self._chunks.add({**columns, HASH: hash_ids(request_ids)})
        greatest = int(columns["lag_us"].max())
        if greatest > self._max_lag_us:
            connection.execute("UPDATE facts SET value = ? WHERE name = 'max_lag_us'", (greatest,))
            self._max_lag_us = greatest

    def _insert_extras(self, block: Block, ids: Ints, part: slice) -> None:
        connection = self._opened()
        bodies = [body for body in block.bodies if part.start <= body.index < part.stop]
        connection.executemany(
            "INSERT INTO bodies VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    int(ids[body.index]), body.request, body.reply, body.request_bytes, body.reply_bytes,
                    body.redacted,
                )
                for body in bodies
            ],
        )  # fmt: skip
        if sampled := _sampled(block, part):
            connection.execute(_ADD_FACT, (SAMPLED_BYTES, sampled))
        connection.executemany(
            "INSERT INTO spans VALUES (?, ?)",
            [(int(ids[at]), spans) for at, spans in block.spans if part.start <= at < part.stop],
        )
        connection.executemany(
            "INSERT INTO traces VALUES (?, ?)",
            [(int(ids[at]), trace_id) for at, trace_id in block.traces if part.start <= at < part.stop],
        )

    def _series_ids(self, block: Block) -> Ints:
        return _numbered(block.labels, self._series, MAX_SERIES, _plainer_labels, self._add_series)

    def _url_ids(self, block: Block) -> Ints:
        return _numbered(block.urls, self._urls, MAX_URLS, _plainer_url, self._add_url)

    def _add_series(self, number: int, labels: Labels) -> None:
        self._opened().execute("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (number, *labels))

    def _add_url(self, number: int, url: str) -> None:
        self._opened().execute("INSERT INTO urls VALUES (?, ?)", (number, url))


def _columns(block: Block, ids: Ints, part: slice, series_ids: Ints, url_ids: Ints) -> dict[str, Array]:
    """The numbers of `entries`. Whole ones that may be absent are doubles: the columns' affinity stores them
    as integers, NaN as NULL."""
    return {
        "id": ids[part],
        "lag_us": ids[part] - np.rint(block.time[part] * 1e6).astype(np.int64),
        "series_id": series_ids,
        "url_id": url_ids[block.url[part]],
        "latency_us": np.rint(block.latency_ms[part] * 1e3),
        "queue_us": np.rint(block.queue_ms[part] * 1e3),
        "compute_us": np.rint(block.compute_ms[part] * 1e3),
        "rows": block.rows[part],
        "batch_rows": block.batch_rows[part],
        "confidence": block.confidence[part],
        "upstream_us": np.rint(block.upstream_ms[part] * 1e3),
    }


def read_mark(connection: sqlite3.Connection) -> Mark | None:
    """The mark that was written last."""
    facts = dict(connection.execute("SELECT name, value FROM facts WHERE name IN ('ring', 'position')"))
    return Mark(facts["ring"], facts["position"]) if len(facts) == 2 else None


def _sampled(block: Block, part: slice) -> int:
    return sum(
        body.size_bytes for body in block.bodies if body.sampled and part.start <= body.index < part.stop
    )


def read_sampled(connection: sqlite3.Connection) -> int:
    """How many bytes of the log's sample of bodies the file holds; of older schemas that is not known."""
    found = connection.execute("SELECT value FROM facts WHERE name = ?", (SAMPLED_BYTES,)).fetchone()
    return 0 if found is None else int(found[0])


def _upgrade(version: int) -> str:
    steps = " ".join(sql for old, sql in _UPGRADES.items() if old >= version)
    return (
        f"BEGIN IMMEDIATE; {steps} DROP VIEW requests; {_VIEW} "
        f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def _numbered(
    keys: Iterable[Any],
    known: dict[Any, int],
    limit: int,
    plainer: Callable[[Any], Any],
    add: Callable[[int, Any], None],
) -> Ints:
    """The dictionary's number of each key; a new key past `limit` goes under the plainer one."""
    numbers = []
    for key in keys:
        if key not in known and len(known) >= limit:
            key = plainer(key)
        if key not in known:
            add(len(known), key)
            known[key] = len(known)
        numbers.append(known[key])
    return np.array(numbers, dtype=np.int64)


def _plainer_labels(labels: Labels) -> Labels:
    return Labels(None, None, None, labels.shadow, OTHER_URL, labels.status, None)


def _plainer_url(url: str) -> str:
    return OTHER_URL


def _insert(rows: int, columns: int) -> str:
    names = ", ".join(_ENTRY_COLUMNS[:columns])
    return f"INSERT INTO entries ({names}) VALUES " + ",".join([f"({','.join('?' * columns)})"] * rows)
