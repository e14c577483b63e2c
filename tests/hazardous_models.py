"""ONNX models that some request could take the whole process with, and models that only look like it. Each
builder writes one file and returns its path; the docstring gives inputs → outputs, with `N` the free row
dimension."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from models import save, tensor
from onnx import helper, numpy_helper

LEAST = -(2**63)


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def weight(name: str, values: Any, dtype: str = "int64") -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def division(path: Path, operator: str = "Div", datatype: str = "INT64") -> Path:
    """a, b [N, 2] → c [N, 2] = a / b, or a modulo b."""
    attributes = {"fmod": 1} if operator == "Mod" and datatype.startswith("FP") else {}
    made = node(operator, ["a", "b"], ["c"], **attributes)
    inputs = [tensor(name, datatype, ["N", 2]) for name in "ab"]
    return save(path, [made], inputs, [tensor("c", datatype, ["N", 2])])


def divided_by(path: Path, divisor: list[int], *, typed: Literal["raw", "values", "node"] = "raw") -> Path:
    """a INT64 [N, 2] → c INT64 [N, 2] = a modulo a divisor that the file holds as bytes, as numbers, or in a
    node."""
    value = weight("b", divisor)
    if typed == "values":
        value = helper.make_tensor("b", onnx.TensorProto.INT64, [len(divisor)], divisor)
    nodes = [node("Mod", ["a", "b"], ["c"])]
    if typed == "node":
        nodes.insert(0, node("Constant", [], ["b"], value=value))
    inputs, outputs = [tensor("a", "INT64", ["N", 2])], [tensor("c", "INT64", ["N", 2])]
    return save(path, nodes, inputs, outputs, [] if typed == "node" else [value])


def scaled(path: Path, *, to: int = onnx.TensorProto.FLOAT) -> Path:
    """a, b INT64 [N, 2] → c [N, 2] = the absolute values of a / b, both of another type."""
    nodes = [
        node("Cast", ["a"], ["wide"], to=to),
        node("Cast", ["b"], ["broad"], to=to),
        node("Abs", ["wide"], ["size"]),
        node("Div", ["size", "broad"], ["c"]),
    ]
    inputs = [tensor(name, "INT64", ["N", 2]) for name in "ab"]
    outputs = [helper.make_tensor_value_info("c", to, ["N", 2])]
    return save(path, nodes, inputs, outputs)


def per_column(path: Path) -> Path:
    """a INT64 [N, M] → c INT64 [N, M] = a modulo M."""
    nodes = [
        node("Shape", ["a"], ["shape"]),
        node("Gather", ["shape", "one"], ["columns"]),
        node("Mod", ["a", "columns"], ["c"]),
    ]
    shape = ["N", "M"]
    return save(path, nodes, [tensor("a", "INT64", shape)], [tensor("c", "INT64", shape)], [weight("one", 1)])


def recurrent(path: Path, *, operator: str = "GRU", drop: int = 0) -> Path:
    """x FP32 [N, T, 2] → y FP32 [N, 3], the last state over all but the first `drop` steps."""
    gates = {"GRU": 3, "LSTM": 4}[operator]
    nodes = [
        node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        *([node("Slice", ["steps", "from", "to"], ["rest"])] if drop else []),
        node(operator, ["rest" if drop else "steps", "W", "R"], ["", "state"], hidden_size=3),
        node("Squeeze", ["state", "first"], ["y"]),
    ]
    weights = [
        weight("W", np.ones((1, 3 * gates, 2)), "float32"),
        weight("R", np.ones((1, 3 * gates, 3)), "float32"),
        weight("first", [0]), weight("from", [drop]), weight("to", [1 << 40]),
    ]  # fmt: skip
    inputs, outputs = [tensor("x", "FP32", ["N", "T", 2])], [tensor("y", "FP32", ["N", 3])]
    return save(path, nodes, inputs, outputs, weights)


def growing(path: Path) -> Path:
    """n INT64 [1] → y FP32, the sum of n times 1024 ones."""
    nodes = [
        node("Concat", ["n", "wide"], ["shape"], axis=0),
        node("Expand", ["one", "shape"], ["ones"]),
        node("ReduceSum", ["ones"], ["y"], keepdims=0),
    ]
    weights = [weight("wide", [1024]), weight("one", [1], "float32")]
    return save(path, nodes, [tensor("n", "INT64", [1])], [tensor("y", "FP32", [])], weights)


def widened(path: Path) -> Path:
    """x FP32 [N, 2] → y FP32 [N, 2], through a tensor as large as x itself says by its shape."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("Add", ["x", "zeros"], ["y"]),
    ]
    return save(path, nodes, [tensor("x", "FP32", ["N", 2])], [tensor("y", "FP32", ["N", 2])])


def function(path: Path) -> Path:
    """a, b FP32 [N, 2] → c FP32 [N, 2] = a / b, by a function, of whose values no type is said."""
    division = onnx.helper.make_function(
        "local", "Share", ["a", "b"], ["c"], [node("Div", ["a", "b"], ["c"])], [helper.make_opsetid("", 17)]
    )
    inputs = [tensor(name, "FP32", ["N", 2]) for name in "ab"]
    share = node("Share", ["a", "b"], ["c"], domain="local")
    graph = helper.make_graph([share], "g", inputs, [tensor("c", "FP32", ["N", 2])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[division], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
