"""Where a pipeline's nodes are computed: a handler on a lane of its own, or a deployed model by its routes.

A node takes data and gives answers as JSON texts, whatever computes it. Knows nothing of graphs.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import msgspec

from mdslite.data import DataCodec
from mdslite.errors import MdsliteError, ModelError, NotFound, Unavailable, UnsupportedMedia
from mdslite.fields import DEFAULT_BATCH_SIZE
from mdslite.graph import ModelName
from mdslite.runtimes.protocol import Datum
from mdslite.serving.answers import encode_answer, join_pieces
from mdslite.serving.lane import Lane
from mdslite.serving.queue import Job
from mdslite.serving.router import Router


class NodeJob(Job):
    """Rows of one request on their way through one node."""

    __slots__ = ("codec", "version")

    def __init__(self) -> None:
        super().__init__()
        self.version: str | None = None  # what answers: the handler's, or the deployed model's
        self.codec: Any = None  # of what answers


class Work(Protocol):
    """What a node computes with."""

    @property
    def rows_at_once(self) -> int:
        """How many rows of one request it can use together."""
        ...

    def send(self, job: NodeJob, data: list[Datum], now: float) -> None:
        """Submit `data` as the job's rows, whose deadline is set; `job.resolved` is called later.

        :raises MdsliteError: it cannot take them
        """
        ...


class Handler:
    """A class of the pipeline's own package, which batches on a lane of its own, and may take `limit_s`."""

    def __init__(
        self, lane: Lane, codec: DataCodec, version: str | None = None, *, limit_s: float = math.inf
    ) -> None:
        self.lane = lane
        self._codec = codec
        self._version = version
        self.limit_s = limit_s

    @property
    def rows_at_once(self) -> int:
        return self.lane.knobs.batch_size

    def send(self, job: NodeJob, data: list[Datum], now: float) -> None:
        job.version = self._version
        job.codec = self._codec
        job.columns = self._codec.from_data(data)
        job.deadline = min(job.deadline, now + self.limit_s)
        self.lane.submit(job, now)


class Deployed:
    """A model of the same appliance: its weights choose the version at each call, unless one is named."""

    rows_at_once = DEFAULT_BATCH_SIZE

    def __init__(self, name: ModelName, router: Router[Any]) -> None:
        self.name = name
        self._router = router

    def send(self, job: NodeJob, data: list[Datum], now: float) -> None:
        name = self.name
        try:
            served = self._router.find(name.project, name.model, name.version).pick()
        except NotFound as exc:
            raise Unavailable(exc.message, retry_after_s=1) from exc
        job.version = served.version
        job.codec = codec = served.codec
        lane = served.lane
        if codec.streams:
            raise ModelError(f"{name} streams its answer, which a pipeline cannot pass on")
        lane.make_room(len(data))
        if isinstance(codec, DataCodec):
            raw = len(data) == 1 and type(data[0]) is not bytes
            job.columns = codec.from_data(data, "value" if raw else "instances")
        else:
            job.columns = codec.decode(_instances(name, data))
        job.deadline = min(job.deadline, now + lane.knobs.prediction_s)
        lane.submit(job, now)


def read_answers(job: NodeJob) -> list[bytes]:
    """The answers of a job that was resolved without an error, one a row.

    :raises ModelError: they cannot be written as JSON
    """
    codec = job.codec
    if isinstance(codec, DataCodec):
        return join_pieces(codec, job.pieces)[0]  # type: ignore[return-value]
    try:
        body = encode_answer(codec, job.pieces, "instances")
    except MdsliteError:
        raise
    except Exception as exc:  # whatever a model may answer that JSON does not know
        raise ModelError("its answer could not be encoded as JSON") from exc
    return list(map(bytes, _predictions(body).predictions))


class _Predictions(msgspec.Struct):
    predictions: list[msgspec.Raw]


_predictions = msgspec.json.Decoder(_Predictions).decode


def _instances(name: ModelName, data: list[Datum]) -> bytes:
    """JSON texts as the body of a request to a model with typed tensors."""
    for datum in data:
        if type(datum) is not bytes:
            raise UnsupportedMedia(f"{name} takes JSON instances in a pipeline, no raw bodies and no arrays")
    return b'{"instances":[' + b",".join(data) + b"]}"  # type: ignore[arg-type]
