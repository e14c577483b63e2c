"""TorchScript modules as programs. A module names its inputs; their types and shapes come from the spec, else
from the example that it was traced with, else from the layer that they go into; its outputs from running it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mdslite.errors import LoadFailed
from mdslite.runtimes.protocol import Datatype, Signature, TensorSpec
from mdslite.runtimes.pytorch_archive import read_text
from mdslite.runtimes.pytorch_engine import DATATYPES, datatype_of, exceptions, run_error, to_tensor
from mdslite.runtimes.pytorch_export import DIVISION, TRUNCATE, Compute, Program
from mdslite.runtimes.pytorch_signature import (
    Outcome,
    Run,
    Seen,
    name_leaves,
    settle,
    settle_examples,
)
from mdslite.runtimes.signature import count_rows

Shape = tuple[int | None, ...]
_CONTROL = frozenset({"prim::Loop", "prim::If"})
_TO_NUMBERS = frozenset(
    {"aten::item", "aten::Int", "aten::Float", "aten::Bool", "aten::IntImplicit", "aten::tolist"}
)


def read_script(torch: Any, module: Any, model: Path, settings: Mapping[str, Any], device: Any) -> Program:
    """Make a module that is loaded onto `device` ready to be served.

    :raises LoadFailed: its signature cannot be found, or cannot be served
    """
    inputs = stated_tensors(settings, "inputs")
    arguments = read_arguments(module, inputs)
    compute = _call(module, arguments)
    signature = _find_signature(module, model, arguments, inputs, settings, _runner(torch, compute, device))
    count = len(signature.outputs)

    def compute_parts(tensors: Mapping[str, Any]) -> Sequence[Any]:
        returned = compute(tensors)
        if isinstance(returned, torch.Tensor):
            return (returned,)
        parts = [part for _, part in name_leaves(returned)]
        if len(parts) != count:
            raise RuntimeError(f"it returned {len(parts)} tensors, expected {count}")
        return parts

    return Program(
        signature,
        compute_parts,
        is_bounded=lambda: _is_bounded(torch, module),
        find_hazards=lambda: _find_hazards(module),
        writes=any(node.kind().endswith("_") for node in _nodes(module.inlined_graph)),
    )


def _call(module: Any, arguments: Sequence[Argument]) -> Compute:
    forward = module.forward
    if any(one.optional for one in arguments):
        return lambda tensors: forward(**tensors)
    names = [one.name for one in arguments]
    return lambda tensors: forward(*[tensors[name] for name in names])


def _runner(torch: Any, compute: Compute, device: Any) -> Run:
    """Runs on arrays that tell what came out of them."""

    failures = exceptions(torch)

    def run(signature: Signature, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Outcome:
        datatypes = {one.name: one.datatype for one in signature.inputs}
        try:
            with torch.inference_mode():
                tensors = {
                    name: to_tensor(torch, array, datatypes[name]).to(device) for name, array in feeds.items()
                }
                returned = compute(tensors)
        except failures as exc:
            raise run_error(exc) from exc
        return [
            (name, (datatype_of(part, name=name), tuple(part.shape))) for name, part in name_leaves(returned)
        ]

    return run


def _find_signature(
    module: Any,
    model: Path,
    arguments: Sequence[Argument],
    stated: tuple[TensorSpec, ...] | None,
    settings: Mapping[str, Any],
    run: Run,
) -> Signature:
    outputs = stated_tensors(settings, "outputs")
    examples = read_examples(model) if stated is None else None
    if examples is not None and len(examples) == len(arguments) and outputs is None:
        named = zip(arguments, examples, strict=True)
        return settle_examples(tuple(TensorSpec(one.name, *seen) for one, seen in named), run)
    optional = {one.name for one in arguments if one.optional}
    inputs = (
        infer_inputs(module, arguments)
        if stated is None
        else tuple(replace(one, optional=one.name in optional) for one in stated)
    )
    if outputs is not None:
        return Signature(inputs, outputs, count_rows(inputs, outputs))
    return settle(inputs, run)


# What the spec says


def stated_tensors(settings: Mapping[str, Any], key: str) -> tuple[TensorSpec, ...] | None:
    """The tensors that `container_parameter.torch` lists under `key`, None where it does not."""
    listed = settings.get(key)
    if listed is None:
        return None
    return tuple(
        TensorSpec(one["name"], one["datatype"], tuple(None if size == -1 else size for size in one["shape"]))
        for one in listed
    )


# What a trace says


class _ExampleReader(pickle.Unpickler):
    """Reads of a trace's example inputs the dtypes and sizes. Knows the few names that a list of tensors
    needs, none of which is PyTorch's own, and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _: value
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, _, size, *rest: (storage, tuple(size))
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]


_STORAGES: Mapping[str, Datatype] = {
    "BoolStorage": "BOOL",
    "ByteStorage": "UINT8",
    "CharStorage": "INT8",
    "ShortStorage": "INT16",
    "IntStorage": "INT32",
    "LongStorage": "INT64",
    "HalfStorage": "FP16",
    "BFloat16Storage": "BF16",
    "FloatStorage": "FP32",
    "DoubleStorage": "FP64",
}


