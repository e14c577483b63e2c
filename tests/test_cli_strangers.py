"""Commands that ask an appliance, sent to a port on which another kind of server answers."""

from __future__ import annotations

import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mdslite.cli import run
from mdslite.client import Client
from mdslite.errors import DeadlineExceeded

Captured = pytest.CaptureFixture[str]

COMMANDS = [
    "ls", "ls demo", "show demo/digits", "show demo/digits@v1", "show demo/digits --at 2026-11-17",
    "predict demo/digits -d 1", "logs", "logs -f", "logs --histogram", "logs --top status",
    "logs --percentiles", "logs --export x.csv", "history", "history 1", "undo --yes", "load demo/digits",
    "unload demo/digits", "compare demo/digits v1 v2", "label demo/digits",
    "label demo/digits --export x.jsonl", "replay version=v1 --to demo/digits@v2", "replay --list",
    "rollout demo/digits", "drift demo/digits", "alerts", "token list", "token create x --scope read",
    "token revoke x", "audit", "backup", "dash --once", "dash --json", "apply -f deployments.yaml --yes",
]  # fmt: skip
FILE = "deployments: [{project: p, model: m, versions: [{version: v1, spec: {uri: m.onnx}}]}]"


class _Folder(SimpleHTTPRequestHandler):
    """What `python -m http.server` runs."""

    def log_message(self, *args: object) -> None:
        pass


class _Other(BaseHTTPRequestHandler):
    """A service of another kind, which answers everything with the same; of itself it says too much."""

    server_version, sys_version = "a \x1b[31mlong" + "x" * 200, ""
    status, kind, body = 200, "application/json", b"[]"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(self.status)
        self.send_header("content-type", self.kind)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_PUT = do_DELETE = do_GET


class _Words(_Other):
    kind, body = "text/plain", b"hello"


class _Lost(_Other):
    status, body = 404, b'{"error": "nothing here", "code": "not_found"}'


class _Server(ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        """Whoever leaves before the answer is whole is nothing to print a traceback about."""


@contextmanager
def web(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def raw(said: bytes) -> Iterator[str]:
    """Sends the same to everybody as soon as something came, and hangs up."""

    def serve(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                if not connection.recv(65536):
                    return
                connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        place = listener.getsockname()
        try:
            yield f"http://127.0.0.1:{place[1]}"
        finally:
            socket.create_connection(place).close()
            thread.join(10)


@pytest.fixture(scope="module", params=[_Folder, _Other, _Words, _Lost, b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    opened = raw(request.param) if isinstance(request.param, bytes) else web(request.param)
    with opened as url:
        yield url


@pytest.mark.parametrize("line", COMMANDS)
def test_a_stranger_on_the_port_is_told_in_one_line_with_the_way_on(
    stranger: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "deployments.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MDSLITE_URL", stranger)
    assert run(shlex.split(line)) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert stranger in error
    assert len(error) < 300
    assert "MDSLITE_URL or --url says where the appliance is; mdslite up --port 0 starts one" in hint
    assert [one.name for one in tmp_path.iterdir()] == ["deployments.yaml"]


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (_Folder, "HTTP 404, text/html;charset=utf-8, server SimpleHTTP/"),
        (_Words, "HTTP 200, text/plain, server a \\x1b[31mlongxxx"),
    ],
)
def test_who_answered_is_named_as_far_as_it_says(
    handler: type[BaseHTTPRequestHandler], told: str, capsys: Captured
) -> None:
    with web(handler) as url:
        assert run(["ls", "--url", url]) == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert error.startswith(f"error: what answers at {url} is no mdslite appliance: {told}")


def test_one_that_never_answers_is_told_when_the_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, timeout_s=0.05) as client, pytest.raises(DeadlineExceeded, match=url) as caught:
            client.models()
    assert (caught.value.hint or "").startswith("is that an appliance? MDSLITE_URL or --url says where")


def test_one_that_speaks_no_tls_is_told_apart_from_none(capsys: Captured) -> None:
    with web(_Folder) as url:
        assert run(["ls", "--url", url.replace("http:", "https:")]) == 1
        error, hint = capsys.readouterr().err.splitlines()
        assert error.endswith("speaks no TLS")
        assert hint == f"hint: without TLS it is {url}"


def test_doctor_says_who_answered_and_looks_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    with web(_Other) as url:
        run(["doctor", "--url", url])
    out = capsys.readouterr().out
    assert f"what answers at {url} is no mdslite appliance" in out
    assert "✓" in out
