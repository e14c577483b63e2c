"""Wire bytes to named columns of rows, and results back to JSON. Owns no socket and no model.

A decoded request is `Columns`: for each input of the signature, its rows back to back as bytes in the model's
own dtype (or a list of str for BYTES). Bytes, not arrays, because forming a batch of numeric rows is then one
`b"".join` whatever their number, and a single large request reaches the runtime without a copy.

A `Codec` is built once for a loaded version. Its common case, one numeric input with rows of fixed length,
packs the decoded JSON list with `struct`, which checks count and type as it copies (0.4 µs for 64 float32
against 1.1 µs for `numpy.array`); whatever it refuses goes the careful way, which knows what to say.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import orjson

from mdslite.errors import InvalidRequest, InvalidTensor, UnsupportedMedia, clip, quoted
from mdslite.media import OCTETS, is_json, parse_json, plain_type
from mdslite.npy import NPY, read_npy
from mdslite.packing import (
    Bucket,
    Column,
    RowShape,
    Shared,
    as_bytes,
    check_filled,
    check_shape,
    coarse,
    is_base64,
    kind_of,
    pack_column,
    pack_shared,
    plain_rows,
    plain_values,
    show_shape,
)
from mdslite.runtimes.protocol import NUMPY_DTYPES, Outputs, Signature, TensorSpec

# How a request was put, and so how its answer is: a "value" is one datum that is no list of instances.
Form = Literal["instances", "inputs", "value"]
# One row shape an input (None where an optional input is absent), and behind them what was given of those
# that all rows share. Only equal keys share a batch.
Key = tuple[RowShape | Shared | None, ...]

# From here on an array is worth more than the copy that would make it bytes.
SHARED_BYTES = 64 * 1024

_STRUCT_CODES = {"FP32": "f", "FP64": "d", "INT32": "i", "INT64": "q", "UINT8": "B", "INT8": "b"}
_U, _L = b"ul"  # as integers: found four times as fast as bytes are
_PREDICTIONS = b'{"predictions":'
_NUMPY_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class Columns:
    """One request's rows: `columns[i]` belongs to `signature.inputs[i]`, None where it was left out."""

    __slots__ = ("columns", "form", "key", "rows")

    def __init__(self, rows: int, columns: tuple[Column | None, ...], key: Key, form: Form) -> None:
        self.rows = rows
        self.columns = columns
        self.key = key
        self.form = form


