"""The artifact store: takes in what a version's `uri` names, and gives out what was proved unchanged.

It decides what makes an artifact: a file, a model with the data files that it refers to, a folder, or what
an archive holds. The bytes are read again in full whenever a model is to be loaded from them (`open`);
taking in what is already there reads only files whose inodes changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mdslite.errors import ArtifactError, StorageFull, quoted
from mdslite.store.archives import ArchiveKind, archive_kind, common_folder, unpack
from mdslite.store.disk import storage_errors
from mdslite.store.external import external_locations, may_refer
from mdslite.store.memos import Origins
from mdslite.store.shelf import FILES_NAME, Artifact, Shelf, folder_digest
from mdslite.store.sources import is_url, list_folder, open_beneath, open_file, read_source
from mdslite.store.staging import Entry, Limits, Progress, Staging, split_name

__all__ = ["Artifact", "ArtifactStore"]

_ORIGINS_NAME = ".origins.json"
_MODEL_SUFFIXES = (".onnx", "")  # a file without a suffix may be a model too


@dataclass(frozen=True, slots=True)
class _Source:
    """A file to take in: its name in the artifact, and how to open it."""

    name: str
    open: Callable[[], AbstractContextManager[BinaryIO]]


class ArtifactStore:
    """Adding and opening are safe from any thread. Removing is for somebody who knows what is referred to,
    and that nothing is between being added and being recorded."""

    def __init__(self, root: Path, *, limits: Limits | None = None) -> None:
        self.root = root
        self._limits = limits or Limits()
        self._shelf = Shelf(root)
        self._origins = Origins(root / _ORIGINS_NAME)

    def add(
        self,
        uri: str,
        *,
        allow: Collection[str] = (),
        planned: str | None = None,
        progress: Progress | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Artifact:
        """Store what a version's `uri` names: a URL, or an absolute path."""
        if is_url(uri):
            return self.add_url(uri, allow=allow, planned=planned, progress=progress, check=check)
        return self.add_path(Path(uri), progress=progress)

    def add_path(self, path: Path, *, progress: Progress | None = None) -> Artifact:
        """Store a file with the data files that it refers to, a folder, or an archive's content.

        :raises ArtifactError: missing, unreadable, empty, damaged, or holds links or unsafe names
        :raises TooLarge: more bytes or files than an artifact may have
        :raises StorageFull: the store's disk has no room; nothing was kept
        """
        path = Path(os.path.abspath(path))
        if os.path.isdir(path):  # unlike `Path.is_dir`, no error of its own for a name that is too long
            names = list_folder(path, limits=self._limits)
            sources = [_Source(name, partial(open_beneath, path, name)) for name in names]
            return self._add_sources(sources, single=False, progress=progress)
        with open_file(path) as file:
            kind = archive_kind(path.name)
            if kind is not None:
                return self._add_archive(file, path.name, kind, progress)
            data = self._data_files(file, path)
        return self._add_sources(_file_sources(path, data), single=not data, progress=progress)

    def digest(self, path: Path, *, check: Callable[[], None] = lambda: None) -> str:
        """What `add_path` would call this, storing nothing; "" of an archive that was not unpacked yet.

        :param check: called while files are read; what it raises ends the reading
        :raises ArtifactError: missing, unreadable, or holds links or unsafe names
        :raises TooLarge: as `add_path`
        """
        path = Path(os.path.abspath(path))
        if os.path.isdir(path):
            names = list_folder(path, limits=self._limits)
            sources = [_Source(name, partial(open_beneath, path, name)) for name in names]
            return folder_digest(self._entries(sources, lambda _: check()))
        with open_file(path) as file:
            kind = archive_kind(path.name)
            if kind is not None:
                key = f"{kind}:{self._shelf.hash(file, path.name, lambda _: check())}"
                return self._origins.get(key).get("digest", "")
            data = self._data_files(file, path)
        sources = _file_sources(path, data)
        entries = self._entries(sources, lambda _: check())
        return folder_digest(entries) if data else f"sha256:{entries[0].sha256}"

    def add_url(
        self,
        url: str,
        *,
        allow: Collection[str] = (),
        planned: str | None = None,
        progress: Progress | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Artifact:
        """Download and store a file or an archive's content; what the server calls unchanged is not sent.

        :param allow: HOST or HOST:PORT whose addresses may be internal ones
        :param planned: the digest that will do if it is what came from there last: nobody is asked then
        :param check: called while bytes are waited for; what it raises ends the download, as with `progress`
        :raises ArtifactError: not to be had, or as `add_path`
        :raises TooLarge: as `add_path`
        :raises StorageFull: as `add_path`
        """
        from mdslite.store.fetch import open_url  # the HTTP client takes a fifth of a second to import

        key = f"url:{hashlib.sha256(url.encode()).hexdigest()}"  # a URL may hold a secret
        known = self._origins.get(key)
        stored = self._shelf.whole(known.get("digest", ""))
        if stored is not None and stored.digest == planned:
            return stored
        with (
            open_url(url, allow=allow, validators=known if stored else {}, check=check) as download,
            self._shelf.workplace() as work,
        ):
            if download is None:
                assert stored is not None  # only then is the server asked whether it changed
                return stored
            kind = archive_kind(download.name)
            staging = self._staging(work / "download", progress)
            if download.size_bytes is not None:
                staging.check_total(download.size_bytes)
            entry = staging.write(download.name, download.chunks)
            if kind is None:
                artifact = self._shelve(staging.folder, [entry], single=True)
            else:
                with open_beneath(staging.folder, entry.path) as file:
                    artifact = self._add_archive(file, entry.path, kind, None)
        self._remember(key, {"digest": artifact.digest, **download.validators})
        return artifact

    def get(self, digest: str) -> Artifact | None:
        """Find a stored artifact without reading its bytes."""
        return self._shelf.get(digest)

    def open(self, digest: str) -> Path:
        """Verify every byte and return the path to load a model from: a file's, or a folder's.

        :raises ArtifactError: it is missing, or its bytes no longer match the digest
        """
        return self.verify(digest).path

    def verify(self, digest: str) -> Artifact:
        """As `open`, returning the artifact itself."""
        return self._shelf.verify(digest)

    def digests(self) -> list[str]:
        """List what is stored, sorted."""
        return self._shelf.digests()

    def remove_unreferenced(self, keep: Collection[str]) -> list[str]:
        """Remove all artifacts but those in `keep`; return the digests that are gone."""
        gone = [digest for digest in self.digests() if digest not in keep]
        for digest in gone:
            self._shelf.remove(digest)
        return gone

    def sweep(self) -> None:
        """Remove what a crash left half made. Only for who holds the store's lock, before any adding."""
        self._shelf.sweep()

    def _add_sources(
        self, sources: Sequence[_Source], *, single: bool, progress: Progress | None
    ) -> Artifact:
        """Hash first, and copy only what is not there yet. Hashing is the first half of the progress."""
        sizes = []
        for source in sources:
            with source.open() as file:
                sizes.append(os.fstat(file.fileno()).st_size)
        halves = _Halves(progress, sum(sizes))
        entries = self._entries(sources, halves.first)
        if single and not sizes[0]:
            raise ArtifactError(
                f"{sources[0].name} is empty; expected a model",
                hint="export the model again, or copy its file",
            )
        stored = self._shelf.whole(f"sha256:{entries[0].sha256}" if single else folder_digest(entries))
        if stored is not None:
            halves.finish()
            return stored
        with self._shelf.workplace() as work:
            folder = work / "artifact"
            staging = self._staging(folder if single else folder / FILES_NAME, halves.second)
            staging.check_total(sum(sizes))
            for source in sources:
                with source.open() as file:
                    staging.write(source.name, read_source(file, source.name))
            staging.sync()
            return self._shelve(folder, staging.entries, single=single)

    def _entries(self, sources: Sequence[_Source], report: Callable[[int], None]) -> list[Entry]:
        entries = []
        for source in sources:
            with source.open() as file:
                sha256 = self._shelf.hash(file, source.name, report)
                entries.append(Entry(source.name, os.fstat(file.fileno()).st_size, sha256))
        return entries

    def _add_archive(
        self, file: BinaryIO, name: str, kind: ArchiveKind, progress: Progress | None
    ) -> Artifact:
        key = f"{kind}:{self._shelf.hash(file, name)}"
        stored = self._shelf.whole(self._origins.get(key).get("digest", ""))
        if stored is not None:
            return stored
        file.seek(0)
        allowed_bytes = self._limits.unpacked(os.fstat(file.fileno()).st_size)
        with self._shelf.workplace() as work:
            files = work / "artifact" / FILES_NAME
            staging = self._staging(files, progress, max_bytes=allowed_bytes)
            unpack(file, name=name, kind=kind, staging=staging, limits=self._limits)
            staging.sync()
            entries = staging.entries
            top = common_folder(staging)
            if top is not None:
                with storage_errors():
                    os.rename(files, work / "packed")
                    os.rename(work / "packed" / top, files)
                entries = [_below(top, entry) for entry in entries]
            artifact = self._shelve(work / "artifact", entries, single=False)
        self._remember(key, {"digest": artifact.digest})
        return artifact

    def _staging(self, folder: Path, progress: Progress | None, *, max_bytes: int | None = None) -> Staging:
        with storage_errors():
            folder.mkdir(parents=True)
        return Staging(folder, limits=self._limits, max_bytes=max_bytes, progress=progress)

    def _shelve(self, folder: Path, entries: Sequence[Entry], *, single: bool) -> Artifact:
        if single:
            _check_locations(folder, entries, single=True)
            return self._shelf.shelve_file(folder, entries[0])
        _check_locations(folder / FILES_NAME, entries, single=False)
        return self._shelf.shelve_folder(folder, entries)

    def _data_files(self, file: BinaryIO, path: Path) -> list[str]:
        """List the data files that a model refers to. What is looked through is a copy: see `external`."""
        if path.suffix.lower() not in _MODEL_SUFFIXES or not may_refer(read_source(file, path.name)):
            return []
        file.seek(0)
        with self._shelf.workplace() as work:
            staging = self._staging(work / "model", None)
            staging.write("model", read_source(file, path.name))
            return ["/".join(split_name(name)) for name in _locations(staging.folder / "model", path.name)]

    def _remember(self, key: str, facts: dict[str, str]) -> None:
        with suppress(StorageFull):  # then it is fetched or unpacked again next time
            self._origins.put(key, facts)


def _file_sources(path: Path, data: Sequence[str]) -> list[_Source]:
    """A model's file, and the data files that it refers to."""
    beside = [_Source(name, partial(_open_data, path, name)) for name in data]
    return [_Source(path.name, partial(open_file, path)), *beside]


@contextmanager
def _open_data(model: Path, name: str) -> Iterator[BinaryIO]:
    """Open a data file of a model's.

    :raises ArtifactError: it is not there, or not to be read
    """
    if not os.path.lexists(model.parent / name):
        raise ArtifactError(
            f"the model {model.name} keeps weights in {quoted(name)}, which is missing in {model.parent}",
            hint="copy it there, as it was exported: a model and the files of its weights go together",
        )
    with open_beneath(model.parent, name) as file:
        yield file


class _Halves:
    """Two passes over the same bytes, reported as one."""

    def __init__(self, progress: Progress | None, total_bytes: int) -> None:
        self._progress = progress
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def first(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self._report(self._done_bytes // 2)

    def second(self, done_bytes: int, _: int | None) -> None:
        self._report((self._total_bytes + done_bytes) // 2)

    def finish(self) -> None:
        self._report(self._total_bytes)

    def _report(self, done_bytes: int) -> None:
        if self._progress is not None:
            self._progress(done_bytes, self._total_bytes)


def _below(top: str, entry: Entry) -> Entry:
    return Entry(entry.path.removeprefix(f"{top}/"), entry.size_bytes, entry.sha256)


def _check_locations(folder: Path, entries: Sequence[Entry], *, single: bool) -> None:
    """Refuse models whose data lies elsewhere than beside or below them."""
    for entry in entries:
        if not entry.size_bytes or Path(entry.path).suffix.lower() not in _MODEL_SUFFIXES:
            continue
        with open_beneath(folder, entry.path) as file:
            if not may_refer(read_source(file, entry.path)):
                continue
        locations = _locations(folder / entry.path, entry.path)
        if single and locations:
            raise ArtifactError(
                f"the model {entry.path} keeps data in {', '.join(locations[:3])}, which did not come along",
                hint="deploy the folder that holds both, or both packed as .zip or .tar.gz",
            )


def _locations(path: Path, name: str) -> list[str]:
    locations = external_locations(path)
    for location in locations:
        try:
            split_name(location)
        except ArtifactError as exc:
            raise ArtifactError(
                f"the model {name} keeps its data in {quoted(location)}; expected a file beside or below it",
                hint="save the model again with its data in the same folder",
            ) from exc
    return locations
