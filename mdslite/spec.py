"""The version spec as typed structs, and as plain values.

Owns the names and bounds of every field. Owns neither the file that specs come in (see `deployments`) nor
artifacts nor devices: a spec that fits may still ask for what this machine lacks.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from mdslite.declarations import Tensors
from mdslite.errors import SpecError
from mdslite.fields import (
    DEFAULT_REPLICAS,
    DEFAULT_SHADOW_PERCENT,
    DEFAULT_WEIGHT,
    QUEUE_ROWS,
    Cores,
    Memory,
    Milliseconds,
    Operator,
    PackageType,
    Percent,
    PositiveMilliseconds,
    Replicas,
    RuntimeType,
    SourceType,
    Weight,
    parse_memory,
)
from mdslite.logrules import Log
from mdslite.settings import ContainerParameter
from mdslite.targets import Match, Sticky


class _Value(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class OperatorConfigs(_Value, frozen=True):
    ncc_operator_config: dict[str, Any] = field(default_factory=dict)
    c3dls_operator_config: dict[str, Any] = field(default_factory=dict)
    custom_operator_config: dict[str, Any] = field(default_factory=dict)


class Resource(_Value, frozen=True):
    """What a replica wants. `gpu` None takes a GPU where there is one, 0 none, 1 or more insists."""

    cpu: Cores | None = None
    gpu: (
        Annotated[int, Meta(ge=0, le=1024, description="GPUs for each replica; 0 stays on the CPU")] | None
    ) = None
    memory: Memory | None = None
    gpu_names: (
        Annotated[str, Meta(min_length=1, description='comma-separated name patterns, such as "H200,A100*"')]
        | None
    ) = None

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else parse_memory(self.memory)


class EndpointInfo(_Value, frozen=True):
    url: Annotated[
        str, Meta(min_length=1, description="where the endpoint answers, such as http://host:8500")
    ]
    protocol: Literal["PREDICT", "OIP"] = "PREDICT"
    provider: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


class ServiceInfo(_Value, frozen=True):
    replicas: Replicas = DEFAULT_REPLICAS
    weight: Weight = DEFAULT_WEIGHT
    shadow: bool = False
    shadow_percent: Percent = DEFAULT_SHADOW_PERCENT
    endpoints_infos: tuple[EndpointInfo, ...] = ()
    match: Annotated[
        tuple[Match, ...], Meta(description="headers that bring a request here, whatever the weights")
    ] = ()
    sticky: Sticky | None = None  # of the model, repeated in each of its versions


class Batch(_Value, frozen=True):
    """The batcher's knobs; None takes the default."""

    batch_size: (
        Annotated[int, Meta(ge=1, le=QUEUE_ROWS, description=f"rows in a batch, 1 to {QUEUE_ROWS}")] | None
    ) = None
    batch_timeout_ms: (
        Annotated[Milliseconds, Meta(description="how long a batch may wait to fill up, in milliseconds")]
        | None
    ) = None
    prediction_time_ms: (
        Annotated[
            PositiveMilliseconds,
            Meta(description="how long a prediction may take, in milliseconds"),
        ]
        | None
    ) = None


class Confidence(_Value, frozen=True):
    """Where the request log finds a prediction's confidence: an output, and a field or a column of it."""

    output: Annotated[str, Meta(min_length=1, description="the name of the model's output")] | None = None
    field: Annotated[str | int, Meta(description="a key or a column of that output")] | None = None


class Compare(_Value, frozen=True):
    """When answers of two versions agree: what of them is compared, and how near numbers have to be."""

    output: Annotated[str, Meta(min_length=1, description="the name of the model's output")] | None = None
    field: Annotated[str, Meta(min_length=1, description="a field of a package's answer")] | None = None
    tolerance: (
        Annotated[float, Meta(ge=0, description="how far numbers may differ, such as 0.001")] | None
    ) = None
    function: (
        Annotated[str, Meta(pattern=r"\A[\w.]+:\w+\Z", description="your own, as MODULE:FUNCTION")] | None
    ) = None


class Spec(_Value, frozen=True):
    uri: Annotated[
        str,
        Meta(
            pattern=r"\A[^\x00-\x1f\x7f]+\Z",
            description="where the model is: a file, a folder or an http(s) address",
            extra={"word": "a path or an address", "also": ("url", "path", "file", "model", "artifact")},
        ),
    ]
    source_type: SourceType = SourceType.UNSET_SOURCETYPE
    package_type: PackageType = PackageType.UNSET_PACKAGETYPE
    runtime: RuntimeType = RuntimeType.UNSET_RUNTIME
    operator: Operator = Operator.UNSET_OPERATOR
    operator_configs: OperatorConfigs = OperatorConfigs()
    container_parameter: dict[str, Any] = field(default_factory=dict)
    resource: Resource = Resource()
    service_info: ServiceInfo = ServiceInfo()
    batch: Batch = Batch()
    isolation: Literal["process", "inline"] | None = None
    confidence: Confidence | None = None
    compare: Compare | None = None
    tensors: Tensors | None = None
    log: Log = Log()

    @property
    def container(self) -> ContainerParameter:
        """The part of `container_parameter` that is understood."""
        return msgspec.convert(self.container_parameter, ContainerParameter)


_DEFAULTS = Spec(uri="")


def to_plain(spec: Spec) -> dict[str, Any]:
    """A spec as JSON-able values, without what is at its default."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
    # msgspec leaves out a struct's fields, but not a struct of which nothing is left.
    return {key: value for key, value in plain.items() if getattr(spec, key) != getattr(_DEFAULTS, key)}


def from_plain(plain: dict[str, Any]) -> Spec:
    """The reverse of `to_plain`.

    :raises SpecError: when a value does not fit
    """
    try:
        return msgspec.convert(plain, Spec)
    except msgspec.ValidationError as exc:
        raise SpecError(f"a stored spec does not fit: {exc}", file="registry") from exc
