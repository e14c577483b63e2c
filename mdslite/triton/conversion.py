"""A Triton repository's models as versions of a deployments file: what of their configurations has a meaning
here, and a note for each thing that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdslite.errors import InvalidRequest
from mdslite.fields import make_name
from mdslite.triton.packages import write_ensemble, write_package
from mdslite.triton.repository import CONFIG, TritonModel

# Fields that say how Triton does what is done otherwise here, or not at all.
_IGNORED = {
    "batch_input": "batch_input: inputs made of the batch's shape do not exist here",
    "batch_output": "batch_output: outputs cut by the batch's shape do not exist here",
    "sequence_batching": "sequence_batching: requests of a sequence are not kept together here",
    "model_transaction_policy": "model_transaction_policy: decoupled answers do not exist here",
    "model_operations": "model_operations: custom operators are not loaded",
    "response_cache": "response_cache: answers are not cached",
    "model_repository_agents": "model_repository_agents: agents are not run",
    "metric_tags": "metric_tags: series have the labels project, model and version",
    "cc_model_filenames": "cc_model_filenames: one file serves all devices",
}


@dataclass(slots=True)
class Conversion:
    """What came of a repository: the file's models, and (model, remark) for what did not carry over."""

    models: list[dict[str, Any]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def convert(models: Sequence[TritonModel], *, project: str, target: Path) -> Conversion:
    """Describe every model; packages that have to be made are written below `target`."""
    done = Conversion()
    names = {model.name: make_name(model.name) for model in models}
    for model in models:
        remark = _remarker(done, model)
        if names[model.name] != model.name:
            remark(f"it is called {names[model.name]} here: names hold letters, digits, - and _")
        versions = list(_versions(model, project, names, target, remark))
        if versions:
            done.models.append({"project": project, "model": names[model.name], "versions": versions})
    return done


def _remarker(done: Conversion, model: TritonModel) -> Callable[[str], None]:
    def remark(what: str) -> None:
        done.notes.append((model.name, what))

    return remark


def _versions(
    model: TritonModel, project: str, names: dict[str, str], target: Path, remark: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    for name, why in _IGNORED.items():
        if name in model.config:
            remark(why)
    if model.skipped:
        remark(f"versions {', '.join(map(str, model.skipped))} are left out, as its version policy does")
    if model.backend == "ensemble":
        uri = write_ensemble(model, project=project, names=names, target=target, remark=remark)
        if uri is not None:
            spec = {"uri": str(uri), "isolation": "inline", **_tensors(model, remark)}
            yield {"version": "1", "spec": spec}
        return
    if model.backend not in ("onnxruntime", "python", "pytorch", "tensorflow"):
        remark(f"the backend {model.backend or 'that nothing names'} does not exist here: it is left out")
        return
    if not model.files:
        remark("no version has a model's file: it is left out")
        return
    shared = _spec(model, remark)
    if model.backend == "python":
        shared |= _tensors(model, remark)
    latest = max(model.files)
    for number, file in sorted(model.files.items()):
        if model.backend == "python":
            uri = write_package(model, number, file, name=names[model.name], target=target)
        else:
            uri = file.resolve()
        # What asks for no version gets the latest from Triton, and so it does here.
        info = dict(shared.get("service_info", {}), weight=100 if number == latest else 0)
        yield {"version": str(number), "spec": {**shared, "uri": str(uri), "service_info": info}}


def _tensors(model: TritonModel, remark: Callable[[str], None]) -> dict[str, Any]:
    """What clients of a Python model or an ensemble send and get, under the names that they know."""
    rows = int(model.first("max_batch_size", 0)) > 0
    found: dict[str, Any] = {"inputs": [], "outputs": []}
    for kind, tensors in (("input", found["inputs"]), ("output", found["outputs"])):
        for one in model.config.get(kind, []):
            name, datatype = one.get("name", [""])[0], one.get("data_type", ["TYPE_INVALID"])[0]
            if not name or datatype == "TYPE_INVALID":
                lacking = f"{name} has no data_type" if name else "one has no name"
                raise InvalidRequest(
                    f"{model.folder.name}/{CONFIG}: {kind}: {lacking}",
                    hint="write it there, as Triton wants it too",
                )
            datatype = datatype.removeprefix("TYPE_")
            if datatype == "BF16":
                remark(f"{name} is BF16: its clients send `instances` and get `predictions`")
                return {}
            shape = [*([-1] if rows else []), *one.get("dims", [])]
            tensor = {"name": name, "datatype": "BYTES" if datatype == "STRING" else datatype, "shape": shape}
            if one.get("optional", [False])[0]:
                tensor["optional"] = True
            tensors.append(tensor)
    if not rows:
        found["rows"] = False
    return {"tensors": found} if found["inputs"] and found["outputs"] else {}


def _spec(model: TritonModel, remark: Callable[[str], None]) -> dict[str, Any]:
    spec: dict[str, Any] = {"uri": ""}
    batch = _batch(model, remark)
    if batch:
        spec["batch"] = batch
    replicas, resource = _instances(model, remark)
    if resource:
        spec["resource"] = resource
    if replicas > 1:
        spec["service_info"] = {"replicas": replicas}
    settings = _settings(model, remark)
    if settings:
        spec["container_parameter"] = {"onnxruntime": settings}
    if "model_warmup" in model.config:
        remark("model_warmup: every model is warmed here with inputs made from its signature")
    return spec


def _batch(model: TritonModel, remark: Callable[[str], None]) -> dict[str, Any]:
    most = int(model.first("max_batch_size", 0))
    dynamic = model.first("dynamic_batching")
    batch: dict[str, Any] = {}
    if most > 1:
        batch["batch_size"] = most
        if dynamic is None:
            batch["batch_timeout_ms"] = 0
            remark("it has no dynamic_batching: what waits is batched here all the same, and not waited for")
    if dynamic is not None:
        delay_us = dynamic.get("max_queue_delay_microseconds", [0])[0]
        batch["batch_timeout_ms"] = delay_us / 1000
        if "preferred_batch_size" in dynamic:
            remark("preferred_batch_size: sizes are learned here from how long batches take")
        if "priority_levels" in dynamic or "priority_queue_policy" in dynamic:
            remark("priority_levels: requests have no priorities here")
        policy = dynamic.get("default_queue_policy", [{}])[0]
        timeout_us = policy.get("default_timeout_microseconds", [0])[0]
        if timeout_us:
            batch["prediction_time_ms"] = timeout_us / 1000
        if "max_queue_size" in policy:
            remark("max_queue_size: the bound is 1024 rows here")
    return batch


def _instances(model: TritonModel, remark: Callable[[str], None]) -> tuple[int, dict[str, Any]]:
    """How many replicas, and on what."""
    groups = model.config.get("instance_group", [])
    if not groups:
        return 1, {}
    kinds = {group.get("kind", ["KIND_AUTO"])[0] for group in groups}
    on_gpus = [gpu for group in groups for gpu in group.get("gpus", [])]
    replicas = sum(int(group.get("count", [1])[0]) * max(1, len(group.get("gpus", []))) for group in groups)
    if len(kinds) > 1:
        remark("instance_group: replicas are all of one kind here; GPUs are taken where there are any")
    if on_gpus:
        remark("instance_group gpus: replicas go to the GPU with the most free memory here")
    if any("rate_limiter" in group for group in groups):
        remark("rate_limiter: the device's gate shares fairly by itself here")
    if kinds == {"KIND_CPU"}:
        return replicas, {"gpu": 0}
    if kinds == {"KIND_GPU"}:
        return replicas, {"gpu": 1}
    return replicas, {}


def _settings(model: TritonModel, remark: Callable[[str], None]) -> dict[str, Any]:
    """ONNX Runtime's settings, as parameters and optimization say."""
    found: dict[str, Any] = {}
    if model.backend != "onnxruntime":
        if "optimization" in model.config:
            remark("optimization: has no meaning for this backend here")
        return found
    known = {"intra_op_thread_count": "intra_op_threads", "inter_op_thread_count": "inter_op_threads"}
    for entry in model.config.get("parameters", []):
        key = entry.get("key", [""])[0]
        value = entry.get("value", [{}])[0].get("string_value", [""])[0]
        if key in known and str(value).isdecimal() and int(value) > 0:
            found[known[key]] = int(value)
        elif key not in known:
            remark(f"the parameter {key} has no meaning here")
    for optimization in model.config.get("optimization", []):
        for accelerators in optimization.get("execution_accelerators", []):
            for one in accelerators.get("gpu_execution_accelerator", []):
                if one.get("name", [""])[0] == "tensorrt":
                    found["tensorrt"] = True
            if "cpu_execution_accelerator" in accelerators:
                remark("cpu_execution_accelerator: ONNX Runtime's own CPU kernels are used here")
    return found
