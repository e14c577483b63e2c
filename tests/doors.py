"""A door with all that stands behind it, on a real socket: models in a fleet, the predict function, the
application, the HTTP/2 bridge."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, cast

import models
import uvloop
from h1_client import WAIT_S, Reply, Wire, connect
from lanes import lane_of
from waiting import until

from mdslite.api.app import create_app
from mdslite.api.comparing import Comparisons
from mdslite.door.door import Door, Limits
from mdslite.door.h2 import Http2Bridge
from mdslite.door.listener import TlsListener, open_sockets
from mdslite.http.access import Access
from mdslite.http.guard import AllowList
from mdslite.http.tls import Renewal, TlsFiles
from mdslite.metrics import Metrics
from mdslite.predict.books import Books
from mdslite.predict.deferred import Deferrals
from mdslite.predict.predictor import Predictor
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.onnx import OnnxRuntime
from mdslite.runtimes.protocol import LoadOptions, ProbeReport
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.lane import Lane
from mdslite.serving.loader import LoadRequest
from mdslite.serving.samples import Samples
from mdslite.spec import Batch, ServiceInfo, Spec
from mdslite.store.audit import Act
from mdslite.store.comparisons import ComparisonStore
from mdslite.store.deferred import DeferredStore
from mdslite.store.journal import ROW_FIELDS
from mdslite.store.webhooks import Webhooks

PAIR = Path(__file__).parent / "data" / "tls"

# Limits that strike at once, for clients that are to be found too slow.
HASTY = Limits(head_s=0.2, body_s=0.2, idle_s=0.2, write_s=0.2, linger_s=0.05, sweep_s=0.01)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test on the loop that the appliance runs on."""
    uvloop.run(test)


@dataclass(frozen=True)
class Deployed:
    """One version to serve; `batch` are fields of the spec's batch."""

    path: Path
    project: str = "p"
    model: str = "m"
    version: str = "v1"
    weight: float = 100
    batch: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class SiteSettings:
    store: Path
    host: str = "127.0.0.1"
    allow_hosts: tuple[str, ...] = ()


def keep_all() -> Samples:
    """No request's bodies are left out of the rows."""
    return Samples(good=1 << 30, failed=1 << 30)


class Ledger:
    """What the application sees of an issuer, but for the registry: `acts` is all that would be kept."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.acts: list[Act] = []
        self.record = self.acts.append


class Site:
    """What the application sees of an appliance, as far as the routes outside of the admin API look."""

    def __init__(self, folder: Path, **predictor: Any) -> None:
        self.settings = SiteSettings(folder)
        self.started_at = time()
        self.draining = False
        self.url = ""
        self.metrics = Metrics()
        self.devices = Devices(reason="tests compute on the CPU")
        self.runtime = OnnxRuntime()
        self.fleet = Fleet(runtimes={"ONNXRUNTIME": self.runtime}, devices=self.devices, cores=2)
        self.rows: list[tuple[Any, ...]] = []
        self.predictor = Predictor(
            self.fleet.router, **{"books": Books(self.rows.append, strays=keep_all()), **predictor}
        )
        self.issuer = Ledger(self.predictor.access)
        self.deferrals = Deferrals(
            DeferredStore(folder / "deferred.db"), self.predictor, Webhooks(("127.0.0.1",))
        )
        self.comparisons = Comparisons(ComparisonStore(folder / "comparisons.db"))
        self.predictor.shadows.observer = self.comparisons
        self.door: Door
        self.bridge: Http2Bridge
        self.renewal: Renewal
        self.server: asyncio.Server | TlsListener
        self.address = ("127.0.0.1", 0)
        self.tls: ssl.SSLContext | None = None  # what clients trust

    async def load(self, deployed: Deployed) -> Served:
        """Open a version, routed to nowhere yet."""
        session = self.runtime.open(deployed.path, LoadOptions())
        report = ProbeReport(session.signature, 0, 0.0, self.runtime.inspect(deployed.path))
        session.close()
        spec = Spec(
            uri=str(deployed.path),
            batch=Batch(**deployed.batch),
            service_info=ServiceInfo(weight=deployed.weight),
        )
        names = (deployed.project, deployed.model, deployed.version)
        served = await self.fleet.load(LoadRequest(*names, spec, "sha256:00", deployed.path, report))
        served.samples = keep_all()
        return served

    def lane(self, model: str = "m", version: str = "v1") -> Lane:
        served = self.fleet.find("p", model, version)
        assert served is not None
        return lane_of(served)

    @property
    def logged(self) -> list[dict[str, Any]]:
        """The rows that the request log was given, oldest first."""
        return [dict(zip(ROW_FIELDS, row, strict=True)) for row in self.rows]

    @property
    def statuses(self) -> list[int]:
        return [row["status"] for row in self.logged]

    async def listen_securely(self, files: TlsFiles, **options: Any) -> tuple[str, int]:
        """Serve over TLS; `options` are the listener's."""
        self.renewal = Renewal(files)
        sockets = open_sockets("127.0.0.1", 0, backlog=2048)
        chosen = {"timeout_s": WAIT_S, "bound": 1000, "count": self.door.count_closed, **options}
        self.server = TlsListener(sockets, self.door.connection, lambda: self.renewal.context, **chosen)
        self.server.start()
        address: tuple[str, int] = sockets[0].getsockname()
        return address

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Wire]:
        async with connect(self.address, tls=self.tls) as wire:
            yield wire

    async def ask(self, data: bytes) -> Reply:
        """Send one request on a connection of its own."""
        async with self.connect() as wire:
            wire.send(data)
            return await wire.reply()


@asynccontextmanager
async def open_site(
    folder: Path,
    *deployed: Deployed,
    limits: Limits | None = None,
    app: Any = None,
    adopt: Callable[..., None] | None = None,
    secure: bool = False,
    **predictor: Any,
) -> AsyncIterator[Site]:
    """Serve the versions given, or one of `p/m`, an identity of three numbers.

    `app` is put behind the door in the place of the appliance's own; `predictor` are the Predictor's options.
    """
    site = Site(folder, **predictor)
    deployed = deployed or (Deployed(models.identity(folder / "identity.onnx")),)
    site.fleet.switch(added=[await site.load(one) for one in deployed])
    app = app or create_app(cast(Any, site))
    site.bridge = Http2Bridge(app)
    site.door = Door(
        site.predictor,
        app,
        allow_list=AllowList("127.0.0.1"),
        adopt_http2=adopt or site.bridge.adopt,
        limits=limits,
    )
    loop = asyncio.get_running_loop()
    if secure:
        site.tls = ssl.create_default_context(cafile=PAIR / "localhost.pem")
        site.address = await site.listen_securely(TlsFiles(PAIR / "localhost.pem", PAIR / "localhost.key"))
    else:
        server = await loop.create_server(site.door.connection, "127.0.0.1", 0, backlog=2048)
        site.server, site.address = server, server.sockets[0].getsockname()
    try:
        yield site
    finally:
        site.server.close()
        if isinstance(site.server, TlsListener):
            await site.server.finish()
        for connection in list(site.door.connections):
            connection.abort()
        await site.bridge.close(grace_s=WAIT_S)
        await site.door.close()
        await site.deferrals.close()
        await site.comparisons.close()
        await until(lambda: not site.door.connections)
        await site.fleet.close(grace_s=WAIT_S)


async def refused(site: Site, data: bytes) -> Reply:
    """The answer to what is no proper request: it ends the connection."""
    async with site.connect() as wire:
        wire.send(data)
        reply = await wire.reply()
        assert reply.closes
        assert await wire.rest() == b""
        return reply
