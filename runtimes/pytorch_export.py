"""Exported programs (torch.export) as functions of plain tensors. Such a file says all of its signature:
names, types, and which dimensions are free, are the same or have bounds.

The program's own graph is called, with its weights as arguments: `ExportedProgram.module()` does the same
five times slower, most of which goes into looking up weights and into generated checks. Those of the checks
that depend on a request are made by `Size`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdslite.errors import LoadFailed
from mdslite.runtimes.protocol import Rows, Signature, TensorSpec
from mdslite.runtimes.pytorch_engine import datatype_of
from mdslite.runtimes.pytorch_signature import name_leaves

Compute = Callable[[Mapping[str, Any]], Any]

# The exporter takes every size for 2 or more, since 0 and 1 are special to it; PyTorch itself checks no less.
_LEAST = 2


@dataclass(frozen=True, slots=True)
class Size:
    """A dimension that the exporter left open within bounds: of the input `name`, at `axis`. Dimensions of
    one `symbol` are of one size."""

    name: str
    axis: int
    symbol: str
    least: int
    most: int | None
    multiple: int

    def check(self, size: int) -> str | None:
        """What is wrong with a size, None if nothing is."""
        if self.least <= size and (self.most is None or size <= self.most) and not size % self.multiple:
            return None
        most = "" if self.most is None else f" at most {self.most}"
        least = f" at least {self.least}" if self.least > _LEAST else ""
        multiple = f" a multiple of {self.multiple}" if self.multiple > 1 else ""
        wanted = " and".join(one for one in (least, most, multiple) if one)
        return f'input "{self.name}": dimension {self.axis} is {size}, but was exported to be{wanted}'


DIVISION = "aten::div"  # a hazard where it rounds like this, by PyTorch 2.13
TRUNCATE = "trunc"


@dataclass(frozen=True, slots=True)
class Program:
    """A model on its device. `compute` takes named tensors and gives one an output, `writes` says that it may
    write to those that it takes; `rows_most` is how many rows it was exported for; `find_hazards` names the
    operators by which a request could end the process."""

    signature: Signature
    compute: Compute
    is_bounded: Callable[[], bool]
    find_hazards: Callable[[], tuple[str, ...]]
    writes: bool
    sizes: tuple[Size, ...] = ()
    rows_most: int | None = None


def read_exported(torch: Any, program: Any, device: Any) -> Program:
    """Place a loaded `ExportedProgram` on `device` and make it ready to be served. Empties it of its weights.

    :raises LoadFailed: its inputs or outputs cannot be served, or it keeps state from one run to the next
    """
    if device.type != "cpu":
        program = torch.export.passes.move_to_device_pass(program, device)
    graph = program.graph_module
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    arguments, names = _arguments(torch, program, values)
    outputs, places = _outputs(torch, program, values)
    writes = _check_writes(torch, program)
    inputs = tuple(_tensor_spec(name, values[name]) for name in names)
    results = tuple(_tensor_spec(name, value) for name, value in outputs)
    sizes = tuple(_sizes(program, names, values))
    symbol = _row_symbol([values[name] for name in names], [value for _, value in outputs], sizes)
    rows: Rows = "free" if symbol is not None else _fixed_rows((*inputs, *results), bool(inputs))
    bounded, hazards = _is_bounded(torch, graph), _find_hazards(graph)
    program.state_dict.clear()  # what is left of it refers to itself, and would stay until a collection
    program.constants.clear()
    return Program(
        Signature(inputs, results, rows),
        _call(graph, arguments, names, places),
        is_bounded=lambda: bounded,
        find_hazards=lambda: hazards,
        writes=writes,
        sizes=tuple(one for one in sizes if one.symbol != symbol),
        rows_most=next((one.most for one in sizes if one.symbol == symbol), None),
    )


def _call(graph: Any, arguments: list[Any], names: Sequence[str], places: Sequence[int]) -> Compute:
    holes = [at for at, value in enumerate(arguments) if isinstance(value, _Hole)]
    forward = graph.forward

    def compute(tensors: Mapping[str, Any]) -> Sequence[Any]:
        filled = arguments.copy()
        for at, name in zip(holes, names, strict=True):
            filled[at] = tensors[name]
        returned = forward(*filled)
        return [returned[at] for at in places]

    return compute


class _Hole:
    """Stands for an argument that each run brings."""


def _arguments(torch: Any, program: Any, values: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """What the graph is called with, holes for the inputs; and the inputs' names."""
    kinds = torch.export.graph_signature.InputKind
    arguments: list[Any] = []
    names = []
    for spec in program.graph_signature.input_specs:
        name = spec.arg.name
        if spec.kind in (kinds.PARAMETER, kinds.BUFFER, kinds.CONSTANT_TENSOR):
            held = program.state_dict if spec.target in program.state_dict else program.constants
            arguments.append(held[spec.target].detach())
        elif spec.kind is kinds.USER_INPUT and isinstance(values[name], torch.Tensor):
            arguments.append(_Hole())
            names.append(name)
        elif spec.kind is kinds.USER_INPUT and hasattr(spec.arg, "value"):
            arguments.append(spec.arg.value)  # a number or None that the example had, and the graph now has
        else:
            raise LoadFailed(f'input "{name}" is no tensor: only tensors can be sent')
    return arguments, names


