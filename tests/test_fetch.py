"""Downloads reach only where they may, end in time, and are whole or nothing."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpcore2
import pytest
from file_server import FileServer, Request, reply, serving_files
from models import mlp
from test_archives import pack_tar_gz, pack_zip
from test_artifacts import split_model

from mdslite.errors import ArtifactError, InvalidRequest, TooLarge
from mdslite.store import fetch
from mdslite.store.addresses import AllowList, is_internal
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.fetch import Network, Waits, open_url
from mdslite.store.staging import Limits

TLS = Path(__file__).parent / "data" / "tls"
BODY = bytes(range(256)) * 2000


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving_files() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def read(url: str, *, allow: Sequence[str] = ("127.0.0.1",), network: Network | None = None) -> bytes:
    with open_url(url, allow=allow, network=network) as download:
        assert download is not None
        return b"".join(download.chunks)


def refusal(
    url: str, *, allow: Sequence[str] = ("127.0.0.1",), network: Network | None = None
) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        read(url, allow=allow, network=network)
    assert caught.value.status == 422
    return caught.value


def resolving(**names: str) -> Network:
    """A resolver that knows these names; a dash stands for a dot."""
    known = {name.replace("_", "."): addresses.split() for name, addresses in names.items()}

    def resolve(host: str, port: int) -> Sequence[str]:
        return known[host]

    return Network(resolve=resolve)


# Content


def test_a_file_is_downloaded_and_stored(server: FileServer, store: ArtifactStore, tmp_path: Path) -> None:
    model = mlp(tmp_path / "m.onnx")
    server.say("/models/digits.onnx?token=secret", model.read_bytes())
    seen: list[tuple[int, int | None]] = []
    url = f"{server.url}/models/digits.onnx?token=secret"
    artifact = store.add(url, allow=[server.host], progress=lambda *progress: seen.append(progress))
    assert artifact.digest == f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"
    assert (artifact.kind, artifact.path.name) == ("file", "digits.onnx")
    assert seen[-1] == (artifact.size_bytes, artifact.size_bytes)
    store.open(artifact.digest)
    (request,) = server.requests
    assert request.headers["host"] == server.host
    assert request.headers["accept-encoding"] == "identity"
    assert store.add_path(model) == artifact


@pytest.mark.parametrize(("name", "pack"), [("m.zip", pack_zip), ("m.tar.gz", pack_tar_gz)])
def test_an_archive_is_downloaded_and_unpacked(
    server: FileServer, store: ArtifactStore, tmp_path: Path, name: str, pack: Callable[[], bytes]
) -> None:
    server.say(f"/{name}", pack())
    artifact = store.add_url(f"{server.url}/{name}", allow=[server.host])
    (tmp_path / name).write_bytes(pack())
    assert artifact.kind == "folder"
    assert artifact == store.add_path(tmp_path / name)
    assert list((store.root / ".staging").iterdir()) == []


def test_a_model_without_its_data_is_refused(
    server: FileServer, store: ArtifactStore, tmp_path: Path
) -> None:
    server.say("/model.onnx", split_model(tmp_path / "model.onnx", "model.data").read_bytes())
    with pytest.raises(ArtifactError, match=r"keeps data in model\.data, which did not come along") as caught:
        store.add_url(f"{server.url}/model.onnx", allow=[server.host])
    assert ".tar.gz" in (caught.value.hint or "")
    assert store.digests() == []


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
    server: FileServer, target: str, headers: dict[str, str], name: str
) -> None:
    server.say(target, b"x", **headers)
    with open_url(server.url + target, allow=[server.host]) as download:
        assert download is not None and download.name == name


def test_a_body_of_unknown_length_is_read_to_its_end(server: FileServer, store: ArtifactStore) -> None:
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY, b"end")) + b"0\r\n\r\n"
    server.send("/chunked.onnx", reply(chunked, headers={"transfer-encoding": "chunked"}))
    server.send("/close.onnx", reply(BODY))
    assert store.add_url(f"{server.url}/chunked.onnx", allow=[server.host]).size_bytes == len(BODY) + 3
    assert store.add_url(f"{server.url}/close.onnx", allow=[server.host]).size_bytes == len(BODY)


def test_content_that_the_server_packed_is_refused_unless_it_names_an_archive(server: FileServer) -> None:
    packed = gzip.compress(BODY)
    server.say("/model.onnx", packed, content_encoding="gzip")
    server.say("/model.tar.gz", packed, content_encoding="x-gzip")
    assert "gzip-encoded" in refusal(f"{server.url}/model.onnx").message
    assert read(f"{server.url}/model.tar.gz") == packed


# Limits


def test_too_large_a_download_is_refused_before_it_begins(server: FileServer, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts", limits=Limits(max_bytes=1000))
    server.send("/m.onnx", reply(b"", headers={"content-length": "1001"}))
    with pytest.raises(TooLarge) as caught:
        store.add_url(f"{server.url}/m.onnx", allow=[server.host])
    assert caught.value.status == 413
    assert store.digests() == []


def test_too_large_a_download_that_does_not_say_so_is_broken_off(server: FileServer, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts", limits=Limits(max_bytes=100_000))

    def pour(_: Request, send: Callable[[bytes], None]) -> None:
        send(reply(b""))
        while True:  # until the other side closes
            send(BODY)

    server.pages["/m.onnx"] = pour
    with pytest.raises(TooLarge):
        store.add_url(f"{server.url}/m.onnx", allow=[server.host])
    assert store.digests() == []
    assert list((store.root / ".staging").iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing(server: FileServer, store: ArtifactStore) -> None:
    server.send("/m.onnx", reply(BODY[:-1], headers={"content-length": str(len(BODY))}))
    with pytest.raises(ArtifactError, match="could not be downloaded"):
        store.add_url(f"{server.url}/m.onnx", allow=[server.host])
    assert store.digests() == []
    assert list((store.root / ".staging").iterdir()) == []


def test_a_server_that_falls_silent_is_given_up(server: FileServer) -> None:
    done = threading.Event()
    silent = Network(waits=Waits(read_s=0.05))
    server.pages["/nothing"] = lambda _, send: _wait(done)
    server.pages["/half"] = lambda _, send: (send(reply(b"x", headers={"content-length": "9"})), _wait(done))[
        1
    ]
    try:
        for target in ("/nothing", "/half"):
            assert "no answer in time" in refusal(server.url + target, network=silent).message
            done.set()
            done.clear()
    finally:
        done.set()


def test_a_server_that_drips_is_given_up(server: FileServer) -> None:
    ticks = iter(range(0, 10_000, 100))
    server.say("/m.onnx", BODY)
    network = Network(waits=Waits(total_s=150), clock=lambda: float(next(ticks)))
    assert "too slowly" in refusal(f"{server.url}/m.onnx", network=network).message


def _wait(done: threading.Event) -> None:
    done.wait(20.0)


# Replies that are no content


@pytest.mark.parametrize(
    "status", ["404 Not Found", "500 Internal Server Error", "204 No Content", "206 Partial"]
)
def test_any_status_but_200_is_refused(server: FileServer, status: str) -> None:
    server.say("/m.onnx?sig=secret", status=status)
    error = refusal(f"{server.url}/m.onnx?sig=secret")
    assert f"{server.url}/m.onnx answered {status[:3]}" in error.message
    assert "secret" not in error.message


def test_a_url_that_needs_credentials_says_what_to_do(server: FileServer) -> None:
    for status in ("401 Unauthorized", "403 Forbidden"):
        server.say("/m.onnx", status=status)
        assert "signed URL" in (refusal(f"{server.url}/m.onnx").hint or "")


def test_what_is_not_http_is_refused(server: FileServer) -> None:
    server.send("/m.onnx", b"SSH-2.0-OpenSSH_9.6\r\n")
    assert "could not be downloaded" in refusal(f"{server.url}/m.onnx").message


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


# Redirects


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
def test_redirects_are_followed(server: FileServer, status: str) -> None:
    server.say("/start", status=status, location="/a/../next?x=1")
    server.say("/next?x=1", status=status, location=f"{server.url}/end")
    server.say("/end", BODY)
    assert read(f"{server.url}/start") == BODY


def test_redirects_end_somewhere(server: FileServer) -> None:
    server.say("/loop", status="302 Found", location="/loop")
    server.say("/blank", status="302 Found")
    server.say("/ftp", status="302 Found", location="ftp://host/x")
    server.say("/odd", status="302 Found", location="http://[::1")
    assert "redirects more than" in refusal(f"{server.url}/loop").message
    assert len(server.requests) == fetch.MAX_HOPS
    assert "redirects to nowhere" in refusal(f"{server.url}/blank").message
    assert "expected http" in refusal(f"{server.url}/ftp").message
    refusal(f"{server.url}/odd")


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "192.0.0.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1",
        "255.255.255.255", "168.63.129.16", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "::127.0.0.1", "::a9fe:a9fe", "::ffff:0:7f00:1", "::ffff:0:10.0.0.1",
        "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1", "2001:0:7f00:1::",
    ],
)  # fmt: skip
def test_an_internal_address_is_known(address: str) -> None:
    assert is_internal(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "93.184.216.34",
        "2606:2800:220:1::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "::ffff:0:808:808",
    ],
)
def test_a_public_address_is_known(address: str) -> None:
    assert not is_internal(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:7f00:1]"]
)
def test_this_machine_is_refused_however_it_is_spelled(server: FileServer, host: str) -> None:
    error = refusal(f"http://{host}:{server.port}/m.onnx", allow=())
    assert "internal address" in error.message
    assert f"mdslite up --allow-internal {host}:{server.port}" in (error.hint or "")
    assert server.connections == 0


@pytest.mark.parametrize("addresses", ["10.1.2.3", "93.184.216.34 10.1.2.3"])
def test_a_name_is_judged_by_all_its_addresses(addresses: str) -> None:
    error = refusal("http://models.test/m.onnx", allow=(), network=resolving(models_test=addresses))
    assert "models.test:80 at the internal address 10.1.2.3" in error.message


def test_a_redirect_to_an_internal_address_is_refused(server: FileServer) -> None:
    with serving_files() as internal:
        internal.say("/secret", b"secret")
        server.say("/m.onnx", status="302 Found", location=f"{internal.url}/secret")
        error = refusal(f"{server.url}/m.onnx", allow=[server.host])
        assert f"--allow-internal {internal.host}" in (error.hint or "")
        assert internal.connections == 0
        assert read(f"{server.url}/m.onnx", allow=[server.host, internal.host]) == b"secret"


def test_what_was_checked_is_what_is_connected_to(server: FileServer) -> None:
    """A name that answers with another address the second time is never asked a second time."""
    server.say("/m.onnx", BODY)
    answers = iter([["127.0.0.1"], ["203.0.113.1"]])
    network = Network(resolve=lambda host, port: next(answers))
    url = f"http://rebinding.test:{server.port}/m.onnx"
    assert read(url, allow=["rebinding.test"], network=network) == BODY
    assert server.requests[0].headers["host"] == f"rebinding.test:{server.port}"
    assert next(answers) == ["203.0.113.1"]


def test_every_hop_is_checked_anew(server: FileServer) -> None:
    server.say("/m.onnx", status="302 Found", location="/again")
    server.say("/again", BODY)
    answers = iter([["127.0.0.1"], ["10.9.9.9"]])
    network = Network(resolve=lambda host, port: next(answers))
    allow = [f"first.test:{server.port}"]
    server.say("/m.onnx", status="302 Found", location=f"http://second.test:{server.port}/again")
    error = refusal(f"http://first.test:{server.port}/m.onnx", allow=allow, network=network)
    assert "10.9.9.9" in error.message


def test_the_next_address_is_tried_when_one_does_not_answer(server: FileServer) -> None:
    server.say("/m.onnx", BODY)
    network = resolving(models_test="127.0.0.2 127.0.0.1")
    assert read(f"http://models.test:{server.port}/m.onnx", allow=["models.test"], network=network) == BODY


def test_a_proxy_from_the_environment_is_not_used(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.say("/m.onnx", BODY)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert read(f"{server.url}/m.onnx") == BODY


def test_the_allow_list_is_read() -> None:
    allowed = AllowList.parse(["Models.LAN", "10.0.0.7:8080", "[::1]:9000", "[fe80::1]", "nas.lan.:1"])
    assert allowed.covers("models.lan", 1) and allowed.covers("MODELS.lan.", 443)
    assert allowed.covers("10.0.0.7", 8080) and not allowed.covers("10.0.0.7", 80)
    assert allowed.covers("::1", 9000) and not allowed.covers("::1", 80)
    assert allowed.covers("fe80::1", 80) and allowed.covers("nas.lan", 1)
    assert not allowed.covers("evil-models.lan", 1)
    for text in (
        "",
        "http://models.lan",
        "a b",
        "models.lan:",
        "models.lan:0",
        "models.lan:70000",
        "::1",
        "a@b",
    ):
        with pytest.raises(InvalidRequest, match="expected HOST or HOST:PORT"):
            AllowList.parse([text])


def test_addresses_are_compared_by_value() -> None:
    for text in ("::ffff:192.168.0.1", "192.168.0.1"):
        assert ipaddress.ip_address(text) and is_internal(text)


# TLS


@pytest.fixture
def tls_server() -> Iterator[FileServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "localhost.pem", TLS / "localhost.key")
    with serving_files(tls=context) as server:
        server.say("/m.onnx", BODY)
        yield server


def test_the_certificate_is_checked_against_the_name_and_not_the_address(tls_server: FileServer) -> None:
    trust = ssl.create_default_context(cafile=TLS / "localhost.pem")
    local = Network(tls=trust, resolve=lambda host, port: ["127.0.0.1"])
    port = tls_server.port
    assert read(f"https://localhost:{port}/m.onnx", allow=["localhost"], network=local) == BODY
    error = refusal(f"https://other.test:{port}/m.onnx", allow=["other.test"], network=local)
    assert "certificate" in error.message.lower()


def test_an_untrusted_certificate_is_refused(tls_server: FileServer) -> None:
    error = refusal(f"https://localhost:{tls_server.port}/m.onnx", allow=["localhost"])
    assert "certificate" in error.message.lower()


def test_a_redirect_away_from_https_is_refused(tls_server: FileServer, server: FileServer) -> None:
    trust = ssl.create_default_context(cafile=TLS / "localhost.pem")
    tls_server.say("/away", status="302 Found", location=f"{server.url}/m.onnx")
    network = Network(tls=trust)
    error = refusal(
        f"https://localhost:{tls_server.port}/away", allow=["localhost", "127.0.0.1"], network=network
    )
    assert "from https to http" in error.message
    assert server.connections == 0


# Asking whether it changed


def conditional(content: bytes, tag: str) -> Callable[[Request, Callable[[bytes], None]], None]:
    def handle(request: Request, send: Callable[[bytes], None]) -> None:
        if request.headers.get("if-none-match") == tag:
            send(reply(b"", status="304 Not Modified"))
        else:
            send(reply(content, headers={"content-length": str(len(content)), "etag": tag}))

    return handle


def test_an_unchanged_file_is_not_downloaded_again(server: FileServer, store: ArtifactStore) -> None:
    url = f"{server.url}/m.onnx"
    server.pages["/m.onnx"] = conditional(BODY, '"1"')
    first = store.add_url(url, allow=[server.host])
    assert store.add_url(url, allow=[server.host]) == first
    assert [request.headers.get("if-none-match") for request in server.requests] == [None, '"1"']
    server.pages["/m.onnx"] = conditional(BODY + b"!", '"2"')
    changed = store.add_url(url, allow=[server.host])
    assert changed.digest != first.digest


def test_a_file_that_is_gone_or_damaged_here_is_downloaded_again(
    server: FileServer, store: ArtifactStore
) -> None:
    url = f"{server.url}/m.onnx"
    server.pages["/m.onnx"] = conditional(BODY, '"1"')
    first = store.add_url(url, allow=[server.host])
    first.path.chmod(0o644)
    first.path.write_bytes(b"damaged")
    assert store.open(store.add_url(url, allow=[server.host]).digest).read_bytes() == BODY
    store.remove_unreferenced(())
    assert store.add_url(url, allow=[server.host]) == first


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
    server: FileServer, store: ArtifactStore, headers: dict[str, str], asked: dict[str, str]
) -> None:
    server.say("/m.onnx", BODY, **headers)
    for _ in range(2):
        store.add_url(f"{server.url}/m.onnx", allow=[server.host])
    sent = server.requests[1].headers
    assert {name: sent[name] for name in ("if-none-match", "if-modified-since") if name in sent} == asked


def test_a_304_that_nobody_asked_for_is_refused(server: FileServer) -> None:
    server.say("/m.onnx", status="304 Not Modified")
    assert "answered 304" in refusal(f"{server.url}/m.onnx").message


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
