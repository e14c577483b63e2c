"""The process of a package, or of a model, as the appliance sees it: started, told what to open, listened to
until it is ready, and ended. What is then said to it is the session's business (`isolated`, `confined`).
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from mdslite.errors import LoadFailed, MdsliteError, Unavailable
from mdslite.process import Child
from mdslite.runtimes.channel import (
    Channel,
    Described,
    Entered,
    Open,
    OpenModel,
    Ready,
    Refused,
    Reply,
    Serves,
)
from mdslite.runtimes.protocol import LoadOptions, PackageReport

RETRY_AFTER_S = 2.0  # after which a process that ended should be there again
START_S = 60.0  # for the interpreter, and the worker's own imports
CLOSE_S = 2.0  # that user code gets to end by itself
_END_S = 2.0  # for a process to end after its socket was closed, or after it was killed
_WORKER = "mdslite.runtimes.worker"
_MODEL_WORKER = "mdslite.runtimes.model_worker"
_UNWANTED = "was ended, as nobody waited for it any more"
_TAIL_LENGTH = 2000  # characters of its output that the hint of a failed load quotes


@dataclass(frozen=True, slots=True)
class Opened:
    """What a package's process has said of it. `memory_bytes` is what it took once it was imported."""

    report: PackageReport
    memory_bytes: int


class PackageProcess:
    """One process for one package, or one model. `ended` is called from any thread when it has ended, with
    the reason."""

    def __init__(
        self,
        options: LoadOptions,
        *,
        python: str = sys.executable,
        ended: Callable[[str], None] | None = None,
    ) -> None:
        self._label = options.label
        self._python = python
        self._env = make_environment(options)
        self._memory_limit_bytes = options.memory_limit_bytes
        self._ended = ended
        self._stage = "started"
        self._ready = False
        self._started = self._unwanted = False
        self.child: Child
        self.channel: Channel

    def open(self, path: Path, *, handler: str | None, build: bool, limit_s: float) -> Opened:
        """Start it and have it import the package at `path`, and with `build` make it ready to serve.

        :raises LoadFailed: with the package's reason, or how the process ended, or what took too long
        """
        with self._starting(_WORKER):
            opened: Opened | None = None
            self.channel.send(Open(str(path.resolve()), handler, build))
            for reply in self._replies(limit_s, of="the package"):
                if isinstance(reply, Described):
                    opened = Opened(reply.report, reply.memory_bytes)
                if opened is not None and isinstance(reply, Ready if build else Described):
                    break
            assert opened is not None
            return opened

    def open_model(self, order: OpenModel, *, limit_s: float) -> Serves:
        """Start it and have it open a model's file.

        :raises LoadFailed: with the runtime's reason, or how the process ended, or what took too long
        """
        with self._starting(_MODEL_WORKER):
            self.channel.send(order)
            replies = self._replies(limit_s, of="the model")
            return next(reply for reply in replies if isinstance(reply, Serves))

    @contextmanager
    def _starting(self, module: str) -> Iterator[None]:
        """Start the process, and end it if what it was started for does not come about."""
        self._start(module)
        try:
            yield
            self.channel.limit(None)
            self._ready = True
        except OSError as exc:
            reason = self._reason()
            raise LoadFailed(f"before it was {self._stage}, its process {reason}", hint=self._tail()) from exc
        except BaseException:
            self.child.kill("was closed")
            raise
        finally:
            if not self._ready:
                self.channel.close()

    def _replies(self, limit_s: float, *, of: str) -> Iterator[Any]:
        """What it says on its way to be ready. Never ends by itself.

        :raises LoadFailed: it refused, or took too long
        """
        wait_s, deadline = START_S, monotonic() + START_S
        while True:
            reply = self._receive(deadline, wait_s, of)
            if isinstance(reply, Entered):
                if self._stage == "started":  # the package's own time begins
                    wait_s, deadline = limit_s, monotonic() + limit_s
                self._stage = reply.stage
            elif isinstance(reply, Refused):
                self.child.wait(_END_S)  # it ends by itself, with all of its output
                said = [text for text in (reply.hint, self._tail()) if text]
                raise LoadFailed(reply.message, hint="\n".join(said) or None)
            yield reply

    def gone(self) -> Unavailable:
        """The error of who was waiting for it: how it ended. Ends it, if it only closed its socket."""
        return Unavailable(f"{self.prefix}its process {self._reason()}", retry_after_s=RETRY_AFTER_S)

    @property
    def prefix(self) -> str:
        return f"{self._label}: " if self._label else ""

    def kill(self) -> None:
        """End it at once, and its channel. Waits for its end."""
        self.child.close()
        self.channel.close()

    def break_off(self) -> None:
        """End it while somebody has it started, who hears of it. From any thread; waits for nothing."""
        self._unwanted = True
        if self._started:
            self.child.kill(_UNWANTED)

    def end(self) -> None:
        """Let it end by itself, and see to it that it does. Does not wait."""
        self.channel.shut()
        if self.child.running:
            killer = threading.Timer(CLOSE_S, self.child.kill)
            killer.daemon = True
            killer.start()

    def _start(self, module: str) -> None:
        if sys.platform != "linux":
            raise LoadFailed(
                "packages and models run in a process of their own on Linux only",
                hint="write isolation: inline in the spec",
            )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.child = Child(
            # -B: what is compiled of a package must not lie beside it, in an artifact that never changes
            (self._python, "-P", "-B", "-m", module, str(theirs.fileno()), str(os.getpid())),
            name=self._label or "model",
            env=self._env,
            fds=(theirs.fileno(),),
            memory_limit_bytes=self._memory_limit_bytes,
            on_exit=self._exited,
        )
        self.channel = Channel(ours, Reply)
        try:
            self.child.start()
        except MdsliteError as exc:
            self.channel.close()
            raise LoadFailed(exc.message) from exc
        finally:
            theirs.close()
        self._started = True
        if self._unwanted:
            self.child.kill(_UNWANTED)

    def _receive(self, deadline: float, wait_s: float, of: str) -> Any:
        self.channel.limit(max(0.001, deadline - monotonic()))
        try:
            reply = self.channel.receive()
        except TimeoutError:
            self.child.kill("took too long")
            self.child.wait(_END_S)
            raise LoadFailed(f"{of} was not {self._stage} within {wait_s:g} s", hint=self._tail()) from None
        except msgspec.DecodeError as exc:
            raise LoadFailed("its process sent what is no answer") from exc
        if reply is None:
            raise ConnectionResetError
        return reply

    def _reason(self) -> str:
        if not self.child.wait(_END_S):
            self.child.kill("closed its connection to the appliance")
            self.child.wait(_END_S)
        return self.child.reason or "cannot be ended"

    def _exited(self, reason: str) -> None:
        self.channel.shut()  # a fork of it may still hold the other end
        if self._ended is not None:
            self._ended(reason)

    def _tail(self) -> str | None:
        said = self.child.output().strip()
        return f"the end of what it printed:\n{said[-_TAIL_LENGTH:]}" if said else None


def make_environment(options: LoadOptions) -> Mapping[str, str]:
    """The variables that a package's process gets beside those of the appliance."""
    if options.threads is None:
        return options.env
    return {"OMP_NUM_THREADS": str(options.threads)} | dict(options.env)
