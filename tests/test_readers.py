"""Hour files that stay open from one question to the next: finished ones alone, in nobody's way."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from log_rows import NOON, Clock, SearchThread, row, running
from waiting import hold_on

from mdslite.store import searcher
from mdslite.store.filters import Filter, parse
from mdslite.store.hours import HOUR_S
from mdslite.store.letters import send
from mdslite.store.questions import Question
from mdslite.store.requests import RequestLog
from mdslite.store.searcher import HEAD, Message

FIRST, SECOND, THIRD = (f"2026-11-22T{hour}.db" for hour in (12, 13, 14))


def write_hours(folder: Path, count: int = 3) -> None:
    with running(folder) as journal:
        for hour in range(count):
            journal.append(row(request_id=f"h{hour}", time=NOON + hour * HOUR_S))


def ask(log: RequestLog) -> list[str]:
    return [entry.request_id for entry in log.query(Filter()).rows]


def kept(log: RequestLog) -> list[str]:
    return sorted(path.name for path in log.kept)


def is_open(path: Path) -> bool:
    """Whether this process has it open."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the folder's own, which is closed by now
            continue
    return str(path) in links


def test_finished_hours_stay_open_and_answer_again(tmp_path: Path) -> None:
    write_hours(tmp_path)
    log = RequestLog(tmp_path, kept=3)
    for _ in range(3):
        assert ask(log) == ["h2", "h1", "h0"]
        assert kept(log) == [FIRST, SECOND, THIRD]
    log.rest()
    assert kept(log) == []
    assert not is_open(tmp_path / FIRST)
    assert ask(log) == ["h2", "h1", "h0"]


def test_no_more_stay_open_than_may_and_none_unless_asked_for(tmp_path: Path) -> None:
    write_hours(tmp_path)
    log = RequestLog(tmp_path, kept=2)
    ask(log)
    assert kept(log) == [FIRST, SECOND]  # a page begins with the newest
    plain = RequestLog(tmp_path)
    ask(plain)
    assert kept(plain) == []


def test_the_hour_that_is_written_never_stays_open(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, kept=3)
    with running(tmp_path, Clock()) as journal:
        for number in range(3):
            journal.append(row(request_id=f"r{number}", time=NOON))
            journal.flush()
            assert len(ask(log)) == number + 1
            assert kept(log) == []
    assert not (tmp_path / f"{FIRST}-wal").exists()


def test_an_hour_that_stays_open_is_written_again_and_sealed_as_any_other(tmp_path: Path) -> None:
    write_hours(tmp_path, 1)
    log = RequestLog(tmp_path, kept=3)
    assert ask(log) == ["h0"]
    with running(tmp_path, Clock()) as journal:
        journal.append(row(request_id="again", time=NOON + 1))
        journal.flush()
        assert (ask(log), kept(log)) == (["again", "h0"], [])
    assert [path.name for path in tmp_path.iterdir()] == [FIRST]
    assert (ask(log), kept(log)) == (["again", "h0"], [FIRST])


def test_what_retention_removes_is_let_go_with_the_next_question(tmp_path: Path) -> None:
    write_hours(tmp_path)
    log = RequestLog(tmp_path, kept=3)
    ask(log)
    (tmp_path / FIRST).unlink()
    assert ask(log) == ["h2", "h1"]
    assert kept(log) == [SECOND, THIRD]
    assert not is_open(tmp_path / f"{FIRST} (deleted)")


def test_a_file_in_another_ones_place_is_opened_anew(tmp_path: Path) -> None:
    write_hours(tmp_path, 1)
    log = RequestLog(tmp_path, kept=3)
    assert ask(log) == ["h0"]
    with closing(sqlite3.connect(tmp_path / "foreign")) as foreign:
        foreign.execute("CREATE TABLE mine (a)")
    (tmp_path / "foreign").rename(tmp_path / FIRST)
    page = log.query(Filter())
    assert (page.rows, page.skipped, kept(log)) == ((), (FIRST,), [])


def test_a_question_that_fails_leaves_its_file_closed(tmp_path: Path) -> None:
    write_hours(tmp_path, 1)
    log = RequestLog(tmp_path, kept=3)
    ask(log)
    with closing(sqlite3.connect(tmp_path / FIRST)) as db, db:
        db.execute("DROP TABLE urls")
    page = log.query(parse("url~spam", now=NOON))
    assert (page.rows, page.skipped, kept(log)) == ((), (FIRST,), [])


def test_the_process_that_answers_closes_them_when_nothing_more_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hours(tmp_path, 1)
    monkeypatch.setattr(searcher, "REST_S", 0.01)
    own, far = socket.socketpair()
    with far:
        thread = SearchThread(far, tmp_path, 10.0)
    with own:
        for _ in range(2):
            send(own, Message(Question(kind="page", now=NOON)))
            kind, size_bytes = HEAD.unpack(own.recv(HEAD.size, socket.MSG_WAITALL))
            assert (kind, b"h0" in own.recv(size_bytes, socket.MSG_WAITALL)) == (searcher.PIECE, True)
            assert HEAD.unpack(own.recv(HEAD.size, socket.MSG_WAITALL)) == (searcher.END, 0)
            hold_on(lambda: not is_open(tmp_path / FIRST))
    assert thread.wait(10)
