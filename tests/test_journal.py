"""The request log's writing end: what is appended is readable soon, and no fault of the disk, of the clock or
of a caller stops it."""

from __future__ import annotations

import base64
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from log_rows import HOUR_S, NOON, Clock, files, row, running, wanted

from mdslite.errors import StoreError
from mdslite.serving.spans import Span, write_spans
from mdslite.store.hourfile import MAX_SERIES, MAX_URLS, OTHER_URL
from mdslite.store.journal import Journal
from mdslite.store.requests import Entry, LoggedBody, NodeSpan, RequestLog
from mdslite.store.rows import (
    MAX_ENDPOINT_CHARS,
    MAX_ID_CHARS,
    MAX_NAME_CHARS,
    MAX_SPANS_CHARS,
    MAX_URL_CHARS,
    Labels,
    Run,
)
from mdslite.store.tallies import Tally

PAGE = 4096
SPANS = """[{"node": "first", "started_ms": 0.5, "queue_ms": 0.1, "compute_ms": 2.0, "version": "v1"},
 {"node": "second", "started_ms": 2.75, "error": "model_error", "more": 1}]"""


def read(folder: Path, text: str = "", *, now: float = NOON) -> list[Entry]:
    """Every row that passes, oldest first."""
    log, found, after = RequestLog(folder), [], 0
    while (page := log.tail(wanted(text, now=now), after=after, limit=10_000)).rows:
        found += page.rows
        after = page.next or 0
    assert not page.skipped
    return found


def ids(folder: Path) -> list[str]:
    return [entry.request_id for entry in read(folder)]


def count(tallies: list[Tally]) -> int:
    return sum(of.count for tally in tallies for of in tally.requests)


