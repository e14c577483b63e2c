"""Infer requests of the Open Inference Protocol as calls of the predict function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdslite.errors import InvalidRequest, TooLarge, quoted
from mdslite.http.deflate import choose_coding
from mdslite.oip.message import HEAD_FIELD, HEAD_HINT
from mdslite.runtimes.protocol import Outputs
from mdslite.serving.fleet import Served
from mdslite.tensors import Columns

if TYPE_CHECKING:
    from mdslite.predict.call import Call

HEAD_BYTES = HEAD_FIELD.encode()
_BINARY_LINES = "content-type: application/octet-stream\r\ninference-header-content-length: "


class InferForm:
    """Reads and writes the protocol's messages. One serves all calls: what is to be remembered is theirs."""

    def __init__(self, max_json_bytes: int) -> None:
        self._max_json_bytes = max_json_bytes

    def read(self, call: Call, served: Served) -> Columns:
        fields = call.fields
        head_bytes = read_length(fields.get(HEAD_BYTES))
        if head_bytes is None or head_bytes > self._max_json_bytes:
            self._check_json(len(call.body) if head_bytes is None else min(head_bytes, len(call.body)))
        call.plan, columns = served.messages.read(call.body, head_bytes)
        call.timeout_s = call.plan.timeout_s
        if b"accept-encoding" in fields:
            call.coding = choose_coding(fields[b"accept-encoding"])
        return columns

    def _check_json(self, size_bytes: int) -> None:
        if size_bytes > self._max_json_bytes:
            raise TooLarge(
                f"the JSON is longer than {self._max_json_bytes} bytes",
                hint="send large tensors after the JSON",
            )

    def write(self, call: Call, outputs: Outputs | None) -> bytes:
        assert call.served is not None
        body, head_bytes = call.served.messages.write(call.plan, outputs)
        if head_bytes is not None:
            call.reply_lines = f"{_BINARY_LINES}{head_bytes}\r\n"
        return body


def read_length(value: bytes | None) -> int | None:
    """The value of the header that says where the JSON ends.

    :raises InvalidRequest: it is no number
    """
    if value is None:
        return None
    text = value if value.isdigit() else value.strip()
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequest(
            f"expected a number of bytes, got {quoted(text.decode('latin-1'))}",
            field=HEAD_FIELD,
            hint=HEAD_HINT,
        )
    return int(text)
