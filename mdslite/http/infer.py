"""Infer requests of the Open Inference Protocol as calls of the predict function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdslite.errors import InvalidRequest, TooLarge
from mdslite.http.deflate import choose_coding
from mdslite.packing import clip
from mdslite.runtimes.protocol import Outputs
from mdslite.serving.fleet import Served
from mdslite.tensors import Columns

if TYPE_CHECKING:
    from mdslite.http.call import Call

HEAD_BYTES = b"inference-header-content-length"  # how much of a body is JSON; absent: all
_BINARY_LINES = "content-type: application/octet-stream\r\ninference-header-content-length: {}\r\n"


class InferForm:
    """Reads and writes the protocol's messages. One serves all calls: what is to be remembered is theirs."""

    def __init__(self, max_json_bytes: int) -> None:
        self._max_json_bytes = max_json_bytes

    def read(self, call: Call, served: Served) -> Columns:
        head_bytes = read_length(call.fields.get(HEAD_BYTES))
        json_bytes = len(call.body) if head_bytes is None else min(head_bytes, len(call.body))
        if json_bytes > self._max_json_bytes:
            raise TooLarge(
                f"the JSON is longer than {self._max_json_bytes} bytes",
                hint="send large tensors after the JSON",
            )
        call.plan, columns = served.messages.read(call.body, head_bytes)
        call.timeout_s = call.plan.timeout_s
        wish = call.fields.get(b"accept-encoding")
        if wish is not None:
            call.coding = choose_coding(wish)
        return columns

    def write(self, call: Call, outputs: Outputs | None) -> bytes:
        assert call.served is not None
        message = call.served.messages.write(call.plan, outputs)
        if message.head_bytes is not None:
            call.reply_lines = _BINARY_LINES.format(message.head_bytes)
        return b"".join(message.pieces)


def read_length(value: bytes | None) -> int | None:
    """The value of the header that says where the JSON ends.

    :raises InvalidRequest: it is no number
    """
    if value is None:
        return None
    text = value.strip()
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequest(
            "Inference-Header-Content-Length: expected a number of bytes, "
            f"got {clip(text.decode('latin-1'))!r}"
        )
    return int(text)
