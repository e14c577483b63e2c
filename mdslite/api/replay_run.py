"""One replay under way: its requests at their pace, what became of each, and what is told of it meanwhile."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter, time

from mdslite.api import replay_source
from mdslite.api.labeling import Labeling
from mdslite.api.replay_schema import ReplayBody, ReplayInfo, State
from mdslite.api.replay_source import Census, Sendable
from mdslite.api.side_by_side import Answered, SideBySide
from mdslite.errors import InvalidRequest, MdsliteError, Unavailable, quoted, unknown_error, without_frames
from mdslite.predict.allowance import HANDLING_S, Allowance
from mdslite.predict.answers import encode
from mdslite.predict.call import Call, answer_nobody
from mdslite.predict.predictor import Predictor
from mdslite.serving.classes import read_answer
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.samples import Samples
from mdslite.store.labels import VersionAnswer
from mdslite.store.moments import time_text
from mdslite.store.requests import RequestLog
from mdslite.store.rows import REPLAY

logger = logging.getLogger(__name__)

UNDER_WAY = 16  # requests of one replay
PER_SECOND_MAX = 1000.0
TIMES_MAX = 1000.0
_ROOM_S = 0.002  # until a lane with others' requests in its queue is looked at again
_GRACE_S = 5.0  # beyond their own time limit, for the last ones' answers
_REFUSED = frozenset({429, 503})
_RATE = re.compile(r"(\d+(?:\.\d+)?)(x|/s)")


@dataclass(frozen=True, slots=True)
class Pace:
    """When each request is due: `times` as fast as they came, or so many `per_second`."""

    times: float | None
    per_second: float | None

    @classmethod
    def parse(cls, text: str) -> Pace:
        """:raises InvalidRequest: it is no pace, or too fast"""
        found = _RATE.fullmatch(text)
        value = float(found[1]) if found else 0.0
        most = TIMES_MAX if found and found[2] == "x" else PER_SECOND_MAX
        if found is None or not 0 < value <= most:
            raise InvalidRequest(
                f"expected 2x or 50/s, at most {TIMES_MAX:g}x or {PER_SECOND_MAX:g}/s; got {quoted(text)}",
                field="rate",
            )
        return cls(value, None) if found[2] == "x" else cls(None, value)

    def due_s(self, number: int, arrived_at: float, first_at: float) -> float:
        """Seconds from the start to request `number`, counted from 0, which came at `arrived_at` before."""
        if self.per_second is not None:
            return number / self.per_second
        assert self.times is not None
        return max(0.0, arrived_at - first_at) / self.times


class ReplayCall(Call):
    """A logged request on its way to a version; `done` is told when it was answered."""

    shadow = True

    def __init__(
        self, sent: Sendable, served: Served, *, client: str, done: Callable[[ReplayCall], None]
    ) -> None:
        url = f"/projects/{served.project}/models/{served.model}/versions/{served.version}:predict"
        if sent.is_oip:
            url = f"/v2/models/{served.project}.{served.model}/versions/{served.version}/infer"
        super().__init__(url.encode(), sent.body, sent.media_type, b"", None, perf_counter(), answer_nobody)
        self.sent_row = sent.row
        self.served = served
        self.url = url
        self.request_id = sent.row.request_id
        self.client = client
        self.behind = True
        self._done = done

    def resolved(self) -> None:
        self._done(self)

    def emitted(self, piece: bytes) -> None:
        """Nobody listens."""

    def is_due(self, samples: Samples, now: float, *, failed: bool) -> bool:
        return False  # its body is in the log already


class Run:
    """Used from the event loop's thread only, but for what it hands to threads."""

    def __init__(
        self,
        number: int,
        body: ReplayBody,
        *,
        filter: str,
        author: str,
        log: RequestLog,
        predictor: Predictor,
        fleet: Fleet,
        labeling: Labeling,
        allowance: Allowance,
        now: float,
    ) -> None:
        self.number = number
        self.task: asyncio.Task[None] | None = None
        self.stopping = False  # with the appliance
        self._body = body
        self._filter = filter
        self._pace = Pace.parse(body.rate)
        self._author = author
        self._log = log
        self._predictor = predictor
        self._fleet = fleet
        self._labeling = labeling
        self._allowance = allowance
        self._now = now
        self._state: State = "counting"
        self._message = ""
        self._ended_at: float | None = None
        self._census = Census()
        self._sent = self._answered = self._failed = self._refused = 0
        self._behind_s = 0.0
        self._calls: set[ReplayCall] = set()
        self._freed = asyncio.Event()
        self._labelled: set[int] = set()
        self._told: list[tuple[int, VersionAnswer]] = []
        self._pairs: list[Answered] = []
        self._beside = SideBySide(fleet, body.project, body.model) if body.compare else None

    def info(self) -> ReplayInfo:
        body, census = self._body, self._census
        ended = self._ended_at
        return ReplayInfo(
            id=self.number,
            project=body.project,
            model=body.model,
            version=body.version,
            filter=body.filter,
            rate=body.rate,
            compare=body.compare,
            author=self._author,
            state=self._state,
            message=self._message,
            started_at=time_text(self._now),
            ended_at=None if ended is None else time_text(ended),
            matched=census.matched,
            with_body=census.with_body,
            truncated=census.truncated,
            unreadable=census.unreadable,
            limited=census.limited,
            total=census.total,
            sent=self._sent,
            answered=self._answered,
            failed=self._failed,
            refused=self._refused,
            behind_s=round(self._behind_s, 3),
            comparison=None if self._beside is None or ended is None else self._beside.report(body.version),
        )

    @property
    def ended(self) -> bool:
        return self._ended_at is not None

    def end(self, state: State, message: str = "") -> None:
        self._state, self._ended_at = state, time()
        self._message = message or self._message
        for call in list(self._calls):
            call.lane.cancel(call)
        self._calls.clear()

    async def carry_out(self) -> None:
        """Count, then send everything, then wait for the last answers.

        :raises MdsliteError: the log cannot be read, or the version is gone
        """
        limit = self._body.limit
        self._census = await asyncio.to_thread(
            replay_source.count, self._log, self._filter, limit=limit, now=self._now
        )
        self._state = "running"
        began, first_at, after = monotonic(), None, 0
        while self._sent < self._census.total:
            page, next_after = await asyncio.to_thread(
                replay_source.read_page, self._log, self._filter, after=after, now=self._now
            )
            self._labelled = await self._labeling.labelled([one.row.id for one in page])
            for one in page[: self._census.total - self._sent]:
                first_at = one.row.time if first_at is None else first_at
                await self._send_in_turn(one, began + self._pace.due_s(self._sent, one.row.time, first_at))
            await self._settle()
            if next_after is None:
                break
            after = next_after
        await self._await_last()
        await self._settle()

    async def _send_in_turn(self, one: Sendable, due_at: float) -> None:
        """Send a request when it is due, as soon as nobody else needs the time."""
        if (wait_s := due_at - monotonic()) > 0:
            await asyncio.sleep(wait_s)
        while True:
            served = self._fleet.find(self._body.project, self._body.model, self._body.version)
            if served is None or not served.loaded:
                raise Unavailable(f"version {self._body.version} is not there any more")
            if len(self._calls) >= UNDER_WAY:
                self._freed.clear()
                await self._freed.wait()
                continue
            wait_s = self._allowance.wait_s()
            if not wait_s and not served.lane.queue_rows:
                break
            await asyncio.sleep(max(wait_s, _ROOM_S))
        self._behind_s = max(0.0, monotonic() - due_at)
        self._send(one, served)

    def _send(self, one: Sendable, served: Served) -> None:
        self._allowance.spend(HANDLING_S)
        self._sent += 1
        call = ReplayCall(one, served, client=f"{REPLAY}{self.number}", done=self._finish)
        lane = served.lane
        try:
            self._predictor.adopt(call)
            call.columns = self._predictor.reader.read(call, served)
            call.deadline = call.arrived_at + lane.knobs.prediction_s
            if not call.columns.rows:
                call.finished = True
                self._finish(call)
                return
            self._calls.add(call)
            lane.submit(call, perf_counter())
        except MdsliteError as exc:
            call.finished = True
            call.error = without_frames(exc)
            self._finish(call)
        except Exception:
            logger.exception("replayed request %s failed", call.request_id)
            call.finished = True
            call.error = unknown_error()
            self._finish(call)

    def _finish(self, call: ReplayCall) -> None:
        self._calls.discard(call)
        self._freed.set()
        if call.batch_rows:
            self._allowance.spend(call.compute_s * call.columns.rows / call.batch_rows)
        error = call.error
        if error is None:
            self._answered += 1
        elif error.status in _REFUSED or (error.status == 504 and not call.started_at):
            self._refused += 1
        else:
            self._failed += 1
            self._message = self._message or f"the first that failed: {error.message}"
        status, code = (200, None) if error is None else (error.status, error.code)
        self._predictor.books.record(call, status, code, None)
        if error is not None and error.status in _REFUSED:
            return
        row = call.sent_row
        if self._beside is not None:
            self._pairs.append(Answered(row, call, (perf_counter() - call.arrived_at) * 1e3))
        if error is None and row.id in self._labelled and call.served is not None:
            answer = read_answer(encode(call), call.served.spec.compare)
            told = VersionAnswer(
                version=self._body.version, replay=True, answer=answer, confidence=call.confidence
            )
            self._told.append((row.id, told))

    async def _settle(self) -> None:
        """Put answers beside those of before, and to the labels of their requests."""
        pairs, self._pairs = self._pairs, []
        told, self._told = self._told, []
        if self._beside is not None and pairs:
            await asyncio.to_thread(self._beside.judge, pairs)
        for row_id, answer in told:
            await self._labeling.add_answer(row_id, answer)

    async def _await_last(self) -> None:
        for call in list(self._calls):
            limit_s = call.deadline - perf_counter() + _GRACE_S
            while call in self._calls and limit_s > 0:
                self._freed.clear()
                try:
                    async with asyncio.timeout(limit_s):
                        await self._freed.wait()
                except TimeoutError:
                    break
                limit_s = call.deadline - perf_counter() + _GRACE_S
