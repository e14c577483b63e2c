"""A model's signature, from what ONNX Runtime says of an open session, and corrected by what a run showed.

ONNX Runtime names each free dimension (or gives None) and calls a shape it does not know `[]`, as it does a
scalar's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mdslite.errors import LoadFailed
from mdslite.runtimes.protocol import Datatype, Outputs, Rows, Signature, TensorSpec

_DATATYPES: Mapping[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_OPTIONAL = re.compile(r"optional\((.*)\)")
# More initializers that may be overridden than this are weights, listed as inputs by an old exporter.
_OVERRIDABLE_MOST = 16
_KNOB_MOST = 16  # numbers of an input that all rows share


def read_signature(session: Any) -> Signature:
    """Read the signature of an `onnxruntime.InferenceSession`.

    An optional input is an `optional(tensor)` or an initializer that the graph lists as an input. One that
    does not count rows as the other inputs do (a threshold) is `shared` by those of a request, if it is no
    more than a few numbers and stands beside no weights; else it is left out and keeps its default.

    :raises LoadFailed: an input or output of a type that cannot be served, or two that cannot be together
    """
    required = [_input(one) for one in session.get_inputs()]
    overridable = session.get_overridable_initializers()
    extra = (
        [_input(one, optional=True) for one in overridable] if len(overridable) <= _OVERRIDABLE_MOST else []
    )
    outputs = tuple(_output(one) for one in session.get_outputs())
    rows = count_rows(required, outputs)
    inputs = [one for one in (*required, *extra) if not one.optional or rows == "none" or _counts(one, rows)]
    others = [one for one in (*required, *extra) if one not in inputs]
    shared = others if all(_is_knob(one) for one in others) else []
    _check_together(inputs, outputs)
    return Signature(tuple(inputs), outputs, rows, tuple(shared))


def _is_knob(one: TensorSpec) -> bool:
    """A few numbers, rather than weights that an old exporter lists as inputs."""
    return (
        one.datatype != "BYTES"
        and len(one.shape) < 2
        and all(size is not None and size <= _KNOB_MOST for size in one.shape)
    )


def count_rows(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Rows:
    """How tensors count rows, by the first dimensions of those that have to be there."""
    inputs = [one for one in inputs if not one.optional]
    if not inputs:
        return "none"
    if all(_counts(one, "free") for one in (*inputs, *outputs)):
        return "free"
    # An output may be open where the input is not: an exporter did not work it out.
    if all(one.shape[:1] == (1,) for one in inputs) and all(
        one.shape[:1] in ((1,), (None,)) for one in outputs
    ):
        return "one"
    return "none"


def settle_rows(signature: Signature, seen: Mapping[int, Outputs]) -> Signature:
    """Correct how a signature counts rows by the outputs of runs with 1 and 2 rows.

    A model whose outputs do not follow its inputs' rows (it declares `N` and returns one row whatever `N` is)
    is not batched. One whose outputs' shapes are unknown, but follow, is.
    """
    if any(one.shape[:1] != (None,) for one in signature.inputs) or not signature.inputs or 2 not in seen:
        return signature
    follows = all(_length(output) == rows for rows, outputs in seen.items() for output in outputs)
    if signature.rows == "free":
        return signature if follows else replace(signature, rows="none")
    unknown = [one.datatype != "OBJECT" and one.shape == () for one in signature.outputs]
    declared = [one for one, open_ in zip(signature.outputs, unknown, strict=True) if not open_]
    if not follows or not any(unknown) or not all(_counts(one, "free") for one in declared):
        return signature
    outputs = tuple(
        replace(one, shape=(None,) * np.ndim(output)) if open_ else one
        for one, open_, output in zip(signature.outputs, unknown, seen[2], strict=True)
    )
    return replace(signature, outputs=outputs, rows="free")


def _check_together(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Refuse what ONNX Runtime's Python API cannot hand over in one run: bfloat16 comes out of bound values
    only, which strings do not go into, and of which maps and sequences do not come out."""
    bfloat = next((one for one in outputs if one.datatype == "BF16"), None)
    if bfloat is None:
        return
    texts = next((f'input "{one.name}" takes strings' for one in inputs if one.datatype == "BYTES"), None)
    other = next((f'output "{one.name}" is no tensor' for one in outputs if one.datatype == "OBJECT"), None)
    if found := texts or other:
        raise LoadFailed(
            f'{found} and output "{bfloat.name}" is bfloat16: onnxruntime cannot hand over both in one run',
            hint=f'cast "{bfloat.name}" to float32 in the model, with a Cast node behind it',
        )


def _input(node: Any, *, optional: bool = False) -> TensorSpec:
    inner = _OPTIONAL.fullmatch(node.type)
    kind = inner[1] if inner else node.type
    datatype = _DATATYPES.get(kind)
    if datatype is None:
        raise _unfit("input", node)
    return TensorSpec(node.name, datatype, _shape(node), optional or inner is not None)


def _output(node: Any) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is not None:
        return TensorSpec(node.name, datatype, _shape(node))
    if node.type.startswith("seq(map("):
        return TensorSpec(node.name, "OBJECT", (None,))  # one map a row: scikit-learn's probabilities
    if node.type.startswith(("seq(tensor(", "map(")) and "bfloat16" not in node.type:
        return TensorSpec(node.name, "OBJECT", ())
    raise _unfit("output", node)


def _unfit(role: str, node: Any) -> LoadFailed:
    """An input or output of a type that no request can hold, or no reply."""
    hint = f'export the model with a tensor in place of "{node.name}"'
    if node.type.startswith("tensor("):
        hint = f'cast "{node.name}" in the model, with a Cast node: to float16 or float32, or to int8'
    return LoadFailed(
        f'{role} "{node.name}" is of type {node.type}, which cannot be sent: '
        "expected a tensor of strings, booleans, integers of 8 to 64 bits or floats of 16 to 64",
        hint=hint,
    )


def _shape(node: Any) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in node.shape)


def _counts(one: TensorSpec, rows: Rows) -> bool:
    return one.shape[:1] == ((None,) if rows == "free" else (1,))


def _length(output: Any) -> int:
    """Rows of an output; -1 for a scalar."""
    return -1 if np.ndim(output) == 0 and not isinstance(output, list) else len(output)
