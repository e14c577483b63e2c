"""The client against a real server: what it asks for, and every way in which an answer can fail."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from api_server import APPLIED, STEPS, ApiServer

from mdslite import errors, links, replies
from mdslite.client import Client
from mdslite.replies import error_from


@pytest.fixture
def client(api: ApiServer) -> Iterator[Client]:
    with Client(api.url, token="secret") as opened:
        yield opened


def raw_server(reply: bytes) -> tuple[str, threading.Thread]:
    """A server that answers one connection with `reply` and closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(reply)

    thread = threading.Thread(target=answer)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


def test_models_are_listed_for_all_projects_or_one(client: Client, api: ApiServer) -> None:
    assert [model["model"] for model in client.models()] == ["digits", "spamfilter"]
    assert [model["model"] for model in client.models("mail")] == ["spamfilter"]
    assert api.last[:2] == ("GET", "/api/v1/models?project=mail")


def test_the_token_is_shown_as_a_bearer(client: Client, api: ApiServer) -> None:
    client.status()
    assert api.requests[-1][3]["authorization"] == "Bearer secret"


def test_a_model_can_be_asked_for_at_a_moment(client: Client, api: ApiServer) -> None:
    client.model("demo", "digits", at=1_700_000_000.5)
    assert api.last[1] == "/api/v1/projects/demo/models/digits?at=2023-11-14T22%3A13%3A20.500000%2B00%3A00"


def test_an_apply_yields_its_events_and_ends_with_the_result(client: Client, api: ApiServer) -> None:
    assert list(client.apply({"source": "", "prune": False})) == [*STEPS, APPLIED]
    assert api.requests[-1][3]["accept"] == "application/x-ndjson"


def test_an_apply_that_is_refused_raises_before_any_event(client: Client, api: ApiServer) -> None:
    api.error = (409, {"error": "revision 3 came in between", "code": "conflict", "request_id": "r"})
    with pytest.raises(errors.Conflict, match="revision 3"):
        next(client.apply({}))


def test_a_prediction_carries_its_headers(client: Client, api: ApiServer) -> None:
    found = client.predict("demo", "digits", b'{"instances":[[1,2,3,4]]}', version="v2")
    assert (found.body, found.version, found.request_id) == (api.prediction, "v2", "r-1")
    assert api.requests[-1][1:3] == (
        "/projects/demo/models/digits/versions/v2:predict",
        b'{"instances":[[1,2,3,4]]}',
    )


