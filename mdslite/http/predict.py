"""The predict call: from a request's bytes to a reply's, the same for every way in. Owns no socket.

    Predictor.start(call) -> route -> decode -> lane ... lane -> Call.resolved() -> encode -> call.reply

A `Call` is the one object that a request costs: it is the lane's job, carries what the reply and the log
need, and its `reply` is called exactly once (never after `cancel`). There is no task and no future per
request; `respond` wraps the callback for callers that await.
"""

from __future__ import annotations

import asyncio
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, time
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from mdslite.errors import (
    ClientClosed,
    InvalidRequest,
    MdsliteError,
    NotFound,
    TooLarge,
    UnsupportedMedia,
)
from mdslite.http.guard import error_body, make_request_id
from mdslite.npy import NPY
from mdslite.serving.fleet import Served
from mdslite.serving.queue import Job
from mdslite.serving.router import Router
from mdslite.serving.samples import Samples
from mdslite.store.rows import Labels, Row, Run
from mdslite.tensors import Codec, Columns, is_json, plain_type

logger = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]

MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_INFLATED_BYTES = 16 * 1024 * 1024  # inflating holds the event loop: some 50 ms for so much
_LOGGED_TARGET_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. `headers` lack content-length and date, which belong to the connection."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Call(Job):
    """One predict request. Whoever makes it fills the request part and calls `Predictor.start`."""

    columns = Columns(0, (), (), "instances")
    served: Served | None = None
    url = ""
    predictor: Predictor

    def __init__(
        self,
        target: bytes,
        body: bytes,
        media_type: bytes,
        encoding: bytes,
        request_id: bytes | None,
        arrived_at: float,
        reply: Callable[[Call, int, bytes], None],
    ) -> None:
        self.target = target
        self.body = body
        self.media_type = media_type
        self.encoding = encoding
        self.request_id = make_request_id(request_id)
        self.arrived_at = arrived_at
        self.reply = reply

    def resolved(self) -> None:
        self.predictor.finish(self)

    def cancel(self) -> None:
        """The client left: free what the request holds and log it as 499."""
        if self.lane is not None and not self.finished:
            self.lane.cancel(self)
            self.predictor.record(self, ClientClosed.status, ClientClosed.code, None)

    def timing(self, now: float) -> str:
        """The value of `server-timing`, in milliseconds."""
        total_ms = (now - self.arrived_at) * 1e3
        if not self.started_at:
            return f"total;dur={total_ms:.3f}"
        queue_ms, compute_ms = (self.started_at - self.queued_at) * 1e3, self.compute_s * 1e3
        return f"queue;dur={queue_ms:.3f}, compute;dur={compute_ms:.3f}, total;dur={total_ms:.3f}"


