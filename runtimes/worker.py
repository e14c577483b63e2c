"""A package's own process: `python -m mdslite.runtimes.worker DESCRIPTOR PARENT`.

Imports the package, says what it is, and, if it is to serve, builds the class once, warms it up and runs
batches until the appliance closes the socket. User code runs on the main thread, with nothing of the
appliance's in reach but that socket, of which it is not told, and the blocks of the batch that it runs on.
Must import quickly: no runtime's library, and nothing of the HTTP side.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import mds
from mdslite.errors import ClientClosed, MdsliteError, ModelError, OutOfMemory
from mdslite.process import anonymous_bytes, end_with_parent
from mdslite.runtimes.blocks import Block
from mdslite.runtimes.channel import (
    Channel,
    Check,
    Checked,
    Described,
    Entered,
    Next,
    Open,
    Order,
    Part,
    Piece,
    Ready,
    Refused,
    Room,
    Run,
    Share,
    shorten,
)
from mdslite.runtimes.executor import Executor, build
from mdslite.runtimes.frames import Frame, find_obstacle, make_frames, read_data
from mdslite.runtimes.packages import PackageSource, find_package, load_class
from mdslite.runtimes.protocol import Answers, Datum, PackageReport
from mdslite.runtimes.tracebacks import blame, exception_text, write_traceback

OOM_SCORE = 500  # before the appliance, should the machine run out of memory


# A batch's answers, one a row; what goes out in pieces is emitted, and the answer then says how it ended.
Compute = Callable[[Run, list[Datum], Callable[[bytes], None]], Answers]


class Worker:
    """Runs the batches that the appliance orders, one at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._blocks: dict[int, Block] = {}
        self._answers: Block  # where those of the present run go
        self._untaken = False  # something lies there that was not read yet

    def serve(self, compute: Compute, check: Callable[[], str | None]) -> None:
        """Serve until the appliance wants no more. `check` says what is wrong, None that all is well."""
        gc.collect()
        gc.freeze()  # what is there by now stays: later collections need not look at it
        while (order := self._receive()) is not None:
            if isinstance(order, Run):
                self._run(compute, order)
            elif isinstance(order, Check):
                self._channel.send(Checked(check()))

    def _receive(self) -> Order | None:
        """The next order; a block that comes before it is taken in."""
        while True:
            order, descriptor = self._channel.receive_with_descriptor()
            if not isinstance(order, Share):
                return order  # type: ignore[no-any-return]
            self._blocks[order.number] = Block(order.number, order.size_bytes, descriptor)
            os.close(descriptor)
            if order.instead_of is not None:
                self._blocks.pop(order.instead_of, None)

    def _run(self, compute: Compute, order: Run) -> None:
        block, self._answers = self._blocks[order.data], self._blocks[order.answers]
        data = read_data(block, order.table_bytes)
        try:
            answers = compute(order, data, self._emit)
        except ClientClosed as exc:
            answers = Answers([exc])
        except BaseException as exc:  # out of the machinery around user code: no memory, say
            answers = Answers([blame(exc)] * len(data))
        del data
        table_bytes = self._write(answers)
        del answers  # what it gave back may be what it was given
        self._channel.send(Part(table_bytes, last=True, lent=block.lent))

    def _emit(self, piece: bytes) -> None:
        """Send one item of a stream, as soon as the one before it was taken.

        :raises ClientClosed: no more are wanted
        """
        obstacle = find_obstacle(piece, "an item of the stream")
        if obstacle is not None:
            raise ModelError(obstacle)
        if not self._make_room(len(piece)):
            raise ClientClosed("nobody listens to this stream any more")
        self._answers.write(0, piece)
        self._channel.send(Piece(len(piece)))
        self._untaken = True

    def _write(self, answers: Answers) -> int:
        """Write answers, and send all parts of them but the last, the size of whose table this gives."""
        rows = [_crossing(answer) for answer in answers]
        written = None
        for frame in make_frames(rows, answers.confidences):
            if written is not None:
                self._channel.send(Part(written, last=False))
                self._untaken = True
            self._make_room(frame.size_bytes)
            if frame.size_bytes > self._answers.size_bytes:
                error = OutOfMemory("there is no shared memory for the answers", retry_after_s=1)
                frame = Frame([error] * len(frame.rows))
            frame.write(self._answers)
            written = len(frame.table)
        assert written is not None
        return written

    def _make_room(self, size_bytes: int) -> bool:
        """Wait until the block of answers was read, and have it replaced if it is too small.

        False when no more of a stream is wanted.
        """
        self._channel.leave_fork()
        if self._untaken:
            self._untaken = False
            if not self._wait_next():
                return False
        if size_bytes > self._answers.size_bytes:
            self._channel.send(Room(size_bytes))
            return self._wait_next()
        return True

    def _wait_next(self) -> bool:
        order = self._receive()
        if not isinstance(order, Next):
            raise SystemExit("the appliance has closed the connection")
        if order.block is not None:
            self._answers = self._blocks[order.block]
        return order.go


