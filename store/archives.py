"""Unpacking archives from anybody: only ordinary files, only inside, only as much as is allowed.

Nothing of `tarfile`'s or `zipfile`'s own extraction is used: each file's bytes go through `Staging`, which
checks names and counts. What is guarded here beside that is what these modules do before the first byte of
a file: reading a long header or directory into memory.
"""

from __future__ import annotations

import gzip
import io
import os
import shlex
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, Self

from mdslite.errors import ArtifactError, TooLarge, quoted
from mdslite.guises import ARCHIVES, recognize
from mdslite.store.staging import UNPACK_HINT, Limits, Staging, is_ignored, read_chunks, split_name

ArchiveKind = Literal["zip", "tar", "tar.gz"]

# Enough for the names of ten thousand files; a pax header holds one file's name and times.
_PACK_HINT = "pack the model's folder again, with what its links lead to: tar -czhf model.tar.gz FOLDER"
_MAX_DIRECTORY_BYTES = 16 << 20
_MAX_HEADER_BYTES = 1 << 20
_HEADER_TYPES = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
_READABLE = {".zip": "zip", ".tar": "tar", ".tgz": "tar.gz", ".tar.gz": "tar.gz"}
_UNREADABLE = (
    ".tar.bz2",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".7z",
    ".rar",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
)
_UNPACKERS = {"gz": "gunzip -k", "bz2": "bunzip2 -k", "xz": "unxz -k", "zst": "unzstd"}  # of a single file


def archive_kind(name: str) -> ArchiveKind | None:
    """Tell by a file's name whether it is unpacked. By its bytes nobody can: a PyTorch model is a zip.

    :raises ArtifactError: it is an archive of a kind that is not read
    """
    lower = name.lower()
    for ending, kind in _READABLE.items():
        if lower.endswith(ending):
            return kind  # type: ignore[return-value]
    if not lower.endswith(_UNREADABLE):
        return None
    hint = "unpack it and deploy the folder, or pack that again: tar czf MODEL.tar.gz -C FOLDER ."
    stem, _, ending = lower.rpartition(".")
    if ending in _UNPACKERS and not stem.endswith(".tar"):
        hint = f"unpack it first: {_UNPACKERS[ending]} {shlex.quote(name)}"
    raise ArtifactError(
        f"{name} is packed in a way that is not read here; expected .zip, .tar or .tar.gz", hint=hint
    )


def unpack(file: BinaryIO, *, name: str, kind: ArchiveKind, staging: Staging, limits: Limits) -> None:
    """Unpack a seekable archive into `staging`, which may be left half filled by a failure.

    :raises ArtifactError: it is something else, damaged, encrypted, empty, or holds a link, a device or an
        unsafe name
    :raises TooLarge: it unpacks to too much
    """
    _check_guise(file, name, kind)
    size_bytes = os.fstat(file.fileno()).st_size
    with _archive_errors(name):
        if kind == "zip":
            _unpack_zip(file, name, staging, limits)
        elif kind == "tar":
            _unpack_tar(file, name, staging, limits)
        else:
            # The headers of the files come on top of their bytes.
            allowed = limits.unpacked(size_bytes) + 2048 * limits.max_files
            with gzip.GzipFile(fileobj=file, mode="rb") as plain:
                _unpack_tar(_Counted(plain, allowed), name, staging, limits)
    if not staging.entries:
        raise ArtifactError(f"the archive {name} is empty; expected a model's files in it", hint=_PACK_HINT)


def common_folder(staging: Staging) -> str | None:
    """Name the one folder that holds everything, as in an archive packed from outside its folder."""
    tops = {PurePosixPath(entry.path).parts[0] for entry in staging.entries}
    nested = all("/" in entry.path for entry in staging.entries)
    return tops.pop() if nested and len(tops) == 1 else None


def _check_guise(file: BinaryIO, name: str, kind: ArchiveKind) -> None:
    """Refuse what a name calls an archive and is none of its kind, and leave the file at its beginning."""
    guise = recognize(file, name=name)
    prefixed = kind == "zip" and zipfile.is_zipfile(file)  # a program before it, which unpacks it, is no harm
    file.seek(0)
    if guise is None or guise.what == ARCHIVES[kind] or prefixed:
        return
    hint = guise.hint if guise.stand_in else _PACK_HINT
    raise ArtifactError(f"{name} is {guise.what}: expected a .{kind} archive", hint=hint)


