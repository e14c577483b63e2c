"""The processes that answer questions to the request log: started, asked, interrupted, ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from log_rows import NOON, SearchThread, launch_search_thread, row, running
from waiting import until

from mdslite.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MdsliteError,
    NotFound,
    Overloaded,
    Unavailable,
)
from mdslite.store import searcher
from mdslite.store import searches as module
from mdslite.store.questions import Question
from mdslite.store.searches import AT_ONCE, Searches, launch_searcher

pytestmark = pytest.mark.anyio
NOW = NOON + 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    with running(folder) as journal:
        for number in range(5000):
            body = b'{"instances": [{"n": %d}]}' % number
            journal.append(row(request_id=f"r{number}", time=NOON + number / 100, request=body))
        assert journal.flush()
    return folder


@pytest.fixture
async def searches(folder: Path) -> AsyncIterator[Searches]:
    made = Searches(folder, launch=launch_search_thread)
    yield made
    await made.close()
    assert made.processes == 0


def question(kind: Any = "page", **more: Any) -> Question:
    return Question(kind=kind, now=NOW, **more)


async def read(searches: Searches, **more: Any) -> Any:
    return json.loads(await searches.ask(question(**more)))


async def test_a_process_of_its_own_answers_and_is_kept_for_the_next_question(folder: Path) -> None:
    searches = Searches(folder)
    try:
        found = await read(searches, limit=2)
        assert [one["request_id"] for one in found["rows"]] == ["r4999", "r4998"]
        assert (await read(searches, kind="top", field="version"))["rows"] == 5000
        assert searches.processes == 1
    finally:
        await searches.close()


async def test_every_kind_of_question_is_answered(searches: Searches) -> None:
    page = await read(searches, filter="request.n=7")
    (found,) = page["rows"]
    assert (found["request_id"], page["next"], page["skipped"]) == ("r7", None, [])
    assert (await read(searches, kind="row", id=found["id"]))["row"] == found
    histogram = await read(searches, kind="histogram", filter="since=2026-11-22T12:00", interval_s=10)
    assert [sum(one["counts"]) for one in histogram["series"]] == [5000]
    percentiles = await read(searches, kind="percentiles")
    assert percentiles["groups"][0]["count"] == 5000


async def test_what_is_wrong_with_a_question_comes_back_as_it_was_raised(searches: Searches) -> None:
    with pytest.raises(InvalidRequest, match="no field 'nonsense'") as caught:
        await searches.ask(question(filter="nonsense=1"))
    assert caught.value.hint
    with pytest.raises(NotFound, match="no row 5"):
        await searches.ask(question("row", id=5))
    assert searches.processes == 1


async def test_a_mistake_of_ours_ends_no_process(
    searches: Searches, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(searcher, "answer", None)
        with pytest.raises(MdsliteError, match="the query failed"):
            await searches.ask(question())
    assert "could not be answered" in caplog.text
    assert (await read(searches, limit=1))["rows"]
    assert searches.processes == 1


async def test_a_question_that_nobody_waits_for_is_taken_back(searches: Searches) -> None:
    assert len((await read(searches, limit=3))["rows"]) == 3
    for turns in range(5):  # too few for an answer, which takes a reading of the log elsewhere
        asked = asyncio.create_task(searches.ask(question("top", field="request.n")))
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert len((await read(searches, limit=3))["rows"]) == 3
        assert searches.processes <= AT_ONCE


async def test_an_export_may_be_left_before_its_end(searches: Searches) -> None:
    pieces = searches.export(question("jsonl"))
    assert await anext(pieces) == b"5000"
    assert (await anext(pieces)).startswith(b'{"id"')
    await pieces.aclose()
    assert len((await read(searches, limit=3))["rows"]) == 3


async def test_only_so_many_are_answered_at_once(folder: Path) -> None:
    searches = Searches(folder, launch=launch_search_thread)
    found = await asyncio.gather(*(searches.ask(question(limit=1)) for _ in range(20)))
    assert len(set(found)) == 1
    assert searches.processes <= AT_ONCE
    await searches.close()


def silent(end: socket.socket, folder: Path, timeout_s: float) -> SearchThread:
    """A reader that hears and says nothing."""
    keep = end.dup()

    class Silent(SearchThread):
        def _serve(self, folder: Path, timeout_s: float) -> None:
            with keep, self._end:
                while self._end.recv(1000):
                    pass

    return Silent(end, folder, timeout_s)


async def test_too_many_that_wait_are_refused_and_none_waits_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    searches = Searches(folder, wait_s=0.05, launch=silent)
    busy = [asyncio.create_task(searches.ask(question())) for _ in range(AT_ONCE)]
    await until(lambda: searches.processes == AT_ONCE)
    waiting = asyncio.create_task(searches.ask(question()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="too many"):
        await searches.ask(question())
    with pytest.raises(Unavailable, match="busy"):
        await waiting
    for one in busy:
        one.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    await searches.close()


async def test_a_process_that_does_not_answer_in_time_is_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    searches = Searches(folder, query_s=0.05, launch=silent)
    with pytest.raises(DeadlineExceeded, match="too long"):
        await searches.ask(question())
    await searches.close()
    assert searches.processes == 0


async def test_a_process_that_was_killed_is_replaced(folder: Path) -> None:
    killed: list[int] = []

    def launch(end: socket.socket, folder: Path, timeout_s: float) -> Any:
        child = launch_searcher(end, folder, timeout_s)
        killed.append(child.pid)
        return child

    searches = Searches(folder, launch=launch)
    try:
        await searches.ask(question(limit=1))
        os.kill(killed[0], signal.SIGKILL)
        for _ in range(2):  # at most one question is lost with it
            try:
                found = await read(searches, limit=1)
            except Unavailable:
                found = await read(searches, limit=1)
        assert len(found["rows"]) == 1
        assert len(killed) == 2
    finally:
        await searches.close()


async def test_a_process_with_nothing_to_do_is_ended(folder: Path) -> None:
    ended = asyncio.Event()

    class Watched(SearchThread):
        def wait(self, timeout_s: float | None = None) -> bool:
            loop.call_soon_threadsafe(ended.set)
            return super().wait(timeout_s)

    loop = asyncio.get_running_loop()
    launch: Callable[[socket.socket, Path, float], SearchThread] = Watched
    searches = Searches(folder, idle_s=0.01, launch=launch)
    await searches.ask(question(limit=1))
    async with asyncio.timeout(10):
        await ended.wait()
    assert searches.processes == 0
    assert len((await read(searches, limit=1))["rows"]) == 1
    await searches.close()
    with pytest.raises(Unavailable, match="ending"):
        await searches.ask(question(limit=1))
