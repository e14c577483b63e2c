"""Error codes and settings of HTTP/2, and frames that no library would make."""

from __future__ import annotations

import rpc_doors
from hyperframe.frame import RstStreamFrame

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 11
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5


def bare(kind: int, stream_id: int, payload: bytes, *, flags: int = 0) -> bytes:
    """A frame that no library would make."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload


def resets(client: rpc_doors.RawClient) -> list[int]:
    return [one.error_code for one in client.frames if isinstance(one, RstStreamFrame)]
