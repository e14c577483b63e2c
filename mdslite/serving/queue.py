"""Jobs waiting in a lane, first in first out within one shape, those that are `behind` after all others.
Counts rows; owns no clock and no device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from mdslite.errors import MdsliteError
from mdslite.serving.streams import Stream
from mdslite.serving.trace import Trace
from mdslite.tensors import Columns, Key

# Rows `[start, stop)` of a job, as they take part in one batch.
Slice = tuple["Job", int, int]

_STALE_MAX = 64  # entries that say nothing any more, beside twice the groups
NO_ROWS = Columns(0, (), (), "instances")
BEHIND_ROWS = 8  # of one batch: who comes meanwhile waits for no more


class Job:
    """One request's rows on their way through a lane; a subclass says in `resolved` what comes after.

    Times are seconds of the lane's clock. Just before `resolved` is called, either `error` is set or `pieces`
    holds the outputs in row order (one entry where the job ran in one batch).
    """

    # One stands for each request, with some forty attributes of which most are looked at: slots take half the
    # time for that which a dict for each and defaults on the class take.
    __slots__ = (
        "__weakref__",
        "arrived_at",
        "batch_rows",
        "behind",
        "columns",
        "compute_s",
        "confidence",
        "deadline",
        "error",
        "finished",
        "lane",
        "left",
        "pieces",
        "queued_at",
        "replica",
        "spans",
        "started_at",
        "stream",
        "taken",
        "trace",
        "upstream_ms",
        "within",
    )

    def __init__(self, columns: Columns = NO_ROWS) -> None:
        self.columns = columns
        self.deadline = 0.0
        self.arrived_at = 0.0  # when its request came; 0.0 where it is part of another job
        self.queued_at = 0.0
        self.started_at = 0.0  # when its first batch began to run; 0.0 if none did
        self.compute_s = 0.0
        self.upstream_ms: float | None = None  # what a remote endpoint took, where one answered
        self.batch_rows = 0  # rows of the batch that it ran in
        self.replica = ""
        self.confidence: float | None = None  # the least of its rows
        self.taken = 0  # rows already handed to batches
        self.left = 0  # rows not answered yet
        self.pieces: Sequence[tuple[int, Any]] = ()
        self.error: MdsliteError | None = None
        self.finished = False
        self.lane: Any = None
        self.stream: Stream | None = None  # while it runs, where a lane answers in pieces
        self.within: tuple[str, ...] = ()  # the pipelines that it comes through, the outermost first
        self.spans: str | None = None  # what each node of a pipeline did, as JSON
        self.trace: Trace | None = None  # that its caller is in, or that begins here
        self.behind = False  # it waits until a lane has nothing else to compute: nobody waits for its answer

    @property
    def allowed_s(self) -> float:
        """How long it may take."""
        return self.deadline - (self.arrived_at or self.queued_at)

    def resolved(self) -> None:
        """Called once, on the event loop, when the job has its answer or its error."""
        raise NotImplementedError

    @classmethod
    def resolve_all(cls, jobs: Sequence[Any]) -> None:
        """As `resolved` of each of these, which are all of this class and have their answers of one batch."""
        for job in jobs:
            job.resolved()

    def emitted(self, piece: bytes) -> None:
        """Called on the event loop for each piece of an answer that comes in pieces, before `resolved`."""
        raise NotImplementedError


def halves(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Two parts of about as many slices each; a single slice is cut between its rows."""
    if len(slices) > 1:
        middle = len(slices) // 2
        return [list(slices[:middle]), list(slices[middle:])]
    job, start, stop = slices[0]
    middle = (start + stop) // 2
    return [[(job, start, middle)], [(job, middle, stop)]]


class _Group:
    __slots__ = ("dead", "jobs", "listed", "rows")

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.rows = 0
        self.dead = 0  # finished jobs (cancelled, expired) still in `jobs`
        self.listed: tuple[float, int] = (0.0, 0)  # its entry in the order of the oldest that holds


