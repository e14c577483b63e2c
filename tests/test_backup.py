"""A backup is whole and consistent while the store is written to."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from time import time

import pytest
from artifact_files import damage
from models import mlp
from stores import Store, count_rows, deployed, entries, log_hour

from mdslite.errors import (
    ArtifactError,
    Conflict,
    NotFound,
    StorageFull,
    StoreCorrupt,
)
from mdslite.store.backup import autosave, backup, measure, read_contents
from mdslite.store.candidates import CandidateStore
from mdslite.store.comparisons import ComparisonStore, Pair, Sums
from mdslite.store.deferred import _SCHEMA, KEEP_S, Deferred, DeferredStore, Result, copy_kept
from mdslite.store.drift import Alert, Chosen, DriftReader, DriftStore, Wishes, read_wishes, write_wishes
from mdslite.store.lock import StoreLock
from mdslite.store.recovery import LEDGERS, list_backups
from mdslite.store.registry import Registry
from mdslite.store.restore import restore
from mdslite.store.snapshots import copy_whole


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


def test_what_is_over_of_deferred_predictions_makes_no_backup_large(
    store: Store, model: Path, tmp_path: Path
) -> None:
    store.deploy(model)
    deferred = DeferredStore(store.path / "deferred.db")
    deferred.open()
    now = time()
    for name in ("waiting", "answered", "expired", "gone"):
        deferred.add(Deferred(name, "p", "m", b"/x", {}, bytes(1_000_000), now - 9000))
    for name, age_s in (("answered", 60), ("expired", KEEP_S + 60), ("gone", 9000)):
        deferred.finish(name, Result(200, [], bytes(1_000_000), now - age_s))
    assert deferred.sweep(now - 8000) == 1  # its pages stay in the file
    made = backup(store.path)
    deferred.close()
    store.registry.close()
    assert (store.path / "deferred.db").stat().st_size > 3_500_000
    assert 2_000_000 < measure(made)["deferred"] < 2_200_000
    restore(made, tmp_path / "elsewhere")
    again = DeferredStore(tmp_path / "elsewhere" / "deferred.db")
    assert again.open() == ["waiting"]
    assert again.get("answered") is not None
    assert again.get("expired") is None
    again.close()


def test_deferred_predictions_of_a_store_from_before_senders_were_kept_come_along(tmp_path: Path) -> None:
    old, copy = tmp_path / "deferred.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(old)) as db:
        db.executescript(_SCHEMA.replace("told integer not null default 0,\n  client text", "told integer"))
        db.execute(
            "insert into predictions (id, state, project, model, target, fields, body, submitted_at, told)"
            " values ('id0', 'waiting', 'p', 'm', x'', '[]', x'', 1.0, 0)"
        )
        db.commit()
    copy_kept(old, copy, since=0.0)
    kept = DeferredStore(copy)
    assert kept.open() == ["id0"]
    kept.close()


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


def test_a_copy_is_taken_of_what_is_whole_and_nothing_left_of_what_is_not(tmp_path: Path) -> None:
    whole, damaged, copy = tmp_path / "whole.db", tmp_path / "damaged.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(whole)) as db:
        db.execute("create table entries (id integer)")
    damaged.write_bytes(b"damaged" * 1000)
    for source in (damaged, tmp_path / "missing.db"):
        assert not copy_whole(source, copy)
        assert not copy.exists()
    assert copy_whole(whole, copy)
    assert count_rows(copy) == 0


def test_a_copy_for_which_there_is_no_room_is_an_error(small_disk: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "large.db")) as db:
        db.execute("create table blobs as select zeroblob(6000000) as b")
        db.commit()
    with pytest.raises(StorageFull):
        copy_whole(tmp_path / "large.db", small_disk / "copy.db")


def test_a_damaged_artifact_that_is_deployed_fails_the_backup(store: Store, model: Path) -> None:
    (digest,) = store.deploy(model)
    damage(store.artifacts.open(digest))
    with pytest.raises(ArtifactError, match=f"{digest} no longer matches"):
        backup(store.path)
    assert entries(store.path / "backups") == set()


def test_a_damaged_artifact_of_the_past_is_left_out_and_listed(
    store: Store, model: Path, tmp_path: Path
) -> None:
    (old,) = store.deploy(model)
    (new,) = store.deploy(mlp(tmp_path / "other.onnx", seed=1))
    damage(store.artifacts.open(old))
    contents = read_contents(backup(store.path))
    assert contents.artifacts == (new,)
    assert contents.left_out == (old,)


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
