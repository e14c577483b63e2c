"""An appliance without its sockets: every part is real, on a store in a temporary folder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import unquote

import msgspec
from log_rows import launch_search_thread, launch_thread

from mdslite.api.alarms import Alarms
from mdslite.api.app import create_app
from mdslite.api.bulletin import Bulletin
from mdslite.api.comparing import Comparisons, Witness
from mdslite.api.issuer import Issuer
from mdslite.api.labeling import Labeling
from mdslite.api.once import Once
from mdslite.api.replaying import Replays
from mdslite.deploy.apply import Deployer
from mdslite.deploy.intake import Intake
from mdslite.deploy.orders import FileSource, Order, RevisionSource
from mdslite.deploy.rollouts import Rollouts
from mdslite.errors import LoadFailed
from mdslite.history import History
from mdslite.http.access import Access
from mdslite.metrics import Metrics
from mdslite.predict.allowance import Allowance
from mdslite.predict.books import Books
from mdslite.predict.deferred import Deferrals
from mdslite.predict.predictor import Predictor
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.onnx import OnnxRuntime
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import LoadOptions, Runtime, Session
from mdslite.serving.fleet import Fleet
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.candidates import CandidateStore
from mdslite.store.comparisons import ComparisonStore
from mdslite.store.deferred import DeferredStore
from mdslite.store.journal import Journal
from mdslite.store.registry import Registry, Revision
from mdslite.store.requests import RequestLog
from mdslite.store.rollouts import RolloutStore
from mdslite.store.searches import Searches
from mdslite.store.webhooks import Webhooks
from mdslite.store.worker import Worker


@dataclass
class BoxSettings:
    store: Path
    host: str = "127.0.0.1"
    allow_hosts: tuple[str, ...] = ()
    log: bool = True


class Box:
    """Made on a running loop; `open_box` opens and closes it."""

    def __init__(
        self,
        store: Path,
        *,
        prober: Prober,
        runtime: Runtime,
        allow_internal: tuple[str, ...],
        **deployer: Any,
    ) -> None:
        self.settings = BoxSettings(store)
        self.started_at = time()
        self.draining = False
        self.url = "http://127.0.0.1:8500"
        self.worker = Worker("registry")
        self.registry = Registry(store / "registry.db")
        self.artifacts = ArtifactStore(store / "artifacts")
        self.prober = prober
        self.metrics = Metrics()
        self.journal = Journal(
            store / "log", flush_s=0.02, observers=[self.metrics.observe], launch=launch_thread
        )
        self.request_log = RequestLog(store / "log")
        self.searches = Searches(store / "log", launch=launch_search_thread)
        self.devices = Devices(reason="tests compute on the CPU")
        self.fleet = Fleet(runtimes={"ONNXRUNTIME": runtime}, devices=self.devices, cores=2)
        self.history = History(self.devices.readings, lambda: sum(one.queue_rows for one in self.fleet.all()))
        self.intake = Intake(
            self.registry,
            self.worker,
            self.artifacts,
            prober,
            allow_internal=allow_internal,
        )
        self.deployer = Deployer(self.intake, self.fleet, **deployer)
        self.issuer = Issuer(self.registry, self.worker, Access())
        self.once = Once(self.registry, self.worker)
        self.bulletin = Bulletin()
        self.predictor = Predictor(
            self.fleet.router,
            books=Books(self.journal.append, self.journal.append_run),
            access=self.issuer.access,
        )
        self.deferrals = Deferrals(DeferredStore(store / "deferred.db"), self.predictor, Webhooks())
        self.alarms = Alarms(
            store / "drift", self.fleet.all, self.bulletin, Webhooks(), tell_delays_s=(0.01, 0.01)
        )
        self.comparisons = Comparisons(ComparisonStore(store / "comparisons.db"))
        self.predictor.shadows.observer = self.comparisons
        self.labeling = Labeling(
            self.registry,
            self.worker,
            CandidateStore(store / "candidates.db"),
            log=self.request_log,
            comparisons=self.comparisons,
            fleet=self.fleet,
            look_s=3600,  # the tests say when
            settle_s=0,
        )
        self.replays = Replays(
            self.registry,
            self.worker,
            log=self.request_log,
            predictor=self.predictor,
            fleet=self.fleet,
            labeling=self.labeling,
            allowance=lambda: Allowance(times=lambda: (0.0, 0.0)),  # however busy the machine is
        )
        self.rollouts = Rollouts(
            RolloutStore(self.registry),
            self.worker.call,
            self.deployer,
            self.fleet.deployed,
            Witness(self.request_log, self.comparisons),
            mirror=self.fleet.mirror,
            clock=time,
        )
        self.app = create_app(self)

    async def revisions(self) -> list[Revision]:
        """All of them, the oldest first."""
        return (await self.worker.call(self.registry.revisions, 100))[::-1]

    def versions(self) -> dict[str, str]:
        """What the fleet lists: `project/model version` with its state."""
        return {
            f"{one.project}/{one.model} {one.version}": one.state
            for one in self.fleet.all()
            if one.state != "draining"
        }

    async def served_by(self, url: str = "/projects/p/models/m:predict") -> str | None:
        """Which version answers a prediction, None when none does."""
        reply = await self.predictor.respond(
            target=url.encode(),
            headers=[(b"content-type", b"application/json")],
            body=b'{"instances": [[1, 2, 3, 4]]}',
        )
        return next((value.decode() for name, value in reply.headers if name == b"mdslite-version"), None)


@asynccontextmanager
async def open_box(
    store: Path,
    prober: Prober,
    *,
    runtime: Runtime | None = None,
    allow_internal: tuple[str, ...] = (),
    resume: bool = True,
    **deployer: Any,
) -> AsyncIterator[Box]:
    """`deployer` are options of the Deployer."""
    box = Box(
        store, prober=prober, runtime=runtime or OnnxRuntime(), allow_internal=allow_internal, **deployer
    )
    await box.worker.call(box.registry.open)
    await box.issuer.open()
    await box.comparisons.open()
    await box.labeling.start()
    await box.replays.start()
    box.journal.start()
    try:
        if resume:
            await box.deployer.resume()
        yield box
    finally:
        await box.alarms.close()
        await box.rollouts.close()
        await box.replays.close()
        await box.deployer.close(grace_s=10)
        await box.deferrals.close()
        await box.labeling.close()
        await box.comparisons.close()
        await box.fleet.close(grace_s=10)
        await box.searches.close()
        await asyncio.to_thread(box.journal.close)
        box.issuer.close()
        await box.worker.call(box.registry.close)
        await asyncio.to_thread(box.worker.close)


class PickyRuntime:
    """Opens ONNX models as ever, but none whose file is named so."""

    name = "ONNXRUNTIME"

    def __init__(self, refused: str) -> None:
        self._refused = refused
        self._inner = OnnxRuntime()

    def open(self, path: Path, options: LoadOptions) -> Session:
        if path.name == self._refused:
            raise LoadFailed("the device is broken")
        return self._inner.open(path, options)


class GatedRuntime:
    """Opens ONNX models as ever, but not before `gate` is set."""

    name = "ONNXRUNTIME"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waiting = threading.Event()
        self._inner = OnnxRuntime()

    def open(self, path: Path, options: LoadOptions) -> Session:
        self.waiting.set()
        assert self.gate.wait(20)
        return self._inner.open(path, options)

    async def reached(self) -> None:
        """Wait until a model is about to be opened."""
        assert await asyncio.to_thread(self.waiting.wait, 20)


def file_order(
    text: str, base: Path, *, prune: bool = False, expect_revision: int | None = None, reason: str = ""
) -> Order:
    """An order to apply a deployments.yaml that stands in `base`."""
    source = FileSource(text, "deployments.yaml", base, prune=prune)
    return Order(source, author="ann", reason=reason, expect_revision=expect_revision)


def undo_order(revision: Any = "previous") -> Order:
    return Order(RevisionSource(revision), author="ann")


def deployments(*versions: str, project: str = "p", model: str = "m") -> str:
    """A deployments.yaml with one model, each version a line such as `v1, uri: v1.onnx, weight: 80`."""
    lines = [f"deployments:\n- project: {project}\n  model: {model}\n  versions:"]
    for line in versions:
        name, _, rest = line.partition(", uri: ")
        uri, _, more = rest.partition(", ")
        lines.append(f"  - version: {name}\n    spec: {{uri: {uri}}}")
        lines += [f"    {one}" for one in more.split(", ") if one]
    return "\n".join(lines) + "\n"


@dataclass
class Heard:
    """An application's answer to one request."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]


