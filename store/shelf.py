"""The shelf: files and folders under the SHA-256 of their bytes, written once and never changed.

    <hex>/<file name>                    a file; its digest is that of its bytes
    <hex>/files/..., manifest.json       a folder; its digest is that of its manifest
    .staging/<random>/                   in the making, or left by a crash and swept at the next start

An artifact is synced before its folder is renamed into place, so it is whole or absent, and whoever records
its digest afterwards records something that is there. Knows nothing of models, archives and networks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from mdslite.errors import ArtifactError, quoted
from mdslite.store.disk import remove_tree, storage_errors, sweep_drafts, sync_folder, write_whole
from mdslite.store.memos import FileDigests
from mdslite.store.recovery import restore_command
from mdslite.store.sources import list_folder, open_beneath, read_source
from mdslite.store.staging import Entry, Limits, hash_chunks, make_manifest, read_manifest

FILES_NAME = "files"
MANIFEST_NAME = "manifest.json"
_STAGING_NAME = ".staging"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ANY = Limits(max_files=1 << 32)  # what is on the shelf was within the limits of its day


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is stored under a digest. `path` is the file, or the folder that holds the files."""

    digest: str
    kind: Literal["file", "folder"]
    size_bytes: int
    path: Path

    def main(self, suffixes: Collection[str] = (".onnx",)) -> Path:
        """Find the model's file: the file itself; in a folder the only one with one of `suffixes`, or of
        several the one at the top that is named `model`.

        :raises ArtifactError: there is none, or it cannot be told which
        """
        if self.kind == "file":
            return self.path
        names = [Path(name) for name in list_folder(self.path, limits=_ANY, own=True)]
        found = [name for name in names if name.suffix.lower() in suffixes]
        named = [name for name in found if name.parent == Path() and name.stem == "model"]
        chosen = found if len(found) == 1 else named
        if len(chosen) == 1:
            return self.path / chosen[0]
        wanted = " or ".join(sorted(suffixes))
        several = f"{len(found)} {wanted} files ({', '.join(map(str, found[:5]))})"
        raise ArtifactError(
            f"the folder holds {several if found else f'no {wanted} file'}; expected exactly one",
            hint=f"point uri at the file itself, or name the one to serve model{min(suffixes)}",
        )


