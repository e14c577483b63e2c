"""The loaded versions: opening, warming, switching in together, draining, rebuilding. Owns every lane.

Loading happens off the event loop; switching is one synchronous call on it, so that a request sees either the
routes before an apply or those after it. What was replaced answers what it has and is then closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Literal

from mdslite.errors import LoadFailed, MdsliteError
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.protocol import Device, Outputs, ProbeReport, Runtime, Session, Signature
from mdslite.serving.batch import Confidence
from mdslite.serving.calibrate import open_session, open_warm
from mdslite.serving.confidence import confidence_reader
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate
from mdslite.serving.knobs import Knobs
from mdslite.serving.lane import INLINE_S, Lane
from mdslite.serving.replica import Replica
from mdslite.serving.router import Route, Router, weighted_cycle
from mdslite.serving.samples import Samples
from mdslite.spec import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_BATCH_TIMEOUT_MS,
    DEFAULT_PREDICTION_TIME_MS,
    QUEUE_ROWS,
    Spec,
)
from mdslite.tensors import Codec

logger = logging.getLogger(__name__)

Key = tuple[str, str, str]  # project, model, version
State = Literal["loading", "ready", "failed", "draining"]

REBUILD_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A version to load: `path` is the model file in the artifact store, `digest` that of its artifact."""

    project: str
    model: str
    version: str
    spec: Spec
    digest: str
    path: Path
    report: ProbeReport
    runtime: str = "ONNXRUNTIME"

    @property
    def label(self) -> str:
        return f"{self.project}/{self.model} {self.version}"


class Served:
    """A version as it is now: its lane once it is loaded, or the reason why it is not."""

    def __init__(self, key: Key, spec: Spec, digest: str, *, state: State, reason: str | None = None) -> None:
        self.project, self.model, self.version = key
        self.spec = spec
        self.digest = digest
        self.state: State = state
        self.reason = reason
        self.runtime = ""
        self.provider = ""
        self.devices: tuple[str, ...] = ()
        self.memory_bytes = 0
        self.load_s = 0.0
        self.loaded_at = time()
        self.samples = Samples()
        self.sample: Outputs | None = None  # what a warm-up run answered
        self.codec: Codec
        self.lane: Lane

    @property
    def key(self) -> Key:
        return self.project, self.model, self.version

    def behaviour(self, spec: Spec) -> tuple[Knobs, Confidence]:
        """What of a spec changes without loading again.

        :raises LoadFailed: it does not fit the model that is loaded
        """
        signature = self.codec.signature
        return make_knobs(spec, signature), confidence_reader(signature, spec.confidence, self.sample)

    @property
    def loaded(self) -> bool:
        return hasattr(self, "lane")

    @property
    def signature(self) -> Signature | None:
        return self.codec.signature if self.loaded else None

    @property
    def queue_rows(self) -> int:
        return self.lane.queue_rows if self.loaded else 0


