"""A backup is whole and consistent while the store is written to; a restore is all or nothing."""

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
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from models import mlp

from mdslite.errors import (
    ArtifactError,
    Conflict,
    NotFound,
    StorageFull,
    StoreCorrupt,
    StoreError,
    StoreLocked,
)
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.backup import autosave, backup, read_contents, restore
from mdslite.store.candidates import CandidateStore
from mdslite.store.comparisons import ComparisonStore, Pair, Sums
from mdslite.store.deferred import Deferred, DeferredStore
from mdslite.store.drift import Alert, Chosen, DriftReader, DriftStore, Wishes, read_wishes, write_wishes
from mdslite.store.lock import StoreLock, log_lock
from mdslite.store.recovery import LEDGERS, list_backups
from mdslite.store.registry import Registry, VersionRow


@dataclass
class Store:
    """A store as the appliance uses it."""

    path: Path
    registry: Registry
    artifacts: ArtifactStore

    def deploy(self, *models: Path) -> list[str]:
        stored = [self.artifacts.add_path(model) for model in models]
        rows = [
            VersionRow("p", "m", f"v{number}", {}, artifact.digest, artifact.size_bytes)
            for number, artifact in enumerate(stored)
        ]
        self.registry.commit(author="ada", reason="", source="", diff=[], versions=rows)
        return [artifact.digest for artifact in stored]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "store"
    registry = Registry(path / "registry.db")
    registry.open()
    yield Store(path, registry, ArtifactStore(path / "artifacts"))
    registry.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return mlp(tmp_path / "model.onnx")


def deployed(store_dir: Path) -> list[str]:
    """What a store serves after it is opened, each artifact proved."""
    registry = Registry(store_dir / "registry.db")
    registry.open()
    try:
        digests = [row.digest for row in registry.current()]
    finally:
        registry.close()
    for digest in digests:
        ArtifactStore(store_dir / "artifacts").open(digest)
    return digests


def log_hour(store_dir: Path, name: str, rows: int) -> sqlite3.Connection:
    """An hour of a request log, still open and not yet merged."""
    (store_dir / "log").mkdir(exist_ok=True)
    db = sqlite3.connect(store_dir / "log" / name)
    db.execute("pragma journal_mode = wal")
    db.execute("create table entries (id integer primary key)")
    db.executemany("insert into entries values (?)", [(row,) for row in range(rows)])
    db.commit()
    return db


def count_rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("select count(*) from entries").fetchone()[0])


def entries(store_dir: Path) -> set[str]:
    return {entry.name for entry in store_dir.iterdir()}


# -- making them -------------------------------------------------------------------------------------------


def test_a_backup_of_a_serving_store_restores_elsewhere(store: Store, model: Path, tmp_path: Path) -> None:
    digests = store.deploy(model)
    with StoreLock(store.path):
        made = backup(store.path)
    assert made.parent == store.path / "backups"
    assert restore(made, tmp_path / "elsewhere") is None
    assert deployed(tmp_path / "elsewhere") == digests
    assert entries(tmp_path / "elsewhere") == {"artifacts", "lock", "registry.db"}


def test_a_backup_goes_where_it_is_told(store: Store, model: Path, tmp_path: Path) -> None:
    store.deploy(model)
    assert backup(store.path, tmp_path / "edge-07.tar") == tmp_path / "edge-07.tar"
    (tmp_path / "usb").mkdir()
    first, second = backup(store.path, tmp_path / "usb"), backup(store.path, tmp_path / "usb")
    assert first.parent == second.parent == tmp_path / "usb"
    assert entries(tmp_path / "usb") == {first.name, second.name}
    assert (tmp_path / "edge-07.tar").stat().st_mode & 0o777 == 0o600


def test_a_backup_replaces_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "there.tar").write_text("precious")
    with pytest.raises(Conflict, match="exists already"):
        backup(store.path, tmp_path / "there.tar")
    with pytest.raises(NotFound, match="no folder"):
        backup(store.path, tmp_path / "no" / "b.tar")
    with pytest.raises(NotFound, match="no store"):
        backup(tmp_path / "no-store")
    assert (tmp_path / "there.tar").read_text() == "precious"
    assert not (tmp_path / "no-store").exists()


