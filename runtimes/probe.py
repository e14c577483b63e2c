"""The disposable side of opening a model: `python -m mdslite.runtimes.probe` is a zygote that imports the
frameworks once and forks a child for each model, since a crafted file can crash the framework that opens it.

The zygote is single-threaded (a fork copies one thread), never opens a model itself, and speaks with its
`Prober` over stdin and stdout, one JSON line a request and a reply. At the end of stdin it kills its child
and exits. It does not ask the kernel to die with its parent, as its children do: that signal comes when the
*thread* that started it ends, which may be any thread of a pool.

A child is niced, first in line for the out-of-memory killer, writes no core and no file, and has half of the
stack of an ordinary thread: what passes here has room to spare in the appliance. Its address space is not
limited: CUDA reserves far more of it than it uses. The zygote's clock bounds its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, perf_counter
from typing import Protocol

import msgspec

from mdslite.errors import LoadFailed, MdsliteError, OutOfMemory
from mdslite.runtimes.failures import reason
from mdslite.runtimes.memory import memory_meter
from mdslite.runtimes.onnx import OnnxRuntime
from mdslite.runtimes.protocol import LoadOptions, ProbeReport, Runtime
from mdslite.runtimes.pytorch import TorchRuntime
from mdslite.runtimes.signature import settle_rows
from mdslite.runtimes.tensorflow import TensorflowRuntime
from mdslite.runtimes.warmup import warm

NICENESS = 10
STACK_BYTES = 4 << 20
_NOISE_BYTES = 8192  # of what a child writes to stdout and stderr, the end is kept
_OPENED = b"opened"
_PR_SET_PDEATHSIG = 1


class Request(msgspec.Struct, frozen=True):
    runtime: str
    path: str
    options: LoadOptions
    timeout_s: float


class Verdict(msgspec.Struct, frozen=True):
    """A report, or else the reason why there is none, with the code of the error to raise."""

    report: ProbeReport | None = None
    code: str = LoadFailed.code
    message: str = ""
    hint: str | None = None


class Inspectable(Runtime, Protocol):
    def prepare(self) -> None:
        """Import the framework, without starting a thread.

        :raises LoadFailed: it is not installed
        """
        ...

    def inspect(self, path: Path) -> bool:
        """Check a model without opening it; is a run's time a function of its input's size only?"""
        ...

    def find_hazards(self, path: Path) -> tuple[tuple[str, ...], str | None]:
        """A report's `hazards`, and its signature's `filled`."""
        ...


RUNTIMES: dict[str, Callable[[], Inspectable]] = {
    one.name: one for one in (OnnxRuntime, TorchRuntime, TensorflowRuntime)
}


def main() -> None:
    """Serve probes until stdin ends."""
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    tempfile.gettempdir()  # it finds out by writing, which a child may not
    OnnxRuntime().prepare()
    gc.freeze()
    decode = msgspec.json.Decoder(Request).decode
    for line in _lines(requests):
        request = decode(line)
        with contextlib.suppress(LoadFailed):  # the child will meet it as well, and say so
            RUNTIMES[request.runtime]().prepare()
        verdict = _probe_in_child(request, requests)
        _write(replies, msgspec.json.encode(verdict) + b"\n")


def examine(
    runtime: Inspectable, path: Path, options: LoadOptions, *, opened: Callable[[], None]
) -> ProbeReport:
    """Inspect, open and warm the model at `path`, in this process; `opened` is called between the two last.

    :raises LoadFailed: with the runtime's reason
    """
    bounded = runtime.inspect(path)
    hazards, filled = runtime.find_hazards(path)
    added_bytes = memory_meter(options.device, path)
    begun = perf_counter()
    session = runtime.open(path, options)
    load_s = perf_counter() - begun
    opened()
    trial = warm(session)
    signature = settle_rows(session.signature, trial.outputs)
    has_texts = any(one.datatype == "BYTES" for one in signature.inputs)  # their lengths are no shapes
    return ProbeReport(
        signature=replace(signature, filled=filled),
        memory_bytes=added_bytes(),
        load_s=load_s,
        bounded=bounded and not has_texts and getattr(session, "bounded", True),
        hazards=(*hazards, *getattr(session, "hazards", ())),
    )


def _probe_in_child(request: Request, parent: int) -> Verdict:
    """Fork a child for one request and wait for it, no longer than it is allowed."""
    result, result_end = os.pipe()
    noise, noise_end = os.pipe()
    zygote = os.getpid()
    child = os.fork()
    if child == 0:
        _run_child(request, result_end, noise_end, zygote)
    os.close(result_end)
    os.close(noise_end)
    try:
        answer, said, in_time = _collect(result, noise, parent, deadline=monotonic() + request.timeout_s)
        if not in_time:
            os.kill(child, signal.SIGKILL)
    except _ParentGone:
        os.kill(child, signal.SIGKILL)
        raise SystemExit(0) from None
    finally:
        os.close(result)
        os.close(noise)
        _, status = os.waitpid(child, 0)
    stage = "in its first run" if _OPENED in answer.splitlines() else "while it was opened"
    for line in reversed(answer.splitlines()):
        if line.startswith(b"{"):
            with contextlib.suppress(msgspec.DecodeError):
                return msgspec.json.decode(line, type=Verdict)
    name = Path(request.path).name
    if not in_time:
        return Verdict(message=f"{name} did not come to an end {stage}: {request.timeout_s:g} s were allowed")
    return Verdict(message=f"{name} {_cause(status)} {stage}", hint=_last_line(said) or _way_out(status))


class _ParentGone(Exception):
    pass


def _collect(result: int, noise: int, parent: int, *, deadline: float) -> tuple[bytes, bytes, bool]:
    """Read a child's answer and noise until it ends (True) or the deadline comes (False)."""
    answer, said = b"", b""
    poll = select.poll()
    for end in (result, noise, parent):
        poll.register(end, select.POLLIN | select.POLLHUP)
    open_ends = {result, noise}
    while open_ends:
        left_s = deadline - monotonic()
        if left_s <= 0:
            return answer, said, False
        for end, _ in poll.poll(left_s * 1000):
            if end == parent:
                raise _ParentGone  # it sends nothing while it waits: this is the end of stdin
            data = os.read(end, 65536)
            if not data:
                poll.unregister(end)
                open_ends.discard(end)
            elif end == result:
                answer += data
            else:
                said = (said + data)[-_NOISE_BYTES:]
    return answer, said, True


