"""Artifacts are proved when they are opened, and survive crashes and full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from artifact_files import damage, left_behind, make_folder
from models import mlp

from mdslite.errors import ArtifactError, StorageFull, StoreError
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.staging import Limits

# Proof


def test_a_changed_file_is_refused_and_named(artifacts: ArtifactStore, model: Path) -> None:
    artifact = artifacts.add_path(model)
    damage(artifact.path)
    with pytest.raises(
        ArtifactError, match=r"no longer matches its digest: model.onnx was changed"
    ) as caught:
        artifacts.open(artifact.digest)
    assert artifact.digest in caught.value.message
    assert "apply" in (caught.value.hint or "")


def test_a_flipped_bit_is_found_even_if_the_inode_looks_unchanged(
    artifacts: ArtifactStore, model: Path
) -> None:
    artifact = artifacts.add_path(model)
    artifacts.verify(artifact.digest)
    before = artifact.path.stat()
    damage(artifact.path)
    os.utime(artifact.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match="was changed"):
        artifacts.verify(artifact.digest)


def test_any_change_in_a_folder_is_refused(artifacts: ArtifactStore, tmp_path: Path) -> None:
    artifact = artifacts.add_path(make_folder(tmp_path / "m", **{"model.onnx": b"m", "sub__x": b"x"}))
    damage(artifact.path / "sub" / "x", b"y")
    with pytest.raises(ArtifactError, match="sub/x was changed"):
        artifacts.open(artifact.digest)
    damage(artifact.path / "sub" / "x", b"x")
    artifacts.open(artifact.digest)
    (artifact.path / "new").write_bytes(b"n")
    with pytest.raises(ArtifactError, match="came to or went from"):
        artifacts.open(artifact.digest)
    (artifact.path / "new").unlink()
    damage(artifact.path.parent / "manifest.json")
    with pytest.raises(ArtifactError, match=r"damaged|manifest\.json was changed"):
        artifacts.open(artifact.digest)


def test_bytecode_that_python_leaves_in_a_stored_folder_does_no_harm(
    artifacts: ArtifactStore, tmp_path: Path
) -> None:
    artifact = artifacts.add_path(make_folder(tmp_path / "m", **{"handler.py": b"x = 1"}))
    (artifact.path / "__pycache__").mkdir()
    (artifact.path / "__pycache__" / "handler.pyc").write_bytes(b"x")
    artifacts.open(artifact.digest)


def test_a_hard_linked_copy_of_the_store_does_no_harm(
    artifacts: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    artifact = artifacts.add_path(model)
    os.link(artifact.path, tmp_path / "snapshot.onnx")
    artifacts.open(artifact.digest)


def test_a_missing_artifact_and_a_strange_digest_are_refused(artifacts: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="missing or damaged"):
        artifacts.open("sha256:" + "0" * 64)
    for digest in ("", "sha256:xyz", "sha256:../../../etc", "md5:" + "0" * 64):
        with pytest.raises(ArtifactError, match="is no digest"):
            artifacts.open(digest)


def test_bringing_the_bytes_again_mends_a_damaged_artifact(artifacts: ArtifactStore, model: Path) -> None:
    artifact = artifacts.add_path(model)
    damage(artifact.path)
    assert artifacts.add_path(model) == artifact
    assert artifacts.open(artifact.digest).read_bytes() == model.read_bytes()
    assert left_behind(artifacts) == []


def test_unreferenced_artifacts_are_removed(artifacts: ArtifactStore, tmp_path: Path) -> None:
    kept = artifacts.add_path(mlp(tmp_path / "a.onnx", seed=1))
    gone = artifacts.add_path(mlp(tmp_path / "b.onnx", seed=2))
    assert artifacts.remove_unreferenced({kept.digest}) == [gone.digest]
    assert artifacts.digests() == [kept.digest]
    assert artifacts.get(gone.digest) is None
    assert left_behind(artifacts) == []


def test_a_removed_artifact_stays_readable_to_who_has_it_open(artifacts: ArtifactStore, model: Path) -> None:
    artifact = artifacts.add_path(model)
    with artifact.path.open("rb") as file:
        artifacts.remove_unreferenced(())
        assert file.read() == model.read_bytes()


# Crashes and full disks

ADD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from mdslite.store import artifacts
store = artifacts.ArtifactStore(Path(sys.argv[1]))
def die(done, total):
    if done > total * float(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
store.add_path(Path(sys.argv[2]), progress=die)
"""


@pytest.mark.parametrize("fraction", ["0.1", "0.6", "0.9"])
def test_kill_9_on_the_way_leaves_nothing_after_the_next_start(
    artifacts: ArtifactStore, tmp_path: Path, fraction: str
) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(8 << 20))
    command = [sys.executable, "-c", ADD_AND_DIE, str(artifacts.root), str(source), fraction]
    assert subprocess.run(command, timeout=30, check=False).returncode == -signal.SIGKILL
    assert artifacts.digests() == []
    artifacts.sweep()
    assert left_behind(artifacts) == []
    artifacts.open(artifacts.add_path(source).digest)


def test_a_full_disk_is_told_before_the_first_byte(tmp_path: Path, model: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts", limits=Limits(reserve_bytes=1 << 60))
    with pytest.raises(StorageFull, match="do not fit") as caught:
        artifacts.add_path(model)
    assert caught.value.status == 507
    assert artifacts.digests() == [] and left_behind(artifacts) == []


def test_a_disk_that_fills_on_the_way_leaves_nothing_and_recovers(small_disk: Path, tmp_path: Path) -> None:
    artifacts = ArtifactStore(small_disk / "artifacts", limits=Limits(reserve_bytes=0))
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(2 << 20))
    filler = small_disk / "filler"

    def fill_up(done_bytes: int, total_bytes: int | None) -> None:
        # Somebody else takes the room once copying has begun.
        if total_bytes and done_bytes > total_bytes // 2 and not filler.exists():
            filler.write_bytes(
                b"\0" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 8192)
            )

    with pytest.raises(StorageFull, match="takes no more: No space left") as caught:
        artifacts.add_path(source, progress=fill_up)
    assert str(small_disk) not in caught.value.message
    assert artifacts.digests() == [] and left_behind(artifacts) == []
    filler.unlink()
    artifacts.open(artifacts.add_path(source).digest)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, model: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be written: Not a directory"):
        ArtifactStore(tmp_path / "file" / "artifacts").add_path(model)
