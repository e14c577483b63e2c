"""What `mdslite doctor` finds out about a store, whether or not an appliance serves it. Reads only."""

from __future__ import annotations

import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from mdslite.errors import ArtifactError, MdsliteError, StoreError
from mdslite.findings import Finding, Level
from mdslite.sizes import size_text
from mdslite.store.database import connect_reader, first_fault, size_fault, sqlite_errors
from mdslite.store.disk import READ_ONLY_HINT, free_bytes, is_read_only
from mdslite.store.drift import SET_AGAIN, read_wishes, wishes_set_aside
from mdslite.store.hours import list_hours
from mdslite.store.lock import LOCK_NAME, StoreLock, is_locked
from mdslite.store.recovery import (
    ARTIFACTS_NAME,
    BACKUPS_NAME,
    DRIFT_NAME,
    LOG_NAME,
    MARKER_NAME,
    REGISTRY_NAME,
    corrupt_ledger,
    corrupt_store,
    databases_beside,
    list_backups,
)
from mdslite.store.shelf import Artifact, Shelf

_PARTS = (LOCK_NAME, REGISTRY_NAME, MARKER_NAME, ARTIFACTS_NAME, LOG_NAME, BACKUPS_NAME, DRIFT_NAME)
_LOW_BYTES = 1 << 30
_EMPTY_BYTES = 64 << 20
_SHOWN_IDLE = 3
_OLD_BACKUP_S = 14 * 86_400
# A damaged hour is set aside by the journal anyway; reading all of a large log would take minutes.
_CHECKED_LOG_BYTES = 1 << 30


def check_store(
    store_dir: Path, *, expected: bool = False, clock: Callable[[], float] = time.time
) -> list[Finding]:
    """Examine the registry and the databases beside it, every stored artifact's bytes, the request log's
    files, backups and the disk. Where a store is `expected`, none is worth a warning."""
    store_dir = store_dir.absolute()
    if store_dir.exists() and not store_dir.is_dir():
        return [Finding("error", f"{store_dir} is a file: expected a store's folder")]
    if not any((store_dir / name).exists() for name in _PARTS):
        level: Level = "warning" if expected else "ok"
        if not store_dir.exists():
            return [Finding(level, f"no store at {store_dir} yet", "mdslite up makes it")]
        what = f"no store at {store_dir} yet: nothing in that folder is a store's"
        return [Finding(level, what, "mdslite up makes it"), *_check_disk(store_dir)]
    return [
        *_check_lock(store_dir),
        *_check_registry(store_dir),
        *_check_ledgers(store_dir),
        *_check_wishes(store_dir / DRIFT_NAME),
        *_check_log(store_dir),
        *_check_backups(store_dir, clock()),
        *_check_disk(store_dir),
    ]


def _check_lock(store_dir: Path) -> Iterator[Finding]:
    if not is_locked(store_dir):
        yield Finding("ok", f"store {store_dir}: no appliance serves it")
        return
    holder = StoreLock(store_dir).holder()
    who = "a process" if holder is None else f"pid {holder.pid} since {holder.since}"
    yield Finding("ok", f"store {store_dir}: served by {who}")


def _check_registry(store_dir: Path) -> Iterator[Finding]:
    path = store_dir / REGISTRY_NAME
    if (store_dir / MARKER_NAME).exists():
        yield Finding("warning", "a restore was cut short", "the next mdslite up finishes it")
        return
    try:
        fault = size_fault(path)
        if fault is not None:
            raise corrupt_store(store_dir, fault)
        if not path.exists():
            yield Finding("ok", "registry: none yet")
            return
        deployed, former = _examine_registry(store_dir, path)
    except MdsliteError as exc:
        yield Finding("error", exc.message, exc.hint)
        return
    yield Finding("ok", f"registry: in order, artifacts deployed: {len(deployed)}")
    yield from _check_artifacts(store_dir, deployed, former)


def _check_ledgers(store_dir: Path) -> Iterator[Finding]:
    for path in databases_beside(store_dir):
        if not path.exists():
            continue
        try:
            with sqlite_errors(path), closing(connect_reader(path)) as db:
                fault = first_fault(db)
            if fault is not None:
                raise corrupt_ledger(path, fault)
        except MdsliteError as exc:
            yield Finding("error", exc.message, exc.hint)


def _check_wishes(folder: Path) -> Iterator[Finding]:
    """What somebody chose about drift: the alerts' webhook and baselines."""
    try:
        read_wishes(folder)
    except StoreError as exc:
        yield Finding("error", exc.message, exc.hint)
    for path in wishes_set_aside(folder):
        yield Finding(
            "warning",
            f"{path.name}, with the alerts' webhook and the chosen baselines, was set aside as damaged",
            f"{SET_AGAIN}; then remove it: rm {shlex.quote(str(path))}",
        )


