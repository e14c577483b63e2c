"""Bare tensors on the predict URLs, in and out: an array in NumPy's format, or bytes whose dtype and shape
stand in the header. Knows the header's fields; what fits a model is for its codec to say.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mdslite.data import DataCodec
from mdslite.errors import InvalidRequest, InvalidTensor, clip, quoted
from mdslite.media import OCTETS
from mdslite.npy import NPY
from mdslite.oip.free import INPUT, take_data
from mdslite.oip.inputs import InputTensor, infer_shape, take_inputs
from mdslite.oip.message import PLANS_MAX
from mdslite.oip.outputs import OutputTensor, empty_outputs
from mdslite.oip.wire import Buffer
from mdslite.packing import from_bfloat16
from mdslite.runtimes.protocol import NUMPY_DTYPES, Outputs
from mdslite.serving.fleet import Served
from mdslite.serving.loader import AnyCodec
from mdslite.tensors import Codec, Columns

if TYPE_CHECKING:
    from mdslite.predict.call import Call

DTYPE, SHAPE, OUTPUT = b"mdslite-dtype", b"mdslite-shape", b"mdslite-output"

# NumPy's names and the Open Inference Protocol's; bytes are in little-endian order, rows outermost.
_DATATYPES: dict[str, str] = {
    **{dtype.name: name for name, dtype in NUMPY_DTYPES.items() if name not in ("BF16", "BYTES")},
    "bfloat16": "BF16",
}
_HEADERS = {"datatype": DTYPE, "shape": SHAPE}  # by the part of a tensor that they say
_NOTE_BYTES = 256  # of a header's fields that are worth remembering
_JSON_WISHES = frozenset({b"*/*", b"application/json"})


def says_tensor(codec: AnyCodec, fields: Mapping[bytes, bytes]) -> bool:
    """Are octets a tensor? Free data may be bytes of any kind, unless the header speaks of numbers."""
    return not isinstance(codec, DataCodec) or DTYPE in fields


def read_tensor(served: Served, body: Buffer, fields: Mapping[bytes, bytes]) -> Columns:
    """Decode the bytes of one tensor, for a model with one input. What the header leaves out follows from the
    model's signature, as far as it can. What fitted once is known to fit again.

    :raises InvalidRequest: the model has several inputs
    :raises InvalidTensor: dtype, shape and bytes do not fit each other, or the model
    """
    known = served.messages.notes
    key = fields.get(DTYPE), fields.get(SHAPE), len(body)
    fitted = known.get(key)
    if fitted is not None and body.__class__ is bytes:
        return Columns(fitted.rows, (body,), fitted.key, "inputs")
    codec = served.codec
    datatype, shape = _read_dtype(key[0]), _read_shape(key[1])
    if isinstance(codec, DataCodec):
        if datatype is None or shape is None:
            raise InvalidTensor(
                "expected it beside mdslite-dtype, such as 8,64",
                field=SHAPE.decode(),
                hint="without mdslite-dtype the body is one datum",
            )
        with _located(fields):
            return take_data(codec, [InputTensor(INPUT, datatype, shape, raw=body)])
    inputs = codec.signature.inputs
    if len(inputs) != 1:
        raise InvalidRequest(f"a body of bytes holds one tensor: this model has {len(inputs)} inputs")
    spec = inputs[0]
    if shape is None:
        shape = infer_shape(codec, spec, len(body))
    with _located(fields):
        columns = take_inputs(codec, [InputTensor(spec.name, datatype or spec.datatype, shape, raw=body)])
    if columns.rows and spec.datatype not in ("BYTES", "BOOL"):
        _remember(known, key, Columns(columns.rows, (), columns.key, "inputs"))
    return columns


@contextmanager
def _located(fields: Mapping[bytes, bytes]) -> Iterator[None]:
    """Have what is wrong with a tensor say which field of the header said so."""
    try:
        yield
    except InvalidTensor as exc:
        header = _HEADERS.get(exc.part.rpartition(".")[2])
        if header is not None and header in fields:
            exc.locate(header.decode())
        raise


class RawForm:
    """An answer of one output alone, in NumPy's format or as bytes; `at` is its place in the signature."""

    __slots__ = ("_at", "_head", "_is_npy")

    def __init__(self, *, is_npy: bool, at: int) -> None:
        self._is_npy = is_npy
        self._at = at
        # Of the latest answer: what it is for, and what comes before its bytes on the wire.
        self._head: tuple[Any, str, bytes] = (None, "", b"")

    def write(self, call: Call, outputs: Outputs | None) -> bytes:
        """Encode the answer, None where there were no rows.

        :raises InvalidRequest: it is no array of numbers
        """
        assert call.served is not None
        codec = call.served.codec
        if outputs is None:
            tensor = empty_outputs(codec.signature)[self._at]
        elif isinstance(codec, Codec):
            spec = codec.signature.outputs[self._at]
            array: Any = outputs[self._at]
            tensor = OutputTensor(spec.name, spec.datatype, array.shape, array)
        else:
            tensor = call.served.messages.give(outputs)[self._at]
        values = tensor.values
        if isinstance(values, list):
            if values:
                raise InvalidRequest(
                    f'output "{tensor.name}" is no array of numbers: expected Accept: application/json'
                )
            values = np.empty(0, np.float32)
        elif call.columns.form == "value":
            values = values[0]
        if self._is_npy and tensor.datatype == "BF16":
            values = from_bfloat16(values)
        kind = values.shape, tensor.datatype
        if self._head[0] != kind:
            self._head = (kind, *_make_head(values, tensor.datatype, is_npy=self._is_npy))
        _, call.reply_lines, head = self._head
        return head + values.tobytes()


