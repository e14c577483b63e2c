"""Archives from anybody: what is safe is unpacked, what is not leaves nothing behind."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from archive_bytes import FILES, file, link, pack_tar, pack_tar_gz, pack_zip, tar_bytes, zip_bytes
from hypothesis import given
from hypothesis import strategies as st

from mdslite.errors import ArtifactError, MdsliteError, TooLarge
from mdslite.store.archives import archive_kind
from mdslite.store.artifacts import Artifact, ArtifactStore
from mdslite.store.staging import Limits

MIB = 1 << 20


def add(artifacts: ArtifactStore, name: str, content: bytes) -> Artifact:
    path = artifacts.root.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return artifacts.add_path(path)


def refuse(
    artifacts: ArtifactStore, name: str, content: bytes, kind: type[MdsliteError] = ArtifactError
) -> str:
    """Expect an archive to be refused; nothing of it may be anywhere."""
    artifacts.root.parent.mkdir(exist_ok=True)
    outside = artifacts.root.parent.parent
    before = sorted(path for path in outside.rglob("*") if artifacts.root.parent not in path.parents)
    with pytest.raises(kind) as caught:
        add(artifacts, name, content)
    assert type(caught.value) is kind
    assert artifacts.digests() == []
    assert [path for path in artifacts.root.rglob("*") if path.is_file()] == []
    assert sorted(path for path in outside.rglob("*") if artifacts.root.parent not in path.parents) == before
    return caught.value.message


def names(artifact: Artifact) -> set[str]:
    return {str(path.relative_to(artifact.path)) for path in artifact.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("m.zip", pack_zip),
        ("M.ZIP", pack_zip),
        ("m.tar", pack_tar),
        ("m.tar.gz", pack_tar_gz),
        ("m.v1.tgz", pack_tar_gz),
    ],
)
def test_an_archive_is_the_same_artifact_as_its_folder(
    artifacts: ArtifactStore, tmp_path: Path, name: str, pack: Callable[[], bytes]
) -> None:
    for path, content in FILES:
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    packed = add(artifacts, name, pack())
    assert names(packed) == {path for path, _ in FILES}
    assert packed == artifacts.add_path(tmp_path / "folder")
    assert packed.kind == "folder"
    artifacts.open(packed.digest)


@pytest.mark.parametrize("top", ["spam", "spam/v2"])
def test_a_folder_that_holds_everything_is_stripped_once(artifacts: ArtifactStore, top: str) -> None:
    rest = top.partition("/")[2]
    expected = {f"{rest}/model.onnx".lstrip("/"), f"{rest}/a/b".lstrip("/")}
    packed = add(
        artifacts, "m.zip", zip_bytes((f"{top}/", b""), (f"{top}/model.onnx", b"m"), (f"{top}/a/b", b""))
    )
    assert names(packed) == expected
    artifacts.open(packed.digest)


def test_what_tools_leave_in_archives_is_skipped(artifacts: ArtifactStore) -> None:
    litter = [("__MACOSX/._model.onnx", b"x"), (".DS_Store", b"x"), ("pkg/__pycache__/a.pyc", b"x")]
    assert names(add(artifacts, "m.zip", zip_bytes(("model.onnx", b"m"), *litter))) == {"model.onnx"}


def test_an_archive_is_unpacked_once(artifacts: ArtifactStore) -> None:
    first = add(artifacts, "m.zip", pack_zip())
    inode = first.path.stat().st_ino
    assert add(artifacts, "renamed.zip", pack_zip()) == first
    assert first.path.stat().st_ino == inode
    (first.path / "model.onnx").chmod(0o644)
    (first.path / "model.onnx").write_bytes(b"damaged")
    assert artifacts.open(add(artifacts, "m.zip", pack_zip()).digest)


def test_a_package_that_is_a_zip_by_its_bytes_only_stays_a_file(artifacts: ArtifactStore) -> None:
    for name in ("model.pt", "weights.npz", "model"):
        assert add(artifacts, name, zip_bytes((name, b"x"))).kind == "file"


@pytest.mark.parametrize("name", ["m.tar.bz2", "m.tar.xz", "m.7z", "model.onnx.gz", "m.rar", "m.tar.zst"])
def test_other_kinds_of_archives_are_named(artifacts: ArtifactStore, name: str) -> None:
    assert "expected .zip, .tar or .tar.gz" in refuse(artifacts, name, b"x")
    with pytest.raises(ArtifactError, match=r"expected \.zip"):
        archive_kind(name)


# Names that lead elsewhere

UNSAFE_NAMES = [
    "../evil",
    "a/../../evil",
    "a/..",
    "..",
    "/etc/evil",
    "//evil",
    "..\\evil",
    "C:\\evil",
    "C:evil",
    "a\\b",
    "a\nb",
    "a\x1b[31m",
    "x" * 300,
    "/".join(["d"] * 40),
    "/".join(["d" * 200] * 8),
]


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_a_name_that_leads_out_or_is_not_safe_is_refused(artifacts: ArtifactStore, name: str) -> None:
    refuse(artifacts, "m.zip", zip_bytes(("model.onnx", b"m"), (name, b"evil")))
    refuse(artifacts, "m.tar.gz", tar_bytes(file("model.onnx"), file(name)))
    refuse(artifacts, "m.tar", tar_bytes(file("model.onnx"), file(name), mode="w", format=tarfile.PAX_FORMAT))


def test_a_nul_in_a_zips_name_is_refused(artifacts: ArtifactStore) -> None:
    assert "control character" in refuse(
        artifacts, "m.zip", zip_bytes(("safeXevil", b"x")).replace(b"safeX", b"safe\0")
    )


def test_a_tar_name_that_is_not_text_is_refused(artifacts: ArtifactStore) -> None:
    packed = tar_bytes(file("badX"), mode="w", format=tarfile.USTAR_FORMAT)
    broken = bytearray(packed.replace(b"badX", b"bad\xff"))
    broken[148:156] = b"%06o\0 " % (sum(broken[:148]) + sum(broken[156:512]) + 8 * 32)
    assert "not UTF-8" in refuse(artifacts, "m.tar", bytes(broken))


@pytest.mark.parametrize(
    "clash",
    [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a"), ("d/a", "d//a")],
    ids=lambda clash: "+".join(clash),
)
def test_a_name_that_occurs_twice_is_refused(artifacts: ArtifactStore, clash: tuple[str, str]) -> None:
    assert "occurs twice" in refuse(artifacts, "m.tar.gz", tar_bytes(*(file(name) for name in clash)))
    if "./a" not in clash:
        expected = pytest.warns(UserWarning, match="Duplicate name") if clash == ("a", "a") else nullcontext()
        with expected:
            packed = zip_bytes(*((name, b"x") for name in clash))
        assert "occurs twice" in refuse(artifacts, "m.zip", packed)


# Links and devices


@pytest.mark.parametrize(
    "member",
    [
        link("weights", "/etc/passwd", tarfile.SYMTYPE),
        link("weights", "model.onnx", tarfile.SYMTYPE),
        link("weights", "model.onnx", tarfile.LNKTYPE),
        link("weights", "../../outside", tarfile.LNKTYPE),
        file("fifo", b"", type=tarfile.FIFOTYPE),
        file("device", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        file("device", b"", type=tarfile.BLKTYPE, devmajor=8),
    ],
    ids=[
        "symlink out",
        "symlink in",
        "hardlink in",
        "hardlink out",
        "fifo",
        "character device",
        "block device",
    ],
)
def test_tar_links_and_devices_are_refused(
    artifacts: ArtifactStore, member: tuple[tarfile.TarInfo, bytes]
) -> None:
    message = refuse(artifacts, "m.tar.gz", tar_bytes(file("model.onnx"), member))
    assert "is a link or device" in message
    assert member[0].name in message


def test_writing_through_a_linked_folder_is_refused(artifacts: ArtifactStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    members = [link("d", str(target), tarfile.SYMTYPE), file("d/evil")]
    refuse(artifacts, "m.tar.gz", tar_bytes(*members))
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_zip_links_and_devices_are_refused(artifacts: ArtifactStore, kind: int) -> None:
    info = zipfile.ZipInfo("weights")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    assert "is a link or device" in refuse(
        artifacts, "m.zip", zip_bytes(("model.onnx", b"m"), (info, b"/etc/passwd"))
    )


# Bombs


def test_a_zip_bomb_is_refused_before_it_unpacks(artifacts: ArtifactStore) -> None:
    bomb = zip_bytes(("model.onnx", bytes(300 * MIB)))
    assert len(bomb) < MIB
    said = refuse(artifacts, "m.zip", bomb, TooLarge)
    assert said == "the archive unpacks to more than 67.1 MB, 200 times its packed size"


def test_a_gzip_bomb_is_refused(artifacts: ArtifactStore) -> None:
    bomb = tar_bytes(file("model.onnx", bytes(200 * MIB)))
    assert len(bomb) < MIB
    refuse(artifacts, "m.tar.gz", bomb, TooLarge)


def test_a_bomb_in_what_is_skipped_is_refused(artifacts: ArtifactStore) -> None:
    bomb = tar_bytes(file("__MACOSX/x", bytes(300 * MIB)), file("model.onnx"))
    refuse(artifacts, "m.tar.gz", bomb, TooLarge)


def test_a_bomb_after_the_end_of_the_tar_is_refused(artifacts: ArtifactStore) -> None:
    plain = tar_bytes(file("model.onnx"), mode="w") + bytes(300 * MIB)
    refuse(artifacts, "m.tar.gz", gzip.compress(plain, 6), TooLarge)


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_a_header_that_would_fill_the_memory_is_refused(artifacts: ArtifactStore, kind: bytes) -> None:
    bomb = tar_bytes(file("h", bytes(50 * MIB), type=kind), file("model.onnx"))
    assert "a header of 52428800 bytes" in refuse(artifacts, "m.tar.gz", bomb)


def test_headers_upon_headers_are_refused(artifacts: ArtifactStore) -> None:
    headers = [file("h", b"name\0", type=tarfile.GNUTYPE_LONGNAME) for _ in range(5_000)]
    refuse(artifacts, "m.tar.gz", tar_bytes(*headers, file("model.onnx")))


def test_files_that_share_their_packed_bytes_are_counted_each(artifacts: ArtifactStore) -> None:
    """Many entries of the directory point at the same packed bytes."""
    once = zip_bytes(("f0000", bytes(4 * MIB)))
    end = once.rindex(b"PK\x05\x06")
    start = struct.unpack("<L", once[end + 16 : end + 20])[0]
    entry = once[start:end]
    entries = b"".join(entry.replace(b"f0000", b"f%04d" % number) for number in range(100))
    counts = struct.pack("<HHLL", 100, 100, len(entries), start)
    bomb = once[:start] + entries + once[end : end + 8] + counts + once[end + 20 :]
    refuse(artifacts, "m.zip", bomb, TooLarge)


def test_a_zips_directory_that_would_fill_the_memory_is_refused(artifacts: ArtifactStore) -> None:
    info = zipfile.ZipInfo("model.onnx")
    info.comment = b"c" * 60_000
    members: list[tuple[str | zipfile.ZipInfo, bytes]] = []
    for number in range(300):
        other = zipfile.ZipInfo(f"f{number}")
        other.comment = info.comment
        members.append((other, b""))
    assert "a directory of" in refuse(artifacts, "m.zip", zip_bytes(*members), TooLarge)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "store" / "artifacts", limits=Limits(max_files=10))
    members = [(f"f{number}", b"") for number in range(11)]
    for name, packed in (
        ("m.zip", zip_bytes(*members)),
        ("m.tar.gz", tar_bytes(*(file(*member) for member in members))),
        ("d.zip", zip_bytes(*((f"d{number}/", b"") for number in range(30)))),
        ("d.tar.gz", tar_bytes(*(file(f"d{number}", b"", type=tarfile.DIRTYPE) for number in range(30)))),
    ):
        refuse(artifacts, name, packed, TooLarge)


def test_an_archive_may_unpack_to_much_if_it_is_much(tmp_path: Path) -> None:
    limits = Limits(free_ride_bytes=1000, max_ratio=4)
    artifacts = ArtifactStore(tmp_path / "store" / "artifacts", limits=limits)
    noise = os.urandom(10_000)
    assert add(artifacts, "fair.zip", zip_bytes(("model.onnx", noise * 2))).size_bytes == 20_000
    with pytest.raises(TooLarge):
        add(artifacts, "unfair.zip", zip_bytes(("model.onnx", noise + bytes(60_000))))


# Damage


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def encrypted() -> bytes:
    packed = bytearray(zip_bytes(("model.onnx", b"m" * 50)))
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return bytes(packed)


def rarely_packed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("model.onnx", b"m")
    return buffer.getvalue()


NOISE = zlib.compress(os.urandom(20_000))
DAMAGED = {
    "text.zip": b"not an archive",
    "empty.zip": b"",
    "cut.zip": pack_zip()[:-30],
    "checksum.zip": flip(zip_bytes(("model.onnx", NOISE)), 5_000),
    "encrypted.zip": encrypted(),
    "lzma.zip": rarely_packed(),
    "nothing.zip": zip_bytes(),
    "only-folders.zip": zip_bytes(("a/", b"")),
    "text.tar": b"not an archive" * 100,
    "empty.tar": b"",
    "cut.tar": tar_bytes(file("model.onnx", NOISE), mode="w")[:10_000],
    "no-end.tar": tar_bytes(file("model.onnx", b"m" * 512), mode="w")[:1024],
    "second-header.tar": flip(tar_bytes(file("a", b"a"), file("b", b"b"), mode="w"), 1024 + 5),
    "nothing.tar": tar_bytes(mode="w"),
    "text.tar.gz": b"not an archive" * 100,
    "cut.tar.gz": tar_bytes(file("model.onnx", NOISE))[:10_000],
    "checksum.tar.gz": flip(
        tar_bytes(file("model.onnx", NOISE)), -6 + len(tar_bytes(file("model.onnx", NOISE)))
    ),
    "plain.tar.gz": pack_tar(),
    "only-gzip.tar.gz": gzip.compress(b"hello"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_or_empty_archive_is_refused(artifacts: ArtifactStore, name: str) -> None:
    message = refuse(artifacts, name, DAMAGED[name])
    assert str(artifacts.root) not in message


@given(st.data())
def test_no_damage_is_an_unknown_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name, pack = data.draw(
        st.sampled_from([("m.zip", pack_zip), ("m.tar", pack_tar), ("m.tar.gz", pack_tar_gz)])
    )
    content = bytearray(pack())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    artifacts = ArtifactStore(tmp_path_factory.mktemp("s") / "store" / "artifacts")
    try:
        artifacts.verify(add(artifacts, name, bytes(content)).digest)
    except (ArtifactError, TooLarge):
        assert artifacts.digests() == []
