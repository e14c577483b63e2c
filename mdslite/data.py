"""Free data, as Python packages and pipelines take them: a request's bytes to data, and answers back to JSON.

Stands where `tensors.Codec` stands for models with typed tensors. A row is one datum (`runtimes.protocol`):
the JSON text of one instance, cut out of the body and not parsed here, so that the event loop's thread never
builds the objects that only the package's process needs; a raw body; or a row of an array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

import mds
from mdslite.errors import InvalidJson, InvalidRequest
from mdslite.media import is_json, plain_type
from mdslite.npy import NPY, read_npy
from mdslite.runtimes.protocol import DATA_SIGNATURE, Datum, Outputs
from mdslite.tensors import Columns, Form, Key

# All data share batches, but for those whose answers are wanted as arrays.
_KEY: Key = ((),)
_TENSORS: Key = ((-1,),)
_INSTANCES = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder(msgspec.Raw)


# Models that take tensors read these literals. A datum's text goes on as it came, to whoever reads it next.
_NO_LITERALS = "JSON has no NaN and no infinities: send null, or an array as application/x-npy"


class DataCodec:
    """Decodes requests into data and encodes answers. `confidence` is the field that holds an answer's."""

    signature = DATA_SIGNATURE
    row_errors = True

    def __init__(self, *, streams: bool = False, confidence: str | None = None) -> None:
        self.streams = streams
        self.confidence = confidence

    def decode(self, body: bytes) -> Columns:
        """Decode a JSON body: each of `instances` is a datum, any other JSON is one.

        :raises InvalidJson: the body is no JSON
        :raises InvalidRequest: more than one instance for a package that streams
        """
        if not body.isascii():
            _check_text(body)
        try:
            if body.lstrip()[:1] == b"{":
                message = _OBJECT.decode(body)
                instances = message.get("instances")
                if instances is not None and not message.keys() - {"instances", "signature_name"}:
                    text = bytes(instances)
                    if text[:1] == b"[":
                        return self._columns([bytes(one) for one in _INSTANCES.decode(text)], "instances")
            else:
                _ANY.decode(body)
        except (msgspec.DecodeError, RecursionError) as exc:
            why = f"no JSON: {exc}" if body else "empty: expected JSON"
            literal = b"NaN" in body or b"Infinity" in body
            raise InvalidJson(f"the body is {why}", hint=_NO_LITERALS if literal else None) from exc
        return self._columns([body], "value")

    def decode_typed(self, body: bytes, media_type: bytes) -> Columns:
        """Decode a body by its media type: JSON, an array in NumPy's format whose rows are the data, or
        anything else, which is one datum that knows its type.

        :raises InvalidRequest: the array is a scalar
        :raises UnsupportedMedia: the array holds Python objects
        """
        kind = plain_type(media_type)
        if kind == NPY:
            array = read_npy(body)
            if not array.ndim:
                raise InvalidRequest(
                    "the .npy body holds a scalar: expected an array of rows",
                    hint="numpy.atleast_1d makes one",
                )
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            return self._columns([np.asarray(row) for row in native], "instances")
        if is_json(kind):
            return self.decode(body)
        return self._columns([mds.Body(body, kind.decode("latin-1"))], "value")

    def from_data(self, data: list[Datum], form: Form = "instances") -> Columns:
        """Take data as they are.

        :raises InvalidRequest: more than one for a package that streams
        """
        return self._columns(data, form)

    def take(self, data: list[Datum]) -> Columns:
        """Take data as they are; answers that are arrays stay arrays."""
        return Columns(len(data), (data,), _TENSORS, "instances")

    def as_tensors(self, columns: Columns) -> Columns:
        """The same data; answers to them that are arrays stay arrays."""
        return Columns(columns.rows, columns.columns, _TENSORS, columns.form)

    def _columns(self, data: list[Datum], form: Form) -> Columns:
        if self.streams and len(data) != 1:
            raise InvalidRequest(
                f"this model streams its answer: expected one instance, got {len(data)}",
                hint="send each in a request of its own",
            )
        return Columns(len(data), (data,), _KEY, form)

    def empty(self, form: Form) -> Columns:
        return Columns(0, ([],), _KEY, form)

    def row_sizes(self, key: Key) -> tuple[int, ...]:
        return (0,)

    @staticmethod
    def bucket(key: Key) -> tuple[()]:
        """Data have no size that is known without reading them: one bucket."""
        return ()

    def feeds(self, columns: Sequence[Any], key: Key, rows: int) -> dict[str, Any]:
        """What a session of free data runs on (`runtimes.protocol.DataFeeds`)."""
        return {"data": columns[0], "confidence": self.confidence, "tensors": key is _TENSORS}

    def encode(self, outputs: Outputs, form: Form) -> bytes:
        """Join the answers' JSON texts into a reply; that of a single datum is its answer itself."""
        answers: Any = outputs[0]
        if form == "value":
            return answers[0]  # type: ignore[no-any-return]
        return b'{"predictions":[' + b",".join(answers) + b"]}"

    def encode_empty(self, form: Form) -> bytes:
        return b'{"predictions":[]}'


def read_confidences(outputs: Outputs) -> list[float | None] | None:
    """The confidences that came with a batch of answers."""
    found: Any = getattr(outputs[0], "confidences", None)
    return list(found) if found else None


def read_text(text: bytes) -> bytes:
    """The JSON text of one value, as it is.

    :raises InvalidJson: it is none
    """
    if not text.isascii():
        _check_text(text)
    try:
        _ANY.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidJson(f"the text is no JSON: {exc}") from exc
    return text


def _check_text(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidJson("the body is no JSON: it is not valid UTF-8") from exc