class RowQueue:
    """Live rows by shape. Whoever ends a queued job early sets `finished` and calls `discard`."""

    def __init__(self) -> None:
        self.rows = 0  # those put back do not count
        self.pushed_rows = 0  # since it was made
        self._groups: dict[Key, _Group] = {}
        # Groups by their oldest job, lazily: an entry that is no longer its group's says nothing.
        self._order: list[tuple[float, int, Key]] = []
        self._entries = 0
        self._back: deque[tuple[Key, list[Slice]]] = deque()

    def __bool__(self) -> bool:
        return bool(self.rows or self._back)

    def push(self, job: Job) -> None:
        columns = job.columns
        group = self._groups.get(columns.key)
        if group is None:
            group = self._groups[columns.key] = _Group()
            group.jobs.append(job)
            self._list(columns.key, group, job)
        else:
            group.jobs.append(job)
        rows = columns.rows
        group.rows += rows
        self.rows += rows
        self.pushed_rows += rows

    def oldest(self) -> tuple[Key, Job] | None:
        """The job that has waited longest, with its shape."""
        groups, order = self._groups, self._order
        if len(groups) == 1:
            for key, group in groups.items():
                return key, self._head(group)
        while order:
            queued_at, number, key = order[0]
            group_then = groups.get(key)
            if group_then is None or group_then.listed != (queued_at, number):
                heappop(order)
                continue
            job = self._head(group_then)
            if job.queued_at == queued_at:
                return key, job
            heappop(order)
            self._list(key, group_then, job)
        return None

    def _list(self, key: Key, group: _Group, oldest: Job) -> None:
        if len(self._order) > _STALE_MAX + 2 * len(self._groups):
            self._order = [entry for entry in self._order if self._holds(entry)]
            heapify(self._order)
        self._entries += 1
        group.listed = (oldest.queued_at, self._entries)
        heappush(self._order, (oldest.queued_at, self._entries, key))

    def _holds(self, entry: tuple[float, int, Key]) -> bool:
        group = self._groups.get(entry[2])
        return group is not None and group.listed == entry[:2]

    def waiting(self, key: Key) -> int:
        """Rows of one shape."""
        group = self._groups.get(key)
        return group.rows if group else 0

    @property
    def has_returned(self) -> bool:
        """Whether something was put back and not taken again."""
        return bool(self._back)

    def put_back(self, key: Key, slices: list[Slice]) -> None:
        """Let slices that were taken be the next ones, in a batch by themselves."""
        self._back.appendleft((key, slices))

    def take(self, limit: int) -> tuple[Key, list[Slice]] | None:
        """Remove what was put back last, else up to `limit` rows of the oldest shape, oldest first, splitting
        the last job if it must be; None when nothing waits."""
        if self._back:
            return self._back.popleft()
        oldest = self.oldest()
        return (oldest[0], self._take(oldest[0], limit)) if oldest is not None else None

    def _take(self, key: Key, limit: int) -> list[Slice]:
        group = self._groups[key]
        jobs = group.jobs
        slices: list[Slice] = []
        room = limit
        while room and jobs:
            job = jobs[0]
            if job.finished:
                jobs.popleft()
                group.dead -= 1
                continue
            start = job.taken
            stop = min(job.columns.rows, start + room)
            room -= stop - start
            job.taken = stop
            slices.append((job, start, stop))
            if stop == job.columns.rows:
                jobs.popleft()
        self._forget(key, group, limit - room)
        return slices

    def discard(self, job: Job) -> None:
        """Free the rows of a job that was finished while it waited; nothing if it does not wait here."""
        rows = job.columns.rows - job.taken
        group = self._groups.get(job.columns.key)
        if group is None or not rows:
            return
        job.taken = job.columns.rows
        group.dead += 1
        if group.dead > 32 and group.dead * 2 > len(group.jobs):
            group.jobs = deque(one for one in group.jobs if not one.finished)
            group.dead = 0
        self._forget(job.columns.key, group, rows)

    def jobs(self) -> Iterator[Job]:
        """The live ones, in no particular order; one more than once if parts of it were put back."""
        for _, slices in self._back:
            for job, _, _ in slices:
                if not job.finished:
                    yield job
        for group in self._groups.values():
            for job in group.jobs:
                if not job.finished:
                    yield job

    def _head(self, group: _Group) -> Job:
        while group.jobs[0].finished:
            group.jobs.popleft()
            group.dead -= 1
        return group.jobs[0]

    def _forget(self, key: Key, group: _Group, rows: int) -> None:
        group.rows -= rows
        self.rows -= rows
        if not group.rows:
            del self._groups[key]


class TieredQueue(RowQueue):
    """A queue with another one behind it, whose rows run when nothing else waits and in batches of their own.
    What is counted and looked at are the rows in front."""

    def __init__(self) -> None:
        super().__init__()
        self._behind = RowQueue()

    def __bool__(self) -> bool:
        return bool(self.rows or self._back or self._behind)

    @property
    def only_behind(self) -> bool:
        """Whether nothing but what is behind waits."""
        return not (self.rows or self._back)

    def push_behind(self, job: Job) -> None:
        """Queue a job that is `behind`; `push` takes the others."""
        self._behind.push(job)

    def put_back(self, key: Key, slices: list[Slice]) -> None:
        if slices[0][0].behind:
            self._behind.put_back(key, slices)
        else:
            super().put_back(key, slices)

    def take(self, limit: int) -> tuple[Key, list[Slice]] | None:
        if self.rows or self._back:
            return super().take(limit)
        return self._behind.take(min(limit, BEHIND_ROWS))

    def discard(self, job: Job) -> None:
        if job.behind:
            self._behind.discard(job)
        else:
            super().discard(job)

    def jobs(self) -> Iterator[Job]:
        yield from super().jobs()
        yield from self._behind.jobs()
