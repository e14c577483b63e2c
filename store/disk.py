"""Durable files: syncing folders, writing whole or not at all, and naming a full disk for what it is."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mdslite.errors import StorageFull, StoreError

# EFBIG is a file size limit (ulimit -f); EROFS is what ext4 remounts to after a failing disk.
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
DRAFT_PREFIX = ".draft-"
FULL_HINT = "free some space there and try again; what serves already goes on meanwhile"
READ_ONLY_HINT = "dmesg says why it is so; mount it to be written (mount -o remount,rw), and try again"


@contextmanager
def storage_errors(what: str = "the store") -> Iterator[None]:
    """Wrap writes of ours only: what fails in here is our disk, not somebody's file.

    :raises StorageFull: no space, quota or file size left, or the disk fails or is read-only
    :raises StoreError: anything else, such as missing permissions
    """
    try:
        yield
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        if exc.errno in FULL_ERRNOS:
            hint = READ_ONLY_HINT if exc.errno == errno.EROFS else FULL_HINT
            raise StorageFull(f"the disk of {what} takes no more: {reason}", hint=hint) from exc
        hint = "check the folder's permissions, and those of all in it"
        raise StoreError(f"{what} could not be written: {reason}", hint=hint) from exc


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(top: Path) -> None:
    """Sync every file and folder from `top` down."""
    for folder, _, names in os.walk(top):
        for name in names:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))


def draft_path(path: Path) -> Path:
    """Name something that is to become `path` by a rename, and that is swept if it never does."""
    return path.with_name(f"{DRAFT_PREFIX}{secrets.token_hex(4)}-{path.name}")


def sweep_drafts(folder: Path) -> None:
    """Remove what a crash left half made. Only for who knows that nobody is making anything there."""
    for leftover in folder.glob(f"{DRAFT_PREFIX}*"):
        if leftover.is_dir():
            remove_tree(leftover)
        else:
            with suppress(OSError):
                leftover.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` so that a crash leaves the old content or the new, never a part."""
    draft = draft_path(path)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def is_read_only(folder: Path) -> bool:
    """Can nothing be written to the folder's disk, whoever asks?"""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def remove_tree(top: Path) -> None:
    """Remove a folder as far as it goes; what cannot be removed now is swept at the next start."""
    with suppress(OSError):
        shutil.rmtree(top)
