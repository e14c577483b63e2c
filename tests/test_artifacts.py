"""Artifacts are stored once under the digest of their bytes, whole or not at all: files, folders, models with
data."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifact_files import left_behind, make_folder, relocate, split_model
from models import mlp
from onnx import external_data_helper

from mdslite.errors import ArtifactError, TooLarge
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.staging import Limits

# Files


def test_a_file_is_stored_under_the_sha256_of_its_bytes(artifacts: ArtifactStore, model: Path) -> None:
    artifact = artifacts.add_path(model)
    assert artifact.digest == f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"
    assert (artifact.kind, artifact.size_bytes) == ("file", model.stat().st_size)
    assert artifact.path == artifacts.root / artifact.digest[7:] / "model.onnx"
    assert artifact.path.read_bytes() == model.read_bytes()
    assert artifact.main() == artifact.path
    assert artifacts.get(artifact.digest) == artifact
    assert artifacts.open(artifact.digest) == artifact.path
    assert left_behind(artifacts) == []


def test_the_same_bytes_are_stored_once_whatever_their_name(
    artifacts: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    first = artifacts.add_path(model)
    again = artifacts.add_path(Path(shutil.copy(model, tmp_path / "renamed.onnx")))
    assert again == first
    assert artifacts.digests() == [first.digest]


def test_changed_bytes_are_another_artifact(artifacts: ArtifactStore, model: Path, tmp_path: Path) -> None:
    first = artifacts.add_path(model)
    mlp(model, seed=1)
    second = artifacts.add_path(model)
    assert second.digest != first.digest
    assert artifacts.digests() == sorted([first.digest, second.digest])
    artifacts.verify(first.digest)


def test_a_stored_file_cannot_be_written_by_accident(artifacts: ArtifactStore, model: Path) -> None:
    assert artifacts.add_path(model).path.stat().st_mode & 0o222 == 0


def test_a_link_that_somebody_names_is_followed(
    artifacts: ArtifactStore, model: Path, tmp_path: Path
) -> None:
    link = tmp_path / "latest.onnx"
    link.symlink_to(model)
    artifact = artifacts.add_path(link)
    assert artifact.path.name == "latest.onnx"
    assert not artifact.path.is_symlink()


def test_a_named_file_may_have_other_names(artifacts: ArtifactStore, model: Path, tmp_path: Path) -> None:
    os.link(model, tmp_path / "other-name.onnx")
    assert artifacts.add_path(model).path.stat().st_nlink == 1


@pytest.mark.parametrize("name", ["missing.onnx", "folder/missing.onnx", "long" * 1000])
def test_a_missing_file_is_named(artifacts: ArtifactStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=f"{name} cannot be read") as caught:
        artifacts.add_path(tmp_path / name)
    assert caught.value.status == 422 and caught.value.misnamed
    assert caught.value.hint == "check the uri"
    assert artifacts.digests() == []


def test_what_is_no_file_is_refused_without_waiting_for_it(artifacts: ArtifactStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match="no ordinary file"):
        artifacts.add_path(tmp_path / "pipe.onnx")
    with pytest.raises(ArtifactError, match="no ordinary file"):
        artifacts.add_path(Path("/dev/zero"))


def test_an_empty_file_is_no_model(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ArtifactError, match="is empty"):
        artifacts.add_path(tmp_path / "model.onnx")


def test_progress_is_told_up_to_the_end(artifacts: ArtifactStore, tmp_path: Path) -> None:
    size_bytes = 5 << 20
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(size_bytes))
    seen: list[tuple[int, int | None]] = []
    artifacts.add_path(source, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (size_bytes, size_bytes)
    again: list[tuple[int, int | None]] = []
    artifacts.add_path(source, progress=lambda done, total: again.append((done, total)))
    assert again[-1] == (size_bytes, size_bytes)


def test_work_that_is_broken_off_leaves_nothing(artifacts: ArtifactStore, model: Path) -> None:
    class Enough(Exception):
        pass

    def stop(done_bytes: int, _: int | None) -> None:
        if done_bytes > model.stat().st_size // 2:
            raise Enough

    with pytest.raises(Enough):
        artifacts.add_path(model, progress=stop)
    assert artifacts.digests() == [] and left_behind(artifacts) == []


# Folders


def test_a_folder_is_stored_with_all_its_files(artifacts: ArtifactStore, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "spam", **{"model.onnx": b"m", "a__b__c.txt": b"c", "empty": b""})
    artifact = artifacts.add_path(folder)
    assert (artifact.kind, artifact.size_bytes) == ("folder", 2)
    found = {str(path.relative_to(artifact.path)) for path in artifact.path.rglob("*") if path.is_file()}
    assert found == {"model.onnx", "a/b/c.txt", "empty"}
    assert artifacts.open(artifact.digest) == artifact.path
    assert artifacts.get(artifact.digest) == artifact


def test_a_folders_digest_depends_on_names_and_bytes_and_nothing_else(
    artifacts: ArtifactStore, tmp_path: Path
) -> None:
    first = artifacts.add_path(make_folder(tmp_path / "one", a=b"1", b=b"2"))
    same = artifacts.add_path(make_folder(tmp_path / "two", b=b"2", a=b"1"))
    renamed = artifacts.add_path(make_folder(tmp_path / "three", a=b"1", c=b"2"))
    swapped = artifacts.add_path(make_folder(tmp_path / "four", a=b"2", b=b"1"))
    assert same == first
    assert len({first.digest, renamed.digest, swapped.digest}) == 3


def test_what_tools_leave_in_a_folder_is_no_part_of_it(artifacts: ArtifactStore, tmp_path: Path) -> None:
    plain = artifacts.add_path(make_folder(tmp_path / "plain", **{"model.onnx": b"m"}))
    littered = {".git__HEAD": b"x", "pkg____pycache____m.pyc": b"x", ".DS_Store": b"x", "._model.onnx": b"x"}
    folder = make_folder(tmp_path / "littered", **{"model.onnx": b"m"}, **littered)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "m.pyc").write_bytes(b"x")
    (folder / "pkg").rename(tmp_path / "gone")
    assert artifacts.add_path(folder) == plain


def test_the_model_in_a_folder_is_found(artifacts: ArtifactStore, tmp_path: Path) -> None:
    one = artifacts.add_path(make_folder(tmp_path / "one", **{"deep__net.ONNX": b"m", "labels.txt": b""}))
    assert one.main() == one.path / "deep" / "net.ONNX"
    named = artifacts.add_path(make_folder(tmp_path / "named", **{"model.onnx": b"m", "other.onnx": b"n"}))
    assert named.main([".onnx"]) == named.path / "model.onnx"
    several = artifacts.add_path(make_folder(tmp_path / "several", **{"a.onnx": b"m", "b.onnx": b"n"}))
    with pytest.raises(ArtifactError, match=r"2 .onnx files \(a.onnx, b.onnx\); expected exactly one"):
        several.main()
    none = artifacts.add_path(make_folder(tmp_path / "none", **{"model.pt": b"m"}))
    with pytest.raises(ArtifactError, match=r"no .onnx file"):
        none.main()


def test_an_empty_folder_is_no_artifact(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "folder" / "__pycache__").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="is empty"):
        artifacts.add_path(tmp_path / "folder")


@pytest.mark.parametrize("kind", ["symlink", "dangling", "symlinked folder", "hardlink"])
def test_a_link_in_a_folder_is_refused(artifacts: ArtifactStore, tmp_path: Path, kind: str) -> None:
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
        artifacts.add_path(folder)
    assert caught.value.status == 422
    assert "cp -rL" in (caught.value.hint or "")
    assert artifacts.digests() == [] and left_behind(artifacts) == []


def test_the_command_in_the_hint_makes_a_folder_that_is_taken(
    artifacts: ArtifactStore, tmp_path: Path
) -> None:
    secret = make_folder(tmp_path / "elsewhere", weights=b"w") / "weights"
    folder = make_folder(tmp_path / "my model", **{"model.onnx": b"m"})
    os.link(secret, folder / "hard.bin")
    (folder / "soft.bin").symlink_to(secret)
    with pytest.raises(ArtifactError) as caught:
        artifacts.add_path(folder)
    command = (caught.value.hint or "").partition(": ")[2]
    subprocess.run(command, shell=True, check=True)
    assert artifacts.add_path(tmp_path / "my model-copy").size_bytes == 3


def test_a_folder_with_a_socket_or_pipe_is_refused(artifacts: ArtifactStore, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", **{"model.onnx": b"m"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        with pytest.raises(ArtifactError, match="device, pipe or socket"):
            artifacts.add_path(folder)


def test_a_name_that_is_not_text_is_refused(artifacts: ArtifactStore, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", **{"model.onnx": b"m"})
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff")).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="not UTF-8"):
        artifacts.add_path(folder)


def test_limits_hold_for_folders(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts", limits=Limits(max_bytes=10, max_files=3, max_depth=4))
    with pytest.raises(TooLarge, match="more than 10 B of files") as caught:
        artifacts.add_path(make_folder(tmp_path / "heavy", a=b"123456", b=b"12345"))
    assert caught.value.status == 413
    with pytest.raises(TooLarge, match="more than 3 files"):
        artifacts.add_path(make_folder(tmp_path / "many", a=b"", b=b"", c=b"", d=b""))
    with pytest.raises(ArtifactError, match="nested deeper than 4"):
        artifacts.add_path(make_folder(tmp_path / "deep", a__b__c__d__e__f=b""))
    assert artifacts.digests() == [] and left_behind(artifacts) == []


# Models with data of their own


def test_a_models_data_files_come_along(artifacts: ArtifactStore, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    for number, location in enumerate(["model.onnx.data", "weights/part-0.bin"]):
        (tmp_path / f"source{number}").mkdir()
        source = split_model(tmp_path / f"source{number}" / "model.onnx", location)
        (source.parent / "unrelated.csv").write_text("not of this model")
        artifact = artifacts.add_path(source)
        assert artifact.kind == "folder"
        found = {str(path.relative_to(artifact.path)) for path in artifact.path.rglob("*") if path.is_file()}
        assert found == {"model.onnx", location}
        session = ort.InferenceSession(artifact.main(), providers=["CPUExecutionProvider"])
        (probabilities,) = session.run(None, {"x": np.zeros((2, 4), np.float32)})
        assert probabilities.shape == (2, 3)
        assert artifacts.add_path(source) == artifact


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "..", "c:\\secret"])
def test_data_outside_the_models_folder_is_refused(
    artifacts: ArtifactStore, tmp_path: Path, location: str
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "m"
    folder.mkdir()
    source = relocate(split_model(folder / "model.onnx", "model.data"), location)
    for target in (source, folder):
        with pytest.raises(ArtifactError, match="expected a file beside or below it"):
            artifacts.add_path(target)
    assert artifacts.digests() == [] and left_behind(artifacts) == []


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "missing", "through a linked folder"])
def test_data_that_is_a_link_or_missing_is_refused(
    artifacts: ArtifactStore, tmp_path: Path, kind: str
) -> None:
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
    said = "w/data', which is missing in " if kind == "missing" else r"w/data in .*(is a link|cannot be read)"
    with pytest.raises(ArtifactError, match=said) as refused:
        artifacts.add_path(source)
    assert kind != "missing" or "copy it there" in (refused.value.hint or "")
    assert artifacts.digests() == [] and left_behind(artifacts) == []


def test_references_are_found_wherever_a_tensor_may_stand(artifacts: ArtifactStore, tmp_path: Path) -> None:
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
            artifacts.add_path(path)


@pytest.mark.parametrize(
    "content", [b"location", b"\x3a\xff\xff\xff\xff\x0flocation", b"\x0b" * 9 + b"location"]
)
def test_a_file_that_is_no_model_refers_to_nothing(
    artifacts: ArtifactStore, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert artifacts.add_path(tmp_path / "model.onnx").kind == "file"
