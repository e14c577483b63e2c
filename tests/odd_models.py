"""ONNX models with what cannot be sent or need not be there, and models that cannot be opened or run. Each
builder writes one file and returns its path; the docstring gives inputs → outputs, with `N` the free row
dimension."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from models import IR_VERSION, OPSET, mlp, save, tensor
from onnx import TensorProto, helper, numpy_helper


def sequence(path: Path) -> Path:
    """x FP32 [N, 2] → parts, a sequence with one FP32 tensor [2] a row."""
    node = helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0, keepdims=0)
    parts = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    return save(path, [node], [tensor("x", "FP32", ["N", 2])], [parts])


def sequence_input(path: Path) -> Path:
    """parts, a sequence of FP32 tensors → y FP32, all of them back to back."""
    node = helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=0)
    parts = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    return save(path, [node], [parts], [tensor("y", "FP32", ["N"])])


def optional_output(path: Path) -> Path:
    """x FP32 [N, 2] → y optional(FP32 [N, 2]), always there."""
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2]))
    node = helper.make_node("Optional", ["x"], ["y"])
    return save(path, [node], [tensor("x", "FP32", ["N", 2])], [helper.make_value_info("y", kind)])


def mixed(path: Path, datatype: str = "BYTES") -> Path:
    """x FP32 [N, 2], other of `datatype` [N, 1] → y BF16 [N, 2] = x, same of `datatype` = other."""
    nodes = [
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16),
        helper.make_node("Identity", ["other"], ["same"]),
    ]
    inputs = [tensor("x", "FP32", ["N", 2]), tensor("other", datatype, ["N", 1])]
    return save(path, nodes, inputs, [tensor("y", "BF16", ["N", 2]), tensor("same", datatype, ["N", 1])])


def texts_beside_bfloat(path: Path) -> Path:
    """x FP32 [N, 2] → y BF16 [N, 2] = x, label BYTES [N]: spam where x's second column is the greater."""
    nodes = [
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16),
        helper.make_node("ArgMax", ["x"], ["index"], axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder", ["index"], ["label"], domain="ai.onnx.ml",
            keys_int64s=[0, 1], values_strings=["ham", "spam"],
        ),
    ]  # fmt: skip
    outputs = [tensor("y", "BF16", ["N", 2]), tensor("label", "BYTES", ["N"])]
    return save(path, nodes, [tensor("x", "FP32", ["N", 2])], outputs)


def maps_beside_bfloat(path: Path) -> Path:
    """x FP32 [N, 2] → y BF16 [N, 2] = x, maps, a sequence of maps from a text to FP32."""
    nodes = [
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16),
        helper.make_node("ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["a", "b"]),
    ]
    maps = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    kind = helper.make_value_info("maps", helper.make_sequence_type_proto(maps))
    return save(path, nodes, [tensor("x", "FP32", ["N", 2])], [tensor("y", "BF16", ["N", 2]), kind])


def cast_to(path: Path, kind: int) -> Path:
    """x FP32 [N, 2] → y [N, 2] of the ONNX type `kind`, which `models.tensor` may not know."""
    node = helper.make_node("Cast", ["x"], ["y"], to=kind)
    y = helper.make_tensor_value_info("y", kind, ["N", 2])
    return save(path, [node], [tensor("x", "FP32", ["N", 2])], [y], opset=23)


def cast_from(path: Path, kind: int) -> Path:
    """x [N, 2] of the ONNX type `kind` → y FP32 [N, 2]."""
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    x = helper.make_tensor_value_info("x", kind, ["N", 2])
    return save(path, [node], [x], [tensor("y", "FP32", ["N", 2])], opset=23)


def map_input(path: Path) -> Path:
    """words, a map from a text to FP32 → y FP32 [1, 2]."""
    node = helper.make_node(
        "DictVectorizer", ["words"], ["y"], domain="ai.onnx.ml", string_vocabulary=["ham", "spam"]
    )
    kind = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    words = helper.make_value_info("words", kind)
    return save(path, [node], [words], [tensor("y", "FP32", [1, 2])])


