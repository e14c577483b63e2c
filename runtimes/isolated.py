"""A Python package served from a process of its own: a session whose batches cross through shared memory.

Data are written once, into a block that the process reads; answers once, into a block that is read here; one
small message each way says so. The process is killed to stop a run, and when it sends what is no answer. A
session whose process has ended stays so: whoever owns it opens another.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from mdslite.errors import DeadlineExceeded, MdsliteError, OutOfMemory, Unavailable
from mdslite.runtimes.blocks import LARGEST_BYTES, Block, make_block
from mdslite.runtimes.channel import Check, Checked, Next, Part, Piece, Room, Run, Share
from mdslite.runtimes.frames import BadFrame, Frame, find_refused, make_frames, read_rows, with_refused
from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, DataFeeds, LoadOptions, RunHandle
from mdslite.runtimes.supervised import PackageProcess

Emit = Callable[[bytes], None]

LATE = "was killed, since it did not answer in time"
WILD = "was killed, since what it sent is no answer"


class IsolatedSession:
    """One class in one process. `run`, `stream` and `check` wait for each other."""

    signature = DATA_SIGNATURE
    provider = "process"

    def __init__(self, options: LoadOptions, *, python: str = sys.executable) -> None:
        self.device = options.device
        self.threads = options.threads or 1
        self.has_check = False
        self._process = PackageProcess(options, python=python, ended=self._ended)
        self._blocks = Blocks(self._process)
        self._turn = threading.Lock()  # of who speaks with the process
        self._state = threading.Lock()  # of what follows
        self._present: Handle | None = None
        self._running = False  # a run is under way, which hears by itself of the process's end
        self._served = False
        self._watcher: Callable[[str], None] | None = None

    def open(self, path: Path, *, handler: str | None, limit_s: float) -> None:
        """Start the process and have it build the class.

        :raises LoadFailed: with the package's reason, how the process ended, or what took too long
        """
        opened = self._process.open(path, handler=handler, build=True, limit_s=limit_s)
        self.has_check = opened.report.has_check
        self._served = True

    @property
    def pid(self) -> int:
        return self._process.child.pid

    def handle(self) -> RunHandle:
        return Handle(self._stop)

    def run(self, feeds: DataFeeds, handle: RunHandle | None = None) -> list[Answers]:
        data = feeds["data"]
        refused = find_refused(data)
        if refused:
            data = [datum for place, datum in enumerate(data) if place not in refused]
        answers = Answers(confidences=[])
        with self._taking_turn(handle):
            for frame in make_frames(data) if data else ():
                _extend(answers, self._exchange(frame, feeds, None))
        return [with_refused(answers, refused)]

    def stream(self, feeds: DataFeeds, handle: RunHandle | None, emit: Emit) -> list[Answers]:
        data = feeds["data"]
        refused = find_refused(data)
        if refused:
            raise refused[0]
        with self._taking_turn(handle):
            return [self._exchange(Frame(data), feeds, emit)]

    def check(self, handle: RunHandle | None = None) -> None:
        with self._taking_turn(handle, runs=False):
            reply = self._ask(Check())
            if not isinstance(reply, Checked):
                raise self._wild()
        if reply.problem is not None:
            raise Unavailable(reply.problem)

    def output(self) -> str:
        return self._process.child.output()

    def watch(self, on_exit: Callable[[str], None]) -> None:
        with self._state:
            reason = self._process.child.reason
            if reason is None:
                self._watcher = on_exit
                return
        on_exit(f"its process {reason}")

    def close(self) -> None:
        """Have the process end, soon and without waiting for it. A run under way fails."""
        with self._state:
            self._served = False
        self._process.end()
        if self._turn.acquire(blocking=False):
            self._release()
            self._turn.release()

    def _release(self) -> None:
        self._process.channel.close()
        self._blocks.forget()

    # One turn with the process

    @contextmanager
    def _taking_turn(self, handle: RunHandle | None, *, runs: bool = True) -> Iterator[None]:
        """Be the only one who speaks with it, and be stopped by `handle`."""
        assert handle is None or isinstance(handle, Handle)
        with self._turn:
            with self._state:
                if handle is not None and handle.stopped:
                    raise DeadlineExceeded("the run was stopped before it began")
                if not self._process.child.running:
                    raise self._process.gone()
                self._present, self._running = handle, runs
            try:
                yield
            except (OSError, EOFError) as exc:
                raise self._process.gone() from exc
            except (BadFrame, msgspec.DecodeError) as exc:
                raise self._wild() from exc
            except MdsliteError:
                raise
            except BaseException:  # in the middle of a conversation that cannot be taken up again
                self._process.child.kill(WILD)
                raise
            finally:
                with self._state:
                    self._present, self._running = None, False
                    if not self._served:
                        self._release()

    def _stop(self, handle: Handle) -> None:
        """A handle's word: what it was given to ends, now or when it would begin."""
        with self._state:
            handle.stopped = True
            if self._present is handle:
                self._process.child.kill(LATE)

    def _ended(self, reason: str) -> None:
        """The process has ended. On its child's thread."""
        with self._state:
            if self._running or not self._served:
                return
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher(f"its process {reason}")

    def _wild(self) -> Unavailable:
        self._process.child.kill(WILD)
        return self._process.gone()

    # One batch

    def _exchange(self, frame: Frame, feeds: DataFeeds, emit: Emit | None) -> Answers:
        """Have one frame of data computed."""
        data = self._blocks.for_data(frame.size_bytes)
        found = self._blocks.for_answers()
        frame.write(data)
        order = Run(
            data=data.number,
            answers=found.number,
            table_bytes=len(frame.table),
            confidence=feeds["confidence"],
            tensors=feeds["tensors"],
            streams=emit is not None,
        )
        answers = Answers(confidences=[])
        reply = self._ask(order)
        while not (isinstance(reply, Part) and reply.last):
            if isinstance(reply, Part):
                _extend(answers, read_rows(found, reply.table_bytes))
                reply = self._ask(Next())
            elif isinstance(reply, Piece) and emit is not None:
                reply = self._ask(Next(go=_emit(emit, found, reply.size_bytes)))
            elif isinstance(reply, Room) and reply.size_bytes <= LARGEST_BYTES:
                found, answer = self._blocks.grow(found, reply.size_bytes)
                reply = self._ask(answer)
            else:
                raise BadFrame(f"a {type(reply).__name__} for an answer")
        _extend(answers, read_rows(found, reply.table_bytes))
        if reply.lent:
            self._blocks.give_up_data()
        if len(answers) != len(frame.rows):
            raise BadFrame(f"{len(answers)} answers to {len(frame.rows)} rows")
        return answers

    def _ask(self, order: Run | Next | Check) -> Any:
        """Send an order, and wait for what comes of it; whoever holds the handle sees to it that it comes."""
        self._process.channel.send(order)
        reply = self._process.channel.receive()
        if reply is None:
            raise EOFError
        return reply


