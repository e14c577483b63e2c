"""What an appliance is made of: builds every part and connects them. Opens and closes nothing."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

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
from mdslite.deploy.restarts import Restart
from mdslite.deploy.rollouts import Rollouts
from mdslite.door.door import Door, Limits
from mdslite.door.front import Front, Place
from mdslite.door.h2 import Http2Bridge
from mdslite.gauges import Gauges
from mdslite.history import History
from mdslite.http.access import Access
from mdslite.http.budget import BODIES
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
from mdslite.serving.fleet import Fleet
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

Announce = Callable[[str], None]

MAX_CONNECTIONS = 10_000
RESERVED_FILES = 512  # for the store, HTTP/2 and the runtimes
MAX_FILES = 65_536
SCRAPE_FLUSH_S = 1.0  # how long /metrics may wait for the newest requests


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
    body_budget_bytes: int | None = None  # of all large bodies together; none: by the machine's memory


class Assembly:
    """All parts, connected and none of them open yet. Made on a running loop."""

    def __init__(self, settings: Settings, announce: Announce) -> None:
        if settings.body_budget_bytes is not None:
            BODIES.most_bytes = settings.body_budget_bytes
        self.settings = settings
        self.announce = announce
        self.started_at = time()
        self.draining = False
        self.url = ""
        self.restart: Restart | None = None  # with a file that is not applied again
        self.noting: asyncio.Task[None] | None = None
        self.rpc: RpcServer | None = None
        self.tracer: Tracer | None = None
        self._make_store()
        self._make_models()
        self._make_predictions()
        self._make_judges()
        self._make_doors()

    def _make_store(self) -> None:
        """What is kept, and what is told of requests."""
        settings = self.settings
        store = self.settings.store
        self.lock = StoreLock(store)
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

    def _make_models(self) -> None:
        """What loads models, and what says which."""
        settings = self.settings
        store = self.settings.store
        installs = Installs()
        packages = PythonRuntime(Environments(store / "environments"), announce=installs.announce)
        self.prober = Prober({packages.name: packages})
        self.devices = Devices.discover()
        runtimes = (OnnxRuntime(), TorchRuntime(), TensorflowRuntime(), packages)
        self.fleet = Fleet(
            runtimes={one.name: one for one in runtimes},
            devices=self.devices,
            cores=cores(),
        )
        self.fleet.router.starting = True
        self.history = History(self.devices.readings, lambda: sum(one.queue_rows for one in self.fleet.all()))
        self.intake = Intake(
            self.registry,
            self.worker,
            self.artifacts,
            self.prober,
            allow_internal=settings.allow_internal,
            installs=installs,
        )
        self.deployer = Deployer(self.intake, self.fleet, save=lambda: autosave(store))

    def _make_predictions(self) -> None:
        """What answers, and who may ask."""
        settings = self.settings
        store = self.settings.store
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

    def _make_judges(self) -> None:
        """What learns from answers which version is better, and acts on it."""
        settings = self.settings
        store = self.settings.store
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

    def _make_doors(self) -> None:
        """Where requests come in."""
        settings = self.settings
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

    def _before_scrape(self) -> None:
        """Bring in the newest requests, and drop the series of versions that are gone."""
        self.journal.flush(timeout_s=SCRAPE_FLUSH_S)
        self.metrics.keep([served.key for served in self.fleet.all()])

    def _count_policed(self, reason: str) -> None:
        self.door.count_closed(reason)


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
