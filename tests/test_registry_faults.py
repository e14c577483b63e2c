"""The registry is wholly old or wholly new, whatever happens to its process, its disk and its file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from registry_rows import V1, V2, commit, keys
from sqlite_utils import Database

from mdslite.errors import StorageFull, StoreCorrupt, StoreError, Unavailable
from mdslite.store.backup import backup
from mdslite.store.candidates import CandidateStore
from mdslite.store.comparisons import ComparisonStore
from mdslite.store.deferred import DeferredStore
from mdslite.store.registry import Registry

# Crashes

CHURN = """
import sys
from pathlib import Path
from mdslite.store.registry import Registry, VersionRow
registry = Registry(Path(sys.argv[1]))
registry.open()
print("open", flush=True)
number = 0
while True:
    number += 1
    rows = [VersionRow("p", "m", f"v{i}", {"commit": number}, "sha256:x", i) for i in range(40)]
    done = registry.commit(author="a", reason=str(number), source="", diff=[], versions=rows)
    print(number, flush=True)
"""


@pytest.mark.parametrize("commits", [0, 1, 3, 10, 40])
def test_kill_9_leaves_each_revision_whole_and_loses_no_acknowledged_one(
    tmp_path: Path, commits: int
) -> None:
    path = tmp_path / "registry.db"
    command = [sys.executable, "-c", CHURN, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for _ in range(commits):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)  # at whatever it does now
        acknowledged = [int(line) for line in process.stdout if line.endswith("\n")]
    last = acknowledged[-1] if acknowledged else commits
    registry = Registry(path)
    registry.open()
    rows = registry.current()
    latest = registry.latest()
    registry.close()
    assert len({str(row.spec) for row in rows}) <= 1
    assert len(rows) in (0, 40)
    found = int(latest.reason) if latest is not None else 0
    assert last <= found <= last + 1
    assert [row.spec["commit"] for row in rows] == [found] * len(rows)


def test_kill_9_while_a_registry_is_made_leaves_none(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from mdslite.store import registry\n"
        "registry.os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "registry.Registry(Path(sys.argv[1])).open()\n"
    )
    path = tmp_path / "registry.db"
    killed = subprocess.run([sys.executable, "-c", code, str(path)], timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists() and list(tmp_path.iterdir())
    registry = Registry(path)
    registry.open()
    assert registry.current() == []
    registry.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["registry.db"]


# A full disk


def test_a_full_database_refuses_writes_and_recovers(registry: Registry) -> None:
    commit(registry, V1)
    db = registry._db
    pages = db.execute("pragma page_count").fetchone()[0]
    db.execute(f"pragma max_page_count = {pages}")
    large = replace(V2, spec={"uri": "x" * 100_000})
    with pytest.raises(StorageFull):
        commit(registry, V1, large)
    assert keys(registry.current()) == ["spam@v1"]
    db.execute(f"pragma max_page_count = {pages + 1_000}")
    commit(registry, V1, large)
    assert keys(registry.current()) == ["spam@v1", "spam@v2"]


def test_a_full_disk_refuses_writes_and_recovers(small_disk: Path) -> None:
    registry = Registry(small_disk / "store" / "registry.db")
    registry.open()
    first = commit(registry, V1)
    filler = small_disk / "filler"
    fill(filler)
    large = replace(V2, spec={"uri": "x" * 300_000})
    with pytest.raises(StorageFull) as caught:
        commit(registry, V1, large)
    assert caught.value.status == 507
    assert str(small_disk) not in caught.value.message
    assert keys(registry.current()) == ["spam@v1"]
    filler.unlink()
    assert commit(registry, V1, large) == first + 1
    assert keys(registry.current()) == ["spam@v1", "spam@v2"]
    registry.close()


def test_a_disk_too_full_for_a_registry_leaves_none(small_disk: Path) -> None:
    fill(small_disk / "filler")
    registry = Registry(small_disk / "store" / "registry.db")
    with pytest.raises(StorageFull):
        registry.open()
    (small_disk / "filler").unlink()
    registry.open()
    commit(registry, V1)
    registry.close()


FILE_LIMIT = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from mdslite.errors import StorageFull
from mdslite.store.registry import Registry, VersionRow
registry = Registry(Path(sys.argv[1]))
registry.open()
row = VersionRow("p", "m", "v1", {}, "sha256:x", 1)
registry.commit(author="a", reason="", source="", diff=[], versions=[row])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
try:
    registry.commit(author="a", reason="", source="s" * 1_000_000, diff=[], versions=[])
except StorageFull as exc:
    print(exc.message)
assert [r.version for r in registry.current()] == ["v1"]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
registry.commit(author="a", reason="", source="s" * 1_000_000, diff=[], versions=[])
assert registry.current() == []
registry.close()
"""


