"""What docs/spec.md says of changes, made for real: each field of a version that serves is changed, and its
model is loaded anew or it is not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import live
import models
import pytest
from obedient import write_package
from spec_page import ROWS

from mdslite.client import Client
from mdslite.deploy.plan import Wanted, make_plan
from mdslite.spec import from_plain

SAYS = {name: cells[3] for name, cells in ROWS}
URL = "http://127.0.0.1:1"
SHADOW = {"weight": 0, "shadow": True}
ONNX, OTHER, PACKAGE, REMOTE = "m.onnx", "other.onnx", "package", "elsewhere"


def nested(path: str, value: Any) -> dict[str, Any]:
    """A spec with one field, by its dotted path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def endpoint(**fields: Any) -> list[dict[str, Any]]:
    return [{"url": URL, **fields}]


def tensor(**fields: Any) -> dict[str, Any]:
    one = {"name": "X", "datatype": "FP32", "shape": [-1], **fields}
    return {"inputs": [one], "outputs": [one]}


def settings(one: Any) -> list[dict[str, Any]]:
    return [{"name": "x", "datatype": "FP32", "shape": [-1, 4], **one}]


# By field, as the page has it: the model, what is changed of its spec, and to what. `None` is left out.
Case = tuple[str, str, Any, Any]
_MATCH, _INFOS = "service_info.match", "service_info.endpoints_infos"
_ORT, _TORCH = "container_parameter.onnxruntime", "container_parameter.torch"
CASES: dict[str, Case] = {
    "uri": (ONNX, "uri", ONNX, OTHER),
    "source_type": (ONNX, "source_type", None, "FILE"),
    "package_type": (ONNX, "package_type", None, "ONNX"),
    "runtime": (ONNX, "runtime", None, "ONNXRUNTIME"),
    "isolation": (PACKAGE, "isolation", "process", "inline"),
    "resource.cpu": (ONNX, "resource.cpu", 1, 2),
    "resource.gpu": (ONNX, "resource.gpu", None, 0),
    "resource.gpu_names": (ONNX, "resource", {"gpu": 0}, {"gpu": 0, "gpu_names": "H200"}),
    "resource.memory": (PACKAGE, "resource.memory", "2Gi", "3Gi"),
    "service_info.replicas": (ONNX, "service_info.replicas", 1, 2),
    "service_info.weight": (ONNX, "service_info.weight", 100, 50),
    "service_info.shadow": (ONNX, "service_info", {"weight": 0}, SHADOW),
    "service_info.shadow_percent": (ONNX, "service_info", SHADOW, {**SHADOW, "shadow_percent": 5}),
    _MATCH: (ONNX, _MATCH, None, [{"header": "x-beta"}]),
    f"{_MATCH}[].header": (ONNX, _MATCH, [{"header": "x-a"}], [{"header": "x-b"}]),
    f"{_MATCH}[].value": (ONNX, _MATCH, [{"header": "x-a"}], [{"header": "x-a", "value": "yes"}]),
    "service_info.sticky": (ONNX, "service_info.sticky", None, {"header": "x-user"}),
    "service_info.sticky.header": (ONNX, "service_info.sticky", {"header": "x-a"}, {"header": "x-b"}),
    "service_info.sticky.body": (ONNX, "service_info.sticky", {"body": "a"}, {"body": "b"}),
    _INFOS: (REMOTE, _INFOS, endpoint(), [*endpoint(), {"url": "http://127.0.0.1:2"}]),
    f"{_INFOS}[].url": (REMOTE, _INFOS, endpoint(), endpoint(url="http://127.0.0.1:2")),
    f"{_INFOS}[].protocol": (REMOTE, _INFOS, endpoint(), endpoint(protocol="OIP")),
    f"{_INFOS}[].provider": (REMOTE, _INFOS, endpoint(), endpoint(provider="static")),
    f"{_INFOS}[].options": (REMOTE, _INFOS, endpoint(), endpoint(options={"idempotent": False})),
    "batch.batch_size": (ONNX, "batch.batch_size", None, 8),
    "batch.batch_timeout_ms": (ONNX, "batch.batch_timeout_ms", None, 5),
    "batch.prediction_time_ms": (ONNX, "batch.prediction_time_ms", None, 1000),
    "confidence": (ONNX, "confidence", None, {"output": "y"}),
    "confidence.output": (ONNX, "confidence.output", None, "y"),
    "confidence.field": (ONNX, "confidence", {"output": "y"}, {"output": "y", "field": 1}),
    "compare": (ONNX, "compare", None, {"tolerance": 0.1}),
    "compare.output": (ONNX, "compare.output", None, "y"),
    "compare.field": (PACKAGE, "compare.field", "a", "b"),
    "compare.tolerance": (ONNX, "compare.tolerance", 0.1, 0.2),
    "compare.function": (ONNX, "compare.function", None, "math:isclose"),
    "tensors": (PACKAGE, "tensors", None, tensor()),
    "tensors.rows": (PACKAGE, "tensors", tensor(), {**tensor(), "rows": False}),
    "log.bodies": (ONNX, "log.bodies", None, "all"),
    "log.bodies.share": (ONNX, "log.bodies", {"share": 0.1}, {"share": 0.2}),
    "log.bodies.below_confidence": (ONNX, "log.bodies", {"share": 0.1}, {"below_confidence": 0.5}),
    "log.bodies.errors": (ONNX, "log.bodies", {"share": 0.1}, {"share": 0.1, "errors": True}),
    "log.max_bytes": (ONNX, "log.max_bytes", None, 100),
    "log.redact": (ONNX, "log.redact", None, ["password"]),
    "container_parameter.env": (PACKAGE, "container_parameter.env", {"A": "1"}, {"A": "2"}),
    "container_parameter.image": (ONNX, "container_parameter.image", None, "a:1"),
    "container_parameter.command": (ONNX, "container_parameter.command", None, "run"),
    "container_parameter.args": (ONNX, "container_parameter.args", None, ["x"]),
    f"{_ORT}.intra_op_threads": (ONNX, f"{_ORT}.intra_op_threads", 1, 2),
    f"{_ORT}.inter_op_threads": (ONNX, f"{_ORT}.inter_op_threads", 1, 2),
    f"{_ORT}.cpu_mem_arena": (ONNX, f"{_ORT}.cpu_mem_arena", None, False),
    f"{_ORT}.mem_pattern": (ONNX, f"{_ORT}.mem_pattern", None, False),
    f"{_ORT}.graph_optimization": (ONNX, f"{_ORT}.graph_optimization", None, "basic"),
    f"{_ORT}.gpu_mem_limit_mb": (ONNX, f"{_ORT}.gpu_mem_limit_mb", None, 64),
    f"{_ORT}.tensorrt": (ONNX, f"{_ORT}.tensorrt", None, False),
    f"{_TORCH}.intra_op_threads": (ONNX, f"{_TORCH}.intra_op_threads", None, 1),
    "container_parameter.tensorflow.signature": (
        ONNX, "container_parameter.tensorflow.signature", None, "other",
    ),
    "operator": (ONNX, "operator", None, "LOCAL"),
}  # fmt: skip
for _side in ("inputs", "outputs"):
    _one = tensor()[_side][0]
    CASES[f"tensors.{_side}"] = (
        PACKAGE, "tensors", tensor(), {**tensor(), _side: [_one, {**_one, "name": "Y"}]},
    )  # fmt: skip
    CASES[f"{_TORCH}.{_side}"] = (ONNX, f"{_TORCH}.{_side}", None, settings({}))
    for _name, _value in (("name", "Z"), ("datatype", "FP64"), ("shape", [-1, 2]), ("optional", True)):
        CASES[f"tensors.{_side}[].{_name}"] = (
            PACKAGE, "tensors", tensor(), {**tensor(), _side: [{**_one, _name: _value}]},
        )  # fmt: skip
        if _name != "optional":
            _after = settings({_name: _value})
            CASES[f"{_TORCH}.{_side}[].{_name}"] = (ONNX, f"{_TORCH}.{_side}", settings({}), _after)
