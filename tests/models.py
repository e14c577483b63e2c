"""Small ONNX models for the tests, built by hand with the `onnx` package. Each builder writes one file and
returns its path; the docstring gives inputs → outputs, with `N` the free row dimension."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mdslite.runtimes.protocol import NUMPY_DTYPES

OPSET = 17
IR_VERSION = 9

ONNX_TYPES: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

NUMBERS = [name for name in NUMPY_DTYPES if name not in ("BF16", "BYTES")]

Shape = Sequence["int | str | None"]


def mlp(path: Path, dims: Sequence[int] = (4, 8, 3), *, seed: int = 0) -> Path:
    """x FP32 [N, dims[0]] → y FP32 [N, dims[-1]], probabilities. A seed gives other weights."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for index, (rows, columns) in enumerate(itertools.pairwise(dims)):
        matrix = (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{index}"))
        weights.append(numpy_helper.from_array(np.zeros(columns, np.float32), f"b{index}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [f"g{index}"]))
        last = f"g{index}"
        if index < len(dims) - 2:
            nodes.append(helper.make_node("Relu", [last], [f"r{index}"]))
            last = f"r{index}"
    nodes.append(helper.make_node("Softmax", [last], ["y"]))
    return save(
        path, nodes, [tensor("x", "FP32", ["N", dims[0]])], [tensor("y", "FP32", ["N", dims[-1]])], weights
    )


def identity(path: Path, datatype: str = "FP32", *, shape: Shape = ("N", 3)) -> Path:
    """x → y, the same tensor, of any datatype and shape."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return save(path, [node], [tensor("x", datatype, shape)], [tensor("y", datatype, shape)])


def add(path: Path, *, shape: Shape = ("N", 2)) -> Path:
    """a FP32, b FP32 → sum FP32, difference FP32: two inputs, two outputs, all of one shape."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    return save(
        path,
        nodes,
        [tensor(n, "FP32", shape) for n in ("a", "b")],
        [tensor(n, "FP32", shape) for n in ("sum", "difference")],
    )


def gather(path: Path, *, size: int = 8, offset: int = 0) -> Path:
    """index INT64 [N, 1] → value FP32 [N, 1] = 10 * (index + offset). An index outside of the table of `size`
    entries fails the whole batch: a poison row. `offset=-100` refuses zeros."""
    table = numpy_helper.from_array(np.arange(size, dtype=np.float32) * 10, "table")
    shift = numpy_helper.from_array(np.array(offset, np.int64), "offset")
    nodes = [
        helper.make_node("Add", ["index", "offset"], ["shifted"]),
        helper.make_node("Gather", ["table", "shifted"], ["value"]),
    ]
    return save(
        path, nodes, [tensor("index", "INT64", ["N", 1])], [tensor("value", "FP32", ["N", 1])], [table, shift]
    )


def loop(path: Path, *, endless: bool = False) -> Path:
    """turns INT64 [N, 1] → done INT64 [N, 1], the same values after as many turns of a Loop as the greatest
    of them says (some microseconds each); a negative one turns for ever. `endless` does so for any input."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["turn", "one"], ["next"]),
            helper.make_node("Less", ["next", "limit"], ["more"]),
            helper.make_node("Or", ["more", "for_ever"], ["again"]),
            helper.make_node("Identity", ["state"], ["state_out"]),
        ],
        "body",
        [tensor("turn", "INT64", []), tensor("going", "BOOL", []), tensor("state", "INT64", ["N", 1])],
        [tensor("again", "BOOL", []), tensor("state_out", "INT64", ["N", 1])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["turns"], ["limit"], keepdims=0),
        helper.make_node("ReduceMin", ["turns"], ["least"], keepdims=0),
        helper.make_node("Less", ["least", "floor"], ["for_ever"]),
        helper.make_node("Less", ["zero", "limit"], ["any"]),
        helper.make_node("Or", ["any", "for_ever"], ["start"]),
        helper.make_node("Loop", ["", "start", "turns"], ["done"], body=body),
    ]
    floor = np.iinfo(np.int64).max if endless else 0
    weights = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("one", 1), ("zero", 0), ("floor", floor))
    ]
    return save(
        path, nodes, [tensor("turns", "INT64", ["N", 1])], [tensor("done", "INT64", ["N", 1])], weights
    )


def classifier(
    path: Path, *, labels: Sequence[str] | Sequence[int] = ("ham", "spam"), zipmap: bool = True
) -> Path:
    """x FP32 [N, 2] → label [N] and probabilities, a sequence of maps from label to FP32, as
    scikit-learn's converter writes them; without `zipmap` an FP32 tensor [N, labels]. They are
    the softmax of x's columns."""
    textual = isinstance(labels[0], str)
    linear = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=np.eye(len(labels), 2, dtype=np.float32).ravel().tolist(),
        intercepts=[0.0] * len(labels),
        post_transform="SOFTMAX",
    )
    key = "classlabels_strings" if textual else "classlabels_ints"
    linear.attribute.append(helper.make_attribute(key, list(labels)))
    if zipmap:
        last = helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml")
        key = "classlabels_strings" if textual else "classlabels_int64s"
        last.attribute.append(helper.make_attribute(key, list(labels)))
    else:
        last = helper.make_node("Identity", ["scores"], ["probabilities"])
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(
            TensorProto.STRING if textual else TensorProto.INT64,
            helper.make_tensor_type_proto(TensorProto.FLOAT, []),
        )
    )
    probabilities = (
        helper.make_value_info("probabilities", maps)
        if zipmap
        else tensor("probabilities", "FP32", ["N", len(labels)])
    )
    outputs = [tensor("label", "BYTES" if textual else "INT64", ["N"]), probabilities]
    return save(path, [linear, last], [tensor("x", "FP32", ["N", 2])], outputs)


