"""A small server that speaks the admin API on a real socket: canned answers, and a record of questions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [None, 4], "optional": False}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [None, 3], "optional": False}],
    "rows": "free",
}
NAMED = {
    "inputs": [
        {"name": "age", "datatype": "INT64", "shape": [None]},
        {"name": "text", "datatype": "BYTES", "shape": [None, 1]},
        {"name": "bias", "datatype": "FP32", "shape": [None], "optional": True},
    ],
    "outputs": [],
    "rows": "free",
}
BACKUP = {
    "path": "/srv/backup.tar",
    "store": "/srv/the store",
    "size_bytes": 2_500_000,
    "parts": {"registry": 80_000, "artifacts": 2_400_000},
}


def _wanted(weight: float, size_bytes: int) -> dict[str, Any]:
    spec = {"uri": "/srv/model.onnx", "service_info": {"weight": weight}}
    return {
        "spec": spec,
        "digest": "sha256:" + "ab" * 32,
        "size_bytes": size_bytes,
        "memory_bytes": 3_000_000,
    }


PLAN: dict[str, Any] = {
    "base_revision": 1,
    "changed": True,
    "models": [
        {
            "project": "demo",
            "model": "digits",
            "steps": [
                {
                    "action": "ADD", "version": "v2", "before": None, "after": _wanted(20, 1_234_567),
                    "changes": [], "reload": True,
                },
                {
                    "action": "UPDATE", "version": "v1",
                    "before": _wanted(100, 5000), "after": _wanted(80, 5000),
                    "changes": [{"field": "service_info.weight", "before": 100, "after": 80}],
                    "reload": False,
                },
            ],
        }
    ],
}  # fmt: skip
STEPS = [
    {"event": "step", "index": 1, "count": 2, "project": "demo", "model": "digits", "version": "v2",
     "action": "ADD", "state": "START", "error": None},
    {"event": "step", "index": 1, "count": 2, "project": "demo", "model": "digits", "version": "v2",
     "action": "ADD", "state": "DONE", "error": None},
    {"event": "step", "index": 2, "count": 2, "project": "demo", "model": "digits", "version": "v1",
     "action": "UPDATE", "state": "START", "error": None},
    {"event": "step", "index": 2, "count": 2, "project": "demo", "model": "digits", "version": "v1",
     "action": "UPDATE", "state": "DONE", "error": None},
]  # fmt: skip
APPLIED = {"event": "result", "revision": 2, "state": "applied", "seconds": 0.42}


def version(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "version": name, "state": "ready", "reason": None, "weight": 100.0, "share": 1.0, "shadow": False,
        "replicas": 1, "uri": "/srv/model.onnx", "runtime": "ONNXRUNTIME", "device": "cpu",
        "provider": "CPUExecutionProvider",
        "digest": "sha256:" + "ab" * 32, "size_bytes": 1_234_567, "memory_bytes": 3_000_000,
        "batch": {"batch_size": 32, "batch_timeout_ms": 2, "prediction_time_ms": 30000},
        "signature": SIGNATURE, "queue_rows": 0, "window_s": 59.5, "requests": 744, "rps": 12.5,
        "p50_ms": 1.25, "p99_ms": 4.0, "errors": 4, "refused": 0, "error_rate": 0.005, "requests_total": 750,
        **fields,
    }  # fmt: skip


class ApiServer:
    """What the tests set, and what they look at afterwards."""

    def __init__(self) -> None:
        self.url = ""
        self.models: list[dict[str, Any]] = [
            {
                "project": "demo",
                "model": "digits",
                "versions": [
                    version("v1", weight=80.0, share=0.8),
                    version("v2", weight=20.0, share=0.2, p50_ms=None, p99_ms=None),
                    version("v3", weight=0.0, share=0.0, shadow=True),
                ],
            },
            {
                "project": "mail",
                "model": "spamfilter",
                "versions": [version("v1", state="failed", reason="bad \x1b[31mgraph [/bold]", rps=None)],
            },
        ]
        self.plan: dict[str, Any] = PLAN
        self.events: list[dict[str, Any]] = [*STEPS, APPLIED]
        self.status: dict[str, Any] = {"version": "0", "ready": True, "draining": False, "keeps_log": True}
        self.hangs = False  # after the events, an apply neither ends nor goes on
        self.revisions: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []  # of the request log, newest first
        self.coming: list[dict[str, Any]] = []  # and those that follow
        self.figures: dict[str, Any] = {}  # by path: what the log's figures are answered with
        self.export_headers = {"mdslite-rows": "2"}
        self.skipped: list[str] = []  # names of the log's files that could not be read
        self.exported = b"id,time\r\n1,x\r\n2,y\r\n"
        self.findings: list[dict[str, Any]] = []
        self.prediction = b'{"predictions":[[0.5,0.25,0.25]]}'
        self.prediction_type = "application/json"
        self.planning: list[dict[str, Any]] = []  # what is told before the plan
        self.plan_failure: dict[str, Any] | None = None  # the last line where there is no plan
        self.error: tuple[int, dict[str, Any]] | None = None  # the answer to everything, when set
        self.requests: list[tuple[str, str, bytes, dict[str, str]]] = []

    @property
    def last(self) -> tuple[str, str, Any]:
        """The last request: method, path with query, and JSON body."""
        method, target, body, _ = self.requests[-1]
        return method, target, json.loads(body) if body else None

    async def reply(self, request: Request) -> Response:
        found = await self.answer(request)
        found.headers["mdslite-request-id"] = "r-1"
        return found

    async def answer(self, request: Request) -> Response:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.requests.append((request.method, target, await request.body(), dict(request.headers)))
        if self.error is not None:
            return JSONResponse(self.error[1], self.error[0])
        path = request.url.path.removeprefix("/api/v1")
        if path.endswith(":predict"):
            headers = {
                "mdslite-version": "v2", "server-timing": "total;dur=1.5",
                "content-type": self.prediction_type,
            }  # fmt: skip
            return Response(self.prediction, headers=headers)
        if path == "/plan" and "ndjson" in request.headers["accept"]:
            lines = [*self.planning, self.plan_failure or {"event": "plan", **self.plan}]
            return StreamingResponse(_lines(lines), media_type="application/x-ndjson")
        if path == "/apply":
            return StreamingResponse(_lines(self.events, hangs=self.hangs), media_type="application/x-ndjson")
        if path == "/logs" and "follow" in request.query_params:
            return StreamingResponse(_lines(self.coming), media_type="application/x-ndjson")
        return self._read(path, request)

    def _read(self, path: str, request: Request) -> Response:
        query = request.query_params
        if path == "/models":
            wanted = query.get("project")
            return JSONResponse([one for one in self.models if wanted in (None, one["project"])])
        if path.startswith("/projects/"):
            return self._read_model(path.split("/")[2::2])
        if path in self.figures:
            return JSONResponse(self.figures[path])
        if path == "/logs/export":
            return Response(self.exported, headers=self.export_headers, media_type="text/csv")
        if path == "/logs":
            start, limit = int(query.get("before", 0)), int(query["limit"])
            page = self.rows[start : start + min(limit, 2)]  # pages of two, whatever was asked for
            more = start + len(page) < len(self.rows)
            cursor = str(start + len(page)) if more else None
            return JSONResponse({"rows": page, "next": cursor, "skipped": self.skipped})
        if path == "/revisions":
            before = int(query.get("before", 1 << 30))
            return JSONResponse([one for one in self.revisions if one["id"] < before][: int(query["limit"])])
        if path.startswith("/revisions/"):
            found = [one for one in self.revisions if one["id"] == int(path.split("/")[2])]
            return JSONResponse(found[0])
        if path == "/backup":
            return JSONResponse(BACKUP)
        return JSONResponse({"/plan": self.plan, "/doctor": self.findings, "/status": self.status}[path])

    def _read_model(self, names: list[str]) -> Response:
        for model in self.models:
            if [model["project"], model["model"]] == names[:2]:
                if len(names) == 2:
                    return JSONResponse(model)
                for one in model["versions"]:
                    if one["version"] == names[2]:
                        return JSONResponse(one)
        missing = {"error": f"there is no {'/'.join(names)}", "code": "not_found", "request_id": "r-9"}
        return JSONResponse(missing, 404)


async def _lines(events: list[dict[str, Any]], *, hangs: bool = False) -> Any:
    for event in events:
        yield (json.dumps(event) + "\n").encode()
    if hangs:
        await asyncio.Event().wait()


@contextlib.contextmanager
def serving(server: ApiServer) -> Iterator[ApiServer]:
    """Serve on a free port of the loopback for as long as the block runs."""
    methods = ["GET", "POST"]
    app = Starlette(routes=[Route("/{path:path}", server.reply, methods=methods)])
    config = Config()
    config.loglevel = "ERROR"
    config.graceful_timeout = 0.1
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config.bind = [f"fd://{listener.fileno()}"]
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serve = hypercorn_serve(app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
        thread = threading.Thread(target=loop.run_until_complete, args=(serve,), name="api-server")
        thread.start()
        try:
            yield server
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()
            listener.detach()


def on_a_terminal(args: list[str], answer: bytes = b"", **env: str) -> tuple[int, str]:
    """Run the command on a pseudo-terminal, type `answer` when it asks, and return its exit code and all
    that was on the screen."""
    ours, theirs = pty.openpty()
    full = {**os.environ, "COLUMNS": "120", "TERM": "xterm", **env}
    command = [sys.executable, "-m", "mdslite", *args]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=full) as process:
        os.close(theirs)
        printed = bytearray()
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            printed += piece
            if answer and printed.endswith(b"[y/N] "):
                os.write(ours, answer)
        code = process.wait(20)
    os.close(ours)
    return code, printed.decode().replace("\r\n", "\n")


def left_on_screen(printed: str) -> str:
    """What stays there, where some lines were written over others."""
    return "\n".join(line.rpartition("\r")[2].removeprefix("\x1b[K") for line in printed.split("\n"))