def overridable(path: Path, *, shared: bool = False, narrow: bool = False) -> Path:
    """x FP32 [N, 2], factor FP32 [N, 1] (may be left out: 3.0) → y FP32 [N, 2] = x * factor. A `shared`
    factor is of shape [1], the same for all rows; a `narrow` y is BF16."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["wide" if narrow else "y"])]
    if narrow:
        nodes.append(helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.BFLOAT16))
    value = np.array([3.0] if shared else [[3.0]], np.float32)
    inputs = [tensor("x", "FP32", ["N", 2]), tensor("factor", "FP32", [1] if shared else ["N", 1])]
    weights = [numpy_helper.from_array(value, "factor")]
    y = tensor("y", "BF16" if narrow else "FP32", ["N", 2])
    return save(path, nodes, inputs, [y], weights)


def optional(path: Path, *, narrow: bool = False) -> Path:
    """x FP32 [N, 2], extra optional(FP32 [N, 2]) → y FP32 [N, 2] = x + extra, or x where there is none.
    A `narrow` y is BF16."""
    given = helper.make_graph(
        [
            helper.make_node("OptionalGetElement", ["extra"], ["e"]),
            helper.make_node("Add", ["x", "e"], ["a"]),
        ],
        "given",
        [],
        [tensor("a", "FP32", ["N", 2])],
    )
    absent = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])], "absent", [], [tensor("b", "FP32", ["N", 2])]
    )
    nodes = [
        helper.make_node("OptionalHasElement", ["extra"], ["has"]),
        helper.make_node("If", ["has"], ["sum"], then_branch=given, else_branch=absent),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.BFLOAT16 if narrow else TensorProto.FLOAT),
    ]
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2]))
    inputs = [tensor("x", "FP32", ["N", 2]), helper.make_value_info("extra", kind)]
    return save(path, nodes, inputs, [tensor("y", "BF16" if narrow else "FP32", ["N", 2])])


def unranked(path: Path) -> Path:
    """x FP32 [N, 2] → y FP32 [N, 2], the same, of a shape that neither the file nor shape inference knows."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("NonZero", ["size"], ["places"]),
        helper.make_node("Reshape", ["places", "flat"], ["axes"]),
        helper.make_node("Gather", ["size", "axes"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    flat = numpy_helper.from_array(np.array([-1], np.int64), "flat")
    return save(path, nodes, [tensor("x", "FP32", ["N", 2])], [y], [flat])


def collapsing(path: Path) -> Path:
    """x FP32 [N, 2] → y FP32 of one row, all rows' sum, declared as [N, 2] in a way that hides it."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
        helper.make_node("NonZero", ["sum"], ["places"]),
        helper.make_node("Shape", ["sum"], ["size"]),
        helper.make_node("Size", ["places"], ["count"]),
        helper.make_node("Mul", ["count", "nought"], ["none"]),
        helper.make_node("Add", ["size", "none"], ["shape"]),
        helper.make_node("Reshape", ["sum", "shape"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("axes", [0]), ("nought", 0))
    ]
    return save(path, nodes, [tensor("x", "FP32", ["N", 2])], [tensor("y", "FP32", ["N", 2])], weights)


def crashing(path: Path, *, depth: int = 6000) -> Path:
    """A chain of functions, each calling the next: ONNX Runtime 1.31 inlines it recursively, which overflows
    an 8 MiB stack (SIGSEGV) from between 2500 and 4000 of them."""
    opset = [helper.make_opsetid("", OPSET), helper.make_opsetid("f", 1)]
    functions = [
        helper.make_function(
            "f",
            f"f{index}",
            ["a"],
            ["b"],
            [
                helper.make_node(f"f{index + 1}", ["a"], ["b"], domain="f")
                if index + 1 < depth
                else helper.make_node("Identity", ["a"], ["b"])
            ],
            opset,
        )
        for index in range(depth)
    ]
    node = helper.make_node("f0", ["x"], ["y"], domain="f")
    graph = helper.make_graph([node], "g", [tensor("x", "FP32", ["N", 1])], [tensor("y", "FP32", ["N", 1])])
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, functions=functions)
    path.write_bytes(model.SerializeToString())
    return path


def truncated(path: Path) -> Path:
    """The first half of a model's file."""
    mlp(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def unknown_operator(path: Path) -> Path:
    """x FP32 [N, 1] → y FP32 [N, 1] through an operator that no runtime has."""
    node = helper.make_node("Frobnicate", ["x"], ["y"])
    return save(path, [node], [tensor("x", "FP32", ["N", 1])], [tensor("y", "FP32", ["N", 1])])


def unknown_opset(path: Path) -> Path:
    """The identity in a version of the standard that does not exist yet."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return save(path, [node], [tensor("x", "FP32", ["N", 1])], [tensor("y", "FP32", ["N", 1])], opset=999)


# Those that are refused when they are opened, and what is said of each.
BROKEN = [
    (truncated, "Protobuf parsing failed"),
    (unknown_operator, "No Op registered for Frobnicate"),
    (unknown_opset, "Opset 999"),
]
