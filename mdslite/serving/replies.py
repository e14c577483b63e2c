"""A logged reply as the outputs that it was made of, so that it can be compared with an answer of today."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, Outputs, Signature


def read_outputs(reply: bytes, signature: Signature) -> Outputs | None:
    """The outputs of a JSON reply, as a version with this signature would have given them; None where it says
    something else."""
    try:
        value = json.loads(reply)
        if signature == DATA_SIGNATURE:
            return [_answers(value)]
        return _columns(value, [output.name for output in signature.outputs])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _answers(value: Any) -> Answers:
    rows = value.get("predictions") if isinstance(value, Mapping) else None
    found = rows if isinstance(rows, list) else [value]
    return Answers([orjson.dumps(row) for row in found])


def _columns(value: Any, names: list[str]) -> Outputs:
    """:raises ValueError, TypeError, KeyError: it is no such reply"""
    if not isinstance(value, Mapping):
        raise ValueError("no reply to a prediction")
    predictions, outputs = value.get("predictions"), value.get("outputs")
    if isinstance(predictions, list):
        if len(names) == 1:
            return [_array(predictions)]
        return [_array([row[name] for row in predictions]) for name in names]
    if isinstance(outputs, Mapping):
        return [_array(outputs[name]) for name in names]
    if isinstance(outputs, list) and outputs and isinstance(outputs[0], Mapping):
        by_name = {one["name"]: one for one in outputs}
        return [_array(by_name[name]["data"]).reshape(by_name[name]["shape"]) for name in names]
    if isinstance(outputs, list) and len(names) == 1:
        return [_array(outputs)]
    raise ValueError("no reply to a prediction")


def _array(values: Any) -> np.ndarray[Any, Any]:
    found = np.asarray(values)
    return found.astype(object) if found.dtype.kind in "US" else found
