"""A small HTTP server on a real socket that says exactly what a test tells it to, byte for byte."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

WAIT_S = 20.0


@dataclass
class Request:
    target: str
    headers: dict[str, str]


# Gets a request and a function that sends bytes; the connection closes when it returns.
Handler = Callable[[Request, Callable[[bytes], None]], None]


@dataclass
class FileServer:
    """Pages by target; `requests` records every question, `connections` every socket."""

    port: int = 0
    pages: dict[str, Handler] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def say(self, target: str, body: bytes = b"", *, status: str = "200 OK", **headers: str) -> None:
        """Answer `target` with a reply of the right length."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[target] = lambda _, send: send(
            reply(body, status=status, headers={"content-length": str(len(body)), **named})
        )

    def send(self, target: str, *parts: bytes) -> None:
        """Answer `target` with these bytes and close."""

        def handle(_: Request, send: Callable[[bytes], None]) -> None:
            for part in parts:
                send(part)

        self.pages[target] = handle


class SlowFile:
    """A file whose second half comes when it is let go."""

    def __init__(self, content: bytes) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.content = content

    def __call__(self, request: Request, send: Callable[[bytes], None]) -> None:
        half = len(self.content) // 2
        send(reply(self.content[:half], headers={"content-length": str(len(self.content))}))
        self.asked.set()
        assert self.go_on.wait(WAIT_S)
        send(self.content[half:])


def reply(body: bytes, *, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def serving_files(*, tls: ssl.SSLContext | None = None) -> Iterator[FileServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = FileServer(listener.getsockname()[1])
        thread = threading.Thread(target=_accept, args=(listener, server, tls))
        thread.start()
        try:
            yield server
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT_S)


def _accept(listener: socket.socket, server: FileServer, tls: ssl.SSLContext | None) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        server.connections += 1
        with suppress(OSError), connection:
            connection.settimeout(WAIT_S)
            with tls.wrap_socket(connection, server_side=True) if tls else connection as stream:
                _answer(stream, server)


def _answer(stream: socket.socket, server: FileServer) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = stream.recv(65536)
        if not chunk:
            return
        head += chunk
    first, *rest = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    request = Request(first.split(" ")[1], headers)
    server.requests.append(request)
    handler = server.pages.get(request.target)
    if handler is None:
        stream.sendall(reply(b"", status="404 Not Found", headers={"content-length": "0"}))
    else:
        handler(request, stream.sendall)
