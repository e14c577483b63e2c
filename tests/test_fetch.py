"""Downloads are whole or nothing, end in time, and are made again only where something changed."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import httpcore2
import pytest
from archive_bytes import pack_tar_gz, pack_zip
from artifact_files import split_model
from downloads import BODY, read, refusal
from file_server import FileServer, Request, reply, serving_files
from models import mlp

from mdslite.errors import ArtifactError, TooLarge
from mdslite.store import fetch
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.fetch import Network, Waits, open_url
from mdslite.store.staging import Limits

# Content


def test_a_file_is_downloaded_and_stored(web: FileServer, artifacts: ArtifactStore, tmp_path: Path) -> None:
    model = mlp(tmp_path / "m.onnx")
    web.say("/models/digits.onnx?token=secret", model.read_bytes())
    seen: list[tuple[int, int | None]] = []
    url = f"{web.url}/models/digits.onnx?token=secret"
    artifact = artifacts.add(url, allow=[web.host], progress=lambda *progress: seen.append(progress))
    assert artifact.digest == f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"
    assert (artifact.kind, artifact.path.name) == ("file", "digits.onnx")
    assert seen[-1] == (artifact.size_bytes, artifact.size_bytes)
    artifacts.open(artifact.digest)
    (request,) = web.requests
    assert request.headers["host"] == web.host
    assert request.headers["accept-encoding"] == "identity"
    assert artifacts.add_path(model) == artifact


@pytest.mark.parametrize(("name", "pack"), [("m.zip", pack_zip), ("m.tar.gz", pack_tar_gz)])
def test_an_archive_is_downloaded_and_unpacked(
    web: FileServer, artifacts: ArtifactStore, tmp_path: Path, name: str, pack: Callable[[], bytes]
) -> None:
    web.say(f"/{name}", pack())
    artifact = artifacts.add_url(f"{web.url}/{name}", allow=[web.host])
    (tmp_path / name).write_bytes(pack())
    assert artifact.kind == "folder"
    assert artifact == artifacts.add_path(tmp_path / name)
    assert list((artifacts.root / ".staging").iterdir()) == []


def test_a_model_without_its_data_is_refused(
    web: FileServer, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    web.say("/model.onnx", split_model(tmp_path / "model.onnx", "model.data").read_bytes())
    with pytest.raises(ArtifactError, match=r"keeps data in model\.data, which did not come along") as caught:
        artifacts.add_url(f"{web.url}/model.onnx", allow=[web.host])
    assert ".tar.gz" in (caught.value.hint or "")
    assert artifacts.digests() == []


@pytest.mark.parametrize(
    ("target", "headers", "name"),
    [
        ("/a/model.onnx", {}, "model.onnx"),
        ("/a/my%20model.onnx?download=true", {}, "my_model.onnx"),
        ("/a/model.onnx", {"content_disposition": "attachment; filename=other.zip"}, "model.onnx"),
        ("/download", {"content_disposition": 'attachment; filename="m.zip"'}, "m.zip"),
        ("/download", {"content_disposition": "attachment; filename*=UTF-8''m%C3%B6.onnx"}, "m_.onnx"),
        ("/download", {"content_disposition": 'attachment; filename="../../etc/x.onnx"'}, "x.onnx"),
        ("/download", {"content_disposition": "attachment; filename=.."}, "download"),
        ("/", {}, "model"),
        ("/" + "x" * 300 + ".onnx", {}, "x" * 115 + ".onnx"),
    ],
)
def test_the_file_is_named_by_the_uri_or_else_by_the_server(
    web: FileServer, target: str, headers: dict[str, str], name: str
) -> None:
    web.say(target, b"x", **headers)
    with open_url(web.url + target, allow=[web.host]) as download:
        assert download is not None and download.name == name


def test_a_body_of_unknown_length_is_read_to_its_end(web: FileServer, artifacts: ArtifactStore) -> None:
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY, b"end")) + b"0\r\n\r\n"
    web.send("/chunked.onnx", reply(chunked, headers={"transfer-encoding": "chunked"}))
    web.send("/close.onnx", reply(BODY))
    assert artifacts.add_url(f"{web.url}/chunked.onnx", allow=[web.host]).size_bytes == len(BODY) + 3
    assert artifacts.add_url(f"{web.url}/close.onnx", allow=[web.host]).size_bytes == len(BODY)


def test_content_that_the_server_packed_is_refused_unless_it_names_an_archive(web: FileServer) -> None:
    packed = gzip.compress(BODY)
    web.say("/model.onnx", packed, content_encoding="gzip")
    web.say("/model.tar.gz", packed, content_encoding="x-gzip")
    assert "gzip-encoded" in refusal(f"{web.url}/model.onnx").message
    assert read(f"{web.url}/model.tar.gz") == packed


# Limits


def test_too_large_a_download_is_refused_before_it_begins(web: FileServer, tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts", limits=Limits(max_bytes=1000))
    web.send("/m.onnx", reply(b"", headers={"content-length": "1001"}))
    with pytest.raises(TooLarge) as caught:
        artifacts.add_url(f"{web.url}/m.onnx", allow=[web.host])
    assert caught.value.status == 413
    assert artifacts.digests() == []


def test_too_large_a_download_that_does_not_say_so_is_broken_off(web: FileServer, tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts", limits=Limits(max_bytes=100_000))

    def pour(_: Request, send: Callable[[bytes], None]) -> None:
        send(reply(b""))
        while True:  # until the other side closes
            send(BODY)

    web.pages["/m.onnx"] = pour
    with pytest.raises(TooLarge):
        artifacts.add_url(f"{web.url}/m.onnx", allow=[web.host])
    assert artifacts.digests() == []
    assert list((artifacts.root / ".staging").iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing(web: FileServer, artifacts: ArtifactStore) -> None:
    web.send("/m.onnx", reply(BODY[:-1], headers={"content-length": str(len(BODY))}))
    with pytest.raises(ArtifactError, match="could not be downloaded"):
        artifacts.add_url(f"{web.url}/m.onnx", allow=[web.host])
    assert artifacts.digests() == []
    assert list((artifacts.root / ".staging").iterdir()) == []


def test_a_server_that_falls_silent_is_given_up(web: FileServer) -> None:
    done = threading.Event()

    def half(_: Request, send: Callable[[bytes], None]) -> None:
        send(reply(b"x", headers={"content-length": "9"}))
        _wait(done)

    silent = Network(waits=Waits(read_s=0.05))
    web.pages["/nothing"] = lambda _, send: _wait(done)
    web.pages["/half"] = half
    try:
        for target in ("/nothing", "/half"):
            assert "no answer in time" in refusal(web.url + target, network=silent).message
            done.set()
            done.clear()
    finally:
        done.set()


def test_a_server_that_drips_is_given_up(web: FileServer) -> None:
    ticks = iter(range(0, 10_000, 100))
    web.say("/m.onnx", BODY)
    network = Network(waits=Waits(total_s=150), clock=lambda: float(next(ticks)))
    assert "too slowly" in refusal(f"{web.url}/m.onnx", network=network).message


def test_a_server_that_never_comes_to_its_answer_is_given_up(web: FileServer) -> None:
    def promise(_: Request, send: Callable[[bytes], None]) -> None:
        while True:  # until the other side closes
            send(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    web.pages["/m.onnx"] = promise
    message = refusal(f"{web.url}/m.onnx", network=Network(waits=Waits(head_s=0.2))).message
    assert "too slowly" in message


@pytest.mark.parametrize("part", [b"", reply(b"x", headers={"content-length": "9"})], ids=["head", "body"])
def test_nobody_goes_on_waiting_for_a_silent_server_once_that_is_stopped(
    web: FileServer, artifacts: ArtifactStore, part: bytes
) -> None:
    asked, done = threading.Event(), threading.Event()

    def fall_silent(_: Request, send: Callable[[bytes], None]) -> None:
        send(part)
        asked.set()
        _wait(done)

    def check() -> None:
        if asked.is_set():
            raise ArtifactError("its fetching was stopped")

    web.pages["/m.onnx"] = fall_silent
    try:
        with pytest.raises(ArtifactError, match="was stopped"):
            artifacts.add(f"{web.url}/m.onnx", allow=[web.host], check=check)
        assert asked.is_set()
    finally:
        done.set()
    assert list(artifacts.root.glob(".staging/*")) == []


def _wait(done: threading.Event) -> None:
    done.wait(20.0)


# Replies that are no content


@pytest.mark.parametrize(
    "status", ["404 Not Found", "500 Internal Server Error", "204 No Content", "206 Partial"]
)
def test_any_status_but_200_is_refused(web: FileServer, status: str) -> None:
    web.say("/m.onnx?sig=secret", status=status)
    error = refusal(f"{web.url}/m.onnx?sig=secret")
    assert f"{web.url}/m.onnx answered {status[:3]}" in error.message
    assert "secret" not in error.message


def test_a_url_that_needs_credentials_says_what_to_do(web: FileServer) -> None:
    for status in ("401 Unauthorized", "403 Forbidden"):
        web.say("/m.onnx", status=status)
        assert "signed URL" in (refusal(f"{web.url}/m.onnx").hint or "")


def test_what_is_not_http_is_refused(web: FileServer) -> None:
    web.send("/m.onnx", b"SSH-2.0-OpenSSH_9.6\r\n")
    assert "could not be downloaded" in refusal(f"{web.url}/m.onnx").message


def test_a_refused_connection_is_named() -> None:
    with serving_files() as closed:
        url = f"{closed.url}/m.onnx"
    assert "could not be downloaded" in refusal(url).message


@pytest.mark.parametrize(
    "url",
    ["ftp://host/m", "file:///etc/passwd", "http:///m", "http://[::1/m", "http://a:99999/", "http://a\x01b/"],
)
def test_a_url_that_cannot_be_read_is_refused(url: str) -> None:
    refusal(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    error = refusal("https://ada:hunter2@models.test/m.onnx")
    assert "holds a password" in error.message
    assert "hunter2" not in error.message + (error.hint or "")


def test_an_unknown_host_is_named() -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    assert "nowhere.test" in refusal("http://nowhere.test/m", network=Network(resolve=resolve)).message


# Asking whether it changed


def conditional(content: bytes, tag: str) -> Callable[[Request, Callable[[bytes], None]], None]:
    def handle(request: Request, send: Callable[[bytes], None]) -> None:
        if request.headers.get("if-none-match") == tag:
            send(reply(b"", status="304 Not Modified"))
        else:
            send(reply(content, headers={"content-length": str(len(content)), "etag": tag}))

    return handle


def test_an_unchanged_file_is_not_downloaded_again(web: FileServer, artifacts: ArtifactStore) -> None:
    url = f"{web.url}/m.onnx"
    web.pages["/m.onnx"] = conditional(BODY, '"1"')
    first = artifacts.add_url(url, allow=[web.host])
    assert artifacts.add_url(url, allow=[web.host]) == first
    assert [request.headers.get("if-none-match") for request in web.requests] == [None, '"1"']
    web.pages["/m.onnx"] = conditional(BODY + b"!", '"2"')
    changed = artifacts.add_url(url, allow=[web.host])
    assert changed.digest != first.digest


def test_a_file_that_is_gone_or_damaged_here_is_downloaded_again(
    web: FileServer, artifacts: ArtifactStore
) -> None:
    url = f"{web.url}/m.onnx"
    web.pages["/m.onnx"] = conditional(BODY, '"1"')
    first = artifacts.add_url(url, allow=[web.host])
    first.path.chmod(0o644)
    first.path.write_bytes(b"damaged")
    assert artifacts.open(artifacts.add_url(url, allow=[web.host]).digest).read_bytes() == BODY
    artifacts.remove_unreferenced(())
    assert artifacts.add_url(url, allow=[web.host]) == first


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"etag": 'W/"1"'}, {}),
        ({"etag": "1"}, {}),
        ({"last_modified": "Sun, 22 Nov 2026 09:00:00 GMT"}, {}),
        ({"last_modified": "Sun, 22 Nov 2026 09:00:00 GMT", "date": "Sun, 22 Nov 2026 09:00:30 GMT"}, {}),
        ({"last_modified": "yesterday", "date": "Sun, 22 Nov 2026 09:02:00 GMT"}, {}),
        (
            {"last_modified": "Sun, 22 Nov 2026 09:00:00 GMT", "date": "Sun, 22 Nov 2026 09:02:00 GMT"},
            {"if-modified-since": "Sun, 22 Nov 2026 09:00:00 GMT"},
        ),
    ],
)
def test_only_what_tells_every_byte_apart_is_asked_with(
    web: FileServer, artifacts: ArtifactStore, headers: dict[str, str], asked: dict[str, str]
) -> None:
    web.say("/m.onnx", BODY, **headers)
    for _ in range(2):
        artifacts.add_url(f"{web.url}/m.onnx", allow=[web.host])
    sent = web.requests[1].headers
    assert {name: sent[name] for name in ("if-none-match", "if-modified-since") if name in sent} == asked


def test_a_304_that_nobody_asked_for_is_refused(web: FileServer) -> None:
    web.say("/m.onnx", status="304 Not Modified")
    assert "answered 304" in refusal(f"{web.url}/m.onnx").message


# Foreign errors


def test_every_error_of_the_http_client_is_translated() -> None:
    kinds = {
        kind
        for _, kind in inspect.getmembers(httpcore2, inspect.isclass)
        if issubclass(kind, Exception) and kind is not httpcore2.ConnectionNotAvailable
    }
    assert len(kinds) >= 10
    for kind in kinds:
        with pytest.raises(ArtifactError), fetch._http_errors(fetch._parse_url("http://models.test/m")):
            raise kind("trouble")
