"""Questions to the request log, asked from the event loop and answered by processes of their own. Owns those
processes: a few at most, started when there is something to ask and ended when there was nothing for a while.

A question that nobody waits for any more is taken back. One that is not answered in its time costs its
process, never the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from mdslite.errors import DeadlineExceeded, MdsliteError, Overloaded, Unavailable
from mdslite.process import Child
from mdslite.store.letters import frame
from mdslite.store.questions import Question
from mdslite.store.searcher import END, ERROR, HEAD, Failure, Message

AT_ONCE = 2  # questions; others wait
EXPORTS_AT_ONCE = 1  # beside them, as their readers may be slow
MAX_WAITING = 64
WAIT_S = 10.0  # for a turn
QUERY_S = 10.0  # for one question, or one page of an export
GRACE_S = 5.0  # more, for a process to say so itself
IDLE_S = 60.0
STOP_S = 1.0  # for a question to end that was taken back
# It never multiplies matrices, and idle threads cost memory. glibc gives memory back to the system as soon
# as 128 KiB are free, and a question takes and frees more than that a thousand times: a third of its time
# went into pages that the system had to clear anew. Other libraries know no such names.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
}


class SearchProcess(Protocol):
    """What is needed of a child."""

    @property
    def reason(self) -> str | None: ...
    def kill(self, reason: str | None = None) -> None: ...
    def wait(self, timeout_s: float | None = None) -> bool: ...


Launch = Callable[[socket.socket, Path, float], SearchProcess]


def launch_searcher(end: socket.socket, folder: Path, timeout_s: float) -> Child:
    """Start a process that answers at this end of a socket.

    :raises MdsliteError: this machine could not start it
    """
    child = Child(
        (
            *(sys.executable, "-P", "-m", "mdslite.store.searcher"),
            *(str(end.fileno()), str(folder.absolute()), str(timeout_s)),
        ),
        name="the request log's reader",
        env=_ENVIRONMENT,
        fds=(end.fileno(),),
    )
    child.start()
    return child


class Searches:
    """Used from the event loop alone. `ask` and `stream` may be cancelled."""

    def __init__(
        self,
        folder: Path,
        *,
        query_s: float = QUERY_S,
        wait_s: float = WAIT_S,
        idle_s: float = IDLE_S,
        launch: Launch = launch_searcher,
    ) -> None:
        self._folder = folder
        self._query_s = query_s
        self._wait_s = wait_s
        self._idle_s = idle_s
        self._launch = launch
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._export_turns = asyncio.Semaphore(EXPORTS_AT_ONCE)
        self._waiting = 0
        self._free: list[_Searcher] = []
        self._all: set[_Searcher] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def processes(self) -> int:
        """How many there are just now."""
        return len(self._all)

    async def ask(self, question: Question) -> bytes:
        """The answer to a question of one piece.

        :raises MdsliteError: as the log says; Overloaded or Unavailable when it is asked too much
        """
        async with contextlib.aclosing(self._pieces(question, self._turns)) as pieces:
            return b"".join([piece async for piece in pieces])

    def export(self, question: Question) -> AsyncGenerator[bytes, None]:
        """The answer piece by piece, the first one of which says how many rows there are, and what is
        missing. Close it."""
        return self._pieces(question, self._export_turns)

    async def close(self) -> None:
        """End all processes; who still waits for an answer gets none."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for searcher in list(self._all):
            await self._end(searcher)

    async def _pieces(self, question: Question, turns: asyncio.Semaphore) -> AsyncGenerator[bytes, None]:
        await self._take_turn(turns)
        try:
            searcher = await self._take()
        except BaseException:
            turns.release()
            raise
        try:
            await searcher.put(Message(question))
            while (piece := await searcher.next_piece(self._query_s + GRACE_S)) is not None:
                yield piece
        finally:
            self._give_back(searcher, turns)

    async def _take_turn(self, turns: asyncio.Semaphore) -> None:
        if self._waiting >= MAX_WAITING:
            raise Overloaded("too many questions to the request log wait", retry_after_s=1.0)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await turns.acquire()
        except TimeoutError as exc:
            raise Unavailable("the request log is busy with other questions", retry_after_s=1.0) from exc
        finally:
            self._waiting -= 1

    async def _take(self) -> _Searcher:
        if self._closed:
            raise Unavailable("the appliance is ending")
        while self._free:
            searcher = self._free.pop()
            if searcher.process.reason is None:
                searcher.wake()
                return searcher
            await self._end(searcher)
        own, far = socket.socketpair()
        own.setblocking(False)
        with far, _closed_on_error(own):
            process = await asyncio.to_thread(self._launch, far, self._folder, self._query_s)
            reader, writer = await asyncio.open_connection(sock=own)
        searcher = _Searcher(process, reader, writer)
        self._all.add(searcher)
        return searcher

    def _give_back(self, searcher: _Searcher, turns: asyncio.Semaphore) -> None:
        """For the next question, once this one has ended; until then it keeps its turn."""
        if searcher.asked and not searcher.broken:
            self._begin(self._stop(searcher, turns))
            return
        turns.release()
        if searcher.broken:
            self._begin(self._end(searcher))
        else:
            self._rest(searcher)

    def _rest(self, searcher: _Searcher) -> None:
        loop = asyncio.get_running_loop()
        searcher.rest = loop.call_later(self._idle_s, lambda: self._begin(self._end(searcher)))
        self._free.append(searcher)

    async def _stop(self, searcher: _Searcher, turns: asyncio.Semaphore) -> None:
        """Take the question back, and throw away what still comes of its answer."""
        try:
            with contextlib.suppress(MdsliteError, TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await searcher.put(Message(None))
                    while searcher.asked and await searcher.next_piece(STOP_S) is not None:
                        pass
            if searcher.asked or searcher.broken:
                await self._end(searcher)
            else:
                self._rest(searcher)
        finally:
            turns.release()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, searcher: _Searcher) -> None:
        self._all.discard(searcher)
        if searcher in self._free:
            self._free.remove(searcher)
        searcher.wake()
        searcher.writer.close()
        with contextlib.suppress(OSError):
            await searcher.writer.wait_closed()
        searcher.process.kill()
        await asyncio.to_thread(searcher.process.wait, GRACE_S)


