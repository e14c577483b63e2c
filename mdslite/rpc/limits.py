"""What one client of the gRPC port may ask of it."""

from __future__ import annotations

from dataclasses import dataclass

from mdslite.http.policing import Allowance, Limits
from mdslite.predict.reading import MAX_BODY_BYTES, MAX_INFLATED_BYTES

_HTTP2 = Limits()  # of the other port


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcLimits:
    """Useful work (answers, full frames) earns back what the frames that accompany it cost, so that the
    allowances bind only those who send little else."""

    max_message_bytes: int = MAX_BODY_BYTES
    max_inflated_bytes: int = MAX_INFLATED_BYTES
    connections: int = 10_000
    calls: int = 4096  # under way at a time, of all connections together
    streams: int = 256  # of one connection
    share: int = 64  # calls that need no token, under way at a time, of one address
    frame_bytes: int = 128 * 1024
    stream_window_bytes: int = 1024 * 1024
    connection_window_bytes: int = 4 * 1024 * 1024
    continuations: int = 8
    turn_frames: int = 512  # after so many, others of the event loop have their turn

    head_s: float = 10.0  # for the preface, a header, or a call's message where none of a token is needed
    message_s: float = 30.0  # for any other message, longer by its size over min_rate
    write_s: float = 30.0  # for what waits to be read by the client
    min_rate_bytes_per_s: int = 16 * 1024
    quiet_s: float = 60.0  # after which a client is asked whether it is still there
    pong_s: float = 20.0  # for its answer
    linger_s: float = 1.0  # between a goodbye and the end of the socket
    sweep_s: float = 1.0

    resets: Allowance = _HTTP2.resets
    settings: Allowance = _HTTP2.settings
    pings: Allowance = _HTTP2.pings
    window_updates: Allowance = _HTTP2.window_updates
    tiny_data: Allowance = _HTTP2.tiny_data
    others: Allowance = _HTTP2.other_frames
