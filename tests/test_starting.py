"""What an appliance answers from when its port does until all is loaded that it is to serve."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import live
import pytest
from h1_client import Reply, predict, request, speak
from packages import class_text, write_package
from waiting import hold_on

from mdslite.hosts import SOCKET_NAME

grpcclient = pytest.importorskip("tritonclient.grpc")
from tritonclient.utils import InferenceServerException  # noqa: E402

MODEL = "/api/v1/projects/p/models/slow"
KNOWN_LATER = (
    MODEL,
    f"{MODEL}/versions/v1",
    f"{MODEL}/versions/v1/output",
    f"{MODEL}/weights",
    f"{MODEL}/labeling",
    f"{MODEL}/comparison?first=v1&second=v2",
)
URLS = (
    "/projects/p/models/slow:predict",
    "/projects/p/models/slow/versions/v1:predict",
    "/projects/p/models/none:predict",
    "/v2/models/p.slow/infer",
    "/v2/models/p.slow/versions/v1/infer",
)
# As many bytes as it is built have to be written into the pipe.
WAITING = """
    def __init__(self):
        import os
        pipe = os.open({pipe!r}, os.O_RDONLY)
        os.read(pipe, 1)
        os.close(pipe)

    @mds.predict
    def answer(self, data):
        return data
"""
FILE = """
deployments:
- project: p
  model: slow
  versions:
  - {version: v1, spec: {uri: ./slow}}
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_who_comes_before_all_is_loaded_is_told_so_until_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    methods = WAITING.format(pipe=str(pipe))
    write_package(tmp_path / "slow", {"model.py": class_text(methods, name="Slow")})
    (tmp_path / "deployments.yaml").write_text(FILE)
    port = free_port()

    def ask(data: bytes) -> Reply:
        return asyncio.run(speak(tmp_path / ".mdslite" / SOCKET_NAME, data))

    def ask_all() -> list[tuple[int, Any, Any]]:
        replies = [ask(predict(["x"], target=target)) for target in URLS]
        return [
            (one.status, one.status >= 400 and one.code, one.headers.get("retry-after")) for one in replies
        ]

    opened = os.open(pipe, os.O_RDWR)
    try:
        with (
            live.begin("deployments.yaml", "--grpc-port", str(port), cwd=tmp_path) as process,
            grpcclient.InferenceServerClient(f"127.0.0.1:{port}") as client,
        ):
            hold_on((tmp_path / ".mdslite" / SOCKET_NAME).exists)
            assert ask_all() == [(503, "still_loading", "1")] * len(URLS)
            for target in ("/readyz", "/readyz?model=p/slow", "/v2/models/p.slow/ready"):
                reply = ask(request(target=target))
                assert (reply.status, reply.json["ready"]) == (503, False)
            for target in ("/v2/models/p.slow", "/v2/models/p.slow/config", "/v2/models/p.slow/stats"):
                assert ask(request(target=target)).code == "still_loading"
            for target in KNOWN_LATER:
                said = ask(request(target=target))
                found = said.status, said.code, said.headers.get("retry-after")
                assert found == (503, "still_loading", "1"), said.body
            accepted = predict(["x"], target=URLS[0], headers=[("Prefer", "respond-async")])
            assert ask(accepted).code == "still_loading"
            hold_on(lambda: _reaches(port))
            with pytest.raises(InferenceServerException, match="still loading") as caught:
                client.infer("p.slow", [])
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
            assert not client.is_model_ready("p.slow")

            os.write(opened, b"x" * 16)
            live.served(process)
            told = ask_all()
            assert told[:3] == [(200, False, None)] * 2 + [(404, "not_found", None)]
            assert ask(request(target="/readyz?model=p/none")).status == 404
            assert [ask(request(target=one)).status for one in KNOWN_LATER] == [200] * 5 + [404]
            assert ask(request(target="/api/v1/projects/p/models/none")).code == "not_found"
            assert client.is_model_ready("p.slow")
    finally:
        os.close(opened)


def _reaches(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0
