"""What an endpoint is sent for a request, and what its answer means. Owns no connection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
import orjson

import mds
from mdslite.data import DataCodec
from mdslite.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LoadFailed,
    MdsliteError,
    ModelError,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from mdslite.media import is_json, plain_type
from mdslite.oip.wire import pack_strings, unpack_strings
from mdslite.packing import to_bfloat16
from mdslite.runtimes.protocol import NUMPY_DTYPES, Answers, Datum, Outputs, Signature, TensorSpec
from mdslite.tensors import Codec, Columns

_HEAD_BYTES = "inference-header-content-length"
_ERRORS: Mapping[int, type[MdsliteError]] = {
    400: InvalidRequest,
    413: TooLarge,
    415: UnsupportedMedia,
    422: Unprocessable,
    429: Overloaded,
    500: ModelError,
    504: DeadlineExceeded,
}
_RETRY_AFTER_MAX_S = 60.0
_MESSAGE_CHARS = 500
_KIND_CHARS = 100


@dataclass(frozen=True, slots=True)
class Question:
    """A POST: `path` goes behind the endpoint's URL."""

    path: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Speech(Protocol):
    """How one protocol asks. `health` is the path whose answer below 500 says that an endpoint is well;
    `readiness`, where there is one, that whose 200 says that it has the model; `admission` that whose 401 or
    403 says that it refuses our credentials, and whose 200 that it takes them."""

    health: str
    readiness: str | None
    admission: str

    def ask(self, columns: Columns) -> Question: ...

    def understand(self, answer: Answer, columns: Columns) -> Outputs:
        """The outputs in a good answer.

        :raises ModelError: it is not what the protocol says
        """
        ...

    def lacks(self, answer: Answer) -> bool:
        """Does an answer to `readiness` say that there is no such model, rather than no such question?"""
        ...


class PassingCodec(DataCodec):
    """Free data on their way to somebody else: what is no JSON passes whole, arrays too. Numbers of an infer
    request become JSON."""

    def take(self, data: list[Datum]) -> Columns:
        texts: list[Datum] = [
            orjson.dumps(one, option=orjson.OPT_SERIALIZE_NUMPY) if isinstance(one, np.ndarray) else one
            for one in data
        ]
        return super().take(texts)

    def decode_typed(self, body: bytes, media_type: bytes) -> Columns:
        if is_json(plain_type(media_type)):
            return self.decode(body)
        return Columns(1, ([mds.Body(body, media_type.decode("latin-1"))],), ((),), "value")


class PredictSpeech:
    """Another mdslite, or whatever else answers `:predict` URLs. Data pass as they came."""

    def __init__(self, project: str, model: str, version: str | None, *, health: str = "/healthz") -> None:
        middle = "" if version is None else f"/versions/{version}"
        self._path = f"/projects/{project}/models/{model}{middle}:predict"
        self.health = health
        # It tells of a model, not of one of its versions.
        self.readiness = f"/readyz?model={project}/{model}" if version is None else None
        self.admission = model_path(f"{project}.{model}", version) + "/ready"  # only an mdslite has it

    def ask(self, columns: Columns) -> Question:
        data: Any = columns.columns[0]
        if columns.form == "value":
            datum = data[0]
            kind = datum.content_type if isinstance(datum, mds.Body) else "application/json"
            return self._question(bytes(datum), kind)
        return self._question(b'{"instances":[' + b",".join(data) + b"]}", "application/json")

    def understand(self, answer: Answer, columns: Columns) -> Outputs:
        if columns.form == "value":
            return [Answers([_read_json(answer)])]
        try:
            answer.body.decode()  # the decoder does not look into what it leaves as it is
            predictions = _PREDICTIONS.decode(answer.body).predictions
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ModelError('the endpoint did not answer with {"predictions": [...]}') from exc
        if len(predictions) != columns.rows:
            raise ModelError(f"the endpoint gave {len(predictions)} answers; expected {columns.rows}")
        return [Answers(bytes(one) for one in predictions)]

    def lacks(self, answer: Answer) -> bool:
        if answer.status != NotFound.status:
            return False
        with suppress(orjson.JSONDecodeError, KeyError, TypeError):
            return bool(orjson.loads(answer.body)["code"] == NotFound.code)
        return False

    def _question(self, body: bytes, media_type: str) -> Question:
        return Question(self._path, [(b"content-type", media_type.encode("latin-1"))], body)


class _Predictions(msgspec.Struct):
    predictions: list[msgspec.Raw]


_PREDICTIONS = msgspec.json.Decoder(_Predictions)
_JSON = msgspec.json.Decoder(msgspec.Raw)


def _read_json(answer: Answer) -> bytes:
    try:
        answer.body.decode()
        _JSON.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        kind = answer.headers.get("content-type", "")[:_KIND_CHARS]
        came = "" if not kind or is_json(plain_type(kind.encode())) else f": {kind} came"
        raise ModelError(f"the endpoint did not answer with JSON{came}") from exc
    return answer.body


