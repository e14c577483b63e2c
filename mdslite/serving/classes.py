"""What a version's answer says in a word: a class, or the value itself, as a text that people can compare a
label with. Reads replies as they were logged.

    a field that the version's `compare` rule names, or one called label, class, prediction, answer, category
    else a field whose name says label or class, or the greatest of the probabilities
    else the answer itself: a text or number as it is, anything else as JSON
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mdslite.spec import Compare

TEXT_CHARS = 256
_LABELS = ("label", "class", "prediction", "answer", "category")
_MISSING = object()


def read_answer(reply: bytes, rule: Compare | None = None) -> str | None:
    """The answer to a request of one row; None where the reply holds none, such as an error or a tensor."""
    found = _first(reply)
    return None if found is _MISSING else _text(_told(found, rule))


def count_classes(reply: bytes) -> int | None:
    """How many classes a reply gives probabilities of, None where it gives none."""
    found = _first(reply)
    for value in (found, *(found.values() if isinstance(found, Mapping) else ())):
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, list) and _is_shares(value):
            return len(value)
    return None


def _first(reply: bytes) -> Any:
    """The first row's answer in a reply of any of the forms that there are."""
    try:
        value = json.loads(reply)
    except (ValueError, RecursionError):
        return _MISSING
    if not isinstance(value, Mapping) or "error" in value:
        return value if not isinstance(value, Mapping) else _MISSING
    predictions, outputs = value.get("predictions"), value.get("outputs")
    if isinstance(predictions, list):
        return predictions[0] if predictions else _MISSING
    if isinstance(outputs, Mapping):
        return {name: _row(column) for name, column in outputs.items()}
    if isinstance(outputs, list) and outputs and all(isinstance(one, Mapping) for one in outputs):
        return _tensors(outputs)
    if isinstance(outputs, list) and outputs:
        return outputs[0]
    return value


def _tensors(outputs: Sequence[Mapping[str, Any]]) -> Any:
    """The Open Inference Protocol's outputs of one row, by name; what is binary is left out."""
    found = {}
    for one in outputs:
        data = one.get("data")
        if isinstance(data, list):
            found[str(one.get("name"))] = data[0] if len(data) == 1 else data
    return found or _MISSING


def _row(column: Any) -> Any:
    return column[0] if isinstance(column, list) and column else column


def _told(answer: Any, rule: Compare | None) -> Any:
    if isinstance(answer, list):
        if len(answer) == 1:
            return _told(answer[0], rule)
        return _greatest(answer) if _is_shares(answer) else answer
    if not isinstance(answer, Mapping):
        return answer
    for name in (rule.field, rule.output) if rule is not None else ():
        if name is not None and (found := _at(answer, name)) is not _MISSING:
            return _told(found, None)
    names = [name for name in _LABELS if name in answer]
    names += [name for word in ("label", "class", "prob") for name in answer if word in str(name).lower()]
    if names:
        return _told(answer[names[0]], None)
    if len(answer) == 1:
        return _told(next(iter(answer.values())), None)
    shares = list(answer.values())
    return max(answer, key=lambda name: answer[name]) if _is_shares(shares) else answer


def _at(answer: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(answer, Mapping) or name not in answer:
            return _MISSING
        answer = answer[name]
    return answer


def _is_shares(values: Sequence[Any]) -> bool:
    """Several numbers that are shares of one."""
    if len(values) < 2 or not all(type(one) in (int, float) and one >= 0 for one in values):
        return False
    return math.isclose(math.fsum(values), 1.0, abs_tol=1e-2)


def _greatest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda place: values[place])


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value if value is None else value[:TEXT_CHARS]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))[:TEXT_CHARS]