def choose_form(served: Served, fields: Mapping[bytes, bytes]) -> RawForm | None:
    """The form of an answer to a request with these fields; None is JSON.

    :raises InvalidRequest: the model has no such output, several, or none of numbers
    """
    wish, output = fields[b"accept"], fields.get(OUTPUT)
    if wish in _JSON_WISHES or served.codec.streams:
        return None
    known = served.messages.notes
    form: RawForm | None = known.get((wish, output))
    if form is not None:
        return form
    for part in wish.lower().split(b","):
        media_type = part.partition(b";")[0].strip()
        if media_type in _JSON_WISHES:
            return None
        if media_type in (NPY, OCTETS):
            form = RawForm(is_npy=media_type == NPY, at=_choose_output(served.codec, output))
            _remember(known, (wish, output), form)
            return form
    return None


def _remember(known: dict[Any, Any], key: Any, value: Any) -> None:
    if sum(len(part) for part in key if isinstance(part, bytes)) <= _NOTE_BYTES:
        if len(known) >= PLANS_MAX:
            known.clear()
        known[key] = value


def _make_head(values: np.ndarray[Any, Any], datatype: str, *, is_npy: bool) -> tuple[str, bytes]:
    """The header's lines for an answer, and what its body begins with."""
    if is_npy:
        stream = io.BytesIO()
        layout = np.lib.format.header_data_from_array_1_0(np.empty(values.shape, values.dtype))
        np.lib.format.write_array_header_1_0(stream, layout)
        return f"content-type: {NPY.decode()}\r\n", stream.getvalue()
    shape = ",".join(map(str, values.shape))
    dtype = "bfloat16" if datatype == "BF16" else values.dtype.name
    lines = f"content-type: {OCTETS.decode()}\r\nmdslite-dtype: {dtype}\r\nmdslite-shape: {shape}\r\n"
    return lines, b""


def _choose_output(codec: AnyCodec, name: bytes | None) -> int:
    outputs = codec.signature.outputs
    known = ", ".join(f'"{spec.name}"' for spec in outputs)
    if name is None:
        if len(outputs) != 1:
            raise InvalidRequest(f"expected one of {known}: a tensor goes alone", field=OUTPUT.decode())
        at = 0
    else:
        names = [spec.name for spec in outputs]
        text = name.decode("utf-8", "replace").strip()
        if text not in names:
            raise InvalidRequest(f'unknown output "{clip(text)}": expected {known}', field=OUTPUT.decode())
        at = names.index(text)
    spec = outputs[at]
    if isinstance(codec, Codec) and spec.datatype in ("BYTES", "OBJECT"):
        raise InvalidRequest(
            f'output "{spec.name}" is no array of numbers: expected Accept: application/json'
        )
    return at


def _read_dtype(value: bytes | None) -> str | None:
    if value is None:
        return None
    name = value.decode("latin-1").strip()
    datatype = _DATATYPES.get(name.lower(), name)
    if datatype not in _DATATYPES.values():
        raise InvalidTensor(
            f"expected a dtype of numbers, got {quoted(name)}",
            field=DTYPE.decode(),
            hint=f"one of {', '.join(_DATATYPES)}",
        )
    return datatype


def _read_shape(value: bytes | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if not text:
        return ()
    sizes = [size.strip() for size in text.split(",")]
    if not all(size.isascii() and size.isdigit() and len(size) <= 18 for size in sizes):
        raise InvalidTensor(
            f"expected sizes with commas between them, got {quoted(text)}",
            field=SHAPE.decode(),
            hint="rows come first: 8,3,224,224 is eight images",
        )
    return tuple(map(int, sizes))