class Predictor:
    """Routes, decodes, submits and answers. Used from the event loop's thread only."""

    def __init__(
        self,
        router: Router[Served],
        *,
        record: Callable[[Row], None] | None,
        record_run: Callable[[Run], None] | None = None,
        max_json_bytes: int = MAX_JSON_BYTES,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.router = router
        self.max_json_bytes = max_json_bytes
        self.max_body_bytes = max_body_bytes
        self._record = record
        self._record_run = record_run
        self._run: Run | None = None  # of the batch that is being answered
        self.strays = Samples()  # of requests that named no version
        self.open = 0  # calls started and not finished

    def start(self, call: Call, error: MdsliteError | None = None) -> None:
        """Begin a call, or end it with the `error` that kept its body from being read.

        Every outcome goes to `call.reply`.
        """
        call.predictor = self
        self.open += 1
        try:
            route = self.router.get(call.target) or self._find(call.target)
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

    async def respond(
        self, *, target: bytes, headers: Headers, body: bytes, error: MdsliteError | None = None
    ) -> Reply:
        """Answer one request: its body is complete, or `error` says why it is not.

        Cancelling it cancels the call.
        """
        found = {name: value for name, value in headers if name in _WANTED}
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def resolve(_: Call, status: int, reply: bytes) -> None:
            if not future.done():  # it may be cancelled, and its task not know yet
                future.set_result((status, reply))

        call = Call(
            target,
            body,
            found.get(b"content-type", b""),
            found.get(b"content-encoding", b""),
            found.get(b"x-request-id"),
            perf_counter(),
            resolve,
        )
        self.start(call, error)
        try:
            status, reply = await future
        except asyncio.CancelledError:
            call.cancel()
            raise
        return Reply(status, reply_headers(call, perf_counter()), reply)

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

    def record(self, call: Call, status: int, code: str | None, reply: bytes | None) -> None:
        """Close a call's books: the request log gets its row."""
        self.open -= 1
        if self._record is None:
            return
        now = perf_counter()
        served = call.served
        samples = served.samples if served is not None else self.strays
        begun = call.started_at
        if samples.due(now, failed=status != 200):
            request: bytes | None = call.body
        elif status == 200 and begun and self._record_run is not None:
            self._record_in_run(call, now)
            return
        else:
            request = reply = None
        self._record(
            (
                time() - (now - call.arrived_at),
                call.request_id,
                served.project if served else None,
                served.model if served else None,
                served.version if served else None,
                False,
                call.url or call.target[:_LOGGED_TARGET_BYTES].decode("latin-1"),
                status,
                code,
                (now - call.arrived_at) * 1e3,
                (begun - call.queued_at) * 1e3 if begun else 0.0,
                call.compute_s * 1e3,
                None,
                call.columns.rows,
                call.batch_rows,
                call.confidence,
                call.replica,
                request,
                reply,
            )
        )

    def _record_in_run(self, call: Call, now: float) -> None:
        """Log a good answer together with its batch's others: a third of what a row of its own costs."""
        run = self._run
        # The batch's start is one object that all its calls share.
        if run is None or run.started is not call.started_at or run.url is not call.url:
            self._close_run()
            served = call.served
            assert served is not None
            run = self._run = Run(
                Labels(served.project, served.model, served.version, False, call.replica, 200, None),
                call.url,
                started=call.started_at,
                compute_ms=call.compute_s * 1e3,
                batch_rows=call.batch_rows,
                clock_to_unix=time() - now,
            )
            asyncio.get_running_loop().call_soon(self._close_run)
        run.calls.append(
            (call.request_id, call.arrived_at, call.queued_at, now, call.confidence, call.columns.rows)
        )

    def _close_run(self) -> None:
        run, self._run = self._run, None
        if run is not None and self._record_run is not None:
            self._record_run(run)

    def _find(self, target: bytes) -> Any:
        """A target that is not spelt as a route is: percent-encoded, with a query, or unknown."""
        path, _, _ = target.partition(b"?")
        names = parse_predict_path(path)
        if names is None:
            raise NotFound("no such URL: expected /projects/PROJECT/models/MODEL[/versions/VERSION]:predict")
        return self.router.find(*names)

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
        self.record(call, status, code, body)

    def _send_error(self, call: Call, error: MdsliteError) -> None:
        call.finished = True
        call.error = error
        self._send(call, error.status, error_body(error, call.request_id), error.code)


def parse_predict_path(path: bytes) -> tuple[str, str, str | None] | None:
    """Project, model and version (None at model level) of a predict path, None for any other path.

    Percent-encoding is undone between the slashes, so that none comes out of a name.

    :raises InvalidRequest: a name that no project, model or version can have
    """
    _, *parts = map(unquote_to_bytes, path.split(b"/"))
    if len(parts) not in (4, 6) or not parts[-1].endswith(b":predict"):
        return None
    parts[-1] = parts[-1].removesuffix(b":predict")
    if parts[::2] != [b"projects", b"models", b"versions"][: len(parts) // 2]:
        return None
    names = [part.decode("latin-1") for part in parts[1::2]]
    for name in names:
        if not _is_name(name):
            raise InvalidRequest(
                f"{name[:80]!r} is no name: expected 1 to 63 letters, digits, _ or -, the first one no _ or -"
            )
    project, model, *version = names
    return project, model, version[0] if version else None


def reply_headers(call: Call, now: float) -> list[tuple[bytes, bytes]]:
    """The headers of a predict reply, in the order in which every way in sends them."""
    headers = [(b"content-type", b"application/json"), (b"mdslite-request-id", call.request_id.encode())]
    if call.served is not None:
        headers.append((b"mdslite-version", call.served.version.encode()))
    headers.append((b"server-timing", call.timing(now).encode()))
    if call.error is not None and call.error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(call.error.retry_after_s))))
    return headers


def decompress(body: bytes, encoding: bytes, *, limit: int) -> bytes:
    """Inflate a gzip or deflate body without ever holding more than `limit` bytes of it.

    :raises TooLarge: it is longer
    :raises InvalidRequest: it is corrupt, cut short, or more than one stream
    :raises UnsupportedMedia: another encoding
    """
    windows = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
    window = windows.get(encoding)
    if window is None:
        raise UnsupportedMedia(
            f"content-encoding {encoding.decode('latin-1')!r} is not served: expected gzip or deflate"
        )
    engine = zlib.decompressobj(window)
    try:
        plain = engine.decompress(body, limit + 1)
    except zlib.error as exc:
        raise InvalidRequest(f"the body is no valid {encoding.decode('latin-1')} data") from exc
    if len(plain) > limit:
        raise TooLarge(f"the body is longer than {limit} bytes when decompressed")
    if not engine.eof:
        raise InvalidRequest("the compressed body is cut short")
    if engine.unused_data:
        raise InvalidRequest("something follows the compressed body; expected one stream")
    return plain


_WANTED = frozenset({b"content-type", b"content-encoding", b"x-request-id"})


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


def _is_name(name: str) -> bool:
    return (
        0 < len(name) <= 63
        and name[0].isalnum()
        and name.isascii()
        and all(letter.isalnum() or letter in "_-" for letter in name)
    )
