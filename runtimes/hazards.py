"""Operators by which a request could end the process that computes it: which of them stand in a model's
graph, and what may reach them there.

ONNX Runtime 1.31 was seen to, on values and sizes of all kinds for each of ONNX's operators:

* `Div` and `Mod` of int32 or int64: the least of them by -1 is SIGFPE (by 0, an error);
* `STFT` with frames of no length: SIGFPE;
* operators that make a tensor as large as a value says: all memory that there is, and then SIGKILL;
* `GRU`, `LSTM` and `ConvTranspose` over no element: SIGABRT, SIGSEGV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mdslite.runtimes.graph import Graph, Node
from mdslite.runtimes.operators import NONE, OF_SHAPES, SIZES

_INT32, _INT64 = 6, 7  # onnx.TensorProto
_DIVISIONS: Final = frozenset({"Div", "Mod"})
_GROWING: Final = frozenset(
    {"AffineGrid", "BlackmanWindow", "CenterCropPad", "Col2Im", "ConstantOfShape", "DFT", "Expand",
     "HammingWindow", "HannWindow", "MelWeightMatrix", "OneHot", "Pad", "Range", "Resize", "STFT", "Tile",
     "Upsample"}
)  # fmt: skip
_FILLED: Final = frozenset({"ConvTranspose", "GRU", "LSTM"})  # their first input must not be empty
# What these give counts something where their first input does.
_OF_COUNTS: Final = frozenset(
    {"Cast", "Gather", "Identity", "ReduceMax", "ReduceMin", "ReduceProd", "Reshape", "Slice", "Split",
     "Squeeze", "Unsqueeze"}
)  # fmt: skip
_UNCLEAR = 0  # a type that is not known, or that two values of one name do not share

# What these give is of the type of their first input, and has elements wherever all that they take has some.
_ELEMENTWISE = """
Abs Acos Acosh Add Asin Asinh Atan Atanh BatchNormalization BiasGelu BitShift BitwiseAnd BitwiseNot BitwiseOr
BitwiseXor Ceil Celu Clip Concat Cos Cosh CumSum DepthToSpace Div Dropout Elu Erf Exp FastGelu Floor Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid HardSwish
Identity InstanceNormalization LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MatMul Max Mean
MeanVarianceNormalization Min Mish Mod Mul Neg PRelu Pow Reciprocal Relu Reshape ReverseSequence Round
ScatterElements ScatterND Selu Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh
SkipLayerNormalization Softmax Softplus Softsign SpaceToDepth Sqrt Squeeze Sub Sum Swish Tan Tanh
ThresholdedRelu Transpose Unsqueeze
GRU LSTM RNN
"""
# Of the type of their first input, but possibly empty.
_SHORTENING = """
AveragePool CenterCropPad Compress Conv ConvTranspose Einsum Expand LpPool MaxPool Pad ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize Slice
Split Tile Trilu Upsample
"""
_FULL: Final = frozenset([*_ELEMENTWISE.split(), "Cast", "Equal", "Greater", "Less", "Not", "Where"])
_LIKE_FIRST: Final = frozenset((_ELEMENTWISE + _SHORTENING).split())


def find_hazards(graph: Graph) -> tuple[str, ...]:
    """The operators in a graph that a request could reach with what they do not survive. Where that cannot
    be told (a function may give an operator's name another meaning), all that might be one."""
    if not graph.nodes:
        return ("operators that cannot be read",)
    return tuple(sorted({node.operator for node in _hazards(graph)}))


def find_filled(graph: Graph) -> str | None:
    """An operator in a graph that does not survive an input without elements."""
    return next((node.operator for node in graph.nodes if node.operator in _FILLED), None)


def _hazards(graph: Graph) -> Iterator[Node]:
    types = _types(graph)
    fixed = graph.follows
    divisors = set(graph.divisors)
    empty: set[bytes] = set()  # what may be, though no input of the graph is
    for node in graph.nodes:
        first = node.inputs[0] if node.inputs else b""
        if node.operator in OF_SHAPES or (node.operator in _OF_COUNTS and first in divisors):
            divisors.update(node.outputs)
        if node.operator in _DIVISIONS:
            if not (graph.plain and _divides(node, types, divisors, fixed)):
                yield node
        elif node.operator in _GROWING:
            if not (graph.plain and fixed.issuperset(node.inputs[SIZES.get(node.operator, NONE)])):
                yield node
        elif node.operator in _FILLED and (first in empty or not graph.plain):
            yield node
        if node.operator not in _FULL or not empty.isdisjoint(node.inputs):
            empty.update(node.outputs)


def _divides(node: Node, types: Mapping[bytes, int], divisors: set[bytes], fixed: frozenset[bytes]) -> bool:
    """Whether a division has a result whatever a request says."""
    kinds = [types.get(name, _UNCLEAR) for name in node.inputs]
    if any(kind not in (_UNCLEAR, _INT32, _INT64) for kind in kinds):
        return True  # both are of one type
    return len(kinds) == 2 and (node.inputs[1] in divisors or fixed.issuperset(node.inputs))


def _types(graph: Graph) -> Mapping[bytes, int]:
    """The elements' types of the values in a graph, as far as they are said or follow from others."""
    types = dict(graph.types)
    for node in graph.nodes:
        found = node.element
        if not found and node.operator in _LIKE_FIRST:
            found = types.get(node.inputs[0], _UNCLEAR) if node.inputs else _UNCLEAR
        elif not found and node.operator == "Where" and len(node.inputs) == 3:
            found = types.get(node.inputs[1], _UNCLEAR) or types.get(node.inputs[2], _UNCLEAR)
        for name in node.outputs:
            types[name] = found if types.get(name, found) == found else _UNCLEAR
    return types
