"""How the answers of one batch reach their clients and the log: together, and each as if it were alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from doors import open_site, run
from h1_client import PREDICT, predict

from mdslite.predict.books import Books
from mdslite.predict.call import Call, answer_nobody
from mdslite.predict.outbox import LARGE_BYTES, Outbox
from mdslite.predict.predictor import Predictor
from mdslite.serving.fleet import Served
from mdslite.serving.samples import Samples
from mdslite.spec import Spec
from mdslite.store.rows import Run

VERSION = "/projects/p/models/m/versions/v1:predict"


class Socket(asyncio.WriteTransport):
    """A transport whose writes stand in a list that it shares."""

    def __init__(self, name: str, written: list[tuple[str, bytes]]) -> None:
        super().__init__()
        self._name = name
        self._written = written

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append((self._name, bytes(data)))


def test_replies_are_held_until_all_are_put_and_then_written_in_their_order() -> None:
    written: list[tuple[str, bytes]] = []
    one, other = Socket("one", written), Socket("other", written)
    outbox = Outbox()
    with outbox:
        outbox.send(one, b"1")
        outbox.send(other, b"2")
        assert written == []
    assert written == [("one", b"1"), ("other", b"2")]


def test_a_reply_that_is_alone_or_large_is_written_at_once() -> None:
    written: list[tuple[str, bytes]] = []
    socket, large = Socket("one", written), bytes(LARGE_BYTES + 1)
    outbox = Outbox()
    outbox.send(socket, b"1")
    assert written == [("one", b"1")]
    with outbox:
        outbox.send(socket, large)
        assert written == [("one", b"1"), ("one", large)]


def test_what_was_put_before_a_mistake_is_written() -> None:
    written: list[tuple[str, bytes]] = []
    outbox = Outbox()
    with pytest.raises(ZeroDivisionError), outbox:
        outbox.send(Socket("one", written), b"1")
        raise ZeroDivisionError
    assert written == [("one", b"1")]
    outbox.send(Socket("one", written), b"2")
    assert written[-1] == ("one", b"2")


def call_of(batch: float, url: str, client: str | None, served: Served) -> Call:
    """A call that a batch, which began at that time, has answered."""
    call = Call(url.encode(), b"asked", b"", b"", None, batch - 0.002, answer_nobody)
    call.url, call.client, call.served = url, client, served
    call.queued_at, call.started_at, call.compute_s = batch - 0.001, batch, 0.001
    call.replica, call.batch_rows = "local/0", 12
    return call


class Busy(Samples):
    """Of a version with so many answers that one of six is taken."""

    def __init__(self) -> None:
        super().__init__(failed=0)
        self._gap, self._skip, self._until = 10.0, 5, math.inf


@pytest.mark.parametrize(
    ("samples", "bodies"),
    [
        (Busy, 4),
        (partial(Samples, good=0), 0),
        (partial(Samples, good=2), 2),
        (partial(Samples, good=99), 24),
    ],
)
def test_the_log_is_told_of_each_answer_as_if_it_were_alone(
    samples: Callable[[], Samples], bodies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches to two URLs for two clients, with the bodies of none, some or all."""
    monkeypatch.setattr("mdslite.serving.samples.random", lambda: 0.25)

    async def test() -> None:
        served = Served(("p", "m", "v1"), Spec(uri="file:x"), "", state="ready")
        calls = [
            call_of(batch, url, client, served)
            for batch, url, client in (
                (7.0, PREDICT, "one"),
                (7.0, VERSION, "one"),
                (7.0, VERSION, None),
                (8.0, VERSION, None),
            )
            for _ in range(6)
        ]
        told = []
        for together in (True, False):
            runs: list[Run] = []
            rows: list[Any] = []
            books = Books(lambda row, _=None: rows.append(row), runs.append)  # noqa: B023
            served.samples = samples()
            books.started = len(calls)
            if together:
                books.record_all([(call, b"answered") for call in calls])
            else:
                for call in calls:
                    books.record(call, 200, None, b"answered")
            await asyncio.sleep(0)  # runs are handed over at the end of the loop's turn
            assert books.open == 0
            assert len(rows) == bodies
            alone = {(row[1], row[6], row[20], row[17], row[18]) for row in rows}
            entries = {
                (call[0], one.url, one.labels.client, one.started) for one in runs for call in one.calls
            }
            assert len(alone) + len(entries) == len(calls) == len(rows) + sum(len(one.calls) for one in runs)
            told.append((alone, entries))
        assert told[0] == told[1]
        assert told[0][1] <= {(call.request_id, call.url, call.client, call.started_at) for call in calls}

    run(test())


def test_one_answer_that_cannot_be_put_leaves_its_neighbours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are not common go the careful way, beside the others."""
    together: list[int] = []
    finish_all = Predictor.finish_all

    def count(predictor: Predictor, calls: Any) -> None:
        together.append(len(calls))
        finish_all(predictor, calls)

    monkeypatch.setattr(Predictor, "finish_all", count)

    async def test() -> None:
        async with open_site(tmp_path) as site, AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(site.connect()) for _ in range(9)]
            (served,) = site.fleet.all()
            broken = served.codec.encode

            def encode(outputs: Any, form: Any) -> bytes:
                if form == "inputs" or outputs[0][0][0] == 6:
                    raise ZeroDivisionError
                return broken(outputs, form)

            monkeypatch.setattr(served.codec, "encode", encode)
            for number, wire in enumerate(wires):
                body = {4: b'{"inputs": [[1, 2, 3]]}', 6: b'{"instances": [[6, 2, 3]]}'}.get(number)
                wire.send(predict(body=body))
            statuses = [(await wire.reply()).status for wire in wires]
            assert statuses == [200] * 4 + [500, 200, 500] + [200] * 2
            assert site.predictor.books.open == 0

    run(test())
    assert sum(together) == 9
    assert "could not be encoded" in caplog.text