def main() -> None:
    """Be a package's process."""
    with joined(sys.argv) as channel:
        executor = _open(channel)
        if executor is not None:
            Worker(channel).serve(partial(_compute, executor), partial(_check, executor))
            executor.close()


@contextmanager
def joined(arguments: Sequence[str]) -> Iterator[Channel]:
    """The channel to the appliance that a process was started with; ends quietly when that wants no more."""
    descriptor, parent = int(arguments[1]), int(arguments[2])
    end_with_parent(parent)
    _prepare()
    os.set_inheritable(descriptor, False)
    with suppress(BrokenPipeError, ConnectionResetError):
        yield Channel(socket.socket(fileno=descriptor), Order)


def refuse(channel: Channel, exc: BaseException) -> None:
    """Say why what was to be opened is not."""
    if isinstance(exc, MdsliteError):
        channel.send(Refused(shorten(exc.message), exc.hint and shorten(exc.hint)))
    else:  # whatever user code does while it is imported is the package's doing
        write_traceback(exc)
        channel.send(Refused(shorten(exception_text(exc))))


def _open(channel: Channel) -> Executor | None:
    """Open the package as the first order says; None where it is not to be served."""
    order = channel.receive()
    if not isinstance(order, Open):
        return None
    try:
        channel.send(Entered("imported"))
        source = find_package(Path(order.path), order.handler)
        description = mds.describe(load_class(source, exposed=True))
        channel.send(Described(make_report(description, source), anonymous_bytes(os.getpid())))
        if not order.build:
            return None
        channel.send(Entered("built"))
        executor = build(description)
        channel.send(Entered("warmed up"))
        executor.warm()
    except BaseException as exc:
        refuse(channel, exc)
        return None
    channel.send(Ready())
    return executor


def make_report(description: mds.Description, source: PackageSource) -> PackageReport:
    """What the appliance has to know of a class before it serves it."""
    batch = description.batch
    return PackageReport(
        name=description.name,
        version=description.version,
        class_name=description.cls.__name__,
        runtime=description.runtime,
        requirements=source.requirements,
        batch_size=None if batch is None else batch.batch_size,
        batch_timeout_ms=None if batch is None else batch.batch_timeout_ms,
        prediction_time_ms=None if batch is None else batch.prediction_time_ms,
        streams=description.streams,
        is_async=description.is_async,
        has_check=description.health_check is not None,
        has_warmup=description.warmup is not None,
    )


def _compute(executor: Executor, order: Run, data: list[Datum], emit: Callable[[bytes], None]) -> Answers:
    if order.streams:
        return executor.stream(data[0], emit, confidence=order.confidence)
    return executor.run(data, confidence=order.confidence, tensors=order.tensors)


def _check(executor: Executor) -> str | None:
    try:
        executor.check()
    except MdsliteError as exc:
        return shorten(exc.message)
    return None


def _crossing(answer: Datum | MdsliteError) -> Datum | MdsliteError:
    obstacle = find_obstacle(answer, "the answer")
    return answer if obstacle is None else ModelError(obstacle)


def _prepare() -> None:
    """Make this process one that tells what happens to it, and that harms nobody else."""
    faulthandler.enable()  # a crash prints where user code was
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which user code may raise in itself
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


if __name__ == "__main__":
    main()
