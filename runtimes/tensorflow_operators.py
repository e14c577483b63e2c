"""TensorFlow's operators whose time follows from the shapes of their inputs, as `operators` has ONNX's, and
whether a SavedModel is of such. Imports nothing of TensorFlow.

Whatever is missing here does not count as one: control flow, what makes as much as the data say, texts and
pictures, what is not known. Left out are also operators that few models have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final

_TIMED = """
Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh AssignVariableOp Atan Atan2 Atanh AvgPool
AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd Cast Ceil ClipByValue ConcatV2 Const
Conv2D Conv3D Cos Cosh Cumprod Cumsum DepthToSpace DepthwiseConv2dNative DivNoNan Einsum Elu Equal Erf Erfc
Exp ExpandDims Expm1 Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd
GatherV2 Greater GreaterEqual Identity IdentityN InvertPermutation IsFinite IsInf IsNan L2Loss LeakyRelu Less
LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool MaxPool3D MaxPoolV2 Maximum
Mean Min Minimum Mul MulNoNan Neg NoOp NotEqual OnesLike Pack ParallelConcat PartitionedCall Placeholder
PlaceholderWithDefault Pow Prod Rank ReadVariableOp RealDiv Reciprocal Relu Relu6 ResourceGather ReverseV2
Rint Round Rsqrt Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Softmax Softplus Softsign
SpaceToBatchND SpaceToDepth Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StopGradient Sub Sum
Tan Tanh Transpose TruncateDiv TruncateMod Unpack VarHandleOp VarIsInitializedOp VariableV2 Xdivy Xlogy
ZerosLike
"""
# Of those with which a model is saved and read back, which stand in its file and in no request's way.
_SAVING = """
AssignVariableOp DisableCopyOnRead MergeV2Checkpoints RestoreV2 SaveV2 ShardedFilename StaticRegexFullMatch
StringJoin
"""
# Which of an operator's inputs say how much there is to compute, or of what shape an output is.
_SIZES: Final[Mapping[str, slice]] = {
    "BroadcastTo": slice(1, None),
    "Conv2DBackpropInput": slice(1),
    "Fill": slice(1),
    "MirrorPad": slice(1, None),
    "OneHot": slice(1, 2),
    "Pad": slice(1, 2),
    "PadV2": slice(1, 2),
    "Range": slice(None),
    "Reshape": slice(1, None),
    "ResizeBilinear": slice(1, None),
    "ResizeNearestNeighbor": slice(1, None),
    "Slice": slice(1, None),
    "Split": slice(1),
    "SplitV": slice(1, None),
    "StridedSlice": slice(1, None),
    "Tile": slice(1, None),
    "TopKV2": slice(1, None),
}
_KNOWN: Final = frozenset((_TIMED + _SAVING).split()) | _SIZES.keys()
_OF_SHAPES: Final = frozenset({"Rank", "Shape", "ShapeN", "Size"})
# What they give need not be the same each time, whatever they are given.
_UNSETTLED: Final = frozenset(
    {"PartitionedCall", "Placeholder", "PlaceholderWithDefault", "ReadVariableOp", "ResourceGather",
     "StatefulPartitionedCall", "VarHandleOp", "VariableV2"}
)  # fmt: skip

_functions = attrgetter("library.function")  # of a graph


def is_timed(saved: Any) -> bool:
    """Is the time of a run a function of its inputs' shapes? `saved` is a SavedModel message."""
    return all(_is_timed(nodes) for nodes in graphs(saved))


def graphs(saved: Any) -> Iterator[Iterable[Any]]:
    """The nodes of each graph and function of a SavedModel message."""
    for meta in saved.meta_graphs:
        yield meta.graph_def.node
        for function in _functions(meta.graph_def):
            yield function.node_def


def _is_timed(nodes: Iterable[Any]) -> bool:
    nodes = list(nodes)
    if not _KNOWN.issuperset(node.op for node in nodes):
        return False
    settled = _settled(nodes)
    return all(settled.issuperset(_inputs(node)[_SIZES[node.op]]) for node in nodes if node.op in _SIZES)


def _settled(nodes: list[Any]) -> set[str]:
    """The nodes that give the same whatever the data are: what follows from constants and shapes."""
    settled = {node.name for node in nodes if node.op in _OF_SHAPES}
    waiting = [node for node in nodes if node.op not in _UNSETTLED and node.name not in settled]
    while waiting:  # they stand in no order
        found = [node for node in waiting if settled.issuperset(_inputs(node))]
        if not found:
            break
        settled.update(node.name for node in found)
        waiting = [node for node in waiting if node.name not in settled]
    return settled


def _inputs(node: Any) -> list[str]:
    """The nodes, or arguments of a function, whose values a node takes: `name:0` in a graph, `name:output:0`
    in a function, and `^name` for one that only has to run before."""
    return [name.partition(":")[0] for name in node.input if not name.startswith("^")]
