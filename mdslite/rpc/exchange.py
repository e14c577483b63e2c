"""One RPC: its messages in, its answer out. What answers it either is called with the message and calls
`finish` or `fail` later, or is a coroutine that reads and writes. Owns no socket: bytes go through the link.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from mdslite.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MdsliteError,
    Overloaded,
    TooLarge,
    unknown_error,
    without_frames,
)
from mdslite.http.budget import LEAST_BYTES, Claim, bind, claim_body, make_space
from mdslite.http.guard import make_request_id
from mdslite.http.inflate import decompress
from mdslite.rpc import frames
from mdslite.rpc.heads import Head
from mdslite.rpc.limits import RpcLimits
from mdslite.rpc.statuses import end_of

logger = logging.getLogger(__name__)

Message = bytes | memoryview
_COPY_BYTES = 64 * 1024
_ALIGNMENT = 64
_PIN_MOST = 4  # times its size that a piece of a message may keep in memory


@dataclass(frozen=True, slots=True)
class Method:
    """Who answers one method. `begin` is for what needs no task; else `answer` is given the message, or with
    `reads` reads them itself, and returns the last message of the answer, if there is one to be sent."""

    answer: Callable[..., Awaitable[bytes | None]] | None = None
    begin: Callable[[Exchange, Message], None] | None = None
    reads: bool = False
    public: bool = False  # strangers may ask it


class Link(Protocol):
    """The connection below. `address` is the client's, without its port; `subject` its certificate's."""

    limits: RpcLimits
    address: str
    subject: str | None

    def reply(self, exchange: Exchange, message: bytes, end: bytes) -> None: ...
    def send(self, exchange: Exchange) -> None: ...
    def grant(self, exchange: Exchange) -> None: ...
    @property
    def is_writable(self) -> bool: ...


class Exchange:
    """Used on the event loop's thread only."""

    __slots__ = (
        "_moved",
        "_request_id",
        "awaited",
        "begun_at",
        "call",
        "claim",
        "closed",
        "compressed",
        "credit",
        "end",
        "ended",
        "have",
        "head",
        "headed",
        "id",
        "link",
        "method",
        "need",
        "opened_at",
        "out",
        "owed",
        "pieces",
        "prefix",
        "ready",
        "room",
        "share",
        "sid",
        "stalled_at",
        "task",
        "trailing",
        "window",
    )

    def __init__(self, link: Link, stream_id: int) -> None:
        self.link = link
        self.id = stream_id
        self.sid = stream_id.to_bytes(4)
        self.head: Head
        self.method: Method
        self.share = ""  # the address of whose share it is
        self.opened_at = self.begun_at = 0.0  # of the call, and of what is missing of a message
        self.closed = False  # the client will send no more
        self.ended = False  # and so do we
        self.call: Any = None  # to be cancelled if the client leaves
        self.task: asyncio.Task[None] | None = None  # likewise
        self.trailing: list[tuple[str, str]] = []
        # What comes in: the pieces of a message, and those that are complete.
        self.pieces: list[Message] = []
        self.prefix = b""
        self.awaited = math.inf  # bytes of them, where the client has said how many
        self.have, self.need = 0, -1
        self.compressed = False
        self.room: memoryview | None = None  # where a large message comes down
        self.claim: Claim | None = None  # of that
        self.ready: deque[tuple[bool, Message, Claim | None]] = deque()
        self.credit = 0  # bytes that the client may still send
        self.owed = 0  # and those that it may be told of
        # What goes out: pieces of messages that the client's windows hold back, and the answer's end.
        self.out: deque[Message] = deque()
        self.end = b""
        self.headed = False
        self.window = 0
        self.stalled_at = math.inf
        self._moved: asyncio.Event | None = None
        self._request_id = ""

    @property
    def request_id(self) -> str:
        if not self._request_id:
            self._request_id = make_request_id(self.head.fields.get(b"x-request-id"))
        return self._request_id

    def left_s(self) -> float:
        """How long the client still waits."""
        timeout_s = self.head.timeout_s
        return timeout_s if timeout_s == math.inf else self.opened_at + timeout_s - perf_counter()

    # What comes in

    def take(self, piece: memoryview, *, pinned_bytes: int, now: float) -> None:
        """Take the next bytes of the messages; they are a view of `pinned_bytes`.

        :raises TooLarge, InvalidRequest: no message begins like this
        :raises Overloaded: large ones have taken all the memory there is for them
        """
        while piece:
            if self.need < 0:
                missing = frames.PREFIX_BYTES - len(self.prefix)
                self.prefix += bytes(piece[:missing])
                piece = piece[missing:]
                if len(self.prefix) < frames.PREFIX_BYTES:
                    return
                self._begin_message(now)
            step = piece[: self.need - self.have]
            piece = piece[len(step) :]
            if len(step) and self.room is not None:
                self._land(self.room, step)
            elif len(step):
                if self.claim is not None:
                    self.claim.grow(len(step))
                self.pieces.append(step if len(step) * _PIN_MOST >= pinned_bytes else bytes(step))
                self.have += len(step)
            if self.have == self.need:
                self._end_message()

    def close(self) -> None:
        """The client has sent all.

        :raises InvalidRequest: in the midst of a message
        """
        self.closed = True
        if self.prefix:
            raise InvalidRequest("the call ended in the midst of a message")
        self.wake()

    def message(self) -> Message:
        """The only message of a call that takes one.

        :raises InvalidRequest: there is none
        """
        if not self.ready:
            raise InvalidRequest("the call ended without a message; expected one")
        compressed, message, _ = self.ready.popleft()
        return self.inflate(message) if compressed else message

    @property
    def is_fresh(self) -> bool:
        """Is it a call of one message, of which nothing has come?"""
        return not (self.closed or self.ended or self.prefix or self.ready or self.method.reads)

    @property
    def is_compressed(self) -> bool:
        return any(compressed for compressed, _, _ in self.ready)

    def inflate(self, message: Message) -> bytes:
        """:raises InvalidRequest, TooLarge: it is not compressed as was said, or is too long"""
        coding = self.head.coding
        if coding == b"identity":
            raise InvalidRequest("the message is compressed, but no grpc-encoding says how")
        return decompress(bytes(message), coding, limit=self.link.limits.max_inflated_bytes)

    def is_waiting(self) -> bool:
        """Is a message to come, or the rest of one?"""
        return not self.closed and (not self.method.reads or bool(self.prefix))

    async def messages(self) -> AsyncIterator[Message]:
        """The messages of a call that streams them."""
        while True:
            while self.ready:
                yield await self._take_ready()
            if self.closed:
                return
            await self._wait()

    async def _take_ready(self) -> Message:
        compressed, message = self.ready.popleft()[:2]
        self.link.grant(self)
        return await asyncio.to_thread(self.inflate, message) if compressed else message

    def _begin_message(self, now: float) -> None:
        self.need, self.have = int.from_bytes(self.prefix[1:]), 0
        self.compressed = bool(self.prefix[0])
        self.begun_at = now
        if self.ready and not self.method.reads:
            raise InvalidRequest("the call goes on with another message; expected one")
        if self.prefix[0] > 1:
            raise InvalidRequest("malformed message: its first byte is neither 0 nor 1")
        most = self.link.limits.max_message_bytes
        if self.need > most:
            raise TooLarge(f"a message of {self.need} bytes; expected at most {most}")
        self.claim = claim_body(self.need, kind=Overloaded)
        if self.need >= LEAST_BYTES:
            self.room = _make_room(self.need, self.claim)

    def _land(self, room: memoryview, piece: memoryview) -> None:
        """Take a piece of a large message to where a runtime will read it."""
        if self.claim is not None:
            self.claim.grow(len(piece))
        room[self.have : self.have + len(piece)] = piece
        self.have += len(piece)

    def _end_message(self) -> None:
        pieces, room = self.pieces, self.room
        message: Message
        if room is not None:
            message, self.room, self.claim = room, None, None  # which is the room's
        else:
            # The one copy between the socket and the runtime; none where it came in one piece.
            message = pieces[0] if len(pieces) == 1 else _join(pieces, self.need)
        self.ready.append((self.compressed, message, self.claim))
        self.pieces, self.claim, self.prefix, self.need = [], None, b"", -1
        self.wake()

    # What goes out

    def finish(self, message: bytes | None, end: bytes) -> None:
        """Send the last message, where there is one, and the fields that end the answer."""
        if self.ended:
            return
        self.ended = True
        self.call = None
        if message is not None:
            self._put(message)
        self.end = end
        self.link.send(self)

    def fail(self, error: MdsliteError, request_id: str = "") -> None:
        """End the answer with an error, wherever it is."""
        self.finish(None, end_of(error, request_id or self.request_id))

    def break_off(self, error: MdsliteError) -> None:
        """End it with an error that is not its answerer's."""
        call, task = self.call, self.task
        self.fail(without_frames(error))
        if self.claim is not None:
            self.claim.close()
        self.pieces, self.room, self.claim = [], None, None
        for work in (call, task):
            if work is not None:
                work.cancel()

    async def write(self, message: bytes) -> None:
        """Send one message of an answer that is a stream; returns when the client keeps up."""
        if self.ended:
            return
        self._put(message)
        self.link.send(self)
        while not self.ended and (self.out or not self.link.is_writable):
            await self._wait()

    def wake(self) -> None:
        """Something has come, or has gone out."""
        if self._moved is not None:
            self._moved.set()

    def abandon(self) -> None:
        """The client no longer wants the answer."""
        self.ended = True
        call, task = self.call, self.task
        self.call = self.task = None  # a task that was cancelled knows the frames that know this
        for work in (call, task):
            if work is not None:
                work.cancel()
        self.pieces, self.room, self.claim = [], None, None
        self.ready.clear()
        self.out.clear()

    async def run(self, message: Message | None = None) -> None:
        """Let the method answer, and turn what it raises into a status."""
        error: MdsliteError
        answer = self.method.answer
        assert answer is not None
        left_s = self.left_s()
        try:
            async with asyncio.timeout(None if left_s == math.inf else left_s) as limit:
                given = () if self.method.reads else (message,)
                reply = await answer(*given, self)
        except MdsliteError as exc:
            error = exc
        except TimeoutError:
            error = DeadlineExceeded("the call's deadline has passed") if limit.expired() else unknown_error()
        except Exception:
            logger.exception("request %s failed", self.request_id)
            error = unknown_error()
        else:
            self.finish(reply, frames.status(0) + frames.fields(self.trailing))
            return
        self.fail(without_frames(error))

    def _put(self, message: bytes) -> None:
        prefix = b"\0" + len(message).to_bytes(4)
        if len(message) < _COPY_BYTES:
            self.out.append(prefix + message)
        else:
            self.out += (prefix, message)

    async def _wait(self) -> None:
        if self._moved is None:
            self._moved = asyncio.Event()
        self._moved.clear()
        await self._moved.wait()


def _join(pieces: list[Message], size_bytes: int) -> Message:
    """One message."""
    if size_bytes < _COPY_BYTES:
        return b"".join(pieces)
    found = _make_room(size_bytes, None)
    at = 0
    for piece in pieces:
        found[at : at + len(piece)] = piece
        at += len(piece)
    return found


def _make_room(size_bytes: int, claim: Claim | None) -> memoryview:
    """Where a message ends where any element may: so the tensor that stands last in it begins where its
    elements may, and can be read in its place."""
    try:
        space = make_space(size_bytes + _ALIGNMENT)
    except (MemoryError, OSError) as exc:
        raise Overloaded(f"there is no memory for a message of {size_bytes} bytes", retry_after_s=1) from exc
    bind(claim, space)
    begin = -(space.ctypes.data + size_bytes) % _ALIGNMENT
    return space[begin : begin + size_bytes].data


def trail(exchange: Exchange, fields: Iterable[tuple[str, str]]) -> None:
    """Say something in the header fields that end an answer."""
    exchange.trailing = [("mdslite-request-id", exchange.request_id), *fields]
