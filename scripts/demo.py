"""Starts mdslite on the digits example, sends it the held-out digits and says what came back.

Run by `scripts/demo`. Exits 1 when anything that it shows is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits"
DEPLOYMENTS = ROOT / "examples" / "deployments.yaml"
MDSLITE = Path(sys.executable).with_name("mdslite")
MODEL_PATH = "/projects/demo/models/digits"
DEFAULT_PORT = 8500

ROUNDS = 10  # how often all digits are sent, each time in another order
CONNECTIONS = 4
READY_WAIT_S = 60.0
STOP_WAIT_S = 45.0
REQUEST_WAIT_S = 10.0


class DemoError(Exception):
    """The demo cannot show what it is meant to show."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One digit's way through the appliance."""

    version: str
    right: bool
    latency_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="A real model in two versions, served.")
    parser.add_argument("--once", action="store_true", help="stop when the digits are read")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="where to serve; 0: any free port")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that the appliance is stopped on the way out
    try:
        with tempfile.TemporaryDirectory(prefix="mdslite-demo-") as store:
            show(Path(store), port=options.port, once=options.once)
    except DemoError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def show(store: Path, *, port: int, once: bool) -> None:
    commands = Path(sys.executable).parent
    with appliance(store, port=port) as (process, url):
        wait_until_ready(url, process)
        weights = read_weights(url)
        started = time.perf_counter()
        readings = send_digits(url)
        took_s = time.perf_counter() - started
        print_results(readings, weights, took_s=took_s)
        check(readings, weights)
        try:  # whoever reads the address may end it at once
            if not once:
                print_next(url, commands)
                if process.wait() != 0:
                    raise DemoError(f"mdslite ended with exit code {process.returncode}")
        except KeyboardInterrupt:
            print("\nstopping", flush=True)
    if once:
        print_restart(commands, port=port)


