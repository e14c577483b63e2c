"""Infer messages over gRPC, to columns and back; the tensors are the Open Inference Protocol's, as over REST.

A client sends the same message again and again, and only the bytes of its tensors differ. Where those are one
tensor and stand last, what is before them (the `head`) is remembered with what it means, and the next
request costs a comparison of that and a slice; its answer the head of the last one, while the outputs keep
their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from mdslite.data import DataCodec
from mdslite.errors import InvalidRequest, InvalidTensor, clip
from mdslite.oip.free import OUTPUT, take_data
from mdslite.oip.inputs import InputTensor, locate, read_raw
from mdslite.oip.message import Plan
from mdslite.oip.outputs import OutputTensor, classify, empty_outputs
from mdslite.oip.request import InferRequest, check_place, input_place, read_outputs, read_timeout
from mdslite.oip.wire import Buffer, pack_strings
from mdslite.predict.infer import InferForm
from mdslite.rpc.schema import Schema, parse
from mdslite.runtimes.protocol import Outputs, TensorSpec
from mdslite.serving.fleet import Served
from mdslite.tensors import Columns

if TYPE_CHECKING:
    from mdslite.predict.call import Call

VIEWED_BYTES = 64 * 1024  # a message from this size on comes as a view, whose parts cost no copy
HEAD_BYTES_MAX = 4096  # of what is worth remembering
HEADS_MAX = 256
_INPUT_TAG, _OUTPUT_TAG = b"\x3a", b"\x32"  # raw_input_contents, raw_output_contents

# Where each datatype's elements stand in a message that spells them out, and their dtype where that is exact.
_CONTENTS: dict[str, tuple[str, str | None]] = {
    "BOOL": ("bool_contents", None),
    "INT8": ("int_contents", None),
    "INT16": ("int_contents", None),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "UINT8": ("uint_contents", None),
    "UINT16": ("uint_contents", None),
    "UINT32": ("uint_contents", "<u4"),
    "UINT64": ("uint64_contents", "<u8"),
    "FP32": ("fp32_contents", "<f4"),
    "FP64": ("fp64_contents", "<f8"),
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """Where a request goes, and how it begins when it is one of a kind that is remembered."""

    target: bytes
    head: bytes | None
    message: Any = None  # when it had to be parsed


@dataclass(slots=True)
class Fitted:
    """What an answer must know of its request. `template` are the columns of a request with the same head,
    but for their bytes; `prefixes` what stands before each output's bytes while they have these `shapes`."""

    plan: Plan
    plain: bool
    template: Columns | None = None
    spec: TensorSpec | None = None  # of those bytes
    shapes: Any = None
    prefixes: tuple[bytes, ...] = ()

    @property
    def id(self) -> str | None:
        return self.plan.id

    def place(self, raw: memoryview) -> Buffer:
        """The bytes of a tensor where a runtime can read them: there where they are, if they are aligned."""
        assert self.spec is not None
        found = read_raw(self.spec, raw, 0)
        assert not isinstance(found, list)
        return found


