"""What a file seems to be that is no model, by files as their own writers make them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import odd_models
import pytest

from mdslite.guises import HEAD_BYTES, Guise, recognize

PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


def guise_of(path: Path) -> Guise | None:
    with path.open("rb") as file:
        return recognize(file, name=path.name)


def what_is(tmp_path: Path, content: bytes | str) -> str | None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    guise = guise_of(path)
    return None if guise is None else guise.what


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("call Ann about the model", "a text"),
        ("größer", "a text"),
        ("a text".encode("utf-16"), "a text"),
        ("x" * (HEAD_BYTES - 1) + "é" * 9, "a text"),  # whose last letter in the head is half
        (json.dumps({"error": "not found"}), "a JSON text"),
        ("<?xml version='1.0'?><Error/>", "an XML text"),
        (PAGE, "an HTML page"),
        ("\ufeff \n<html lang='en'>", "an HTML page"),
        ("<!-- saved from an address -->\n<HTML>", "an HTML page"),
        (b"%PDF-1.4\n", "a PDF"),
        (gzip.compress(b"m", mtime=0), "packed with gzip"),
        (bz2.compress(b"m"), "packed with bzip2"),
        (lzma.compress(b"m"), "packed with xz"),
        (pickle.dumps([1]), "a pickle, which can run any code and is never loaded"),
        (bytes(9000), "full of zeros, as a download that broke off leaves it"),
        (b"", "empty"),
        (Path(sys.executable).resolve().read_bytes()[:5000], "a program"),
        (b"\x1c\0\0\0TFL3" + bytes(20), "a TensorFlow Lite model"),
        (b"GGUF\3\0\0\0", "a GGUF model of llama.cpp"),
    ],
)
def test_bytes_are_told_by_what_they_begin_with(tmp_path: Path, content: bytes | str, what: str) -> None:
    assert what_is(tmp_path, content) == what


def write_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def write_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (a)")
    database.close()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("GIF89a"), io.BytesIO())


@pytest.mark.parametrize(
    ("write", "what", "hint"),
    [
        (write_array, "a NumPy array", "export the model"),
        (write_database, "an SQLite database", "the model's own file"),
        (write_zip, "a zip archive", "unpack it, or call it 'my m.zip'"),
        (write_tar, "a tar archive", "unpack it, or call it 'my m.tar'"),
    ],
)
def test_files_are_told_by_what_they_begin_with(
    tmp_path: Path, write: Callable[[Path], None], what: str, hint: str
) -> None:
    path = tmp_path / "my m.onnx"
    write(path)
    guise = guise_of(path)
    assert guise is not None
    assert guise.what == what
    assert hint in guise.hint


@pytest.mark.parametrize(
    "build",
    [models.mlp, models.loop, models.words, models.classifier, odd_models.mixed, odd_models.truncated],
)
def test_a_model_is_none_of_them(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    assert guise_of(build(tmp_path / "m.onnx")) is None


def test_what_is_unknown_is_none_of_them(tmp_path: Path) -> None:
    assert what_is(tmp_path, b"\x01\x02\xfe\xff") is None
    assert what_is(tmp_path, "half of a letter at its end: é".encode()[:-1]) is None
