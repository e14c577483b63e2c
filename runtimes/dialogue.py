"""A conversation with a supervised process that computes batches: whose turn it is, what is asked and
answered, and how it ends. What the rows of a batch mean is the session's affair (`isolated`, `confined`).

Rows are written once, into a block that the process reads; answers once, into a block that is read here; one
small message each way says so. The process is killed to stop a run, and when it sends what is no answer. One
whose process has ended stays so: whoever owns it opens another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from mdslite.errors import DeadlineExceeded, MdsliteError, OutOfMemory, Unavailable
from mdslite.runtimes.blocks import LARGEST_BYTES, Block, make_block
from mdslite.runtimes.channel import Check, Next, Part, Piece, Room, Run, Share
from mdslite.runtimes.frames import BadFrame, Frame, read_rows
from mdslite.runtimes.protocol import Answers, LoadOptions, RunHandle
from mdslite.runtimes.supervised import PackageProcess

Emit = Callable[[bytes], None]

LATE = "was killed, since it did not answer in time"
WILD = "was killed, since what it sent is no answer"


class DialogueSession:
    """What every session has whose process is spoken with."""

    def __init__(self, options: LoadOptions, *, python: str) -> None:
        self.device = options.device
        self._dialogue = Dialogue(options, python=python)

    @property
    def pid(self) -> int:
        return self._dialogue.process.child.pid

    def handle(self) -> RunHandle:
        return self._dialogue.handle()

    def output(self) -> str:
        return self._dialogue.output()

    def watch(self, on_exit: Callable[[str], None]) -> None:
        self._dialogue.watch(on_exit)

    def close(self) -> None:
        """Have the process end, soon and without waiting for it. A run under way fails."""
        self._dialogue.close()


class Dialogue:
    """One process and the blocks that it shares. Those who speak with it wait for each other."""

    def __init__(self, options: LoadOptions, *, python: str) -> None:
        self.process = PackageProcess(options, python=python, ended=self._ended)
        self._blocks = Blocks(self.process)
        self._turn = threading.Lock()  # of who speaks with the process
        self._state = threading.Lock()  # of what follows
        self._present: Handle | None = None
        self._running = False  # a run is under way, which hears by itself of the process's end
        self._served = False
        self._watcher: Callable[[str], None] | None = None

    def begin(self) -> None:
        """The process is ready to serve: from now on its end is told to who watches it."""
        self._served = True

    def handle(self) -> RunHandle:
        return Handle(self._stop)

    def output(self) -> str:
        return self.process.child.output()

    def watch(self, on_exit: Callable[[str], None]) -> None:
        with self._state:
            reason = self.process.child.reason
            if reason is None:
                self._watcher = on_exit
                return
        on_exit(f"its process {reason}")

    def close(self) -> None:
        """Have the process end, soon and without waiting for it. A run under way fails."""
        with self._state:
            self._served = False
        self.process.end()
        if self._turn.acquire(blocking=False):
            self._release()
            self._turn.release()

    def _release(self) -> None:
        self.process.channel.close()
        self._blocks.forget()

    # One turn

    @contextmanager
    def turn(self, handle: RunHandle | None, *, runs: bool = True) -> Iterator[None]:
        """Be the only one who speaks with it, and be stopped by `handle`."""
        assert handle is None or isinstance(handle, Handle)
        with self._turn:
            with self._state:
                if handle is not None and handle.stopped:
                    raise DeadlineExceeded("the run was stopped before it began")
                if not self.process.child.running:
                    raise self.process.gone()
                self._present, self._running = handle, runs
            try:
                yield
            except (OSError, EOFError) as exc:
                raise self.process.gone() from exc
            except (BadFrame, msgspec.DecodeError) as exc:
                raise self._wild() from exc
            except MdsliteError:
                raise
            except BaseException:  # in the middle of a conversation that cannot be taken up again
                self.process.child.kill(WILD)
                raise
            finally:
                with self._state:
                    self._present, self._running = None, False
                    if not self._served:
                        self._release()

    def _wild(self) -> Unavailable:
        self.process.child.kill(WILD)
        return self.process.gone()

    def _stop(self, handle: Handle) -> None:
        """A handle's word: what it was given to ends, now or when it would begin."""
        with self._state:
            handle.stopped = True
            if self._present is handle:
                self.process.child.kill(LATE)

    def _ended(self, reason: str) -> None:
        """The process has ended. On its child's thread."""
        with self._state:
            if self._running or not self._served:
                return
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher(f"its process {reason}")

    # One batch

    def exchange(
        self,
        frame: Frame,
        *,
        confidence: str | None = None,
        tensors: bool = False,
        emit: Emit | None = None,
    ) -> Answers:
        """Have one frame of rows computed. In a turn.

        :raises BadFrame: what comes is no answer
        """
        data = self._blocks.for_data(frame.size_bytes)
        found = self._blocks.for_answers()
        frame.write(data)
        order = Run(
            data=data.number,
            answers=found.number,
            table_bytes=len(frame.table),
            confidence=confidence,
            tensors=tensors,
            streams=emit is not None,
        )
        answers = Answers(confidences=[])
        reply = self.ask(order)
        while not (isinstance(reply, Part) and reply.last):
            if isinstance(reply, Part):
                extend(answers, read_rows(found, reply.table_bytes))
                reply = self.ask(Next())
            elif isinstance(reply, Piece) and emit is not None:
                reply = self.ask(Next(go=_emit(emit, found, reply.size_bytes)))
            elif isinstance(reply, Room) and reply.size_bytes <= LARGEST_BYTES:
                found, answer = self._blocks.grow(found, reply.size_bytes)
                reply = self.ask(answer)
            else:
                raise BadFrame(f"a {type(reply).__name__} for an answer")
        extend(answers, read_rows(found, reply.table_bytes))
        if reply.lent:
            self._blocks.give_up_data()
        return answers

    def ask(self, order: Run | Next | Check) -> Any:
        """Send an order, and wait for what comes of it; whoever holds the handle sees to it that it comes."""
        self.process.channel.send(order)
        reply = self.process.channel.receive()
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


def extend(answers: Answers, more: Answers) -> None:
    answers += more
    answers.confidences = [*answers.confidences, *(more.confidences or [None] * len(more))]
