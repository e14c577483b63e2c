"""The operations on predictions that are answered later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta
from starlette.types import Send

from mdslite.api.operations import Answer, Call, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.schema import Given, Value
from mdslite.predict.call import Reply
from mdslite.predict.deferred import URL, WAIT_MAX_S, answer_of

_ID = r"^[A-Za-z0-9_-]{24}$(?!\n)"
_ID_WORD = "the id of a prediction, 24 letters, digits, _ or -, as its acceptance named it"
PredictionId = Annotated[
    str, Meta(pattern=_ID, description="as the acceptance names it", extra={"word": _ID_WORD})
]


class PredictionPath(Given, frozen=True, kw_only=True):
    prediction: PredictionId


class WaitQuery(Given, frozen=True, kw_only=True):
    wait_s: Annotated[
        float, Meta(ge=0, le=WAIT_MAX_S, description="how long to wait for the answer, in seconds")
    ] = 0.0


class Removed(Value, frozen=True, kw_only=True):
    """What was forgotten."""

    id: str


@dataclass(frozen=True, slots=True)
class Replied:
    """A reply that was made elsewhere."""

    reply: Reply

    async def __call__(self, send: Send) -> None:
        await send_reply(send, self.reply)


async def send_reply(send: Send, reply: Reply) -> None:
    """Be the answer to an ASGI request."""
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def get_prediction(
    parts: Parts, call: Call[PredictionPath, WaitQuery, Nothing]
) -> dict[str, Any] | Answer:
    """The answer to a prediction that was accepted with `Prefer: respond-async`, as it would have been given
    at once; 202 while there is none"""
    entry = await parts.deferrals.find(call.path.prediction, wait_s=call.query.wait_s)
    call.caller.grant.require_model(entry.request.project, entry.request.model)
    return Replied(answer_of(entry))


async def delete_prediction(parts: Parts, call: Call[PredictionPath, Nothing, Nothing]) -> Removed:
    """Forget an accepted prediction, or its answer"""
    entry = await parts.deferrals.find(call.path.prediction)
    call.caller.grant.require_model(entry.request.project, entry.request.model)
    await parts.deferrals.cancel(call.path.prediction)
    return Removed(id=call.path.prediction)


def make_operations() -> list[Operation]:
    url = f"{URL}/{{prediction}}"
    return [
        declare(
            "GET",
            url,
            get_prediction,
            group="predict",
            errors=(404,),
            same=(202,),
            scope="predict",
            reach="own",
        ),
        declare(
            "DELETE", url, delete_prediction, group="predict", errors=(404,), scope="predict", reach="own"
        ),
    ]
