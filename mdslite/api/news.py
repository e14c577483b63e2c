"""The stream of events: states of versions, steps of applies, revisions and alerts as they happen."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic

from starlette.types import Receive, Send

from mdslite.api.ndjson import until_left
from mdslite.api.operations import Answer, Call, Nothing, Operation, declare
from mdslite.api.parts import Parts

EVENTS = "text/event-stream"
LOOK_S = 0.25
HEARTBEAT_S = 15.0
_REVISIONS = 20


@dataclass(frozen=True, slots=True)
class Pushed:
    """A reply of server-sent events, until they end or their reader has left; `leave` is called then."""

    pieces: AsyncGenerator[bytes, None]
    receive: Receive
    leave: Callable[[], None]

    async def __call__(self, send: Send) -> None:
        headers = [(b"content-type", EVENTS.encode()), (b"cache-control", b"no-store")]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await until_left(self._write(send), self.receive)
        finally:
            self.leave()

    async def _write(self, send: Send) -> None:
        async with aclosing(self.pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def listen(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> str | Answer:
    """What happens, as server-sent events: version, apply, revision, alert. With Last-Event-ID it goes on
    where it broke off; `reset` says that some are lost, and to look anew"""
    parts.bulletin.enter()
    return Pushed(_pieces(parts, call), call.receive, parts.bulletin.leave)


def make_operations() -> list[Operation]:
    url = "/api/v1/events"
    return [declare("GET", url, listen, group="appliance", media_type=EVENTS, reach="own", errors=(429,))]


async def _pieces(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> AsyncGenerator[bytes, None]:
    """Until the appliance drains or the reader's token ends."""
    bulletin, grant = parts.bulletin, call.caller.grant
    await _look(parts)
    place, lost = bulletin.place(call.headers.get("last-event-id", ""))
    yield b": events\n\n"
    spoke_at = monotonic()
    while not parts.draining and parts.issuer.access.holds(grant):
        await _look(parts)
        notices, gone = bulletin.after(place)
        if lost or gone:
            yield f"event: reset\nid: {bulletin.id_of(place)}\ndata: {{}}\n\n".encode()
            lost = False
        for one in notices:
            place = one.number
            if one.concerns(grant):
                head = f"event: {one.kind}\nid: {bulletin.id_of(one.number)}\ndata: "
                yield head.encode() + one.data + b"\n\n"
                spoke_at = monotonic()
        if monotonic() - spoke_at >= HEARTBEAT_S:
            yield b": still here\n\n"
            spoke_at = monotonic()
        if not notices:
            await bulletin.wait(LOOK_S)


async def _look(parts: Parts) -> None:
    if parts.bulletin.is_due(LOOK_S):
        revisions = await parts.worker.call(parts.registry.revisions, _REVISIONS)
        parts.bulletin.compare(parts.fleet.all(), revisions)
