"""The dashboard of `mdslite up --dash`: a process of its own that has the terminal, while this one serves and
writes what it says into a file. Whoever leaves the dashboard says whether the appliance goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

from mdslite import errors
from mdslite.cli import output

KEEP = 10  # the dashboard's exit code where the appliance is to go on
_END_WAIT_S = 5.0
# Leave the alternate screen; show the cursor; no mouse, pasting, focus or keyboard reports.
_RESET = "\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1004l\x1b[<u\x1b[0m"


class Beside:
    """`start` hands the terminal to a dashboard on the store's own socket; `close` takes it back."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._log = store / "up.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._own: tuple[int, int] | None = None  # where stdout and stderr led before
        self._modes: list[int | list[bytes | int]] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "mdslite", "dash", "--beside", "--url", f"unix:{self._store}"]
        self._modes = termios.tcgetattr(sys.stdin)
        self._child = subprocess.Popen(command)
        sys.stdout.flush()
        sys.stderr.flush()
        self._own = (os.dup(1), os.dup(2))
        sink = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.close(sink)
        self._thread = threading.Thread(target=self._watch, args=(self._child,), name="dash", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the dashboard, if it is there, and give the terminal back."""
        child, thread = self._child, self._thread
        if child is None or thread is None:
            return
        if child.poll() is None:
            child.terminate()
        thread.join(_END_WAIT_S)
        if thread.is_alive():
            child.kill()
            thread.join(_END_WAIT_S)

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        code = child.wait()
        self._take_back(clear=code < 0)
        if code == 0:
            output.note("stopping the appliance")
            os.kill(os.getpid(), signal.SIGTERM)
        elif code == KEEP:
            output.note(f"serving goes on; Ctrl-C stops it (meanwhile it wrote to {self._log})")
        elif code > 0:
            output.note(f"the dashboard ended with {code}; serving goes on, Ctrl-C stops it")

    def _take_back(self, *, clear: bool) -> None:
        """Let stdout and stderr lead to the terminal again; `clear` a screen that was left as it was."""
        with self._lock:
            if self._own is None:
                return
            for place, own in zip((1, 2), self._own, strict=True):
                os.dup2(own, place)
                os.close(own)
            self._own = None
        if clear:
            os.write(1, _RESET.encode())
        with suppress(termios.error, OSError):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)


def check(*, as_json: bool) -> None:
    """:raises InvalidRequest: there is no terminal for a dashboard"""
    if as_json:
        raise errors.InvalidRequest(
            "--dash has the terminal, and --json prints to it: choose",
            hint="mdslite up --json here, and mdslite dash in another terminal",
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise errors.InvalidRequest(
            "--dash takes a terminal, and this is none",
            hint="mdslite up without it; mdslite dash in a terminal",
        )
