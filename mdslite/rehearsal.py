"""Serves one package for a moment, as an appliance would, and asks it: what `mdslite verify` does.

A composition root, like `appliance`, of the same parts: the package is examined and loaded by the fleet, and
answers a real request on a loopback port, at `/predict`. Nothing is stored, logged or deployed.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from starlette.types import Receive, Scope, Send

from mdslite import drawing, pipelines
from mdslite.deploy.pipelines import examine_pipeline
from mdslite.door.door import Door
from mdslite.errors import InvalidRequest, MdsliteError, NotFound
from mdslite.fields import make_name
from mdslite.http.guard import AllowList, Errors, RequestIds
from mdslite.predict.books import Books
from mdslite.predict.predictor import Predictor
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.kinds import MDS, PIPELINE, Kind, detect
from mdslite.runtimes.machine import cores
from mdslite.runtimes.packages import find_package
from mdslite.runtimes.protocol import LoadOptions, ProbeReport
from mdslite.runtimes.python import PythonRuntime
from mdslite.runtimes.venvs import Environments
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.loader import LoadRequest
from mdslite.spec import Spec
from mdslite.store.archives import archive_kind
from mdslite.store.artifacts import ArtifactStore
from mdslite.trial import (
    EXAMPLE,
    HOST,
    MADE_UP,
    PATH,
    SAMPLE,
    Body,
    check_answer,
    fill_batch,
    find_sample,
    post,
)

Isolation = Literal["process", "inline"]

PROBE_TIMEOUT_S = 300.0
CLOSE_S = 2.0
MARGIN_S = 10.0  # for a reply, on top of what a prediction may take
BATCH_MOST = 32  # rows of the second request


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried: how long it took, and what came of it. The last one may have failed."""

    name: str
    seconds: float
    said: str
    fine: bool = True
    drawing: str = ""  # of a pipeline's graph


@dataclass(slots=True)
class Report:
    """All that was tried, in order; `output` is what the package printed."""

    steps: list[Step] = field(default_factory=list)
    reply: bytes | None = None
    error: MdsliteError | None = None
    output: str = ""


