"""Runs the methods of one instance of a decorated class on batches of data: pre, predict, post, and back to
JSON. The same code in a package's own process and in the appliance's, so that both answer alike.

Whatever user code raises, SystemExit and KeyboardInterrupt too, is the error of the rows that it concerns.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

import mds
from mdslite.errors import InvalidJson, LoadFailed, MdsliteError, ModelError, Unavailable, without_frames
from mdslite.runtimes.encoding import encode
from mdslite.runtimes.loops import Failed, LoopThread
from mdslite.runtimes.protocol import Answers, Datum
from mdslite.runtimes.tracebacks import blame, exception_text, write_traceback

ANSWER_BYTES_MAX = 16 * 1024 * 1024  # of JSON

_CONFIDENCE = "confidence"
_PROBABILITIES = "probabilities"
_HEALTHY = frozenset({"ok", "healthy", "up", "pass", "ready", "serving"})

Method = Callable[..., Any]


def build(description: mds.Description) -> Executor:
    """Make an instance of a class, and what runs it.

    :raises LoadFailed: with what its `__init__` raised
    """
    try:
        instance = description.cls()
    except BaseException as exc:
        write_traceback(exc)
        raise LoadFailed(f"{description.cls.__name__}.__init__: {exception_text(exc)}") from exc
    return Executor(description, instance)


class Executor:
    """One instance. `run`, `stream` and `warm` are called one at a time, `check` at any time beside them."""

    def __init__(self, description: mds.Description, instance: Any) -> None:
        self.description = description
        self._loop = LoopThread(f"async {description.name}")
        self._pre = self._stage(instance, description.pre)
        self._predict = self._stage(instance, description.predict)
        self._post = self._stage(instance, description.post)
        self._health_check = self._method(instance, description.health_check)
        self._warmup = self._method(instance, description.warmup)
        self._generate: Method = getattr(instance, description.predict)
        self._batched = description.batch is not None

    @property
    def streams(self) -> bool:
        return self.description.streams

    @property
    def has_check(self) -> bool:
        return self._health_check is not None

    def run(self, data: Sequence[Datum], *, confidence: str | None = None, tensors: bool = False) -> Answers:
        """One answer a datum, in order: a JSON text, an array where `tensors` are wanted, or its error.

        `confidence` is the path of the field of an answer that holds it, such as `scores.spam`.
        """
        if self.streams:
            return self._run_generators(data, confidence)
        rows = _Rows(data)
        if self._pre is not None:
            rows.replace(self._pre)
        assert self._predict is not None
        if self._batched:
            self._predict_batch(rows)
        else:
            rows.replace(self._predict)
        if self._post is not None:
            rows.replace(self._post)
        return rows.encode(confidence, tensors=tensors)

    def stream(
        self, datum: Datum, emit: Callable[[bytes], None], *, confidence: str | None = None
    ) -> Answers:
        """Run the generator on one datum, and `emit` each item's JSON text. The answer is the last item's
        text, or the error that ended it. What `emit` raises closes the generator and comes out of here."""
        rows = _Rows([datum])
        if self._pre is not None:
            rows.replace(self._pre)
        if not rows.values:
            return Answers(rows.answers, confidences=[None])
        last, sure = b"null", None
        items: Any = None
        try:
            try:
                items = self._start(rows.values[0])
                for item in items:
                    value = item if self._post is None else _single(self._post, item)
                    last, sure = _bounded(encode(value)), find_confidence(value, confidence)
                    _pass(emit, last)
            finally:
                if items is not None:
                    _close(items)
        except _Passing as exc:
            raise exc.reason from None
        except MdsliteError as exc:
            return Answers([exc], confidences=[None])
        except BaseException as exc:
            return Answers([blame(exc)], confidences=[None])
        return Answers([last], confidences=[sure])

    def check(self) -> None:
        """Run the health check, if there is one.

        :raises Unavailable: it raised, returned False, or a status that is not OK
        """
        if self._health_check is None:
            return
        try:
            found = self._health_check()
        except BaseException as exc:
            write_traceback(exc)
            raise Unavailable(f"the health check failed: {exception_text(exc)}") from exc
        status = found.get("status", "OK") if isinstance(found, Mapping) else found
        if status is False or (isinstance(status, str) and status.lower() not in _HEALTHY):
            said = encode(found).decode() if isinstance(found, Mapping) else repr(found)
            raise Unavailable(f"the health check answered {said}")

    def warm(self) -> None:
        """Run the warm-up, if there is one.

        :raises LoadFailed: with what it raised
        """
        if self._warmup is None:
            return
        try:
            self._warmup()
        except BaseException as exc:
            write_traceback(exc)
            raise LoadFailed(f"the warm-up failed: {exception_text(exc)}") from exc

    def close(self) -> None:
        self._loop.close()

    def _method(self, instance: Any, name: str | None) -> Method | None:
        """A method as a plain function; a coroutine function's is run on this executor's loop."""
        if name is None:
            return None
        method: Method = getattr(instance, name)
        return (lambda *args: self._loop.run(method, *args)) if _is_async(method) else method

    def _stage(self, instance: Any, name: str | None) -> Stage | None:
        """A method as what is done to many values."""
        if name is None:
            return None
        method: Method = getattr(instance, name)
        if _is_async(method):
            return lambda values: self._loop.gather(method, values)
        return lambda values: _each(method, values)

    def _predict_batch(self, rows: _Rows) -> None:
        """Call predict with lists; one that raises is halved until the rows that make it raise are alone."""
        assert self._predict is not None
        values = rows.values
        results: list[Any] = [None] * len(values)
        pending = [(0, len(values))] if values else []
        while pending:
            start, stop = pending.pop()
            (found,) = self._predict([values[start:stop]])
            if isinstance(found, Failed) and stop - start > 1:
                without_frames(found.reason)  # of which nobody is told: it knows the rows
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
            elif isinstance(found, Failed):
                results[start] = found
            else:
                results[start:stop] = _count(found, stop - start)
        rows.accept(results)

    def _run_generators(self, data: Sequence[Datum], confidence: str | None) -> Answers:
        """For who wants a generator's answer whole: the list of its items."""
        answers = Answers()
        confidences: list[float | None] = []
        for datum in data:
            items: list[bytes] = []
            ended = self.stream(datum, items.append, confidence=confidence)
            failed = isinstance(ended[0], MdsliteError)
            answers.append(ended[0] if failed else b"[" + b",".join(items) + b"]")
            confidences += ended.confidences
        answers.confidences = confidences
        return answers

    def _start(self, value: Any) -> Any:
        items = self._generate(value)
        if hasattr(items, "__anext__"):
            return self._loop.iterate(items)
        if not hasattr(items, "__next__"):
            raise ModelError(f"predict returned a {type(items).__name__}; expected a generator")
        return items


