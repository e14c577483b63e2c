"""The way back from a broken store: the newest backup, the command to restore it, and the last step of a
restore, which a crash may cut short anywhere and which is then finished at the next opening.

A restore first puts everything that it brings, verified and synced, into a staging folder inside the store.
Then it writes `restore.json`, the point of no return, which lists what moves where. All that is left are
renames, each of which may already have happened.
"""

from __future__ import annotations

import json
import os
import shlex
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mdslite.errors import StoreCorrupt
from mdslite.store.disk import remove_tree, storage_errors, sweep_drafts, sync_folder, write_whole

BACKUPS_NAME = "backups"
BACKUP_SUFFIX = ".tar"
STAMP = "%Y-%m-%dT%H-%M-%SZ"
STAMP_LENGTH = len("2026-11-22T14-03-00Z")
REGISTRY_NAME = "registry.db"
ARTIFACTS_NAME = "artifacts"
LOG_NAME = "log"
DRIFT_NAME = "drift"
MARKER_NAME = "restore.json"
# Databases beside the registry, each a part of its own that is named as its file. Candidates come before the
# comparisons, as they keep how far these were read: a copy of them may lag behind, and not run ahead.
DEFERRED_NAME = "deferred"
LEDGERS = ("candidates", "comparisons", DEFERRED_NAME)
DRIFT_DATABASE = "drift.db"
_KEPT = {
    DRIFT_NAME: "what is usual of each version, and the alerts",
    "candidates": "the requests that wait for a label",
    "comparisons": "what was compared with shadows",
    DEFERRED_NAME: "predictions for later and their answers",
}


def _database(name: str) -> tuple[str, ...]:
    return name, f"{name}-wal", f"{name}-shm"


# What a part of a backup replaces in the store. A database goes together with its journal: a new database
# beside an old journal would be read as a mixture of both.
PARTS = {
    "registry": _database(REGISTRY_NAME),
    "artifacts": (ARTIFACTS_NAME,),
    "drift": (DRIFT_NAME,),
    **{part: _database(f"{part}.db") for part in LEDGERS},
    "log": (LOG_NAME,),
}


def list_backups(store_dir: Path) -> list[Path]:
    """List the backups in the store's own folder of backups, oldest first."""
    return [path.absolute() for path in _backups_in(store_dir / BACKUPS_NAME)]


def newest_of(folder: Path) -> Path | None:
    """The newest file in a folder that is called as backups are."""
    return next(reversed(_backups_in(folder)), None)


def _backups_in(folder: Path) -> list[Path]:
    found = folder.glob(f"[!.]*{BACKUP_SUFFIX}")
    return sorted(filter(Path.is_file, found), key=_backup_time)


def find_leavings(store_dir: Path) -> str | None:
    """Say which folders of a store hold what only a registry knows the meaning of."""
    models = any((store_dir / ARTIFACTS_NAME).glob("[!.]*"))
    found = [ARTIFACTS_NAME] * models + [BACKUPS_NAME] * bool(list_backups(store_dir))
    return " and ".join(found) or None


