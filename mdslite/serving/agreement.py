"""Whether two versions gave one answer to one request: equal labels, or numbers within a tolerance, or what a
function of the user's says.

    labels    of a classifier: the output whose name says label or class, or else the place of the greatest in
              the one that holds its probabilities
    numbers   of anything else: all of them within the tolerance, relative or absolute
    answers   of free data: the field that the spec names, else one that is named label, class, prediction or
              answer, else all but what says how sure it is; texts are equal, numbers within the tolerance
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from mdslite.errors import LoadFailed, clip
from mdslite.runtimes.protocol import DATA_SIGNATURE, Outputs, Signature
from mdslite.spec import Compare

TOLERANCE = 1e-3
_LABELS = ("label", "class", "prediction", "answer", "category")
_DOUBT = frozenset({"confidence", "probability", "probabilities", "score", "scores"})

# Of one request's outputs by one version and by another: do they agree? None where that cannot be said.
Agree = Callable[[Outputs, Outputs], bool | None]


def make_agree(signature: Signature, other: Signature, rule: Compare | None) -> Agree:
    """How the answers of two versions are compared.

    :raises LoadFailed: the rule names an output or a function that is not there
    """
    rule = rule or Compare()
    tolerance = TOLERANCE if rule.tolerance is None else rule.tolerance
    if rule.function is not None:
        return _by_function(find_function(rule.function), signature, other)
    if signature == DATA_SIGNATURE or other == DATA_SIGNATURE:
        return _by_answers(rule.field, tolerance, signature, other)
    place = _choose(signature, rule.output)
    other_place = _choose(other, rule.output)

    def agree(mine: Outputs, theirs: Outputs) -> bool | None:
        return _equal_outputs(mine[place], theirs[other_place], tolerance)

    return agree


def check_output(rule: Compare | None, signature: Signature) -> None:
    """Find out before there are answers whether a model has the output that is to be compared.

    :raises LoadFailed: it does not
    """
    if rule is None or rule.output is None:
        return
    if signature == DATA_SIGNATURE:
        raise LoadFailed(
            f'compare.output: "{clip(rule.output)}", but a Python package has no named outputs',
            hint="write compare: {field: NAME}, a field of what the package answers",
        )
    _choose(signature, rule.output)


def find_function(name: str) -> Callable[[Any, Any], bool]:
    """The function `module:name`, which takes two answers as JSON has them and says whether they agree.

    :raises LoadFailed: there is none
    """
    module, colon, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as exc:  # a module of somebody's own
        raise LoadFailed(f"compare.function: {name} cannot be loaded: {exc}") from exc
    if not colon or not callable(found):
        raise LoadFailed(f"compare.function: {name} is no function", hint="write MODULE:FUNCTION")
    return found  # type: ignore[no-any-return]


def _choose(signature: Signature, name: str | None) -> int:
    """Which output tells the answer: the one named, else the one that says label or class, else the
    probabilities, else the first."""
    names = [output.name for output in signature.outputs]
    if name is not None:
        if name not in names:
            known = ", ".join(names)
            raise LoadFailed(
                f'compare.output: the model has no output "{clip(name)}"; expected one of {known}',
                hint="without output, the one whose name says label or class is compared",
            )
        return names.index(name)
    for words in (("label", "class"), ("prob",)):
        for place, output in enumerate(signature.outputs):
            if any(word in output.name.lower() for word in words):
                return place
    return 0


def _equal_outputs(mine: Any, theirs: Any, tolerance: float) -> bool | None:
    if not (isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray)):
        return _equal_values(_plain(mine), _plain(theirs), tolerance)
    if mine.dtype == object or mine.dtype.kind in "bui":
        return bool(mine.shape == theirs.shape and (mine == theirs).all())
    if mine.shape != theirs.shape:
        # Two classifiers of as many rows may still know other numbers of classes.
        same_rows = mine.ndim == theirs.ndim == 2 and len(mine) == len(theirs)
        return bool((mine.argmax(axis=1) == theirs.argmax(axis=1)).all()) if same_rows else False
    if _is_classifier(mine) and _is_classifier(theirs):
        return bool((mine.argmax(axis=1) == theirs.argmax(axis=1)).all())
    return bool(np.array_equal(mine, theirs)) or bool(
        np.allclose(mine, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
    )


def _is_classifier(values: np.ndarray[Any, Any]) -> bool:
    """Rows of several numbers that are shares of one."""
    if values.ndim != 2 or values.shape[1] < 2 or not len(values) or values.min() < 0:
        return False
    sums = values.sum(axis=1, dtype=np.float64)  # np.allclose would take ten times as long
    return bool(sums.min() >= 0.99 and sums.max() <= 1.01)


def _by_answers(field: str | None, tolerance: float, signature: Signature, other: Signature) -> Agree:
    def agree(mine: Outputs, theirs: Outputs) -> bool | None:
        ours, others = _answers(mine, signature), _answers(theirs, other)
        if ours is None or others is None or len(ours) != len(others):
            return None
        return all(
            _equal_values(_told(one, field), _told(two, field), tolerance)
            for one, two in zip(ours, others, strict=True)
        )

    return agree


def _by_function(function: Callable[[Any, Any], bool], signature: Signature, other: Signature) -> Agree:
    def agree(mine: Outputs, theirs: Outputs) -> bool | None:
        ours, others = _answers(mine, signature), _answers(theirs, other)
        if ours is None or others is None or len(ours) != len(others):
            return None
        return all(bool(function(one, two)) for one, two in zip(ours, others, strict=True))

    return agree


def _answers(outputs: Outputs, signature: Signature) -> list[Any] | None:
    """Rows of answers as JSON has them."""
    if signature == DATA_SIGNATURE:
        try:
            return [
                orjson.loads(answer) if isinstance(answer, bytes) else _plain(answer) for answer in outputs[0]
            ]
        except orjson.JSONDecodeError:
            return None
    columns = [_plain(output) for output in outputs]
    if len(columns) == 1:
        return list(columns[0])
    names = [output.name for output in signature.outputs]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _told(answer: Any, field: str | None) -> Any:
    """What of an answer is compared."""
    if not isinstance(answer, Mapping):
        return answer
    if field is not None:
        for name in field.split("."):
            answer = answer.get(name) if isinstance(answer, Mapping) else None
        return answer
    for name in _LABELS:
        if name in answer:
            return answer[name]
    return {name: value for name, value in answer.items() if name not in _DOUBT}


def _equal_values(mine: Any, theirs: Any, tolerance: float) -> bool:
    if isinstance(mine, bool) or isinstance(theirs, bool):
        return mine is theirs
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        return math.isclose(mine, theirs, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        return mine.keys() == theirs.keys() and all(
            _equal_values(value, theirs[name], tolerance) for name, value in mine.items()
        )
    if isinstance(mine, Sequence) and isinstance(theirs, Sequence) and not isinstance(mine, str | bytes):
        return len(mine) == len(theirs) and all(
            _equal_values(one, two, tolerance) for one, two in zip(mine, theirs, strict=True)
        )
    return bool(mine == theirs)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
