"""What a file that is no model seems to be, by its first bytes, and what to do about it: the page that a
download ended at, a pointer of Git LFS, a text. Knows of models only that none begins with these bytes.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import BinaryIO

from mdslite.sizes import size_text

HEAD_BYTES = 4096  # of a file that are looked at

HOW_TO_SERVE = "export the model to ONNX, or write a Python package that loads it: mdslite init NAME"
PICKLE = "a pickle, which can run any code and is never loaded"
AGAIN = "copy or download it again"
CHOOSE = "give the model's own file or folder"
_DOWNLOAD = "download it again: the address led to a page, or asked to log in"
_ANSWER = "if it was downloaded, it may be a server's answer in place of the model: read it"

# What an archive of each kind that is unpacked is called here.
ARCHIVES = {"zip": "a zip archive", "tar": "a tar archive", "tar.gz": "packed with gzip"}

_LFS = re.compile(
    rb"version https://git-lfs\.github\.com/spec/.*?^size (\d{1,18})$", re.DOTALL | re.MULTILINE
)
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html)\b", re.DOTALL | re.IGNORECASE
)
_TAR_MARK, _TFLITE_MARK = slice(257, 262), slice(4, 8)

# What a file begins with (one of these), what that is, and what to do, with the file's {name}, or as a {zip}.
_MARKS: tuple[tuple[bytes | tuple[bytes, ...], str, str], ...] = (
    (b"%PDF-", "a PDF", CHOOSE),
    (b"\x1f\x8b", ARCHIVES["tar.gz"], "unpack it: gunzip -c {name} > MODEL"),
    (b"BZh", "packed with bzip2", "unpack it: bunzip2 -c {name} > MODEL"),
    (b"\xfd7zXZ\0", "packed with xz", "unpack it: xz -dc {name} > MODEL"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it: zstd -dc {name} > MODEL"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and deploy what was in it"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it, and deploy what was in it"),
    (b"PK\x03\x04", ARCHIVES["zip"], "unpack it, or call it {zip}"),
    (b"\x89PNG\r\n", "a picture (PNG)", CHOOSE),
    (b"\xff\xd8\xff", "a picture (JPEG)", CHOOSE),
    (b"GIF8", "a picture (GIF)", CHOOSE),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes it", HOW_TO_SERVE),
    (b"\x93NUMPY", "a NumPy array", HOW_TO_SERVE),
    (b"PAR1", "a Parquet table", CHOOSE),
    (b"SQLite format 3\0", "an SQLite database", CHOOSE),
    (b"GGUF", "a GGUF model of llama.cpp", HOW_TO_SERVE),
    (b"\x7fELF", "a program", CHOOSE),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), PICKLE, HOW_TO_SERVE),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LAYOUT = frozenset(b"\t\n\f\r\x1b")


@dataclass(frozen=True, slots=True)
class Guise:
    """`what` completes "the file is ..."; `hint` says what to do. A `stand_in` came in the place of a file,
    whose name says nothing of it."""

    what: str
    hint: str
    stand_in: bool = False


def recognize(file: BinaryIO, *, name: str) -> Guise | None:
    """What the open file called `name` seems to be; None for a model and for what is unknown."""
    size_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not head:
        return Guise("empty", AGAIN)
    return _pointer(head) or _marked(head, name) or _texts(head, whole=size_bytes <= HEAD_BYTES)


def _pointer(head: bytes) -> Guise | None:
    """What Git LFS leaves in a file's place until it is fetched."""
    found = _LFS.match(head)
    if found is None:
        return None
    size = size_text(int(found[1]))
    return Guise(
        f"a Git LFS pointer, which stands for a file of {size}",
        "fetch the file itself, where it is from: git lfs pull",
        stand_in=True,
    )


def _marked(head: bytes, name: str) -> Guise | None:
    stem = name.rpartition(".")[0] or name
    if head[_TAR_MARK] == b"ustar":  # whatever name its first file begins with
        return Guise(ARCHIVES["tar"], f"unpack it, or call it {shlex.quote(stem + '.tar')}")
    for mark, what, hint in _MARKS:
        if head.startswith(mark):
            return Guise(what, hint.format(name=shlex.quote(name), zip=shlex.quote(stem + ".zip")))
    if head[_TFLITE_MARK] == b"TFL3":
        return Guise("a TensorFlow Lite model", HOW_TO_SERVE)
    return None


def _texts(head: bytes, *, whole: bool) -> Guise | None:
    if _HTML.match(head):
        return Guise("an HTML page", _DOWNLOAD, stand_in=True)
    if not head.strip(b"\0"):
        return Guise("full of zeros, as a download that broke off leaves it", AGAIN)
    if head.startswith(_UTF16):
        return Guise("a text", CHOOSE)
    if not _is_text(head, whole=whole):
        return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:5]
    if start.startswith(b"<?xml"):
        return Guise("an XML text", _ANSWER)
    if start.startswith((b"{", b"[")):
        return Guise("a JSON text", _ANSWER)
    return Guise("a text", CHOOSE)


def _is_text(head: bytes, *, whole: bool) -> bool:
    """UTF-8 without control characters; the last letter of a head may be cut."""
    if any(byte < 0x20 and byte not in _LAYOUT for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as exc:
        return not whole and exc.start > len(head) - 4
    return True