def shared_of(path: Path, datatype: str) -> Path:
    """x FP32 [N, 2], k of `datatype`, shape [1] (may be left out: 1) → y FP32 [N, 2] = x + k."""
    nodes = [
        helper.make_node("Cast", ["k"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "wide"], ["y"]),
    ]
    inputs = [tensor("x", "FP32", ["N", 2]), tensor("k", datatype, [1])]
    one = helper.make_tensor("k", ONNX_TYPES[datatype], [1], [1])
    return save(path, nodes, inputs, [tensor("y", "FP32", ["N", 2])], [one])


def total(path: Path, *, shape: Shape = (3,)) -> Path:
    """x FP32 (no row dimension by default) → y FP32 scalar, the sum of all."""
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    return save(path, [node], [tensor("x", "FP32", shape)], [tensor("y", "FP32", [])])


def sixth(path: Path) -> Path:
    """x FP32 [N, L] → y FP32 [N], the sixth value of each row: L has to be 6 at least."""
    place = numpy_helper.from_array(np.array(5, np.int64), "place")
    node = helper.make_node("Gather", ["x", "place"], ["y"], axis=1)
    return save(path, [node], [tensor("x", "FP32", ["N", "L"])], [tensor("y", "FP32", ["N"])], [place])


def dropping(path: Path) -> Path:
    """x FP32 [N, 2] → y FP32, declared as [N, 2] but without the rows whose first value is above 0: a
    model that lies about its rows, though not on zeros."""
    nodes = [
        helper.make_node("Gather", ["x", "first"], ["head"], axis=1),
        helper.make_node("LessOrEqual", ["head", "nought"], ["keep"]),
        helper.make_node("Compress", ["x", "keep"], ["y"], axis=0),
    ]
    weights = [numpy_helper.from_array(np.array(0, np.int64), "first")]
    weights.append(numpy_helper.from_array(np.array(0, np.float32), "nought"))
    return save(path, nodes, [tensor("x", "FP32", ["N", 2])], [tensor("y", "FP32", ["N", 2])], weights)


