"""Where an artifact is put together before it is part of the store: names checked, bytes counted, hashed
and synced. Whatever goes wrong, nothing of it reaches the store. Knows no archive and no network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mdslite.errors import ArtifactError, StorageFull, TooLarge, quoted
from mdslite.sizes import size_text
from mdslite.store.disk import FULL_HINT, free_bytes, storage_errors, sync_folder

# Called with the bytes done and their total, None when that is not known. What it raises ends the work.
Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20
MAX_NAME_BYTES = 255
_ROOM_CHECK_BYTES = 64 << 20

# What editors, file managers and interpreters leave lying about: no part of a model.
IGNORED_NAMES = frozenset({".git", ".hg", ".svn", ".DS_Store", "__MACOSX", "__pycache__"})

UNPACK_HINT = "where it is to be trusted, unpack it and deploy the folder, which may be as large as it is"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one artifact may come to.

    `max_ratio` bounds what an archive unpacks to, in packed bytes, once it is more than `free_ride_bytes`;
    `reserve_bytes` of the disk are left for the registry and the request log.
    """

    max_bytes: int = 64 << 30
    max_files: int = 10_000
    max_depth: int = 32
    max_path_bytes: int = 1024
    max_ratio: int = 200
    free_ride_bytes: int = 64 << 20
    reserve_bytes: int = 64 << 20

    def unpacked(self, packed_bytes: int) -> int:
        """How far an archive of that size may unpack."""
        return min(self.max_bytes, max(self.free_ride_bytes, packed_bytes * self.max_ratio))


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an artifact; `path` is relative, with slashes."""

    path: str
    size_bytes: int
    sha256: str


def split_name(name: str) -> tuple[str, ...]:
    """Split a file's name inside an artifact into its parts.

    :raises ArtifactError: it leads out of the folder, or would mean something else on another system
    """
    try:
        sizes = [len(part.encode()) for part in name.split("/")]
    except UnicodeEncodeError as exc:
        raise ArtifactError(f"the file name {quoted(name)} is not UTF-8; rename the file") from exc
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    drive = len(name) > 1 and name[1] == ":"
    if name.startswith("/") or drive or ".." in parts or not parts:
        raise ArtifactError(
            f"the file name {quoted(name)} leads out of its folder; expected a name inside it"
        )
    if "\\" in name or not name.isprintable():
        raise ArtifactError(
            f"the file name {quoted(name)} holds a backslash or a control character; rename the file"
        )
    if max(sizes) > MAX_NAME_BYTES:
        raise ArtifactError(
            f"the file name {quoted(name)} is too long; expected at most {MAX_NAME_BYTES} bytes"
        )
    return parts


def is_ignored(parts: Sequence[str]) -> bool:
    return any(part in IGNORED_NAMES or part.startswith("._") for part in parts)


def make_manifest(entries: Iterable[Entry]) -> bytes:
    """List an artifact's files in the one way whose SHA-256 is the folder's digest."""
    files = [
        {"path": entry.path, "sha256": entry.sha256, "size_bytes": entry.size_bytes}
        for entry in sorted(entries, key=lambda entry: entry.path.encode())
    ]
    text = json.dumps(
        {"files": files, "format": 1}, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )
    return text.encode()


def read_manifest(content: bytes) -> list[Entry]:
    """:raises ValueError: it is no manifest"""
    found = json.loads(content)
    try:
        return [Entry(file["path"], file["size_bytes"], file["sha256"]) for file in found["files"]]
    except (KeyError, TypeError) as exc:
        raise ValueError("not a manifest") from exc


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def hash_chunks(chunks: Iterable[bytes], report: Callable[[int], None] | None = None) -> str:
    """Hash a file; `report` is called with the size of each chunk."""
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
        if report is not None:
            report(len(chunk))
    return sha256.hexdigest()


class Staging:
    """Fills one folder, file by file. The folder must be empty and nobody else's."""

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits,
        max_bytes: int | None = None,
        total_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.total_bytes = total_bytes
        self._limits = limits
        self._max_bytes = limits.max_bytes if max_bytes is None else max_bytes
        self._progress = progress
        self._done_bytes = 0
        self._checked_bytes = -_ROOM_CHECK_BYTES
        self._files: set[tuple[str, ...]] = set()
        self._folders: set[tuple[str, ...]] = set()

    def check_total(self, total_bytes: int) -> None:
        """Refuse before the first byte what would not fit.

        :raises TooLarge: more than an artifact may have
        :raises StorageFull: more than the disk has room for
        """
        self.total_bytes = total_bytes
        if total_bytes > self._max_bytes:
            raise self._too_large()
        self._check_room(total_bytes)

    def write(self, name: str, chunks: Iterable[bytes]) -> Entry:
        """Write one file, synced to the disk. What reading `chunks` raises passes through.

        :raises ArtifactError: the name is not safe, or taken
        :raises TooLarge: too many bytes or files
        :raises StorageFull: the disk is full
        """
        parts = self._claim(name)
        path = self.folder.joinpath(*parts)
        sha256 = hashlib.sha256()
        size_bytes = 0
        with storage_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path, flags, 0o444)
        try:
            for chunk in chunks:
                size_bytes += len(chunk)
                self._count(len(chunk))
                sha256.update(chunk)
                with storage_errors():
                    _write_all(fd, chunk)
            with storage_errors():
                os.fsync(fd)
        finally:
            os.close(fd)
        entry = Entry("/".join(parts), size_bytes, sha256.hexdigest())
        self.entries.append(entry)
        return entry

    def sync(self) -> None:
        """Sync the folders; the files are synced as they are written."""
        with storage_errors():
            for folder, _, _ in os.walk(self.folder):
                sync_folder(Path(folder))

    def _claim(self, name: str) -> tuple[str, ...]:
        parts = split_name(name)
        if len(parts) > self._limits.max_depth or len(name.encode()) > self._limits.max_path_bytes:
            raise ArtifactError(
                f"the file name {quoted(name)} is too long; expected at most "
                f"{self._limits.max_depth} folders and {self._limits.max_path_bytes} bytes"
            )
        above = {parts[:depth] for depth in range(1, len(parts))}
        if parts in self._files or parts in self._folders or above & self._files:
            raise ArtifactError(f"the file name {quoted(name)} occurs twice; expected each name once")
        if len(self._files) >= self._limits.max_files:
            raise TooLarge(f"more than {self._limits.max_files} files; expected a model, not a data set")
        self._files.add(parts)
        self._folders |= above
        return parts

    def _count(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if self._done_bytes > self._max_bytes:
            raise self._too_large()
        if self._done_bytes - self._checked_bytes >= _ROOM_CHECK_BYTES:
            self._checked_bytes = self._done_bytes
            self._check_room(size_bytes)
        if self._progress is not None:
            self._progress(self._done_bytes, self.total_bytes)

    def _check_room(self, needed_bytes: int) -> None:
        with storage_errors():
            free = free_bytes(self.folder)
        if free < needed_bytes + self._limits.reserve_bytes:
            kept = size_text(self._limits.reserve_bytes)
            raise StorageFull(
                f"{size_text(needed_bytes)} do not fit on the store's disk: {size_text(free)} are free "
                f"there, and {kept} are kept for the registry and the request log",
                hint=FULL_HINT,
            )

    def _too_large(self) -> TooLarge:
        most = size_text(self._max_bytes)
        if self._max_bytes < self._limits.max_bytes:
            times = f"{self._limits.max_ratio} times its packed size"
            return TooLarge(f"the archive unpacks to more than {most}, {times}", hint=UNPACK_HINT)
        return TooLarge(
            f"more than {most} of files; an artifact may have no more",
            hint="give the model's own file or folder, without its data",
        )


def _write_all(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]
