"""What is left of a model's throughput when ten times as much is asked of it, and how soon one is refused."""

from __future__ import annotations

import http
import http.client
import random
import resource
import statistics
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from benchmarks.contenders import Bench, Running, mdslite
from benchmarks.load import JSON_HEADERS, Load, run_load
from benchmarks.models import HEAVY
from benchmarks.turns import Effort, Say, start

TIMES = 10
PEAK_CONNECTIONS = 64
# Twice what the model's queue holds, so that nobody can keep it from overflowing by waiting in it.
CONNECTIONS = 2048
CALLERS = 64
CALL_S = 20.0
_FILES = 8192


@dataclass(frozen=True, slots=True)
class Overload:
    """`kept` is the good answers a second when overloaded, divided by those at the peak: the median over the
    turns. `refusal_p99_ms` is of callers who come besides and heed `Retry-After`; what they are answered well
    counts as anybody's."""

    who: str
    peak_per_s: float
    offered_per_s: float
    kept: float
    least_kept: float
    refusals: int
    refusal_p99_ms: float
    broken: int


def measure_overload(bench: Bench, effort: Effort, say: Say) -> list[Overload]:
    """Clients that rest between two requests, so that they offer ten times the peak whatever is answered; and
    clients that come back at once, which offer what the machine can bear."""
    _allow_files()
    with ExitStack() as stack:
        running = start(stack, bench, HEAVY, mdslite(bench, HEAVY))
        say(f"{HEAVY.label}, its peak")
        peak = _offer(bench, running, effort, connections=PEAK_CONNECTIONS)
        found = []
        for who, pause_s in (
            ("steady", CONNECTIONS / (TIMES * _good_per_s(peak))),
            ("hasty", 0.0),
        ):
            say(f"{HEAVY.label}, overloaded by {who} clients")
            found.append(_overload(bench, running, effort, who, pause_s))
        return found


def _overload(bench: Bench, running: Running, effort: Effort, who: str, pause_s: float) -> Overload:
    peaks, loads, goods = [], [], []
    callers = Callers(running.url, bench.body(HEAVY).read_bytes())
    for _ in range(effort.rounds):
        peaks.append(_offer(bench, running, effort, connections=PEAK_CONNECTIONS))
        with callers:
            load = _offer(bench, running, effort, connections=CONNECTIONS, pause_s=pause_s)
        loads.append(load)
        goods.append(_good_per_s(load) + callers.good / load.seconds)
    kept = [good / _good_per_s(peak) for good, peak in zip(goods, peaks, strict=True)]
    refused_s = sorted(callers.refused_s)
    return Overload(
        who=who,
        peak_per_s=statistics.median(map(_good_per_s, peaks)),
        offered_per_s=statistics.median(load.requests_per_s for load in loads),
        kept=statistics.median(kept),
        least_kept=min(kept),
        refusals=len(refused_s),
        refusal_p99_ms=refused_s[int(len(refused_s) * 0.99)] * 1e3 if refused_s else 0.0,
        broken=sum(load.failed - load.refused for load in loads),
    )


class Callers:
    """Callers that ask while a `with` block runs, each as often as `Retry-After` lets it, and note how long a
    refusal took. `good` is how many were answered well within the last block."""

    def __init__(self, url: str, body: bytes) -> None:
        self.refused_s: list[float] = []
        self.good = 0
        self._url = urlsplit(url)
        self._body = body
        self._done = threading.Event()
        self._counting = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._done.clear()
        self.good = 0
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(CALL_S)

    def _call(self) -> None:
        with closing(http.client.HTTPConnection(self._url.netloc, timeout=CALL_S)) as connection:
            wait_s = random.random()
            while not self._done.wait(wait_s):
                begun = time.perf_counter()
                connection.request("POST", self._url.path, self._body, dict(JSON_HEADERS))
                reply = connection.getresponse()
                reply.read()
                wait_s = float(reply.headers.get("retry-after", "0"))
                if reply.status == http.HTTPStatus.TOO_MANY_REQUESTS:
                    self.refused_s.append(time.perf_counter() - begun)
                elif reply.status == http.HTTPStatus.OK and not self._done.is_set():
                    with self._counting:
                        self.good += 1


def _offer(bench: Bench, running: Running, effort: Effort, *, connections: int, pause_s: float = 0.0) -> Load:
    return run_load(
        running.url,
        body=bench.body(HEAVY),
        connections=connections,
        seconds=effort.seconds,
        pause_s=pause_s,
    )


def _good_per_s(load: Load) -> float:
    return (load.requests - load.refused) / load.seconds


def _allow_files() -> None:
    """Let this process and those that it starts hold so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))
