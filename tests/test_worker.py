"""One thread owns a connection; the event loop reaches it through a bounded queue."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator

import pytest

from mdslite.errors import DeadlineExceeded, Unavailable
from mdslite.store.worker import Worker

pytestmark = pytest.mark.anyio


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("registry", depth=4, wait_s=20.0)
    yield worker
    worker.close()


async def test_all_calls_run_in_one_thread_that_is_not_the_loops(worker: Worker) -> None:
    idents = {await worker.call(threading.get_ident) for _ in range(5)}
    assert len(idents) == 1
    assert threading.get_ident() not in idents


async def test_a_sqlite_connection_lives_in_the_worker(worker: Worker) -> None:
    db = await worker.call(sqlite3.connect, ":memory:")
    with pytest.raises(sqlite3.ProgrammingError):
        db.execute("select 1")
    assert (await worker.call(lambda: db.execute("select 1").fetchone())) == (1,)
    await worker.call(db.close)


async def test_arguments_go_in_and_exceptions_come_out(worker: Worker) -> None:
    assert await worker.call(int, "ff", base=16) == 255
    with pytest.raises(ZeroDivisionError):
        await worker.call(divmod, 1, 0)
    with pytest.raises(TimeoutError):
        await worker.call(_time_out)
    assert await worker.call(int, "7") == 7


async def test_a_full_queue_refuses_and_recovers(worker: Worker) -> None:
    gate = threading.Event()
    waiting = [worker.submit(gate.wait, 20.0) for _ in range(4)]
    with pytest.raises(Unavailable, match="registry"):
        await worker.call(int, "1")
    gate.set()
    assert all(future.result(timeout=20.0) for future in waiting)
    assert await worker.call(int, "1") == 1


async def test_a_cancelled_callers_work_is_skipped(worker: Worker) -> None:
    gate, ran = threading.Event(), threading.Event()
    first = worker.submit(gate.wait, 20.0)
    task = asyncio.create_task(worker.call(ran.set))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert first.result(timeout=20.0)
    await worker.call(int)
    assert not ran.is_set()


async def test_a_call_that_takes_too_long_is_given_up() -> None:
    worker = Worker("registry", wait_s=0.02)
    gate = threading.Event()
    try:
        with pytest.raises(DeadlineExceeded, match="registry"):
            await worker.call(gate.wait, 20.0)
    finally:
        gate.set()
        worker.close()


async def test_closing_finishes_what_is_queued_and_refuses_more(worker: Worker) -> None:
    done: list[int] = []
    futures = [worker.submit(done.append, number) for number in range(3)]
    worker.close()
    assert done == [0, 1, 2] and all(future.done() for future in futures)
    with pytest.raises(Unavailable, match="closed"):
        await worker.call(int)
    worker.close()


def _time_out() -> None:
    raise TimeoutError
