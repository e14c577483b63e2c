"""Artifacts are stored once under the digest of their bytes, whole or not at all, and proved when opened."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import mlp
from onnx import external_data_helper

from mdslite.errors import ArtifactError, StorageFull, StoreError, TooLarge
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.staging import Limits


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def make_folder(top: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


def split_model(path: Path, location: str) -> Path:
    """A model whose weights lie in a file of their own."""
    proto = onnx.load(mlp(path))
    external_data_helper.convert_model_to_external_data(proto, location=location, size_threshold=0)
    (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return path


def relocate(path: Path, location: str) -> Path:
    """Say that all tensors of a split model lie elsewhere."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())
    return path


def left_behind(store: ArtifactStore) -> list[str]:
    """What is in the store beside whole artifacts."""
    staging = store.root / ".staging"
    return sorted(os.listdir(staging)) if staging.exists() else []


# Files


def test_a_file_is_stored_under_the_sha256_of_its_bytes(store: ArtifactStore, model: Path) -> None:
    artifact = store.add_path(model)
    assert artifact.digest == f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"
    assert (artifact.kind, artifact.size_bytes) == ("file", model.stat().st_size)
    assert artifact.path == store.root / artifact.digest[7:] / "model.onnx"
    assert artifact.path.read_bytes() == model.read_bytes()
    assert artifact.main() == artifact.path
    assert store.get(artifact.digest) == artifact
    assert store.open(artifact.digest) == artifact.path
    assert left_behind(store) == []


def test_the_same_bytes_are_stored_once_whatever_their_name(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    first = store.add_path(model)
    again = store.add_path(Path(shutil.copy(model, tmp_path / "renamed.onnx")))
    assert again == first
    assert store.digests() == [first.digest]


def test_changed_bytes_are_another_artifact(store: ArtifactStore, model: Path, tmp_path: Path) -> None:
    first = store.add_path(model)
    mlp(model, seed=1)
    second = store.add_path(model)
    assert second.digest != first.digest
    assert store.digests() == sorted([first.digest, second.digest])
    store.verify(first.digest)


def test_a_stored_file_cannot_be_written_by_accident(store: ArtifactStore, model: Path) -> None:
    assert store.add_path(model).path.stat().st_mode & 0o222 == 0


def test_a_link_that_somebody_names_is_followed(store: ArtifactStore, model: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.onnx"
    link.symlink_to(model)
    artifact = store.add_path(link)
    assert artifact.path.name == "latest.onnx"
    assert not artifact.path.is_symlink()


def test_a_named_file_may_have_other_names(store: ArtifactStore, model: Path, tmp_path: Path) -> None:
    os.link(model, tmp_path / "other-name.onnx")
    assert store.add_path(model).path.stat().st_nlink == 1


@pytest.mark.parametrize("name", ["missing.onnx", "folder/missing.onnx", "long" * 1000])
def test_a_missing_file_is_named(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=f"{name} cannot be read") as caught:
        store.add_path(tmp_path / name)
    assert caught.value.status == 422
    assert store.digests() == []


def test_what_is_no_file_is_refused_without_waiting_for_it(store: ArtifactStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match="no ordinary file"):
        store.add_path(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match="no ordinary file"):
        store.add_path(Path("/dev/zero"))


def test_an_empty_file_is_no_model(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ArtifactError, match="is empty"):
        store.add_path(tmp_path / "model.onnx")


def test_progress_is_told_up_to_the_end(store: ArtifactStore, tmp_path: Path) -> None:
    size_bytes = 5 << 20
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(size_bytes))
    seen: list[tuple[int, int | None]] = []
    store.add_path(source, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (size_bytes, size_bytes)
    again: list[tuple[int, int | None]] = []
    store.add_path(source, progress=lambda done, total: again.append((done, total)))
    assert again[-1] == (size_bytes, size_bytes)


def test_work_that_is_broken_off_leaves_nothing(store: ArtifactStore, model: Path) -> None:
    class Enough(Exception):
        pass

    def stop(done_bytes: int, _: int | None) -> None:
        if done_bytes > model.stat().st_size // 2:
            raise Enough

    with pytest.raises(Enough):
        store.add_path(model, progress=stop)
    assert store.digests() == [] and left_behind(store) == []


# Folders


def test_a_folder_is_stored_with_all_its_files(store: ArtifactStore, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "spam", **{"model.onnx": b"m", "a__b__c.txt": b"c", "empty": b""})
    artifact = store.add_path(folder)
    assert (artifact.kind, artifact.size_bytes) == ("folder", 2)
    found = {str(path.relative_to(artifact.path)) for path in artifact.path.rglob("*") if path.is_file()}
    assert found == {"model.onnx", "a/b/c.txt", "empty"}
    assert store.open(artifact.digest) == artifact.path
    assert store.get(artifact.digest) == artifact


def test_a_folders_digest_depends_on_names_and_bytes_and_nothing_else(
    store: ArtifactStore, tmp_path: Path
) -> None:
    first = store.add_path(make_folder(tmp_path / "one", a=b"1", b=b"2"))
    same = store.add_path(make_folder(tmp_path / "two", b=b"2", a=b"1"))
    renamed = store.add_path(make_folder(tmp_path / "three", a=b"1", c=b"2"))
    swapped = store.add_path(make_folder(tmp_path / "four", a=b"2", b=b"1"))
    assert same == first
    assert len({first.digest, renamed.digest, swapped.digest}) == 3


def test_what_tools_leave_in_a_folder_is_no_part_of_it(store: ArtifactStore, tmp_path: Path) -> None:
    plain = store.add_path(make_folder(tmp_path / "plain", **{"model.onnx": b"m"}))
    littered = {".git__HEAD": b"x", "pkg____pycache____m.pyc": b"x", ".DS_Store": b"x", "._model.onnx": b"x"}
    folder = make_folder(tmp_path / "littered", **{"model.onnx": b"m"}, **littered)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "m.pyc").write_bytes(b"x")
    (folder / "pkg").rename(tmp_path / "gone")
    assert store.add_path(folder) == plain


def test_the_model_in_a_folder_is_found(store: ArtifactStore, tmp_path: Path) -> None:
    one = store.add_path(make_folder(tmp_path / "one", **{"deep__net.ONNX": b"m", "labels.txt": b""}))
    assert one.main() == one.path / "deep" / "net.ONNX"
    named = store.add_path(make_folder(tmp_path / "named", **{"model.onnx": b"m", "other.onnx": b"n"}))
    assert named.main([".onnx"]) == named.path / "model.onnx"
    several = store.add_path(make_folder(tmp_path / "several", **{"a.onnx": b"m", "b.onnx": b"n"}))
    with pytest.raises(ArtifactError, match=r"2 .onnx files \(a.onnx, b.onnx\); expected exactly one"):
        several.main()
    none = store.add_path(make_folder(tmp_path / "none", **{"model.pt": b"m"}))
    with pytest.raises(ArtifactError, match=r"no .onnx file"):
        none.main()


def test_an_empty_folder_is_no_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "folder" / "__pycache__").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="is empty"):
        store.add_path(tmp_path / "folder")