KINDS = sorted(replies._codes().values(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_of_the_error_tree_comes_back_as_its_class(kind: type[errors.MdsliteError]) -> None:
    found = error_from({"error": "what was wrong", "code": kind.code, "hint": "what to do"})
    assert type(found) is kind
    assert found.hint == "what to do"


def test_an_unknown_code_still_carries_its_message() -> None:
    found = error_from({"error": "from a newer appliance", "code": "brand_new"})
    assert type(found) is errors.MdsliteError
    assert found.message == "from a newer appliance"


def test_a_mistake_in_a_file_keeps_its_place_and_says_it_once() -> None:
    sent = errors.SpecError(
        "weight: expected a number", file="d.yaml", line=8, column=13, excerpt="weight: ten"
    )
    found = error_from({"error": sent.message, "code": sent.code, **sent.details()})
    assert isinstance(found, errors.SpecError)
    assert (found.message, found.line, found.column, found.excerpt) == (sent.message, 8, 13, "weight: ten")


def test_a_mistake_of_the_whole_file_keeps_its_name() -> None:
    sent = errors.SpecError("the file is empty", file="d.yaml")
    assert error_from({"error": sent.message, "code": sent.code, **sent.details()}).message == sent.message


def test_a_busy_model_says_when_to_come_back(client: Client, api: ApiServer) -> None:
    api.error = (429, {"error": "the queue is full", "code": "queue_full", "request_id": "r"})
    with pytest.raises(errors.Overloaded):
        client.predict("demo", "digits", b"{}")


def test_nobody_listening_is_told_how_to_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(errors.Unavailable) as caught:
        client.status()
    assert caught.value.hint == f"start it with: mdslite up --port {port}"


def test_the_default_address_needs_no_port_in_the_hint() -> None:
    assert links._start_hint("http://127.0.0.1:8500") == "start it with: mdslite up"
    assert "MDSLITE_URL" in links._start_hint("http://edge-07:8500")
    for url in ("unix:/srv/my store", "unix:/srv/my store/admin.sock"):
        assert links._start_hint(url) == "start it as the same user: mdslite up --store '/srv/my store'"


@pytest.mark.parametrize("url", ["localhost:8500", "ftp://box", "http://", "http://[::1", "8500", ""])
def test_what_is_no_url_is_refused_with_the_form_it_takes(url: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("token", ["two words", "wörd", "line\n"])
def test_what_is_no_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="the token holds a blank") as caught:
        Client("http://127.0.0.1:8500", token=token)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b'HTTP/1.1 500 Oops\r\ncontent-length: 10\r\n\r\n{"other":1',
        b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_another_kind_of_server_is_recognised(reply: bytes) -> None:
    url, thread = raw_server(reply)
    with (
        Client(url) as client,
        pytest.raises(errors.Unavailable, match=f"what answers at {url} is no mdslite"),
    ):
        client.status()
    thread.join(5)


def test_an_appliance_that_answers_as_none_of_this_version_does_is_told_apart() -> None:
    url, thread = raw_server(b"HTTP/1.1 200 OK\r\nmdslite-request-id: r\r\ncontent-length: 2\r\n\r\n[]")
    with Client(url) as client, pytest.raises(errors.Unavailable, match="does not answer like an") as caught:
        client.status()
    assert caught.value.hint == "is it of the version of this client? mdslite --version"
    thread.join(5)


@pytest.mark.parametrize(
    "reply", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]
)
def test_a_connection_that_breaks_off_is_an_error_in_words(reply: bytes) -> None:
    url, thread = raw_server(reply)
    with Client(url) as client, pytest.raises(errors.Unavailable, match=url):
        client.status()
    thread.join(5)


@pytest.mark.parametrize("line", [b"not json\n", b"[1]\n"])
def test_a_stream_of_something_else_is_an_error_in_words(line: bytes) -> None:
    url, thread = raw_server(b"HTTP/1.1 200 OK\r\nmdslite-request-id: r\r\nconnection: close\r\n\r\n" + line)
    with Client(url) as client, pytest.raises(errors.Unavailable, match="no JSON"):
        next(client.apply({}))
    thread.join(5)


def test_a_refused_token_is_told_where_it_belongs(client: Client, api: ApiServer) -> None:
    api.error = (401, {"error": "a token is needed", "code": "unauthorized", "request_id": "r"})
    with pytest.raises(errors.MdsliteError) as caught:
        client.status()
    assert caught.value.hint is not None and caught.value.hint.startswith("export MDSLITE_TOKEN=TOKEN")


def test_no_failure_of_the_http_library_is_left_untranslated() -> None:
    kinds = [kind for kind in vars(httpx2).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    raised = [kind for kind in kinds if issubclass(kind, httpx2.RequestError)]
    assert len(raised) > 10
    for kind in raised:
        found = links.network_error(kind("it broke"), "http://127.0.0.1:8500")
        assert isinstance(found, (errors.Unavailable, errors.DeadlineExceeded))
        assert found.message


def test_a_certificate_nobody_vouches_for_names_the_way_to_trust_it() -> None:
    failure = httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    assert "SSL_CERT_FILE" in (links.network_error(failure, "https://127.0.0.1:8500").hint or "")


def test_the_loopback_is_never_asked_through_a_proxy(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Client(api.url) as client:
        assert client.status() == api.status


def test_a_file_without_certificates_is_an_error_in_words(tmp_path: Path) -> None:
    for name, content in (("nowhere.pem", None), ("empty.pem", "nothing")):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(errors.InvalidRequest, match="no certificates"):
            Client("https://127.0.0.1:1", ca_file=str(tmp_path / name))
