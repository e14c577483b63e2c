"""How the store opens SQLite, and what SQLite's errors mean here.

One connection writes to a database file. All others open it read-only: they never write and never
checkpoint, since SQLite before 3.51.3 may corrupt a write-ahead log that two connections write to. Nor may
this process open a database with plain `open`: closing that would drop SQLite's own locks on the file.
"""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mdslite.errors import MdsliteError, StorageFull, StoreCorrupt, StoreError, Unavailable
from mdslite.sizes import size_text
from mdslite.store.disk import FULL_HINT, READ_ONLY_HINT, free_bytes, is_read_only, storage_errors
from mdslite.store.recovery import (
    REGISTRY_NAME,
    corrupt_ledger,
    corrupt_store,
    databases_beside,
    find_leavings,
    is_beside,
)

_BUSY_WAIT_S = 5.0
_WRITE_FAULTS = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
}
_FULL_BYTES = 1 << 20  # with less than this left, whatever failed to be written had no room
_CORRUPTION = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Translate what SQLite says about the database at `path`.

    :raises StorageFull: a write failed; nothing of its transaction is kept
    :raises StoreCorrupt: the file is damaged
    :raises Unavailable: another program holds the database
    """
    try:
        yield
    except sqlite3.Error as exc:
        raise _translate(exc, path) from exc


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open an existing database for its one writer; whatever is committed survives a power cut."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_WAIT_S)
    try:
        for setting in (
            "journal_mode = wal",
            "synchronous = full",
            "foreign_keys = on",
            "trusted_schema = off",
        ):
            db.execute(f"pragma {setting}")
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open an existing database for reading; what a crash left in its journal is read, not merged."""
    return sqlite3.connect(reader_uri(path), uri=True, timeout=_BUSY_WAIT_S)


def reader_uri(path: Path) -> str:
    """How SQLite is to open a database for reading. On a disk that is read-only it cannot make the index of a
    journal, and has to be told that it needs none: where there is one already it does without being told."""
    journal, index = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm"))
    with suppress(OSError):
        if is_read_only(path.parent) and not index.exists() and not _holds_anything(journal):
            return f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    return f"{path.absolute().as_uri()}?mode=ro"


def _holds_anything(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@dataclass(slots=True)
class Ledger(ABC):
    """A database of its own beside the registry; a power cut may cost its last rows. Every method belongs to
    the one thread that called `open`."""

    path: Path
    _db: sqlite3.Connection | None = field(default=None, init=False)

    def open(self) -> None:
        with storage_errors(), sqlite_errors(self.path):
            self.path.touch()
            self._db = connect_writer(self.path)
            self._db.execute("pragma synchronous = normal")
            self._lay_out(self._db)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @abstractmethod
    def _lay_out(self, db: sqlite3.Connection) -> None:
        """Make the tables that are not there yet."""

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db


def check_beside(store_dir: Path) -> None:
    """Look whether the databases beside the registry are such; nothing of what is in them is read.

    :raises StoreCorrupt: says what is lost, and how to go on
    """
    for path in databases_beside(store_dir):
        if path.exists():
            with sqlite_errors(path), closing(connect_reader(path)) as db:
                db.execute("select count(*) from sqlite_schema").fetchone()


def first_fault(db: sqlite3.Connection, *, thorough: bool = False) -> str | None:
    """Examine a database; `thorough` also compares indexes with their tables. None when all is well."""
    check = "integrity_check" if thorough else "quick_check"
    try:
        found = db.execute(f"pragma {check}(1)").fetchone()[0]
    except sqlite3.DatabaseError as exc:
        if _code(exc) in _CORRUPTION:
            return str(exc)
        raise
    return None if found == "ok" else str(found).splitlines()[-1]


def size_fault(path: Path) -> str | None:
    """A registry is made elsewhere and renamed, before anything is stored: so an empty one is damage, and so
    is none beside its journal, models or backups."""
    if path.exists():
        return "its file is empty" if os.stat(path).st_size == 0 else None
    if path.with_name(f"{path.name}-wal").exists():
        return f"{path.name} is missing"
    left = find_leavings(path.parent)
    return f"{path.name} is missing, though {left} are there" if left else None


def _code(exc: sqlite3.Error) -> int:
    # The low byte is the family, such as SQLITE_IOERR; the rest tells its members apart.
    return int(getattr(exc, "sqlite_errorcode", 0) or 0) & 0xFF


def _why(exc: sqlite3.Error, path: Path) -> str:
    """What SQLite says, or that the disk is read-only or full, which it may call an I/O error."""
    if is_read_only(path.parent):
        return "its disk is read-only"
    with suppress(OSError):
        free = free_bytes(path.parent)
        if free < _FULL_BYTES:
            return f"its disk is full ({size_text(free)} free)"
    return str(exc)


def _translate(exc: sqlite3.Error, path: Path) -> MdsliteError:
    code = _code(exc)
    if code in _CORRUPTION:
        return _corrupt(path, str(exc))
    journal = path.with_name(f"{path.name}-wal")
    if code == sqlite3.SQLITE_CANTOPEN and is_read_only(path.parent) and _holds_anything(journal):
        return _unmerged(path)
    if code in _WRITE_FAULTS:
        hint = READ_ONLY_HINT if is_read_only(path.parent) else FULL_HINT
        return StorageFull(f"{path.name} could not be written: {_why(exc, path)}", hint=hint)
    if code in _BUSY:
        return Unavailable(f"another program holds {path.name}; try again", retry_after_s=1.0)
    return StoreError(f"{path.name} failed: {exc}")


def _unmerged(path: Path) -> MdsliteError:
    """Of a database whose journal has no index, on a disk where none can be made."""
    return StorageFull(
        f"{path.name} could not be read: its disk is read-only, and {path.name}-wal holds a part of it",
        hint=f"{READ_ONLY_HINT}; or copy the whole folder to a disk that can be written, and look there",
    )


def _corrupt(path: Path, fault: str) -> StoreCorrupt:
    if path.name == REGISTRY_NAME:
        return corrupt_store(path.parent, fault)
    if is_beside(path):
        return corrupt_ledger(path, fault)
    return StoreCorrupt(f"{path.name} is corrupt: {fault}")
