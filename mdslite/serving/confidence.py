"""How sure a model was of each row: read from a batch's outputs where they were computed.

For a classifier that is the greatest probability. Which output holds the probabilities is decided once, when
the version is loaded: the one that the spec names, else the one whose name says so, else a single output
whose rows summed to one when the model was warmed. No output like that, no confidence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mdslite.errors import LoadFailed, clip
from mdslite.runtimes.protocol import Outputs, Signature
from mdslite.serving.batch import Confidence
from mdslite.spec import Confidence as ConfidenceSpec

_FLOATS = frozenset({"FP16", "FP32", "FP64"})


def confidence_reader(
    signature: Signature, spec: ConfidenceSpec | None, sample: Outputs | None
) -> Confidence:
    """Choose how to read confidences from this model's outputs; `sample` is the answer to its warm-up.

    :raises LoadFailed: the spec names an output that the model does not have
    """
    if signature.rows == "none":
        return _no_confidence
    if spec is not None and spec.output is not None:
        names = [output.name for output in signature.outputs]
        if spec.output not in names:
            raise LoadFailed(
                f'confidence: the model has no output "{clip(spec.output)}"',
                hint="its outputs are " + ", ".join(names),
            )
        return _reader(names.index(spec.output), spec.field)
    found = _find_probabilities(signature, sample)
    if found is None:
        return _no_confidence
    return _reader(found, spec.field if spec is not None else None)


def _find_probabilities(signature: Signature, sample: Outputs | None) -> int | None:
    for index, output in enumerate(signature.outputs):
        is_numeric = output.datatype in _FLOATS or output.datatype == "OBJECT"
        if "prob" in output.name.lower() and is_numeric:
            return index
    if len(signature.outputs) != 1 or sample is None:
        return None
    only = sample[0]
    if not isinstance(only, np.ndarray) or only.ndim != 2 or only.shape[1] < 2:
        return None
    if signature.outputs[0].datatype not in _FLOATS or (only < 0).any():
        return None
    return 0 if np.allclose(only.astype(np.float64).sum(axis=1), 1.0, atol=1e-2) else None


def _reader(index: int, field: str | int | None) -> Confidence:
    def read(outputs: Outputs) -> list[float | None] | None:
        output = outputs[index]
        if isinstance(output, np.ndarray):
            if output.dtype == object:
                return None
            flat = output.reshape(len(output), -1)
            if isinstance(field, int):
                if not 0 <= field < flat.shape[1]:
                    return None
                flat = flat[:, field : field + 1]
            if not flat.shape[1]:
                return None
            values: list[Any] = flat.max(axis=1).tolist()
            return [value if math.isfinite(value) else None for value in values]
        return [_of_object(row, field) for row in output]

    return read


def _of_object(row: Any, field: str | int | None) -> float | None:
    if isinstance(row, dict):
        if field is not None:
            row = row.get(str(field))
        else:
            row = max((value for value in row.values() if isinstance(value, int | float)), default=None)
    return float(row) if isinstance(row, int | float) and math.isfinite(row) else None


def _no_confidence(outputs: Outputs) -> None:
    return None
