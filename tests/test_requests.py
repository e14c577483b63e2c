"""The request log's reading end: pages and following, against what the rows themselves say."""

from __future__ import annotations

import operator
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from log_rows import HOUR_S, NOON, row, running, wanted

from mdslite.errors import DeadlineExceeded, InvalidRequest
from mdslite.store.histograms import make_histogram
from mdslite.store.hours import list_hours
from mdslite.store.journal import ROW_FIELDS, Row
from mdslite.store.requests import MAX_LIMIT, Entry, RequestLog

START = NOON - 3 * HOUR_S
FIELD = {name: number for number, name in enumerate(ROW_FIELDS)}


def make_traffic(count: int = 4000) -> list[Row]:
    """Three hours of skewed traffic in the order of its answers."""
    chance = random.Random(7)
    rows = []
    for number in range(count):
        failed = chance.random() < 0.02
        version = chance.choices(["v1", "v2", "v3"], [80, 15, 5])[0]
        text = chance.choice(
            ["refund", "hello", "100% off", "a_b", "O'Brien; DROP TABLE entries --", "größe"]
        )
        rows.append(
            row(
                time=START + number * (3 * HOUR_S / count),
                request_id=f"r{number}",
                project=None if number % 97 == 0 else "mail",
                model=None if number % 97 == 0 else chance.choice(["spam", "topics"]),
                version=None if number % 97 == 0 else version,
                shadow=version == "v3",
                url=f"/p?q={chance.randrange(5)}",
                status=chance.choice([400, 404, 500]) if failed else 200,
                code="model_error" if failed else None,
                latency_ms=round(chance.expovariate(0.2), 3),
                queue_ms=None if failed else round(chance.random(), 3),
                compute_ms=None if failed else round(chance.random() * 4, 3),
                rows=chance.randrange(1, 5),
                batch_rows=chance.randrange(1, 33),
                confidence=None if failed else round(chance.random(), 4),
                endpoint=f"local/{chance.randrange(2)}",
                request=f'{{"text": "{text}"}}'.encode(),
                reply=b'{"label": "spam"}' if chance.random() < 0.5 else b"\xff\x00refund",
            )
        )
    return rows


TRAFFIC = make_traffic()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> RequestLog:
    folder = tmp_path_factory.mktemp("log")
    with running(folder) as journal:
        for one in TRAFFIC:
            journal.append(one)
        assert journal.flush()
    assert len(list_hours(folder)) >= 3
    return RequestLog(folder)


def matching(passes: Callable[[dict[str, Any]], bool]) -> list[str]:
    """Request ids of the traffic that passes, newest first."""
    found = [dict(zip(ROW_FIELDS, one, strict=True)) for one in TRAFFIC]
    return [str(fields["request_id"]) for fields in reversed(found) if passes(fields)]


def names(entries: Sequence[Entry]) -> list[str]:
    return [entry.request_id for entry in entries]


def pages(log: RequestLog, text: str, *, limit: int) -> list[str]:
    found: list[str] = []
    before = None
    while True:
        page = log.query(wanted(text), limit=limit, before=before)
        assert not page.skipped
        found += names(page.rows)
        if page.next is None:
            return found
        before = page.next


