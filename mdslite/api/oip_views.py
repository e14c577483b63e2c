"""What versions look like in the Open Inference Protocol: metadata, configuration, statistics. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from mdslite.api.oip_schema import (
    OipBatching,
    OipBatchTimes,
    OipConfig,
    OipConfigTensor,
    OipIndexEntry,
    OipInstances,
    OipModel,
    OipPolicy,
    OipSpent,
    OipTensor,
    OipTimes,
    OipVersions,
    OipVersionStatistics,
)
from mdslite.api.parts import Parts
from mdslite.data import DataCodec
from mdslite.errors import StillLoading, Unavailable
from mdslite.metrics import Totals
from mdslite.oip.free import INPUT
from mdslite.runtimes.protocol import Rows, TensorSpec
from mdslite.serving.fleet import Key, Served
from mdslite.serving.knobs import LaneStats

# Names that clients may look for.
_PLATFORMS = {
    "ONNXRUNTIME": ("onnxruntime_onnx", "onnxruntime"),
    "PYTORCH": ("pytorch_libtorch", "pytorch"),
    "TENSORFLOW": ("tensorflow_savedmodel", "tensorflow"),
    "PYTHON": ("python", "python"),
}
_STATES: Mapping[str, Literal["READY", "LOADING", "UNLOADING"]] = {
    "ready": "READY",
    "loading": "LOADING",
    "draining": "UNLOADING",
}


def find_version(parts: Parts, project: str, model: str, version: str | None) -> Served:
    """The version that is asked for; without one, that which takes most of the model's traffic.

    :raises NotFound: there is none such
    :raises Unavailable: it is not loaded
    """
    parts.fleet.router.find(project, model, version)
    found = [
        one
        for one in parts.fleet.all()
        if (one.project, one.model) == (project, model) and version in (None, one.version)
    ]
    loaded = [one for one in found if one.loaded and one.state != "draining"]
    if not loaded:
        reasons = "; ".join(f"{one.version} is {one.state}" for one in found)
        does = "load" if any(one.state == "unloaded" for one in found) else "ls"
        hint = f"mdslite {does} {project}/{model}"
        raise Unavailable(f"no version of {project}/{model} is loaded: {reasons}", hint=hint, retry_after_s=1)
    return max(loaded, key=_traffic)


def is_ready(parts: Parts, project: str, model: str, version: str | None) -> bool:
    """Would an infer request to it be taken?

    :raises NotFound: there is none such
    """
    try:
        parts.fleet.router.find(project, model, version)
    except StillLoading:
        return False
    found = [one for one in parts.fleet.all() if (one.project, one.model) == (project, model)]
    if version is not None:
        return any(one.version == version and one.state == "ready" for one in found)
    return any(one.state == "ready" and _traffic(one)[0] > 0 for one in found)


def model_of(parts: Parts, served: Served) -> OipModel:
    inputs, outputs = _tensors(served)
    rows = served.messages.signature.rows
    siblings = [
        one.version
        for one in parts.fleet.all()
        if one.loaded and one.state != "draining" and one.key[:2] == served.key[:2]
    ]
    return OipModel(
        name=_name(served),
        versions=siblings,
        platform=_platform(served)[0],
        inputs=[_tensor(one, rows) for one in inputs],
        outputs=[_tensor(one, rows) for one in outputs],
    )


def config_of(served: Served) -> OipConfig:
    inputs, outputs = _tensors(served)
    rows = served.messages.signature.rows
    knobs = served.lane.knobs
    platform, backend = _platform(served)
    return OipConfig(
        name=_name(served),
        platform=platform,
        backend=backend,
        version_policy=OipPolicy(specific=OipVersions(versions=[served.version])),
        max_batch_size=knobs.batch_size if rows != "none" else 0,
        input=[_config_tensor(one, rows) for one in inputs],
        output=[_config_tensor(one, rows) for one in outputs],
        instance_group=_instances(served),
        dynamic_batching=OipBatching(max_queue_delay_microseconds=round(knobs.batch_timeout_s * 1e6)),
    )


def statistics_of(served: Served, totals: Totals) -> OipVersionStatistics:
    stats = served.lane.stats if served.loaded else LaneStats()
    rows = sum(size * count for size, (count, _) in stats.sizes.items())
    return OipVersionStatistics(
        name=_name(served),
        version=served.version,
        last_inference=totals.last_second * 1000,
        inference_count=rows or totals.answered,  # a pipeline's rows are its requests
        execution_count=stats.batches,
        inference_stats=_times(totals),
        batch_stats=[
            OipBatchTimes(batch_size=size, compute_infer=_spent(count, seconds))
            for size, (count, seconds) in sorted(stats.sizes.items())
        ],
    )


def index_of(versions: Iterable[Served], *, ready: bool) -> list[OipIndexEntry]:
    """One entry a version; one that drains while another of its name is there is not told."""
    known: dict[Key, Served] = {}
    for served in versions:
        known.setdefault(served.key, served)
    return [
        OipIndexEntry(
            name=_name(one),
            version=one.version,
            state=_STATES.get(one.state, "UNAVAILABLE"),
            reason=one.reason or ("" if one.state in _STATES else one.state),
        )
        for one in known.values()
        if not ready or one.state == "ready"
    ]


def _traffic(served: Served) -> tuple[float, bool]:
    info = served.spec.service_info
    return (0.0 if info.shadow else info.weight), served.state == "ready"


def _name(served: Served) -> str:
    return f"{served.project}.{served.model}"


def _platform(served: Served) -> tuple[str, str]:
    return _PLATFORMS.get(served.runtime, (served.runtime.lower(), served.runtime.lower()))


def _tensors(served: Served) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
    signature = served.messages.signature
    if not signature.inputs and isinstance(served.codec, DataCodec):
        return (TensorSpec(INPUT, "BYTES", (None,)),), signature.outputs
    return signature.inputs, signature.outputs


def _datatype(spec: TensorSpec) -> str:
    return "BYTES" if spec.datatype == "OBJECT" else spec.datatype  # as JSON texts


def _tensor(spec: TensorSpec, rows: Rows) -> OipTensor:
    shape = [-1 if size is None else size for size in spec.shape]
    if rows != "none" and shape:
        shape[0] = -1
    return OipTensor(name=spec.name, datatype=_datatype(spec), shape=shape)


def _config_tensor(spec: TensorSpec, rows: Rows) -> OipConfigTensor:
    datatype = _datatype(spec)
    sizes = spec.shape if rows == "none" else spec.shape[1:]
    return OipConfigTensor(
        name=spec.name,
        data_type="TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}",
        dims=[-1 if size is None else size for size in sizes],
        optional=spec.optional,
    )


def _instances(served: Served) -> list[OipInstances]:
    groups = []
    for label, count in Counter(served.devices).items():
        kind, _, index = label.partition(":")
        is_gpu = kind != "cpu"
        groups.append(
            OipInstances(
                name=f"{_name(served)} {label}",
                kind="KIND_GPU" if is_gpu else "KIND_CPU",
                count=count,
                gpus=[int(index)] if is_gpu else [],
            )
        )
    return groups


def _times(totals: Totals) -> OipTimes:
    return OipTimes(
        success=_spent(totals.answered, totals.answered_s),
        fail=_spent(totals.failed, totals.failed_s),
        queue=_spent(totals.answered, totals.queue_s),
        compute_infer=_spent(totals.answered, totals.compute_s),
    )


def _spent(count: int, seconds: float) -> OipSpent:
    return OipSpent(count=count, ns=round(seconds * 1e9))
