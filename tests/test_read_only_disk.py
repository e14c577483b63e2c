"""A store on a disk that can only be read any more, as of one that fails: it is examined and copied."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from models import mlp

from mdslite.errors import StorageFull
from mdslite.findings import Finding
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.backup import backup, read_contents
from mdslite.store.candidates import CandidateStore
from mdslite.store.check import check_store
from mdslite.store.deferred import DeferredStore
from mdslite.store.hours import connect
from mdslite.store.registry import Registry, VersionRow
from mdslite.store.restore import restore


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """With a version that is deployed, and open."""
    store = tmp_path / "store"
    registry = Registry(store / "registry.db")
    registry.open()
    artifact = ArtifactStore(store / "artifacts").add_path(mlp(tmp_path / "m.onnx", seed=0))
    row = VersionRow("mail", "spam", "v1", {}, artifact.digest, artifact.size_bytes)
    registry.commit(author="ada", reason="", source="", diff=[], versions=[row])
    yield registry
    registry.close()


def errors(found: list[Finding]) -> list[str]:
    return [one.what for one in found if one.level == "error"]


def test_a_store_that_was_closed_is_examined_and_copied(
    registry: Registry, small_disk: Path, tmp_path: Path
) -> None:
    for ledger in (
        CandidateStore(registry.path.with_name("candidates.db")),
        DeferredStore(registry.path.with_name("deferred.db")),
    ):
        ledger.open()
        ledger.close()
    (registry.path.parent / "log").mkdir()
    connect(registry.path.parent / "log" / "2026-11-23T13.db", write=True).close()
    registry.close()
    shutil.copytree(registry.path.parent, small_disk / "store")
    with read_only(small_disk):
        assert errors(check_store(small_disk / "store")) == [
            "disk of the store: read-only, so nothing can be kept there"
        ]
        made = backup(small_disk / "store", tmp_path / "made.tar", log=True)
    assert {"artifacts", "candidates", "deferred", "log"} <= set(read_contents(made).parts)
    restore(made, tmp_path / "elsewhere")
    again = Registry(tmp_path / "elsewhere" / "registry.db")
    again.open()
    assert [one.version for one in again.current()] == ["v1"]
    again.close()


def test_a_store_whose_process_was_killed_is_examined_and_copied(
    registry: Registry, small_disk: Path, tmp_path: Path
) -> None:
    shutil.copytree(registry.path.parent, small_disk / "store")  # with a journal that holds the revision
    assert (small_disk / "store" / "registry.db-wal").stat().st_size
    with read_only(small_disk):
        assert len(errors(check_store(small_disk / "store"))) == 1
        made = backup(small_disk / "store", tmp_path / "made.tar")
    assert read_contents(made).revision == 1


def test_a_journal_that_cannot_be_read_there_is_named(registry: Registry, small_disk: Path) -> None:
    shutil.copytree(registry.path.parent, small_disk / "store", ignore=shutil.ignore_patterns("*-shm"))
    with read_only(small_disk):
        (found, _) = [one for one in check_store(small_disk / "store") if one.level == "error"]
    assert "its disk is read-only, and registry.db-wal holds a part of it" in found.what
    assert "copy the whole folder" in (found.hint or "")


def test_what_is_to_be_written_there_says_why_it_cannot_be(small_disk: Path) -> None:
    with read_only(small_disk), pytest.raises(StorageFull, match="Read-only file system") as refused:
        Registry(small_disk / "registry.db").open()
    assert "remount,rw" in (refused.value.hint or "")


def test_a_database_that_is_there_already_says_why_it_takes_no_more(
    registry: Registry, small_disk: Path
) -> None:
    registry.close()
    shutil.copytree(registry.path.parent, small_disk / "store")
    with read_only(small_disk), pytest.raises(StorageFull, match="its disk is read-only") as refused:
        Registry(small_disk / "store" / "registry.db").open()
    assert "remount,rw" in (refused.value.hint or "")