def compare(field: str, compared: Callable[[Any, Any], bool], value: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda fields: fields[field] is not None and compared(fields[field], value)


def holds(text: str) -> Callable[[dict[str, Any]], bool]:
    """SQLite's LIKE folds ASCII letters, and never looks into bytes that are no text."""

    def passes(fields: dict[str, Any]) -> bool:
        bodies = [body for body in (fields["request"], fields["reply"]) if b"\x00" not in body]
        return any(text.lower() in body.decode().lower() for body in bodies)

    return passes


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", lambda fields: True),
        ("model=spam", lambda fields: fields["model"] == "spam"),
        ("version!=v1", lambda fields: fields["version"] != "v1"),
        ('project=""', lambda fields: fields["project"] is None),
        ('code!=""', lambda fields: fields["code"] is not None),
        ("shadow", lambda fields: fields["shadow"]),
        ("shadow=false version~V", lambda fields: not fields["shadow"] and fields["version"] is not None),
        ("status>=400", compare("status", operator.ge, 400)),
        ("status=404 version=v2", lambda fields: fields["status"] == 404 and fields["version"] == "v2"),
        ("status!=200 since=2026-11-22T10:30", lambda f: f["status"] != 200 and f["time"] >= NOON - 5400),
        ("confidence<0.05", compare("confidence", operator.lt, 0.05)),
        ("confidence>=0.5", compare("confidence", operator.ge, 0.5)),
        ("latency_ms>20 version=v1", lambda f: f["latency_ms"] > 20 and f["version"] == "v1"),
        ("queue_ms<=0.1", compare("queue_ms", operator.le, 0.1)),
        ("compute_ms>3.5", compare("compute_ms", operator.gt, 3.5)),
        ("rows=4 batch_rows<3", lambda fields: fields["rows"] == 4 and fields["batch_rows"] < 3),
        ("upstream_ms>0", lambda fields: False),
        ("request_id=r1234", compare("request_id", operator.eq, "r1234")),
        ("request_id~99", lambda fields: "99" in fields["request_id"]),
        ("url~q=3", lambda fields: "q=3" in fields["url"]),
        ('url="/p?q=0" endpoint=local/1', lambda f: f["url"] == "/p?q=0" and f["endpoint"] == "local/1"),
        ("url=/nowhere", lambda fields: False),
        ("model=nothing", lambda fields: False),
        ("text~refund", holds("refund")),
        ("text~REFUND status>=400", lambda f: holds("refund")(f) and f["status"] >= 400),
        ('text~"100% off"', holds("100% off")),
        ("text~%", holds("%")),
        ("text~a_b", holds("a_b")),
        ('text!~"refund"', lambda fields: not holds("refund")(fields)),
        ("text~größe version=v1", lambda f: holds("größe")(f) and f["version"] == "v1"),
        ("since=2026-11-22T10:00 until=2026-11-22T10:30", lambda f: NOON - 7200 <= f["time"] < NOON - 5400),
        ("until=2026-11-22T09:00:10", lambda fields: fields["time"] < START + 10),
        ("since=2026-11-23", lambda fields: False),
        ("since=1h latency_ms>30", lambda f: f["time"] >= NOON - 3600 and f["latency_ms"] > 30),
    ],
)  # fmt: skip
def test_a_filter_finds_what_the_rows_say(
    log: RequestLog, text: str, passes: Callable[[dict[str, Any]], bool]
) -> None:
    found = pages(log, text, limit=MAX_LIMIT)
    assert sorted(found) == sorted(matching(passes))
    assert pages(log, text, limit=37) == found  # the same rows in the same order, page by page
    followed = log.tail(wanted(text), after=0, limit=MAX_LIMIT)
    assert names(followed.rows) == found[::-1]