@pytest.mark.parametrize("kind", ["symlink", "dangling", "symlinked folder", "hardlink"])
def test_a_link_in_a_folder_is_refused(store: ArtifactStore, tmp_path: Path, kind: str) -> None:
    secret = make_folder(tmp_path / "secrets", key=b"secret") / "key"
    folder = make_folder(tmp_path / "model", **{"model.onnx": b"m", "sub__x": b"x"})
    link = folder / "sub" / "weights.bin"
    if kind == "hardlink":
        os.link(secret, link)
    else:
        link.symlink_to(
            {"symlink": secret, "dangling": tmp_path / "no", "symlinked folder": secret.parent}[kind]
        )
    with pytest.raises(ArtifactError, match=r"sub/weights.bin in .* is a link") as caught:
        store.add_path(folder)
    assert caught.value.status == 422
    assert "cp -rL" in (caught.value.hint or "")
    assert store.digests() == [] and left_behind(store) == []


def test_the_command_in_the_hint_makes_a_folder_that_is_taken(store: ArtifactStore, tmp_path: Path) -> None:
    secret = make_folder(tmp_path / "elsewhere", weights=b"w") / "weights"
    folder = make_folder(tmp_path / "my model", **{"model.onnx": b"m"})
    os.link(secret, folder / "hard.bin")
    (folder / "soft.bin").symlink_to(secret)
    with pytest.raises(ArtifactError) as caught:
        store.add_path(folder)
    command = (caught.value.hint or "").partition(": ")[2]
    subprocess.run(command, shell=True, check=True)
    assert store.add_path(tmp_path / "my model-copy").size_bytes == 3


def test_a_folder_with_a_socket_or_pipe_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", **{"model.onnx": b"m"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        with pytest.raises(ArtifactError, match="device, pipe or socket"):
            store.add_path(folder)


def test_a_name_that_is_not_text_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", **{"model.onnx": b"m"})
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff")).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="not UTF-8"):
        store.add_path(folder)


