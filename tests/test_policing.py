"""What one HTTP/2 client may ask for, frame by frame, on a clock that the test holds."""

from __future__ import annotations

import struct

import pytest
from hyperframe.frame import (
    AltSvcFrame,
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from mdslite.http.policing import (
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PREFACE,
    PROTOCOL_ERROR,
    Allowance,
    Limits,
    Meter,
    Reason,
    Violation,
    goaway,
    ping,
)

LIMITS = Limits(
    max_streams=4,
    max_block_bytes=1000,
    max_continuations=3,
    header_timeout_s=10,
    body_timeout_s=30,
    min_rate_bytes_per_s=1000,
    idle_timeout_s=60,
    resets=Allowance(3, 1),
    settings=Allowance(3, 1),
    pings=Allowance(3, 1),
    priorities=Allowance(3, 1),
    window_updates=Allowance(3, 1),
    tiny_data=Allowance(3, 1),
    other_frames=Allowance(3, 1),
)


def make_meter() -> Meter:
    """A meter that has seen a proper hello at second 0."""
    meter = Meter(LIMITS, now=0)
    assert meter.receive(PREFACE + SettingsFrame(0).serialize(), now=0) is None
    return meter


def wire(*frames: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


def head(stream_id: int, *, end: bool = True, size: int = 10, whole: bool = True) -> HeadersFrame:
    flags = ["END_STREAM"] * end + ["END_HEADERS"] * whole
    return HeadersFrame(stream_id, b"x" * size, flags=flags)


def body(stream_id: int, size: int, *, end: bool = False) -> DataFrame:
    return DataFrame(stream_id, b"x" * size, flags=["END_STREAM"] * end)


def flood(meter: Meter, frame: Frame, count: int, *, now: float = 0) -> list[Violation | None]:
    return [meter.receive(frame.serialize(), now=now) for _ in range(count)]


# Floods


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (RstStreamFrame(1), Reason.RAPID_RESET),
        (PingFrame(0, b"12345678"), Reason.PING_FLOOD),
        (PriorityFrame(1, depends_on=0), Reason.PRIORITY_FLOOD),
        (WindowUpdateFrame(0, 1), Reason.WINDOW_UPDATE_FLOOD),
        (DataFrame(1, b""), Reason.TINY_DATA_FLOOD),
        (DataFrame(1, b"", pad_length=20, flags=["PADDED"]), Reason.TINY_DATA_FLOOD),
        (AltSvcFrame(0), Reason.FRAME_FLOOD),
        (GoAwayFrame(0), Reason.FRAME_FLOOD),
    ],
)
def test_a_burst_passes_and_a_flood_does_not(frame: Frame, reason: Reason) -> None:
    assert flood(make_meter(), frame, 4) == [None, None, None, Violation(reason, ENHANCE_YOUR_CALM)]


def test_settings_are_allowed_again_after_a_while() -> None:
    meter = make_meter()  # its hello was the first
    assert flood(meter, SettingsFrame(0), 3) == [None, None, Violation(Reason.SETTINGS_FLOOD)]
    assert flood(meter, SettingsFrame(0), 3, now=2) == [None, None, Violation(Reason.SETTINGS_FLOOD)]


def test_a_flood_in_a_single_read_is_found_where_the_allowance_ends() -> None:
    meter = make_meter()
    rapid = wire(*(frame for one in range(1, 9, 2) for frame in (head(one), RstStreamFrame(one))))
    assert meter.receive(rapid, now=0) == Violation(Reason.RAPID_RESET)
    assert not meter.streams


def test_answers_earn_back_what_their_cancelled_neighbours_cost() -> None:
    meter = make_meter()
    for one in range(1, 81, 4):
        assert meter.receive(wire(head(one), head(one + 2), RstStreamFrame(one)), now=0) is None
        assert meter.sent(wire(body(one + 2, 5, end=True)), now=0) is None


def test_a_reader_may_give_back_windows_as_often_as_it_gets_data() -> None:
    meter = make_meter()
    meter.receive(head(1).serialize(), now=0)
    for _ in range(50):
        meter.sent(body(1, 1000).serialize(), now=0)
        updates = wire(WindowUpdateFrame(0, 1000), WindowUpdateFrame(1, 1000), PingFrame(0, b"12345678"))
        assert meter.receive(updates, now=0) is None


