"""What a model answered as tensors of the protocol: whole ones, or the names of the likeliest classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from mdslite.errors import InvalidRequest
from mdslite.oip.wire import pack_strings
from mdslite.packing import from_bfloat16
from mdslite.runtimes.protocol import NUMPY_DTYPES, Outputs, Signature, TensorSpec

_JSON_OF_OBJECTS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output: `values` are an array of numbers (BF16 as bit patterns), or strings in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: np.ndarray[Any, Any] | list[Any]

    def raw(self) -> bytes | memoryview:
        """The wire's bytes; those of numbers are not copied."""
        if isinstance(self.values, list):
            return pack_strings(self.values)
        if not self.values.size:
            return b""
        return np.ascontiguousarray(self.values).reshape(-1).view(np.uint8).data

    def flat(self) -> Any:
        """What orjson writes as one flat list; NaN and infinities become null.

        :raises InvalidRequest: a string is no UTF-8
        """
        if isinstance(self.values, list):
            return [self._text(value) for value in self.values]
        values = np.ascontiguousarray(self.values)
        return (from_bfloat16(values) if self.datatype == "BF16" else values).reshape(-1)

    def _text(self, value: Any) -> str:
        try:
            return value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as exc:
            raise InvalidRequest(
                f'output "{self.name}" holds bytes that are no UTF-8: expected binary_data for it',
                field="outputs",
            ) from exc


def give_outputs(signature: Signature, outputs: Outputs) -> list[OutputTensor]:
    """All outputs of an answer, in the signature's order. What is no tensor becomes a JSON text a row."""
    return [_tensor(spec, output) for spec, output in zip(signature.outputs, outputs, strict=True)]


def empty_outputs(signature: Signature) -> list[OutputTensor]:
    """The answer to no rows: no run is needed for it."""
    found = []
    for spec in signature.outputs:
        shape = (0, *(size or 0 for size in spec.shape[1:]))
        is_text = spec.datatype in ("BYTES", "OBJECT")
        values: Any = [] if is_text else np.empty(shape, NUMPY_DTYPES[spec.datatype])
        found.append(OutputTensor(spec.name, "BYTES" if is_text else spec.datatype, shape, values))
    return found


def classify(tensor: OutputTensor, count: int, *, counted: bool) -> OutputTensor:
    """The `count` greatest numbers of each row, as "value:index"; `counted` says that there are rows."""
    assert isinstance(tensor.values, np.ndarray)
    values = from_bfloat16(tensor.values) if tensor.datatype == "BF16" else tensor.values
    rows = values.reshape((len(values), -1) if counted and values.ndim else (1, -1))
    count = min(count, rows.shape[1])
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    is_whole = values.dtype.kind in "iu"
    texts = [
        f"{row[at]}:{at}" if is_whole else f"{row[at]:f}:{at}"
        for row, order in zip(rows, best, strict=True)
        for at in order.tolist()
    ]
    shape = (len(rows), count) if counted and values.ndim else (count,)
    return OutputTensor(tensor.name, "BYTES", shape, texts)


def _tensor(spec: TensorSpec, output: np.ndarray[Any, Any] | Sequence[Any]) -> OutputTensor:
    if isinstance(output, np.ndarray) and spec.datatype not in ("BYTES", "OBJECT"):
        return OutputTensor(spec.name, spec.datatype, output.shape, output)
    if spec.datatype == "BYTES":
        array = np.asarray(output, dtype=object)
        return OutputTensor(spec.name, "BYTES", array.shape, array.reshape(-1).tolist())
    texts = [orjson.dumps(_plain(value), option=_JSON_OF_OBJECTS) for value in output]
    return OutputTensor(spec.name, "BYTES", (len(texts),), texts)


def _plain(value: Any) -> Any:
    is_scalar = isinstance(value, np.ndarray) and not value.ndim
    return value.tolist() if is_scalar else value
