"""A version that is served elsewhere: to those who route requests it is a lane. It sends each request to one
of its endpoints, whole: it is batched where it is computed.

Owns the requests that are on their way, the endpoints' health checks and the connections. All methods run on
the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from mdslite.errors import (
    DeadlineExceeded,
    MdsliteError,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
    unknown_error,
    without_frames,
)
from mdslite.serving.batch import Confidence
from mdslite.serving.knobs import Knobs, LaneStats
from mdslite.serving.queue import Job
from mdslite.serving.remote.discovery import Watch
from mdslite.serving.remote.pool import Endpoint, Pool
from mdslite.serving.remote.speech import Answer, Question, Speech, blame
from mdslite.serving.remote.wire import Unanswered, Wires
from mdslite.tensors import Codec

logger = logging.getLogger(__name__)

TRIES_MAX = 3
HEALTH_S = 1.0
HEALTH_TIMEOUT_S = 2.0
# Answers that say the endpoint, not the request, is at fault.
_FAULTS = frozenset({502, 503, 504})
_NO_MODEL = "it has no such model"
_REFUSALS = frozenset({401, 403})
# Nothing was computed: that is always safe to ask again.
_UNTOUCHED = _REFUSALS | {NotFound.status}


class RemoteLane:
    """`repeats` says that a request may be sent again when its answer did not come: predictions change
    nothing, so it is so unless the spec says otherwise. What never reached an endpoint always is."""

    def __init__(
        self,
        name: str,
        *,
        codec: Codec | Any,
        speech: Speech,
        pool: Pool,
        wires: Wires,
        watch: Watch,
        knobs: Knobs,
        read_confidence: Confidence,
        changed: Callable[[], None] = lambda: None,
        repeats: bool = True,
        health_s: float = HEALTH_S,
    ) -> None:
        self.name = name
        self.codec = codec
        self.knobs = knobs
        self.pool = pool
        self.stats = LaneStats()
        self.read_confidence = read_confidence
        self.changed = changed  # an endpoint came or went
        self._speech = speech
        self._wires = wires
        self._watch = watch
        self._repeats = repeats
        self._health_s = health_s
        self._under_way: dict[Job, asyncio.Task[None]] = {}
        self._rows = 0
        self._empty: asyncio.Event | None = None
        self._keeping: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look for endpoints and to ask how they are."""
        loop = asyncio.get_running_loop()
        self._keeping = [
            loop.create_task(self._discover(), name=f"endpoints of {self.name}"),
            loop.create_task(self._check(), name=f"health of {self.name}"),
        ]

    # Requests

    def submit(self, job: Job, now: float, *, room: int = 0) -> None:
        """Send a job on; `job.resolved()` is called later, never from in here. `room`: for so many rows it
        was made a moment ago.

        :raises Overloaded: as many rows are under way as may be
        :raises TooLarge: the job alone has more
        """
        rows = job.columns.rows
        if rows > room:
            self.make_room(rows)
        job.lane = self
        job.left = rows
        job.queued_at = now
        self._rows += rows
        task = asyncio.get_running_loop().create_task(self._serve(job), name=f"request to {self.name}")
        self._under_way[job] = task
        task.add_done_callback(lambda _: self._forget(job))

    def cancel(self, job: Job) -> None:
        """Forget a job whose caller left: its connection is closed."""
        task = self._under_way.get(job)
        if task is not None and not job.finished:
            self.stats.cancelled += 1
            job.finished = True
            task.cancel()

    def make_room(self, rows: int = 1) -> None:
        """Find room for so many more rows.

        :raises Overloaded, TooLarge: as `submit`
        """
        most = self.knobs.queue_rows
        if self._rows + rows <= most:
            return
        if rows > most:
            raise TooLarge(
                f"{rows} rows in one request: {self.name} takes at most {most}",
                hint="send several smaller requests",
            )
        self.stats.refused += 1
        raise Overloaded(
            f"{self.name} is overloaded: {self._rows} of {most} rows are under way", retry_after_s=1
        )

    async def _serve(self, job: Job) -> None:
        try:
            question = self._speech.ask(job.columns)
            async with asyncio.timeout_at(self._loop_time(job.deadline)), self.pool.turns:
                answer = await self._ask(job, question)
            if not 200 <= answer.status < 300:
                raise blame(answer)
            outputs = self._speech.understand(answer, job.columns)
            job.pieces = [(0, outputs)]
            known = [one for one in self.read_confidence(outputs) or () if one is not None]
            job.confidence = min(known, default=None)
        except TimeoutError:
            self.stats.expired += 1
            job.error = DeadlineExceeded("the endpoint did not answer in time")
        except MdsliteError as exc:
            job.error = without_frames(exc)
        except Exception:
            logger.exception("%s: a request could not be sent on", self.name)
            job.error = unknown_error()
        if not job.finished:
            job.finished = True
            job.left = 0
            job.resolved()

    async def _ask(self, job: Job, question: Question) -> Answer:
        """Ask one endpoint, and others where that is safe and the budget allows it."""
        tried: list[Endpoint] = []
        told = [] if job.trace is None else job.trace.headers()
        while True:
            endpoint = self.pool.pick(tried)
            tried.append(endpoint)
            job.replica = endpoint.url
            job.started_at = perf_counter()
            self.pool.begin(endpoint)
            try:
                answer = await self._wires.post(endpoint.address, question, more=told)
            except Unanswered as exc:
                self._fail(endpoint, exc.reason)
                again = (self._repeats or not exc.sent) and len(tried) < TRIES_MAX
                if not (again and len(tried) < len(self.pool.endpoints) and self.pool.may_retry()):
                    # Where the endpoint is and how it failed is the log's to say, not the caller's to know.
                    logger.warning("%s: %s: %s", self.name, endpoint.url, exc.reason)
                    raise Unavailable("the model's endpoint gave no answer", retry_after_s=1) from exc
                continue
            finally:
                self.pool.end(endpoint)
                job.upstream_ms = (perf_counter() - job.started_at) * 1e3
            if self._is_well(endpoint, answer):
                return answer
            again = self._repeats or answer.status in _UNTOUCHED
            again = again and len(tried) < min(TRIES_MAX, len(self.pool.endpoints))
            if answer.status == 504 or not (again and self.pool.may_retry()):
                return answer

    def _is_well(self, endpoint: Endpoint, answer: Answer) -> bool:
        """Is an answer the request's own? Otherwise its endpoint has failed."""
        status = answer.status
        if status == NotFound.status:
            self._fail(endpoint, _NO_MODEL, fail=self.pool.lacks)
        elif status == 401 or (status == 403 and not endpoint.proved):
            self._fail(endpoint, self._wires.refusal(status), fail=self.pool.refuses)
        elif status == 403:  # of one that lets us in: for this request alone, or for what stands between
            self._fail(endpoint, self._wires.refusal(status))
        elif status in _FAULTS:
            self._fail(endpoint, f"answered {status}")
        else:
            self.pool.succeeded(endpoint)
            endpoint.proved = True
            return True
        return False

    def _forget(self, job: Job) -> None:
        del self._under_way[job]
        self._rows -= job.columns.rows
        if self._empty is not None and not self._under_way:
            self._empty.set()

    def _loop_time(self, deadline: float) -> float:
        return asyncio.get_running_loop().time() + deadline - perf_counter()

    # Endpoints

    def _fail(
        self, endpoint: Endpoint, reason: str, *, fail: Callable[[Endpoint, str], None] | None = None
    ) -> None:
        before = self.pool.available
        (fail or self.pool.failed)(endpoint, reason)
        if self.pool.available != before:
            logger.warning("%s: %s is left out for a while: %s", self.name, endpoint.url, reason)
            self.changed()

    async def _discover(self) -> None:
        async for addresses in self._watch:
            self.pool.update(addresses)
            self.changed()

    async def _check(self) -> None:
        seen = -1
        while True:
            await asyncio.sleep(self._health_s)
            await asyncio.gather(*(self._check_one(one) for one in list(self.pool.endpoints)))
            if self.pool.available != seen:  # also because the time of one that was left out is over
                seen = self.pool.available
                self.changed()

    async def _check_one(self, endpoint: Endpoint) -> None:
        if endpoint.refusing:
            await self._check_admission(endpoint)
            return
        lacking, readiness = endpoint.lacking, self._speech.readiness
        path = readiness if lacking and readiness is not None else self._speech.health
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                answer = await self._wires.get(endpoint.address, path)
        except (Unanswered, TimeoutError) as exc:
            self._fail(endpoint, getattr(exc, "reason", "its health check was not answered"))
            return
        if answer.status >= 500:
            self._fail(endpoint, f"its health check answered {answer.status}")
            return
        if lacking and (readiness is None or answer.status != 200):
            if readiness is not None and self._speech.lacks(answer):
                self._fail(endpoint, _NO_MODEL, fail=self.pool.lacks)
            return  # well it may be: whether it has the model, the next request will tell
        if endpoint.unfit and not lacking:
            return  # a request has found out meanwhile
        self._take_back(endpoint)

    async def _check_admission(self, endpoint: Endpoint) -> None:
        """Does it still refuse our credentials? Where that is not said, the next request will tell."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                answer = await self._wires.get(endpoint.address, self._speech.admission)
        except (Unanswered, TimeoutError):
            return
        if answer.status in _REFUSALS:
            self._fail(endpoint, self._wires.refusal(answer.status), fail=self.pool.refuses)
        elif answer.status == 200:
            self._take_back(endpoint)

    def _take_back(self, endpoint: Endpoint) -> None:
        before = self.pool.available
        self.pool.succeeded(endpoint)
        if self.pool.available != before:
            logger.info("%s: %s is back", self.name, endpoint.url)
            self.changed()

    # Look

    @property
    def queue_rows(self) -> int:
        """Rows that wait for an endpoint's answer."""
        return self._rows

    @property
    def running(self) -> int:
        """Requests that are under way."""
        return len(self._under_way)

    # Life

    async def drain(self, *, deadline_s: float) -> bool:
        """Wait until nothing is under way; False when the deadline came first."""
        if not self._under_way:
            return True
        self._empty = asyncio.Event()
        try:
            async with asyncio.timeout(deadline_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        finally:
            self._empty = None
        return True

    def close(self) -> None:
        """Answer what is left with 503 and end all tasks; connections close in the background."""
        for job, task in list(self._under_way.items()):
            if not job.finished:
                job.finished = True
                job.error = Unavailable(f"{self.name} was taken down", retry_after_s=1)
                job.resolved()
            task.cancel()
        for task in self._keeping:
            task.cancel()
        self._wires.close()
