"""Backups: one tar file with a consistent copy of the registry, the artifacts, what is known of drift, the
comparisons, the queue of labels, the predictions to be answered later and, if asked, the request log.

    backup.json     what is in it, with digests
    registry.db     a snapshot, taken while the appliance goes on writing
    artifacts/...   as in the store; left out of the copies that the appliance makes for itself
    drift/...       baselines, alerts and what somebody chose; left out likewise
    candidates.db, comparisons.db, deferred.db     snapshots of those that are there; left out likewise.
                    Of the deferred predictions, those that wait and the answers that are still kept
    log/*.db        only when asked for

Owns that file: its name, its contents and how it is described. How a database is copied is the affair of
`snapshots`, how a backup comes back into a store that of `restore`.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mdslite.errors import (
    ArtifactError,
    Conflict,
    InvalidRequest,
    NotFound,
    StoreError,
)
from mdslite.store.database import connect_reader, first_fault, sqlite_errors
from mdslite.store.disk import draft_path, remove_tree, storage_errors, sync_folder
from mdslite.store.recovery import (
    ARTIFACTS_NAME,
    BACKUP_SUFFIX,
    BACKUPS_NAME,
    DRIFT_NAME,
    LEDGERS,
    PARTS,
    REGISTRY_NAME,
    STAMP,
    corrupt_store,
    list_backups,
)
from mdslite.store.shelf import Shelf
from mdslite.store.snapshots import take_snapshots
from mdslite.store.staging import hash_chunks, read_chunks

CONTENTS_NAME = "backup.json"
_FORMAT = 1
_FILE = re.compile(
    rf"(?:registry|{'|'.join(LEDGERS)})\.db|drift/(?:drift\.db|wishes\.json)|log/[A-Za-z0-9._-]+\.db"
)
_AUTOSAVE_MARK = "-registry"
_MAKE_HINT = "mdslite backup makes one"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds. `files` maps databases and wishes to their SHA-256; artifacts carry theirs as
    their name; `left_out` lists artifacts of former revisions that were damaged already."""

    format: int
    created_at: str
    revision: int
    parts: tuple[str, ...]
    files: dict[str, str]
    artifacts: tuple[str, ...]
    left_out: tuple[str, ...]


def backup(store_dir: Path, target: Path | None = None, *, log: bool = False, artifacts: bool = True) -> Path:
    """Copy the store while it serves; return the file, by default `backups/<UTC time>.tar` in the store.

    :raises ArtifactError: an artifact that is deployed now is damaged or missing
    :raises Conflict: the file exists already
    :raises InvalidRequest: it may not, or cannot, be written there
    :raises StorageFull: no room for it; nothing was kept
    :raises StoreCorrupt: the registry is damaged
    """
    registry = store_dir / REGISTRY_NAME
    if not registry.exists():
        raise NotFound(
            f"there is no store at {store_dir.absolute()}", hint="name its folder with --store DIR"
        )
    is_chosen = target is not None
    target = _choose_target(store_dir, target, mark="" if artifacts else _AUTOSAVE_MARK)
    draft, work = draft_path(target), draft_path(target.with_suffix(""))
    try:
        try:
            with storage_errors("the backup"):
                work.mkdir(mode=0o700)
        except StoreError as exc:
            if not is_chosen:
                raise
            raise InvalidRequest(exc.message, hint=f"name a folder that can be written: {target}") from exc
        names = take_snapshots(store_dir, work, beside=artifacts, log=log)
        contents = _describe(store_dir, work, names, artifacts=artifacts, log=log)
        _write_tar(draft, store_dir, work, contents)
        with storage_errors("the backup"):
            os.rename(draft, target)
            sync_folder(target.parent)
    finally:
        remove_tree(work)
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return target


def measure(path: Path) -> dict[str, int]:
    """How many bytes of a backup each of its parts takes."""
    sizes: dict[str, int] = {}
    with tarfile.open(path, mode="r:") as archive:
        for member in archive:
            part = member.name.partition("/")[0].removesuffix(".db")
            if member.isfile() and part in PARTS:
                sizes[part] = sizes.get(part, 0) + member.size
    return sizes


def autosave(store_dir: Path, *, keep: int = 7) -> Path | None:
    """Back up the registry alone into the store, unless the newest such copy has the same revision already;
    keep only the newest `keep` of them. It is what a corrupt registry is restored from."""
    saved = [path for path in list_backups(store_dir) if path.stem.endswith(_AUTOSAVE_MARK)]
    with sqlite_errors(store_dir / REGISTRY_NAME), closing(connect_reader(store_dir / REGISTRY_NAME)) as db:
        revision = _latest_revision(db)
    if saved:
        with suppress(StoreError):  # a damaged one is no reason against a new one
            if read_contents(saved[-1]).revision == revision:
                return None
    made = backup(store_dir, artifacts=False)
    for old in [*saved, made][:-keep]:
        with storage_errors():
            old.unlink(missing_ok=True)
    return made