class Fleet:
    """All versions and the routes to them. Used from the event loop's thread only."""

    def __init__(
        self,
        *,
        runtimes: Mapping[str, Runtime],
        devices: Devices,
        cores: int,
        inline_s: float = INLINE_S,
        rebuild_delays_s: Sequence[float] = REBUILD_DELAYS_S,
    ) -> None:
        self.router: Router[Served] = Router()
        self._runtimes = runtimes
        self._devices = devices
        self._cores = cores
        self._inline_s = inline_s
        self._rebuild_delays_s = rebuild_delays_s
        self._served: dict[Key, Served] = {}
        self._draining: dict[asyncio.Task[None], Served] = {}
        self._rebuilding: set[asyncio.Task[None]] = set()
        self.gates: dict[str, Gate] = {}

    # Load

    async def load(self, request: LoadRequest) -> Served:
        """Open, warm and calibrate a version's replicas; no route leads to it yet.

        :raises LoadFailed: with the runtime's reason
        :raises OutOfMemory: the device has no room for it
        """
        spec = request.spec
        runtime = self._runtimes[request.runtime]
        replicas = spec.service_info.replicas
        report = request.report
        devices = self._devices.place(spec.resource, replicas, needs_bytes=report.memory_bytes)
        started = time()
        curve = LatencyCurve()
        sessions: list[Session] = []
        knobs = make_knobs(spec, report.signature)
        try:
            first, sample = await asyncio.to_thread(
                open_warm,
                runtime,
                request.path,
                spec,
                devices[0],
                signature=report.signature,
                curve=curve,
                rows_max=knobs.batch_size,
            )
            sessions.append(first)
            for device in devices[1:]:
                sessions.append(await asyncio.to_thread(open_session, runtime, request.path, spec, device))
            served = self._make_served(request, sessions, curve, sample)
        except BaseException:
            for session in sessions:
                session.close()
            raise
        served.load_s = time() - started
        served.loaded_at = time()
        return served

    def check(self, spec: Spec, report: ProbeReport) -> None:
        """Find out before loading whether a spec can be met here.

        :raises LoadFailed: it asks for a device, a batch size or an output that is not there
        :raises OutOfMemory: no device has that much memory free
        """
        self._devices.place(spec.resource, spec.service_info.replicas, needs_bytes=report.memory_bytes)
        make_knobs(spec, report.signature)
        confidence_reader(report.signature, spec.confidence, None)

    def _make_served(
        self,
        request: LoadRequest,
        sessions: Sequence[Session],
        curve: LatencyCurve,
        sample: Outputs | None,
    ) -> Served:
        key = request.project, request.model, request.version
        served = Served(key, request.spec, request.digest, state="ready")
        served.runtime = request.runtime
        served.provider = sessions[0].provider
        served.devices = tuple(session.device.label for session in sessions)
        served.memory_bytes = request.report.memory_bytes
        served.sample = sample
        # The probe's signature, not the session's: it has seen how the outputs' rows follow the inputs'.
        served.codec = Codec(request.report.signature)
        served.lane = self._make_lane(request, served, sessions, curve)
        return served

    def _make_lane(
        self, request: LoadRequest, served: Served, sessions: Sequence[Session], curve: LatencyCurve
    ) -> Lane:
        knobs, read_confidence = served.behaviour(request.spec)
        loop = asyncio.get_running_loop()
        device = sessions[0].device
        inline = device.kind == "cpu" and request.report.bounded

        def lost(replica: Replica, reason: str) -> None:
            self._lost(served, request, replica, reason)

        return Lane(
            request.label,
            codec=served.codec,
            replicas=[
                Replica(session, name=f"local/{number}", gate=self._gate(session.device), loop=loop)
                for number, session in enumerate(sessions)
            ],
            knobs=knobs,
            curve=curve,
            read_confidence=read_confidence,
            width=sessions[0].threads if device.kind == "cpu" else 1,
            inline_s=self._inline_s if inline else 0.0,
            on_lost=lost,
            loop=loop,
        )

    def _gate(self, device: Device) -> Gate:
        gate = self.gates.get(device.label)
        if gate is None:
            gate = self.gates[device.label] = Gate(slots=self._cores if device.kind == "cpu" else 1)
        return gate

    def discard(self, served: Served) -> None:
        """Close a version that was loaded but never switched in."""
        if served.loaded:
            served.lane.close()

    # Switch

    def switch(
        self,
        *,
        added: Sequence[Served] = (),
        respecced: Sequence[tuple[Key, Spec]] = (),
        removed: Sequence[Key] = (),
    ) -> None:
        """Change all routes at once; what was replaced or removed drains in the background."""
        leaving = [served for key in removed if (served := self._served.pop(key, None))]
        for served in added:
            before = self._served.get(served.key)
            if before is not None:
                leaving.append(before)
            self._served[served.key] = served
        for key, spec in respecced:
            served = self._served[key]
            served.spec = spec
            if served.loaded:
                served.lane.knobs, served.lane.read_confidence = served.behaviour(spec)
        self._route()
        for served in leaving:
            self._retire(served)

    def mark(self, key: Key, spec: Spec, digest: str, *, state: State, reason: str | None) -> None:
        """List a version that has no lane: it is still loading, or it could not be loaded."""
        self._served[key] = Served(key, spec, digest, state=state, reason=reason)
        self._route()

    def _route(self) -> None:
        models: dict[tuple[str, str], list[Served]] = {}
        for served in self._served.values():
            models.setdefault((served.project, served.model), []).append(served)
        routes: list[Route[Served]] = []
        for (project, model), versions in models.items():
            ready = [one for one in versions if one.state == "ready"]
            takers = [one for one in ready if not one.spec.service_info.shadow]
            cycle = weighted_cycle([one.spec.service_info.weight for one in takers])
            routes.append(Route(project, model, None, [takers[index] for index in cycle]))
            for served in versions:
                routes.append(Route(project, model, served.version, [served] if served in ready else []))
        self.router.replace(routes)

    def _retire(self, served: Served) -> None:
        if not served.loaded:
            return
        served.state = "draining"
        task = asyncio.get_running_loop().create_task(self._drain(served), name=f"drain {served.version}")
        self._draining[task] = served
        task.add_done_callback(self._draining.pop)

    async def _drain(self, served: Served) -> None:
        if not await served.lane.drain(deadline_s=served.lane.knobs.prediction_s):
            logger.warning("%s: closed with work left after its drain deadline", served.lane.name)
        served.lane.close()

    # Rebuild

    def _lost(self, served: Served, request: LoadRequest, replica: Replica, reason: str) -> None:
        """A replica cannot be used again: take the version out if it was the last one, and build another."""
        logger.error("%s: replica %s is lost: %s", served.lane.name, replica.name, reason)
        replica.close()
        if not served.lane.replicas:
            served.state, served.reason = "failed", f"{reason}; it is being rebuilt"
            self._route()
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._rebuild(served, request, replica), name=f"rebuild {replica.name}")
        self._rebuilding.add(task)
        task.add_done_callback(self._rebuilding.discard)

    async def _rebuild(self, served: Served, request: LoadRequest, replica: Replica) -> None:
        runtime = self._runtimes[request.runtime]
        for delay_s in self._rebuild_delays_s:
            await asyncio.sleep(delay_s)
            if self._served.get(served.key) is not served:
                return
            try:
                session = await asyncio.to_thread(
                    open_session, runtime, request.path, served.spec, replica.session.device
                )
            except MdsliteError as exc:
                served.reason = f"could not be rebuilt: {exc.message}"
                continue
            fresh = Replica(session, name=replica.name, gate=replica.gate, loop=asyncio.get_running_loop())
            served.lane.add_replica(fresh)
            served.state, served.reason = "ready", None
            self._route()
            return
        logger.error("%s: gave up rebuilding replica %s", served.lane.name, replica.name)

    # Look

    def all(self) -> list[Served]:
        """Every version, in the order in which they were deployed; those that are draining last."""
        return [*self._served.values(), *self._draining.values()]

    def find(self, project: str, model: str, version: str) -> Served | None:
        return self._served.get((project, model, version))

    async def close(self, *, grace_s: float) -> None:
        """Let every lane finish within `grace_s`, then close them all."""
        for task in list(self._rebuilding):
            task.cancel()
        lanes = [served.lane for served in self._served.values() if served.loaded]
        if lanes:
            await asyncio.gather(*(lane.drain(deadline_s=grace_s) for lane in lanes))
        tasks = [*self._draining, *self._rebuilding]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for served in self._served.values():
            self.discard(served)


def make_knobs(spec: Spec, signature: Signature) -> Knobs:
    """The batching knobs of a version, from its spec and what its model allows.

    :raises LoadFailed: the spec asks for batches of a model that cannot be batched
    """
    batch = spec.batch
    if signature.rows != "free" and (batch.batch_size or 1) > 1:
        raise LoadFailed(
            f"batch.batch_size is {batch.batch_size}, but the model fixes the first dimension of an input "
            "or output",
            hint="leave batch_size out, or export the model with a free first dimension",
        )
    free_size = DEFAULT_BATCH_SIZE if batch.batch_size is None else batch.batch_size
    return Knobs(
        batch_size=free_size if signature.rows == "free" else 1,
        batch_timeout_s=_seconds(batch.batch_timeout_ms, DEFAULT_BATCH_TIMEOUT_MS),
        prediction_s=_seconds(batch.prediction_time_ms, DEFAULT_PREDICTION_TIME_MS),
        queue_rows=QUEUE_ROWS,
    )


def _seconds(chosen_ms: float | None, default_ms: float) -> float:
    return (default_ms if chosen_ms is None else chosen_ms) / 1000
