"""Parameters, bodies and replies of the Open Inference Protocol over REST, as clients know them.
Docstrings and descriptions here are the API's reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mdslite.api.operations import Name
from mdslite.api.schema import Given, Value

_OIP_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}\.[A-Za-z0-9][A-Za-z0-9_-]{0,62}$(?!\n)"
OipName = Annotated[
    str,
    Meta(
        pattern=_OIP_NAME,
        description="PROJECT.MODEL",
        extra={"word": "PROJECT.MODEL, such as demo.digits"},
    ),
]


# Paths


class OipModelPath(Given, frozen=True, kw_only=True):
    name: OipName


class OipVersionPath(OipModelPath, frozen=True, kw_only=True):
    version: Name


# Bodies


class OipInput(msgspec.Struct, frozen=True, kw_only=True):
    """One input: with `data`, flat in row-major order or nested, or with the parameter `binary_data_size`, of
    bytes that follow the JSON."""

    name: str
    datatype: Annotated[str, Meta(description="the model's own", examples=["FP32", "BYTES"])]
    shape: Annotated[list[int], Meta(description="its first dimension counts rows, where the model has rows")]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class OipWanted(msgspec.Struct, frozen=True, kw_only=True):
    """One output to answer; parameters `binary_data` and `classification` say how."""

    name: str
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class OipInferBody(msgspec.Struct, frozen=True, kw_only=True):
    """An infer request. Its parameters `binary_data_output` and `timeout` (microseconds) are honoured, others
    are accepted. Where bytes follow the JSON, Inference-Header-Content-Length says how long the JSON is."""

    id: str | msgspec.UnsetType = msgspec.UNSET
    inputs: list[OipInput]
    outputs: list[OipWanted] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class OipIndexBody(msgspec.Struct, frozen=True, kw_only=True):
    ready: Annotated[bool, Meta(description="only versions that can serve")] = False


class OipLoadParameters(Given, frozen=True, kw_only=True):
    """A model's configuration and files are what its deployments file says."""

    unload_dependents: bool = False


class OipLoadBody(msgspec.Struct, frozen=True, kw_only=True):
    parameters: OipLoadParameters | msgspec.UnsetType = msgspec.UNSET


# Replies


class OipOutput(Value, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class OipInferReply(Value, frozen=True, kw_only=True):
    """The answer; the bytes of outputs with `binary_data_size` follow the JSON, in their order."""

    model_name: str
    model_version: str
    id: str | msgspec.UnsetType = msgspec.UNSET
    outputs: list[OipOutput]


class OipServer(Value, frozen=True, kw_only=True):
    name: str
    version: str
    extensions: list[str]


class OipLive(Value, frozen=True, kw_only=True):
    live: Literal[True] = True


class OipReady(Value, frozen=True, kw_only=True):
    ready: bool


class OipModelReady(OipReady, frozen=True, kw_only=True):
    name: str


class OipTensor(Value, frozen=True, kw_only=True):
    name: str
    datatype: str
    shape: Annotated[list[int], Meta(description="-1 where the dimension is free, or counts rows")]


class OipModel(Value, frozen=True, kw_only=True):
    name: str
    versions: Annotated[list[str], Meta(description="those that are loaded")]
    platform: str
    inputs: list[OipTensor]
    outputs: list[OipTensor]


class OipConfigTensor(Value, frozen=True, kw_only=True):
    name: str
    data_type: Annotated[str, Meta(examples=["TYPE_FP32"])]
    dims: Annotated[list[int], Meta(description="without the rows, where there are any")]
    optional: bool = False


class OipInstances(Value, frozen=True, kw_only=True):
    name: str
    kind: Literal["KIND_CPU", "KIND_GPU"]
    count: int
    gpus: list[int]


class OipBatching(Value, frozen=True, kw_only=True):
    max_queue_delay_microseconds: int


class OipVersions(Value, frozen=True, kw_only=True):
    versions: list[str]


class OipPolicy(Value, frozen=True, kw_only=True):
    specific: OipVersions


class OipConfig(Value, frozen=True, kw_only=True):
    """A version's configuration. `max_batch_size` 0 says that the model has no rows."""

    name: str
    platform: str
    backend: str
    version_policy: OipPolicy
    max_batch_size: int
    input: list[OipConfigTensor]
    output: list[OipConfigTensor]
    instance_group: list[OipInstances]
    dynamic_batching: OipBatching


class OipSpent(Value, frozen=True, kw_only=True):
    count: int = 0
    ns: int = 0


class OipTimes(Value, frozen=True, kw_only=True):
    """Of requests. What is not measured by itself, decoding and encoding, is counted 0 times."""

    success: OipSpent
    fail: OipSpent
    queue: OipSpent
    compute_input: OipSpent = OipSpent()
    compute_infer: OipSpent
    compute_output: OipSpent = OipSpent()
    cache_hit: OipSpent = OipSpent()
    cache_miss: OipSpent = OipSpent()


class OipBatchTimes(Value, frozen=True, kw_only=True):
    """Of batches with so many rows."""

    batch_size: int
    compute_input: OipSpent = OipSpent()
    compute_infer: OipSpent
    compute_output: OipSpent = OipSpent()


class OipVersionStatistics(Value, frozen=True, kw_only=True):
    """Since the version was loaded: `inference_count` rows in `execution_count` batches, and `batch_stats`.
    Since the appliance started: `inference_stats`, of the requests in its log."""

    name: str
    version: str
    last_inference: Annotated[int, Meta(description="Unix milliseconds, to the second; 0 for never")]
    inference_count: int
    execution_count: int
    inference_stats: OipTimes
    batch_stats: list[OipBatchTimes]


class OipStatistics(Value, frozen=True, kw_only=True):
    model_stats: list[OipVersionStatistics]


class OipIndexEntry(Value, frozen=True, kw_only=True):
    name: str
    version: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


class OipDone(Value, frozen=True, kw_only=True):
    """It is done."""
