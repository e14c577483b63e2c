"""Backups: one tar file with a consistent copy of the registry, the artifacts, what is known of drift, the
comparisons, the queue of labels, the predictions to be answered later and, if asked, the request log.

    backup.json     what is in it, with digests
    registry.db     a snapshot, taken while the appliance goes on writing
    artifacts/...   as in the store; left out of the copies that the appliance makes for itself
    drift/...       baselines, alerts and what somebody chose; left out likewise
    candidates.db, comparisons.db, deferred.db     snapshots of those that are there; left out likewise
    log/*.db        only when asked for

Restoring checks everything before it changes anything, replaces only the parts that the backup has, and
keeps what it replaced in a folder beside them (see `recovery`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
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
    StorageFull,
    StoreCorrupt,
    StoreError,
)
from mdslite.store.archives import unpack
from mdslite.store.database import connect_reader, first_fault, size_fault, sqlite_errors
from mdslite.store.disk import draft_path, remove_tree, storage_errors, sync_file, sync_folder, sync_tree
from mdslite.store.drift import DATABASE, WISHES
from mdslite.store.hours import list_hours
from mdslite.store.lock import LOG_WAIT_S, StoreLock, log_lock
from mdslite.store.recovery import (
    ARTIFACTS_NAME,
    BACKUP_SUFFIX,
    BACKUPS_NAME,
    DRIFT_NAME,
    LEDGERS,
    LOG_NAME,
    PARTS,
    REGISTRY_NAME,
    STAMP,
    begin_restore,
    corrupt_store,
    finish_restore,
    list_backups,
)
from mdslite.store.shelf import Shelf
from mdslite.store.staging import Limits, Staging, hash_chunks, read_chunks

CONTENTS_NAME = "backup.json"
_FORMAT = 1
_FILE = re.compile(
    r"(?:registry|candidates|comparisons|deferred)\.db|drift/(?:drift\.db|wishes\.json)|log/[A-Za-z0-9._-]+\.db"
)
_AUTOSAVE_MARK = "-registry"
# What is in a backup was within the limits of artifacts when it was taken in.
_ANY_SIZE = Limits(max_bytes=1 << 62, max_files=1 << 32, max_depth=64, max_path_bytes=2048, reserve_bytes=0)


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
        with sqlite_errors(registry):
            _snapshot(registry, work / REGISTRY_NAME)
        known = [*_snapshot_drift(store_dir, work), *_snapshot_ledgers(store_dir, work)] if artifacts else []
        names = [REGISTRY_NAME, *known, *(_snapshot_log(store_dir, work) if log else [])]
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
        raise StoreError(f"{path} is no backup that can be read: {exc}") from exc
    version = found.get("format") if isinstance(found, dict) else None
    if isinstance(version, int) and version > _FORMAT:
        raise StoreError(f"{path} was made by a newer mdslite", hint="restore it with that one")
    try:
        contents = msgspec.convert(found, Contents)
    except msgspec.ValidationError as exc:
        raise StoreError(f"{path} is no backup of mdslite: {exc}", hint="mdslite backup makes one") from exc
    strange = [name for name in contents.files if not _FILE.fullmatch(name)]
    if strange or not set(contents.parts) <= PARTS.keys() or "registry" not in contents.parts:
        raise StoreError(f"{path} is no backup of mdslite: it holds something else")
    return contents


def restore(path: Path, store_dir: Path, *, force: bool = False) -> Path | None:
    """Put a backup's parts in the place of the store's; return the folder that keeps what they replaced.

    A crash on the way leaves the old store, or one that the next opening turns into the new.

    :raises StoreLocked: a process uses the store, or still writes its log
    :raises Conflict: there is a healthy registry already, and `force` is not given
    :raises StoreError: the backup is damaged or no backup; nothing was changed
    :raises StorageFull: no room for it beside the old one; nothing was changed
    """
    contents = read_contents(path)
    with StoreLock(store_dir), log_lock(store_dir / LOG_NAME, wait_s=LOG_WAIT_S):
        with suppress(StoreCorrupt):  # a broken one is what this is for
            finish_restore(store_dir)
        if not force:
            _check_replaceable(store_dir)
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
        aside = _choose_aside(store_dir)
        begin_restore(store_dir, staged=staged.name, aside=aside.name, parts=contents.parts)
        finish_restore(store_dir)
    return aside if aside.exists() else None


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
    return _choose_name(folder, "", f"{mark}{BACKUP_SUFFIX}")


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


def _choose_aside(store_dir: Path) -> Path:
    return _choose_name(store_dir, "replaced-", "")


def _choose_name(folder: Path, prefix: str, suffix: str) -> Path:
    """A name that sorts by its time, and that nothing has yet."""
    stem = f"{prefix}{datetime.now(UTC).strftime(STAMP)}"
    count = 1
    path = folder / f"{stem}{suffix}"
    while path.exists():
        count += 1
        path = folder / f"{stem}-{count}{suffix}"
    return path


def _snapshot(source: Path, copy: Path) -> None:
    with closing(connect_reader(source)) as reader, closing(sqlite3.connect(copy)) as writer:
        reader.backup(writer)
        writer.execute("pragma journal_mode = delete")  # one file, with no journal beside it
    sync_file(copy)


def _snapshot_drift(store_dir: Path, work: Path) -> list[str]:
    """Copy what is known of drift; nothing where nothing is, or it is damaged: it would be learnt anew."""
    source = store_dir / DRIFT_NAME / DATABASE
    if not source.exists():
        return []
    names = [f"{DRIFT_NAME}/{DATABASE}"]
    with storage_errors("the backup"):
        (work / DRIFT_NAME).mkdir()
    try:
        with sqlite_errors(source):
            _snapshot(source, work / names[0])
    except StoreCorrupt:
        return []
    with storage_errors("the backup"), suppress(FileNotFoundError):
        wishes = f"{DRIFT_NAME}/{WISHES}"
        shutil.copyfile(store_dir / wishes, work / wishes)
        names.append(wishes)
    return names


def _snapshot_ledgers(store_dir: Path, work: Path) -> list[str]:
    """Copy the databases beside the registry, without those that are missing or damaged."""
    names = []
    for part in LEDGERS:
        source = store_dir / f"{part}.db"
        if not source.exists():
            continue
        with suppress(StoreCorrupt):
            with sqlite_errors(source):
                _snapshot(source, work / source.name)
            names.append(source.name)
    return names


def _snapshot_log(store_dir: Path, work: Path) -> list[str]:
    """Copy the request log's hours, without those that retention removes meanwhile or that are damaged."""
    names = []
    with storage_errors("the backup"):
        (work / LOG_NAME).mkdir()
    for hour in list_hours(store_dir / LOG_NAME):
        name = f"{LOG_NAME}/{hour.path.name}"
        try:
            with sqlite_errors(hour.path):
                _snapshot(hour.path, work / name)
        except StorageFull:
            if hour.path.exists():
                raise
        except StoreCorrupt:
            (work / name).unlink(missing_ok=True)
        else:
            names.append(name)
    return names


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
