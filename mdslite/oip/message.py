"""Infer messages over REST: JSON, with tensors in it or as bytes after it, to columns and back.

A client sends the same JSON again and again, and only the bytes after it differ. So the JSON becomes a `Plan`
that says where which input stands, and `Messages` remembers it; a plan holds on to the JSON of its last reply
too, which is the next one's as long as the outputs keep their shapes. With both at hand a binary request
costs less than the JSON form of the predict URLs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from mdslite.errors import InvalidRequest, InvalidTensor, clip
from mdslite.oip.inputs import InputTensor, locate, read_raw
from mdslite.oip.outputs import OutputTensor, classify, empty_outputs
from mdslite.oip.request import InferRequest, Wanted, parse_request
from mdslite.oip.wire import Buffer
from mdslite.runtimes.protocol import Outputs, Signature, TensorSpec
from mdslite.tensors import SHARED_BYTES, Columns, Key

PLANS_MAX = 256
HEAD_FIELD = "inference-header-content-length"  # how much of a body is JSON; absent: all
HEAD_HINT = "it counts the bytes of the JSON, which the tensors follow"
PREDICT_HINT = "that is /projects/PROJECT/models/MODEL:predict"
PLAN_BYTES_MAX = 4096  # of JSON that is worth remembering
_NUMPY_JSON = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class Span:
    """Where an input's `count` elements stand in the bytes after the JSON: `[start, stop)`. Those of a plain
    one are used as they are."""

    spec: TensorSpec
    start: int
    stop: int
    count: int

    @property
    def plain(self) -> bool:
        return self.spec.datatype not in ("BYTES", "BOOL")


@dataclass(frozen=True, slots=True)
class Places:
    """How to read a request that differs from another one only in its bytes, `size_bytes` of them."""

    spans: tuple[Span | None, ...]
    rows: int
    key: Key
    size_bytes: int

    @property
    def plain(self) -> bool:
        """Are all of the bytes one input, which is used as it is?"""
        return len(self.spans) == 1 and self.spans[0] is not None and self.spans[0].plain


@dataclass(slots=True)
class Plan:
    """What an answer must know of its request; `picked` are the outputs to answer, by their place in the
    signature."""

    id: str | None
    timeout_s: float
    picked: tuple[tuple[int, Wanted], ...]
    plain: bool  # all that is picked goes as the bytes of numbers
    places: Places | None = None
    places_plain: bool = False
    head: tuple[Any, bytes] = (None, b"")  # shapes of the latest answer, and the JSON of its message


class Messages:
    """Reads and writes the infer messages of one version; `model` and `version` are what its replies say.

    A subclass knows what becomes of the tensors: `take`, `give` and `bare`, and `places` where plans pay.
    """

    direct = True  # outputs of numbers go out as the runtime gave them

    def __init__(self, signature: Signature, *, model: str, version: str) -> None:
        self.signature = signature
        self._model = model
        self._version = version
        self._plans: dict[bytes, Plan] = {}
        self.notes: dict[Any, Any] = {}  # of requests that are no messages, by who reads those

    def take(self, tensors: Sequence[InputTensor]) -> Columns:
        """Check a request's inputs and pack them.

        :raises InvalidRequest, InvalidTensor: they are not what the model takes
        """
        raise NotImplementedError

    def give(self, outputs: Outputs) -> list[OutputTensor]:
        """All outputs of an answer, in the signature's order."""
        raise NotImplementedError

    def bare(self, body: Buffer) -> InputTensor:
        """The one input that a body without any JSON is.

        :raises InvalidRequest, InvalidTensor: it cannot be known what the bytes are
        """
        raise NotImplementedError

    def places(self, tensors: Sequence[InputTensor], stops: Sequence[int]) -> Places | None:
        """Where inputs that go through as they are end in the bytes, for requests with the same JSON."""
        return None

    def read(self, body: Buffer, head_bytes: int | None) -> tuple[Plan, Columns]:
        """Read a request. `head_bytes` is how much of the body is JSON: None all of it, 0 nothing.

        :raises InvalidJson: the JSON is none
        :raises InvalidRequest: it is no infer request, or too few or too many bytes follow it
        :raises InvalidTensor: an input is not the signature's
        """
        if head_bytes is None:
            head_bytes = len(body)
        elif head_bytes > len(body):
            raise InvalidRequest(
                f"{clip(str(head_bytes))} bytes, but the body has {len(body)}",
                field=HEAD_FIELD,
                hint=HEAD_HINT,
            )
        elif not head_bytes:
            return self._read_bare(body)
        head = bytes(body[:head_bytes])
        plan = self._plans.get(head)
        if plan is None or plan.places is None:
            return self._read_new(head, body)
        places = plan.places
        if len(body) - head_bytes != places.size_bytes:
            raise _wrong_size(len(body) - head_bytes, places.size_bytes)
        if plan.places_plain and body.__class__ is bytes:
            return plan, Columns(places.rows, (body[head_bytes:],), places.key, "inputs")
        try:
            return plan, _cut(places, body, head_bytes)
        except InvalidTensor:
            return self._read_new(head, body)  # which knows whereabouts

    def _read_new(self, head: bytes, body: Buffer) -> tuple[Plan, Columns]:
        request = parse_request(head)
        plan = self.plan(request)
        sizes = [given.size_bytes or 0 for given in request.inputs]
        if sum(sizes) != len(body) - len(head):
            raise _wrong_size(len(body) - len(head), sum(sizes))
        stops = [len(head) + sum(sizes[: number + 1]) for number in range(len(sizes))]
        tensors = [
            InputTensor(
                given.name,
                given.datatype,
                given.shape,
                given.data,
                None if given.size_bytes is None else body[stop - given.size_bytes : stop],
            )
            for given, stop in zip(request.inputs, stops, strict=True)
        ]
        try:
            columns = self.take(tensors)
        except InvalidTensor as exc:
            locate(exc)
            raise
        is_binary = all(given.size_bytes is not None for given in request.inputs)
        if is_binary and columns.rows and request.id is None and len(head) <= PLAN_BYTES_MAX:
            plan.places = self.places(tensors, [stop - len(head) for stop in stops])
            if plan.places is not None:
                plan.places_plain = plan.places.plain
                self._remember(head, plan)
        return plan, columns

    def _remember(self, head: bytes, plan: Plan) -> None:
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
        self._plans[head] = plan

    def _read_bare(self, body: Buffer) -> tuple[Plan, Columns]:
        plan = self.plan(InferRequest(None, (), None, binary=True, timeout_s=math.inf))
        return plan, self.take([self.bare(body)])

    def plan(self, request: InferRequest) -> Plan:
        """What an answer must know of a request.

        :raises InvalidRequest: it asks for an output that there is not
        """
        outputs = self.signature.outputs
        places = {spec.name: at for at, spec in enumerate(outputs)}
        if request.outputs is None:
            picked = tuple((at, Wanted(request.binary)) for at in range(len(outputs)))
        else:
            for number, name in enumerate(request.outputs):
                if name not in places:
                    known = ", ".join(f'"{known}"' for known in places)
                    raise InvalidRequest(
                        f'unknown output "{clip(name)}": expected {known}', field=f"outputs[{number}].name"
                    )
            picked = tuple((places[name], wanted) for name, wanted in request.outputs.items())
        for number, (at, wanted) in enumerate(picked):
            if wanted.classes and outputs[at].datatype in ("BYTES", "OBJECT", "BOOL"):
                raise InvalidRequest(
                    f'output "{outputs[at].name}" holds no numbers to take the greatest of',
                    field=f"outputs[{number}].parameters.classification",
                )
        plain = self.direct and all(
            wanted.binary and not wanted.classes and outputs[at].datatype not in ("BYTES", "OBJECT")
            for at, wanted in picked
        )
        return Plan(request.id, request.timeout_s, picked, plain)

    def write(self, plan: Plan, outputs: Outputs | None) -> tuple[bytes, int | None]:
        """Write the reply to a request; `outputs` None is the answer to one without rows. Returns its body,
        and how long the JSON is where bytes follow it.

        :raises InvalidRequest: an output cannot be answered in the way that was asked for
        """
        if not plan.plain or outputs is None:
            tensors = empty_outputs(self.signature) if outputs is None else self.give(outputs)
            return self._compose(plan, tensors)
        arrays: Any = [outputs[at] for at, _ in plan.picked]
        shapes = [array.shape for array in arrays]
        known, head = plan.head
        if shapes == known:
            if len(arrays) == 1 and arrays[0].nbytes <= SHARED_BYTES:
                return head + arrays[0].tobytes(), len(head)
            return b"".join([head, *map(_bytes_of, arrays)]), len(head)
        body, head_bytes = self._compose(plan, self.give(outputs))
        plan.head = shapes, body[:head_bytes]
        return body, head_bytes

    def _compose(self, plan: Plan, tensors: Sequence[OutputTensor]) -> tuple[bytes, int | None]:
        counted = self.signature.rows != "none"
        described: list[dict[str, Any]] = []
        pieces: list[Buffer] = []
        is_binary = False
        for at, wanted in plan.picked:
            tensor = tensors[at]
            if wanted.classes:
                tensor = classify(tensor, wanted.classes, counted=counted)
            found: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
            if wanted.binary:
                raw = tensor.raw()
                found["parameters"] = {"binary_data_size": len(raw)}
                pieces.append(raw)
                is_binary = True
            else:
                found["data"] = tensor.flat()
            described.append(found)
        message: dict[str, Any] = {"model_name": self._model, "model_version": self._version}
        if plan.id is not None:
            message["id"] = plan.id
        head = orjson.dumps(message | {"outputs": described}, option=_NUMPY_JSON)
        return b"".join([head, *pieces]), len(head) if is_binary else None


def _cut(places: Places, body: Buffer, start: int) -> Columns:
    columns = [
        None
        if span is None
        else read_raw(span.spec, body[start + span.start : start + span.stop], span.count)
        for span in places.spans
    ]
    return Columns(places.rows, tuple(columns), places.key, "inputs")


def _bytes_of(array: Any) -> Buffer:
    if array.nbytes > SHARED_BYTES and array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8).data  # type: ignore[no-any-return]
    return array.tobytes()  # type: ignore[no-any-return]


def _wrong_size(found_bytes: int, expected_bytes: int) -> InvalidTensor:
    hint = None
    if not found_bytes:
        hint = "the header Inference-Header-Content-Length says where the JSON ends and the bytes begin"
    return InvalidTensor(
        f"{found_bytes} bytes follow the JSON, expected the {clip(str(expected_bytes))} that these say",
        field="inputs",
        hint=hint,
    )