def test_a_write_error_refuses_the_write_and_recovers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILE_LIMIT, str(tmp_path / "registry.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stdout


def fill(path: Path) -> None:
    """Write a file until the disk is full to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


# Corruption


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def damage_header(path: Path) -> None:
    overwrite(path, 0, os.urandom(4096))


def damage_pages(path: Path) -> None:
    overwrite(path, 4096, os.urandom(path.stat().st_size - 4096))


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def swap_for_another_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table t (x)")


def remove_beside_its_journal(path: Path) -> None:
    path.rename(path.with_name("registry.db-wal"))


def remove(path: Path) -> None:
    for file in path.parent.glob("registry.db*"):
        file.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_header,
        damage_pages,
        cut_in_half,
        empty,
        swap_for_another_database,
        remove_beside_its_journal,
        remove,
    ],
)
def test_a_corrupt_registry_names_the_newest_backup_and_the_command(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = tmp_path / "my store"
    registry = Registry(store / "registry.db")
    registry.open()
    commit(registry, *(replace(V1, version=f"v{n}", spec={"n": "x" * 500}) for n in range(50)))
    registry.close()
    backup(store, artifacts=False)
    newest = backup(store, artifacts=False)
    damage(store / "registry.db")
    with pytest.raises(StoreCorrupt) as caught:
        registry.open()
    assert str(newest) in caught.value.message
    assert caught.value.hint == f"restore it with: mdslite restore '{newest}' --store '{store}'"


def test_a_backup_that_is_cut_short_is_not_suggested(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.db")
    registry.open()
    commit(registry, V1)
    registry.close()
    whole, cut = backup(tmp_path, artifacts=False), backup(tmp_path, artifacts=False)
    with cut.open("r+b") as file:
        file.truncate(700)
    damage_header(tmp_path / "registry.db")
    with pytest.raises(StoreCorrupt) as caught:
        registry.open()
    assert str(whole) in caught.value.message


def test_a_corrupt_registry_without_a_backup_says_that_there_is_none(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.db")
    registry.open()
    registry.close()
    empty(registry.path)
    with pytest.raises(StoreCorrupt, match="there is no backup") as caught:
        registry.open()
    assert f"mdslite restore FILE --store {tmp_path}" in (caught.value.hint or "")


BESIDE = {"candidates": CandidateStore, "comparisons": ComparisonStore, "deferred": DeferredStore}


@pytest.mark.parametrize("name", BESIDE)
def test_a_corrupt_database_beside_the_registry_is_named_with_the_ways_on(tmp_path: Path, name: str) -> None:
    store = tmp_path / "my store"
    registry = Registry(store / "registry.db")
    registry.open()
    ledger = BESIDE[name](store / f"{name}.db")
    ledger.open()
    holding = backup(store)
    ledger.close()
    registry.close()
    ledger.path.unlink()
    backup(store, artifacts=False)  # without it
    for file in ("", "-wal"):
        (store / f"{name}.db{file}").write_bytes(b"no database at all")
    with pytest.raises(StoreCorrupt, match=rf"{name}\.db of the store .* is corrupt: file is not") as caught:
        ledger.open()
    assert "registry" not in caught.value.message
    without, _, back = (caught.value.hint or "").partition("  or ")
    assert back.endswith(f"mdslite restore '{holding}' --store '{store}' --force")
    subprocess.run(["sh", "-c", without.partition(": ")[2]], check=True)
    ledger.open()
    ledger.close()
    assert (store / "corrupt" / f"{name}.db").read_bytes() == b"no database at all"


@pytest.mark.parametrize("stored", [True, False])
def test_no_registry_is_made_beside_models_that_another_knew(tmp_path: Path, stored: bool) -> None:
    (tmp_path / "artifacts" / (f"{1:064x}" if stored else ".staging")).mkdir(parents=True)
    registry = Registry(tmp_path / "registry.db")
    if stored:
        with pytest.raises(
            StoreCorrupt, match=r"registry\.db is missing, though artifacts are there"
        ) as caught:
            registry.open()
        assert f"mv {tmp_path} {tmp_path}.corrupt" in (caught.value.hint or "")
        assert not registry.path.exists()
    else:
        registry.open()
        registry.close()


def test_a_registry_of_a_newer_mdslite_is_left_alone(tmp_path: Path, registry: Registry) -> None:
    commit(registry, V1)
    registry._db.table("_sqlite_migrations").insert(
        {"migration_set": "mdslite-registry", "name": "9999_from_the_future", "applied_at": "2031"}
    )
    registry.close()
    with pytest.raises(StoreError, match=r"newer mdslite \(9999_from_the_future"):
        registry.open()


def test_a_registry_that_somebody_else_holds_is_unavailable(registry: Registry) -> None:
    registry._db.execute("pragma busy_timeout = 1")
    with closing(sqlite3.connect(registry.path)) as other:
        other.execute("begin immediate")
        with pytest.raises(Unavailable):
            commit(registry, V1)
    commit(registry, V1)


def test_the_tables_are_made_by_recorded_migrations(registry: Registry) -> None:
    reader = Database(sqlite3.connect(registry.path), execute_plugins=False)
    tables = {"artifacts", "audit", "limits", "probes", "revisions", "tokens", "versions"}
    assert tables <= set(reader.table_names())
    applied = [row["name"] for row in reader["_sqlite_migrations"].rows]
    assert applied == [
        "0001_revisions_versions_artifacts_probes",
        "0002_tokens_limits_audit",
        "0003_rollouts",
        "0004_receipts",
        "0005_labels",
        "0006_replays",
    ]
    reader.close()