def sql(file: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        return db.execute(statement).fetchall()


# Appending


def test_every_field_is_kept(tmp_path: Path) -> None:
    fields = {
        "time": NOON, "request_id": "r1", "project": "mail", "model": "spam", "version": "v2", "shadow": True,
        "url": "/x", "status": 500, "code": "model_error", "latency_ms": 12.345, "queue_ms": 1.5,
        "compute_ms": 2.25, "upstream_ms": 3.125, "rows": 3, "batch_rows": 32, "confidence": 0.1234567,
        "endpoint": "http://other:8500", "client": "alice",
    }  # fmt: skip
    with running(tmp_path) as journal:
        journal.append(row(**fields, request=b'{"a":1}', reply=b'{"b":2}', spans=SPANS))
        assert journal.flush()
        (entry,) = read(tmp_path)
    assert {name: getattr(entry, name) for name in fields} == fields
    assert entry.request == LoggedBody(content='{"a":1}', encoding="utf-8", size_bytes=7, truncated=False)
    assert entry.reply == LoggedBody(content='{"b":2}', encoding="utf-8", size_bytes=7, truncated=False)
    assert entry.spans == (
        NodeSpan("first", 0.5, queue_ms=0.1, compute_ms=2.0, version="v1"),
        NodeSpan("second", 2.75, error="model_error"),
    )


def test_all_that_a_span_says_is_read_again(tmp_path: Path) -> None:
    inner, outer = Span(begun_s=0.0), Span(begun_s=0.0)
    inner.rows, inner.batch_rows, inner.upstream_ms = 2, 4, 1.5
    outer.rows, outer.batch_rows = 1, 3
    outer.inner = write_spans([('"far"', inner)])
    with running(tmp_path) as journal:
        journal.append(row(spans=write_spans([('"whole"', outer)])))
        assert journal.flush()
        (entry,) = read(tmp_path)
    assert entry.spans is not None and entry.spans[0].spans is not None
    (whole,), (far,) = entry.spans, entry.spans[0].spans
    assert (whole.node, whole.rows, whole.batch_rows, whole.upstream_ms) == ("whole", 1, 3, None)
    assert (far.node, far.rows, far.batch_rows, far.upstream_ms, far.spans) == ("far", 2, 4, 1.5, None)


@pytest.mark.parametrize("spans", ["no JSON", '[{"name": "first"}]', f'["{"x" * MAX_SPANS_CHARS}"]'])
def test_spans_that_nobody_can_read_are_left_out(tmp_path: Path, spans: str) -> None:
    with running(tmp_path) as journal:
        journal.append(row(request_id="odd", spans=spans))
        assert journal.flush()
        (entry,) = read(tmp_path)
    assert (entry.request_id, entry.spans) == ("odd", None)


def test_what_is_absent_stays_absent(tmp_path: Path) -> None:
    nothing = row(
        project=None, model=None, version=None, status=404, code="not_found", queue_ms=None, compute_ms=None,
        upstream_ms=None, confidence=None, rows=0, batch_rows=0, endpoint="",
    )  # fmt: skip
    with running(tmp_path) as journal:
        journal.append(nothing)
        assert journal.flush()
        (entry,) = read(tmp_path)
    assert (entry.project, entry.model, entry.version, entry.endpoint) == (None, None, None, "")
    assert (entry.queue_ms, entry.compute_ms, entry.upstream_ms, entry.confidence) == (None, None, None, None)
    assert (entry.request, entry.reply, entry.spans, entry.client) == (None, None, None, None)


def test_rows_are_written_without_being_asked_for(tmp_path: Path) -> None:
    seen = threading.Event()
    with running(tmp_path, flush_s=0.01, observers=[lambda _: seen.set()]) as journal:
        journal.append(row())
        assert seen.wait(10)


def test_many_rows_keep_their_order_and_get_rising_ids(tmp_path: Path) -> None:
    names = [f"r{number}" for number in range(9000)]
    with running(tmp_path) as journal:
        for name in names:
            journal.append(row(request_id=name))
        assert journal.flush()
        entries = read(tmp_path)
    assert [entry.request_id for entry in entries] == names
    assert all(a.id < b.id for a, b in itertools.pairwise(entries))


def test_a_full_journal_drops_and_counts(tmp_path: Path) -> None:
    with running(tmp_path, ring_bytes=PAGE, flush_s=60) as journal:
        sent = 0
        while not journal.statistics().dropped:
            journal.append(row())
            sent += 1
        for _ in range(4):
            journal.append(row())
        assert (journal.statistics().pending, journal.statistics().dropped) == (sent - 1, 5)
        assert journal.flush()
        assert (journal.statistics().written, journal.statistics().pending) == (sent - 1, 0)
        journal.append(row())
        assert journal.close()
    assert len(ids(tmp_path)) == sent


def run_of(count: int, *, version: str = "v1", begun: float = 100.0) -> Run:
    """A batch of good answers: call N arrived N ms before it was queued, and waited 1 ms from there."""
    run = Run(
        Labels("mail", "spam", version, False, "local/0", 200, None),
        "/projects/mail/models/spam:predict",
        started=begun,
        compute_ms=1.5,
        batch_rows=count,
        clock_to_unix=NOON - begun,
    )
    for number in range(count):
        queued = begun - 0.001
        run.calls.append(
            (
                f"{version}-{number}",
                queued - number / 1e3,
                queued,
                begun + 0.002,
                number / 10 or None,
                1,
                None,
            )
        )
    return run


def test_a_batch_is_logged_like_its_requests_one_by_one(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock) as journal:
        journal.append_run(run_of(3))
        journal.append_run(run_of(2, version="v2"))
        assert journal.flush()
        assert journal.statistics().written == 5
    entries = {entry.request_id: entry for entry in read(tmp_path)}
    assert set(entries) == {"v1-0", "v1-1", "v1-2", "v2-0", "v2-1"}
    last = entries["v1-2"]
    assert (last.project, last.model, last.version, last.status, last.endpoint) == (
        "mail",
        "spam",
        "v1",
        200,
        "local/0",
    )
    assert last.time == pytest.approx(NOON - 0.003, abs=1e-5)
    assert (last.latency_ms, last.queue_ms, last.compute_ms) == pytest.approx((5.0, 1.0, 1.5), abs=1e-3)
    assert (last.rows, last.batch_rows, last.confidence) == (1, 3, pytest.approx(0.2))
    assert entries["v1-0"].confidence is None
    assert last.request is None


def test_rows_and_batches_keep_the_order_in_which_they_came(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append_run(run_of(2, version="v1"))
        journal.append(row(request_id="a", request=b"body of a", spans=SPANS))
        journal.append_run(run_of(3, version="v2"))
        journal.append(row(request_id="b", status=500, request=b"body of b"))
        assert journal.flush()
        entries = read(tmp_path)
    names = [entry.request_id for entry in entries]
    assert names == ["v1-0", "v1-1", "a", "v2-0", "v2-1", "v2-2", "b"]
    kept = {entry.request_id: entry.request.content for entry in entries if entry.request is not None}
    assert kept == {"a": "body of a", "b": "body of b"}
    assert [entry.request_id for entry in entries if entry.spans] == ["a"]


def test_a_full_journal_drops_whole_batches_and_counts_their_requests(tmp_path: Path) -> None:
    with running(tmp_path, ring_bytes=PAGE, flush_s=60) as journal:
        for _ in range(4):
            journal.append_run(run_of(40))
        found = journal.statistics()
        assert found.dropped > 0
        assert found.dropped % 40 == 0
        assert found.pending + found.dropped == 160


def test_close_writes_what_is_there(tmp_path: Path) -> None:
    with running(tmp_path, flush_s=60) as journal:
        journal.append(row(request_id="last"))
        assert journal.close()
    assert ids(tmp_path) == ["last"]
    assert files(tmp_path) == ["2026-11-22T12.db"]


def test_a_closed_journal_takes_nothing_more(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        assert journal.close()
        journal.append(row())
        assert journal.statistics().dropped == 1
        assert not journal.flush()
        assert journal.close()


def test_a_journal_that_never_started_closes(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert not journal.flush()
    assert journal.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(StoreError, match="cannot be made"):
        Journal(tmp_path / "log").start()


def test_a_malformed_row_is_lost_alone(tmp_path: Path) -> None:
    bad = [
        row(time=float("nan")),
        row(time=-1.0),
        row(latency_ms=None),
        row(latency_ms=1e12),
        row(status="ok"),
        row(confidence="high"),
        row(rows=None),
        row(url=None),
        row(request_id=7),
        row(request=5),
        row(spans=7),
        row(client=7),
        row(url=object()),
        row()[:-1],
        (1, 2, 3),
    ]
    with running(tmp_path) as journal:
        for number, mistake in enumerate(bad):
            journal.append(row(request_id=f"good{number}"))
            journal.append(mistake)  # type: ignore[arg-type]
        assert journal.flush()
        assert journal.statistics().malformed == len(bad)
    assert ids(tmp_path) == [f"good{number}" for number in range(len(bad))]


def test_a_clock_that_ran_backwards_during_a_request_gives_no_negative_latency(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row(latency_ms=-5.0))
        assert journal.flush()
        assert read(tmp_path)[0].latency_ms == 0


def test_numbers_that_are_not_finite_are_absent(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row(confidence=float("nan"), queue_ms=float("inf")))
        assert journal.flush()
        (entry,) = read(tmp_path)
    assert (entry.confidence, entry.queue_ms) == (None, None)


def test_observers_hear_of_every_request_and_their_mistakes_cost_nothing(tmp_path: Path) -> None:
    heard: list[Tally] = []

    def fail(_: Tally) -> None:
        raise RuntimeError("a mistake")

    with running(tmp_path, observers=[fail, heard.append]) as journal:
        for number in range(5000):
            journal.append(row(version=f"v{number % 3}"))
        assert journal.flush()
        assert journal.statistics().written == 5000
    assert count(heard) == 5000
    assert {of.version for tally in heard for of in tally.requests} == {"v0", "v1", "v2"}


# Bounds


def test_long_strings_are_cut(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(
            row(
                url="/" + "u" * 5000,
                request_id="i" * 500,
                version="v" * 500,
                code="c" * 500,
                endpoint="e" * 999,
            )
        )
        assert journal.flush()
        (entry,) = read(tmp_path)
    assert (len(entry.url), len(entry.request_id)) == (MAX_URL_CHARS, MAX_ID_CHARS)
    assert len(entry.endpoint) == MAX_ENDPOINT_CHARS
    assert (len(entry.version or ""), len(entry.code or "")) == (MAX_NAME_CHARS, MAX_NAME_CHARS)


def test_text_that_utf8_cannot_carry_is_kept_as_far_as_possible(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row(url="/a\udcff", request_id="b\udcff", endpoint="c\udcff", project="größe"))
        assert journal.flush()
        (entry,) = read(tmp_path)
    assert (entry.url, entry.request_id, entry.endpoint, entry.project) == ("/a?", "b?", "c?", "größe")


def test_a_flood_of_urls_and_names_cannot_grow_a_file_without_end(tmp_path: Path) -> None:
    count = MAX_URLS + 500
    with running(tmp_path) as journal:
        for number in range(count):
            journal.append(row(url=f"/flood?{number}", version=f"v{number}"))
        assert journal.flush()
        journal.append(row(url="/flood?0", version="v0", request_id="known"))
        journal.append(row(url="/unknown", version="unknown", request_id="unknown"))
        assert journal.flush()
        entries = {entry.request_id: entry for entry in read(tmp_path)}
    assert len(entries) == count + 2
    assert (entries["known"].url, entries["known"].version) == ("/flood?0", "v0")
    assert (entries["unknown"].url, entries["unknown"].version) == (OTHER_URL, None)
    file = tmp_path / "2026-11-22T12.db"
    assert sql(file, "SELECT count(*) FROM urls") == [(MAX_URLS + 1,)]
    assert sql(file, "SELECT count(*) FROM series") == [(MAX_SERIES + 1,)]
    assert sql(file, "SELECT sum(count) FROM minutes") == [(count + 2,)]


# Bodies


def test_bodies_are_cut_and_say_how_long_they_were(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row(request=b"x" * 5000, reply="ä".encode() * 2048 + b"!"))
        journal.append(row(version="v2", request=b"\xff\xfe\x00\x01" * 2000, reply=b"\x00" * 8, status=500))
        journal.append(row(version="v3", request=b"a" + "ä".encode() * 4000))
        assert journal.flush()
        text, binary, odd = read(tmp_path)
    assert text.request == LoggedBody("x" * 4096, "utf-8", size_bytes=5000, truncated=True)
    assert text.reply == LoggedBody("ä" * 2048, "utf-8", size_bytes=4097, truncated=True)
    assert binary.request is not None
    assert base64.b64decode(binary.request.content) == b"\xff\xfe\x00\x01" * 1024
    assert (binary.request.encoding, binary.request.size_bytes) == ("base64", 8000)
    assert binary.request.truncated
    assert binary.reply == LoggedBody("AAAAAAAAAAA=", "base64", size_bytes=8, truncated=False)
    assert odd.request is not None
    assert odd.request.content == "a" + "ä" * 2047  # the character that the cut would halve is left out


def test_bodies_are_the_first_to_go_when_much_waits(tmp_path: Path) -> None:
    with running(tmp_path, ring_bytes=4 * PAGE, flush_s=60) as journal:
        for number in range(10):
            journal.append(row(request_id=f"r{number}", request=b"x" * PAGE, reply=b"y" * 50))
        found = journal.statistics()
        assert (found.pending, found.bodiless) == (10, 8)
        assert journal.flush()
        assert [entry.request_id for entry in read(tmp_path) if entry.request] == ["r0", "r1"]


# Hours


def test_rows_go_to_the_file_of_their_hour(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row(request_id="before", time=NOON - 10))
        journal.append(row(request_id="across", time=NOON - 0.001, latency_ms=500.0))
        journal.append(row(request_id="after", time=NOON + 1))
        assert journal.flush()
        assert files(tmp_path) == [
            "2026-11-22T11.db", "2026-11-22T12.db", "2026-11-22T12.db-shm", "2026-11-22T12.db-wal",
        ]  # fmt: skip
    assert sql(tmp_path / "2026-11-22T11.db", "SELECT request_id FROM requests") == [("before",)]
    assert sql(tmp_path / "2026-11-22T12.db", "SELECT request_id FROM requests") == [("across",), ("after",)]
    assert ids(tmp_path) == ["before", "across", "after"]


def test_an_hour_without_traffic_after_it_is_sealed_too(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock) as journal:
        journal.append(row())
        assert journal.flush()
        assert "2026-11-22T12.db-wal" in files(tmp_path)
        for _ in range(2):
            clock.pass_by(HOUR_S)
            assert journal.flush()
        assert files(tmp_path) == ["2026-11-22T12.db"]


def test_an_hour_that_a_reader_holds_is_sealed_later(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock) as journal:
        journal.append(row())
        assert journal.flush()
        with closing(sqlite3.connect(f"file:{tmp_path / '2026-11-22T12.db'}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entries").fetchone()
            clock.pass_by(HOUR_S)
            journal.append(row(time=clock.now))
            assert journal.flush()
            assert "2026-11-22T12.db-shm" in files(tmp_path)
            assert reader.execute("SELECT count(*) FROM entries").fetchone() == (1,)
        clock.pass_by(60)
        assert journal.flush()
        assert "2026-11-22T12.db-shm" not in files(tmp_path)
    assert len(ids(tmp_path)) == 2


def test_a_restart_within_the_hour_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with running(tmp_path) as journal:
            journal.append(row(request_id=name))
            assert journal.flush()
    assert ids(tmp_path) == ["first", "second"]
    file = tmp_path / "2026-11-22T12.db"
    assert sql(file, "SELECT count(*) FROM series") == [(1,)]
    assert sql(file, "SELECT count, latency_us FROM seconds") == [(2, 4000)]
    assert sql(file, "SELECT count, latency_us, latency_to_2000us, latency_max_us FROM minutes") == [
        (2, 4000, 2, 2000)
    ]


@pytest.mark.parametrize("jump_s", [-30.0, -3 * HOUR_S, 3 * HOUR_S, -400 * 86400.0])
def test_ids_rise_however_the_clock_jumps(tmp_path: Path, jump_s: float) -> None:
    with running(tmp_path) as journal:
        for number, time in enumerate([NOON, NOON + jump_s, NOON + jump_s + 1, NOON, NOON + jump_s]):
            journal.append(row(request_id=f"r{number}", time=time))
            assert journal.flush()
    with running(tmp_path) as journal:  # and over a restart
        journal.append(row(request_id="r5", time=NOON + jump_s))
        assert journal.flush()
    entries = read(tmp_path)
    assert [entry.request_id for entry in entries] == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert [entry.time for entry in entries] == pytest.approx(
        [NOON, NOON + jump_s, NOON + jump_s + 1, NOON, NOON + jump_s, NOON + jump_s]
    )
    if abs(jump_s) > HOUR_S:
        assert len(files(tmp_path)) == 2


# Retention


def fill_hours(folder: Path, hours: int, *, rows: int = 1) -> None:
    """Files of so many hours, the last of which began at noon."""
    with running(folder) as journal:
        for hour in range(hours):
            for number in range(rows):
                start = NOON - (hours - 1 - hour) * HOUR_S
                journal.append(row(request_id=f"h{hour}-{number}", time=start))


def test_old_hours_are_unlinked_with_their_companions(tmp_path: Path) -> None:
    fill_hours(tmp_path, 5)
    (tmp_path / "2026-11-22T08.db-wal").write_bytes(b"")
    (tmp_path / "2026-11-22T08.db-shm").write_bytes(b"")
    (tmp_path / "2026-11-22T08.set-aside-1.db").write_bytes(b"junk")
    (tmp_path / "notes.db").write_bytes(b"mine")
    clock = Clock(NOON + 30)
    with running(tmp_path, clock, max_age_s=2 * HOUR_S) as journal:
        clock.pass_by(900)  # the clock is trusted only after a while
        assert journal.flush()
    assert files(tmp_path) == ["2026-11-22T10.db", "2026-11-22T11.db", "2026-11-22T12.db", "notes.db"]


def test_the_oldest_hours_go_when_the_log_is_too_large(tmp_path: Path) -> None:
    fill_hours(tmp_path, 4, rows=2000)
    size_bytes = (tmp_path / "2026-11-22T12.db").stat().st_size
    clock = Clock()
    with running(tmp_path, clock, max_bytes=int(size_bytes * 2.5)) as journal:
        assert journal.flush()
        assert files(tmp_path) == ["2026-11-22T11.db", "2026-11-22T12.db"]


def test_the_file_being_written_is_never_removed(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock, max_bytes=0, max_age_s=0) as journal:
        clock.pass_by(1000)
        for _ in range(3):
            journal.append(row(time=clock.now))
            assert journal.flush()
            clock.pass_by(60)
        assert len(ids(tmp_path)) == 3
        clock.pass_by(3 * HOUR_S)  # it stays the one being written until it is sealed
        journal.append(row(time=clock.now))
        assert journal.flush()
        clock.pass_by(60)
        assert journal.flush()
        assert len(ids(tmp_path)) == 1


def test_a_wrong_clock_removes_nothing_for_its_age(tmp_path: Path) -> None:
    fill_hours(tmp_path, 3)
    clock = Clock()
    with running(tmp_path, clock, max_age_s=HOUR_S) as journal:
        clock.pass_by(60)
        clock.jump(10 * 365 * 86400)  # somebody set the wrong year
        assert journal.flush()
        clock.pass_by(300)
        assert journal.flush()
        assert len(files(tmp_path)) == 3
        clock.jump(-10 * 365 * 86400)
        clock.pass_by(60)
        assert journal.flush()
        clock.pass_by(HOUR_S)
        assert journal.flush()
        assert files(tmp_path) == ["2026-11-22T12.db"]


def test_hours_in_the_future_stay(tmp_path: Path) -> None:
    fill_hours(tmp_path, 2)
    clock = Clock(0.0)  # a machine without a battery starts in 1970
    with running(tmp_path, clock, max_age_s=HOUR_S) as journal:
        clock.pass_by(3 * HOUR_S)
        assert journal.flush()
    assert len(files(tmp_path)) == 2


# Damage


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096 : 4096 + 2048] = os.urandom(2048)
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["junk", "damaged", "foreign", "newer", "incomplete", "folder"])
def test_an_unusable_file_is_set_aside_and_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "2026-11-22T12.db"
    if kind == "junk":
        file.write_bytes(b"not a database at all" * 1000)
    elif kind == "folder":
        file.mkdir()
    elif kind == "foreign":
        with closing(sqlite3.connect(file)) as db:
            db.execute("CREATE TABLE mine (a)")
    else:
        fill_hours(tmp_path, 1, rows=500)
        with closing(sqlite3.connect(file)) as db:
            if kind == "newer":
                db.execute("PRAGMA user_version = 99")
            if kind == "incomplete":
                db.execute("DROP TABLE minutes")
        if kind == "damaged":
            damage(file)
    (tmp_path / "2026-11-22T12.set-aside-1.db").write_bytes(b"an earlier one")
    with running(tmp_path) as journal:
        journal.append(row(request_id="fresh"))
        assert journal.flush()
        assert journal.statistics().set_aside == ("2026-11-22T12.set-aside-2.db",)
        assert journal.statistics().dropped == 0
    assert ids(tmp_path) == ["fresh"]
    assert (tmp_path / "2026-11-22T12.set-aside-2.db").exists()


def age(file: Path, version: int = 1) -> None:
    """Make it what an earlier schema was."""
    first = "DROP TABLE spans; ALTER TABLE series DROP COLUMN client;" if version == 1 else ""
    with closing(sqlite3.connect(file)) as db:
        db.executescript(
            f"DROP VIEW requests; {first} DROP TABLE traces; ALTER TABLE bodies DROP COLUMN redacted;"
            "DELETE FROM facts WHERE name != 'max_lag_us'; CREATE VIEW requests AS SELECT id FROM entries;"
            f"PRAGMA user_version = {version}"
        )


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_earlier_schema_is_read_and_goes_on(tmp_path: Path, version: int) -> None:
    fill_hours(tmp_path, 2, rows=3)
    for name in files(tmp_path):
        age(tmp_path / name, version)
    assert [(entry.client, entry.spans) for entry in read(tmp_path)] == [(None, None)] * 6
    assert len(read(tmp_path, "client!=alice")) == 6
    assert read(tmp_path, "client=alice") == []
    with running(tmp_path) as journal:
        journal.append(row(request_id="new", client="alice", spans=SPANS))
        assert journal.flush()
        assert journal.statistics().set_aside == ()
    assert [entry.request_id for entry in read(tmp_path, "client=alice")] == ["new"]
    assert len(ids(tmp_path)) == 7
    assert sql(tmp_path / "2026-11-22T12.db", "SELECT count(*) FROM requests WHERE spans IS NULL") == [(3,)]
    # Nobody touches what is over.
    assert sql(tmp_path / "2026-11-22T11.db", "PRAGMA user_version") == [(version,)]


def test_a_file_of_the_first_schema_that_is_damaged_is_set_aside(tmp_path: Path) -> None:
    fill_hours(tmp_path, 1)
    age(tmp_path / "2026-11-22T12.db")
    with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db")) as db:
        db.execute("DROP TABLE minutes")
    with running(tmp_path) as journal:
        journal.append(row(request_id="fresh"))
        assert journal.flush()
        assert len(journal.statistics().set_aside) == 1
    assert ids(tmp_path) == ["fresh"]


def test_a_file_that_somebody_meddles_with_is_set_aside(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row(request_id="before"))
        assert journal.flush()
        with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db")) as meddler:
            meddler.execute("DROP TABLE bodies")
        for number in range(5000):
            journal.append(row(request_id=f"r{number}", request=b"body"))
        assert not journal.flush()
        assert journal.flush()
        assert journal.statistics().written == 5001
        assert journal.statistics().set_aside == ("2026-11-22T12.set-aside-1.db",)
    assert len(ids(tmp_path)) == 5000


# The disk


def test_a_folder_that_cannot_be_used_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(log) as journal:
        assert journal.flush()
        log.rmdir()
        log.write_text("in the way")
        journal.append(row())
        assert not journal.flush()
        assert journal.statistics().trouble is not None
        with pytest.raises(StoreError, match="cannot be read"):
            RequestLog(log).query(wanted())
        log.unlink()
        log.mkdir()
        assert journal.flush()
        assert len(ids(log)) == 1


def append_until_full(journal: Journal, *, rounds: int = 400) -> int:
    """Write until the disk refuses; the number of appended rows."""
    count = 0
    for _ in range(rounds):
        for _ in range(500):
            journal.append(row(request_id="x" * 64))
        count += 500
        if not journal.flush():
            return count
    raise AssertionError("the disk never filled up")


def test_a_full_disk_is_waited_for_and_then_written(small_disk: Path) -> None:
    heard: list[Tally] = []
    log = small_disk / "log"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (2 << 20))
    with running(log, ring_bytes=1 << 20, observers=[heard.append]) as journal:
        appended = append_until_full(journal)
        full = journal.statistics()
        assert full.trouble is not None
        assert full.pending > 0
        readable = len(ids(log))  # what was written stays readable
        assert readable == full.written
        while not journal.statistics().dropped:  # more than the bound
            for _ in range(500):
                journal.append(row())
            appended += 500
            assert not journal.flush()
        assert count(heard) == appended - journal.statistics().dropped
        ballast.unlink()
        assert journal.flush()
        after = journal.statistics()
        assert after.trouble is None
        assert after.written + after.dropped == appended
        journal.append(row(request_id="recovered"))
        assert journal.flush()
        assert ids(log)[-1] == "recovered"
        assert len(ids(log)) == after.written + 1
        assert count(heard) == after.written + 1


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from log_rows import row, running
with running(Path(sys.argv[1])) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    for _ in range(100):
        for _ in range(500):
            journal.append(row(request_id="x" * 64))
        if not journal.flush():
            break
    found = journal.statistics()
    assert found.trouble and found.written and found.pending, found
print(journal.statistics().written)
"""


def test_a_write_error_loses_nothing_that_was_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "predictions go on" in done.stderr
    assert len(ids(tmp_path)) == int(done.stdout) > 500


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from log_rows import row, running
with running(Path(sys.argv[1])) as journal:
    number = 0
    while True:
        for _ in range(200):
            journal.append(row(request_id=f"r{number}"))
            number += 1
        assert journal.flush()
        print(number, flush=True)
"""


def test_kill_9_loses_only_what_was_not_flushed(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            if (flushed := int(line)) >= 3000:
                break
        child.send_signal(signal.SIGKILL)
        child.wait(20)
    assert "2026-11-22T12.db-wal" in files(tmp_path)
    left = ids(tmp_path)
    assert len(left) >= flushed
    assert left == [f"r{number}" for number in range(len(left))]
    assert sql(tmp_path / "2026-11-22T12.db", "PRAGMA integrity_check") == [("ok",)]
    assert sql(tmp_path / "2026-11-22T12.db", "SELECT sum(count) FROM seconds") == [(len(left),)]
    with running(tmp_path, Clock(NOON + HOUR_S)) as journal:  # the old file is only sealed
        assert journal.flush()
        assert files(tmp_path) == ["2026-11-22T12.db"]
    assert ids(tmp_path) == left


def test_somebody_elses_lock_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row())
        assert journal.flush()
        with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            journal.append(row())
            assert not journal.flush(timeout_s=0.05)
            other.execute("ROLLBACK")
        assert journal.flush(timeout_s=20)
        assert journal.statistics().written == 2


def test_readers_read_while_rows_are_written(tmp_path: Path) -> None:
    stop = threading.Event()
    faults: list[BaseException] = []
    rounds = 0

    def keep_reading() -> None:
        nonlocal rounds
        log = RequestLog(tmp_path)
        newest = 0
        try:
            while not stop.is_set():
                page = log.query(wanted(), limit=50)
                assert not page.skipped
                assert [entry.id for entry in page.rows] == sorted((e.id for e in page.rows), reverse=True)
                if page.rows:
                    assert page.rows[0].id >= newest
                    newest = page.rows[0].id
                rounds += 1
        except BaseException as exc:
            faults.append(exc)

    reader = threading.Thread(target=keep_reading)
    with running(tmp_path, flush_s=0.005) as journal:
        reader.start()
        number = 0
        while rounds < 30 and not faults:
            for _ in range(100):
                journal.append(row(time=NOON + number // 20_000 * HOUR_S))  # over several hours
                number += 1
            assert journal.flush()
        stop.set()
        reader.join()
    assert not faults
    assert len(RequestLog(tmp_path).query(wanted(), limit=10_000).rows) == min(number, 10_000)