for _operator in ("ncc", "c3dls", "custom"):
    _path = f"operator_configs.{_operator}_operator_config"
    CASES[_path] = (ONNX, _path, None, {"queue": "q"})

# The one that has to answer before it serves; it is looked at as a plan.
PLANNED = {f"{_INFOS}[].protocol"}


def spec_of(folder: Path, model: str, path: str, value: Any) -> dict[str, Any]:
    spec = {"uri": model if model == REMOTE else str(folder / model)}
    if path == "uri":
        return {"uri": str(folder / value)}
    if model == REMOTE and not path.startswith(_INFOS):
        spec |= nested(_INFOS, endpoint())
    return spec if value is None else spec | nested(path, value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changes")
    models.mlp(folder / ONNX, seed=1)
    models.mlp(folder / OTHER, seed=2)
    shutil.copy(folder / ONNX, folder / "same.onnx")
    write_package(folder / PACKAGE)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with live.up(cwd=folder) as running, Client(running.url) as client:
        client.put_version("p", "m", "v0", {"uri": str(folder / ONNX)})  # some version has to have a weight
        yield client


def loads(client: Client, model: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Change the version, and see whether that took a new session."""
    was = client.put_version("p", model, "v1", before)
    now = client.put_version("p", model, "v1", after)
    assert (was["state"], now["state"]) == ("ready", "ready")
    assert now["spec"] != was["spec"], "nothing was changed"
    return bool(was["loaded_at"] != now["loaded_at"])


def test_every_field_of_the_page_is_changed() -> None:
    assert CASES.keys() == SAYS.keys()
    assert set(SAYS.values()) == {"loads", "loads, if its bytes differ", "at once", "no effect"}


@pytest.mark.parametrize("field", CASES)
def test_a_change_does_what_the_page_says(client: Client, folder: Path, field: str) -> None:
    model, path, *values = CASES[field]
    before, after = (spec_of(folder, model, path, value) for value in values)
    wanted = SAYS[field].startswith("loads")
    if field in PLANNED:
        old, new = (Wanted(from_plain(spec), "sha256:1", 1) for spec in (before, after))
        (step,) = make_plan({("p", "m"): {"v1": old}}, {("p", "m"): {"v1": new}}, prune=False).steps
        assert step.reload == wanted
    else:
        # A key is the model's, all of whose versions have it: there is one alone.
        name = re.sub(r"\W+", "-", field) if "sticky" in field else "m"
        assert loads(client, name, before, after) == wanted


def test_another_file_of_the_same_bytes_loads_nothing(client: Client, folder: Path) -> None:
    before, after = ({"uri": str(folder / name)} for name in (ONNX, "same.onnx"))
    assert not loads(client, "m", before, after)
