"""Free data under names of its own: a Python package or a pipeline whose spec says which tensors it takes and
gives (`tensors:`), so that clients send it what they would send any model.

Each row of a request is one datum: of one input its row as an array, of several an object of them by name. A
row of the answer is the value of the only output, or an object of the outputs by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from mdslite.data import DataCodec
from mdslite.errors import InvalidRequest, InvalidTensor, ModelError, clip
from mdslite.oip.inputs import InputTensor, check_rank, given_twice, part_of, read_column
from mdslite.oip.message import PREDICT_HINT, Messages
from mdslite.oip.outputs import OutputTensor
from mdslite.oip.wire import Buffer
from mdslite.packing import check_shape, show_shape
from mdslite.runtimes.protocol import NUMPY_DTYPES, Datum, Outputs, Signature, TensorSpec
from mdslite.tensors import Columns

_NUMPY_JSON = orjson.OPT_SERIALIZE_NUMPY


class DeclaredMessages(Messages):
    """Inputs and outputs are those that the spec names."""

    direct = False  # answers are objects of tensors, not arrays

    def __init__(self, codec: DataCodec, declared: Signature, *, model: str, version: str) -> None:
        super().__init__(declared, model=model, version=version)
        self._codec = codec
        self._inputs = {spec.name: spec for spec in declared.inputs}
        self._counted = declared.rows != "none"

    def take(self, tensors: Sequence[InputTensor]) -> Columns:
        if self._codec.streams:
            raise InvalidRequest(
                "this model streams its answer: expected a request to its predict URL", hint=PREDICT_HINT
            )
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for number, tensor in enumerate(tensors):
            try:
                if tensor.name in arrays:
                    raise given_twice(tensor)
                arrays[tensor.name] = self._read(tensor)
            except InvalidTensor as exc:
                exc.part = part_of(number, exc)
                raise
        for spec in self._inputs.values():
            if spec.name not in arrays and not spec.optional:
                raise InvalidTensor(f'missing input "{spec.name}"')
        return self._codec.take(self._rows(arrays))

    def give(self, outputs: Outputs) -> list[OutputTensor]:
        answers: Any = outputs[0]
        rows = [self._named(answer) for answer in answers]
        return [self._join(spec, [row[spec.name] for row in rows]) for spec in self.signature.outputs]

    def bare(self, body: Buffer) -> InputTensor:
        raise InvalidRequest("expected the JSON that says what the bytes are")

    def _read(self, tensor: InputTensor) -> np.ndarray[Any, Any]:
        spec = self._inputs.get(tensor.name)
        if spec is None:
            known = ", ".join(f'"{name}"' for name in self._inputs)
            raise InvalidTensor(f'unknown input "{clip(tensor.name)}": expected {known}', part="name")
        if tensor.datatype != spec.datatype:
            raise InvalidTensor(
                f'input "{spec.name}": datatype {clip(tensor.datatype)}, expected {spec.datatype}',
                part="datatype",
            )
        check_rank(spec, tensor.shape)
        check_shape(spec, tensor.shape, spec.shape)
        column = read_column(spec, tensor)
        if isinstance(column, list):
            found = np.empty(len(column), object)
            found[:] = column
            return found.reshape(tensor.shape)
        return np.frombuffer(column, NUMPY_DTYPES[spec.datatype]).reshape(tensor.shape)

    def _rows(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[Datum]:
        if not self._counted:
            return [_datum(arrays, single=len(self._inputs) == 1)]
        counts = {len(array) for array in arrays.values()}
        if len(counts) != 1:
            raise InvalidTensor("the inputs have different numbers of rows, expected the same")
        single = len(self._inputs) == 1
        return [
            _datum({name: array[at] for name, array in arrays.items()}, single=single)
            for at in range(counts.pop())
        ]

    def _named(self, answer: Any) -> Mapping[str, Any]:
        """One answer's outputs by name.

        :raises ModelError: some are missing
        """
        names = [spec.name for spec in self.signature.outputs]
        value = orjson.loads(answer) if isinstance(answer, bytes) else answer
        if isinstance(value, dict) and all(name in value for name in names):
            return value
        if len(names) == 1 and not isinstance(value, dict):
            return {names[0]: value}
        raise ModelError(f"the model answered without the outputs {', '.join(names)} that its spec names")

    def _join(self, spec: TensorSpec, values: list[Any]) -> OutputTensor:
        """One output of all rows.

        :raises ModelError: it is not what the spec says
        """
        is_text = spec.datatype == "BYTES"
        dtype = np.dtype(object) if is_text else NUMPY_DTYPES[spec.datatype]
        try:
            joined = np.array(values if self._counted else values[0], dtype=dtype)
        except (TypeError, ValueError, OverflowError) as exc:
            raise ModelError(f'output "{spec.name}" is no {spec.datatype}: {exc}') from exc
        wanted = spec.shape
        if len(joined.shape) != len(wanted) or any(
            size not in (None, found) for size, found in zip(wanted, joined.shape, strict=True)
        ):
            raise ModelError(
                f'output "{spec.name}" has the shape {show_shape(joined.shape)}, but its spec says '
                f"{show_shape(wanted)}"
            )
        return OutputTensor(
            spec.name, spec.datatype, joined.shape, joined.reshape(-1).tolist() if is_text else joined
        )


def _datum(row: Mapping[str, Any], *, single: bool) -> Datum:
    if single:
        (value,) = row.values()
        if isinstance(value, np.ndarray) and value.dtype != object:
            return value
        return orjson.dumps(_plain(value)) if not isinstance(value, np.generic) else np.asarray(value)
    return orjson.dumps({name: _plain(value) for name, value in row.items()}, option=_NUMPY_JSON)


def _plain(value: Any) -> Any:
    """What JSON can say of it."""
    if isinstance(value, np.ndarray) and (value.dtype == object or not value.ndim):
        return value.tolist()
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