def _outputs(torch: Any, program: Any, values: Mapping[str, Any]) -> tuple[list[tuple[str, Any]], list[int]]:
    """The outputs' names and example values, and their places in what the graph returns."""
    kinds = torch.export.graph_signature.OutputKind
    specs = program.graph_signature.output_specs
    changed = next((one for one in specs if one.kind is not kinds.USER_OUTPUT), None)
    if changed is not None:
        raise _keeps_state(changed.target or changed.arg.name)
    structure = program.call_spec.out_spec
    parts = name_leaves(torch.utils._pytree.tree_unflatten(list(range(len(specs))), structure))
    found = []
    for name, at in parts:
        arg = specs[at].arg
        value = values.get(arg.name) if hasattr(arg, "name") else None
        if value is None and getattr(arg, "value", None) is None:
            continue
        if not isinstance(value, torch.Tensor):
            raise LoadFailed(f'output "{name}" is no tensor: only tensors can be sent')
        found.append((name, value, at))
    if not found:
        raise LoadFailed("it returns no tensor")
    return [(name, value) for name, value, _ in found], [at for _, _, at in found]


def _tensor_spec(name: str, value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(name, datatype_of(value, name=name), shape)


# Sizes


def _sizes(program: Any, names: Sequence[str], values: Mapping[str, Any]) -> Iterator[Size]:
    ranges = {str(key): found for key, found in program.range_constraints.items()}
    for name in names:
        for axis, size in enumerate(values[name].shape):
            if isinstance(size, int):
                continue
            expression = size.node.expr
            found = ranges.get(str(expression))
            least = _whole(found.lower) if found is not None else None
            yield Size(
                name,
                axis,
                str(expression),
                least=0 if least is None or least <= _LEAST else least,
                most=_whole(found.upper) if found is not None else None,
                multiple=max(1, _whole(expression.as_coeff_Mul()[0]) or 1),
            )


def _row_symbol(inputs: Sequence[Any], outputs: Sequence[Any], sizes: Sequence[Size]) -> str | None:
    """The size that counts rows: the first one of every tensor and of nothing else; None if there is none."""
    shapes = [[str(size) for size in value.shape] for value in (*inputs, *outputs)]
    first = {shape[0] if shape else "" for shape in shapes}
    found = next((one for one in sizes if {one.symbol} == first), None)
    if found is None or found.least > 1 or found.multiple > 1 or not found.symbol.isidentifier():
        return None
    elsewhere = [
        size.node.expr
        for value in (*inputs, *outputs)
        for size in value.shape[1:]
        if not isinstance(size, int)
    ]
    mixed = any(found.symbol in map(str, one.free_symbols) for one in elsewhere)
    return None if mixed else found.symbol


def _fixed_rows(tensors: Sequence[TensorSpec], has_inputs: bool) -> Rows:
    return "one" if has_inputs and all(one.shape[:1] == (1,) for one in tensors) else "none"


def _whole(number: Any) -> int | None:
    """A bound as an int; None where it is infinite."""
    try:
        return int(number)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None


# What the graph does


def _check_writes(torch: Any, program: Any) -> bool:
    """Does the graph write to anything, which may be an input?

    :raises LoadFailed: it writes to its weights or buffers: one request would change the next one's answer
    """
    kinds = torch.export.graph_signature.InputKind
    state = {
        one.arg.name: one.target
        for one in program.graph_signature.input_specs
        if one.kind is not kinds.USER_INPUT
    }
    aliases: dict[Any, frozenset[str]] = {}  # the placeholders whose memory a node may share
    writes = False
    for node in program.graph.nodes:
        if node.op == "placeholder":
            aliases[node] = frozenset({node.name})
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        for argument, value in zip(schema.arguments, node.args, strict=False):
            if argument.alias_info is None or value not in aliases:
                continue
            aliases[node] = aliases.get(node, frozenset()) | aliases[value]
            if argument.alias_info.is_write:
                for name in aliases[value] & state.keys():
                    raise _keeps_state(state[name] or name)
        writes = writes or schema.is_mutable
    return writes


def _keeps_state(name: str) -> LoadFailed:
    return LoadFailed(
        f'it changes its own "{name}" at each run, so that one request would change the answers to others',
        hint="call model.eval() before torch.export.export; write a model with state as a Python package",
    )


def _is_bounded(torch: Any, graph: Any) -> bool:
    """Is a run's time a function of its inputs' sizes?"""
    free_symbols = torch.fx.experimental.symbolic_shapes.free_unbacked_symbols
    for module in graph.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            branches = isinstance(node.target, torch._ops.HigherOrderOperator)
            if branches and not str(node.target).startswith("wrap_with"):
                return False
            if free_symbols(node.meta.get("val")):
                return False  # a value in the data, which may be the size of what follows
    return True


def _find_hazards(graph: Any) -> tuple[str, ...]:
    """Whole numbers divided and cut off: the least of them by -1 stops the processor."""
    for module in graph.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            cuts = str(node.target).startswith("aten.div.") and node.kwargs.get("rounding_mode") == TRUNCATE
            dtype = getattr(node.meta.get("val"), "dtype", None)
            if cuts and not (dtype is not None and dtype.is_floating_point):
                return (DIVISION,)
    return ()
