"""Measures what the dashboard costs: `measure_dash.py [--seconds N]`, a table on stdout.

A real `mdslite up` on the digits example serves a paced load; a real `mdslite dash` runs in a pseudo-terminal
of 140 by 45 beside it. Takes some two minutes, and says more on a quiet machine.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
DEPLOYMENTS = ROOT / "examples" / "deployments.yaml"
DIGIT = ROOT / "examples" / "digit.json"
COLUMNS, LINES = 140, 45
CALM, RUSH = 40, 1000  # requests a second
WAIT_S = 20.0
BARE = "from textual.app import App; App().run()"


class Terminal:
    """A program in a pseudo-terminal, and when which bytes came out of it."""

    def __init__(self, command: Sequence[str]) -> None:
        main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.started = time.perf_counter()
        env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.process = psutil.Popen(
            list(command), stdin=side, stdout=side, stderr=side, start_new_session=True, env=env
        )
        os.close(side)
        self._main = main
        self._seen = bytearray()
        self._grown = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._main, 65_536)
            except OSError:
                return
            if not piece:
                return
            with self._grown:
                self._seen += piece
                self._grown.notify_all()

    def type(self, keys: bytes) -> float:
        """Forget what was seen, press keys, and say when that was."""
        with self._grown:
            self._seen.clear()
        at = time.perf_counter()
        os.write(self._main, keys)
        return at

    def wait_for(self, text: str) -> float:
        """When the text was there.

        :raises TimeoutError: it does not come
        """
        wanted, deadline = text.encode(), time.perf_counter() + WAIT_S
        with self._grown:
            while wanted not in self._seen:
                if not self._grown.wait(max(0.0, deadline - time.perf_counter())):
                    raise TimeoutError(f"{text!r} did not appear: {bytes(self._seen[-300:])!r}")
        return time.perf_counter()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(WAIT_S)
        os.close(self._main)


class Load:
    """Predictions at a pace, over one connection, for as long as a block runs."""

    def __init__(self, url: str, rate: int) -> None:
        self._place = urlsplit(url)
        self._rate = rate
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Load:
        assert self._place.hostname is not None and self._place.port is not None
        self._socket = socket.create_connection((self._place.hostname, self._place.port))
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._send, self._drain)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _send(self) -> None:
        body = DIGIT.read_bytes()
        head = (
            f"POST /projects/demo/models/digits:predict HTTP/1.1\r\nhost: {self._place.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        burst = max(1, self._rate // 50)
        due = time.perf_counter()
        while not self._ended.wait(max(0.0, due - time.perf_counter())):
            try:
                self._socket.sendall(request * burst)
            except OSError:
                return
            due += burst / self._rate

    def _drain(self) -> None:
        while True:
            try:
                if not self._socket.recv(262_144):
                    return
            except OSError:
                return


@contextmanager
def appliance() -> Iterator[tuple[str, psutil.Process]]:
    """A real one, on a store of its own: its URL and its process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mdslite", "up", str(DEPLOYMENTS), "--port", "0", "--json"]
        started = subprocess.Popen(
            [*command, "--store", folder, "--drain-grace", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/",
        )  # fmt: skip
        try:
            assert started.stdout is not None
            yield json.loads(started.stdout.readline())["url"], psutil.Process(started.pid)
        finally:
            started.terminate()
            started.wait(WAIT_S)


def dash(url: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "mdslite", "dash", "--url", url, *options]


def measure_first_paint(url: str, times: int) -> tuple[list[float], list[float]]:
    """Seconds from the start of the process to the first picture, and to the first one with data."""
    first, full = [], []
    for _ in range(times):
        terminal = Terminal(dash(url))
        try:
            first.append(terminal.wait_for("mdslite") - terminal.started)
            full.append(terminal.wait_for("LIVE") - terminal.started)
        finally:
            terminal.close()
    return first, full


def measure_keys(url: str, times: int) -> list[float]:
    """Seconds from a key to what it shows, while rows come fast and the log is on the screen."""
    found = []
    with Load(url, RUSH):
        terminal = Terminal(dash(url))
        try:
            terminal.wait_for("LIVE")
            terminal.type(b"2")
            time.sleep(3.0)
            for turn in range(times):
                said = "do nothing" if turn % 2 == 0 else "are possible"
                pressed = terminal.type(b"!")
                found.append(terminal.wait_for(said) - pressed)
                time.sleep(
                    0.1 + 0.037 * (turn % 5)
                )  # at all points of the quarter second between two pictures
        finally:
            terminal.close()
    return found


def measure_costs(url: str, server: psutil.Process, seconds: float) -> dict[str, list[float]]:
    """Shares of a core: the dashboard's, and the appliance's with and without it, in turns."""
    found: dict[str, list[float]] = {"dash": [], "with": [], "without": [], "rss": []}
    with Load(url, CALM):
        for _ in range(2):
            found["without"].append(share(server, seconds))
            terminal = Terminal(dash(url))
            try:
                terminal.wait_for("LIVE")
                time.sleep(3.0)
                before = cpu_s(terminal.process)
                found["with"].append(share(server, seconds))
                found["dash"].append((cpu_s(terminal.process) - before) / seconds)
                found["rss"].append(terminal.process.memory_info().rss / 2**20)
            finally:
                terminal.close()
    return found


def measure_bare() -> float:
    """MiB of an application of Textual's that shows nothing."""
    terminal = Terminal([sys.executable, "-c", BARE])
    try:
        time.sleep(2.0)
        return float(terminal.process.memory_info().rss) / 2**20
    finally:
        terminal.close()


def share(process: psutil.Process, seconds: float) -> float:
    """The share of a core that a process and its children take."""
    before = cpu_s(process)
    time.sleep(seconds)
    return (cpu_s(process) - before) / seconds


def cpu_s(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def main() -> int:
    parser = argparse.ArgumentParser(prog="measure_dash.py", description="What the dashboard costs.")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each share is measured")
    parser.add_argument("--only", choices=("paint", "keys", "costs"), help="measure one thing")
    options = parser.parse_args()
    rows: list[tuple[str, str, str]] = []
    with appliance() as (url, server):
        if options.only in (None, "paint"):
            first, full = measure_first_paint(url, 5)
            rows.append(("first picture from a cold start", f"{statistics.median(first):.2f} s", "1 s"))
            rows.append(("first picture with data", f"{statistics.median(full):.2f} s", ""))
        if options.only in (None, "costs"):
            costs, bare = measure_costs(url, server, options.seconds), measure_bare()
            more = statistics.mean(costs["with"]) - statistics.mean(costs["without"])
            rows.append(
                (f"the dashboard at {CALM} rows/s", f"{statistics.mean(costs['dash']):.1%} of a core", "10 %")
            )
            rows.append(
                ("its memory beyond a bare Textual app's", f"{max(costs['rss']) - bare:.0f} MiB", "60 MiB")
            )
            rows.append(("what it costs the appliance", f"{more:.1%} of a core", "2 %"))
        if options.only in (None, "keys"):
            keys = sorted(one * 1000 for one in measure_keys(url, 40))
            rows.append(
                (f"key to screen at {RUSH} rows/s, median", f"{statistics.median(keys):.0f} ms", "50 ms")
            )
            rows.append(("the slowest of 40", f"{keys[-1]:.0f} ms", ""))
    print(f"| {COLUMNS}x{LINES} | measured | at most |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