@contextmanager
def appliance(store: Path, *, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`mdslite up` as anybody would start it, and the URL that it serves on; stopped at the end."""
    command = [str(MDSLITE), "up", str(DEPLOYMENTS), "--store", str(store), "--port", str(port), "--json"]
    print(f"$ {start_command(port)}", flush=True)
    # In a process group of its own: of a Ctrl-C it shall see the one SIGTERM below, after which it drains.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=ROOT, process_group=0
    )
    watchdog = threading.Timer(READY_WAIT_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        announced = json.loads(process.stdout.readline() or "{}")
        watchdog.cancel()
        if "url" not in announced:  # an error, or nothing
            raise DemoError(f"mdslite did not start (exit code {process.wait()}): what it said stands above")
        yield process, announced["url"]
    finally:
        watchdog.cancel()
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(STOP_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise DemoError(f"mdslite did not stop within {STOP_WAIT_S:.0f} s of SIGTERM") from None
    if code != 0 and sys.exc_info()[0] is None:
        raise DemoError(f"mdslite ended with exit code {code}")


def wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + READY_WAIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"mdslite ended with exit code {process.returncode}")
        try:
            status, _ = fetch(url, "/readyz")
        except (OSError, HTTPException):
            status = 0
        if status == 200:
            return
        time.sleep(0.05)
    raise DemoError(f"{url}/readyz did not say 200 within {READY_WAIT_S:.0f} s")


def read_weights(url: str) -> dict[str, float]:
    status, body = fetch(url, "/api/v1/models?project=demo")
    if status != 200:
        raise DemoError(f"/api/v1/models answered {status}: {body.decode(errors='replace')}")
    (model,) = json.loads(body)
    return {version["version"]: version["weight"] for version in model["versions"]}


def fetch(url: str, path: str) -> tuple[int, bytes]:
    connection = connect(url)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def connect(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    return HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=REQUEST_WAIT_S)


def send_digits(url: str) -> list[Reading]:
    """Send every held-out digit ROUNDS times, over connections that stay open."""
    held_out = json.loads((DIGITS / "held_out.json").read_text())
    digits = list(zip(held_out["instances"], held_out["labels"], strict=True))
    order = random.Random(0)
    queue = [digit for _ in range(ROUNDS) for digit in order.sample(digits, len(digits))]
    shares = [queue[start::CONNECTIONS] for start in range(CONNECTIONS)]
    progress = Progress(len(queue))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [pool.submit(send_share, url, share, progress.advance) for share in shares]
        readings = [reading for future in futures for reading in future.result()]
    progress.finish()
    return readings


def send_share(
    url: str, digits: Sequence[tuple[list[int], int]], advance: Callable[[], None]
) -> list[Reading]:
    connection = connect(url)
    readings = []
    try:
        for pixels, label in digits:
            body = json.dumps({"instances": [pixels]}).encode()
            started = time.perf_counter()
            connection.request("POST", f"{MODEL_PATH}:predict", body, {"content-type": "application/json"})
            reply = connection.getresponse()
            answer = reply.read()
            latency_ms = (time.perf_counter() - started) * 1000
            if reply.status != 200:
                raise DemoError(f"a digit was answered {reply.status}: {answer.decode(errors='replace')}")
            (prediction,) = json.loads(answer)["predictions"]
            version = reply.headers["mdslite-version"]
            readings.append(Reading(version, prediction["label"] == label, latency_ms))
            advance()
    except (OSError, HTTPException) as exc:
        raise DemoError(f"a connection failed after {len(readings)} digits: {exc}") from exc
    finally:
        connection.close()
    return readings


class Progress:
    """One line on a terminal, nothing elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def advance(self) -> None:
        with self._lock:
            self._done += 1
            if self._done % 100 == 0 and sys.stderr.isatty():
                print(f"\r{self._done:,} of {self._total:,} digits", end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def print_results(readings: Sequence[Reading], weights: dict[str, float], *, took_s: float) -> None:
    print(
        f"\n{len(readings):,} requests, one held-out digit each, over {CONNECTIONS} kept connections "
        f"in {took_s:.1f} s ({len(readings) / took_s:,.0f}/s)\n"
    )
    print("VERSION  WEIGHT   SHARE  ACCURACY  P50 MS  P99 MS")
    for version, weight in weights.items():
        own = [reading for reading in readings if reading.version == version]
        if not own:
            print(f"{version:<7}  {weight:>6g}    none")
            continue
        latencies = sorted(reading.latency_ms for reading in own)
        accuracy = statistics.fmean(reading.right for reading in own)
        print(
            f"{version:<7}  {weight:>6g}  {len(own) / len(readings):>6.1%}  {accuracy:>8.1%}"
            f"  {statistics.median(latencies):>6.2f}  {latencies[int(0.99 * (len(latencies) - 1))]:>6.2f}"
        )
    print(flush=True)


def check(readings: Sequence[Reading], weights: dict[str, float]) -> None:
    """The split is the weights' to within one cycle, and no version guesses."""
    total = sum(weights.values())
    for version, weight in weights.items():
        own = [reading for reading in readings if reading.version == version]
        expected = len(readings) * weight / total
        if abs(len(own) - expected) > total:
            raise DemoError(
                f"{version} got {len(own)} of {len(readings)} requests, its weight says {expected:.0f}"
            )
        if own and statistics.fmean(reading.right for reading in own) < 0.9:
            raise DemoError(f"{version} reads fewer than nine digits of ten")


def print_restart(commands: Path, *, port: int) -> None:
    """What to type after a demo that has ended: the same again, to be tried by hand."""
    again = f"scripts/demo{port_option(port)}"
    print(f"That was all; nothing goes on running. Next, in {ROOT}:")
    print(f"  {again:<66} # serves until Ctrl-C, and says what to try meanwhile")
    starts = f"{activation(commands)} && {start_command(port)}"
    print(f"  {starts:<66} # or with a store that stays, in .mdslite\n", flush=True)


def start_command(port: int) -> str:
    return f"mdslite up {DEPLOYMENTS.relative_to(ROOT)}{port_option(port)}"


def port_option(port: int) -> str:
    return "" if port == DEFAULT_PORT else f" --port {port}"


def activation(commands: Path) -> str:
    """The command that puts `mdslite` on the path of a shell."""
    return f". {shlex.quote(os.path.relpath(commands / 'activate', ROOT))}"


def print_next(url: str, commands: Path) -> None:
    """What to type in another terminal; every line works as it stands."""
    lines = [activation(commands)]
    if urlsplit(url).port != DEFAULT_PORT:
        lines.append(f"export MDSLITE_URL={url}")
    lines += [
        "mdslite ls",
        "mdslite predict demo/digits -d @examples/digit.json",
        "mdslite logs 'version=v2 confidence<0.6' --limit 5",
        "mdslite apply -f examples/deployments.yaml     # after changing a weight in it",
        f"curl -d @examples/digit.json {url}{MODEL_PATH}:predict",
    ]
    print(f"mdslite goes on serving on {url} until Ctrl-C. Next, in another terminal, in {ROOT}:")
    for line in lines:
        print(f"  {line}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
