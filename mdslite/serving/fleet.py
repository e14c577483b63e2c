"""The loaded versions: switching in together, draining, and what is known of each. Owns every lane.

Loading happens off the event loop (`loader`); switching is one synchronous call on it, so that a request sees
either the routes before an apply or those after it. What was replaced answers what it has and is then closed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic, time
from typing import Literal

import msgspec

from mdslite.data import DataCodec
from mdslite.oip.message import Messages
from mdslite.oip.speech import make_messages
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.protocol import Outputs, ProbeReport, Runtime, Signature
from mdslite.serving.agreement import check_output
from mdslite.serving.batch import Confidence
from mdslite.serving.behaviour import behaviour, confidence_field, remote_behaviour
from mdslite.serving.declared import declared_tensors
from mdslite.serving.gate import Gate, Priority
from mdslite.serving.knobs import Knobs
from mdslite.serving.loader import AnyCodec, AnyLane, Loader, LoadRequest
from mdslite.serving.pipeline import PipelineLane
from mdslite.serving.remote.lane import RemoteLane
from mdslite.serving.router import Route, Router, Share, weighted_cycle
from mdslite.serving.samples import Samples
from mdslite.serving.station import Station
from mdslite.serving.targeting import Selector
from mdslite.serving.upkeep import CHECK_EVERY_S, REBUILD_DELAYS_S, Kept, Upkeep
from mdslite.spec import ServiceInfo, Spec
from mdslite.store.comparisons import DropReason

logger = logging.getLogger(__name__)

Key = tuple[str, str, str]  # project, model, version
# An unhealthy version is loaded, but none of its replicas can take requests now: its reason says why.
State = Literal["loading", "ready", "unhealthy", "failed", "unloaded", "draining"]


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a version is told to take, and what its model is known by: another one has another `identity`."""

    info: ServiceInfo
    identity: str


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
        self.shadows_dropped: Counter[DropReason] = Counter()
        self.samples = Samples(spec.log)
        self.sample: Outputs | None = None  # what a warm-up run answered
        self.stations: tuple[Station, ...] = ()
        self.report: ProbeReport
        self.codec: AnyCodec
        self.lane: AnyLane
        self._messages: Messages | None = None

    @property
    def key(self) -> Key:
        return self.project, self.model, self.version

    @property
    def label(self) -> str:
        return f"{self.project}/{self.model} {self.version}"

    def behaviour(self, spec: Spec) -> tuple[Knobs, Confidence]:
        """What of a spec changes without loading again.

        :raises LoadFailed: it does not fit the model that is loaded
        """
        if isinstance(self.lane, RemoteLane):
            return remote_behaviour(spec, self.codec.signature)
        return behaviour(spec, self.report, self.sample)

    def check(self, spec: Spec) -> None:
        """Find out whether `follow` could be called.

        :raises LoadFailed: the spec does not fit the model that is loaded
        """
        self.behaviour(spec)
        # A rule that is there already keeps no weight back, and what a model elsewhere answers is not known.
        if spec.compare != self.spec.compare and not isinstance(self.lane, RemoteLane):
            check_output(spec.compare, self.codec.signature)

    def follow(self, spec: Spec) -> None:
        """Take on what of a spec changes without loading again.

        :raises LoadFailed: it does not fit the model that is loaded
        """
        if spec.log != self.spec.log:
            self.samples = Samples(spec.log)
        self.spec, self._messages = spec, None
        if self.loaded:
            self.lane.knobs, read_confidence = self.behaviour(spec)
            if not isinstance(self.lane, PipelineLane):
                self.lane.read_confidence = read_confidence
            self._rank()
            if isinstance(self.codec, DataCodec):
                self.codec.confidence = confidence_field(spec)

    def _rank(self) -> None:
        """A shadow's work comes after all others'."""
        priority = Priority.SHADOW if self.spec.service_info.shadow else Priority.PRIMARY
        for station in self.stations:
            station.lane.set_priority(priority)

    @property
    def messages(self) -> Messages:
        """How a loaded version speaks the Open Inference Protocol."""
        if self._messages is None:
            self._messages = make_messages(
                self.codec,
                model=f"{self.project}.{self.model}",
                version=self.version,
                declared=declared_tensors(self.spec),
            )
        return self._messages

    @property
    def able(self) -> bool:
        """Can a loaded version take requests now?"""
        if isinstance(self.lane, RemoteLane):
            return self.lane.pool.available > 0
        return all(station.lane.replicas for station in self.stations)

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
        inline: bool = True,
        rebuild_delays_s: Sequence[float] = REBUILD_DELAYS_S,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        self.router: Router[Served] = Router()
        self._loader = Loader(runtimes, devices, cores, self.router, inline)
        self._upkeep = Upkeep(
            self._served_now, self._refresh, delays_s=rebuild_delays_s, check_every_s=check_every_s
        )
        self._served: dict[Key, Served] = {}
        self._draining: dict[asyncio.Task[None], Served] = {}
        self._mirrors: dict[Key, float] = {}  # percent of the others' requests

    # Load

    async def load(self, request: LoadRequest) -> Served:
        """Open, warm and calibrate a version's replicas; no route leads to it yet.

        :raises LoadFailed: with the runtime's reason
        :raises OutOfMemory: the device has no room for it
        """
        started = time()
        loaded = await self._loader.load(request)
        key = request.project, request.model, request.version
        served = Served(key, request.spec, request.digest, state="ready")
        served.runtime = request.runtime
        served.provider = loaded.provider
        served.devices = loaded.devices
        served.memory_bytes = request.report.memory_bytes
        served.sample = loaded.sample
        served.report = request.report
        served.codec = loaded.codec
        served.lane = loaded.lane
        served.stations = loaded.stations
        served.follow(request.spec)
        served.load_s = time() - started
        served.loaded_at = time()
        return served

    def check(self, spec: Spec, report: ProbeReport) -> None:
        """Find out before loading whether a spec can be met here.

        :raises LoadFailed: it asks for a device, a batch size or an output that is not there
        :raises OutOfMemory: no device has that much memory free
        """
        self._loader.check(spec, report)

    def calls(self, key: Key) -> tuple[str, ...]:
        """The deployed models that a version calls, if it is a pipeline that is loaded."""
        served = self._served.get(key)
        pipeline = served.report.pipeline if served is not None and served.loaded else None
        return pipeline.models if pipeline is not None else ()

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
            self._upkeep.adopt(served)
            if isinstance(served.lane, RemoteLane):
                served.lane.changed = partial(self._refresh, served, None)
        for key, spec in respecced:
            self._served[key].follow(spec)
        self._route()
        for served in leaving:
            self._retire(served)

    def mark(self, key: Key, spec: Spec, digest: str, *, state: State, reason: str | None) -> None:
        """List a version that has no lane: it is still loading, or it could not be loaded."""
        self._served[key] = Served(key, spec, digest, state=state, reason=reason)
        self._route()

    def unload(self, key: Key) -> None:
        """Take a version out of its routes and, once it has answered what it has, out of memory."""
        served = self._served[key]
        reason = f"it was unloaded: mdslite load {served.project}/{served.model} brings it back"
        self.mark(key, served.spec, served.digest, state="unloaded", reason=reason)
        self._retire(served)

    def _route(self) -> None:
        models: dict[tuple[str, str], list[Served]] = {}
        for served in self._served.values():
            models.setdefault((served.project, served.model), []).append(served)
        routes: list[Route[Served]] = []
        for (project, model), versions in models.items():
            ready = [one for one in versions if one.state == "ready"]
            takers = [one for one in ready if not one.spec.service_info.shadow]
            cycle = weighted_cycle([one.spec.service_info.weight for one in takers])
            shadows = [
                Share(one, one.spec.service_info.shadow_percent)
                for one in ready
                if one.spec.service_info.shadow
            ]
            shadows += [Share(one, self._mirrors[one.key]) for one in takers if one.key in self._mirrors]
            routes.append(
                Route(
                    project,
                    model,
                    None,
                    [takers[index] for index in cycle],
                    shadows=shadows,
                    selector=_make_selector(takers),
                    back_in_s=partial(_back_in_s, versions),
                    states={one.version: one.state for one in versions},
                )
            )
            for served in versions:
                cycle_of_one = [served] if served in ready else []
                back_in_s = partial(_back_in_s, [served])
                states = {served.version: served.state}
                routes.append(
                    Route(project, model, served.version, cycle_of_one, back_in_s=back_in_s, states=states)
                )
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

    def _refresh(self, kept: Kept, reason: str | None) -> None:
        """A version's replicas came or went: it is ready while each of its lanes has one in rotation."""
        served = kept
        assert isinstance(served, Served)
        if self._served.get(served.key) is not served or served.state not in ("ready", "unhealthy"):
            return
        if served.able:
            served.state, served.reason = "ready", None
        else:
            if isinstance(served.lane, RemoteLane):
                reason = served.lane.pool.why_none()
            served.state, served.reason = "unhealthy", reason or served.reason
        self._route()

    # Look

    def all(self) -> list[Served]:
        """Every version, in the order in which they were deployed; those that are draining last."""
        return [*self._served.values(), *self._draining.values()]

    def _served_now(self) -> list[Served]:
        return [served for served in self._served.values() if served.loaded]

    @property
    def gates(self) -> Mapping[str, Gate]:
        """The gate of each device that something was loaded on."""
        return self._loader.gates

    def deployed(self, project: str, model: str) -> dict[str, Deployed]:
        """A model's versions by name."""
        return {
            one.version: Deployed(one.spec.service_info, _identity(one))
            for one in self._served.values()
            if (one.project, one.model) == (project, model)
        }

    def mirror(self, key: Key, percent: float | None) -> None:
        """Have a version get copies of so many percent of the requests that others of its model answer."""
        if percent is None:
            self._mirrors.pop(key, None)
        else:
            self._mirrors[key] = percent
        self._route()

    def find(self, project: str, model: str, version: str) -> Served | None:
        return self._served.get((project, model, version))

    async def close(self, *, grace_s: float) -> None:
        """Let every lane finish within `grace_s`, then close them all."""
        await self._upkeep.close()
        lanes = [served.lane for served in self._served.values() if served.loaded]
        if lanes:
            await asyncio.gather(*(lane.drain(deadline_s=grace_s) for lane in lanes))
        tasks = list(self._draining)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for served in self._served.values():
            self.discard(served)


def _identity(served: Served) -> str:
    """The digest, or of a version that is served elsewhere, where."""
    endpoints = served.spec.service_info.endpoints_infos
    return msgspec.json.encode(endpoints).decode() if endpoints else served.digest


def _back_in_s(versions: Sequence[Served]) -> float:
    """Whole seconds until the first of these is tried again, at least one: what to tell who finds none."""
    stations = [station for one in versions for station in one.stations if not station.lane.replicas]
    left_s = min((station.rebuild_at - monotonic() for station in stations), default=0.0)
    return float(max(1, math.ceil(left_s)))


def _make_selector(takers: Sequence[Served]) -> Selector[Served] | None:
    """What a model's requests choose by, None where they have no choice."""
    infos = [(one.spec.service_info, one) for one in takers]
    matches = [(match, one) for info, one in infos for match in info.match]
    sticky = next((info.sticky for info, _ in infos if info.sticky is not None), None)
    if not matches and sticky is None:
        return None
    versions = [(one.version, info.weight, one) for info, one in infos]
    return Selector(matches=matches, sticky=sticky, versions=versions)