def test_a_window_of_single_bytes_earns_nothing() -> None:
    meter = make_meter()
    meter.receive(head(1).serialize(), now=0)
    outcomes = []
    for _ in range(4):
        meter.sent(body(1, 1).serialize(), now=0)
        outcomes.append(meter.receive(WindowUpdateFrame(1, 1).serialize(), now=0))
    assert outcomes[-1] == Violation(Reason.WINDOW_UPDATE_FLOOD)


def test_resets_that_the_client_provokes_count_as_its_own() -> None:
    meter = make_meter()
    outcomes = []
    for one in range(1, 9, 2):
        meter.receive(head(one, end=False).serialize(), now=0)
        outcomes.append(meter.sent(RstStreamFrame(one, PROTOCOL_ERROR).serialize(), now=0))
    assert outcomes == [None, None, None, Violation(Reason.RAPID_RESET)]


def test_resets_after_a_whole_answer_or_while_draining_are_free() -> None:
    meter = make_meter()
    for one in range(1, 21, 2):
        meter.receive(head(one, end=False).serialize(), now=0)
        assert meter.sent(wire(body(one, 5, end=True), RstStreamFrame(one, 0)), now=0) is None
    meter.charges_resets = False
    for one in range(21, 41, 2):
        meter.receive(head(one, end=False).serialize(), now=0)
        assert meter.sent(RstStreamFrame(one, 7).serialize(), now=0) is None


# Headers


def test_many_continuations_are_a_flood_even_when_empty() -> None:
    meter = make_meter()
    assert meter.receive(head(1, whole=False).serialize(), now=0) is None
    outcomes = flood(meter, ContinuationFrame(1, b""), 4)
    assert outcomes == [None, None, None, Violation(Reason.CONTINUATION_FLOOD)]


def test_a_header_block_is_bounded_over_its_continuations() -> None:
    meter = make_meter()
    assert meter.receive(head(1, whole=False, size=600).serialize(), now=0) is None
    assert meter.receive(ContinuationFrame(1, b"x" * 600).serialize(), now=0) == Violation(
        Reason.HEADERS_TOO_LARGE
    )


def test_a_header_block_that_does_not_end_is_slow() -> None:
    meter = make_meter()
    meter.receive(head(1, whole=False).serialize(), now=5)
    meter.receive(ContinuationFrame(1, b"x").serialize(), now=14)
    assert meter.overdue(now=15) is None
    assert meter.overdue(now=15.1) == Violation(Reason.SLOW_HEADERS)


def test_a_header_block_that_ended_is_not_slow() -> None:
    meter = make_meter()
    meter.receive(head(1, whole=False).serialize(), now=5)
    meter.receive(ContinuationFrame(1, b"x", flags=["END_HEADERS"]).serialize(), now=14)
    assert meter.overdue(now=100) is None


def test_a_frame_that_comes_byte_by_byte_is_slow() -> None:
    meter = make_meter()
    for at, byte in enumerate(head(1, size=100).serialize()[:20]):
        meter.receive(bytes([byte]), now=at)
    assert meter.overdue(now=10) is None
    assert meter.overdue(now=10.1) == Violation(Reason.SLOW_HEADERS)


def test_a_data_frame_that_stalls_is_a_slow_body() -> None:
    meter = make_meter()
    meter.receive(head(1, end=False).serialize() + body(1, 500).serialize()[:50], now=1)
    assert meter.overdue(now=12) == Violation(Reason.SLOW_BODY)


def test_a_client_that_never_says_hello_is_slow() -> None:
    meter = Meter(LIMITS, now=0)
    assert meter.receive(PREFACE, now=0) is None
    assert meter.overdue(now=10) is None
    assert meter.overdue(now=10.1) == Violation(Reason.SLOW_HEADERS)


# Bytes


def test_a_wrong_preface_is_refused_at_its_first_wrong_byte() -> None:
    meter = Meter(LIMITS, now=0)
    assert meter.receive(PREFACE[:10], now=0) is None
    assert meter.receive(b"GET", now=0) == Violation(Reason.PROTOCOL_ERROR, PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "first", [head(1), PingFrame(0, b"are you?"), SettingsFrame(0, flags=["ACK"]), WindowUpdateFrame(0, 1)]
)
def test_a_first_frame_that_is_no_settings_is_refused(first: Frame) -> None:
    meter = Meter(LIMITS, now=0)
    assert meter.receive(PREFACE + first.serialize(), now=0) == Violation(
        Reason.PROTOCOL_ERROR, PROTOCOL_ERROR
    )


