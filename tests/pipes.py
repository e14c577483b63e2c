"""Stand-ins for the parts around a pipeline in service: handlers under the test's control, deployed models,
and requests that remember."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lanes import FakeHandle

from mdslite.data import DataCodec, read_confidences
from mdslite.errors import DeadlineExceeded, MdsliteError, ModelError
from mdslite.graph import Pipeline
from mdslite.runtimes.protocol import CPU, DATA_SIGNATURE, Answers, DataFeeds, Datum
from mdslite.serving.batch import Confidence
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate
from mdslite.serving.knobs import Knobs
from mdslite.serving.lane import Lane
from mdslite.serving.nodes import Deployed, Handler, Work
from mdslite.serving.pipeline import PipelineLane
from mdslite.serving.queue import Job
from mdslite.serving.replica import Replica
from mdslite.serving.router import Route, Router, weighted_cycle

Compute = Callable[[Any], Any]


class FakeHandler:
    """A handler's session: `compute` takes and gives a plain value. With `hold` cleared, runs wait."""

    signature = DATA_SIGNATURE
    device = CPU
    provider = "Fake"
    threads = 1
    has_check = False

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.batches: list[list[Any]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Event()
        self.closed = False

    def handle(self) -> FakeHandle:
        return FakeHandle()

    def run(self, feeds: DataFeeds, handle: Any = None) -> list[Answers]:
        data = [json.loads(datum) if type(datum) is bytes else datum for datum in feeds["data"]]
        self.batches.append(data)
        self.entered.set()
        while not self.hold.wait(0.005):
            if handle is not None and handle.stopped.is_set():
                raise DeadlineExceeded("terminated")
        rows = [self._answer(datum) for datum in data]
        known = [row.get("confidence") if isinstance(row, dict) else None for row in rows]
        return [
            Answers(
                [row if isinstance(row, MdsliteError) else json.dumps(row).encode() for row in rows],
                confidences=known,
            )
        ]

    def _answer(self, datum: Any) -> Any:
        try:
            return self.compute(datum)
        except Exception as exc:
            return ModelError(str(exc))

    def close(self) -> None:
        self.closed = True

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class FakeServed:
    """A deployed version, as routes know it."""

    def __init__(self, name: str, lane: Any, *, weight: float = 100) -> None:
        model, _, self.version = name.partition("@")
        self.project, _, self.model = model.partition("/")
        self.lane = lane
        self.codec = lane.codec
        self.weight = weight


class Request(Job):
    """A request of some instances; `await request.answer()` gives its answers or raises its error."""

    def __init__(self, *instances: Any, deadline: float = 1e12) -> None:
        data: list[Datum] = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in instances]
        super().__init__(DataCodec().from_data(data))
        self.deadline = deadline
        self.times_resolved = 0
        self._done = asyncio.Event()

    def resolved(self) -> None:
        self.times_resolved += 1
        self._done.set()

    async def answer(self) -> list[Any]:
        await asyncio.wait_for(self._done.wait(), 10)
        if self.error is not None:
            raise self.error
        [(start, [answers])] = self.pieces
        assert start == 0
        return [json.loads(answer) for answer in answers]

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """The spans by their nodes."""
        assert self.spans is not None
        return {span.pop("node"): span for span in json.loads(self.spans)}


def data_lane(name: str, *sessions: FakeHandler, **knobs: Any) -> Lane:
    return _lane(name, sessions, DataCodec(), read_confidences, knobs)


def tensor_lane(name: str, session: Any, codec: Any, **knobs: Any) -> Lane:
    return _lane(name, [session], codec, lambda outputs: None, knobs)


def _lane(
    name: str, sessions: Sequence[Any], codec: Any, read_confidence: Confidence, knobs: Mapping[str, Any]
) -> Lane:
    loop = asyncio.get_running_loop()
    gate = Gate(slots=8)
    return Lane(
        name,
        codec=codec,
        replicas=[
            Replica(session, name=f"local/{at}", gate=gate, loop=loop) for at, session in enumerate(sessions)
        ],
        knobs=Knobs(**knobs),
        curve=LatencyCurve(),
        read_confidence=read_confidence,
        loop=loop,
    )


def router(*deployed: FakeServed) -> Router[FakeServed]:
    """The routes of some deployed versions."""
    routes: Router[FakeServed] = Router()
    models: dict[tuple[str, str], list[FakeServed]] = {}
    for served in deployed:
        models.setdefault((served.project, served.model), []).append(served)
    found = [Route(one.project, one.model, one.version, [one]) for one in deployed]
    for (project, model), versions in models.items():
        cycle = weighted_cycle([one.weight for one in versions])
        found.append(Route(project, model, None, [versions[at] for at in cycle]))
    routes.replace(found)
    return routes


def pipeline_lane(
    pipeline: Pipeline,
    handlers: Mapping[str, FakeHandler],
    *,
    routes: Router[Any] | None = None,
    name: str = "p/pipe v1",
    node_knobs: Mapping[str, Mapping[str, Any]] | None = None,
    **knobs: Any,
) -> PipelineLane:
    """A pipeline in service. `handlers` are the sessions, by node."""
    codec = DataCodec()
    works: dict[str, Work] = {}
    for node in pipeline.order:
        if isinstance(node.work, str):
            lane = data_lane(
                f"{name} {node.name}", handlers[node.name], **(node_knobs or {}).get(node.name, {})
            )
            works[node.name] = Handler(lane, codec, "h1", limit_s=lane.knobs.prediction_s)
        else:
            works[node.name] = Deployed(node.work, routes or router())
    return PipelineLane(name, pipeline=pipeline, works=works, codec=codec, knobs=Knobs(**knobs))