def test_limits_hold_for_folders(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts", limits=Limits(max_bytes=10, max_files=3, max_depth=4))
    with pytest.raises(TooLarge, match="more than 10 bytes") as caught:
        store.add_path(make_folder(tmp_path / "heavy", a=b"123456", b=b"12345"))
    assert caught.value.status == 413
    with pytest.raises(TooLarge, match="more than 3 files"):
        store.add_path(make_folder(tmp_path / "many", a=b"", b=b"", c=b"", d=b""))
    with pytest.raises(ArtifactError, match="nested deeper than 4"):
        store.add_path(make_folder(tmp_path / "deep", a__b__c__d__e__f=b""))
    assert store.digests() == [] and left_behind(store) == []


# Models with data of their own


def test_a_models_data_files_come_along(store: ArtifactStore, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    for number, location in enumerate(["model.onnx.data", "weights/part-0.bin"]):
        (tmp_path / f"source{number}").mkdir()
        source = split_model(tmp_path / f"source{number}" / "model.onnx", location)
        (source.parent / "unrelated.csv").write_text("not of this model")
        artifact = store.add_path(source)
        assert artifact.kind == "folder"
        found = {str(path.relative_to(artifact.path)) for path in artifact.path.rglob("*") if path.is_file()}
        assert found == {"model.onnx", location}
        session = ort.InferenceSession(artifact.main(), providers=["CPUExecutionProvider"])
        (probabilities,) = session.run(None, {"x": np.zeros((2, 4), np.float32)})
        assert probabilities.shape == (2, 3)
        assert store.add_path(source) == artifact


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "..", "c:\\secret"])
def test_data_outside_the_models_folder_is_refused(
    store: ArtifactStore, tmp_path: Path, location: str
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "m"
    folder.mkdir()
    source = relocate(split_model(folder / "model.onnx", "model.data"), location)
    for target in (source, folder):
        with pytest.raises(ArtifactError, match="expected a file beside or below it"):
            store.add_path(target)
    assert store.digests() == [] and left_behind(store) == []


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "missing", "through a linked folder"])
def test_data_that_is_a_link_or_missing_is_refused(store: ArtifactStore, tmp_path: Path, kind: str) -> None:
    secret = make_folder(tmp_path / "secrets", data=b"secret") / "data"
    (tmp_path / "m").mkdir()
    source = split_model(tmp_path / "m" / "model.onnx", "w/data")
    data = tmp_path / "m" / "w" / "data"
    data.unlink()
    if kind == "symlink":
        data.symlink_to(secret)
    elif kind == "hardlink":
        os.link(secret, data)
    elif kind == "through a linked folder":
        data.parent.rmdir()
        data.parent.symlink_to(secret.parent)
    with pytest.raises(ArtifactError, match=r"w/data in .*(is a link|cannot be read)"):
        store.add_path(source)
    assert store.digests() == [] and left_behind(store) == []


def test_references_are_found_wherever_a_tensor_may_stand(store: ArtifactStore, tmp_path: Path) -> None:
    """In a Constant's attribute within a branch of an If, and in a function."""
    helper = onnx.helper
    tensor = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "t")
    external_data_helper.set_external_data(tensor, location="../outside.bin")
    tensor.ClearField("raw_data")
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3])
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [out])
    cond = helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    nested = helper.make_model(helper.make_graph([choice], "g", [cond], [out]))
    call = helper.make_node("F", [], ["y"], domain="local")
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("local", "F", [], ["y"], [constant], [opset])
    through_function = helper.make_model(
        helper.make_graph([call], "g", [], [out]),
        functions=[function],
        opset_imports=[opset, helper.make_opsetid("local", 1)],
    )
    for proto in (nested, through_function):
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(ArtifactError, match=r"\.\./outside\.bin"):
            store.add_path(path)


