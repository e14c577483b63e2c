"""The models and the requests that every contender gets: made here, from a fixed seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

OPSET = 17


@dataclass(frozen=True, slots=True)
class Workload:
    """A multilayer perceptron by its widths, from input to output, ending in a softmax."""

    name: str
    widths: tuple[int, ...]

    @property
    def label(self) -> str:
        return "-".join(str(width) for width in self.widths)


# The first costs less than a microsecond a row, so that all the time is the server's; on the second a
# batch of 32 rows costs little more than one row, so that a server without batching cannot keep up.
TINY = Workload("tiny", (64, 64, 10))
WIDE = Workload("wide", (256, 1024, 1024, 1024, 10))
# So slow that the load generator has the time to offer ten times of what it answers.
HEAVY = Workload("heavy", (64, 4096, 4096, 4096, 10))


def write_model(workload: Workload, path: Path, *, seed: int = 7) -> None:
    """Write the perceptron: input `x` [rows, first width], output `probabilities` [rows, last width]."""
    rng = np.random.default_rng(seed)
    nodes, weights, name = [], [], "x"
    layers = list(pairwise(workload.widths))
    for index, (fan_in, fan_out) in enumerate(layers):
        matrix = (rng.standard_normal((fan_in, fan_out)) * np.sqrt(2.0 / fan_in)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        weights.append(numpy_helper.from_array(np.zeros(fan_out, np.float32), f"b{index}"))
        nodes.append(helper.make_node("Gemm", [name, f"w{index}", f"b{index}"], [f"sum{index}"]))
        name = f"sum{index}"
        if index < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [name], [f"active{index}"]))
            name = f"active{index}"
    nodes.append(helper.make_node("Softmax", [name], ["probabilities"], axis=-1))
    graph = helper.make_graph(
        nodes,
        f"mlp_{workload.name}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", workload.widths[0]])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", workload.widths[-1]])],
        initializer=weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))


def make_body(workload: Workload, *, seed: int = 11) -> bytes:
    """One request of one row, as a client would send it."""
    row = np.random.default_rng(seed).random(workload.widths[0])
    return json.dumps({"instances": [[round(float(value), 4) for value in row]]}).encode()
