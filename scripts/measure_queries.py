"""Measure questions to a request log of one day: pages, histograms, top values, percentiles, text search.

    python scripts/measure_queries.py [--rows 10000000] [--log DIR] [--json]

Makes the log first, of yesterday, with eight versions, more traffic by day than by night, bursts of errors,
and bodies for 1 % of the rows; one that is already in DIR is used again. Asks the process that answers an
appliance's questions, and prints the table that docs/request-log.md quotes.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mdslite.store.blocks import Block
from mdslite.store.bodies import Body
from mdslite.store.hours import list_hours
from mdslite.store.letters import frame
from mdslite.store.questions import Question
from mdslite.store.reading import HourReader
from mdslite.store.recorder import Recorder
from mdslite.store.rows import Labels
from mdslite.store.searcher import END, ERROR, HEAD, Message
from mdslite.store.searches import launch_searcher

DAY_S = 86_400
TIMEOUT_S = 60.0
BLOCK_ROWS = 2500  # a flush at 10,000 a second
SHARES = (0.55, 0.2, 0.1, 0.06, 0.04, 0.03, 0.015, 0.005)
URLS = (
    "/projects/mail/models/spam:predict",
    *(f"/projects/mail/models/spam/versions/v{n}:predict" for n in range(8)),
)
WORDS = """hello offer account invoice meeting tomorrow please find attached the report for your review thanks
best regards team order shipped track package delivery update password reset link click here win prize free
limited time project deadline budget approval customer support ticket number issue resolved schedule call"""


@dataclass(frozen=True)
class Timing:
    """Times of one question, in milliseconds, and what was wanted of it. `first_ms` is that of a process
    which has just started, `median_ms` that of the same question asked again."""

    what: str
    median_ms: float
    first_ms: float
    wanted_ms: float | None


def make_log(folder: Path, rows: int, midnight: float) -> None:
    """Write a day as the writer would, block by block."""
    chance = np.random.default_rng(1)
    recorder = Recorder(folder, max_age_s=1e9, max_bytes=1 << 50)
    recorder.open()
    seconds = np.arange(DAY_S)
    rate = 1.0 + 0.8 * np.sin((seconds / DAY_S - 0.3) * 2 * np.pi)
    ended = np.interp(np.arange(rows) / rows, np.cumsum(rate) / rate.sum(), seconds.astype(np.float64))
    labels = tuple(
        Labels("mail", "spam", f"v{version}", version == 7, f"local/{replica}", status, code)
        for version in range(8)
        for replica in range(2)
        for status, code in (
            (200, None),
            (400, "invalid_request"),
            (500, "model_error"),
            (504, "deadline_exceeded"),
        )
    )
    for start in range(0, rows, BLOCK_ROWS):
        recorder.write(
            recorder.number(make_block(chance, midnight + ended[start : start + BLOCK_ROWS], labels))
        )
    recorder.close()


def make_block(chance: np.random.Generator, ended: np.ndarray, labels: tuple[Labels, ...]) -> Block:
    count = len(ended)
    version = chance.choice(len(SHARES), count, p=SHARES)
    # An error in a hundred, but for ten minutes at noon, when it is one in five.
    noon = abs(float(ended[0]) % DAY_S - DAY_S / 2) < 300
    failed = chance.random(count) < (0.2 if noon else 0.01)
    status = np.where(failed, chance.choice([1, 2, 3], count, p=[0.3, 0.6, 0.1]), 0)
    compute_ms = chance.lognormal(0.0, 0.4, count) * (1 + version * 0.3)
    queue_ms = chance.exponential(0.8, count)
    latency_ms = compute_ms + queue_ms + 0.1 + np.where(status == 3, 5000.0, 0.0)
    confidence = chance.beta(6, 1.5, count).astype(np.float32).astype(np.float64)  # as models give it
    confidence[failed] = np.nan
    noise = chance.bytes(8 * count).hex()
    url = np.where(chance.random(count) < 0.9, 0, version + 1)
    return Block(
        count=count,
        labels=labels,
        label=(version * 2 + chance.integers(0, 2, count)) * 4 + status,
        urls=URLS,
        url=url,
        request_ids=tuple(noise[at : at + 16] for at in range(0, 16 * count, 16)),
        time=ended - latency_ms / 1e3,
        latency_ms=latency_ms,
        queue_ms=queue_ms,
        compute_ms=compute_ms,
        upstream_ms=np.full(count, np.nan),
        confidence=confidence,
        rows=np.where(chance.random(count) < 0.95, 1, chance.integers(2, 9, count)),
        batch_rows=chance.integers(1, 33, count),
        bodies=tuple(make_bodies(chance, np.flatnonzero(chance.random(count) < 0.01), failed)),
        spans=(),
        traces=(),
    )


def make_bodies(chance: np.random.Generator, indexes: np.ndarray, failed: np.ndarray) -> Iterator[Body]:
    known = WORDS.split()
    for index in indexes.tolist():
        words = [known[at] for at in chance.integers(0, len(known), int(chance.lognormal(3.3, 0.7)) + 3)]
        if chance.random() < 0.02:
            words[len(words) // 2] = "refund"
        if chance.random() < 0.0003:
            words[-1] = "chargeback"
        amount = round(float(chance.lognormal(3, 1.5)), 2)
        request = json.dumps({"instances": [{"text": " ".join(words), "amount": amount}]})
        label = chance.choice(["ham", "spam", "news", "social"], p=[0.6, 0.25, 0.1, 0.05])
        reply = json.dumps(
            {"predictions": [{"label": str(label), "score": round(float(chance.random()), 4)}]}
        )
        if failed[index]:
            reply = json.dumps({"error": "the model failed", "code": "model_error"})
        yield Body(index, request, reply, len(request), len(reply))


def questions(midnight: float) -> Iterator[tuple[str, Question, float | None]]:
    """What is asked, how, and how many milliseconds it may take for 10 million rows."""
    now = midnight + DAY_S
    day = f"since={midnight:.0f} until={now:.0f}"
    for text in (
        "", "version=v1", "status>=400", "status=504 version=v7", "confidence<0.6", "latency_ms>20",
        "confidence<0.05", "latency_ms>5 confidence<0.3 version=v6", "url~versions/v7", "request_id=nobody",
        "version=nothing", "since=12h until=710m status>=400",
    ):  # fmt: skip
        yield f"page of 100: {text or 'everything'}", Question(kind="page", now=now, filter=text), 200
    for text in (
        "text~refund",
        "text~chargeback",
        "text~nothingofthekind",
        "request.amount>2000",
        "reply.label=spam status=200",
    ):
        yield f"page of 100: {text}", Question(kind="page", now=now, filter=text), 300
    for text, interval_s in (
        ("", 900), ("", 60), ("", 10), ("version=v1", 10), ("status>=400", 60), ("confidence<0.6", 900),
        ("latency_ms>3", 60), ("text~refund", 900),
    ):  # fmt: skip
        asked = Question(kind="histogram", now=now, filter=f"{day} {text}", interval_s=float(interval_s))
        yield f"24 h by {interval_s} s: {text or 'everything'}", asked, 300 if "text" in text else 100
    for field, text in (
        ("version", ""), ("code", ""), ("endpoint", "status>=400"), ("url", "confidence<0.6"),
        ("batch_rows", ""), ("latency_ms", ""), ("reply.label", ""), ("request.amount", "version=v0"),
    ):  # fmt: skip
        asked = Question(kind="top", now=now, filter=f"{day} {text}", field=field, limit=10)
        yield f"top values of {field}: {text or 'everything'}", asked, 300
    for text in ("", "version=v1", "since=1h"):
        asked = Question(kind="percentiles", now=now, filter=text)
        yield f"percentiles: {text or 'everything'}", asked, None


class Searcher(AbstractContextManager["Searcher"]):
    """The process that answers the appliance's questions, asked from here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Searcher:
        self._end, far = socket.socketpair()
        with far:
            self._process = launch_searcher(far, self._folder, TIMEOUT_S)
        with suppress(RuntimeError):  # refused before any file is looked at: it is up
            self.ask(Question(kind="top", now=0.0, field="nonsense"))
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._process.wait(TIMEOUT_S)
        self._process.close()

    def ask(self, question: Question) -> None:
        """
        :raises RuntimeError: the answer is an error
        """
        self._end.sendall(frame(Message(question)))
        while True:
            kind, size_bytes = HEAD.unpack(self._receive(HEAD.size))
            said = self._receive(size_bytes)
            if kind == ERROR:
                raise RuntimeError(repr(said))
            if kind == END:
                return

    def _receive(self, size_bytes: int) -> bytes:
        return self._end.recv(size_bytes, socket.MSG_WAITALL) if size_bytes else b""


