"""The request log's files: their names, which there are, and which must go. Owns no connection.

Each hour (UTC) has a file such as `2026-11-22T14.db`, with `-wal` and `-shm` beside it while it is written or
after a crash. A file that SQLite or this program cannot use is set aside as `2026-11-22T14.set-aside-1.db`:
out of the log's way, kept for whoever wants to look, and still subject to retention.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mdslite.errors import MdsliteError, StorageFull, StoreCorrupt, StoreError
from mdslite.store.database import reader_uri

HOUR_S = 3600
APPLICATION_ID = 0x6D64736C  # "mdsl", in every hour file's header
SCHEMA_VERSION = 3
COMPANIONS = ("-wal", "-shm", "-journal")

_NAME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2})(\.set-aside-\d+)?\.db")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_NO_ROOM = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_TOOBIG,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hour:
    """One file of the log's folder; `size_bytes` counts its companions too. One that is not sealed is being
    written, or was when the appliance ended."""

    path: Path
    start: int  # unix seconds
    size_bytes: int
    set_aside: bool
    sealed: bool


def hour_of(at: float) -> int:
    """The start of the hour that holds this moment, both in unix seconds."""
    return int(at // HOUR_S) * HOUR_S


def hour_path(folder: Path, start: int) -> Path:
    return folder / time.strftime("%Y-%m-%dT%H.db", time.gmtime(start))


def list_hours(folder: Path) -> list[Hour]:
    """Every file of the log, set-aside ones too, oldest first; other files are not looked at.

    :raises StoreError: the folder cannot be read
    """
    sizes = _sizes(folder)
    hours = []
    for name in sizes:
        if (match := _NAME.fullmatch(name)) and (start := _parse(match[1])) is not None:
            size_bytes = sizes[name] + sum(sizes.get(name + suffix, 0) for suffix in COMPANIONS)
            set_aside, sealed = match[2] is not None, f"{name}-wal" not in sizes
            hours.append(Hour(folder / name, start, size_bytes, set_aside, sealed))
    return sorted(hours, key=lambda hour: (hour.start, hour.path.name))


def expired(
    hours: list[Hour], *, now: float | None, max_age_s: float, max_bytes: int, current: int
) -> list[Hour]:
    """The files that retention removes: those too old, then the oldest until the rest fits `max_bytes`.

    The file of the hour `current` always stays, and so does what lies in the future: the clock may be wrong.
    `now` None means that the clock cannot be trusted, and that age removes nothing.
    """
    free = [hour for hour in hours if hour.start != current or hour.set_aside]
    out = [hour for hour in free if now is not None and hour.start + HOUR_S <= now - max_age_s]
    left = sum(hour.size_bytes for hour in hours) - sum(hour.size_bytes for hour in out)
    for hour in free:
        if left <= max_bytes:
            break
        if hour not in out:
            out.append(hour)
            left -= hour.size_bytes
    return out


def remove(path: Path) -> None:
    """Unlink a file and its companions; what is not there is no error.

    :raises StoreError: the folder cannot be changed
    """
    for name in (path, *companions(path)):
        try:
            name.unlink(missing_ok=True)
        except OSError as exc:
            raise StoreError(f"{name.name} cannot be removed: {exc.strerror}") from exc


def set_aside(path: Path) -> Path:
    """Rename an unusable file, companions too, so that the hour can have a fresh one; returns the new path.

    :raises StoreError: the folder cannot be changed
    """
    number = 1
    while (target := path.with_name(f"{path.stem}.set-aside-{number}.db")).exists():
        number += 1
    try:
        for old, new in zip((path, *companions(path)), (target, *companions(target)), strict=True):
            if old.exists():
                old.rename(new)
    except OSError as exc:
        raise StoreError(f"{path.name} cannot be set aside: {exc.strerror}") from exc
    return target


def companions(path: Path) -> Iterator[Path]:
    return (path.with_name(path.name + suffix) for suffix in COMPANIONS)


def connect(path: Path, *, write: bool = False, timeout_s: float = 2.0) -> sqlite3.Connection:
    """Open an hour file. Only the log's writer may ask to write: readers never checkpoint.

    :raises sqlite3.Error: as SQLite says; see `translated`
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rwc" if write else reader_uri(path),
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        cached_statements=16,
    )
    if not write:
        connection.execute("PRAGMA query_only = 1")
    return connection


def check_kind(connection: sqlite3.Connection, name: str) -> int:
    """The schema of one of our files; 0 for an empty one, which may become one.

    :raises StoreCorrupt: it is somebody else's, or of a newer version of this program
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id == APPLICATION_ID and 1 <= version <= SCHEMA_VERSION:
        return int(version)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id == 0 and version == 0 and tables == 0:
        return 0
    raise StoreCorrupt(
        f"{name} is no hour of this request log (application_id {application_id:#x}, version {version}; "
        f"expected {APPLICATION_ID:#x}, version 1 to {SCHEMA_VERSION})"
    )


def translated(exc: sqlite3.Error, name: str, *, write: bool) -> MdsliteError:
    """What a SQLite error on this file means: StoreCorrupt, StorageFull (of writes), or StoreError."""
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return StoreCorrupt(f"{name} is damaged: {exc}")
    if write and code & 0xFF in _NO_ROOM:
        return StorageFull(f"{name} cannot be written: {exc}", hint="free some disk space")
    return StoreError(f"{name}: {exc}")


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    try:
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
            for entry in found:
                # A file may go while the folder is read: retention, or SQLite done with a -wal.
                with contextlib.suppress(FileNotFoundError):
                    sizes[entry.name] = entry.stat().st_size
    except OSError as exc:
        raise StoreError(f"{folder} cannot be read: {exc.strerror}") from exc
    return sizes


def _parse(stamp: str) -> int | None:
    try:
        return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H"))
    except (ValueError, OverflowError):
        return None
