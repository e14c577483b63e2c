"""A restore is all or nothing, and keeps what it replaced."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from models import mlp
from stores import Store, count_rows, deployed, entries, log_hour

from mdslite.errors import (
    Conflict,
    StorageFull,
    StoreCorrupt,
    StoreError,
    StoreLocked,
)
from mdslite.store.backup import backup
from mdslite.store.lock import StoreLock, log_lock
from mdslite.store.recovery import LEDGERS
from mdslite.store.restore import restore


def test_a_restore_keeps_what_it_replaced(store: Store, model: Path, tmp_path: Path) -> None:
    old = store.deploy(model)
    made = backup(store.path)
    new = store.deploy(mlp(tmp_path / "other.onnx", seed=1))
    store.registry.close()
    log_hour(store.path, "2026-11-22T14.db", 3).close()
    aside = restore(made, store.path, force=True)
    assert deployed(store.path) == old
    assert aside is not None and aside.parent == store.path
    assert deployed(aside) == new
    assert count_rows(store.path / "log" / "2026-11-22T14.db") == 3
    assert made.exists()
    assert entries(store.path) == {"artifacts", "backups", "lock", "log", "registry.db", aside.name}


def test_a_store_without_its_registry_is_restored_by_the_command_that_it_names(
    store: Store, model: Path
) -> None:
    digests = store.deploy(model)
    backup(store.path)
    store.registry.close()
    for file in store.path.glob("registry.db*"):
        file.unlink()
    with pytest.raises(StoreCorrupt, match="though artifacts and backups are there") as caught:
        store.registry.open()
    words = shlex.split((caught.value.hint or "").removeprefix("restore it with: "))
    subprocess.run([sys.executable, "-m", *words], timeout=60, check=True, capture_output=True)
    assert deployed(store.path) == digests


def test_a_restore_waits_for_the_log_writer_of_an_appliance_that_was_killed(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.deploy(model)
    made = backup(store.path)
    store.registry.close()
    log_hour(store.path, "2026-11-22T14.db", 3).close()
    monkeypatch.setattr("mdslite.store.restore.LOG_WAIT_S", 0.0)
    before = entries(store.path)
    with log_lock(store.path / "log"), pytest.raises(StoreLocked, match="writer"):
        restore(made, store.path, force=True)
    assert entries(store.path) - {"lock"} == before - {"lock"}
    assert restore(made, store.path, force=True) is not None


def test_a_healthy_store_is_only_replaced_by_force(store: Store, model: Path) -> None:
    digests = store.deploy(model)
    made = backup(store.path)
    store.registry.close()
    with pytest.raises(Conflict, match="in order") as caught:
        restore(made, store.path)
    assert "--force" in (caught.value.hint or "")
    assert deployed(store.path) == digests


def test_a_store_in_use_is_not_replaced(store: Store) -> None:
    made = backup(store.path)
    with StoreLock(store.path), pytest.raises(StoreLocked, match=str(os.getpid())):
        restore(made, store.path, force=True)


@pytest.mark.parametrize("keep_artifacts", [True, False])
def test_a_corrupt_store_is_mended_by_the_command_that_it_names(
    store: Store, model: Path, keep_artifacts: bool
) -> None:
    digests = store.deploy(model)
    made = backup(store.path, artifacts=keep_artifacts)
    store.registry.close()
    os.truncate(store.path / "registry.db", 0)
    with pytest.raises(StoreCorrupt) as caught:
        store.registry.open()
    _, path, _, store_dir = shlex.split((caught.value.hint or "").partition("mdslite ")[2])
    assert (path, store_dir) == (str(made), str(store.path))
    aside = restore(Path(path), Path(store_dir))
    assert deployed(store.path) == digests
    assert aside is not None
    assert "registry.db" in entries(aside)


def test_a_journal_of_the_old_registry_does_not_reach_the_new(
    store: Store, model: Path, tmp_path: Path
) -> None:
    """What kill -9 leaves beside a database would otherwise be read into the restored one."""
    old = store.deploy(model)
    made = backup(store.path)
    store.registry.close()
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from mdslite.store.registry import Registry\n"
        "registry = Registry(Path(sys.argv[1])); registry.open()\n"
        "registry.commit(author='a', reason='', source='', diff=[], versions=[])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(store.path / "registry.db")], timeout=30, check=False)
    assert (store.path / "registry.db-wal").stat().st_size > 0
    aside = restore(made, store.path, force=True)
    assert deployed(store.path) == old
    assert aside is not None and {"registry.db", "registry.db-wal"} <= entries(aside)


RESTORE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from mdslite.store import recovery
from mdslite.store.restore import restore
left = int(sys.argv[3])
def counted(call):
    def wrapper(*args, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return call(*args, **options)
    return wrapper
os.rename, os.replace, os.unlink = counted(os.rename), counted(os.replace), counted(os.unlink)
os.fsync, os.mkdir = counted(os.fsync), counted(os.mkdir)
restore(Path(sys.argv[1]), Path(sys.argv[2]), force=True)
print("done")
"""


