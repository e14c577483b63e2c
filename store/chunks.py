"""An hour's rows a second time, in columns, for questions about all of them. Owns the tables `chunks` and
`columns` of a file that is being written, and what is still to go into them.

`entries` stays the log: whatever is in no chunk yet is read from there. A chunk is written together with the
row that completes it; the last one of an hour when the file is sealed, and with it a copy of `seconds`. Those
of a file that an earlier version of this program wrote are made when it is written again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np

from mdslite.store.columns import FIELDS, HASH, ID, Array, Columns, hash_ids, join, pack
from mdslite.store.courtesy import Rest, no_rest

CHUNK_ROWS = 16_384
CATCH_UP_CHUNKS = 16  # at a time, about half a second's work: the journal waits for the writer
# A chunk's id is that of its first row; its ids are stored as their distances from it.
SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (id INTEGER PRIMARY KEY, last_id INTEGER NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS columns (
  field TEXT NOT NULL, chunk INTEGER NOT NULL, type TEXT NOT NULL, low REAL, high REAL, data BLOB NOT NULL,
  PRIMARY KEY (field, chunk)
);
"""
# The columns of the table `seconds`, as those of a chunk 0, and their types.
SECONDS = {"second": "<u4", "second_series": "<u2", "second_count": "<u4"}
_IN_ENTRIES = tuple(name for name in FIELDS if name != HASH)


class ChunkWriter:
    """Used from the writer's one thread, within its transactions; a fresh one whenever the file is opened."""

    def __init__(
        self, connection: sqlite3.Connection, *, chunk_rows: int = CHUNK_ROWS, rest: Rest = no_rest
    ) -> None:
        self._connection = connection
        self._chunk_rows = chunk_rows
        self._rest = rest
        self._parts: list[Columns] = []
        self._rows = 0
        self._behind = False  # rows were written before, and are in no chunk

    def open(self) -> None:
        # What `finish` wrote holds no longer.
        forget = "DELETE FROM columns WHERE chunk = 0;"
        self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {forget} COMMIT;")
        ((first,),) = self._connection.execute("SELECT coalesce(max(last_id), 0) FROM chunks")
        found = self._connection.execute("SELECT 1 FROM entries WHERE id > ? LIMIT 1", (first,))
        self._behind = found.fetchone() is not None

    def add(self, columns: Columns) -> None:
        """Take rows that have just been written to `entries`, by the names of FIELDS."""
        if not self._behind:
            self._parts.append(columns)
        self._rows += len(columns[ID])
        if self._rows >= self._chunk_rows:
            self.write()

    def write(self) -> None:
        """Write what is in no chunk yet; of what earlier writers left, some at a time."""
        if self._behind:
            self._catch_up()
        elif self._rows:
            self._write_parts(join(self._parts, FIELDS))
        self._parts, self._rows = [], 0

    def finish(self) -> None:
        """Write what is left, and the table `seconds` as columns too, for a file that nothing is added to."""
        self.write()
        rows = self._connection.execute("SELECT second, series_id, count FROM seconds").fetchall()
        found = np.array(rows, dtype=np.int64).reshape(-1, 3)
        for number, (field, kind) in enumerate(SECONDS.items()):
            self._connection.execute(
                "INSERT INTO columns VALUES (?, 0, ?, NULL, NULL, ?)",
                (field, kind, found[:, number].astype(kind).tobytes()),
            )

    def _catch_up(self) -> None:
        """Read from `entries` what earlier writers left."""
        ((last_id,),) = self._connection.execute("SELECT coalesce(max(last_id), 0) FROM chunks")
        for _ in range(CATCH_UP_CHUNKS):
            columns = read_entries(self._connection, last_id, self._chunk_rows)
            if not columns:
                self._behind = False
                return
            self._write_chunk(columns)
            last_id = int(columns[ID][-1])

    def _write_parts(self, columns: Columns) -> None:
        rows = len(columns[ID])
        count = max(1, rows // self._chunk_rows)  # even ones: a small chunk costs a reader as much as a large
        for number in range(count):
            part = slice(rows * number // count, rows * (number + 1) // count)
            self._write_chunk({name: columns[name][part] for name in FIELDS})

    def _write_chunk(self, columns: Columns) -> None:
        ids = columns[ID]
        chunk = int(ids[0])
        self._connection.execute("INSERT INTO chunks VALUES (?, ?, ?)", (chunk, int(ids[-1]), len(ids)))
        for name in FIELDS:
            packed = pack(ids - chunk if name == ID else columns[name])
            self._connection.execute(
                "INSERT INTO columns VALUES (?, ?, ?, ?, ?, ?)",
                (name, chunk, packed.type, packed.low, packed.high, packed.data),
            )
            self._rest()


def read_entries(connection: sqlite3.Connection, after: int, limit: int) -> dict[str, Array]:
    """The columns of the first rows behind an id; nothing when there is none."""
    rows: Sequence[tuple[object, ...]] = connection.execute(
        f"SELECT request_id, {', '.join(_IN_ENTRIES)} FROM entries WHERE id > ? ORDER BY id LIMIT ?",
        (after, limit),
    ).fetchall()
    if not rows:
        return {}
    request_ids, *numbers = zip(*rows, strict=True)
    found = {name: np.array(some, dtype=np.float64) for name, some in zip(_IN_ENTRIES, numbers, strict=True)}
    return {**found, ID: found[ID].astype(np.int64), HASH: hash_ids([str(one) for one in request_ids])}
