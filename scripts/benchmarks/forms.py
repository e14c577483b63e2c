"""What a request's form costs: binary infer requests of the Open Inference Protocol beside the predict URLs'
JSON, in turns on one mdslite. The model does next to nothing, so that all the time is the form's.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, save

from benchmarks.contenders import Bench, Contender, Running
from benchmarks.load import JSON_HEADERS, Load, run_load
from benchmarks.models import OPSET, TINY, write_model
from benchmarks.turns import WARM_S, Effort, Say

CONNECTIONS = 32
IMAGE = (3, 224, 224)


@dataclass(frozen=True, slots=True)
class FormCost:
    """`ratio` is the throughput of the binary form divided by that of JSON."""

    name: str
    label: str
    json_per_s: float
    binary_per_s: float
    ratio: float
    failed: int


@dataclass(frozen=True, slots=True)
class Form:
    """A request as it is sent."""

    path: str
    body: Path
    headers: Mapping[str, str]


def measure_forms(bench: Bench, effort: Effort, say: Say) -> list[FormCost]:
    folder = bench.folder / "forms"
    folder.mkdir()
    rng = np.random.default_rng(11)
    rows = {"tiny": rng.random((1, TINY.widths[0]), np.float32), "image": rng.random((1, *IMAGE), np.float32)}
    write_model(TINY, folder / "tiny.onnx")
    write_image_model(folder / "image.onnx")
    forms = {
        name: (write_json(folder, name, row), write_binary(folder, name, row)) for name, row in rows.items()
    }
    contender = Contender(
        "forms",
        "mdslite",
        [
            str(bench.mdslite),
            "up",
            str(write_deployments(folder, rows)),
            "--port",
            "PORT",
            "--store",
            "STORE",
        ],
        forms["tiny"][0].path,
    )
    with Running(contender, body=forms["tiny"][0].body, folder=folder / "run") as running:
        return [_compare(running, name, rows[name], *forms[name], effort, say) for name in rows]


def _compare(
    running: Running, name: str, row: NDArray[np.float32], plain: Form, binary: Form, effort: Effort, say: Say
) -> FormCost:
    label = "x".join(map(str, row.shape[1:]))
    say(f"JSON and binary, {label}, {CONNECTIONS} connections")
    turns: tuple[list[Load], list[Load]] = [], []
    for form in (plain, binary):
        _load(running, form, WARM_S)
    for _ in range(effort.rounds):
        for loads, form in zip(turns, (plain, binary), strict=True):
            loads.append(_load(running, form, effort.seconds))
    in_json, in_binary = turns
    pairs = zip(in_json, in_binary, strict=True)
    return FormCost(
        name=name,
        label=label,
        json_per_s=statistics.median(load.requests_per_s for load in in_json),
        binary_per_s=statistics.median(load.requests_per_s for load in in_binary),
        ratio=statistics.median(two.requests_per_s / one.requests_per_s for one, two in pairs),
        failed=sum(load.failed for load in (*in_json, *in_binary)),
    )


def _load(running: Running, form: Form, seconds: float) -> Load:
    url = running.base + form.path
    return run_load(url, body=form.body, connections=CONNECTIONS, seconds=seconds, headers=form.headers)


def write_json(folder: Path, name: str, row: NDArray[np.float32]) -> Form:
    """One request in the JSON of the predict URLs."""
    body = folder / f"{name}.json"
    body.write_text(json.dumps({"instances": np.round(row.astype(np.float64), 4).tolist()}))
    return Form(f"/projects/bench/models/{name}:predict", body, JSON_HEADERS)


def write_binary(folder: Path, name: str, row: NDArray[np.float32]) -> Form:
    """The same request as tritonclient sends it."""
    parameters = {"binary_data_size": row.nbytes}
    tensor = {"name": "x", "shape": row.shape, "datatype": "FP32", "parameters": parameters}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = folder / f"{name}.bin"
    body.write_bytes(head + row.tobytes())
    return Form(f"/v2/models/bench.{name}/infer", body, {"Inference-Header-Content-Length": str(len(head))})


def write_deployments(folder: Path, names: Mapping[str, object]) -> Path:
    deployments = [
        {
            "project": "bench",
            "model": name,
            "versions": [{"version": "v1", "spec": {"uri": str(folder / f"{name}.onnx")}}],
        }
        for name in names
    ]
    file = folder / "deployments.json"
    file.write_text(json.dumps({"deployments": deployments}))
    return file


def write_image_model(path: Path) -> None:
    """Write a model of images, `x` [rows, 3, 224, 224], that hardly looks at them: `y` [rows, 10]."""
    weights = numpy_helper.from_array(np.eye(IMAGE[0], 10, dtype=np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["channels"]),
            helper.make_node("MatMul", ["channels", "w"], ["y"]),
        ],
        "image",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", *IMAGE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 10])],
        initializer=[weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))
