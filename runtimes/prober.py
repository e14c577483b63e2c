"""Has models tried by the zygote of `probe`: starts it, asks it, and takes its silence for an answer too."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import IO, Protocol

import msgspec

from mdslite.errors import LoadFailed, MdsliteError, OutOfMemory
from mdslite.runtimes.probe import Request, Verdict
from mdslite.runtimes.protocol import LoadOptions, ProbeReport, Trial

COMMAND = (sys.executable, "-P", "-m", "mdslite.runtimes.probe")
# On top of what a probe is allowed: the zygote's start, and its own answer to a probe that is late.
MARGIN_S = 10.0
CLOSE_S = 2.0
_ERRORS: dict[str, type[MdsliteError]] = {OutOfMemory.code: OutOfMemory}


class Probing(Protocol):
    """A runtime that sees to a disposable process itself."""

    def probe(
        self, path: Path, options: LoadOptions, *, timeout_s: float, trial: Trial | None
    ) -> ProbeReport: ...


class Prober:
    """One zygote, started when it is first needed; the runtimes in `own` do without it. Every method may be
    called from any thread; probes in the zygote wait for each other."""

    def __init__(
        self,
        own: Mapping[str, Probing] | None = None,
        *,
        command: tuple[str, ...] = COMMAND,
        margin_s: float = MARGIN_S,
    ) -> None:
        self._own = own or {}
        self._command = command
        self._margin_s = margin_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._noise: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The zygote's process, None while there is none."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the zygote if there is none, without waiting for its imports."""
        with self._lock:
            self._ensure()

    def probe(
        self, runtime: str, path: Path, options: LoadOptions, *, timeout_s: float, trial: Trial | None = None
    ) -> ProbeReport:
        """Have the model at `path` opened and run once in a process of its own. Blocks.

        :raises LoadFailed: with the reason, which may be a crash, the time limit, or that `trial` is over
        :raises OutOfMemory: the device has no room for it
        """
        if runtime in self._own:
            return self._own[runtime].probe(path, options, timeout_s=timeout_s, trial=trial)
        request = Request(runtime, str(path.resolve()), options, timeout_s)
        with self._lock, (trial or Trial()).ended_by(self._kill):
            line = self._exchange(msgspec.json.encode(request) + b"\n", timeout_s + self._margin_s)
        try:
            verdict = msgspec.json.decode(line, type=Verdict)
        except msgspec.DecodeError as exc:
            raise LoadFailed(f"{path.name}: the probe's answer was not understood") from exc
        if verdict.report is None:
            raise _ERRORS.get(verdict.code, LoadFailed)(verdict.message, hint=verdict.hint)
        return verdict.report

    def close(self) -> None:
        """End the zygote and free its memory; a probe under way fails. It may be started again."""
        self._kill()
        with self._lock:
            self._stop()

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()  # and its child with it

    def _exchange(self, request: bytes, wait_s: float) -> bytes:
        deadline = monotonic() + wait_s
        try:
            self._send(request)
        except BrokenPipeError:  # it was killed since the last probe
            self._stop()
            self._send(request)
        line = self._receive(deadline)
        if line is not None:
            return line
        reason = self._reason(late=monotonic() >= deadline)
        self._stop()
        raise LoadFailed(reason)

    def _send(self, request: bytes) -> None:
        process = self._ensure()
        assert process.stdin is not None
        process.stdin.write(request)
        process.stdin.flush()

    def _receive(self, deadline: float) -> bytes | None:
        """One line of the zygote's, or None when it ended or the deadline came first."""
        process = self._process
        assert process is not None and process.stdout is not None
        end = process.stdout.fileno()
        poll = select.poll()
        poll.register(end, select.POLLIN | select.POLLHUP)
        pending = b""
        while not pending.endswith(b"\n"):
            left_s = deadline - monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                return None
            data = os.read(end, 65536)
            if not data:
                return None
            pending += data
        return pending

    def _ensure(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115  closed by _stop
        secret = ("MDSLITE_", "AWS_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(secret)}
        # It forks, so it must stay single-threaded: NumPy's BLAS would start threads at its import.
        added = {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            cwd="/",
            env=kept | added,
            close_fds=True,
            start_new_session=True,  # Ctrl-C is the appliance's to handle
        )
        return self._process

    def _reason(self, *, late: bool) -> str:
        """Why there is no answer, in the zygote's own last words where it had any."""
        if late:
            return "the process that tries models did not answer in time"
        assert self._noise is not None
        self._noise.seek(0)
        lines = self._noise.read()[-2000:].decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"the process that tries models ended{f': {last}' if last else ''}"

    def _stop(self) -> None:
        process, self._process = self._process, None
        noise, self._noise = self._noise, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if noise is not None:
            noise.close()
