"""Opens versions: their sessions on the devices that they are placed on, warmed and measured, behind a lane.

Knows what each kind of model needs; routes nothing and keeps nothing but the devices' gates.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import structs

from mdslite import pipelines
from mdslite.data import DataCodec
from mdslite.graph import ModelName
from mdslite.runtimes.confined import ConfinedRuntime
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.kinds import cpu_build
from mdslite.runtimes.protocol import DataSession, Device, Outputs, ProbeReport, Runtime, Session
from mdslite.serving.agreement import check_output
from mdslite.serving.behaviour import behaviour, confidence_field, make_knobs
from mdslite.serving.calibrate import Warm, load_options, open_fitting, open_warm
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate
from mdslite.serving.lane import Lane
from mdslite.serving.nodes import Deployed, Handler, Work
from mdslite.serving.pipeline import PipelineLane
from mdslite.serving.remote.lane import RemoteLane
from mdslite.serving.remote.loading import check_infos, load_remote
from mdslite.serving.router import Router
from mdslite.serving.station import OpenSession, Station
from mdslite.spec import Batch, Spec
from mdslite.tensors import Codec

# Of a model that may be open twice where that pays: see `open_fitting`.
TWICE_BYTES = 64 * 1024 * 1024

AnyCodec: TypeAlias = Codec | DataCodec
AnyLane: TypeAlias = Lane | PipelineLane | RemoteLane


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A version to load: `path` is the model in the artifact store, `digest` that of its artifact."""

    project: str
    model: str
    version: str
    spec: Spec
    digest: str
    path: Path
    report: ProbeReport
    runtime: str = "ONNXRUNTIME"
    package_type: str = "ONNX"
    node: str | None = None  # of a pipeline, where this is one node of it
    handler: str | None = None  # and the dotted module of its class

    @property
    def label(self) -> str:
        label = f"{self.project}/{self.model} {self.version}"
        return label if self.node is None else f"{label} node {self.node}"

    def for_node(self, node: str, handler: str) -> LoadRequest:
        """How to load a node of this pipeline. Its own class says how it batches and how long it may take."""
        assert self.report.pipeline is not None
        report = replace(self.report, package=self.report.pipeline.handlers[handler], pipeline=None)
        spec = structs.replace(self.spec, batch=Batch(), confidence=None)
        return replace(self, spec=spec, report=report, node=node, handler=handler)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that is ready to be routed to. `sample` is what a warm-up run answered."""

    codec: AnyCodec
    lane: AnyLane
    stations: tuple[Station, ...]
    provider: str
    devices: tuple[str, ...]
    sample: Outputs | None = None


@dataclass(frozen=True, slots=True)
class Loader:
    """How versions are loaded on this machine. Used from the event loop's thread only."""

    runtimes: Mapping[str, Runtime]
    devices: Devices
    cores: int
    router: Router[Any]  # by which pipelines call deployed models
    inline: bool = True
    gates: dict[str, Gate] = field(default_factory=dict)

    def check(self, spec: Spec, report: ProbeReport) -> None:
        """Find out before loading whether a spec can be met here.

        :raises LoadFailed: it asks for a device, a batch size or an output that is not there
        :raises OutOfMemory: no device has that much memory free
        """
        if spec.service_info.endpoints_infos:
            check_infos(spec.service_info.endpoints_infos)
            return
        self.devices.place(spec.resource, spec.service_info.replicas, needs_bytes=report.memory_bytes)
        behaviour(spec, report, None)
        check_output(spec.compare, report.signature)

    async def load(self, request: LoadRequest) -> Loaded:
        """Open, warm and measure a version's replicas.

        :raises LoadFailed: with the runtime's reason
        :raises OutOfMemory: the device has no room for it
        """
        spec = request.spec
        if spec.service_info.endpoints_infos:
            codec, lane = await load_remote(
                request.label, (request.project, request.model, request.version), spec
            )
            return Loaded(codec, lane, (), "remote", ())
        places = self.devices.place(
            spec.resource,
            spec.service_info.replicas,
            needs_bytes=request.report.memory_bytes,
            cpu_only=cpu_build(request.runtime),
        )
        if request.report.pipeline is not None:
            return await self._load_pipeline(request, places)
        if request.report.package is not None:
            codec = DataCodec(
                streams=request.report.package.streams, confidence=confidence_field(request.spec)
            )
            return await self._load_package(request, places, codec)
        return await self._load_tensors(request, places)

    async def _load_tensors(self, request: LoadRequest, places: Sequence[Device]) -> Loaded:
        report, confined = request.report, is_confined(request)
        sessions: list[Session] = []
        beside: Session | None = None
        on_loop = self.inline and report.bounded and not confined
        try:
            twice = on_loop and len(places) == 1 and report.memory_bytes <= TWICE_BYTES
            warm = await asyncio.to_thread(self._open_first, request, places[0], twice=twice)
            first, beside = warm.session, warm.beside
            sessions.append(first)
            open_session = self._opener(request, threads=first.threads)
            for device in places[1:]:
                sessions.append(await asyncio.to_thread(open_session, device))
            # The probe's signature, not the session's: it has seen how the outputs' rows follow the inputs'.
            codec = Codec(report.signature)
            device = first.device
            on_cpu = device.kind == "cpu"
            station = Station(open_session)
            self._make_lane(
                station,
                request,
                sessions,
                codec=codec,
                curve=warm.curve,
                sample=warm.sample,
                gate=self.gate,
                width=first.threads if on_cpu else 1,
                inline=on_loop and on_cpu,
                beside=beside,
                costly_stop=confined,
            )
        except BaseException:
            for session in sessions if beside is None else (*sessions, beside):
                session.close()
            raise
        return Loaded(codec, station.lane, (station,), first.provider, _labels(sessions), warm.sample)

    def _open_first(self, request: LoadRequest, device: Device, *, twice: bool) -> Warm:
        signature, rows_max = request.report.signature, make_knobs(request.spec, request.report).batch_size
        # How many threads pay shows in this process's own time, where a confined model takes none.
        fits = request.spec.resource.cpu is None and not is_confined(request)
        if request.runtime == "ONNXRUNTIME" and device.kind == "cpu" and fits:
            return open_fitting(
                lambda threads: self._opener(request, threads=threads)(device),
                signature=signature,
                rows_max=rows_max,
                twice=twice,
            )
        return open_warm(partial(self._opener(request), device), signature=signature, rows_max=rows_max)

    def _opener(self, request: LoadRequest, *, threads: int | None = None) -> OpenSession:
        options = partial(
            load_options, request.spec, runtime=request.runtime, label=request.label, threads=threads
        )
        runtime = self.runtimes[request.runtime]
        confined = is_confined(request)
        return _opener(ConfinedRuntime(runtime.name) if confined else runtime, request.path, options)

    async def _load_pipeline(self, request: LoadRequest, places: Sequence[Device]) -> Loaded:
        """A pipeline: each handler is loaded like a package, the other nodes are called by their routes."""
        pipeline = await asyncio.to_thread(pipelines.read, request.path)
        # One codec for all: the confidence that the log keeps is that of the last node which has one.
        codec = DataCodec(confidence=confidence_field(request.spec))
        works: dict[str, Work] = {}
        loaded: list[Loaded] = []
        try:
            for node in pipeline.order:
                if isinstance(node.work, ModelName):
                    works[node.name] = Deployed(node.work, self.router)
                    continue
                wanted = request.for_node(node.name, node.work)
                loaded.append(await self._load_package(wanted, places, codec))
                works[node.name] = _make_handler(wanted, loaded[-1].stations[0].lane, codec)
        except BaseException:
            for one in loaded:
                one.lane.close()
            raise
        knobs = make_knobs(request.spec, request.report)
        return Loaded(
            codec,
            PipelineLane(request.label, pipeline=pipeline, works=works, codec=codec, knobs=knobs),
            stations=tuple(station for one in loaded for station in one.stations),
            provider=", ".join(dict.fromkeys(one.provider for one in loaded)),
            devices=tuple(label for one in loaded for label in one.devices),
        )

    async def _load_package(self, request: LoadRequest, places: Sequence[Device], codec: DataCodec) -> Loaded:
        """A Python package: every replica is built and warmed by its own code as it is opened."""
        options = partial(
            load_options,
            request.spec,
            runtime=request.runtime,
            label=request.label,
            handler=request.handler,
        )
        station = Station(_opener(self.runtimes[request.runtime], request.path, options))
        sessions: list[DataSession] = []
        try:
            for device in places:
                sessions.append(await asyncio.to_thread(station.open_session, device))
            # A package computes in a process of its own: how it and the models here share the cores is the
            # kernel's to say, and a slow one must not hold a turn that others wait for.
            own = Gate(slots=len(sessions))
            self._make_lane(
                station,
                request,
                sessions,
                codec=codec,
                curve=LatencyCurve(),
                sample=None,
                gate=lambda _: own,
                costly_stop=True,
            )
        except BaseException:
            for session in sessions:
                session.close()
            raise
        return Loaded(codec, station.lane, (station,), sessions[0].provider, _labels(sessions))

    def _make_lane(
        self,
        station: Station,
        request: LoadRequest,
        sessions: Sequence[Any],
        *,
        codec: AnyCodec,
        curve: LatencyCurve,
        sample: Outputs | None,
        gate: Callable[[Device], Gate],
        width: int = 1,
        inline: bool = False,
        beside: Session | None = None,
        costly_stop: bool = False,
    ) -> None:
        knobs, read_confidence = behaviour(request.spec, request.report, sample)
        loop = asyncio.get_running_loop()
        station.lane = Lane(
            request.label,
            codec=codec,
            replicas=[
                station.make_replica(
                    session,
                    name=f"{request.node or 'local'}/{number}",
                    gate=gate(session.device),
                    loop=loop,
                    beside=beside,
                )
                for number, session in enumerate(sessions)
            ],
            knobs=knobs,
            curve=curve,
            read_confidence=read_confidence,
            width=width,
            inline=inline,
            costly_stop=costly_stop,
            on_lost=station.lost,
            loop=loop,
        )

    def gate(self, device: Device) -> Gate:
        """The gate that batches on this device pass."""
        gate = self.gates.get(device.label)
        if gate is None:
            cpu = device.kind == "cpu"
            gate = self.gates[device.label] = Gate(slots=self.cores if cpu else 1, with_loop=cpu)
        return gate


def is_confined(request: LoadRequest) -> bool:
    """Whether a model gets a process of its own: as its spec says, else if a request could end it."""
    isolation = request.spec.isolation
    return isolation == "process" or (isolation is None and bool(request.report.hazards))


def _make_handler(request: LoadRequest, lane: Lane, codec: DataCodec) -> Handler:
    package = request.report.package
    assert package is not None
    own_ms = package.prediction_time_ms
    return Handler(lane, codec, package.version, limit_s=math.inf if own_ms is None else own_ms / 1000)


def _opener(runtime: Runtime, path: Path, options: Callable[[Device], Any]) -> OpenSession:
    def open_session(device: Device) -> Any:
        return runtime.open(path, options(device))

    return open_session


def _labels(sessions: Sequence[Session | DataSession]) -> tuple[str, ...]:
    return tuple(session.device.label for session in sessions)