@pytest.mark.timeout(240)  # a process for every step
def test_kill_9_at_any_step_of_a_restore_leaves_the_old_store_or_the_new(
    store: Store, tmp_path: Path
) -> None:
    old = store.deploy(mlp(tmp_path / "old.onnx", seed=1))
    made = backup(store.path, tmp_path / "old.tar")
    new = store.deploy(mlp(tmp_path / "new.onnx", seed=2))
    newer = backup(store.path, tmp_path / "new.tar")
    store.registry.close()
    seen = []
    for step in range(200):
        command = [sys.executable, "-c", RESTORE_AND_DIE, str(made), str(store.path), str(step)]
        killed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        after = deployed(store.path)  # opening finishes what was begun
        assert after in (old, new)
        assert not {name for name in entries(store.path) if name.startswith((".", "restore"))}
        seen.append(after == old)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if after == old:
            restore(newer, store.path, force=True)
    assert killed.returncode == 0 and seen[-1]
    assert seen == sorted(seen)  # old up to the point of no return, new from there on
    assert min(seen.count(True), seen.count(False)) >= 3


def test_an_unreadable_marker_of_a_restore_is_corruption_that_a_restore_mends(
    store: Store, model: Path
) -> None:
    digests = store.deploy(model)
    made = backup(store.path)
    store.registry.close()
    (store.path / "restore.json").write_text("{")
    with pytest.raises(StoreCorrupt, match=r"restore\.json"):
        store.registry.open()
    restore(made, store.path, force=True)
    assert deployed(store.path) == digests


def test_a_restore_without_room_changes_nothing(store: Store, small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "large.onnx").write_bytes(os.urandom(6 << 20))
    store.deploy(tmp_path / "large.onnx")
    made = backup(store.path)
    with pytest.raises(StorageFull):
        restore(made, small_disk / "store")
    assert not (small_disk / "store").exists()


