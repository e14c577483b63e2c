"""What doctor finds out about a store, healthy or not, and that finding out changes nothing."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from artifact_files import damage
from models import mlp

from mdslite.errors import StoreCorrupt
from mdslite.findings import Finding
from mdslite.sizes import size_text
from mdslite.store.artifacts import Artifact, ArtifactStore
from mdslite.store.backup import backup
from mdslite.store.check import check_store
from mdslite.store.drift import DriftStore, recover_wishes
from mdslite.store.lock import StoreLock
from mdslite.store.recovery import LEDGERS
from mdslite.store.registry import Registry, VersionRow


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "store" / "registry.db")
    registry.open()
    yield registry
    registry.close()


@pytest.fixture
def store(registry: Registry) -> Path:
    return registry.path.parent


@pytest.fixture
def artifact(registry: Registry, store: Path, tmp_path: Path) -> Artifact:
    """A deployed one."""
    return deploy(registry, tmp_path, seed=0)


def deploy(registry: Registry, tmp_path: Path, *, seed: int) -> Artifact:
    artifacts = ArtifactStore(registry.path.parent / "artifacts")
    artifact = artifacts.add_path(mlp(tmp_path / f"model{seed}.onnx", seed=seed))
    row = VersionRow("mail", "spam", "v1", {}, artifact.digest, artifact.size_bytes)
    registry.commit(author="ada", reason="", source="", diff=[], versions=[row])
    return artifact


def find(findings: list[Finding], text: str) -> Finding:
    (found,) = [finding for finding in findings if text in finding.what]
    return found


def trouble(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "ok"]


def test_a_healthy_store_has_no_trouble(store: Path, artifact: Artifact) -> None:
    backup(store)
    findings = check_store(store)
    assert trouble(findings) == []
    assert "no appliance serves it" in findings[0].what
    assert find(findings, "registry: in order, artifacts deployed: 1")
    assert find(findings, "artifacts: 1 match their digests")
    assert find(findings, "newest backup: ")


def test_a_folder_that_is_no_store_yet_is_no_trouble_and_stays_so(tmp_path: Path) -> None:
    assert trouble(check_store(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    assert trouble(check_store(tmp_path / "empty")) == []
    assert list((tmp_path / "empty").iterdir()) == []


def test_where_a_store_is_expected_another_folder_and_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = {name: trouble(check_store(tmp_path / name, expected=True)) for name in ("none", ".", "file")}
    assert {name: [(one.level, one.what) for one in findings] for name, findings in found.items()} == {
        "none": [("warning", f"no store at {tmp_path / 'none'} yet")],
        ".": [("warning", f"no store at {tmp_path} yet: nothing in that folder is a store's")],
        "file": [("error", f"{tmp_path / 'file'} is a file: expected a store's folder")],
    }
    assert trouble(check_store(tmp_path / "file")) == found["file"]


def test_who_serves_the_store_is_named(store: Path) -> None:
    with StoreLock(store):
        what = check_store(store)[0].what
        assert f"served by pid {os.getpid()} since" in what
        assert re.search(r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$", what)


def test_a_damaged_artifact_that_is_deployed_is_an_error(store: Path, artifact: Artifact) -> None:
    damage(artifact.path)
    found = find(check_store(store), "no longer matches its digest")
    assert found.level == "error"
    assert found.what.startswith(f"mail/spam@v1: the stored artifact {artifact.digest}")
    assert "apply the version again" in (found.hint or "")


def test_a_damaged_artifact_of_the_past_is_a_warning(
    store: Path, registry: Registry, artifact: Artifact, tmp_path: Path
) -> None:
    deploy(registry, tmp_path, seed=1)
    damage(artifact.path)
    found = find(check_store(store), artifact.digest)
    assert found.level == "warning"
    assert found.what.startswith("mail/spam@v1 of a former revision: ")


def test_artifacts_that_nothing_refers_to_are_counted(
    store: Path, artifact: Artifact, tmp_path: Path
) -> None:
    artifacts = ArtifactStore(store / "artifacts")
    idle = artifacts.add_path(mlp(tmp_path / "idle.onnx", seed=5))
    found = find(check_store(store), "1 more belong to no revision")
    assert found.level == "ok"
    size = size_text(idle.size_bytes)
    assert f": idle.onnx {size}; the next start of mdslite up removes them" in found.what
    free = find(check_store(store), "disk of the store: ").what
    assert re.fullmatch(r"disk of the store: \d{1,3}\.\d [MGT]B free", free)
    for name in ("b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.txt").write_text(name)
        artifacts.add_path(tmp_path / name)
    found = find(check_store(store), "4 more belong to no revision")
    assert ": idle.onnx " in found.what and ", sha256:" in found.what and " and 1 more; " in found.what


@pytest.mark.parametrize("size", [0, 5000])
def test_a_corrupt_registry_is_an_error_with_the_command_that_mends_it(
    store: Path, registry: Registry, artifact: Artifact, size: int
) -> None:
    made = backup(store)
    registry.close()
    os.truncate(store / "registry.db", size)
    found = find(check_store(store), "is corrupt")
    assert found.level == "error"
    assert f"mdslite restore {made} --store {store}" in (found.hint or "")


@pytest.mark.parametrize("name", LEDGERS)
def test_a_corrupt_database_beside_the_registry_is_an_error(store: Path, name: str) -> None:
    (store / f"{name}.db").write_bytes(b"no database at all")
    found = find(check_store(store), f"{name}.db of the store")
    assert found.level == "error"
    assert f"mv {store}/{name}.db* {store}/corrupt" in (found.hint or "")


def test_a_corrupt_database_of_drift_is_an_error_whose_hint_works(store: Path, registry: Registry) -> None:
    registry.close()
    drift = DriftStore(store / "drift")
    drift.open()
    drift.close()
    made = backup(store)
    drift.path.write_bytes(b"no database at all")
    found = find(check_store(store), "drift.db of the store")
    assert found.level == "error"
    first, second = (found.hint or "").removeprefix("go on without it: ").split("  or ")
    assert f"mdslite restore {made} --store {store} --force" in second
    with pytest.raises(StoreCorrupt, match="with what is usual of each version, and the alerts, is corrupt"):
        registry.open()
    subprocess.run(first, shell=True, check=True)
    registry.open()
    assert [one for one in check_store(store) if one.level == "error"] == []


@pytest.mark.parametrize("name", LEDGERS)
def test_a_registry_beside_a_corrupt_database_is_not_opened(
    store: Path, registry: Registry, name: str
) -> None:
    registry.close()
    (store / f"{name}.db").write_bytes(b"no database at all")
    with pytest.raises(StoreCorrupt, match=f"{name}.db of the store"):
        registry.open()


def test_damaged_wishes_are_named_before_and_after_they_were_set_aside(store: Path) -> None:
    (store / "drift").mkdir()
    (store / "drift" / "wishes.json").write_bytes(bytes(20))
    found = find(check_store(store), "with the alerts' webhook")
    assert (found.level, "is damaged" in found.what) == ("error", True)
    _, aside = recover_wishes(store / "drift")
    found = find(check_store(store), "with the alerts' webhook")
    assert (found.level, "set aside" in found.what) == ("warning", True)
    assert f"rm {aside}" in (found.hint or "")


def test_all_versions_of_a_damaged_artifact_are_named(
    store: Path, registry: Registry, tmp_path: Path
) -> None:
    artifact = deploy(registry, tmp_path, seed=0)
    row = VersionRow("mail", "spam", "v1", {}, artifact.digest, artifact.size_bytes)
    registry.commit(author="ada", reason="", source="", diff=[], versions=[row, replace(row, version="v2")])
    damage(artifact.path)
    found = find(check_store(store), "no longer matches its digest")
    assert found.what.startswith("mail/spam@v1, mail/spam@v2: the stored artifact")


def test_an_index_that_disagrees_with_its_table_is_an_error(store: Path, registry: Registry) -> None:
    registry.close()
    index_on(store, "time", "author")
    with closing(sqlite3.connect(store / "registry.db")) as db:
        db.execute("insert into revisions values (1, 1.0, 'a', '', 'applied', null, '', '')")
        db.commit()
    index_on(store, "author", "time")
    assert find(check_store(store), "is corrupt").level == "error"


def index_on(store: Path, before: str, after: str) -> None:
    """Say that an index is on another column than it was built on."""
    with closing(sqlite3.connect(store / "registry.db")) as db:
        db.execute("pragma writable_schema = on")
        change = "update sqlite_schema set sql = replace(sql, ?, ?) where name = 'revisions_by_time'"
        db.execute(change, (f"({before})", f"({after})"))
        db.commit()


def test_a_damaged_hour_of_the_log_is_a_warning(store: Path, artifact: Artifact) -> None:
    log = store / "log"
    log.mkdir()
    for name in ("2026-11-22T13.db", "2026-11-22T14.db"):
        with closing(sqlite3.connect(log / name)) as db:
            db.execute("create table entries (x)")
            db.executemany("insert into entries values (?)", [("x" * 100,)] * 1000)
            db.commit()
    (log / "2026-11-22T13.db").write_bytes(b"damaged" * 1000)
    (log / "2026-11-22T12.set-aside-1.db").write_bytes(b"?")
    findings = check_store(store)
    assert find(findings, "2026-11-22T13.db is damaged").level == "warning"
    aside = find(findings, "2026-11-22T12.set-aside-1.db was set aside")
    assert aside.hint is not None and aside.hint.endswith(f"rm {log / '2026-11-22T12.set-aside-1.db'}")
    assert find(findings, "request log: 2 of 3 files read").level == "ok"


def test_no_backup_or_an_old_one_is_a_warning(store: Path) -> None:
    assert find(check_store(store), "no backup").hint == "make one with: mdslite backup"
    made = backup(store)
    assert find(check_store(store), made.name).level == "ok"
    later = made.stat().st_mtime + 20 * 86_400
    assert find(check_store(store, clock=lambda: later), "20 days old").level == "warning"


def test_a_restore_that_was_cut_short_is_a_warning(store: Path) -> None:
    (store / "restore.json").write_text("{}")
    assert "mdslite up finishes it" in (find(check_store(store), "cut short").hint or "")


def test_a_disk_that_is_nearly_full_is_an_error(small_disk: Path) -> None:
    found = find(check_store(small_disk), "free")
    assert found.level == "error"
    assert "free some space" in (found.hint or "")


def test_looking_changes_nothing(store: Path, registry: Registry, artifact: Artifact) -> None:
    """Not even what stands in the journal is merged."""
    before = sums(store)
    check_store(store)
    assert sums(store) == before
    registry.commit(author="ada", reason="", source="", diff=[], versions=[])
    assert registry.current() == []


def sums(store: Path) -> bytes:
    """By another process: closing a database that was opened here would drop SQLite's locks on it."""
    names = [store / "registry.db", store / "registry.db-wal"]
    return subprocess.run(["sha256sum", *names], capture_output=True, check=True).stdout


def test_a_changed_artifact_names_the_backup_that_holds_it(
    store: Path, registry: Registry, artifact: Artifact
) -> None:
    made = backup(store)
    backup(store, artifacts=False)
    artifact.path.chmod(0o600)
    artifact.path.write_bytes(b"other")
    found = find(check_store(store), "no longer matches its digest")
    assert (found.hint or "").endswith(f"mdslite restore {made} --store {store} --force")
