"""ONNX models with an operator that is told a size. Each takes x FP32 [N, 4] and gives y of the size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from models import save, tensor
from onnx import TensorProto, helper, numpy_helper

OPSET = 18  # the first one in which an axis can be named beside `size`
COLUMNS = 4

node = helper.make_node
Source = Literal["request", "default", "initializer", "constant", "shapes", "random"]

# Operator → the size that it is told, and the nodes between the values "x" and "size" and the value "y".
SIZED: dict[str, tuple[Any, Sequence[onnx.NodeProto]]] = {
    "CenterCropPad": ([6], [node("CenterCropPad", ["x", "size"], ["y"], axes=[1])]),
    "Compress": ([1, 0, 1, 0], [
        node("Cast", ["size"], ["kept"], to=TensorProto.BOOL),
        node("Compress", ["x", "kept"], ["y"], axis=1),
    ]),
    "ConstantOfShape": ([2, 3], [node("ConstantOfShape", ["size"], ["y"])]),
    "DFT": (8, [
        node("Unsqueeze", ["x", "last"], ["signal"]),
        node("DFT", ["signal", "size"], ["y"], axis=1),
    ]),
    "Expand": ([3, 1, 4], [node("Expand", ["x", "size"], ["y"])]),
    "HannWindow": (6, [node("HannWindow", ["size"], ["y"])]),
    "LSTM": ([2, 1, 3, 2], [
        node("Cast", ["size"], ["lengths"], to=TensorProto.INT32),
        node("Unsqueeze", ["x", "last"], ["steps"]),  # each column is a sequence of N
        node("LSTM", ["steps", "W", "R", "", "lengths"], ["y"], hidden_size=1),
    ]),
    "NonZero": ([0, 1, 1], [node("NonZero", ["size"], ["y"])]),
    "OneHot": ([7], [
        node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        node("OneHot", ["ids", "size", "off_and_on"], ["y"]),
    ]),
    "Pad": ([0, 1, 0, 2], [node("Pad", ["x", "size"], ["y"])]),
    "Range": (5, [node("Range", ["zero", "size", "one"], ["y"])]),
    "ReduceSum": ([1], [node("ReduceSum", ["x", "size"], ["y"])]),
    "Reshape": ([-1, 2], [node("Reshape", ["x", "size"], ["y"])]),
    "Resize": ([1, 2], [
        node("Cast", ["size"], ["scales"], to=TensorProto.FLOAT),
        node("Resize", ["x", "", "scales"], ["y"]),
    ]),
    "SequenceAt": (1, [
        node("SplitToSequence", ["x"], ["rows"], axis=1),
        node("SequenceAt", ["rows", "size"], ["y"]),
    ]),
    "Slice": ([3], [node("Slice", ["x", "first", "size", "axis"], ["y"])]),
    "Split": ([1, 3], [node("Split", ["x", "size"], ["y", "rest"], axis=1)]),
    "Squeeze": ([-1], [node("Unsqueeze", ["x", "last"], ["more"]), node("Squeeze", ["more", "size"], ["y"])]),
    "Tile": ([1, 3], [node("Tile", ["x", "size"], ["y"])]),
    "TopK": ([2], [node("TopK", ["x", "size"], ["y", "places"])]),
    "Unique": ([3, 3, 1], [node("Unique", ["size"], ["y"])]),
    "Unsqueeze": ([-1], [node("Unsqueeze", ["x", "size"], ["y"])]),
}  # fmt: skip


def sized(path: Path, operator: str, source: Source) -> Path:
    """The model of an operator whose size comes from there: an input "size" of each request's, such an input
    with a default, an initializer, a Constant, the shape of x, or an operator that draws at random."""
    value, nodes = SIZED[operator]
    size = np.array(value, np.int64)
    named = numpy_helper.from_array(size, "size" if source in ("default", "initializer") else "value")
    inputs = [tensor("x", "FP32", ["N", COLUMNS])]
    if source in ("request", "default"):
        inputs.append(tensor("size", "INT64", size.shape))
    y = helper.make_empty_tensor_value_info("y")
    return save(path, [*_origin(named, source), *nodes], inputs, [y], [*_weights(), named], opset=OPSET)


def _origin(value: onnx.TensorProto, source: Source) -> list[onnx.NodeProto]:
    """The nodes that give "size"."""
    if source == "constant":
        return [node("Constant", [], ["size"], value=value)]
    if source == "shapes":
        seen = node("Shape", ["x"], ["shape"])
    elif source == "random":
        seen = node("RandomUniformLike", ["first"], ["shape"], low=0.0, high=0.5, dtype=TensorProto.FLOAT)
    else:
        return []
    return [
        seen,
        node("ReduceMin", ["shape"], ["least"], keepdims=0),
        node("Cast", ["least"], ["number"], to=TensorProto.INT64),
        node("Mul", ["number", "zero"], ["nothing"]),
        node("Add", ["value", "nothing"], ["size"]),
    ]


def _weights() -> list[onnx.TensorProto]:
    whole = {"zero": 0, "one": 1, "first": [0], "axis": [1], "last": [-1]}
    floats = {"W": np.ones((1, 4, 1)), "R": np.ones((1, 4, 1)), "off_and_on": np.array([0, 1])}
    return [
        *(numpy_helper.from_array(np.array(value, np.int64), name) for name, value in whole.items()),
        *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in floats.items()),
    ]
