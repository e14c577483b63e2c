"""Restoring a backup into a store.

Everything is checked before anything is changed, only the parts that the backup has are replaced, and what
they replaced is kept in a folder beside them. The last step, which a crash may cut short, is `recovery`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from mdslite.errors import ArtifactError, Conflict, StoreCorrupt, StoreError, StoreLocked
from mdslite.store.archives import unpack
from mdslite.store.backup import CONTENTS_NAME, Contents, choose_name, read_contents
from mdslite.store.database import connect_reader, first_fault, size_fault, sqlite_errors
from mdslite.store.disk import draft_path, remove_tree, storage_errors, sync_tree
from mdslite.store.lock import LOG_WAIT_S, StoreLock, log_lock
from mdslite.store.recovery import (
    ARTIFACTS_NAME,
    DRIFT_NAME,
    LEDGERS,
    LOG_NAME,
    PARTS,
    REGISTRY_NAME,
    another_backup,
    begin_restore,
    finish_restore,
)
from mdslite.store.shelf import Shelf
from mdslite.store.staging import Limits, Staging, hash_chunks, read_chunks

# What is in a backup was within the limits of artifacts when it was taken in.
_ANY_SIZE = Limits(max_bytes=1 << 62, max_files=1 << 32, max_depth=64, max_path_bytes=2048, reserve_bytes=0)


def restore(path: Path, store_dir: Path, *, force: bool = False) -> Path | None:
    """Put a backup's parts in the place of the store's; return the folder that keeps what they replaced.

    A crash on the way leaves the old store, or one that the next opening turns into the new.

    :raises StoreLocked: a process uses the store, or still writes its log
    :raises Conflict: there is a healthy registry already, and `force` is not given
    :raises StoreError: the backup is damaged or no backup; nothing was changed
    :raises StorageFull: no room for it beside the old one; nothing was changed
    """
    with _naming_another(path, store_dir):
        contents = read_contents(path)
        with StoreLock(store_dir) as lock, log_lock(store_dir / LOG_NAME, wait_s=LOG_WAIT_S):
            with suppress(StoreCorrupt):  # a broken one is what this is for
                finish_restore(store_dir)
            if not force:
                _check_replaceable(store_dir)
            try:
                staged = _stage(path, store_dir, contents)
            except BaseException:
                lock.withdraw()
                raise
            aside = choose_name(store_dir, "replaced-", "")
            begin_restore(store_dir, staged=staged.name, aside=aside.name, parts=contents.parts)
            finish_restore(store_dir)
    return aside if aside.exists() else None


@contextmanager
def _naming_another(path: Path, store_dir: Path) -> Iterator[None]:
    """Of a backup that cannot be used: name the one to restore instead."""
    try:
        yield
    except (StoreLocked, StoreCorrupt):
        raise
    except StoreError as exc:
        command = another_backup(store_dir, but=path)
        if command is not None:
            exc.hint = f"restore another one, the newest that is whole: {command}"
        elif exc.hint is None:
            exc.hint = "copy it once more from where it was made, or restore an older one"
        raise


def _stage(path: Path, store_dir: Path, contents: Contents) -> Path:
    """Unpack a backup beside what it is to replace, verified and synced."""
    staged = draft_path(store_dir / "restore")
    try:
        _unpack_backup(path, staged)
        _verify_staged(path, staged, contents)
        with storage_errors():
            for name in contents.files:
                (staged / name).chmod(0o600)
            sync_tree(staged)
    except BaseException:
        remove_tree(staged)
        raise
    return staged


def _check_replaceable(store_dir: Path) -> None:
    registry = store_dir / REGISTRY_NAME
    if not registry.exists() or size_fault(registry) is not None:
        return
    try:
        with sqlite_errors(registry), closing(connect_reader(registry)) as db:
            fault = first_fault(db)
    except StoreCorrupt:
        return
    if fault is None:
        raise Conflict(
            f"the store {store_dir.absolute()} holds a registry that is in order",
            hint="add --force to restore nevertheless; what is replaced is kept in a folder beside it",
        )


def _unpack_backup(path: Path, staged: Path) -> None:
    with storage_errors():
        staged.mkdir(mode=0o700)
    staging = Staging(staged, limits=_ANY_SIZE)
    try:
        with path.open("rb") as file:
            staging.check_total(os.fstat(file.fileno()).st_size)
            unpack(file, name=path.name, kind="tar", staging=staging, limits=_ANY_SIZE)
    except ArtifactError as exc:
        raise StoreError(f"{path} is no whole backup: {exc.message}") from exc


def _verify_staged(path: Path, staged: Path, contents: Contents) -> None:
    """Compare what was unpacked with what the backup says is in it."""
    wanted = {PARTS[part][0] for part in contents.parts if part in PARTS} | {CONTENTS_NAME}
    with storage_errors():
        for part in contents.parts:
            if part in ("artifacts", "log"):
                (staged / part).mkdir(exist_ok=True)  # an empty part replaces a full one all the same
    if set(os.listdir(staged)) != wanted or REGISTRY_NAME not in contents.files:
        raise StoreError(f"{path} is no whole backup: it does not hold what it says")
    single = {REGISTRY_NAME, *(f"{part}.db" for part in LEDGERS if part in contents.parts)}
    if single.union(_names(staged, DRIFT_NAME), _names(staged, LOG_NAME)) != contents.files.keys():
        raise StoreError(f"{path} is no whole backup: its files are not those that it says")
    for name, sha256 in contents.files.items():
        _verify_file(path, staged, name, sha256)
    shelf = Shelf(staged / ARTIFACTS_NAME)
    try:
        for digest in contents.artifacts:
            shelf.verify(digest)
    except ArtifactError as exc:
        raise StoreError(f"{path} is damaged: {exc.message}") from exc


def _names(staged: Path, folder: str) -> list[str]:
    return [f"{folder}/{path.name}" for path in (staged / folder).glob("*")]


def _verify_file(path: Path, staged: Path, name: str, sha256: str) -> None:
    try:
        with (staged / name).open("rb") as file:
            found = hash_chunks(read_chunks(file))
    except OSError as exc:
        raise StoreError(f"{path} is no whole backup: {name} is missing") from exc
    if found != sha256:
        raise StoreError(f"{path} is damaged: {name} no longer matches its digest")