def test_a_backup_holds_every_artifact_that_an_undo_may_need(
    store: Store, model: Path, tmp_path: Path
) -> None:
    first = store.deploy(model)
    second = store.deploy(mlp(tmp_path / "other.onnx", seed=1))
    unused = store.artifacts.add_path(mlp(tmp_path / "unused.onnx", seed=2))
    contents = read_contents(backup(store.path))
    assert set(contents.artifacts) == {*first, *second}
    assert unused.digest not in contents.artifacts
    assert contents.parts == ("registry", "artifacts")


def test_a_backup_taken_while_applies_go_on_is_consistent(store: Store, tmp_path: Path) -> None:
    """Every state that is ever committed has two versions of the same artifact."""
    models = [mlp(tmp_path / f"m{seed}.onnx", seed=seed) for seed in range(3)]
    store.deploy(models[0], models[0])
    store.registry.close()
    stop, ticked, failures = threading.Event(), threading.Event(), []

    def churn() -> None:
        registry = Registry(store.path / "registry.db")
        registry.open()  # belongs to this thread
        mine = Store(store.path, registry, store.artifacts)
        try:
            for round_number in range(10_000):
                if stop.is_set():
                    return
                chosen = models[round_number % 3]
                mine.deploy(chosen, chosen)
                ticked.set()
        except Exception as exc:
            failures.append(exc)
        finally:
            registry.close()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        made = []
        for number in range(5):
            ticked.clear()
            assert ticked.wait(20)
            made.append(backup(store.path, tmp_path / f"b{number}.tar"))
    finally:
        stop.set()
        thread.join(20)
    assert failures == []
    revisions = [read_contents(path).revision for path in made]
    assert revisions == sorted(revisions) and revisions[-1] > revisions[0]
    for number, path in enumerate(made):
        restore(path, tmp_path / f"s{number}")
        one, other = deployed(tmp_path / f"s{number}")
        assert one == other


def test_the_request_log_comes_along_when_asked(store: Store, tmp_path: Path) -> None:
    with (
        closing(log_hour(store.path, "2026-11-22T14.db", 1000)),
        closing(log_hour(store.path, "2026-11-22T15.db", 7)),
    ):
        made = backup(store.path, log=True)
    (store.path / "log" / "2026-11-22T13.db").write_bytes(b"damaged" * 1000)
    also_made = backup(store.path, log=True)
    restore(made, tmp_path / "elsewhere")
    restore(also_made, tmp_path / "another")
    for place in ("elsewhere", "another"):
        assert entries(tmp_path / place / "log") == {"2026-11-22T14.db", "2026-11-22T15.db"}
        assert count_rows(tmp_path / place / "log" / "2026-11-22T14.db") == 1000


ALERT = Alert(
    id=0, time=1.0, project="p", model="m", version="v1", shadow=False, signal="confidence", state="firing",
    text="it fell", window=None, test=None, statistic=None, p=None, measure=None, effect=None,
    threshold=None, count=1, opened=None,
)  # fmt: skip


def test_what_is_known_of_drift_comes_along_and_back(store: Store, model: Path, tmp_path: Path) -> None:
    store.deploy(model)
    known = DriftStore(store.path / "drift")
    known.open()
    chosen = Wishes(chosen={"p/m": Chosen(since=1.0, until=2.0)}, told=1)
    write_wishes(known.folder, chosen)
    with known.writing():
        known.add_alert(ALERT)
    made = backup(store.path)  # while it is written
    with known.writing():
        known.add_alert(ALERT)
    known.close()
    write_wishes(known.folder, Wishes())
    store.registry.close()
    assert read_contents(made).parts == ("registry", "artifacts", "drift")
    for place in (tmp_path / "elsewhere", store.path):
        restore(made, place, force=True)
        assert read_wishes(place / "drift") == chosen
        assert [one.text for one in DriftReader(place / "drift").alerts()] == ["it fell"]
    (aside,) = store.path.glob("replaced-*")
    assert len(DriftReader(aside / "drift").alerts()) == 2


