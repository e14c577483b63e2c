"""Copies of the store's databases for a backup, each as it is at one moment while others write to it.

Of everything but the registry a copy is taken where there is something whole to copy: a backup without the
comparisons is better than none.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from time import time

from mdslite.errors import StorageFull, StoreCorrupt
from mdslite.store.database import connect_reader, sqlite_errors
from mdslite.store.deferred import KEEP_S, copy_kept
from mdslite.store.disk import storage_errors, sync_file
from mdslite.store.drift import WISHES
from mdslite.store.hours import list_hours
from mdslite.store.recovery import (
    DEFERRED_NAME,
    DRIFT_DATABASE,
    DRIFT_NAME,
    LEDGERS,
    LOG_NAME,
    REGISTRY_NAME,
)


def copy_database(source: Path, copy: Path) -> None:
    """Copy a database into one file of its own, with no journal beside it.

    :raises StoreCorrupt: the source is damaged
    :raises StorageFull: there is no room for the copy, or no source
    """
    with (
        sqlite_errors(source),
        closing(connect_reader(source)) as reader,
        closing(sqlite3.connect(copy)) as writer,
    ):
        reader.backup(writer)
        writer.execute("pragma journal_mode = delete")
    with storage_errors("the backup"):
        sync_file(copy)


def copy_whole(source: Path, copy: Path, *, how: Callable[[Path, Path], None] = copy_database) -> bool:
    """Copy a database; False, and no copy, where it is missing or damaged.

    :raises StorageFull: there is no room for the copy
    """
    try:
        how(source, copy)
    except StorageFull:
        # SQLite says the same of a file that is not there, which retention may have removed just now.
        if source.exists():
            raise
    except StoreCorrupt:
        pass
    else:
        return True
    with storage_errors("the backup"):
        copy.unlink(missing_ok=True)
    return False


def take_snapshots(store_dir: Path, work: Path, *, beside: bool, log: bool) -> list[str]:
    """Copy a store's databases into `work`, each to where it stands in the store; list their names.

    The registry always; what is known beside it, and the hours of the request log, if asked.

    :raises StoreCorrupt: the registry is damaged
    :raises StorageFull: there is no room for a copy
    """
    copy_database(store_dir / REGISTRY_NAME, work / REGISTRY_NAME)
    names = [REGISTRY_NAME]
    if beside:
        names += [*_snapshot_drift(store_dir, work), *_snapshot_ledgers(store_dir, work)]
    if log:
        names += _snapshot_log(store_dir, work)
    return names


def _snapshot_drift(store_dir: Path, work: Path) -> list[str]:
    """Copy what is known of drift, with the wishes only where there is something that they are about."""
    database, wishes = f"{DRIFT_NAME}/{DRIFT_DATABASE}", f"{DRIFT_NAME}/{WISHES}"
    with storage_errors("the backup"):
        (work / DRIFT_NAME).mkdir()
    if not copy_whole(store_dir / database, work / database):
        return []
    with storage_errors("the backup"), suppress(FileNotFoundError):
        shutil.copyfile(store_dir / wishes, work / wishes)
        return [database, wishes]
    return [database]


def _snapshot_ledgers(store_dir: Path, work: Path) -> list[str]:
    """Of the predictions to be answered later, what is over is left out: their file never shrinks."""
    names = []
    for part in LEDGERS:
        name = f"{part}.db"
        how = _copy_deferred if part == DEFERRED_NAME else copy_database
        if copy_whole(store_dir / name, work / name, how=how):
            names.append(name)
    return names


def _copy_deferred(source: Path, copy: Path) -> None:
    copy_kept(source, copy, since=time() - KEEP_S)
    with storage_errors("the backup"):
        sync_file(copy)


def _snapshot_log(store_dir: Path, work: Path) -> list[str]:
    with storage_errors("the backup"):
        (work / LOG_NAME).mkdir()
    names = [f"{LOG_NAME}/{hour.path.name}" for hour in list_hours(store_dir / LOG_NAME)]
    return [name for name in names if copy_whole(store_dir / name, work / name)]