class RpcForm(InferForm):
    """Reads and writes the messages of every version; with `streamed`, of those too whose answer comes in
    pieces."""

    def __init__(self, schema: Schema, heads: dict[int, Envelope], *, streamed: bool) -> None:
        super().__init__(max_json_bytes=0)
        self._schema = schema
        self._heads = heads  # by the length of the request
        self._streamed = streamed

    def open(self, body: bytes | memoryview) -> Envelope:
        """Find out where a request goes.

        :raises InvalidRequest: it is none
        """
        known = self._heads.get(len(body))
        if known is not None and known.head is not None and body[: len(known.head)] == known.head:
            return known
        message = parse(self._schema.InferRequest, body)
        target = make_target(message.model_name, message.model_version)
        head = None if message.id else _head_of(message, body)
        if head is not None:
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            self._heads[len(body)] = Envelope(target, head)
        return Envelope(target, head, message)

    def read(self, call: Call, served: Served) -> Columns:
        envelope = getattr(call, "envelope", None) or self.open(call.body)
        head, notes = envelope.head, served.messages.notes
        fitted: Fitted | None = None if head is None else notes.get(head)
        if head is not None and fitted is not None and fitted.template is not None:
            template = fitted.template
            raw: Buffer = call.body[len(head) :]
            if isinstance(raw, memoryview):
                raw = fitted.place(raw)
            columns = Columns(template.rows, (raw,), template.key, "inputs")
        else:
            message = envelope.message or parse(self._schema.InferRequest, call.body)
            fitted, columns = self._read_new(served, message, memorable=head is not None)
            if head is not None and fitted.template is not None:
                if len(notes) >= HEADS_MAX:
                    notes.clear()
                notes[head] = fitted
        call.plan = fitted
        call.timeout_s = min(call.timeout_s, fitted.plan.timeout_s)
        return columns

    def _read_new(self, served: Served, message: Any, *, memorable: bool) -> tuple[Fitted, Columns]:
        plan = served.messages.plan(read_request(message))
        tensors = read_tensors(message)
        outputs = served.messages.signature.outputs
        plain = served.messages.direct and all(
            not wanted.classes and outputs[at].datatype not in ("BYTES", "OBJECT")
            for at, wanted in plan.picked
        )
        fitted = Fitted(plan, plain)
        try:
            columns = self._take(served, tensors)
        except InvalidTensor as exc:
            locate(exc)
            raise
        if memorable and columns.rows:
            places = served.messages.places(tensors, [len(tensors[0].raw or b"")])
            if places is not None and places.plain:
                fitted.template = Columns(columns.rows, (), columns.key, "inputs")
                fitted.spec = places.spans[0].spec if places.spans[0] is not None else None
        return fitted, columns

    def _take(self, served: Served, tensors: list[InputTensor]) -> Columns:
        codec = served.codec
        if not codec.streams or not isinstance(codec, DataCodec):
            return served.messages.take(tensors)
        if self._streamed:
            return take_data(codec, tensors, streamed=True)
        raise InvalidRequest(
            "this model streams its answer: expected ModelStreamInfer", hint="it gives one answer a piece"
        )

    def write(self, call: Call, outputs: Outputs | None) -> bytes:
        served, fitted = call.served, call.plan
        assert served is not None
        if outputs is None or not fitted.plain:
            tensors = (
                empty_outputs(served.messages.signature) if outputs is None else served.messages.give(outputs)
            )
            return self._compose(served, fitted.plan, tensors)
        arrays: Any = [outputs[at] for at, _ in fitted.plan.picked]
        shapes = [array.shape for array in arrays]
        if shapes != fitted.shapes:
            tensors = served.messages.give(outputs)
            fitted.prefixes = self._prefixes(
                served, fitted.plan, [tensors[at] for at, _ in fitted.plan.picked]
            )
            fitted.shapes = shapes
        if len(arrays) == 1:
            return fitted.prefixes[0] + arrays[0].tobytes()  # type: ignore[no-any-return]
        return b"".join(
            part
            for prefix, array in zip(fitted.prefixes, arrays, strict=True)
            for part in (prefix, array.tobytes())
        )

    def write_piece(self, served: Served, text: bytes, fitted: Fitted) -> bytes:
        """One item of a model that streams."""
        tensor = OutputTensor(OUTPUT, "BYTES", (1,), [text])
        return self.wrap(self._compose_all(served, fitted.id, [tensor]))

    def wrap(self, body: bytes) -> bytes:
        """An infer response as an answer in a stream: its second field."""
        return b"\x12" + _varint(len(body)) + body

    def _compose(self, served: Served, plan: Plan, tensors: Sequence[OutputTensor]) -> bytes:
        counted = served.messages.signature.rows != "none"
        picked = [
            classify(tensors[at], wanted.classes, counted=counted) if wanted.classes else tensors[at]
            for at, wanted in plan.picked
        ]
        return self._compose_all(served, plan.id, picked)

    def _compose_all(self, served: Served, identity: str | None, tensors: Sequence[OutputTensor]) -> bytes:
        parts: list[Buffer] = [self._describe(served, identity, tensors)]
        for tensor in tensors:
            raw = tensor.raw()
            parts += (_OUTPUT_TAG, _varint(len(raw)), raw)
        return b"".join(parts)

    def _prefixes(self, served: Served, plan: Plan, tensors: Sequence[OutputTensor]) -> tuple[bytes, ...]:
        heads = [self._describe(served, plan.id, tensors)] + [b""] * (len(tensors) - 1)
        return tuple(
            head + _OUTPUT_TAG + _varint(len(tensor.raw()))
            for head, tensor in zip(heads, tensors, strict=True)
        )

    def _describe(self, served: Served, identity: str | None, tensors: Sequence[OutputTensor]) -> bytes:
        """A response without the bytes of its tensors: those may be appended as they are."""
        response = self._schema.InferResponse(
            model_name=f"{served.project}.{served.model}", model_version=served.version, id=identity or ""
        )
        for tensor in tensors:
            response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return response.SerializeToString()  # type: ignore[no-any-return]


