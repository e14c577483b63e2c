"""What `mdslite up MODEL` says of a model that cannot be served: it is named itself, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
import odd_models
import pytest
from box import Box

from mdslite.deploy.orders import Order, read_source
from mdslite.errors import InvalidRequest, MdsliteError

pytestmark = pytest.mark.anyio


def empty_file(path: Path) -> Path:
    path.touch()
    return path


def junk(path: Path) -> Path:
    path.write_text("no model")
    return path


def noise(path: Path) -> Path:
    path.write_bytes(b"\x01\x02\xfe\xff" * 9)
    return path


def yaml_folder(path: Path) -> Path:
    path.mkdir()
    (path / "other.yml").write_text("a: b")
    return path


def two_models(path: Path) -> Path:
    path.mkdir()
    models.identity(path / "a.onnx")
    models.identity(path / "b.onnx")
    return path


def empty_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "make", "begin", "hint"),
    [
        ("m.onnx", empty_file, "m.onnx is empty; expected a model", "export the model"),
        ("m.onnx", noise, "m.onnx: onnxruntime refused the model: ", "exporting it again"),
        ("m.onnx", junk, "m.onnx is a text: expected an ONNX model", "the model's own file"),
        ("m.onnx", odd_models.truncated, "m.onnx is an ONNX model that was cut off: it has ", "download it"),
        ("notes.txt", junk, "notes.txt is a text: expected a model", "a .onnx file (ONNX); "),
        ("noise.dat", noise, "noise.dat is no model that is understood; expected ", "mdslite init NAME"),
        ("m.onnx.gz", noise, "m.onnx.gz is packed in a way that is not read here", "gunzip -k m.onnx.gz"),
        ("m.tar.gz", junk, "m.tar.gz is a text: expected a .tar.gz archive", "pack the model's folder"),
        ("two", two_models, "{path}: the folder holds a.onnx, b.onnx: expected one .onnx", "name the file"),
        ("none", empty_folder, "{path}: the folder {path} is empty; expected a model's files", "put the"),
        ("texts", yaml_folder, "{path}: the folder holds other.yml: no model", "mdslite init NAME"),
    ],
)
async def test_the_model_is_named_and_what_to_do(
    box: Box, tmp_path: Path, name: str, make: Callable[[Path], Path], begin: str, hint: str
) -> None:
    path = make(tmp_path / name)
    with pytest.raises(MdsliteError) as caught:
        await box.deployer.apply(Order(read_source(path), author="ann"))
    assert caught.value.message.startswith(begin.format(path=path))
    assert hint in (caught.value.hint or "")
    assert caught.value.place is None
    [failed] = await box.revisions()
    assert failed.error == caught.value.message


async def test_a_path_that_no_file_could_hold_is_refused(box: Box, tmp_path: Path) -> None:
    path = models.identity(tmp_path / "a\x01.onnx")
    with pytest.raises(InvalidRequest, match="without control characters") as caught:
        await box.deployer.apply(Order(read_source(path), author="ann"))
    assert caught.value.hint == "rename it"


def test_a_file_that_cannot_be_read_is_an_error_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "d.yaml"
    folder.mkdir()
    with pytest.raises(InvalidRequest, match=r"cannot read .*: Is a directory") as caught:
        read_source(folder)
    assert "mdslite up --help" in (caught.value.hint or "")