class Caller:
    """Asks an ASGI application, one request at a time, as a server would."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.heard = Heard()
        self.began = asyncio.Event()  # the answer's head came, or more of its body
        self.client = ("127.0.0.1", 50_000)
        self.leaving = asyncio.Event()  # set it to leave before the answer is complete

    async def ask(
        self,
        method: str,
        url: str,
        body: Any = b"",
        *,
        headers: Mapping[str, str] | None = None,
        chunks: list[bytes] | None = None,
    ) -> Heard:
        """Send a request; a body that is no bytes goes as JSON. Returns when the application does."""
        self.heard = Heard()
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        waiting = list(chunks) if chunks is not None else [raw]
        path, _, query = url.partition("?")
        fields = {"host": "127.0.0.1:8500", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "client": self.client,
            "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()],
        }

        async def receive() -> dict[str, Any]:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}
            await self.leaving.wait()
            return {"type": "http.disconnect"}

        await self._app(scope, receive, self._send)
        return self.heard

    async def get(self, url: str, **headers: str) -> Heard:
        return await self.ask("GET", url, headers=headers)

    async def post(self, url: str, body: Any = b"", **headers: str) -> Heard:
        return await self.ask("POST", url, body, headers=headers)

    async def _send(self, message: Any) -> None:
        heard = self.heard
        if message["type"] == "http.response.start":
            heard.status = message["status"]
            heard.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            heard.body += message.get("body", b"")
            heard.complete = not message.get("more_body", False)
        self.began.set()