@contextmanager
def _archive_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as exc:
        raise ArtifactError(f"the archive {name} is damaged: {exc}", hint=_PACK_HINT) from exc
    except (NotImplementedError, RecursionError, ValueError, OverflowError, struct.error) as exc:
        # The ways to say: a version not read, headers upon headers, or a field that makes no sense.
        raise ArtifactError(f"the archive {name} cannot be read: {exc}", hint=_PACK_HINT) from exc


def _unpack_zip(file: BinaryIO, name: str, staging: Staging, limits: Limits) -> None:
    with _Bounded(file) as bounded, zipfile.ZipFile(bounded) as archive:
        members = archive.infolist()
        if len(members) > 2 * limits.max_files:
            raise TooLarge(f"the archive {name} holds {len(members)} names; at most {limits.max_files} files")
        for member in members:
            _check_zip_member(member)
        # The sizes are only promises, but zipfile reads no more of a file than was promised.
        staging.check_total(sum(member.file_size for member in members))
        for member in members:
            if member.is_dir() or is_ignored(split_name(member.filename)):
                continue
            with archive.open(member) as content:
                staging.write(member.filename, read_chunks(content))  # type: ignore[arg-type]


def _check_zip_member(member: zipfile.ZipInfo) -> None:
    split_name(member.orig_filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArtifactError(
            f"{quoted(member.filename)} in the archive is a link or device; expected files and folders",
            hint=_PACK_HINT,
        )
    if member.flag_bits & 0x1:
        raise ArtifactError(
            f"{quoted(member.filename)} in the archive is encrypted; expected it in the clear",
            hint=_PACK_HINT,
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArtifactError(
            f"{quoted(member.filename)} in the archive is packed by a rare method; expected deflate",
            hint=_PACK_HINT,
        )


def _unpack_tar(file: BinaryIO | _Counted, name: str, staging: Staging, limits: Limits) -> None:
    # As a stream: nothing is sought, so that one pass sees every byte once.
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_CheckedInfo) as archive:  # type: ignore[call-overload]
        for count, member in enumerate(archive):
            if count > 2 * limits.max_files:
                raise TooLarge(f"the archive {name} holds more than {2 * limits.max_files} names")
            _unpack_tar_member(archive, member, staging)
    while file.read(1 << 20):
        pass  # gzip checks its checksum at the very end


def _unpack_tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo, staging: Staging) -> None:
    if member.isdir() and PurePosixPath(member.name) == PurePosixPath("."):
        return
    parts = split_name(member.name)
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise ArtifactError(
            f"{quoted(member.name)} in the archive is a link or device; expected files and folders",
            hint=_PACK_HINT,
        )
    if member.isdir() or is_ignored(parts):
        return
    content = archive.extractfile(member)
    assert content is not None  # an ordinary file has content
    entry = staging.write(member.name, read_chunks(content))  # type: ignore[arg-type]
    if entry.size_bytes != member.size:
        raise tarfile.ReadError(f"{quoted(member.name)} ends early")


class _CheckedInfo(tarfile.TarInfo):
    """Refuses what tarfile would take for the end of an archive, or read into memory whatever its size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as exc:
            if not buf or any(buf):  # the end is a block of zeros
                raise ArtifactError("the archive is damaged or not whole", hint=_PACK_HINT) from exc
            raise
        if info.type in _HEADER_TYPES and info.size > _MAX_HEADER_BYTES:
            raise ArtifactError(
                f"a header of {info.size} bytes in the archive; expected a file's name and times"
            )
        return info


class _Bounded(io.BufferedReader):
    """A zip's file: no single read, such as that of its directory, takes more than a bound."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(io.FileIO(os.dup(file.fileno()), "rb"))
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > _MAX_DIRECTORY_BYTES:
            raise TooLarge(f"a directory of {size} bytes in the archive; at most {_MAX_DIRECTORY_BYTES}")
        return super().read(size)


class _Counted:
    """Decompressed bytes up to a limit, skipped ones included."""

    def __init__(self, file: gzip.GzipFile, limit_bytes: int) -> None:
        self._file = file
        self._left_bytes = limit_bytes

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise TooLarge("the archive unpacks to more than its packed size explains", hint=UNPACK_HINT)
        return chunk
