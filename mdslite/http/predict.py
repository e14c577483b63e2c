"""The predict call: from a request's bytes to a reply's, the same for every way in. Owns no socket.

    Predictor.start(call) -> route -> decode -> lane ... lane -> Call.resolved() -> encode -> call.reply

A `Call` is the one object that a request costs: it is the lane's job, carries what the reply and the log
need, and its `reply` is called exactly once (never after `cancel`). There is no task and no future per
request; `respond` wraps the callback for callers that await.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Any

import numpy as np

from mdslite.errors import MdsliteError, NotFound, TooLarge, Unauthorized
from mdslite.http.access import ANYBODY, Access, Grant
from mdslite.http.books import Books
from mdslite.http.call import Call, Headers, Reply, reply_headers
from mdslite.http.events import EVENTS, Pieces, make_error_event
from mdslite.http.guard import error_body
from mdslite.http.inflate import decompress
from mdslite.http.paths import parse_predict_path
from mdslite.http.shadows import Shadows
from mdslite.npy import NPY
from mdslite.serving.fleet import Served
from mdslite.serving.router import Route, Router
from mdslite.tensors import Codec, Columns, is_json, plain_type

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_INFLATED_BYTES = 16 * 1024 * 1024  # inflating holds the event loop: some 50 ms for so much


class Predictor:
    """Routes, decodes, submits and answers. Used from the event loop's thread only."""

    def __init__(
        self,
        router: Router[Served],
        *,
        books: Books,
        access: Access | None = None,
        max_json_bytes: int = MAX_JSON_BYTES,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.router = router
        self.max_json_bytes = max_json_bytes
        self.max_body_bytes = max_body_bytes
        self.books = books
        self.access = access or Access()
        self.shadows = Shadows(books)

    def start(self, call: Call, error: MdsliteError | None = None) -> None:
        """Begin a call, or end it with the `error` that kept its body from being read.

        Every outcome goes to `call.reply`.
        """
        call.predictor = self
        self.books.open += 1
        try:
            if self.access.idle:
                route = call.route = self.router.get(call.target) or self._find(call.target)
            else:
                route = self._admit(call)
            call.url = route.url
            served = call.served = route.pick()
            if error is not None:
                raise error
            lane = served.lane
            lane.make_room()
            if call.media_type == b"application/json" and not call.encoding:
                if len(call.body) > self.max_json_bytes:
                    raise self.too_large(call.media_type)
                columns = served.codec.decode(call.body)
            else:
                columns = self._decode_other(call, served)
            call.columns = columns
            if not columns.rows:
                call.finished = True
                self._send(call, 200, served.codec.encode_empty(columns.form), None)
                return
            now = perf_counter()
            call.deadline = call.arrived_at + lane.knobs.prediction_s
            lane.submit(call, now)
        except MdsliteError as exc:
            self._send_error(call, exc)
        except Exception:
            logger.exception("request %s failed", call.request_id)
            self._send_error(call, MdsliteError("internal error"))

    def finish(self, call: Call) -> None:
        """The lane has an answer or an error for a call."""
        if call.sent or (call.error is None and call.lane.codec.streams):
            self._finish_stream(call)
            return
        if call.error is not None:
            self._send_error(call, call.error)
            return
        try:
            body = _encode(call)
        except Exception:
            logger.exception("request %s: the answer could not be encoded", call.request_id)
            self._send_error(call, MdsliteError("the model's answer could not be encoded as JSON"))
            return
        self._send(call, 200, body, None)

    def _finish_stream(self, call: Call) -> None:
        """The model has ended its stream, or failed after it began: too late for another status."""
        call.reply_type = EVENTS
        error = call.error
        if error is not None:
            call.on_piece(call, make_error_event(error_body(error, call.request_id)))
        call.reply(call, 200, b"")
        status, code = (200, None) if error is None else (error.status, error.code)
        self.books.record(call, status, code, call.sent)
        if call.route is not None and call.route.shadows:
            self.shadows.copy(call, status)

    async def respond(
        self, *, target: bytes, headers: Headers, body: bytes, error: MdsliteError | None = None
    ) -> Reply:
        """Answer one request: its body is complete, or `error` says why it is not.

        Cancelling it cancels the call.
        """
        found = {name: value for name, value in headers if name in _WANTED}
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        pieces: Pieces | None = None

        def resolve(_: Call, status: int, reply: bytes) -> None:
            if pieces is not None:
                pieces.end()
            elif not future.done():  # it may be cancelled, and its task not know yet
                future.set_result((status, reply))

        def take(call: Call, piece: bytes) -> None:
            nonlocal pieces
            if pieces is None:
                pieces = Pieces(call)
                if not future.done():
                    future.set_result((200, b""))
            pieces.put(piece)

        call = Call(
            target,
            body,
            found.get(b"content-type", b""),
            found.get(b"content-encoding", b""),
            found.get(b"x-request-id"),
            perf_counter(),
            resolve,
        )
        call.authorization = found.get(b"authorization", b"")
        call.on_piece = take
        self.start(call, error)
        try:
            status, reply = await future
        except asyncio.CancelledError:
            call.cancel()
            raise
        return Reply(status, reply_headers(call, perf_counter()), reply, pieces)

    def body_limit(self, media_type: bytes) -> int:
        """How many bytes of a body of this type are read before the request is refused."""
        kind = plain_type(media_type)
        if is_json(kind) or b"/" not in kind:
            return self.max_json_bytes
        return self.max_body_bytes

    def too_large(self, media_type: bytes) -> TooLarge:
        """What is said of a body that is longer than its type's limit."""
        limit = self.body_limit(media_type)
        hint = None if limit == self.max_body_bytes else f"send large tensors in binary, as {NPY.decode()}"
        return TooLarge(f"the body is longer than {limit} bytes", hint=hint)

    def _admit(self, call: Call) -> Route[Served]:
        """The route of a call, for one who may take it."""
        access, now = self.access, call.arrived_at
        try:
            grant = access.enter(call.authorization, now)
        except Unauthorized:
            call.body = b""  # nothing that a stranger sends is kept
            raise
        route = call.route = self.router.get(call.target) or self._find(call.target, grant)
        call.url = route.url
        access.admit(grant, route.project, route.model, now)
        return route

    def _find(self, target: bytes, grant: Grant = ANYBODY) -> Route[Served]:
        """A target that is not spelt as a route is: percent-encoded, with a query, or unknown."""
        path, _, _ = target.partition(b"?")
        names = parse_predict_path(path)
        if names is None:
            raise NotFound("no such URL: expected /projects/PROJECT/models/MODEL[/versions/VERSION]:predict")
        grant.require_model(*names[:2])
        try:
            return self.router.find(*names)
        except NotFound as exc:
            if grant.project is None:
                raise
            # The other message names what there is, which is not for everybody.
            raise NotFound(f"{names[0]}/{names[1]} is not deployed, or has no such version") from exc

    def _decode_other(self, call: Call, served: Served) -> Columns:
        body = call.body
        encoding = call.encoding.strip().lower()
        if encoding and encoding != b"identity":
            body = call.body = decompress(
                body, encoding, limit=min(MAX_INFLATED_BYTES, self.body_limit(call.media_type))
            )
        if len(body) > self.body_limit(call.media_type):
            raise self.too_large(call.media_type)
        return served.codec.decode_typed(body, call.media_type)

    def _send(self, call: Call, status: int, body: bytes, code: str | None) -> None:
        call.reply(call, status, body)
        self.books.record(call, status, code, body)
        if call.route is not None and call.route.shadows:
            self.shadows.copy(call, status)

    def _send_error(self, call: Call, error: MdsliteError) -> None:
        call.finished = True
        call.error = error
        self._send(call, error.status, error_body(error, call.request_id), error.code)


_WANTED = frozenset({b"authorization", b"content-type", b"content-encoding", b"x-request-id"})


def _encode(call: Call) -> bytes:
    assert call.served is not None
    codec = call.served.codec
    form = call.columns.form
    pieces = call.pieces
    if isinstance(codec, Codec) and codec.signature.rows == "none":
        return codec.encode_whole([outputs for _, outputs in sorted(pieces, key=_start)], form)
    if len(pieces) == 1:
        return codec.encode(pieces[0][1], form)
    ordered = [outputs for _, outputs in sorted(pieces, key=_start)]
    joined = [
        np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [row for part in parts for row in part]
        for parts in zip(*ordered, strict=True)
    ]
    return codec.encode(joined, form)


def _start(piece: tuple[int, Any]) -> int:
    return piece[0]
