"""The composition root: builds every part of the appliance, connects them, and ends them in order.

    serve(settings) -> Appliance.start -> ... a signal ... -> Appliance.stop

Owns the process: its event loop, its signals and its store lock. Decides nothing about requests.
"""

from __future__ import annotations

import asyncio
import gc
import getpass
import json
import logging
import os
import resource
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from mdslite import spec as specs
from mdslite.api.alarms import Alarms
from mdslite.api.app import create_app
from mdslite.api.bulletin import Bulletin
from mdslite.api.comparing import Comparisons, Witness
from mdslite.api.issuer import Issuer
from mdslite.api.labeling import Labeling
from mdslite.api.once import Once
from mdslite.api.replaying import Replays
from mdslite.deploy.apply import Deployer
from mdslite.deploy.installs import Installs
from mdslite.deploy.intake import Intake
from mdslite.deploy.orders import FileSource, Order
from mdslite.deploy.rollouts import Rollouts
from mdslite.door.door import Door, Limits
from mdslite.door.front import Front, Place, shown_host
from mdslite.door.h2 import Http2Bridge
from mdslite.errors import InvalidRequest, MdsliteError, StorageFull
from mdslite.gauges import Gauges
from mdslite.history import History
from mdslite.http.access import Access
from mdslite.http.guard import AllowList
from mdslite.http.tls import TlsFiles
from mdslite.metrics import Metrics
from mdslite.predict.books import Books
from mdslite.predict.deferred import Deferrals
from mdslite.predict.predictor import Predictor
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.machine import cores
from mdslite.runtimes.onnx import OnnxRuntime
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.python import PythonRuntime
from mdslite.runtimes.pytorch import TorchRuntime
from mdslite.runtimes.tensorflow import TensorflowRuntime
from mdslite.runtimes.venvs import Environments
from mdslite.serving.fleet import Fleet, Served
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.backup import autosave
from mdslite.store.candidates import CandidateStore
from mdslite.store.comparisons import ComparisonStore
from mdslite.store.deferred import DeferredStore
from mdslite.store.journal import Journal
from mdslite.store.lock import StoreLock
from mdslite.store.registry import Registry
from mdslite.store.requests import RequestLog
from mdslite.store.rollouts import RolloutStore
from mdslite.store.searches import Searches
from mdslite.store.webhooks import Webhooks
from mdslite.store.worker import Worker

if TYPE_CHECKING:
    from mdslite.rpc.server import RpcServer
    from mdslite.tracing import Tracer

logger = logging.getLogger(__name__)

Announce = Callable[[str], None]

MAX_CONNECTIONS = 10_000
RESERVED_FILES = 512  # for the store, HTTP/2 and the runtimes
MAX_FILES = 65_536
SCRAPE_FLUSH_S = 1.0  # how long /metrics may wait for the newest requests
_SPEC_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True, slots=True)
class Settings:
    """What `mdslite up` was told."""

    host: str = "127.0.0.1"
    port: int = 8500
    grpc_port: int | None = None  # none: no gRPC
    store: Path = Path(".mdslite")
    file: Path | None = None  # a deployments.yaml, or a model
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # clients must show a certificate of these authorities
    tls_self_signed: bool = False
    insecure: bool = False
    allow_hosts: Sequence[str] = ()
    allow_internal: Sequence[str] = ()
    drain_grace_s: float = 1.0  # accepting goes on for so long after SIGTERM
    drain_s: float = 30.0  # and so long may take what is in flight by then
    log: bool = True
    log_age_s: float = 7 * 86_400.0
    log_bytes: int = 4 << 30
    log_sample_bytes: int = 1 << 30  # of bodies that no version's rule asks for
    traces: str | None = None  # where an OpenTelemetry collector takes them
    trace_share: float = 0.01  # of the requests that come without a trace


