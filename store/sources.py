"""Reading what a deployments file points at on this machine, without following a link out of it."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from mdslite.errors import ArtifactError, TooLarge
from mdslite.store.staging import Limits, is_ignored, read_chunks, split_name

_NAME_HINT = "check the uri"
_DENIED_HINT = "let the user that runs the appliance read it"
_EMPTY_HINT = "put the model's files there; hidden files and folders do not count"
_LINK_ERRNOS = {errno.ELOOP, errno.ENOTDIR}


def is_url(uri: str) -> bool:
    """Is what a version's `uri` names to be fetched, and not read on this machine?"""
    return uri.lower().startswith(("http://", "https://"))


def list_folder(top: Path, *, limits: Limits, own: bool = False) -> list[str]:
    """List the files under `top`, relative and sorted, without what `is_ignored`.

    `own` is for the store's own files, whose digests are known: hard links to them do no harm.

    :raises ArtifactError: it is empty, unreadable, or holds a link or something that is no file
    :raises TooLarge: it holds too many files
    """
    names: list[str] = []
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        if len(parts) > limits.max_depth:
            raise ArtifactError(
                f"{top.name}: folders nested deeper than {limits.max_depth}; expected a model's folder"
            )
        for item in _scan(top, parts):
            inside = (*parts, item.name)
            if is_ignored(inside):
                continue
            if item.is_dir(follow_symlinks=False):
                waiting.append(inside)
                continue
            _check_item(top, "/".join(inside), item.stat(follow_symlinks=False), own=own)
            names.append("/".join(inside))
            if len(names) > limits.max_files:
                raise TooLarge(
                    f"{top.name} holds more than {limits.max_files} files; expected a model's folder"
                )
    if not names:
        raise ArtifactError(f"the folder {top} is empty; expected a model's files in it", hint=_EMPTY_HINT)
    return sorted(names)


def read_source(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Read a file that is not the store's in chunks.

    :raises ArtifactError: reading fails on the way
    """
    try:
        yield from read_chunks(file)
    except OSError as exc:
        raise ArtifactError(f"{name} cannot be read to its end: {exc.strerror}") from exc


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open the very file that somebody named; there, and only there, a link is followed.

    :raises ArtifactError: it is missing, unreadable or no ordinary file
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        missing = exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
        hint = _NAME_HINT if missing else _DENIED_HINT
        raise ArtifactError(f"{path} cannot be read: {exc.strerror}", hint=hint, misnamed=missing) from exc
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArtifactError(
                f"{path} is no ordinary file; expected a model file, an archive or a folder",
                hint=_NAME_HINT,
                misnamed=True,
            )
        yield file


@contextmanager
def open_beneath(top: Path, name: str, *, own: bool = False) -> Iterator[BinaryIO]:
    """Open a file under `top` by its relative name, following no link on the way, whoever swaps one in.

    :raises ArtifactError: it is missing, unreadable, a link or no ordinary file
    """
    *folders, leaf = split_name(name)
    fd = -1
    try:
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for folder in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = _step(fd, folder, flags)
        fd = _step(fd, leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if fd >= 0:
            os.close(fd)
        if exc.errno in _LINK_ERRNOS:
            _refuse_link(top, name)
        raise ArtifactError(f"{name} in {top} cannot be read: {exc.strerror}") from exc
    with os.fdopen(fd, "rb") as file:
        _check_item(top, name, os.fstat(fd), own=own)
        yield file


def _step(fd: int, name: str, flags: int) -> int:
    below = os.open(name, flags, dir_fd=fd)
    os.close(fd)
    return below


def _scan(top: Path, parts: tuple[str, ...]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(top.joinpath(*parts)) as items:
            return list(items)
    except OSError as exc:
        raise ArtifactError(
            f"{top.joinpath(*parts)} cannot be read: {exc.strerror}", hint=_DENIED_HINT
        ) from exc


def _check_item(top: Path, name: str, found: os.stat_result, *, own: bool) -> None:
    # A hard link may be somebody else's file: the runtime could not tell it from the model's own data.
    if stat.S_ISLNK(found.st_mode) or (not own and stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
        _refuse_link(top, name)
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{name} in {top} is a device, pipe or socket; expected ordinary files only")


def _refuse_link(top: Path, name: str) -> NoReturn:
    plain = f"{shlex.quote(str(top))} {shlex.quote(f'{top}-copy')}"
    raise ArtifactError(
        f"{name} in {top} is a link; expected ordinary files, since a link may lead anywhere",
        hint=f"make a copy with the links resolved and deploy that: cp -rL {plain}",
    )