def test_padding_makes_no_frame_less_tiny() -> None:
    meter = make_meter()
    assert meter.receive(head(1, end=False).serialize(), now=0) is None
    padded = DataFrame(1, b"", pad_length=255)
    padded.flags.add("PADDED")
    assert [meter.receive(padded.serialize(), now=0) for _ in range(3)] == [None] * 3
    assert meter.receive(padded.serialize(), now=0) == Violation(Reason.TINY_DATA_FLOOD)


def test_a_frame_announced_too_large_is_refused_before_it_comes() -> None:
    meter = make_meter()
    announced = struct.pack(">BHBBI", 1, 0, 0, 0, 1)  # 64 KiB of DATA
    assert meter.receive(announced, now=0) == Violation(Reason.FRAME_TOO_LARGE, FRAME_SIZE_ERROR)


@pytest.mark.parametrize("step", [1, 2, 7, 10, 1000])
def test_how_the_bytes_are_cut_changes_nothing(step: int) -> None:
    meter = Meter(LIMITS, now=0)
    sent = PREFACE + wire(
        SettingsFrame(0), head(1, end=False), body(1, 300), head(3), body(1, 200, end=True), RstStreamFrame(3)
    )
    for at in range(0, len(sent), step):
        assert meter.receive(sent[at : at + step], now=0) is None
    assert meter.last_stream_id == 3
    assert list(meter.streams) == [1]
    assert meter.streams[1].received_bytes == 500
    assert not meter.streams[1].request_open
    assert meter.overdue(now=1000) is None


# Streams


def test_streams_above_twice_the_limit_end_the_connection() -> None:
    meter = make_meter()
    outcomes = [meter.receive(head(one).serialize(), now=0) for one in range(1, 19, 2)]
    assert outcomes == [None] * 8 + [Violation(Reason.TOO_MANY_STREAMS)]


def test_a_stream_leaves_when_both_sides_have_ended() -> None:
    meter = make_meter()
    meter.receive(wire(head(1, end=False), head(3)), now=0)
    assert meter.answering == 2
    meter.sent(wire(body(1, 5, end=True), body(3, 5, end=True)), now=0)
    assert meter.answering == 0
    assert list(meter.streams) == [1]
    meter.receive(body(1, 5, end=True).serialize(), now=0)
    assert not meter.streams


def test_trailers_end_a_request() -> None:
    meter = make_meter()
    meter.receive(wire(head(1, end=False), body(1, 5), head(1)), now=0)
    assert not meter.streams[1].request_open
    assert meter.last_stream_id == 1


def test_a_body_has_time_by_its_size() -> None:
    meter = make_meter()
    meter.receive(wire(head(1, end=False), head(3, end=False), body(3, 5000)), now=0)
    assert meter.slow_bodies(now=30) == []
    assert meter.slow_bodies(now=31) == [1]
    assert meter.slow_bodies(now=36) == [1, 3]


def test_a_body_that_trickles_is_slow_all_the_same() -> None:
    meter = make_meter()
    meter.receive(head(1, end=False).serialize(), now=0)
    for second in range(31):
        assert meter.receive(body(1, 10).serialize(), now=second) is None
    assert meter.slow_bodies(now=31) == [1]


def test_a_connection_is_idle_when_its_last_stream_is_long_gone() -> None:
    meter = make_meter()
    meter.receive(head(1).serialize(), now=50)
    assert not meter.is_idle(now=200)
    meter.sent(body(1, 5, end=True).serialize(), now=200)
    assert not meter.is_idle(now=260)
    assert meter.is_idle(now=261)


# Frames of its own


def test_goaway_and_ping_are_proper_frames() -> None:
    frame, length = Frame.parse_frame_header(memoryview(goaway(7, error_code=11)[:9]))
    frame.parse_body(memoryview(goaway(7, error_code=11)[9 : 9 + length]))
    assert isinstance(frame, GoAwayFrame)
    assert (frame.last_stream_id, frame.error_code) == (7, 11)
    assert ping(b"12345678") == PingFrame(0, b"12345678").serialize()