def test_damaged_drift_is_left_out_of_a_backup(store: Store, model: Path, tmp_path: Path) -> None:
    store.deploy(model)
    (store.path / "drift").mkdir()
    (store.path / "drift" / "drift.db").write_bytes(b"damaged" * 1000)
    made = backup(store.path)
    assert read_contents(made).parts == ("registry", "artifacts")
    restore(made, tmp_path / "elsewhere")


PAIR = Pair("p", "m", "v1", "v2")


def test_comparisons_the_queue_and_deferred_predictions_come_along_and_back(
    store: Store, model: Path, tmp_path: Path
) -> None:
    store.deploy(model)
    comparisons = ComparisonStore(store.path / "comparisons.db")
    candidates = CandidateStore(store.path / "candidates.db")
    deferred = DeferredStore(store.path / "deferred.db")
    for one in (comparisons, candidates, deferred):
        one.open()
    comparisons.add([(PAIR, 60, Sums(pairs=2))], [], now=100.0)
    candidates.add([], cursors={"log": 5})
    deferred.add(Deferred("id0", "p", "m", b"/x", {}, b"12345", 1.0))
    made = backup(store.path)  # while they are written
    comparisons.add([(PAIR, 60, Sums(pairs=2))], [], now=100.0)
    candidates.add([], cursors={"log": 6})
    deferred.add(Deferred("id1", "p", "m", b"/x", {}, b"12345", 1.0))
    for one in (comparisons, candidates, deferred):
        one.close()
    store.registry.close()
    assert read_contents(made).parts == ("registry", "artifacts", "candidates", "comparisons", "deferred")
    for place in (tmp_path / "elsewhere", store.path):
        restore(made, place, force=True)
        assert kept_beside(place) == (2, {"log": 5}, ["id0"])
    (aside,) = store.path.glob("replaced-*")
    assert kept_beside(aside) == (4, {"log": 6}, ["id0", "id1"])


def kept_beside(folder: Path) -> tuple[int, dict[str, int], list[str]]:
    """Pairs compared, how far the queue has read, and what is to be answered."""
    comparisons = ComparisonStore(folder / "comparisons.db")
    candidates = CandidateStore(folder / "candidates.db")
    deferred = DeferredStore(folder / "deferred.db")
    comparisons.open()
    candidates.open()
    waiting = deferred.open()
    found = comparisons.sums(PAIR, since=0.0, until=200.0).pairs, candidates.cursors(), waiting
    for one in (comparisons, candidates, deferred):
        one.close()
    return found


@pytest.mark.parametrize("part", LEDGERS)
def test_a_damaged_database_beside_the_registry_is_left_out_of_a_backup(
    store: Store, model: Path, tmp_path: Path, part: str
) -> None:
    store.deploy(model)
    (store.path / f"{part}.db").write_bytes(b"damaged" * 1000)
    made = backup(store.path)
    assert read_contents(made).parts == ("registry", "artifacts")
    restore(made, tmp_path / "elsewhere")


@pytest.mark.parametrize("part", LEDGERS)
def test_an_empty_database_beside_the_registry_fails_no_backup(
    store: Store, model: Path, tmp_path: Path, part: str
) -> None:
    """It is, for a moment, when an appliance starts for the first time."""
    store.deploy(model)
    (store.path / f"{part}.db").touch()
    restore(backup(store.path), tmp_path / "elsewhere")


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


def test_a_damaged_artifact_that_is_deployed_fails_the_backup(store: Store, model: Path) -> None:
    (digest,) = store.deploy(model)
    damage(store, digest)
    with pytest.raises(ArtifactError, match=f"{digest} no longer matches"):
        backup(store.path)
    assert entries(store.path / "backups") == set()


