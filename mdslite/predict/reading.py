"""From a prediction's body to columns: how large it may be, how it was compressed, and who decodes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mdslite.errors import TooLarge
from mdslite.http.inflate import decompress
from mdslite.media import OCTETS, is_json, plain_type
from mdslite.npy import NPY
from mdslite.predict.infer import HEAD_BYTES, InferForm
from mdslite.predict.raw import read_tensor, says_tensor
from mdslite.serving.fleet import Served
from mdslite.tensors import Columns

if TYPE_CHECKING:
    from mdslite.predict.call import Call

MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_INFLATED_BYTES = 16 * 1024 * 1024  # inflating holds the event loop: some 50 ms for so much

Fields = Mapping[bytes, bytes]
_OIP = b"/v2/"


class Reader:
    """Decodes all but the plain JSON of the predict URLs, which is decoded on the spot."""

    def __init__(self, *, max_json_bytes: int, max_body_bytes: int) -> None:
        self.max_json_bytes = max_json_bytes
        self._max_body_bytes = max_body_bytes

    def body_limit(self, target: bytes, fields: Fields) -> int:
        """How many bytes of a body are read before its request is refused. JSON holds up the loop."""
        return self._max_body_bytes if self.is_binary(target, fields) else self.max_json_bytes

    def is_binary(self, target: bytes, fields: Fields) -> bool:
        """Does a prediction come as bytes, after some JSON or without any?"""
        if target.startswith(_OIP):
            return HEAD_BYTES in fields
        media_type = fields.get(b"content-type", b"")
        if media_type == b"application/json":
            return False
        kind = plain_type(media_type)
        return not is_json(kind) and b"/" in kind

    def head_bytes(self, fields: Fields) -> int:
        """How much of a body is JSON before its bytes, as far as its sender can be believed."""
        value = fields.get(HEAD_BYTES, b"0")
        return int(value) if value.isdigit() and len(value) < 10 else 0

    def too_large(self, target: bytes, fields: Fields) -> TooLarge:
        """What is said of a body that is longer."""
        limit = self.body_limit(target, fields)
        hint = None
        if limit != self._max_body_bytes:
            hint = "send large tensors in binary"
            hint += (
                ", after the JSON" if target.startswith(_OIP) else f", as {NPY.decode()} or {OCTETS.decode()}"
            )
        return TooLarge(f"the body is longer than {limit} bytes", hint=hint)

    def read(self, call: Call, served: Served) -> Columns:
        """Decode a call's body for a version.

        :raises MdsliteError: it is too large, corrupt, of another type, or not what the model takes
        """
        if not call.encoding:
            if isinstance(call.form, InferForm):
                return call.form.read(call, served)
            if call.media_type == OCTETS and says_tensor(served.codec, call.fields):
                return read_tensor(served, call.body, call.fields)
        limit = self.body_limit(call.target, call.fields)
        body = call.body
        encoding = call.encoding.strip().lower()
        if encoding and encoding != b"identity":
            try:
                body = call.body = decompress(body, encoding, limit=min(MAX_INFLATED_BYTES, limit))
            except TooLarge as exc:
                larger = limit > MAX_INFLATED_BYTES
                exc.hint = (
                    "send it as it is, without compression"
                    if larger
                    else self.too_large(call.target, call.fields).hint
                )
                raise
        if len(body) > limit:
            raise self.too_large(call.target, call.fields)
        if isinstance(call.form, InferForm):
            return call.form.read(call, served)
        kind = plain_type(call.media_type)
        if kind == OCTETS and says_tensor(served.codec, call.fields):
            return read_tensor(served, body, call.fields)
        return served.codec.decode_typed(body if kind == NPY else bytes(body), call.media_type)
