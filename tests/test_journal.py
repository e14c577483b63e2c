"""The request log's writing end: what is appended is readable soon, and no caller stops it."""

from __future__ import annotations

import base64
import itertools
import threading
from pathlib import Path

import pytest
from journals import SPANS, count, ids, read, sql
from log_rows import NOON, Clock, files, row, running

from mdslite.errors import StoreError
from mdslite.serving.spans import Span, write_spans
from mdslite.store.hourfile import MAX_SERIES, MAX_URLS, OTHER_URL
from mdslite.store.journal import Journal
from mdslite.store.requests import LoggedBody, NodeSpan
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
    assert (last.rows, last.batch_rows) == (1, 3)
    assert last.confidence == pytest.approx(0.2)
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
