"""A supervised child process: how it is started, what it prints, how it ends. Owns no protocol with it.

Each child has one thread here, which starts it, reads what it prints into a bounded tail, watches its
memory, and says in words how it ended. The thread starts it because the kernel's parent-death signal, for
which a child may ask (`end_with_parent`), comes when the *thread* that started it ends: this one lives as
long as the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic

from mdslite.errors import MdsliteError

TAIL_BYTES = 64 << 10
SECRETS = ("MDSLITE_", "AWS_")  # beginnings of the names of variables that no child gets
# Output is read this often at most: a child that floods it waits on a full pipe, instead of keeping this
# process from its work.
PACE_S = 0.01
MEMORY_PACE_S = 0.05
CLOSE_S = 10.0  # in which the kernel should have ended what was killed
LAST_WORDS = 200  # characters of the last line that an exit's reason quotes
_CHUNK_BYTES = 64 << 10
_PR_SET_PDEATHSIG = 1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Child:
    """One process of its own session, with its output captured. Every method may be called from any thread.

    `fds` are the descriptors that it inherits, under the same numbers; all others are closed. `on_exit` is
    called once, from the thread that watches it, with the reason in words ("exited with status 3: ...").
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        fds: Sequence[int] = (),
        cwd: str = "/",
        memory_limit_bytes: int | None = None,
        on_exit: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._command = tuple(command)
        self._env = dict(env or {})
        self._fds = tuple(fds)
        self._cwd = cwd
        self._memory_limit_bytes = memory_limit_bytes
        self._on_exit = on_exit
        self._lock = threading.Lock()
        self._tail = bytearray()
        self._output: int | None = None  # the pipe that it prints into, for as long as it is open
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | ValueError | None = None
        self._reaped = False
        self._given_reason: str | None = None
        self._reason: str | None = None
        self._exit_code: int | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"child {name}", daemon=True)

    def start(self) -> None:
        """Start the process.

        :raises MdsliteError: this machine could not start it
        """
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            said = getattr(self._failure, "strerror", None) or self._failure
            raise MdsliteError(f"could not start {self.name}: {said}") from self._failure

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._started.is_set() and not self._ended.is_set()

    @property
    def reason(self) -> str | None:
        """How it ended, in words that follow its name; None while it runs."""
        return self._reason

    @property
    def exit_code(self) -> int | None:
        """Its exit status, or the number of the signal that killed it below 0; None while it runs."""
        return self._exit_code

    def output(self) -> str:
        """The end of what it printed on stdout and stderr until now, at most `TAIL_BYTES`."""
        with self._lock:
            if self._output is not None:
                self._drain(self._output)
            return bytes(self._tail[-TAIL_BYTES:]).decode("utf-8", "replace")

    def memory_bytes(self) -> int:
        """Anonymous memory that is resident, of the process alone; 0 when it ended or nobody can tell."""
        return 0 if self._ended.is_set() else anonymous_bytes(self.pid)

    def kill(self, reason: str | None = None) -> None:
        """Kill it and what it started, at once; `reason` is then why it ended."""
        with self._lock:
            if self._process is None or self._reaped:
                return
            if reason is not None and self._given_reason is None:
                self._given_reason = reason
            _kill_session(self._process.pid)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for its end, which includes `on_exit`; False when the time ran out first."""
        return self._ended.wait(timeout_s)

    def close(self) -> None:
        """Kill it if it runs, and wait for its end."""
        if self._process is not None:
            self.kill("was closed")
            if threading.current_thread() is not self._thread:
                self._thread.join(CLOSE_S)

    def _supervise(self) -> None:
        try:
            output, exit_event = self._spawn()
        except (OSError, ValueError) as exc:  # no such program, no descriptor left, a variable without a name
            self._failure = exc
            self._ended.set()
            return
        finally:
            self._started.set()
        try:
            try:
                self._output = output
                with exit_event:
                    self._watch(output, exit_event)
            finally:
                self._bury(output)
        finally:
            with self._lock:
                self._output = None
            os.close(output)
            self._ended.set()

    def _spawn(self) -> tuple[int, _ExitEvent]:
        """Start the process; the end of the pipe that it prints into, and the event of its exit."""
        output, output_end = os.pipe()
        try:
            os.set_blocking(output, False)
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output_end,
                stderr=output_end,
                cwd=self._cwd,
                env=clean_environment(self._env),
                pass_fds=self._fds,
                start_new_session=True,  # Ctrl-C is the appliance's to handle
            )
            return output, _ExitEvent(self._process)
        except BaseException:
            os.close(output)
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            raise
        finally:
            os.close(output_end)

    def _watch(self, output: int, exit_event: _ExitEvent) -> None:
        """Read what it prints and weigh it, until it ended."""
        quiet = False  # its output has ended, though it may still run
        weighed_at = monotonic()
        while True:
            wait_s = None
            if self._memory_limit_bytes is not None:
                wait_s = max(0.0, weighed_at + MEMORY_PACE_S - monotonic())
            if exit_event.wait(wait_s, None if quiet else output):
                return
            quiet = quiet or not self._read(output)
            if self._memory_limit_bytes is not None and monotonic() >= weighed_at + MEMORY_PACE_S:
                self._weigh(self._memory_limit_bytes)
                weighed_at = monotonic()
            if not quiet and exit_event.wait(PACE_S, None):
                return

    def _bury(self, output: int) -> None:
        """Reap it, and tell how it ended."""
        # What it started dies with it; the zombie keeps the number of its session from being used again.
        _kill_session(self.pid)
        with self._lock:
            code = self._process.wait() if self._process is not None else 0
            self._reaped = True
        self._exit_code = code
        with self._lock:
            self._drain(output)
        self._reason = self._given_reason or exit_reason(code, self.output())
        if self._on_exit is not None:
            self._on_exit(self._reason)

    def _read(self, output: int) -> bool:
        """Take what is there; False at the end of it."""
        with self._lock:
            return self._take(output) != b""

    def _drain(self, output: int) -> None:
        """Take all that is there: bounded, should somebody print without end."""
        for _ in range(16):
            if not self._take(output):
                break

    def _take(self, output: int) -> bytes | None:
        """Take a piece of what is there; None for nothing yet, empty at the end of it."""
        try:
            data = os.read(output, _CHUNK_BYTES)
        except BlockingIOError:
            return None
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        return data

    def _weigh(self, limit_bytes: int) -> None:
        if anonymous_bytes(self.pid) > limit_bytes:
            self.kill(f"used more than the {size_text(limit_bytes)} that resource.memory allows")


class _ExitEvent:
    """Tells that a process ended, beside a descriptor to read. The `with` block's end closes it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._pid = process.pid
        self._pidfd = os.pidfd_open(process.pid) if sys.platform == "linux" else None

    def __enter__(self) -> _ExitEvent:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)

    def wait(self, timeout_s: float | None, output: int | None) -> bool:
        """Wait for the end (True), for something to read, or for the time."""
        poll = select.poll()
        if output is not None:
            poll.register(output, select.POLLIN)
        if self._pidfd is None:  # no such thing here: look again and again, and do not reap
            poll.poll((PACE_S if timeout_s is None else timeout_s) * 1000)
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        poll.register(self._pidfd, select.POLLIN)
        found = poll.poll(None if timeout_s is None else timeout_s * 1000)
        return any(end == self._pidfd for end, _ in found)


def clean_environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what is the appliance's own, and with `added`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(SECRETS)}
    return kept | dict(added or {})


def end_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when `parent`, which started it, ends; exit if it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def exit_reason(code: int, output: str) -> str:
    """How a process ended, from its exit code (negative for a signal) and what it printed."""
    if code == -signal.SIGKILL:
        return "was killed by signal 9, perhaps for want of memory"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"was killed by signal {-code}"
    if code == 0:
        return "exited with status 0"
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    return f"exited with status {code}" + (f": {last[:LAST_WORDS]}" if last else "")


def anonymous_bytes(pid: int) -> int:
    """Resident memory of a process, without files and shared memory; 0 if it cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def size_text(size_bytes: int) -> str:
    """`512 MiB`, `1.5 GiB`."""
    unit, size = "MiB", size_bytes / (1 << 20)
    if size >= 1024:
        unit, size = "GiB", size / 1024
    return f"{size:.4g} {unit}"


def _kill_session(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