class Handle:
    """Stops one run, by killing the process that it runs in."""

    __slots__ = ("_stop", "stopped")

    def __init__(self, stop: Callable[[Handle], None]) -> None:
        self._stop = stop
        self.stopped = False

    def terminate(self) -> None:
        self._stop(self)


class Blocks:
    """The blocks that a process shares with us: one for data, two for answers, which take turns so that one
    batch's large arrays may still be read while the next one runs. They grow, and never shrink."""

    def __init__(self, process: PackageProcess) -> None:
        self._process = process
        self._made = 0
        self._data: Block | None = None
        self._old_data: int | None = None
        self._answers: list[Block] = []

    def for_data(self, size_bytes: int) -> Block:
        """The block to write data into.

        :raises OutOfMemory: there is no memory for it
        """
        if self._data is None or self._data.size_bytes < size_bytes:
            old = self._old_data if self._data is None else self._data.number
            self._data = self._make(size_bytes, instead_of=old)
        return self._data

    def give_up_data(self) -> None:
        """Use this block no more: the process still reads from it."""
        if self._data is not None:
            self._old_data, self._data = self._data.number, None

    def for_answers(self) -> Block:
        """A block whose former answers nobody reads any more."""
        free = next((block for block in self._answers if not block.lent), None)
        if free is None:
            full = len(self._answers) > 1
            free = self._make(0, instead_of=self._answers[0].number if full else None)
            self._answers = [*(self._answers[1:] if full else self._answers), free]
        return free

    def forget(self) -> None:
        """Free them, but for what somebody still reads from."""
        self._data = None
        self._answers = []

    def grow(self, block: Block, size_bytes: int) -> tuple[Block, Next]:
        """A larger block for answers, and what to say of it; the same block where there is no memory."""
        try:
            larger = self._make(size_bytes, instead_of=block.number)
        except OutOfMemory:
            return block, Next(go=False)
        self._answers[self._answers.index(block)] = larger
        return larger, Next(block=larger.number)

    def _make(self, size_bytes: int, *, instead_of: int | None) -> Block:
        self._made += 1
        block, descriptor = make_block(self._made, size_bytes)
        try:
            self._process.channel.send(Share(block.number, block.size_bytes, instead_of), (descriptor,))
        finally:
            os.close(descriptor)
        return block


def _emit(emit: Emit, block: Block, size_bytes: int) -> bool:
    """Hand a piece of a stream on; False when nobody wants more of it."""
    if not 0 <= size_bytes <= block.size_bytes:
        raise BadFrame("a piece that is larger than its block")
    try:
        emit(block.read(0, size_bytes))
    except MdsliteError:  # ClientClosed, as a rule
        return False
    return True


def _extend(answers: Answers, more: Answers) -> None:
    answers += more
    answers.confidences = [*answers.confidences, *(more.confidences or [None] * len(more))]
