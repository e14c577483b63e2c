"""Archives as bytes, good ones and others."""

from __future__ import annotations

import io
import tarfile
import zipfile


def file(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return file(name, b"", type=kind, linkname=target)


def tar_bytes(
    *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz", format: int = tarfile.GNU_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


FILES = [("model.onnx", b"m" * 1000), ("data/labels.txt", b"a\nb\n"), ("empty", b"")]


def pack_zip() -> bytes:
    return zip_bytes(*FILES)


def pack_tar() -> bytes:
    return tar_bytes(*(file(f"./{name}", content) for name, content in FILES), mode="w")


def pack_tar_gz() -> bytes:
    folder = file("data", b"", type=tarfile.DIRTYPE)
    return tar_bytes(folder, *(file(name, content) for name, content in FILES), format=tarfile.PAX_FORMAT)
