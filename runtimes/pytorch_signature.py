"""How the parts of what a model returns are named, and what runs on zeros say about a signature: outputs, and
whether the first dimension counts rows. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mdslite.errors import LoadFailed, ModelError
from mdslite.runtimes.protocol import Datatype, Signature, TensorSpec
from mdslite.runtimes.signature import count_rows
from mdslite.runtimes.warmup import LENGTHS, make_inputs

Seen = tuple[Datatype, tuple[int, ...]]  # of one output of one run
Outcome = Sequence[tuple[str, Seen]]
Run = Callable[[Signature, Mapping[str, Any]], Outcome]


def name_leaves(value: Any) -> list[tuple[str, Any]]:
    """Name the parts of what a model returns: `output` for one alone, `output_0`, ... for a tuple's, a dict's
    by its keys, deeper ones by both with a dot between. None is no part."""
    if isinstance(value, dict | list | tuple):
        return list(_leaves("", value))
    return [] if value is None else [("output", value)]


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", None) or ([str(at) for at in range(len(value))] if prefix else None)
        parts = list(zip(names or [f"output_{at}" for at in range(len(value))], value, strict=True))
    else:
        if value is not None:
            yield prefix, value
        return
    for name, part in parts:
        yield from _leaves(f"{prefix}.{name}" if prefix else name, part)


# What a run says


def settle(inputs: tuple[TensorSpec, ...], run: Run) -> Signature:
    """Find a signature's outputs, and how it counts rows, by runs on zeros.

    :raises LoadFailed: the model does not take zeros, so that its outputs are not known
    """
    try:
        runs = _observe(inputs, run)
    except ModelError as exc:
        raise LoadFailed(
            f"its outputs are not known, because it refuses zeros: {exc.message}",
            hint="write them: container_parameter: {torch: {outputs: [{name: output, datatype: FP32, "
            "shape: [-1, 3]}]}}, and inputs: in the same way, if they are of other shapes",
        ) from exc
    outputs = _compare([seen for _, seen in runs])
    rows = count_rows(inputs, outputs)
    follows = all(shape[:1] == (rows,) for rows, seen in runs for _, (_, shape) in seen)
    return Signature(inputs, outputs, "none" if rows == "free" and not follows else rows)


def settle_examples(fixed: tuple[TensorSpec, ...], run: Run) -> Signature:
    """As `settle` for inputs of known sizes, with free rows if runs show that the model has them.

    :raises LoadFailed: as `settle`
    """
    if fixed and all(one.shape for one in fixed):
        with suppress(LoadFailed):
            found = settle(tuple(replace(one, shape=(None, *one.shape[1:])) for one in fixed), run)
            if found.rows == "free":
                return found
    return settle(fixed, run)


def _observe(inputs: tuple[TensorSpec, ...], run: Run) -> list[tuple[int, Outcome]]:
    """Run with several numbers of rows and lengths."""
    probe = Signature(inputs, (), "free")
    free_rows = bool(inputs) and all(one.shape[:1] == (None,) for one in inputs if not one.optional)
    free_lengths = any(None in one.shape[free_rows:] for one in inputs)
    refusal: ModelError | None = None
    for length in LENGTHS if free_lengths else LENGTHS[:1]:
        try:
            counts = (1, 2, 3) if free_rows else (1,)
            runs = [(rows, run(probe, make_inputs(probe, rows, length=length))) for rows in counts]
        except ModelError as exc:
            refusal = refusal or exc
            continue
        if free_lengths:
            # Without one of another length, what follows the length would be taken for fixed.
            with suppress(ModelError):
                runs.append((2, run(probe, make_inputs(probe, 2, length=2 * length))))
        return runs
    assert refusal is not None
    raise refusal


def _compare(runs: Sequence[Outcome]) -> tuple[TensorSpec, ...]:
    """The outputs, with what differs between runs for free dimensions."""
    specs = []
    for at, (name, (datatype, shape)) in enumerate(runs[0]):
        shapes = [outputs[at][1][1] for outputs in runs if at < len(outputs)]
        if len(shapes) < len(runs) or any(len(one) != len(shape) for one in shapes):
            raise LoadFailed(f'output "{name}" has another rank, or is not there, for other numbers of rows')
        sizes = (sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))
        specs.append(TensorSpec(name, datatype, tuple(sizes)))
    if not specs:
        raise LoadFailed("it returns no tensor")
    return tuple(specs)