_ERRORS = frozenset({Failed, ModelError})  # what stands in a result's place
# Values in, as many results out; a Failed where user code raised.
Stage = Callable[[Sequence[Any]], list[Any]]


class _Rows:
    """The rows of a batch that are still without an answer: their values, and their places in the batch."""

    def __init__(self, data: Sequence[Datum]) -> None:
        self.answers = Answers([None] * len(data))
        self.values: list[Any] = []
        self._places: list[int] = []
        loads, values, places = orjson.loads, self.values, self._places
        for place, datum in enumerate(data):
            if type(datum) is bytes:
                try:
                    values.append(loads(datum))
                except ValueError as exc:
                    self.answers[place] = InvalidJson(f"the instance is no JSON: {exc}")
                    continue
            else:
                values.append(datum)
            places.append(place)

    def replace(self, stage: Stage) -> None:
        """Put each value's result in its place."""
        self.accept(stage(self.values))

    def accept(self, results: list[Any]) -> None:
        """Go on with the results; a row whose result is an error has its answer."""
        if _ERRORS.isdisjoint(map(type, results)):
            self.values = results
            return
        values, places = [], []
        for place, result in zip(self._places, results, strict=True):
            if isinstance(result, Failed):
                self.answers[place] = blame(result.reason)
            elif isinstance(result, ModelError):
                self.answers[place] = result
            else:
                values.append(result)
                places.append(place)
        self.values, self._places = values, places

    def encode(self, confidence: str | None, *, tensors: bool) -> Answers:
        answers = self.answers
        confidences: list[float | None] = [None] * len(answers)
        for place, value in zip(self._places, self.values, strict=True):
            try:
                if tensors and isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
                    answers[place] = _native(value)
                else:
                    answers[place] = _bounded(encode(value))
                    confidences[place] = find_confidence(value, confidence)
            except MdsliteError as exc:
                answers[place] = exc
            except BaseException as exc:  # an answer may be of a class of the user's own
                answers[place] = blame(exc)
        answers.confidences = confidences
        return answers


