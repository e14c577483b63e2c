"""The admin API's parameters, bodies and replies as structs: what is decoded, encoded and documented is one
thing. Docstrings and descriptions here are the API's reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mdslite.api.operations import Name

PAGE_MAX = 1000
Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX, description=f"how many at most, 1 to {PAGE_MAX}")]
Time = Annotated[str, Meta(description="ISO 8601, UTC", examples=["2026-11-17T14:03:00.000Z"])]
Digest = Annotated[
    str, Meta(description="sha256: and 64 hex digits; remote or unknown where there are no bytes")
]


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A reply, or a part of one."""


class Given(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request brings: a name that is not known is refused."""


# Paths


class ModelPath(Given, frozen=True, kw_only=True):
    project: Name
    model: Name


class VersionPath(ModelPath, frozen=True, kw_only=True):
    version: Name


# Queries


class ReadyQuery(Given, frozen=True, kw_only=True):
    model: Annotated[str | None, Meta(description="PROJECT/MODEL: ask for that one alone")] = None


class AtQuery(Given, frozen=True, kw_only=True):
    at: Annotated[
        str | None,
        Meta(description="what was deployed then: ISO 8601 (UTC unless it says otherwise), or Unix seconds"),
    ] = None


class ModelsQuery(AtQuery, frozen=True, kw_only=True):
    project: Annotated[Name | None, Meta(description="only this project's models")] = None


# Bodies


class BackupBody(Given, frozen=True, kw_only=True):
    path: Annotated[str | None, Meta(description="the file to write; by default one in the store")] = None
    log: Annotated[bool, Meta(description="take the request log along")] = False


class PredictBody(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two: rows one by one (an instance is a value, or an object of them by input), or whole
    columns by input. Names, types and shapes are the model's."""

    instances: list[Any] | msgspec.UnsetType = msgspec.UNSET
    inputs: dict[str, list[Any]] | msgspec.UnsetType = msgspec.UNSET


# Replies


class ErrorReply(Value, frozen=True, kw_only=True):
    """What every error looks like. Some bring more fields, such as the line of a mistake."""

    error: Annotated[str, Meta(description="what was wrong, and what was expected")]
    code: Annotated[str, Meta(description="stable, to branch on")]
    request_id: str
    hint: str | msgspec.UnsetType = msgspec.UNSET
    field: (
        Annotated[str, Meta(description="the parameter, the header, or the place in the body that was wrong")]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class PredictReply(Value, frozen=True, kw_only=True):
    """`predictions`, one an instance in their order, for `instances`; `outputs` by name for `inputs`."""

    predictions: list[Any] | msgspec.UnsetType = msgspec.UNSET
    outputs: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class DeviceInfo(Value, frozen=True, kw_only=True):
    """A device as it is now; null for what it does not tell."""

    label: str
    name: str
    utilization_percent: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None


class Status(Value, frozen=True, kw_only=True):
    version: str
    pid: Annotated[int, Meta(description="0 for a token of some projects")]
    started_at: Time
    uptime_s: float
    revision: Annotated[int, Meta(description="the latest applied one, 0 before the first")]
    url: str
    store: Annotated[str, Meta(description="its folder; empty for a token of some projects")]
    devices: list[DeviceInfo]
    ready: bool
    draining: bool
    needs_token: bool
    keeps_log: Annotated[
        bool,
        Meta(description="whether requests are logged, counted and watched for drift: not with --no-log"),
    ]
    log_trouble: Annotated[
        str | None,
        Meta(
            description="why the request log is not written just now, and how many of its rows wait in memory"
        ),
    ]


class Health(Value, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"


class VersionState(Value, frozen=True, kw_only=True):
    project: str
    model: str
    version: str
    state: Literal["loading", "ready", "unhealthy", "failed", "unloaded", "draining"]
    reason: str | None


class Readiness(Value, frozen=True, kw_only=True):
    ready: bool
    draining: bool
    versions: list[VersionState]


class TensorInfo(Value, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: Annotated[list[int | None], Meta(description="null where the dimension is free")]
    optional: bool


class SignatureInfo(Value, frozen=True, kw_only=True):
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    rows: Annotated[
        Literal["free", "one", "none"],
        Meta(
            description="free: requests share batches; one: the first dimension is 1; none: no row dimension"
        ),
    ]


class BatchInfo(Value, frozen=True, kw_only=True):
    """The batcher's knobs in force. Null where there is none: each node of a pipeline batches on its own."""

    batch_size: int | None
    batch_timeout_ms: int | float | None
    prediction_time_ms: int | float


class NodeInfo(Value, frozen=True, kw_only=True):
    """A node of a pipeline. Most of it is null for a deployed model, which has knobs of its own."""

    node: str
    runs: Annotated[str, Meta(description="a handler's dotted module, or PROJECT/MODEL[@VERSION]")]
    replicas: Annotated[int | None, Meta(description="in rotation now")] = None
    queue_rows: int | None = None
    batch_size: int | None = None
    batch_timeout_ms: int | float | None = None
    prediction_time_ms: Annotated[
        int | float | None, Meta(description="the node's own limit; null leaves it to the pipeline's")
    ] = None


class PipelineInfo(Value, frozen=True, kw_only=True):
    name: str
    drawing: Annotated[str, Meta(description="the graph as text")]
    nodes: list[NodeInfo]


class VersionInfo(Value, frozen=True, kw_only=True):
    """A version as it serves, with the traffic of the last minute; `past` is one that is told from the
    registry alone. Null stands for what is not known, such as the latency of a version without traffic."""

    version: str
    state: Literal["loading", "ready", "unhealthy", "failed", "unloaded", "draining", "past"]
    reason: str | None
    weight: float
    share: Annotated[float, Meta(description="of the model's traffic, 0 to 1")]
    shadow: bool
    replicas: int
    uri: str
    digest: Digest
    size_bytes: int | None
    memory_bytes: Annotated[int | None, Meta(description="of one replica, as measured before it was loaded")]
    since_revision: int | None
    runtime: str | None = None
    device: str | None = None
    provider: str | None = None
    loaded_at: Time | None = None
    batch: BatchInfo
    signature: SignatureInfo | None = None
    pipeline: PipelineInfo | None = None
    endpoints: list[EndpointState] | None = None
    queue_rows: int = 0
    window_s: Annotated[
        float | None,
        Meta(description="what the figures down to error_rate are of: a minute, less for a younger version"),
    ] = None
    requests: Annotated[int | None, Meta(description="all of them")] = None
    rps: Annotated[float | None, Meta(description="all requests, a second")] = None
    p50_ms: Annotated[float | None, Meta(description="of good answers; p99_ms too")] = None
    p99_ms: float | None = None
    errors: Annotated[int | None, Meta(description="requests with a status of 500 or above")] = None
    refused: Annotated[int | None, Meta(description="requests with a status of 400 to 499")] = None
    error_rate: Annotated[float | None, Meta(description="0 to 1, of what was not refused")] = None
    requests_total: Annotated[int | None, Meta(description="since the start")] = None


class EndpointState(Value, frozen=True, kw_only=True):
    """Where a version that is served elsewhere is asked. One that is not `available` is left out for now."""

    url: str
    available: bool
    reason: Annotated[str | None, Meta(description="of its last failure, while it is left out")]
    open: Annotated[int, Meta(description="requests that wait for its answer")]
    requests: int
    failures: int


class PrintedInfo(Value, frozen=True, kw_only=True):
    """The end of what a replica's package printed on stdout and stderr, tracebacks included."""

    replica: str
    text: Annotated[str, Meta(description="at most 64 KiB")]
    ended: Annotated[str | None, Meta(description="how its process ended, null while it serves")]


class ModelInfo(Value, frozen=True, kw_only=True):
    """A model and its versions. `at` and `revision` are set when a past state was asked for."""

    project: str
    model: str
    versions: list[VersionInfo]
    at: Time | msgspec.UnsetType = msgspec.UNSET
    revision: int | msgspec.UnsetType | None = msgspec.UNSET


class BackupReply(Value, frozen=True, kw_only=True):
    path: str
    store: Annotated[str, Meta(description="the folder that it is a copy of")]
    size_bytes: int
    parts: Annotated[dict[str, int], Meta(description="what each part takes of it, in bytes")]


class FindingInfo(Value, frozen=True, kw_only=True):
    level: Literal["ok", "warning", "error"]
    what: str
    hint: str | None