def _run_child(request: Request, result: int, noise: int, zygote: int) -> None:
    """Be the child: probe, answer, exit. Never returns."""
    try:
        os.dup2(noise, 1)
        os.dup2(noise, 2)
        os.dup2(result, 3)
        os.closerange(4, 256)
        _restrict(writes=request.options.device.kind == "cuda")
        if os.getppid() != zygote:
            return  # it ended before this could ask to end with it
        _write(3, msgspec.json.encode(_judge(request)) + b"\n")
    finally:
        os._exit(0)


def _judge(request: Request) -> Verdict:
    try:
        runtime = RUNTIMES[request.runtime]()
        report = examine(
            runtime, Path(request.path), request.options, opened=lambda: _write(3, _OPENED + b"\n")
        )
        return Verdict(report)
    except MdsliteError as exc:
        return Verdict(code=exc.code, message=exc.message, hint=exc.hint)
    except MemoryError:
        return Verdict(code=OutOfMemory.code, message="this machine has no memory left for the model")
    except BaseException as exc:  # whatever a framework does in here is the model's doing
        said = exc.strerror if isinstance(exc, OSError) else reason(exc)
        name = Path(request.path).name
        return Verdict(message=f"{name} could not be opened: {type(exc).__name__}: {said}")


def _restrict(*, writes: bool) -> None:
    """Limit this process; `writes` allows files, which CUDA's caches need."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(NICENESS)
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_STACK, STACK_BYTES)]
    if not writes:
        limits.append((resource.RLIMIT_FSIZE, 0))
    for limit, value in limits:
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "was killed, probably for want of memory,"
    if code < 0:
        return f"crashed the runtime ({signal.Signals(-code).name})"
    return "ended the runtime without an answer"


def _way_out(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "free some memory, or serve it on a machine that has more"
    return "export the model anew: its file, or an operator in it, is none that the installed library can run"


def _last_line(said: bytes) -> str | None:
    lines = said.decode("utf-8", "replace").split("\n")
    return next((reason(RuntimeError(line)) for line in reversed(lines) if line.strip()), None)


def _lines(end: int) -> Iterator[bytes]:
    pending = b""
    while data := os.read(end, 65536):
        pending += data
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            yield line


def _write(end: int, data: bytes) -> None:
    while data:
        data = data[os.write(end, data) :]


if __name__ == "__main__":
    main()