def read_contents(path: Path) -> Contents:
    """Read what a backup holds.

    :raises StoreError: it is no backup, or one of a newer mdslite
    """
    try:
        with tarfile.open(path, mode="r:") as archive:
            first = archive.next()
            content = None if first is None or first.name != CONTENTS_NAME else archive.extractfile(first)
            found = json.loads(b"{}" if content is None else content.read(1 << 26))
    except (OSError, tarfile.TarError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise StoreError(f"{path} is no backup that can be read: {why}", hint=_MAKE_HINT) from exc
    version = found.get("format") if isinstance(found, dict) else None
    if isinstance(version, int) and version > _FORMAT:
        raise StoreError(f"{path} was made by a newer mdslite", hint="restore it with that one")
    try:
        contents = msgspec.convert(found, Contents)
    except msgspec.ValidationError as exc:
        raise StoreError(f"{path} is no backup of mdslite: {exc}", hint=_MAKE_HINT) from exc
    strange = [name for name in contents.files if not _FILE.fullmatch(name)]
    if strange or not set(contents.parts) <= PARTS.keys() or "registry" not in contents.parts:
        raise StoreError(f"{path} is no backup of mdslite: it holds something else", hint=_MAKE_HINT)
    return contents


def _choose_target(store_dir: Path, target: Path | None, *, mark: str) -> Path:
    if target is not None:
        _check_target(store_dir, target)
    if target is not None and not target.is_dir():
        if target.exists():
            raise Conflict(f"{target} exists already", hint="choose another name, or remove it")
        if target.parent.resolve() == (store_dir / BACKUPS_NAME).resolve():
            with storage_errors("the backup"):
                target.parent.mkdir(mode=0o700, exist_ok=True)
        if not target.parent.is_dir():
            raise NotFound(f"there is no folder {target.parent}", hint="make it first")
        return target
    folder = store_dir / BACKUPS_NAME if target is None else target
    with storage_errors("the backup"):
        folder.mkdir(mode=0o700, exist_ok=True)
    return choose_name(folder, "", f"{mark}{BACKUP_SUFFIX}")


def _check_target(store_dir: Path, target: Path) -> None:
    """Pass a place of the caller's choice.

    :raises InvalidRequest: it is among what the store keeps, or no place for a file
    """
    store, wanted = store_dir.resolve(), target.resolve()
    backups = store / BACKUPS_NAME
    if wanted.is_relative_to(store) and not wanted.is_relative_to(backups):
        raise InvalidRequest(
            f"{target} is inside the store: expected a place outside of it, or in {backups}",
            hint="leave the path out to write it there",
        )
    if wanted.exists() and not (wanted.is_dir() or wanted.is_file()):
        raise InvalidRequest(f"{target} is neither a folder nor a file: expected a name for a new file")


def choose_name(folder: Path, prefix: str, suffix: str) -> Path:
    """A name that sorts by its time, and that nothing has yet."""
    stem = f"{prefix}{datetime.now(UTC).strftime(STAMP)}"
    count = 1
    path = folder / f"{stem}{suffix}"
    while path.exists():
        count += 1
        path = folder / f"{stem}-{count}{suffix}"
    return path


def _describe(store_dir: Path, work: Path, names: Sequence[str], *, artifacts: bool, log: bool) -> Contents:
    """Examine the registry's snapshot and all artifacts that it refers to."""
    files = {}
    for name in names:
        with (work / name).open("rb") as file:
            files[name] = hash_chunks(read_chunks(file))
    with sqlite_errors(store_dir / REGISTRY_NAME), closing(sqlite3.connect(work / REGISTRY_NAME)) as db:
        fault = first_fault(db)
        if fault is not None:
            raise corrupt_store(store_dir, fault)
        revision = _latest_revision(db)
        deployed = {
            digest for (digest,) in db.execute("select digest from versions where until_revision is null")
        }
        referred = {digest for (digest,) in db.execute("select digest from versions")}
    whole, left_out = _sort_out(store_dir, referred, deployed) if artifacts else ((), ())
    drift = any(name.startswith(f"{DRIFT_NAME}/") for name in names)
    ledgers = ((part, f"{part}.db" in names) for part in LEDGERS)
    here = (("registry", True), ("artifacts", artifacts), ("drift", drift), *ledgers, ("log", log))
    parts = [part for part, is_here in here if is_here]
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    return Contents(_FORMAT, created_at, revision, tuple(parts), files, whole, left_out)


def _latest_revision(db: sqlite3.Connection) -> int:
    return int(db.execute("select coalesce(max(id), 0) from revisions").fetchone()[0])


def _sort_out(
    store_dir: Path, referred: set[str], deployed: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell the whole artifacts from the damaged; a deployed one may not be damaged."""
    shelf = Shelf(store_dir / ARTIFACTS_NAME)
    whole: list[str] = []
    left_out: list[str] = []
    for digest in sorted(referred):
        try:
            shelf.verify(digest)
            whole.append(digest)
        except ArtifactError:
            if digest in deployed:
                raise
            left_out.append(digest)
    return tuple(whole), tuple(left_out)


def _write_tar(draft: Path, store_dir: Path, work: Path, contents: Contents) -> None:
    with storage_errors("the backup"), _new_file(draft) as fd, os.fdopen(fd, "wb", closefd=False) as file:
        with tarfile.open(fileobj=file, mode="w", dereference=True) as archive:
            described = work / CONTENTS_NAME
            described.write_text(json.dumps(asdict(contents)))
            archive.add(described, CONTENTS_NAME, filter=_anonymous)
            for name in contents.files:
                archive.add(work / name, name, filter=_anonymous)
            for digest in contents.artifacts:
                name = f"{ARTIFACTS_NAME}/{digest.removeprefix('sha256:')}"
                archive.add(store_dir / name, name, filter=_anonymous)
        file.flush()
        os.fsync(fd)


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