class _Searcher:
    """One process and the socket to it. `asked` says that an answer has not ended, `broken` that none will
    come any more."""

    def __init__(
        self, process: SearchProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.reader = reader
        self.writer = writer
        self.asked = False
        self.broken = False
        self.rest: asyncio.TimerHandle | None = None  # until it has had nothing to do for too long
        self._head: tuple[int, int] | None = None  # of a frame whose bytes are still to come

    def wake(self) -> None:
        if self.rest is not None:
            self.rest.cancel()

    async def put(self, message: Message) -> None:
        if message.question is not None:
            self.asked = True
        with self._lost():
            self.writer.write(frame(message))
            await self.writer.drain()

    async def next_piece(self, timeout_s: float) -> bytes | None:
        """The next piece of the answer, None at its end.

        :raises MdsliteError: the answer is an error
        """
        with self._lost():
            async with asyncio.timeout(timeout_s):
                # It may be cancelled at either place, and goes on there: `readexactly` takes all or nothing.
                if self._head is None:
                    self._head = HEAD.unpack(await self.reader.readexactly(HEAD.size))
                kind, size_bytes = self._head
                data = await self.reader.readexactly(size_bytes)
            self._head = None
        if kind == END:
            self.asked = False
            return None
        if kind == ERROR:
            self.asked = False
            raise _error(msgspec.msgpack.decode(data, type=Failure))
        return data

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as exc:
            self.broken = True
            raise DeadlineExceeded(
                "the query of the request log took too long", hint="narrow it, for example with since=15m"
            ) from exc
        except (OSError, asyncio.IncompleteReadError) as exc:
            self.broken = True
            why = self.process.reason or "closed its socket"
            raise Unavailable(f"the request log's reader {why}", retry_after_s=1.0) from exc


def _error(failure: Failure) -> MdsliteError:
    kinds = [MdsliteError]
    while kinds:
        kind = kinds.pop()
        if kind.code == failure.code:
            return kind(failure.message, hint=failure.hint)
        kinds += kind.__subclasses__()
    return MdsliteError(failure.message, hint=failure.hint)


@contextlib.contextmanager
def _closed_on_error(end: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        end.close()
        raise