def _bounded(text: bytes) -> bytes:
    """An answer that may go on: whoever joins it into a reply holds up all others for as long as it is long.

    :raises ModelError: it is too long
    """
    if len(text) > ANSWER_BYTES_MAX:
        raise ModelError(f"an answer of {len(text)} bytes; expected at most {ANSWER_BYTES_MAX}")
    return text


def find_confidence(value: Any, path: str | None) -> float | None:
    """How sure an answer is: of the field at `path`, else of `confidence`, else of `probabilities`; the
    greatest where that holds several numbers. None where there is none."""
    if not isinstance(value, dict):
        return None
    if path is None:
        found = value.get(_CONFIDENCE)
        if found is None:
            found = value.get(_PROBABILITIES)
    else:
        found = value
        for name in path.split("."):
            found = _step(found, name)
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, np.ndarray):
        found = found.ravel().tolist()
    if isinstance(found, list | tuple):
        found = max((one for one in found if _is_number(one)), default=None)
    return float(found) if found is not None and _is_number(found) else None


def _step(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list | tuple | np.ndarray) and name.isdecimal() and int(name) < len(value):
        return value[int(name)]
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return math.isfinite(value)


def _each(method: Method, values: Sequence[Any]) -> list[Any]:
    results: list[Any] = []
    for value in values:
        try:
            results.append(method(value))
        except BaseException as exc:
            results.append(Failed(exc))
    return results


def _single(stage: Stage, value: Any) -> Any:
    (result,) = stage([value])
    if isinstance(result, Failed):
        raise result.reason
    return result


def _count(found: Any, wanted: int) -> list[Any]:
    """The answers of a batch, or else the error of each of its rows."""
    answers: list[Any] | None = None
    if isinstance(found, list | tuple):
        answers = list(found)
    elif isinstance(found, np.ndarray) or hasattr(found, "tolist"):  # an array, a tensor, a column
        answers = list(found) if getattr(found, "ndim", 1) else None
    elif callable(getattr(found, "numpy", None)):  # TensorFlow's
        return _count(np.asarray(found.numpy()), wanted)
    expected = f"expected a list of {wanted}, one for each datum"
    if answers is None:
        return [ModelError(f"predict returned a {type(found).__name__}; {expected}")] * wanted
    if len(answers) != wanted:
        count = f"{len(answers)} answer{'s' if len(answers) != 1 else ''}"
        return [ModelError(f"predict returned {count}; {expected}")] * wanted
    return answers


def _native(value: np.ndarray[Any, Any] | np.generic) -> np.ndarray[Any, Any]:
    array = np.ascontiguousarray(value) if isinstance(value, np.ndarray) and value.ndim else np.asarray(value)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_async(method: Method) -> bool:
    return inspect.iscoroutinefunction(inspect.unwrap(method))


def _close(items: Any) -> None:
    """Close a generator; what it does then concerns nobody any more."""
    close = getattr(items, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as exc:
            write_traceback(exc)


class _Passing(BaseException):
    """Carries what is not user code's exception through the place where those are caught."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


def _pass(emit: Callable[[bytes], None], text: bytes) -> None:
    try:
        emit(text)
    except BaseException as exc:
        raise _Passing(exc) from None
