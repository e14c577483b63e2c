"""Free data over the protocol, as Python packages and pipelines take them: one input and one output.

The input `instances` is BYTES, each element the JSON text of one datum; or numbers, and each of its rows is a
datum, an array. The output `predictions` is BYTES too, each element the JSON text of one answer, unless all
answers are arrays of one dtype and shape: those go as the tensor that they are together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from mdslite.data import DataCodec, read_text
from mdslite.errors import InvalidRequest, InvalidTensor, clip
from mdslite.npy import MAX_RANK
from mdslite.oip.inputs import InputTensor, check_rank, part_of, read_column
from mdslite.oip.message import PREDICT_HINT, Messages
from mdslite.oip.outputs import OutputTensor
from mdslite.oip.wire import Buffer
from mdslite.packing import from_bfloat16
from mdslite.runtimes.protocol import NUMPY_DTYPES, Datum, Outputs, TensorSpec
from mdslite.tensors import Columns

INPUT = "instances"
OUTPUT = "predictions"
_NUMPY_JSON = orjson.OPT_SERIALIZE_NUMPY
_NAMES: Mapping[np.dtype[Any], str] = {
    dtype: name for name, dtype in NUMPY_DTYPES.items() if name not in ("BF16", "BYTES")
}


class FreeMessages(Messages):
    """One input of data, one output of answers."""

    def __init__(self, codec: DataCodec, *, model: str, version: str) -> None:
        super().__init__(codec.signature, model=model, version=version)
        self._codec = codec

    def take(self, tensors: Sequence[InputTensor]) -> Columns:
        return take_data(self._codec, tensors)

    def give(self, outputs: Outputs) -> list[OutputTensor]:
        return give_answers(outputs)

    def bare(self, body: Buffer) -> InputTensor:
        raise InvalidRequest(
            "this model takes data of any kind: expected the JSON that says what the bytes are"
        )


def take_data(codec: DataCodec, tensors: Sequence[InputTensor], *, streamed: bool = False) -> Columns:
    """A request's one input as data; `streamed` says that its answer may come in pieces.

    :raises InvalidRequest: the model streams its answers
    :raises InvalidTensor: there is another input, or its elements are no JSON or do not fit its shape
    """
    if codec.streams and not streamed:
        raise InvalidRequest(
            "this model streams its answer: expected a request to its predict URL", hint=PREDICT_HINT
        )
    if [tensor.name for tensor in tensors] != [INPUT]:
        came = ", ".join(f'"{clip(tensor.name)}"' for tensor in tensors[:5]) or "none"
        raise InvalidTensor(f'expected one input "{INPUT}", got {came}')
    try:
        return codec.take(_data_of(tensors[0]))
    except InvalidTensor as exc:
        exc.part = part_of(0, exc)
        raise


def _data_of(tensor: InputTensor) -> list[Datum]:
    spec = _spec_of(tensor)
    check_rank(spec, tensor.shape)
    column = read_column(spec, tensor)
    if isinstance(column, list):
        part = "data" if tensor.raw is None else ""
        return [_read(text, number, part) for number, text in enumerate(column)]
    array: Any = np.frombuffer(column, NUMPY_DTYPES[tensor.datatype]).reshape(tensor.shape)
    rows: list[Datum] = list(from_bfloat16(array) if tensor.datatype == "BF16" else array)
    return [np.asarray(row) for row in rows]


def give_answers(outputs: Outputs) -> list[OutputTensor]:
    """The answers as the one output."""
    answers: Any = outputs[0]
    arrays = [answer for answer in answers if isinstance(answer, np.ndarray)]
    kinds = {(array.dtype.newbyteorder("="), array.shape) for array in arrays}
    if len(arrays) == len(answers) and len(kinds) == 1:
        dtype, _ = kinds.pop()
        if dtype in _NAMES:
            joined = np.stack(arrays).astype(dtype, copy=False)
            return [OutputTensor(OUTPUT, _NAMES[dtype], joined.shape, joined)]
    texts = [_text(answer) for answer in answers]
    return [OutputTensor(OUTPUT, "BYTES", (len(texts),), texts)]


def _spec_of(tensor: InputTensor) -> TensorSpec:
    if tensor.datatype not in NUMPY_DTYPES:
        raise InvalidTensor(
            f'input "{INPUT}": datatype {clip(tensor.datatype)}, expected BYTES that hold JSON, or numbers',
            part="datatype",
        )
    if not tensor.shape or len(tensor.shape) > MAX_RANK:
        raise InvalidTensor(
            f'input "{INPUT}": expected a shape whose first dimension counts rows', part="shape"
        )
    datatype: Any = tensor.datatype
    return TensorSpec(INPUT, datatype, tensor.shape, any_bytes=True)


def _read(text: str | bytes, number: int, part: str) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    try:
        return read_text(data)
    except InvalidRequest as exc:
        raise InvalidTensor(
            f'input "{INPUT}": element {number} is no JSON, expected the JSON text of a value (a text has '
            "quotes of its own)",
            part=part,
        ) from exc


def _text(answer: Any) -> bytes:
    if not isinstance(answer, np.ndarray):
        return answer  # type: ignore[no-any-return]
    plain = answer.tolist() if not answer.ndim or answer.dtype.kind not in "biuf" else answer
    return orjson.dumps(
        np.ascontiguousarray(plain) if isinstance(plain, np.ndarray) else plain, option=_NUMPY_JSON
    )
