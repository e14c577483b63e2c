"""A request's place in a trace, as W3C's Trace Context Level 1 hands it from one service to the next.

Owns how `traceparent` is read and written. What came is handed on as it came (with `tracestate`, which nobody
here reads), but for the span's id where a span of ours is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import getrandbits

TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"
SAMPLED_FLAG = 0x01

_STATE_BYTES = 1024  # of tracestate; a longer one is not handed on
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = bytes(16)
_NO_SPAN = bytes(8)


@dataclass(slots=True)
class Trace:
    """`parent_id` is the caller's span, None where the trace begins here; `span_id` is ours, where there is
    one."""

    trace_id: bytes  # 16
    parent_id: bytes | None  # 8
    flags: int
    state: bytes = b""
    span_id: bytes | None = None  # 8

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED_FLAG)

    def begin_span(self) -> None:
        """Record a span of ours."""
        self.span_id = (getrandbits(64) or 1).to_bytes(8)

    def child(self) -> Trace:
        """The place of what is done for this request beside its answer."""
        if self.span_id is None:
            return self
        inner = Trace(self.trace_id, self.span_id, self.flags, self.state)
        inner.begin_span()
        return inner

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What whoever is asked on this request's behalf is told."""
        span_id = self.span_id or self.parent_id
        if span_id is None:
            return []
        parent = f"00-{self.trace_id.hex()}-{span_id.hex()}-{self.flags:02x}".encode()
        state = [(TRACESTATE, self.state)] if self.state else []
        return [(TRACEPARENT, parent), *state]


def read_trace(fields: Mapping[bytes, bytes]) -> Trace | None:
    """The trace that a request's header names; None where it names none, or wrongly: a new one may begin."""
    given = fields.get(TRACEPARENT)
    found = None if given is None else _PARENT.fullmatch(given.strip())
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    trace = Trace(bytes.fromhex(trace_id.decode()), bytes.fromhex(parent_id.decode()), int(flags, 16))
    if trace.trace_id == _NO_TRACE or trace.parent_id == _NO_SPAN:
        return None
    # Of a later version only the flag that this one knows can be handed on.
    trace.flags &= SAMPLED_FLAG if version != b"00" else 0xFF
    state = fields.get(TRACESTATE, b"")
    trace.state = state if len(state) <= _STATE_BYTES else b""
    return trace