class Appliance:
    """All parts, built and connected; `start` begins to serve and `stop` ends it. Made on a running loop."""

    def __init__(self, settings: Settings, announce: Announce) -> None:
        self.settings = settings
        self.announce = announce
        self.started_at = time()
        self.starting = True
        self.draining = False
        self.url = ""
        store = settings.store
        self.lock = StoreLock(store)
        installs = Installs()
        packages = PythonRuntime(Environments(store / "environments"), announce=installs.announce)
        self.prober = Prober({packages.name: packages})
        self.worker = Worker("registry")
        self.registry = Registry(store / "registry.db")
        self.artifacts = ArtifactStore(store / "artifacts")
        self.metrics = Metrics(flush=self._before_scrape)
        self.journal = Journal(
            store / "log",
            drift=store / "drift",
            observers=[self.metrics.observe],
            max_age_s=settings.log_age_s,
            max_bytes=settings.log_bytes,
            sample_bytes=settings.log_sample_bytes,
        )
        self.request_log = RequestLog(store / "log")
        self.searches = Searches(store / "log")
        self.devices = Devices.discover()
        runtimes = (OnnxRuntime(), TorchRuntime(), TensorflowRuntime(), packages)
        self.fleet = Fleet(
            runtimes={one.name: one for one in runtimes},
            devices=self.devices,
            cores=cores(),
        )
        self.history = History(self.devices.readings, lambda: sum(one.queue_rows for one in self.fleet.all()))
        intake = Intake(
            self.registry,
            self.worker,
            self.artifacts,
            self.prober,
            allow_internal=settings.allow_internal,
            installs=installs,
        )
        self.deployer = Deployer(intake, self.fleet, save=lambda: autosave(store))
        self.issuer = Issuer(self.registry, self.worker, Access())
        self.once = Once(self.registry, self.worker)
        self.bulletin = Bulletin()
        self.predictor = Predictor(
            self.fleet.router,
            books=Books(self.journal.append, self.journal.append_run) if settings.log else Books(None),
            access=self.issuer.access,
        )
        self.deferrals = Deferrals(
            DeferredStore(store / "deferred.db"), self.predictor, Webhooks(settings.allow_internal)
        )
        self.alarms = Alarms(
            store / "drift", self.fleet.all, self.bulletin, Webhooks(settings.allow_internal)
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
        )
        self.replays = Replays(
            self.registry,
            self.worker,
            log=self.request_log,
            predictor=self.predictor,
            fleet=self.fleet,
            labeling=self.labeling,
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
        self.bridge = Http2Bridge(self.app, on_policed=self._count_policed)
        self.door = Door(
            self.predictor,
            self.app,
            allow_list=AllowList(settings.host, extra=settings.allow_hosts),
            adopt_http2=self.bridge.adopt,
            limits=Limits(connections=raise_file_limit()),
        )
        self.metrics.add_source(
            Gauges(
                door=self.door,
                bridge=self.bridge,
                fleet=self.fleet,
                journal=self.journal,
                devices=self.devices,
                rpc_connections=lambda: 0 if self.rpc is None else len(self.rpc.door.connections),
            )
        )
        self.metrics.add_source(self.alarms.gauges)
        self.front = Front(_place(settings), self.door, self.issuer.access)
        self.rpc: RpcServer | None = None
        self.tracer: Tracer | None = None

    async def start(self) -> None:
        """Lock the store, listen, load what is deployed, apply the settings' file, say where it serves.

        :raises MdsliteError: the store, the address or the file cannot be used
        """
        self.lock.acquire()
        await self.worker.call(self.registry.open)
        await self.issuer.open()
        self.front.check_exposure()
        self.prober.start()
        with suppress(StorageFull):
            await asyncio.to_thread(autosave, self.settings.store)
        if self.settings.log:
            self.journal.start()
        await self._open_traces()
        self.history.start()
        self.url = await self.front.open()
        grpc_port = await self._open_rpc()
        for line in self.front.notes:
            self.announce(line)
        for line in self.devices.describe():
            self.announce(f"✓ {line}")
        await self.deployer.resume()
        if self.settings.file is not None:
            await self._apply_file(self.settings.file)
        await self.comparisons.open()
        await self.labeling.start()
        await self.replays.start()
        await self.rollouts.start()
        await self.deferrals.start()
        if self.settings.log:
            await self.alarms.start()
        for served in self.fleet.all():
            self.announce(_state_line(served))
        self.starting = False
        if self.url.startswith("https:"):
            await self.bridge.warm()  # with TLS, the first client is likely to choose HTTP/2
        if self.rpc is not None:
            await self.rpc.serve()
        # What lives now lives long: keep the collector from walking through it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        beside = "" if grpc_port is None else f"   gRPC {shown_host(self.settings.host)}:{grpc_port}"
        self.announce(f"serving on {self.url}   docs /docs   metrics /metrics{beside}")

    async def _open_traces(self) -> None:
        """Start to export traces where they are asked for.

        :raises InvalidRequest: OpenTelemetry is not installed
        """
        if self.settings.traces is None:
            return
        from mdslite.tracing import Tracer, check_installed

        check_installed()
        self.tracer = Tracer(self.settings.traces, share=self.settings.trace_share)
        await self.tracer.start()
        self.metrics.add_source(self.tracer.gauges)
        self.predictor.books.tracer = self.tracer

    async def _open_rpc(self) -> int | None:
        """Open the gRPC port where there is to be one.

        :raises InvalidRequest: gRPC is not installed, or the port cannot be had
        """
        settings = self.settings
        if settings.grpc_port is None:
            return None
        try:
            from mdslite.rpc.server import RpcServer  # protobuf, that only who asks for gRPC pays
        except ImportError as exc:
            raise InvalidRequest(
                f"--grpc-port needs gRPC, which is not installed: {exc}", hint="pip install 'mdslite[grpc]'"
            ) from exc
        self.rpc = RpcServer(self, count=self._count_policed)
        return await self.rpc.open(settings.host, settings.grpc_port, self.front.files)

    async def _apply_file(self, file: Path) -> None:
        """Apply what `up` was given, unless it is what was applied last."""
        source = await asyncio.to_thread(read_source, file)
        if source.text != await self.deployer.last_file():
            await self.deployer.apply(Order(source, author=_user(), reason=f"mdslite up {file.name}"))

    async def stop(self) -> None:
        """Drain and close: no request that was accepted is lost within the settings' times."""
        settings = self.settings
        self.draining = True
        await self.alarms.close()
        if self.rpc is not None:
            await self.rpc.announce_stop()
        if self.url:
            await asyncio.sleep(settings.drain_grace_s)
        self.front.close()
        await asyncio.gather(
            self.door.drain(grace_s=settings.drain_s),
            self.bridge.close(grace_s=settings.drain_s),
            *([] if self.rpc is None else [self.rpc.drain(grace_s=settings.drain_s)]),
        )
        await self.rollouts.close()
        await self.replays.close()
        await self.deployer.close(grace_s=settings.drain_s)
        await self.deferrals.close()
        await self.fleet.close(grace_s=settings.drain_s)
        await self.front.finish()
        await self.door.close()
        await self.abandon()

    async def abandon(self) -> None:
        """Close what is open, started or not, without waiting for anybody's requests."""
        await self.alarms.close()
        await self.rollouts.close()
        await self.replays.close()
        await self.deferrals.close()
        await self.labeling.close()
        await self.comparisons.close()
        await self.history.close()
        await self.searches.close()
        if self.tracer is not None:
            await self.tracer.close()
        await asyncio.to_thread(self.journal.close)
        await asyncio.to_thread(self.prober.close)
        self.issuer.close()
        with suppress(MdsliteError):
            await self.worker.call(self.registry.close)
        await asyncio.to_thread(self.worker.close)
        self.devices.close()
        self.lock.release()

    def _before_scrape(self) -> None:
        """Bring in the newest requests, and drop the series of versions that are gone."""
        self.journal.flush(timeout_s=SCRAPE_FLUSH_S)
        self.metrics.keep([served.key for served in self.fleet.all()])

    def _count_policed(self, reason: str) -> None:
        self.door.count_closed(reason)


def read_source(file: Path) -> FileSource:
    """What `up FILE` applies: a deployments file as it is; a model as `default/NAME` v1.

    :raises InvalidRequest: there is no such file
    :raises SpecError: it is no text
    """
    try:
        if file.suffix.lower() in _SPEC_SUFFIXES:
            return FileSource(
                specs.decode(file.read_bytes(), file=str(file)), str(file), file.resolve().parent
            )
        found = file.stat()
    except OSError as exc:
        raise InvalidRequest(f"cannot read {file}: {os.strerror(exc.errno or 0)}") from exc
    # The comment makes a model that was exported again a new text, and so a new apply.
    stamp = f"# {file.name}: {found.st_size} bytes, modified {found.st_mtime_ns}"
    entry = {"version": "v1", "spec": {"uri": str(file.resolve())}}
    wanted = {"project": "default", "model": specs.make_name(file.stem), "versions": [entry]}
    text = f"{stamp}\n{json.dumps({'deployments': [wanted]}, indent=2)}\n"
    return FileSource(text, str(file), file.resolve().parent)


def _place(settings: Settings) -> Place:
    files = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        files = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return Place(
        settings.host,
        settings.port,
        settings.store,
        tls=files,
        self_signed=settings.tls_self_signed,
        client_ca=settings.tls_client_ca,
        insecure=settings.insecure,
    )


def raise_file_limit() -> int:
    """Let this process open as many files as it may; returns how many connections that leaves room for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(64, min(MAX_CONNECTIONS, wanted - RESERVED_FILES))


def serve(settings: Settings, announce: Announce) -> int:
    """Run the appliance until SIGTERM or SIGINT, and return the exit code.

    :raises MdsliteError: it could not start
    """
    import uvloop

    return uvloop.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Announce) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    appliance = Appliance(settings, announce)
    starting = asyncio.create_task(appliance.start())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        await appliance.stop()
        return 0
    except BaseException:
        await appliance.stop()
        raise
    await waiting
    # A second signal ends the process the hard way.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    await appliance.stop()
    return 0


def _state_line(served: Served) -> str:
    label = f"{served.project}/{served.model} {served.version}"
    if served.state == "ready":
        return f"✓ {label} ready {served.load_s:.1f}s"
    return f"✖ {label} {served.state}: {served.reason}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a user database
        return f"uid {os.getuid()}"
