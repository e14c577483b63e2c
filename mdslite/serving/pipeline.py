"""A pipeline in service: to those who route requests it is one lane, inside it each node has its own.

Owns the requests that are in it and the lanes of its handlers. A request counts until it is answered, and no
more rows than a lane may hold are taken in; so no handler's own queue can overflow. Deadlines are watched by
whatever computes a node.

All methods run on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from time import perf_counter

from mdslite.data import DataCodec
from mdslite.errors import DeadlineExceeded, MdsliteError, ModelError, Overloaded, TooLarge, Unavailable
from mdslite.graph import Pipeline
from mdslite.serving.course import Course
from mdslite.serving.knobs import Knobs, LaneStats
from mdslite.serving.network import Network
from mdslite.serving.nodes import Handler, Work
from mdslite.serving.queue import Job
from mdslite.serving.replica import Replica

NESTED_MAX = 8
_SMOOTHING = 0.1


class PipelineLane:
    """Leads requests of free data through the nodes of a pipeline; `works` are what computes each."""

    def __init__(
        self, name: str, *, pipeline: Pipeline, works: Mapping[str, Work], codec: DataCodec, knobs: Knobs
    ) -> None:
        self.name = name
        self.pipeline = pipeline
        self.codec = codec
        self.knobs = knobs
        self.handlers: Mapping[str, Handler] = {
            node: work for node, work in works.items() if isinstance(work, Handler)
        }
        self._lanes = [handler.lane for handler in self.handlers.values()]
        self._network = Network(pipeline, works)
        self._courses: dict[Job, Course] = {}
        self._rows = 0  # of all courses
        self._refused = self._expired = self._cancelled = 0
        self._seconds = 0.0  # that a request takes, smoothed
        self._empty: asyncio.Event | None = None

    def submit(self, job: Job, now: float, *, room: int = 0) -> None:
        """Take a request in; `job.resolved()` is called later, never from in here. `room`: for so many rows
        it was made a moment ago.

        :raises Overloaded: the pipeline is full, or the model of its first node is
        :raises TooLarge: the job could not fit into an empty one
        :raises Unavailable: the first node has nothing that could compute it
        :raises ModelError: pipelines call each other in a circle
        """
        rows = job.columns.rows
        if rows > room:
            self.make_room(rows)
        self._check_nesting(job)
        course = Course(job, self._network, name=self.name, ended=self._ended)
        job.lane = self
        job.left = rows
        job.queued_at = now
        job.replica = "local"
        try:
            course.begin(now)
        except MdsliteError:
            course.close()
            raise
        self._courses[job] = course
        self._rows += rows

    def cancel(self, job: Job) -> None:
        """Forget a job whose caller left: its rows are freed at every node."""
        course = self._courses.get(job)
        if course is None or job.finished:
            return
        self._cancelled += 1
        course.stop()
        self._close_books(course)

    def make_room(self, rows: int = 1) -> None:
        """Find room for so many more rows.

        :raises Overloaded, TooLarge: as `submit`
        """
        most = self.knobs.queue_rows
        if self._rows + rows <= most:
            return
        for lane in self._lanes:
            lane.collect()
        if self._rows + rows <= most:
            return
        if rows > most:
            raise TooLarge(
                f"{rows} rows in one request: {self.name} takes at most {most}",
                hint="send several smaller requests",
            )
        self._refused += 1
        raise Overloaded(
            f"{self.name} is overloaded: {self._rows} of {most} rows are on their way through it",
            retry_after_s=max(1, math.ceil(self._seconds)),
        )

    def _check_nesting(self, job: Job) -> None:
        way = [*job.within, self.name]
        if self.name in job.within:
            raise ModelError(
                f"pipelines call each other in a circle: {' → '.join(way)}",
                hint="let a node of one of them name another model",
            )
        if len(way) > NESTED_MAX:
            raise ModelError(f"pipelines are nested more than {NESTED_MAX} deep: {' → '.join(way)}")

    def _ended(self, course: Course) -> None:
        if isinstance(course.error, DeadlineExceeded):
            self._expired += 1
        self._seconds += (perf_counter() - course.job.queued_at - self._seconds) * _SMOOTHING
        self._answer(course, course.error)

    def _answer(self, course: Course, error: MdsliteError | None) -> None:
        self._close_books(course)
        course.job.error = error
        course.job.resolved()

    def _close_books(self, course: Course) -> None:
        job = course.job
        job.finished = True
        job.left = 0
        course.close()
        del self._courses[job]
        self._rows -= job.columns.rows
        self._settle()

    # Look

    @property
    def queue_rows(self) -> int:
        """Rows that wait for a node."""
        return sum(lane.queue_rows for lane in self._lanes)

    @property
    def running(self) -> int:
        """Batches being computed."""
        return sum(lane.running for lane in self._lanes)

    @property
    def replicas(self) -> Sequence[Replica]:
        """Those in rotation, of all handlers."""
        return [replica for lane in self._lanes for replica in lane.replicas]

    @property
    def stats(self) -> LaneStats:
        """Requests of the pipeline, and batches of its handlers."""
        each = [lane.stats for lane in self._lanes]
        return LaneStats(
            batches=sum(one.batches for one in each),
            inline_batches=sum(one.inline_batches for one in each),
            refused=self._refused,
            expired=self._expired,
            cancelled=self._cancelled,
            reruns=sum(one.reruns for one in each),
        )

    # Life

    async def drain(self, *, deadline_s: float) -> bool:
        """Wait until no request is in the pipeline; False when the deadline came first."""
        self._empty = asyncio.Event()
        self._settle()
        try:
            await asyncio.wait_for(self._empty.wait(), deadline_s)
        except TimeoutError:
            return False
        finally:
            self._empty = None
        return True

    def _settle(self) -> None:
        if self._empty is not None and not self._courses:
            self._empty.set()

    def close(self) -> None:
        """Answer what is left with 503 and end the handlers' replicas."""
        for course in list(self._courses.values()):
            course.stop()
            self._answer(course, Unavailable(f"{self.name} was taken down", retry_after_s=1))
        for lane in self._lanes:
            lane.close()