def _backup_time(path: Path) -> tuple[float, int]:
    """By its name, which survives a copy, or else by its file."""
    changed_ns = path.stat().st_mtime_ns
    try:
        named = datetime.strptime(path.name[:STAMP_LENGTH], STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        named = float(changed_ns // 1_000_000_000)
    return named, changed_ns


def _is_whole(path: Path) -> bool:
    """Can the archive be read to its end? What is in it is checked when it is restored."""
    try:
        with tarfile.open(path, mode="r:") as archive:
            return len(archive.getmembers()) > 0
    except (OSError, tarfile.TarError):
        return False


def restore_command(store_dir: Path, *, holding: str) -> str:
    """The command that puts the newest backup with the artifact `holding` in the place of a store whose
    registry is in order; FILE stands for a backup that is kept elsewhere."""
    store_dir = store_dir.absolute()
    file = _newest(store_dir, f"{ARTIFACTS_NAME}/{holding}/") or "FILE"
    return f"mdslite restore {file} --store {shlex.quote(str(store_dir))} --force"


def another_backup(store_dir: Path, *, but: Path) -> str | None:
    """The command that restores the newest whole backup of a store's own but that one; None without any."""
    others = (one for one in reversed(list_backups(store_dir)) if one != but.absolute())
    found = next(filter(_is_whole, others), None)
    if found is None:
        return None
    where = shlex.quote(str(store_dir.absolute()))
    return f"mdslite restore {shlex.quote(str(found))} --store {where} --force"


def _newest(store_dir: Path, prefix: str) -> str | None:
    """The newest backup that holds something whose name begins so, for a shell."""
    found = next((one for one in reversed(list_backups(store_dir)) if _holds(one, prefix)), None)
    return None if found is None else shlex.quote(str(found))


def _holds(path: Path, prefix: str) -> bool:
    try:
        with tarfile.open(path, mode="r:") as archive:
            return any(name.startswith(prefix) for name in archive.getnames())
    except (OSError, tarfile.TarError):
        return False


def corrupt_store(store_dir: Path, fault: str) -> StoreCorrupt:
    """Build the error that says which backup to restore, and how."""
    store_dir = store_dir.absolute()
    backup = next(filter(_is_whole, reversed(list_backups(store_dir))), None)
    where = shlex.quote(str(store_dir))
    if backup is None:
        aside = shlex.quote(f"{store_dir}.corrupt")
        return StoreCorrupt(
            f"the registry of the store {store_dir} is corrupt: {fault}; "
            f"there is no backup in {store_dir / BACKUPS_NAME}",
            hint=f"restore a backup kept elsewhere with: mdslite restore FILE --store {where}  "
            f"or set the store aside and apply your deployments anew: mv {where} {aside}",
        )
    return StoreCorrupt(
        f"the registry of the store {store_dir} is corrupt: {fault}; the newest backup is {backup}",
        hint=f"restore it with: mdslite restore {shlex.quote(str(backup))} --store {where}",
    )


def corrupt_ledger(path: Path, fault: str) -> StoreCorrupt:
    """Build the error about a database beside the registry: what is lost with it, and the way on without."""
    path = path.absolute()
    store_dir = path.parent.parent if path.stem == DRIFT_NAME else path.parent
    store = shlex.quote(str(store_dir))
    aside = shlex.quote(str(store_dir / "corrupt"))
    hint = f"go on without it: mkdir -p {aside} && mv {shlex.quote(str(path))}* {aside}"
    backup = _newest(store_dir, path.relative_to(store_dir).as_posix())
    if backup is not None:
        hint += (
            "  or take the whole store back to the newest backup that has it: "
            f"mdslite restore {backup} --store {store} --force"
        )
    return StoreCorrupt(
        f"{path.name} of the store {store_dir}, with {_KEPT[path.stem]}, is corrupt: {fault}", hint=hint
    )


def databases_beside(store_dir: Path) -> list[Path]:
    """The databases beside the registry, there or not."""
    return [*(store_dir / f"{name}.db" for name in LEDGERS), store_dir / DRIFT_NAME / DRIFT_DATABASE]


def is_beside(path: Path) -> bool:
    """Is this one of the databases beside a store's registry?"""
    return path.stem in _KEPT


def begin_restore(store_dir: Path, *, staged: str, aside: str, parts: Sequence[str]) -> None:
    """Commit to a restore whose staging folder is complete; `finish_restore` does the rest."""
    marker = {"staged": staged, "aside": aside, "parts": list(parts)}
    with storage_errors():
        write_whole(store_dir / MARKER_NAME, json.dumps(marker).encode())


def finish_restore(store_dir: Path) -> None:
    """Move what a restore replaces aside and its new parts into place, if one was begun; and clear away what
    others left that were cut short before that. Only for who holds the store's lock.

    :raises StoreCorrupt: the marker is unreadable
    """
    marker = store_dir / MARKER_NAME
    if not marker.exists():
        sweep_drafts(store_dir)
        sweep_drafts(store_dir / BACKUPS_NAME)
        return
    staged, aside, parts = _read_marker(marker)
    with storage_errors():
        aside.mkdir(exist_ok=True)
        for part in parts:
            for name in PARTS[part]:
                # Once the new one has left the staging folder, what stands in its place is the new one.
                fresh = (staged / PARTS[part][0]).exists()
                if fresh and (store_dir / name).exists():
                    os.rename(store_dir / name, aside / name)
        for part in parts:
            name = PARTS[part][0]
            if (staged / name).exists():
                os.rename(staged / name, store_dir / name)
        sync_folder(aside)
        sync_folder(store_dir)
        marker.unlink()
        sync_folder(store_dir)
    remove_tree(staged)
    with suppress(OSError):
        aside.rmdir()  # nothing was replaced


def _read_marker(marker: Path) -> tuple[Path, Path, tuple[str, ...]]:
    try:
        found: dict[str, Any] = json.loads(marker.read_bytes())
        staged, aside = str(found["staged"]), str(found["aside"])
        parts = tuple(part for part in PARTS if part in found["parts"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise corrupt_store(marker.parent, f"{MARKER_NAME}, left by a restore, cannot be read") from exc
    return marker.parent / Path(staged).name, marker.parent / Path(aside).name, parts