def _examine_registry(store_dir: Path, path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the digests deployed now, each with the versions that have it, and those of former revisions,
    each with one."""
    with sqlite_errors(path), closing(connect_reader(path)) as db:
        fault = first_fault(db, thorough=True)
        if fault is not None:
            raise corrupt_store(store_dir, fault)
        rows = db.execute(
            "select digest, project || '/' || model || '@' || version, until_revision is null from versions"
        ).fetchall()
    deployed: dict[str, str] = {}
    for digest, name, is_open in rows:
        if is_open:
            deployed[digest] = f"{deployed[digest]}, {name}" if digest in deployed else name
    former = {digest: name for digest, name, _ in rows if digest not in deployed}
    return deployed, former


def _check_artifacts(store_dir: Path, deployed: dict[str, str], former: dict[str, str]) -> Iterator[Finding]:
    shelf = Shelf(store_dir / ARTIFACTS_NAME)
    whole_bytes = whole = 0
    for digest, name in {**former, **deployed}.items():
        try:
            artifact = shelf.verify(digest)
        except ArtifactError as exc:
            if digest in deployed:
                yield Finding("error", f"{name}: {exc.message}", exc.hint)
            else:
                yield Finding("warning", f"{name} of a former revision: {exc.message}", exc.hint)
        else:
            whole += 1
            whole_bytes += artifact.size_bytes
    yield Finding("ok", f"artifacts: {whole} match their digests ({size_text(whole_bytes)})")
    idle = [digest for digest in shelf.digests() if digest not in deployed and digest not in former]
    idle_artifacts = [stored for digest in idle if (stored := shelf.get(digest)) is not None]
    if idle_artifacts:
        yield _idle_finding(idle_artifacts)


def _idle_finding(idle: list[Artifact]) -> Finding:
    """What plans and failed applies left, the largest first, and when it goes."""
    idle = sorted(idle, key=lambda one: -one.size_bytes)
    named = ", ".join(f"{_name(one)} {size_text(one.size_bytes)}" for one in idle[:_SHOWN_IDLE])
    more = f" and {len(idle) - _SHOWN_IDLE} more" if len(idle) > _SHOWN_IDLE else ""
    total = size_text(sum(one.size_bytes for one in idle))
    return Finding(
        "ok",
        f"artifacts: {len(idle)} more belong to no revision ({total}), left by plans and failed applies: "
        f"{named}{more}; the next start of mdslite up removes them, and so does the next mdslite apply that "
        "changes something",
    )


def _name(artifact: Artifact) -> str:
    return artifact.path.name if artifact.kind == "file" else artifact.digest[:19]


def _check_log(store_dir: Path) -> Iterator[Finding]:
    try:
        hours = list_hours(store_dir / LOG_NAME)
    except StoreError as exc:
        yield Finding(
            "error", f"request log: {exc.message}", exc.hint or "predictions go on; nothing is logged"
        )
        return
    left_bytes = _CHECKED_LOG_BYTES
    checked = 0
    for hour in reversed(hours):
        if hour.set_aside:
            yield Finding(
                "warning",
                f"request log: {hour.path.name} was set aside as unusable",
                f"look at it, then remove it: rm {shlex.quote(str(hour.path))}",
            )
            continue
        left_bytes -= hour.size_bytes
        if left_bytes < 0:
            break
        checked += 1
        fault = _log_fault(hour.path)
        if fault is not None:
            yield Finding(
                "warning",
                f"request log: {hour.path.name} is damaged: {fault}",
                "the rest of the log is not affected; the file goes with retention",
            )
    total_bytes = sum(hour.size_bytes for hour in hours)
    yield Finding("ok", f"request log: {checked} of {len(hours)} files read ({size_text(total_bytes)})")


def _log_fault(path: Path) -> str | None:
    try:
        with closing(connect_reader(path)) as db:
            return first_fault(db)
    except sqlite3.Error as exc:
        return str(exc) if path.exists() else None  # retention may have removed it just now


def _check_backups(store_dir: Path, now: float) -> Iterator[Finding]:
    newest = next(reversed(list_backups(store_dir)), None)
    if newest is None:
        yield Finding(
            "warning", "no backup in the store's folder of backups", "make one with: mdslite backup"
        )
        return
    age_s = max(0.0, now - newest.stat().st_mtime)
    if age_s > _OLD_BACKUP_S:
        yield Finding(
            "warning",
            f"the newest backup is {age_s / 86_400:.0f} days old: {newest.name}",
            "make one with: mdslite backup",
        )
        return
    yield Finding("ok", f"newest backup: {newest.name}")


def _check_disk(store_dir: Path) -> Iterator[Finding]:
    if is_read_only(store_dir):
        yield Finding("error", "disk of the store: read-only, so nothing can be kept there", READ_ONLY_HINT)
        return
    free = free_bytes(store_dir)
    level: Level = "error" if free < _EMPTY_BYTES else "warning" if free < _LOW_BYTES else "ok"
    hint = (
        None
        if level == "ok"
        else "free some space: without it nothing can be applied and no request is logged"
    )
    yield Finding(level, f"disk of the store: {size_text(free)} free", hint)