def read_examples(model: Path) -> list[Seen] | None:
    """The dtypes and shapes of the inputs that a model was traced with; None where the file has none."""
    content = read_text(model, "traced_inputs.pkl")
    if content is None:
        return None
    try:
        found = _ExampleReader(io.BytesIO(content)).load()["forward"]
        return [(datatype, tuple(map(int, size))) for datatype, size in found]
    except Exception:  # whatever unpickling raises on what is more than tensors: then it says nothing
        return None


# What TorchScript says


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    optional: bool


def read_arguments(module: Any, wanted: Sequence[TensorSpec] | None) -> list[Argument]:
    """The tensors that a TorchScript module's `forward` takes. Of those with a default only the `wanted`.

    :raises LoadFailed: it takes something else, or not what is wanted
    """
    found = []
    for one in module.forward.schema.arguments[1:]:
        kind = str(one.type)
        tensor = kind in ("Tensor", "Optional[Tensor]")
        if one.has_default_value():
            if tensor and wanted is not None and any(spec.name == one.name for spec in wanted):
                found.append(Argument(one.name, optional=True))
        elif tensor:
            found.append(Argument(one.name, optional=False))
        else:
            raise LoadFailed(f'input "{one.name}" is of type {kind}: only tensors can be sent')
    if wanted is not None and sorted(spec.name for spec in wanted) != sorted(one.name for one in found):
        raise LoadFailed(
            f"container_parameter.torch.inputs lists {_names(wanted)}, but forward takes {_names(found)}"
        )
    return found


def infer_inputs(module: Any, arguments: Sequence[Argument]) -> tuple[TensorSpec, ...]:
    """Guess inputs from the layers that they go into at once: a Linear's features, a convolution's channels.

    :raises LoadFailed: an input goes elsewhere; says what to write
    """
    graph = module.inlined_graph
    nodes = {one.debugName().partition(".")[0]: one for one in graph.inputs()}
    guesses = []
    for argument in arguments:
        guess = _first_layer(module, nodes.get(argument.name))
        if guess is None:
            raise LoadFailed(
                f'TorchScript does not say of which datatype and shape the input "{argument.name}" is',
                hint="write them, -1 for free dimensions: container_parameter: {torch: {inputs: "
                f"[{{name: {argument.name}, datatype: FP32, shape: [-1, 4]}}]}}}}; or export the model with "
                "torch.export, whose files say it",
            )
        guesses.append(TensorSpec(argument.name, *guess))
    return tuple(guesses)


def _first_layer(module: Any, value: Any) -> tuple[Datatype, Shape] | None:
    for use in value.uses() if value is not None else ():
        kind = use.user.kind()
        taken = list(use.user.inputs())
        places = [at for at, one in enumerate(taken) if one.debugName() == value.debugName()]
        weight = _attribute(module, taken[1 if places == [0] else 0]) if len(taken) > 1 else None
        if weight is None or str(weight.dtype) not in DATATYPES:
            continue
        datatype = DATATYPES[str(weight.dtype)]
        if kind == "aten::linear":
            return datatype, (None, int(weight.shape[1]))
        if kind in ("aten::_convolution", "aten::conv1d", "aten::conv2d", "aten::conv3d"):
            groups = _groups(use.user)
            if groups is not None:
                return datatype, (None, int(weight.shape[1]) * groups, *[None] * (weight.dim() - 2))
        if kind == "aten::embedding" and places == [1]:
            return "INT64", (None, None)
    return None


def _attribute(module: Any, value: Any) -> Any:
    """The parameter that a chain of GetAttr nodes leads to, None if it is no such chain."""
    names = []
    node = value.node()
    while node.kind() == "prim::GetAttr":
        names.append(node.s("name"))
        node = next(iter(node.inputs())).node()
    found = module
    for name in reversed(names):
        found = getattr(found, name)
    return found if hasattr(found, "dtype") else None


def _groups(node: Any) -> int | None:
    """A convolution's groups: its last argument, or the ninth of the general one."""
    values = list(node.inputs())
    at = 8 if node.kind() == "aten::_convolution" else len(values) - 1
    groups = values[at].toIValue()
    return groups if isinstance(groups, int) else None


# What its graph says


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _is_bounded(torch: Any, module: Any) -> bool:
    """Is a run's time a function of its inputs' sizes? Freezing takes out what only looks like a decision."""
    try:
        graph = torch.jit.freeze(module).graph
    except exceptions(torch):
        return False
    for node in _nodes(graph):
        if node.kind() in _CONTROL:
            return False
        if node.kind() in _TO_NUMBERS and next(iter(node.inputs())).node().kind() != "prim::NumToTensor":
            return False  # a value in the data, which may be the size of what follows
    return True


def _find_hazards(module: Any) -> tuple[str, ...]:
    """Numbers divided and cut off, which may be whole ones: the file does not say."""
    for node in _nodes(module.inlined_graph):
        if node.kind() == DIVISION and any(value.toIValue() == TRUNCATE for value in list(node.inputs())[2:]):
            return (DIVISION,)
    return ()


def _names(found: Sequence[TensorSpec] | Sequence[Argument]) -> str:
    return ", ".join(f'"{one.name}"' for one in found) or "none"
