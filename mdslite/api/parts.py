"""What the Starlette app needs of the appliance, as a Protocol: tests build the app from real parts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mdslite.api.alarms import Alarms
from mdslite.api.bulletin import Bulletin
from mdslite.api.comparing import Comparisons
from mdslite.api.issuer import Issuer
from mdslite.api.labeling import Labeling
from mdslite.api.once import Once
from mdslite.deploy.apply import Deployer
from mdslite.deploy.rollouts import Rollouts
from mdslite.history import History
from mdslite.metrics import Metrics
from mdslite.predict.deferred import Deferrals
from mdslite.predict.predictor import Predictor
from mdslite.runtimes.devices import Devices
from mdslite.serving.fleet import Fleet
from mdslite.store.journal import Journal
from mdslite.store.registry import Registry
from mdslite.store.requests import RequestLog
from mdslite.store.searches import Searches
from mdslite.store.worker import Worker

if TYPE_CHECKING:
    from mdslite.api.replaying import Replays  # which needs the comparison, and that these parts


class Settings(Protocol):
    """Where the appliance listens, what it answers to, and whether it keeps a request log."""

    @property
    def host(self) -> str: ...
    @property
    def store(self) -> Path: ...
    @property
    def allow_hosts(self) -> Sequence[str]: ...
    @property
    def log(self) -> bool: ...


class Parts(Protocol):
    """`draining` from the signal on; `started_at` in Unix seconds; `url` is where the appliance serves."""

    started_at: float
    draining: bool
    url: str
    fleet: Fleet
    deployer: Deployer
    predictor: Predictor
    deferrals: Deferrals
    alarms: Alarms
    comparisons: Comparisons
    labeling: Labeling
    replays: Replays
    rollouts: Rollouts
    issuer: Issuer
    once: Once
    bulletin: Bulletin
    registry: Registry
    worker: Worker
    devices: Devices
    history: History
    metrics: Metrics
    journal: Journal
    request_log: RequestLog
    searches: Searches

    @property
    def settings(self) -> Settings: ...