def hungry(path: Path, *, extra: int = 0) -> Path:
    """size INT64 [N, 1] → y FP32 [N, 1], by way of as many FP32 as the sum of `size` plus `extra`."""
    nodes = [
        helper.make_node("ReduceSum", ["size"], ["all"], keepdims=0),
        helper.make_node("Add", ["all", "extra"], ["more"]),
        helper.make_node("Reshape", ["more", "flat"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["size"], ["size_float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["size_float", "sum"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.array([1], np.int64), "flat")]
    weights.append(numpy_helper.from_array(np.array(extra, np.int64), "extra"))
    return save(path, nodes, [tensor("size", "INT64", ["N", 1])], [tensor("y", "FP32", ["N", 1])], weights)


def bfloat(path: Path) -> Path:
    """x BF16 [N, 2] → y BF16 [N, 2] = 2x, and wide FP32 [N, 2] = 2x."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "f"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.BFLOAT16),
    ]
    return save(
        path,
        nodes,
        [tensor("x", "BF16", ["N", 2])],
        [tensor("y", "BF16", ["N", 2]), tensor("wide", "FP32", ["N", 2])],
    )


def words(path: Path) -> Path:
    """word BYTES [N, 1] → code INT64 [N, 1]: ham 0, spam 1, anything else -1."""
    node = helper.make_node(
        "LabelEncoder",
        ["word"],
        ["code"],
        domain="ai.onnx.ml",
        keys_strings=["ham", "spam"],
        values_int64s=[0, 1],
        default_int64=-1,
    )
    return save(path, [node], [tensor("word", "BYTES", ["N", 1])], [tensor("code", "INT64", ["N", 1])])


def external(path: Path, *, location: str | None = None, write: bool = True) -> Path:
    """x FP32 [N, 2] → y FP32 [N, 2] = x @ [[1, 2], [3, 4]], whose weight lies outside of the model's file,
    by default in `NAME.data` beside it. `location` may be anything; without `write` the data are left out."""
    location = location or f"{path.name}.data"
    matrix = np.array([[1, 2], [3, 4]], np.float32)
    weight = _external(numpy_helper.from_array(matrix, "w"), location=location, size_bytes=matrix.nbytes)
    if write:
        (path.parent / location).write_bytes(matrix.tobytes())
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return save(path, [node], [tensor("x", "FP32", ["N", 2])], [tensor("y", "FP32", ["N", 2])], [weight])


def added_weights(path: Path, *, size: int) -> Path:
    """x FP32 [1, size] → y FP32 [1, size], the same after adding a matrix of ones and taking it away again.
    The matrix lies in `NAME.data`; an Add, unlike a MatMul, computes on the mapped file itself."""
    ones = np.ones((size, size), np.float32)
    weight = _external(
        numpy_helper.from_array(ones, "w"), location=f"{path.name}.data", size_bytes=ones.nbytes
    )
    (path.parent / f"{path.name}.data").write_bytes(ones.tobytes())
    first = numpy_helper.from_array(np.array([0], np.int64), "first")
    nodes = [
        helper.make_node("Add", ["x", "w"], ["sum"]),
        helper.make_node("Sub", ["sum", "w"], ["all"]),
        helper.make_node("Gather", ["all", "first"], ["y"]),
    ]
    y = tensor("y", "FP32", [1, size])
    return save(path, nodes, [tensor("x", "FP32", [1, size])], [y], [weight, first])


def _external(weight: onnx.TensorProto, *, location: str, size_bytes: int) -> onnx.TensorProto:
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(size_bytes))):
        weight.external_data.add(key=key, value=value)
    return weight


def tensor(name: str, datatype: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], list(shape))


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[Any] = (),
    *,
    opset: int = OPSET,
) -> Path:
    """Write one graph; nothing is checked, since some of these models are wrong on purpose."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 2)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    )
    return path