class Shelf:
    """Thread-safe: what two threads shelve at once is shelved once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._hashed = FileDigests()

    def get(self, digest: str) -> Artifact | None:
        """Find an artifact without reading its bytes."""
        folder = self._folder(digest)
        try:
            if (folder / FILES_NAME).is_dir():
                entries = read_manifest((folder / MANIFEST_NAME).read_bytes())
                size_bytes = sum(entry.size_bytes for entry in entries)
                return Artifact(digest, "folder", size_bytes, folder / FILES_NAME)
            (path,) = folder.iterdir()
            return Artifact(digest, "file", path.stat().st_size, path)
        except (OSError, ValueError):
            return None

    def digests(self) -> list[str]:
        """List what is on the shelf, sorted."""
        try:
            names = sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        return [f"sha256:{name}" for name in names if _DIGEST.fullmatch(f"sha256:{name}")]

    def verify(self, digest: str, *, trust_inodes: bool = False) -> Artifact:
        """Read all bytes and compare them with the digest; `trust_inodes` skips files that were hashed
        before and that their inodes call unchanged.

        :raises ArtifactError: missing, or changed since it was shelved; names the file
        """
        artifact = self.get(digest)
        if artifact is None:
            raise ArtifactError(
                f"the stored artifact {digest} is missing or damaged", hint=self._way_back(digest)
            )
        if artifact.kind == "file":
            self._verify_file(digest, artifact.path.parent, artifact.path.name, digest, trust_inodes)
            return artifact
        content = (artifact.path.parent / MANIFEST_NAME).read_bytes()
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            raise self._mismatch(digest, MANIFEST_NAME)
        entries = read_manifest(content)
        if list_folder(artifact.path, limits=_ANY, own=True) != sorted(entry.path for entry in entries):
            raise ArtifactError(
                f"files came to or went from the stored artifact {digest}", hint=self._way_back(digest)
            )
        for entry in entries:
            self._verify_file(digest, artifact.path, entry.path, f"sha256:{entry.sha256}", trust_inodes)
        return artifact

    def whole(self, digest: str) -> Artifact | None:
        """Find an artifact that is unharmed, as far as that can be told without reading it all again."""
        try:
            return self.verify(digest, trust_inodes=True) if _DIGEST.fullmatch(digest) else None
        except ArtifactError:
            return None

    def hash(self, file: BinaryIO, name: str, report: Callable[[int], None] | None = None) -> str:
        """Hash any file, unless it was hashed before and its inode calls it unchanged."""
        known = self._hashed.get(file)
        if known is not None:
            if report is not None:
                report(os.fstat(file.fileno()).st_size)
            return known
        return self._hashed.hash(file, lambda: hash_chunks(read_source(file, name), report))

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """A folder on the shelf's disk to make an artifact in; what is left in it goes at the end."""
        work = self.root / _STAGING_NAME / secrets.token_hex(8)
        with storage_errors():
            work.mkdir(parents=True)
        try:
            yield work
        finally:
            remove_tree(work)

    def shelve_file(self, folder: Path, entry: Entry) -> Artifact:
        """Move `folder`, which holds that one synced file, onto the shelf."""
        return self._place(folder, f"sha256:{entry.sha256}")

    def shelve_folder(self, folder: Path, entries: Sequence[Entry]) -> Artifact:
        """Move `folder`, which holds the synced `entries` under `files/`, onto the shelf."""
        with storage_errors():
            write_whole(folder / MANIFEST_NAME, make_manifest(entries))
        return self._place(folder, folder_digest(entries))

    def remove(self, digest: str) -> None:
        """Take an artifact off the shelf at once, then free its space."""
        with self.workplace() as work, storage_errors():
            os.rename(self._folder(digest), work / "removed")
            sync_folder(self.root)

    def sweep(self) -> None:
        """Remove what a crash left half made. Only for who holds the store's lock, before any adding."""
        remove_tree(self.root / _STAGING_NAME)
        sweep_drafts(self.root)

    def _folder(self, digest: str) -> Path:
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise ArtifactError(f"{quoted(digest)} is no digest; expected sha256: and 64 hexadecimal digits")
        return self.root / found.group(1)

    def _verify_file(self, digest: str, top: Path, name: str, expected: str, trust_inodes: bool) -> None:
        with open_beneath(top, name, own=True) as file:
            if not trust_inodes:
                found = self._hashed.hash(file, lambda: hash_chunks(read_source(file, name)))
            else:
                found = self.hash(file, name)
        if f"sha256:{found}" != expected:
            raise self._mismatch(digest, name)

    def _mismatch(self, digest: str, name: str) -> ArtifactError:
        return ArtifactError(
            f"the stored artifact {digest} no longer matches its digest: {name} was changed",
            hint=self._way_back(digest),
        )

    def _way_back(self, digest: str) -> str:
        command = restore_command(self.root.parent, holding=digest.removeprefix("sha256:"))
        return (
            f"apply the version again from its source, or stop the appliance and restore a backup: {command}"
        )

    def _place(self, folder: Path, digest: str) -> Artifact:
        place = self._folder(digest)
        with storage_errors():
            sync_folder(folder)
            try:
                os.rename(folder, place)
            except OSError as exc:
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # Here already: by another thread just now, or damaged and now brought again.
                if self.whole(digest) is None:
                    os.rename(place, folder.with_name("damaged"))
                    os.rename(folder, place)
            sync_folder(self.root)
        artifact = self.get(digest)
        assert artifact is not None  # it was renamed into place just now
        return artifact


def folder_digest(entries: Sequence[Entry]) -> str:
    return f"sha256:{hashlib.sha256(make_manifest(entries)).hexdigest()}"