def make_target(name: str, version: str) -> bytes:
    """The URL that the same request would have over REST."""
    target = f"/v2/models/{quote(name, safe='')}"
    if version:
        target += f"/versions/{quote(version, safe='')}"
    return f"{target}/infer".encode()


def read_request(message: Any) -> InferRequest:
    """What a message says beside its tensors.

    :raises InvalidRequest: a parameter is not what it has to be
    """
    outputs = [{"name": one.name, "parameters": _parameters(one)} for one in message.outputs]
    return InferRequest(
        message.id or None,
        (),
        read_outputs(outputs, binary=True),
        binary=True,
        timeout_s=read_timeout(_parameters(message).get("timeout")),
    )


def read_tensors(message: Any) -> list[InputTensor]:
    """The inputs, as bytes or spelled out.

    :raises InvalidRequest: some are one and some the other
    :raises InvalidTensor: they are not as many as they should be, or have no such datatype
    """
    inputs, raws = message.inputs, message.raw_input_contents
    for number, one in enumerate(inputs):
        check_place(_parameters(one), input_place(number, one.name))
    if not raws:
        return [_spelled_out(one, number) for number, one in enumerate(inputs)]
    if any(one.HasField("contents") for one in inputs):
        raise InvalidRequest(
            "expected the tensors here or in contents, got both",
            field="raw_input_contents",
            hint="leave one out",
        )
    if len(raws) != len(inputs):
        raise InvalidTensor(
            f"{len(raws)} of them, expected one for each of the {len(inputs)} inputs",
            field="raw_input_contents",
        )
    return [
        InputTensor(one.name, one.datatype, tuple(one.shape), raw=raw)
        for one, raw in zip(inputs, raws, strict=True)
    ]


def _spelled_out(tensor: Any, number: int) -> InputTensor:
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    if datatype == "BYTES":
        return InputTensor(name, datatype, shape, raw=pack_strings(tensor.contents.bytes_contents))
    if datatype not in _CONTENTS:
        raise InvalidTensor(
            f'input "{clip(name)}": datatype {clip(datatype)} is not spelled out in contents: expected it in '
            "raw_input_contents",
            field=f"inputs[{number}].datatype",
        )
    field, dtype = _CONTENTS[datatype]
    values = getattr(tensor.contents, field)
    if dtype is None:
        return InputTensor(name, datatype, shape, data=list(values))
    return InputTensor(name, datatype, shape, raw=np.array(values, dtype).tobytes())


def _parameters(message: Any) -> dict[str, Any]:
    found = {}
    for name, parameter in message.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(parameter, kind)
    return found


def _head_of(message: Any, body: Buffer) -> bytes | None:
    """All of a message but its one tensor, where that stands last."""
    if len(message.inputs) != 1 or len(message.raw_input_contents) != 1:
        return None
    size_bytes = len(message.raw_input_contents[0])
    if len(body) - size_bytes > HEAD_BYTES_MAX:
        return None
    head = bytes(body[: len(body) - size_bytes])
    if not size_bytes or not head.endswith(_INPUT_TAG + _varint(size_bytes)):
        return None
    return head


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