def test_a_restore_that_fails_leaves_no_folder_and_says_what_to_restore(
    store: Store, model: Path, tmp_path: Path
) -> None:
    store.deploy(model)
    made = backup(store.path)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(made.read_bytes()[:20_000])
    with pytest.raises(StoreError, match="is no whole backup") as caught:
        restore(cut, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert caught.value.hint == "copy it once more from where it was made, or restore an older one"
    store.registry.close()
    with pytest.raises(StoreError, match="is no whole backup") as caught:
        restore(cut, store.path, force=True)
    assert caught.value.hint is not None
    command = shlex.split(caught.value.hint.rpartition(": ")[2])
    assert command == ["mdslite", "restore", str(made), "--store", str(store.path), "--force"]
    assert entries(store.path) >= {"lock", "registry.db"}


def test_a_folder_that_was_there_stays_when_a_restore_fails(
    store: Store, model: Path, tmp_path: Path
) -> None:
    store.deploy(model)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(backup(store.path).read_bytes()[:20_000])
    (tmp_path / "new").mkdir()
    with pytest.raises(StoreError):
        restore(cut, tmp_path / "new")
    assert entries(tmp_path / "new") == {"lock"}


def repack(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A backup with other members."""
    with tarfile.open(path) as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    change(members)
    other = path.with_name("changed.tar")
    with tarfile.open(other, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return other


def describe(members: dict[str, bytes], **fields: object) -> None:
    members["backup.json"] = json.dumps({**json.loads(members["backup.json"]), **fields}).encode()


def pick(members: dict[str, bytes], start: str) -> str:
    return next(name for name in members if name.startswith(start))


def drop(members: dict[str, bytes], name: str) -> None:
    del members[name]


def add_log(members: dict[str, bytes]) -> None:
    members["log/evil.db"] = b"x"
    describe(members, parts=["registry", "artifacts", "log"])


CHANGES: dict[str, Callable[[dict[str, bytes]], None]] = {
    "registry changed": lambda m: m.update({"registry.db": m["registry.db"][:-1] + b"!"}),
    "registry missing": lambda m: drop(m, "registry.db"),
    "artifact changed": lambda m: m.update({pick(m, "artifacts/"): b"other"}),
    "artifact missing": lambda m: drop(m, pick(m, "artifacts/")),
    "something more": lambda m: m.update({"evil": b"x"}),
    "a log that is not listed": add_log,
    "drift that is not listed": lambda m: m.update({"drift/drift.db": b"x"}),
    "a queue that is not listed": lambda m: m.update({"candidates.db": b"x"}),
    "a name that leads out": lambda m: m.update({"../evil": b"x"}),
    "a listed name that leads out": lambda m: describe(m, files={"registry.db": "", "../../evil": ""}),
    "a digest that leads out": lambda m: describe(m, artifacts=["sha256:../../evil"]),
    "no registry": lambda m: describe(m, parts=["log"]),
    "an unknown part": lambda m: describe(m, parts=["registry", "lock"]),
    "a newer format": lambda m: describe(m, format=2),
    "no description": lambda m: drop(m, "backup.json"),
    "a strange description": lambda m: m.update({"backup.json": b"[]"}),
    "a broken description": lambda m: m.update({"backup.json": b"{"}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_backup_that_was_changed_is_refused_and_changes_nothing(
    store: Store, model: Path, change: str
) -> None:
    digests = store.deploy(model)
    changed = repack(backup(store.path), CHANGES[change])
    store.registry.close()
    with pytest.raises(StoreError):
        restore(changed, store.path, force=True)
    assert deployed(store.path) == digests
    assert entries(store.path) - {"lock"} == {"artifacts", "backups", "registry.db"}


@pytest.mark.parametrize("part", LEDGERS)
def test_a_backup_whose_database_beside_the_registry_was_changed_is_refused(
    store: Store, model: Path, tmp_path: Path, part: str
) -> None:
    store.deploy(model)
    with closing(sqlite3.connect(store.path / f"{part}.db")) as db:
        db.execute("create table t (x)")
    made = backup(store.path)
    name = f"{part}.db"
    for change in (lambda m: m.update({name: m[name][:-1] + b"!"}), lambda m: m.pop(name) and None):
        with pytest.raises(StoreError):
            restore(repack(made, change), tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "registry.db").exists()


def test_what_is_no_whole_backup_is_refused(store: Store, model: Path, tmp_path: Path) -> None:
    store.deploy(model)
    made = backup(store.path)
    cut = tmp_path / "cut.tar"
    for share in (0.0, 0.1, 0.5, 0.9):
        cut.write_bytes(made.read_bytes()[: int(made.stat().st_size * share)])
        with pytest.raises(StoreError):
            restore(cut, tmp_path / "new")
    for path in (tmp_path, tmp_path / "missing.tar", model):
        with pytest.raises(StoreError, match="no backup"):
            restore(path, tmp_path / "new")
    assert not (tmp_path / "new" / "registry.db").exists()


def test_a_store_on_a_volume_of_its_own_is_restored(store: Store, model: Path, small_disk: Path) -> None:
    """The store's folder itself cannot be renamed where it is a mount point."""
    digests = store.deploy(model)
    made = backup(store.path)
    for _ in range(2):
        restore(made, small_disk, force=True)
        assert deployed(small_disk) == digests
    with pytest.raises(OSError, match="busy") as caught:
        small_disk.rename(small_disk.with_name("moved"))
    assert caught.value.errno == errno.EBUSY