class Codec:
    """Decodes requests for one signature and encodes its answers."""

    streams = False
    row_errors = False  # a run answers all its rows, or fails as a whole

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._inputs = signature.inputs
        self.counted = signature.rows != "none"  # the first dimension of what it takes and gives counts rows
        self._names = {spec.name: index for index, spec in enumerate(signature.inputs)}
        self._shared = {spec.name: spec for spec in signature.shared}
        self._fast = self._fast_pack()
        self._plain_output = (
            len(signature.outputs) == 1
            and self.counted
            and signature.outputs[0].datatype not in ("BYTES", "BF16", "OBJECT")
        )

    def _fast_pack(self) -> tuple[Any, Key] | None:
        """The `struct` packer of one row and its key, where the signature allows it."""
        if len(self._inputs) != 1 or not self.counted:
            return None
        spec = self._inputs[0]
        code = _STRUCT_CODES.get(spec.datatype)
        if code is None or len(spec.shape) != 2 or not spec.shape[1]:
            return None
        return struct.Struct(f"={spec.shape[1]}{code}").pack, ((spec.shape[1],),)

    def decode(self, body: bytes) -> Columns:
        """Decode a JSON predict body: `{"instances": [...]}` or `{"inputs": {...}}`.

        :raises InvalidJson: the body is no JSON
        :raises InvalidRequest: it is of another form
        :raises InvalidTensor: a name, dtype or shape is not the signature's
        """
        message = parse_json(body)
        if self._fast is not None:
            try:
                instances = message["instances"]
                # struct would take true for 1: where neither letter stands, no true, false or null can hide.
                plain = len(message) == 1 and _U not in body and _L not in body
                if plain and instances.__class__ is list and instances:
                    pack, key = self._fast
                    if len(instances) == 1:
                        return Columns(1, (pack(*instances[0]),), key, "instances")
                    rows = [pack(*row) for row in instances if row.__class__ is list]
                    if len(rows) == len(instances):
                        return Columns(len(rows), (b"".join(rows),), key, "instances")
            except (struct.error, TypeError, KeyError, OverflowError):
                pass
        return self._decode_message(message)

    def _decode_message(self, message: Any) -> Columns:
        if not isinstance(message, dict):
            raise InvalidRequest(f'expected an object with "instances" or "inputs", got {kind_of(message)}')
        if unknown := message.keys() - {"instances", "inputs", "signature_name"}:
            raise InvalidRequest(
                f'unknown key "{clip(min(unknown))}" in the body: expected "instances" or "inputs"'
            )
        name = message.get("signature_name")
        if name is not None and not isinstance(name, str):
            raise InvalidRequest(
                f"expected a text, got {kind_of(name)}",
                field="signature_name",
                hint="leave it out: there is one",
            )
        if ("instances" in message) == ("inputs" in message):
            got = "both" if "inputs" in message else "neither"
            raise InvalidRequest(f'expected one of the keys "instances" and "inputs" in the body, got {got}')
        if "instances" in message:
            return self._decode_instances(message["instances"])
        return self._decode_inputs(message["inputs"])

    def _decode_instances(self, instances: Any) -> Columns:
        if not isinstance(instances, list):
            raise InvalidRequest(f"expected a list, got {kind_of(instances)}", field="instances")
        if not instances:
            return self.empty("instances")
        columns: list[tuple[Column | None, RowShape | None]] = []
        named = len(self._inputs) != 1 or (
            isinstance(instances[0], dict) and not self._is_bytes(instances[0])
        )
        values = self._gather(instances) if named else [instances]
        shared = pack_shared(self._shared, instances, "instances") if named else ()
        for spec, value in zip(self._inputs, values, strict=True):
            shape = (None, *spec.shape[1:]) if self.counted else (None, *spec.shape)
            if value is None:
                columns.append((None, None))
                continue
            tail = f".{spec.name}" if named else ""
            columns.append(pack_column(spec, value, shape, "instances", tail, each="an instance of "))
        return self._columns(len(instances), columns, "instances", shared)

    def _is_bytes(self, value: Any) -> bool:
        """Is it one string in base64, rather than an object of values by input?"""
        return is_base64(value) and self._inputs[0].datatype == "BYTES" and "b64" not in self._names

    def _gather(self, instances: list[Any]) -> list[list[Any] | None]:
        """Turn `[{input: value}, ...]` into one list of values an input."""
        first = instances[0]
        for number, instance in enumerate(instances):
            if number and isinstance(instance, dict) and instance.keys() == first.keys():
                continue
            field = f"instances[{number}]"
            if not isinstance(instance, dict):
                wrong = f"expected an object with {self._wanted()}, got {kind_of(instance)}"
                raise InvalidRequest(wrong, field=field)
            self._check_names(instance.keys(), field)
            if number:
                raise InvalidRequest("it names other inputs than the first instance does", field=field)
        return [
            [instance[spec.name] for instance in instances] if spec.name in first else None
            for spec in self._inputs
        ]

    def _decode_inputs(self, inputs: Any) -> Columns:
        named = isinstance(inputs, dict) and not (len(self._inputs) == 1 and self._is_bytes(inputs))
        if not named:
            if len(self._inputs) != 1:
                wrong = f"expected an object with {self._wanted()}, got {kind_of(inputs)}"
                raise InvalidRequest(wrong, field="inputs")
            inputs = {self._inputs[0].name: inputs}
        self._check_names(inputs.keys(), "inputs")
        columns: list[tuple[Column | None, RowShape | None]] = []
        rows: int | None = None
        for spec in self._inputs:
            if spec.name not in inputs:
                columns.append((None, None))
                continue
            value, place = inputs[spec.name], f"inputs.{spec.name}" if named else "inputs"
            if not self.counted:
                columns.append(pack_column(spec, [value], (None, *spec.shape), place, None, each=""))
                rows = 1
                continue
            if not isinstance(value, list):
                wrong = f"expected a list of rows of shape {show_shape(spec.shape)}, got {kind_of(value)}"
                raise InvalidTensor(f'input "{spec.name}": {wrong}', field=place)
            if rows is not None and len(value) != rows:
                raise InvalidTensor(
                    f'input "{spec.name}": {len(value)} rows, but "{self._inputs[0].name}" has {rows}',
                    field=place,
                )
            rows = len(value)
            columns.append(pack_column(spec, value, self.shape_of(spec), place) if value else (None, None))
        shared = pack_shared(self._shared, [inputs], "inputs", None)
        return self._columns(rows, columns, "inputs", shared) if rows else self.empty("inputs")

    def decode_typed(self, body: bytes, media_type: bytes) -> Columns:
        """Decode a body by its media type: JSON, or an array in NumPy's format.

        :raises UnsupportedMedia: it is of another type
        """
        kind = plain_type(media_type)
        if kind == NPY:
            return self.decode_npy(body)
        if is_json(kind):
            return self.decode(body)
        # The caller reads octets itself: they are one tensor, as an array is.
        arrays = f", {NPY.decode()} or {OCTETS.decode()}" if len(self._inputs) == 1 else ""
        raise UnsupportedMedia(
            f"content-type {quoted(kind.decode('latin-1'))} is not served: expected application/json{arrays}",
            hint="JSON goes as application/json, or without a content-type"
            if arrays
            else "/v2/models/PROJECT.MODEL/infer takes the bytes of several inputs",
        )

    def decode_npy(self, body: bytes) -> Columns:
        """Decode one array in NumPy's `.npy` format, for a model with one input. Never unpickles.

        :raises UnsupportedMedia: the array holds Python objects
        """
        if len(self._inputs) != 1:
            raise InvalidRequest(f"a .npy body holds one array: this model has {len(self._inputs)} inputs")
        return self.from_arrays({self._inputs[0].name: read_npy(body)})

    def from_arrays(self, arrays: dict[str, np.ndarray[Any, Any]]) -> Columns:
        """Take named arrays whose first axis is rows (the whole tensor where the signature has no rows).

        Any byte order and memory layout is converted: onnxruntime reads big-endian arrays as garbage.

        :raises InvalidTensor: a name, dtype or shape is not the signature's
        """
        named: dict[str, tuple[Column, tuple[int, ...]]] = {}
        for name, array in arrays.items():
            spec = self.input(name)
            wanted = NUMPY_DTYPES[spec.datatype]
            if array.dtype.newbyteorder("=") != wanted:
                raise InvalidTensor(
                    f'input "{spec.name}": array of {array.dtype.name}, expected {spec.datatype}'
                )
            # Before anything is copied: a shape may say much more than there are bytes.
            check_shape(spec, array.shape, self.shape_of(spec))
            native = np.require(array, wanted, ["C", "A"])
            column = native.data.cast("B") if native.nbytes > SHARED_BYTES else native.tobytes()
            named[name] = column, array.shape
        return self.assemble(named)

    def input(self, name: str) -> TensorSpec:
        """:raises InvalidTensor: there is none of that name; says which there are"""
        if name in self._names:
            return self._inputs[self._names[name]]
        if name not in self._shared:
            raise InvalidTensor(f'unknown input "{clip(name)}": expected {self._wanted()}', part="name")
        return self._shared[name]

    def shape_of(self, spec: TensorSpec) -> tuple[int | None, ...]:
        """The shape of an input in a request: its first dimension counts rows where there are any."""
        return (None, *spec.shape[1:]) if self.counted and spec.name in self._names else spec.shape

    def assemble(self, named: Mapping[str, tuple[Column, tuple[int, ...]]]) -> Columns:
        """Take columns by input, each with its tensor's whole shape, which is known to be the signature's.

        :raises InvalidTensor: an input is unknown or missing, or one has more rows than another
        """
        self._check_names(named.keys())
        columns: list[tuple[Column | None, RowShape | None]] = []
        rows: int | None = None
        for spec in self._inputs:
            if spec.name not in named:
                columns.append((None, None))
                continue
            column, shape = named[spec.name]
            count = shape[0] if self.counted else 1
            if rows is not None and rows != count:
                raise InvalidTensor(f'input "{spec.name}": {count} rows, expected {rows}')
            rows = count
            columns.append((column, shape[1:] if self.counted else shape))
        if not rows:
            return self.empty("inputs")
        given = [(spec, *named[name]) for name, spec in self._shared.items() if name in named]
        shared = [Shared(spec.name, spec.datatype, shape, as_bytes(column)) for spec, column, shape in given]
        return self._columns(rows, columns, "inputs", shared)

    def empty(self, form: Form) -> Columns:
        return Columns(0, (None,) * len(self._inputs), (None,) * len(self._inputs), form)

    def _columns(
        self,
        rows: int,
        columns: Sequence[tuple[Column | None, RowShape | None]],
        form: Form,
        shared: Sequence[Shared] = (),
    ) -> Columns:
        key = (*check_filled(self.signature, [shape for _, shape in columns]), *shared)
        return Columns(rows, tuple(column for column, _ in columns), key, form)

    def _check_names(self, names: Any, field: str | None = None) -> None:
        for name in names:
            if name not in self._names and name not in self._shared:
                raise InvalidTensor(f'unknown input "{clip(name)}": expected {self._wanted()}', field=field)
        for spec in self._inputs:
            if not spec.optional and spec.name not in names:
                raise InvalidTensor(
                    f'missing input "{spec.name}" ({spec.datatype} {show_shape(spec.shape)})', field=field
                )

    def _wanted(self) -> str:
        return ", ".join(f'"{spec.name}"' for spec in (*self._inputs, *self._shared.values()))

    def row_sizes(self, key: Key) -> tuple[int, ...]:
        """Bytes a row of each input takes under `key`; 0 for strings and absent inputs."""
        return tuple(
            0 if shape is None or spec.datatype == "BYTES" else _itemsize(spec) * math.prod(shape)
            for spec, shape in zip(self._inputs, self._shapes(key), strict=True)
        )

    def _shapes(self, key: Key) -> Sequence[RowShape | None]:
        """Those of the rows."""
        return cast(Sequence[RowShape | None], key[: len(self._inputs)])

    @staticmethod
    def bucket(key: Key) -> Bucket:
        """Coarse shapes, of what a request's rows share as well: each dimension within a factor of two."""
        return tuple(
            (one.name, *coarse(one.shape)) if isinstance(one, Shared) else one and coarse(one) for one in key
        )

    def feeds(self, columns: Sequence[Column | None], key: Key, rows: int) -> dict[str, np.ndarray[Any, Any]]:
        """Build the runtime's arrays over one batch's joined columns, without a copy for numbers."""
        feeds = {}
        for one in key[len(self._inputs) :]:
            if isinstance(one, Shared):
                feeds[one.name] = one.array()
        for spec, column, shape in zip(self._inputs, columns, self._shapes(key), strict=True):
            if column is None or shape is None:
                continue
            full = (rows, *shape) if self.counted else shape
            if isinstance(column, list):
                array = np.empty(len(column), dtype=object)
                array[:] = column
                feeds[spec.name] = array.reshape(full)
            else:
                feeds[spec.name] = np.frombuffer(column, dtype=NUMPY_DTYPES[spec.datatype]).reshape(full)
        return feeds

    def encode(self, outputs: Outputs, form: Form) -> bytes:
        """Encode rows of outputs as the reply to a request of `form`. NaN and infinities become null."""
        if self._plain_output and form == "instances":
            return _PREDICTIONS + orjson.dumps(outputs[0], option=_NUMPY_JSON) + b"}"
        specs = self.signature.outputs
        values = [plain_values(spec, output) for spec, output in zip(specs, outputs, strict=True)]
        if form == "inputs":
            return orjson.dumps(
                {"outputs": {spec.name: value for spec, value in zip(specs, values, strict=True)}},
                option=_NUMPY_JSON,
            )
        if len(values) == 1:
            return _PREDICTIONS + orjson.dumps(values[0], option=_NUMPY_JSON) + b"}"
        names = [spec.name for spec in specs]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*map(plain_rows, values), strict=True)]
        return orjson.dumps({"predictions": rows}, option=_NUMPY_JSON)

    def encode_whole(self, answers: Sequence[Outputs], form: Form) -> bytes:
        """Encode the answers of a model without rows: one whole set of outputs an instance."""
        specs = self.signature.outputs
        rows = [
            {spec.name: plain_values(spec, output) for spec, output in zip(specs, outputs, strict=True)}
            for outputs in answers
        ]
        if form == "inputs":
            return orjson.dumps({"outputs": rows[0]}, option=_NUMPY_JSON)
        values = [row[specs[0].name] for row in rows] if len(specs) == 1 else rows
        return orjson.dumps({"predictions": values}, option=_NUMPY_JSON)

    def encode_empty(self, form: Form) -> bytes:
        if form == "instances":
            return b'{"predictions":[]}'
        return orjson.dumps({"outputs": {spec.name: [] for spec in self.signature.outputs}})


def _itemsize(spec: TensorSpec) -> int:
    return NUMPY_DTYPES[spec.datatype].itemsize