class InferSpeech:
    """A server of the Open Inference Protocol, asked with binary tensors."""

    def __init__(self, signature: Signature, model: str, version: str | None) -> None:
        self._signature = signature
        self._codec = Codec(signature)
        self._path = infer_path(model, version)
        self.health = "/v2/health/ready"
        self.admission = model_path(model, version) + "/ready"
        self.readiness: str | None = self.admission

    def ask(self, columns: Columns) -> Question:
        inputs, parts = [], []
        counted = self._signature.rows != "none"
        for spec, column, shape in zip(self._signature.inputs, columns.columns, columns.key, strict=True):
            if column is None or shape is None:
                continue
            raw = pack_strings(column) if isinstance(column, list) else bytes(column)
            full = [columns.rows, *shape] if counted else list(shape)
            size = {"binary_data_size": len(raw)}
            inputs.append({"name": spec.name, "datatype": spec.datatype, "shape": full, "parameters": size})
            parts.append(raw)
        outputs = [{"name": one.name, "parameters": {"binary_data": True}} for one in self._signature.outputs]
        head = orjson.dumps({"inputs": inputs, "outputs": outputs})
        headers = [
            (b"content-type", b"application/octet-stream"),
            (_HEAD_BYTES.encode(), b"%d" % len(head)),
        ]
        return Question(self._path, headers, head + b"".join(parts))

    def understand(self, answer: Answer, columns: Columns) -> Outputs:
        try:
            found = _read_outputs(answer)
            return [_take(spec, *found[spec.name], rows=columns.rows) for spec in self._signature.outputs]
        except (KeyError, ValueError, TypeError, InvalidRequest) as exc:
            raise ModelError(f"the endpoint's answer is not what the protocol says: {exc}") from exc

    def lacks(self, answer: Answer) -> bool:
        return answer.status >= 400


def infer_path(model: str, version: str | None) -> str:
    return model_path(model, version) + "/infer"


def model_path(model: str, version: str | None) -> str:
    return f"/v2/models/{model}" + ("" if version is None else f"/versions/{version}")


def read_metadata(answer: Answer) -> Signature:
    """The signature in a model's metadata. Its first dimension counts rows where all tensors leave it open.

    :raises LoadFailed: it is no metadata
    """
    try:
        metadata = orjson.loads(answer.body)
        inputs = tuple(_tensor(one) for one in metadata["inputs"])
        outputs = tuple(_tensor(one) for one in metadata["outputs"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise LoadFailed("the endpoint's metadata is not that of a model") from exc
    unknown = {one.datatype for one in (*inputs, *outputs)} - set(NUMPY_DTYPES)
    if unknown or not inputs or not outputs:
        raise LoadFailed(f"the endpoint's model has tensors that are not served: {sorted(unknown) or 'none'}")
    free = all(one.shape and one.shape[0] is None for one in (*inputs, *outputs))
    return Signature(inputs, outputs, "free" if free else "none")


def blame(answer: Answer) -> MdsliteError:
    """What an endpoint's answer without success means to who asked here."""
    if answer.status < 400:
        return ModelError(f"the endpoint answered {answer.status}, which leads elsewhere and is not followed")
    message, alone = "it did not say why", f"the endpoint answered {answer.status} and did not say why"
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        message = alone = str(orjson.loads(answer.body)["error"])[:_MESSAGE_CHARS]
    kind = _ERRORS.get(answer.status)
    after_s = _retry_after(answer)
    if kind is Overloaded:
        return Overloaded(f"the endpoint is overloaded: {message}", retry_after_s=after_s)
    if kind is not None:
        return kind(alone)
    if answer.status in (401, 403):
        # What it says would have the caller look for a token of his own.
        return Unavailable("the model's endpoint does not let this appliance in", retry_after_s=after_s)
    if answer.status == NotFound.status:
        return Unavailable(f"the endpoint has no such model: {message}", retry_after_s=after_s)
    return Unavailable(f"the endpoint answered {answer.status}: {message}", retry_after_s=after_s)


def _retry_after(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), _RETRY_AFTER_MAX_S) if text.isascii() and text.isdigit() else 1.0


def _tensor(told: Any) -> TensorSpec:
    shape = tuple(None if size < 0 else size for size in told["shape"])
    return TensorSpec(told["name"], told["datatype"], shape)


def _read_outputs(answer: Answer) -> dict[str, tuple[tuple[int, ...], str, Any]]:
    """Shape, datatype and values (bytes of the wire, or a flat list) of each output in an infer reply."""
    length = answer.headers.get(_HEAD_BYTES)
    head_bytes = len(answer.body) if length is None else int(length)
    head = orjson.loads(answer.body[:head_bytes])
    at = head_bytes
    found = {}
    for told in head["outputs"]:
        size = told.get("parameters", {}).get("binary_data_size")
        if size is None:
            values: Any = told["data"]
        else:
            values, at = memoryview(answer.body)[at : at + size], at + size
        if at > len(answer.body):
            raise ValueError("its tensors are cut short")
        found[told["name"]] = (tuple(told["shape"]), told["datatype"], values)
    return found


def _take(spec: TensorSpec, shape: tuple[int, ...], datatype: str, values: Any, *, rows: int) -> Any:
    if datatype != spec.datatype:
        raise ValueError(f'output "{spec.name}" is {datatype}, not {spec.datatype}')
    if datatype == "BYTES":
        count = math.prod(shape)
        raw = isinstance(values, memoryview)
        texts = unpack_strings(values, count, name=spec.name) if raw else values
        array = np.empty(count, dtype=object)
        array[:] = [text.decode() if isinstance(text, bytes) else text for text in texts]
        return array.reshape(shape)
    if isinstance(values, memoryview):
        return np.frombuffer(values, dtype=NUMPY_DTYPES[spec.datatype]).reshape(shape)
    if datatype == "BF16":
        return to_bfloat16(np.array(values, dtype=np.float32)).reshape(shape)
    return np.array(values, dtype=NUMPY_DTYPES[spec.datatype]).reshape(shape)