def test_requests_are_found_by_their_trace(tmp_path: Path) -> None:
    trace, other = bytes(range(16)), bytes(16)
    with running(tmp_path) as journal:
        for number, one in enumerate((trace, other, None, trace)):
            journal.append(row(time=NOON + number // 2 * HOUR_S, request_id=f"r{number}", trace_id=one))
    log = RequestLog(tmp_path)

    def found(text: str) -> set[str]:
        return {one.request_id for one in log.query(wanted(text), limit=10).rows}

    assert found(f"trace_id={trace.hex()}") == {"r0", "r3"}
    assert found(f"trace_id={trace.hex().upper()} model=spam request_id!=r0") == {"r3"}
    assert found(f"trace_id!={trace.hex()}") == {"r1", "r2"}
    assert found('trace_id=""') == {"r2"}
    assert found('trace_id!="" status=200') == {"r0", "r1", "r3"}
    last = NOON + 2 * HOUR_S
    assert (
        make_histogram(log, wanted(f"trace_id={trace.hex()}", now=last), clock=lambda: last).series[0].total
        == 2
    )


def test_values_never_become_sql(log: RequestLog) -> None:
    for value in ["x'; DROP TABLE entries; --", 'x" OR 1=1', "x) OR (1=1", "\\", "%", "_", "?", ":a", "\0"]:
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        for field in ("model", "url", "request_id", "code"):
            assert not log.query(wanted(f'{field}="{quoted}"')).rows
    assert len(names(log.query(wanted('text~"O\'Brien; DROP TABLE entries --"'), limit=MAX_LIMIT).rows)) > 100


def test_the_newest_rows_come_first(log: RequestLog) -> None:
    page = log.query(wanted(), limit=5)
    ids = [entry.id for entry in page.rows]
    assert ids == sorted(ids, reverse=True)
    assert page.next == ids[-1]


def test_paging_is_stable_while_rows_arrive(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        for number in range(100):
            journal.append(row(request_id=f"r{number}", time=NOON + number - 50))
        assert journal.flush()
        log = RequestLog(tmp_path)
        seen: list[str] = []
        before = None
        for turn in range(1000):
            page = log.query(wanted(), limit=10, before=before)
            seen += names(page.rows)
            if (before := page.next) is None:
                break
            for late in range(7):  # some of them with an arrival that is long past
                journal.append(row(request_id=f"new{turn}-{late}", time=NOON + 200 - 40 * late))
            assert journal.flush()
    assert seen == [f"r{number}" for number in reversed(range(100))]


def test_following_misses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    chance = random.Random(3)
    with running(tmp_path) as journal:
        log = RequestLog(tmp_path)
        assert log.tail(wanted()).next == 0
        journal.append(row(request_id="earlier"))
        assert journal.flush()
        start = log.tail(wanted())
        assert start.rows == ()
        cursor, every_cursor = start.next, start.next
        seen: list[str] = []
        seen_failed: list[str] = []
        sent: list[str] = []
        for turn in range(40):
            now = NOON + chance.choice([0, 0, 0, HOUR_S, -HOUR_S])  # somebody sets the clock
            for _ in range(chance.randrange(30)):
                time = now - chance.random() * 30  # requests that took long arrived long before
                name = f"r{len(sent)}"
                journal.append(row(request_id=name, time=time, status=chance.choice([200, 500])))
                sent.append(name)
            assert journal.flush()
            page = log.tail(wanted(), after=every_cursor, limit=11 if turn < 39 else MAX_LIMIT)
            seen += names(page.rows)
            every_cursor = page.next
            page = log.tail(wanted("status=500"), after=cursor, limit=MAX_LIMIT)
            seen_failed += names(page.rows)
            cursor = page.next
        assert seen == sent
        everything = {entry.request_id: entry for entry in log.query(wanted(), limit=MAX_LIMIT).rows}
        assert seen_failed == [name for name in sent if everything[name].status == 500]


def test_hours_that_overlap_after_a_clock_jump_are_merged(tmp_path: Path) -> None:
    sent = []
    with running(tmp_path) as journal:
        for number in range(60):
            sent.append(f"r{number}")
            journal.append(row(request_id=sent[-1], time=NOON + (number // 5 % 3) * HOUR_S))
        assert journal.flush()
    assert pages(RequestLog(tmp_path), "", limit=7) == sent[::-1]


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
def test_a_limit_out_of_bounds_is_refused(log: RequestLog, limit: int) -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        log.query(wanted(), limit=limit)
    with pytest.raises(InvalidRequest, match="limit"):
        log.tail(wanted(), after=0, limit=limit)


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "nothing")
    assert log.query(wanted()).rows == ()
    assert log.tail(wanted()).next == 0


# Faults


def test_an_unreadable_hour_is_left_out_and_named(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        for hour in range(3):
            journal.append(row(request_id=f"h{hour}", time=NOON + hour * HOUR_S))
    log = RequestLog(tmp_path)
    assert len(log.query(wanted()).rows) == 3
    (tmp_path / "2026-11-22T13.db").write_bytes(b"junk" * 5000)
    with closing(sqlite3.connect(tmp_path / "2026-11-22T15.db")) as foreign:
        foreign.execute("CREATE TABLE mine (a)")
    broken = ("2026-11-22T13.db", "2026-11-22T15.db")
    page = log.query(wanted())
    assert (names(page.rows), page.skipped) == (["h2", "h0"], broken)
    assert log.tail(wanted(), after=0).skipped == broken
    whole = wanted("since=2026-11-22T12:00 until=2026-11-22T16:00")
    found = make_histogram(log, whole, interval_s=3600)
    assert (found.series[0].counts, found.skipped) == ((1, 0, 1, 0), broken)


def test_an_hour_that_retention_removes_meanwhile_is_no_fault(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        for hour in range(2):
            journal.append(row(request_id=f"h{hour}", time=NOON + hour * HOUR_S))

    def remove_the_second() -> float:  # called while the first one is read
        (tmp_path / "2026-11-22T13.db").unlink(missing_ok=True)
        return NOON

    page = RequestLog(tmp_path, clock=remove_the_second).query(wanted())
    assert (names(page.rows), page.skipped) == (["h0"], ())


def test_a_just_made_hour_without_tables_is_empty(tmp_path: Path) -> None:
    (tmp_path / "2026-11-22T12.db").touch()
    page = RequestLog(tmp_path).query(wanted())
    assert (page.rows, page.skipped) == ((), ())


def test_a_query_is_bounded_in_time(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        for _ in range(120_000):
            journal.append(row(time=NOON))
    ticks = iter(range(10**6))
    log = RequestLog(tmp_path, timeout_s=0.5, monotonic=lambda: float(next(ticks)))
    with pytest.raises(DeadlineExceeded) as caught:
        log.query(wanted("request_id=nobody latency_ms>1 queue_ms>0"))
    assert "since=15m" in (caught.value.hint or "")


def test_reading_leaves_nothing_beside_a_sealed_hour(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        journal.append(row())
    RequestLog(tmp_path).query(wanted())
    assert [path.name for path in tmp_path.iterdir()] == ["2026-11-22T12.db"]


# The files, as a stranger sees them


def test_the_view_joins_everything_for_other_tools(log: RequestLog) -> None:
    (hour, *_) = list_hours(log._folder)
    with closing(sqlite3.connect(f"file:{hour.path}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        first = db.execute("SELECT * FROM requests ORDER BY id LIMIT 1").fetchone()
        columns = [name for name in first.keys() if name not in ("id", "at")]  # noqa: SIM118
    assert columns == list(ROW_FIELDS)
    assert first["time"] == START
    assert first["at"] == "2026-11-22T09:00:00.000"
    values = {name: first[name] for name in columns}
    expected = dict(zip(ROW_FIELDS, TRAFFIC[0], strict=True))
    expected["request"] = TRAFFIC[0][FIELD["request"]].decode()  # type: ignore[union-attr]
    if isinstance(values["reply"], str):
        values["reply"] = values["reply"].encode()
    assert values == expected


def test_the_documented_tables_and_query_are_the_real_ones(log: RequestLog) -> None:
    text = (Path(__file__).parent.parent / "docs" / "request-log.md").read_text()
    query = text.split("```sql\n")[1].split("```")[0]
    (hour, *_) = list_hours(log._folder)
    with closing(sqlite3.connect(f"file:{hour.path}?mode=ro", uri=True)) as db:
        counted = sum(count for _, _, count, _ in db.execute(query))
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (counted,)
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            (line,) = (line for line in text.splitlines() if line.startswith(f"| `{table}` |"))
            for _, column, *_ in db.execute(f"PRAGMA table_info({table})").fetchall():
                if table not in ("series", "urls") and "_to_" not in column:
                    assert column in line or column in ("minute", "second", "series_id", "name", "value")