def test_a_damaged_artifact_of_the_past_is_left_out_and_listed(
    store: Store, model: Path, tmp_path: Path
) -> None:
    (old,) = store.deploy(model)
    (new,) = store.deploy(mlp(tmp_path / "other.onnx", seed=1))
    damage(store, old)
    contents = read_contents(backup(store.path))
    assert contents.artifacts == (new,)
    assert contents.left_out == (old,)


def damage(store: Store, digest: str) -> None:
    artifact = store.artifacts.get(digest)
    assert artifact is not None
    artifact.path.chmod(0o644)
    artifact.path.write_bytes(b"damaged")


def test_a_corrupt_registry_is_not_backed_up(store: Store) -> None:
    store.registry.close()
    with (store.path / "registry.db").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))
    with pytest.raises(StoreCorrupt):
        backup(store.path)
    assert list_backups(store.path) == []


BACKUP_AND_DIE = """
import os, signal, sys
from pathlib import Path
from mdslite.store import backup
backup.os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
backup.backup(Path(sys.argv[1]))
"""


def test_kill_9_leaves_no_part_of_a_backup_after_the_next_start(store: Store, model: Path) -> None:
    store.deploy(model)
    command = [sys.executable, "-c", BACKUP_AND_DIE, str(store.path)]
    assert subprocess.run(command, timeout=30, check=False).returncode == -signal.SIGKILL
    assert list_backups(store.path) == []
    assert entries(store.path / "backups")
    store.registry.close()
    store.registry.open()
    assert entries(store.path / "backups") == set()


def test_a_full_disk_leaves_no_part_of_a_backup(store: Store, small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "large.onnx").write_bytes(os.urandom(6 << 20))
    store.deploy(tmp_path / "large.onnx")
    with pytest.raises(StorageFull, match="the disk of the backup takes no more"):
        backup(store.path, small_disk / "b.tar")
    assert entries(small_disk) == set()


def test_the_registry_alone_is_saved_when_it_has_something_new(store: Store, model: Path) -> None:
    assert autosave(store.path) is not None
    assert autosave(store.path) is None
    store.deploy(model)
    made = autosave(store.path)
    assert made is not None and made.name.endswith("-registry.tar")
    assert read_contents(made).parts == ("registry",)
    assert autosave(store.path) is None


def test_only_the_newest_saved_registries_are_kept(store: Store, model: Path) -> None:
    own = backup(store.path)
    saved = []
    for _ in range(4):
        store.deploy(model)
        saved.append(autosave(store.path, keep=2))
    assert list_backups(store.path) == [own, *saved[-2:]]


def test_a_damaged_saved_registry_is_no_reason_against_a_new_one(store: Store) -> None:
    first = autosave(store.path)
    assert first is not None
    first.write_bytes(b"damaged")
    assert autosave(store.path) is not None


# -- restoring them ----------------------------------------------------------------------------------------


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


def test_a_restore_waits_for_the_log_writer_of_an_appliance_that_was_killed(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.deploy(model)
    made = backup(store.path)
    store.registry.close()
    log_hour(store.path, "2026-11-22T14.db", 3).close()
    monkeypatch.setattr("mdslite.store.backup.LOG_WAIT_S", 0.0)
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
from mdslite.store.backup import restore
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
    assert entries(small_disk / "store") == {"lock"}


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


def add_log(members: dict[str, bytes]) -> None:
    members["log/evil.db"] = b"x"
    describe(members, parts=["registry", "artifacts", "log"])


CHANGES: dict[str, Callable[[dict[str, bytes]], None]] = {
    "registry changed": lambda m: m.update({"registry.db": m["registry.db"][:-1] + b"!"}),
    "registry missing": lambda m: m.pop("registry.db") and None,
    "artifact changed": lambda m: m.update({pick(m, "artifacts/"): b"other"}),
    "artifact missing": lambda m: m.pop(pick(m, "artifacts/")) and None,
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
    "no description": lambda m: m.pop("backup.json") and None,
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
