"""Measures what the dashboard costs: `measure_dash.py [--seconds N] [--only PART]`, a table on stdout.

A real `mdslite up` on the digits example serves a paced load; a real `mdslite dash` runs in a pseudo-terminal
of 140 by 45 beside it. Takes some eight minutes, and says more on a quiet machine.
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
from collections.abc import Callable, Iterator, Sequence
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
                # at all points of the quarter second between two pictures
                time.sleep(0.1 + 0.037 * (turn % 7))
        finally:
            terminal.close()
    return found


def measure_costs(
    url: str, server: psutil.Process, seconds: float, *, rate: int, screen: bytes, turns: int = 3
) -> dict[str, list[float]]:
    """Shares of a core: the dashboard's, and the appliance's with and without it, in turns."""
    found: dict[str, list[float]] = {"dash": [], "with": [], "without": [], "rss": []}
    with Load(url, rate):
        time.sleep(2.0)
        for _ in range(turns):
            found["without"].append(share(server, seconds))
            terminal = Terminal(dash(url))
            try:
                terminal.wait_for("LIVE")
                terminal.type(screen)
                time.sleep(3.0)
                before = cpu_s(terminal.process)
                found["with"].append(share(server, seconds))
                found["dash"].append((cpu_s(terminal.process) - before) / seconds)
                found["rss"].append(mib(terminal.process))
            finally:
                terminal.close()
    return found


def measure_bursts(url: str, seconds: float) -> list[tuple[str, float]]:
    """MiB of a dashboard as bursts go over it: what was done, and what it held then."""
    terminal = Terminal(dash(url))
    found: list[tuple[str, float]] = []
    try:
        terminal.wait_for("LIVE")
        time.sleep(2.0)
        found.append(("open", mib(terminal.process)))
        terminal.type(b"2")
        for turn in range(3):
            with Load(url, RUSH):
                time.sleep(seconds / 2)
                terminal.type(b"\x1b[B" * 3)  # a row is chosen, and looked up
                time.sleep(seconds / 4)
                terminal.type(b"\x1b[6~" * 20)  # pages of the past
                time.sleep(seconds / 4)
                terminal.type(b"f")
            found.append((f"after burst {turn + 1}", mib(terminal.process)))
        for key in (b"1", b"3", b"4", b"5", b"2"):
            terminal.type(key)
            time.sleep(0.5)
        time.sleep(3.0)
        found.append(("calm again", mib(terminal.process)))
    finally:
        terminal.close()
    return found


def measure_bare() -> float:
    """MiB of an application of Textual's that shows nothing."""
    terminal = Terminal([sys.executable, "-c", BARE])
    try:
        time.sleep(2.0)
        return mib(terminal.process)
    finally:
        terminal.close()


def mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def share(process: psutil.Process, seconds: float) -> float:
    """The share of a core that a process and its children take."""
    before = cpu_s(process)
    time.sleep(seconds)
    return (cpu_s(process) - before) / seconds


def cpu_s(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


Row = tuple[str, str, str]


def paint_rows(url: str) -> Iterator[Row]:
    first, full = measure_first_paint(url, 5)
    yield "first picture from a cold start", f"{statistics.median(first):.2f} s", "1 s"
    yield "first picture with data", f"{statistics.median(full):.2f} s", ""


def cost_rows(url: str, server: psutil.Process, seconds: float, rate: int) -> Iterator[Row]:
    bare = measure_bare()
    for screen, name in ((b"1", "the first screen"), (b"2", "the screen of requests")):
        costs = measure_costs(url, server, seconds, rate=rate, screen=screen)
        more = [there - without for there, without in zip(costs["with"], costs["without"], strict=True)]
        shares = ", ".join(f"{one:.1%}" for one in more)
        about = f"{name}, {rate:,} rows/s"
        yield f"{about}: share of a core", f"{statistics.mean(costs['dash']):.1%}", "10 %"
        yield f"{about}: memory beyond a bare app's", f"{max(costs['rss']) - bare:.0f} MiB", "60 MiB"
        yield f"{about}: what it costs the appliance", f"{statistics.median(more):.1%} ({shares})", "2 %"


def burst_rows(url: str, seconds: float) -> Iterator[Row]:
    bare = measure_bare()
    for when, held in measure_bursts(url, seconds):
        yield f"memory beyond a bare app's, {when}", f"{held - bare:.0f} MiB", "60 MiB"


def key_rows(url: str, times: int) -> Iterator[Row]:
    keys = sorted(one * 1000 for one in measure_keys(url, times))
    yield f"key to screen at {RUSH:,} rows/s, median of {times}", f"{statistics.median(keys):.0f} ms", "50 ms"
    for of in (90, 99):
        yield f"{of} of 100 within", f"{keys[min(times - 1, times * of // 100)]:.0f} ms", ""
    yield "the slowest five", ", ".join(f"{one:.0f}" for one in keys[-5:]) + " ms", ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="measure_dash.py", description="What the dashboard costs.")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each share is measured")
    parser.add_argument("--keys", type=int, default=200, help="how many keys are pressed")
    parser.add_argument(
        "--only", choices=("paint", "keys", "calm", "rush", "bursts"), help="measure one thing"
    )
    options = parser.parse_args()
    with appliance() as (url, server):
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            "paint": lambda: paint_rows(url),
            "calm": lambda: cost_rows(url, server, options.seconds, CALM),
            "rush": lambda: cost_rows(url, server, options.seconds, RUSH),
            "bursts": lambda: burst_rows(url, options.seconds),
            "keys": lambda: key_rows(url, options.keys),
        }
        print(f"| {COLUMNS}x{LINES} | measured | at most |\n|---|---|---|")
        for name, measure in parts.items():
            if options.only in (None, name):
                for row in measure():
                    print("| " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