def measure(folder: Path, *, rounds: int) -> Iterator[Timing]:
    """Ask each question of a process that has just started, and then again."""
    for what, question, wanted_ms in questions(list_hours(folder)[0].start):
        times = []
        with Searcher(folder) as searcher:
            for _ in range(rounds + 1):
                start = time.perf_counter()
                searcher.ask(question)
                times.append((time.perf_counter() - start) * 1e3)
        yield Timing(what, statistics.median(times[1:]), times[0], wanted_ms)


def measure_sizes(folder: Path, rows: int) -> float:
    """Bytes a row, without the bodies."""
    size_bytes = bodies_bytes = 0
    for path in folder.glob("*.db"):
        size_bytes += path.stat().st_size
        with HourReader(path, late=bool) as hour:
            ((found,),) = hour.all(
                "SELECT coalesce(sum(length(request) + length(reply) + 24), 0) FROM bodies"
            )
            bodies_bytes += found
    return (size_bytes - bodies_bytes) / rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--log", type=Path, help="where it is, or is made (a temporary place)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each question is asked")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.log or Path(temporary) / "log"
        start = time.monotonic()
        if not folder.exists():
            folder.mkdir(parents=True)
            make_log(folder, options.rows, (time.time() // DAY_S - 1) * DAY_S)
            print(f"made {options.rows:,} rows in {time.monotonic() - start:.0f} s", file=sys.stderr)
        bytes_a_row = measure_sizes(folder, options.rows)
        found = []
        for timing in measure(folder, rounds=options.rounds):
            found.append(timing)
            if not options.json:
                print(
                    f"{found[-1].what:<66}{found[-1].median_ms:9.1f} ms {found[-1].first_ms:9.1f} at first",
                    flush=True,
                )
    if options.json:
        print(
            json.dumps(
                {
                    "bytes_a_row": bytes_a_row,
                    "rows": options.rows,
                    "questions": [asdict(one) for one in found],
                }
            )
        )
    else:
        print(f"{bytes_a_row:.1f} bytes a row without bodies")


if __name__ == "__main__":
    main()