class Rehearsal:
    """One run of one package. `tell` gets each step when it is done, `progress` what an installation says."""

    def __init__(
        self,
        path: Path,
        *,
        isolation: Isolation = "process",
        store: Path = Path(".mdslite"),
        tell: Callable[[Step], None] = lambda step: None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._path = path
        self._isolation: Isolation = isolation
        self._runtime = PythonRuntime(
            Environments(store / "environments"), announce=lambda _, line: progress(line)
        )
        self._tell = tell
        self._report = Report()
        self._name = make_name(path.name.partition(".")[0] if path.is_file() else path.resolve().name)

    async def run(self, body: Body | None = None) -> Report:
        """Try everything, up to the first thing that fails. Without a body, the package's sample is sent."""
        report = self._report
        with tempfile.TemporaryDirectory(prefix="mdslite-verify-") as folder:
            try:
                package = await asyncio.to_thread(self._unpack, Path(folder))
                await self._try(package, body or find_sample(package) or find_sample(self._path))
            except MdsliteError as exc:
                report.error = exc
        return report

    def _unpack(self, folder: Path) -> Path:
        """The package itself: what an archive holds, anything else as it lies there."""
        if not self._path.is_file() or archive_kind(self._path.name) is None:
            return self._path
        return ArtifactStore(folder).add_path(self._path).path

    async def _try(self, path: Path, body: Body | None) -> None:
        with self._step("find") as said:
            kind = await asyncio.to_thread(detect, path)
            said += await asyncio.to_thread(self._describe, path, kind)
        with self._step("import") as said:
            report = await asyncio.to_thread(self._examine, path, kind)
            said += _describe_report(report)
        devices = Devices.discover()
        fleet = Fleet(runtimes={self._runtime.name: self._runtime}, devices=devices, cores=cores())
        try:
            request = LoadRequest(
                *("default", self._name, "v1"),
                spec=Spec(uri=str(path), isolation=self._isolation),
                digest="",
                path=path,
                report=report,
                runtime=kind.runtime,
                package_type=kind.package_type,
            )
            with self._step("build and warm up") as said:
                served = await fleet.load(request)
                said.append("inside this process" if self._isolation == "inline" else "in its own process")
            fleet.switch(added=[served])
            await self._ask(fleet, served, body)
        finally:
            await fleet.close(grace_s=CLOSE_S)
            devices.close()

    async def _ask(self, fleet: Fleet, served: Served, body: Body | None) -> None:
        """Check a loaded package's health, and send it requests."""
        sessions: list[Any] = [one.session for station in served.stations for one in station.lane.replicas]
        try:
            with self._step("health check") as said:
                checked = [session for session in sessions if session.has_check]
                for session in checked:
                    await asyncio.to_thread(session.check)
                said.append("healthy" if checked else "the package has none")
            calls = served.report.pipeline.models if served.report.pipeline is not None else ()
            if calls:
                with self._step(f"POST {PATH}") as said:
                    said.append(f"left out: it calls {', '.join(calls)}, which an appliance has")
                return
            async with _serving(fleet, served) as port:
                await self._send(port, served, body or Body(EXAMPLE, source=MADE_UP))
        finally:
            self._report.output = "\n".join(text for one in sessions if (text := one.output().strip()))

    async def _send(self, port: int, served: Served, body: Body) -> None:
        limit_s = served.lane.knobs.prediction_s + MARGIN_S
        hint = f"send data of yours with --data @FILE, or keep some in {SAMPLE}"
        with self._step(f"POST {PATH}") as said:
            answer = await asyncio.to_thread(post, port, body, timeout_s=limit_s)
            self._report.reply = answer.body
            count = check_answer(answer, body, hint=hint if body.source == MADE_UP else None)
            said.append(f"http://{HOST}:{port}{PATH} answered {count}; {answer.timing}")
            if body.source:
                said.append(f"data: {body.source}")
        many = fill_batch(body, min(served.lane.knobs.batch_size, BATCH_MOST))
        if many is not None:
            with self._step("a full batch") as said:
                answer = await asyncio.to_thread(post, port, many, timeout_s=limit_s)
                said.append(f"{check_answer(answer, many)}; {answer.timing}")

    def _describe(self, path: Path, kind: Kind) -> list[str]:
        """What a package is, and the drawing of one that is a pipeline."""
        if kind == MDS:
            found = find_package(path)
            return [f"{found.class_name} ({found.place})"]
        if kind == PIPELINE:
            pipeline = pipelines.read(path)
            return [f"a pipeline of {len(pipeline.order)} nodes", drawing.draw(pipeline)]
        raise InvalidRequest(
            f"{self._path.name} is a model of package type {kind.package_type}; expected a Python package",
            hint=f"serve it with: mdslite up {self._path}",
        )

    def _examine(self, path: Path, kind: Kind) -> ProbeReport:
        options = LoadOptions(label=self._name)

        def probe(handler: str | None) -> ProbeReport:
            return self._runtime.probe(path, replace(options, handler=handler), timeout_s=PROBE_TIMEOUT_S)

        return examine_pipeline(path, probe) if kind == PIPELINE else probe(None)

    @contextmanager
    def _step(self, name: str) -> Iterator[list[str]]:
        """Time what is done within, and say what came of it."""
        begun = perf_counter()
        said: list[str] = []
        try:
            yield said
        except MdsliteError as exc:
            self._add(Step(name, perf_counter() - begun, exc.message, fine=False))
            raise
        drawn = said.pop() if said and "\n" in said[-1] else ""
        self._add(Step(name, perf_counter() - begun, ", ".join(said), drawing=drawn))

    def _add(self, step: Step) -> None:
        self._report.steps.append(step)
        self._tell(step)


@asynccontextmanager
async def _serving(fleet: Fleet, served: Served) -> AsyncIterator[int]:
    """Serve a version at `/predict` on a free port of this machine."""
    predictor = Predictor(fleet.router, books=Books(None))
    app = RequestIds(Errors(_OnePath(predictor, served)))
    door = Door(
        predictor, app, allow_list=AllowList(HOST), adopt_http2=lambda transport, _: transport.abort()
    )
    server = await asyncio.get_running_loop().create_server(door.connection, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await door.drain(grace_s=CLOSE_S, quiet_s=0)
        await door.close()


class _OnePath:
    """Posts to `/predict` go to the one version that is served."""

    def __init__(self, predictor: Predictor, served: Served) -> None:
        self._predictor = predictor
        self._target = f"/projects/{served.project}/models/{served.model}:predict".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" or scope["path"] != PATH:
            raise NotFound(f"no such URL: expected POST {PATH}")
        body = (await receive())["body"]  # the door hands over what is complete
        reply = await self._predictor.respond(target=self._target, headers=scope["headers"], body=body)
        if reply.pieces is not None:
            await reply.pieces.send(send, reply.headers)
            return
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


def _describe_report(report: ProbeReport) -> Iterator[str]:
    handlers = report.pipeline.handlers if report.pipeline is not None else {}
    packages = [report.package] if report.package is not None else list(handlers.values())
    for package in packages:
        yield f"{package.name} {package.version}"
        if package.batch_size is not None:
            yield f"batches of up to {package.batch_size}"
        if package.streams:
            yield "streams"