@pytest.mark.parametrize(
    "content", [b"location", b"\x3a\xff\xff\xff\xff\x0flocation", b"\x0b" * 9 + b"location"]
)
def test_a_file_that_is_no_model_refers_to_nothing(
    store: ArtifactStore, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert store.add_path(tmp_path / "model.onnx").kind == "file"


# Proof


def tamper(path: Path, content: bytes | None = None) -> None:
    path.chmod(0o644)
    if content is None:
        before = path.read_bytes()
        content = before[:-1] + bytes([before[-1] ^ 1])
    path.write_bytes(content)


def test_a_changed_file_is_refused_and_named(store: ArtifactStore, model: Path) -> None:
    artifact = store.add_path(model)
    tamper(artifact.path)
    with pytest.raises(
        ArtifactError, match=r"no longer matches its digest: model.onnx was changed"
    ) as caught:
        store.open(artifact.digest)
    assert artifact.digest in caught.value.message
    assert "apply" in (caught.value.hint or "")


def test_a_flipped_bit_is_found_even_if_the_inode_looks_unchanged(store: ArtifactStore, model: Path) -> None:
    artifact = store.add_path(model)
    store.verify(artifact.digest)
    before = artifact.path.stat()
    tamper(artifact.path)
    os.utime(artifact.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match="was changed"):
        store.verify(artifact.digest)


def test_any_change_in_a_folder_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = store.add_path(make_folder(tmp_path / "m", **{"model.onnx": b"m", "sub__x": b"x"}))
    tamper(artifact.path / "sub" / "x", b"y")
    with pytest.raises(ArtifactError, match="sub/x was changed"):
        store.open(artifact.digest)
    tamper(artifact.path / "sub" / "x", b"x")
    store.open(artifact.digest)
    (artifact.path / "new").write_bytes(b"n")
    with pytest.raises(ArtifactError, match="came to or went from"):
        store.open(artifact.digest)
    (artifact.path / "new").unlink()
    tamper(artifact.path.parent / "manifest.json")
    with pytest.raises(ArtifactError, match=r"damaged|manifest\.json was changed"):
        store.open(artifact.digest)


def test_bytecode_that_python_leaves_in_a_stored_folder_does_no_harm(
    store: ArtifactStore, tmp_path: Path
) -> None:
    artifact = store.add_path(make_folder(tmp_path / "m", **{"handler.py": b"x = 1"}))
    (artifact.path / "__pycache__").mkdir()
    (artifact.path / "__pycache__" / "handler.pyc").write_bytes(b"x")
    store.open(artifact.digest)


def test_a_hard_linked_copy_of_the_store_does_no_harm(
    store: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    artifact = store.add_path(model)
    os.link(artifact.path, tmp_path / "snapshot.onnx")
    store.open(artifact.digest)


def test_a_missing_artifact_and_a_strange_digest_are_refused(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="missing or damaged"):
        store.open("sha256:" + "0" * 64)
    for digest in ("", "sha256:xyz", "sha256:../../../etc", "md5:" + "0" * 64):
        with pytest.raises(ArtifactError, match="is no digest"):
            store.open(digest)


def test_bringing_the_bytes_again_mends_a_damaged_artifact(store: ArtifactStore, model: Path) -> None:
    artifact = store.add_path(model)
    tamper(artifact.path)
    assert store.add_path(model) == artifact
    assert store.open(artifact.digest).read_bytes() == model.read_bytes()
    assert left_behind(store) == []


def test_unreferenced_artifacts_are_removed(store: ArtifactStore, tmp_path: Path) -> None:
    kept = store.add_path(mlp(tmp_path / "a.onnx", seed=1))
    gone = store.add_path(mlp(tmp_path / "b.onnx", seed=2))
    assert store.remove_unreferenced({kept.digest}) == [gone.digest]
    assert store.digests() == [kept.digest]
    assert store.get(gone.digest) is None
    assert left_behind(store) == []


def test_a_removed_artifact_stays_readable_to_who_has_it_open(store: ArtifactStore, model: Path) -> None:
    artifact = store.add_path(model)
    with artifact.path.open("rb") as file:
        store.remove_unreferenced(())
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
    store: ArtifactStore, tmp_path: Path, fraction: str
) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(8 << 20))
    command = [sys.executable, "-c", ADD_AND_DIE, str(store.root), str(source), fraction]
    assert subprocess.run(command, timeout=30, check=False).returncode == -signal.SIGKILL
    assert store.digests() == []
    store.sweep()
    assert left_behind(store) == []
    store.open(store.add_path(source).digest)


def test_a_full_disk_is_told_before_the_first_byte(tmp_path: Path, model: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts", limits=Limits(reserve_bytes=1 << 60))
    with pytest.raises(StorageFull, match="do not fit") as caught:
        store.add_path(model)
    assert caught.value.status == 507
    assert store.digests() == [] and left_behind(store) == []


def test_a_disk_that_fills_on_the_way_leaves_nothing_and_recovers(small_disk: Path, tmp_path: Path) -> None:
    store = ArtifactStore(small_disk / "artifacts", limits=Limits(reserve_bytes=0))
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
        store.add_path(source, progress=fill_up)
    assert str(small_disk) not in caught.value.message
    assert store.digests() == [] and left_behind(store) == []
    filler.unlink()
    store.open(store.add_path(source).digest)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, model: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be written: Not a directory"):
        ArtifactStore(tmp_path / "file" / "artifacts").add_path(model)
