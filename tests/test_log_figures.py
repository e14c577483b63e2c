"""Histograms, top values and percentiles of the request log, against what the rows themselves say. Some of
the rows stand in chunks of columns, some in a file that is being written, some in one without chunks."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_rows import HOUR_S, NOON, row, running, wanted
from logged_traffic import BRUTE, CLOCK, START, TERMS, Entries, _moment, make_traffic, passes, spell

from mdslite.errors import InvalidRequest
from mdslite.store import hourfile
from mdslite.store.chunks import ChunkWriter
from mdslite.store.columns import COMPARE, compare
from mdslite.store.entries import Entry
from mdslite.store.histograms import BYS, MAX_BUCKETS, MAX_SERIES, choose_interval, make_histogram
from mdslite.store.hours import list_hours
from mdslite.store.percentiles import find_percentiles
from mdslite.store.requests import MAX_LIMIT, RequestLog
from mdslite.store.tops import find_top


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestLog]:
    folder = tmp_path_factory.mktemp("log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hourfile, "ChunkWriter", partial(ChunkWriter, chunk_rows=100))
        with running(folder) as journal:
            for one in make_traffic():
                journal.append(one)
                journal.flush() if random.Random(one[1]).random() < 0.05 else None
            assert journal.flush()
            first, *_, last = list_hours(folder)
            assert not last.sealed
            with closing(sqlite3.connect(first.path)) as db:
                db.executescript("DROP TABLE chunks; DROP TABLE columns")
            made = RequestLog(folder, kept=10)
            yield made
            made.rest()


@pytest.fixture(scope="module")
def entries(log: RequestLog) -> Entries:
    return Entries(log.query(wanted(now=CLOCK()), limit=MAX_LIMIT).rows)


SINGLES = st.floats(width=32, allow_nan=True)


@given(
    values=st.lists(SINGLES, min_size=1, max_size=20),
    value=st.floats(allow_nan=False) | SINGLES.filter(lambda one: one == one),
    sign=st.sampled_from(list(COMPARE)),
)
def test_a_column_is_compared_as_doubles_are(values: list[float], value: float, sign: str) -> None:
    column = np.array(values, dtype=np.float32)
    # Its own values are where a difference would show, and what lies beside them.
    for asked in (value, *values, *np.nextafter(values, np.inf), *np.nextafter(values, -np.inf)):
        if asked == asked:
            expected = COMPARE[sign](column.astype(np.float64), np.float64(asked))
            np.testing.assert_array_equal(compare(column, sign, float(asked)), expected)


@BRUTE
@given(terms=TERMS)
def test_pages_hold_what_passes(log: RequestLog, entries: Entries, terms: Any) -> None:
    expected = [entry.id for entry in entries if passes(entry, terms)]
    found = log.query(wanted(spell(terms), now=CLOCK()), limit=MAX_LIMIT)
    assert ([entry.id for entry in found.rows], found.skipped) == (expected, ())
    count, end, _ = log.measure(wanted(spell(terms), now=CLOCK()))
    assert count == len(expected)
    pages = log.pages(wanted(spell(terms), now=CLOCK()), end=end, limit=97)
    assert sorted(entry.id for page in pages for entry in page) == expected[::-1]


@BRUTE
@given(terms=TERMS, interval_s=st.sampled_from([None, 0.5, 7.0, 60.0, 900.0]), by=st.sampled_from(BYS))
def test_histograms_count_what_passes(
    log: RequestLog, entries: Entries, terms: Any, interval_s: float | None, by: Any
) -> None:
    if interval_s == 0.5 and not {"since", "until"} <= {name for name, _, _ in terms}:
        interval_s = 5.0  # half seconds of three hours would be too many
    try:
        found = make_histogram(
            log, wanted(spell(terms), now=CLOCK()), interval_s=interval_s, by=by, clock=CLOCK
        )
    except InvalidRequest as exc:
        assert "intervals of 0.5 s" in exc.message
        return
    assert interval_s in (None, found.interval_s)
    assert found.since <= _moment(terms, "since", math.inf)
    assert found.until >= min(_moment(terms, "until", -math.inf), CLOCK())
    others = [term for term in terms if term[0] not in ("since", "until")]
    expected: Counter[tuple[Any, str, int]] = Counter()
    for entry in entries:
        bucket = math.floor((entry.time - found.since) / found.interval_s)
        if passes(entry, others) and found.since <= entry.time < found.until:
            key = (
                (entry.project, entry.model, entry.version, entry.shadow)
                if by == "version"
                else getattr(entry, by)
            )
            expected[key, "all", bucket] += 1
            expected[key, "errors", bucket] += entry.status >= 500
            expected[key, "refused", bucket] += 400 <= entry.status < 500
    counted: Counter[tuple[Any, str, int]] = Counter()
    for one in found.series:
        key = (one.project, one.model, one.version, one.shadow) if by == "version" else one.value
        assert one.total == sum(one.counts)
        assert len(one.counts) == round((found.until - found.since) / found.interval_s)
        for kind, counts in (("all", one.counts), ("errors", one.errors), ("refused", one.refused)):
            for bucket, count in enumerate(counts):
                counted[key, kind, bucket] += count
    assert +counted == +expected
    assert [one.total for one in found.series] == sorted((one.total for one in found.series), reverse=True)


@BRUTE
@given(
    terms=TERMS,
    field=st.sampled_from(
        [
            "version",
            "code",
            "url",
            "status",
            "rows",
            "latency_ms",
            "queue_ms",
            "confidence",
            "client",
            "shadow",
            "request_id",
        ]
    ),
    limit=st.sampled_from([1, 5, 10_000]),
)
def test_top_values_are_those_of_what_passes(
    log: RequestLog, entries: Entries, terms: Any, field: str, limit: int
) -> None:
    found = find_top(log, wanted(spell(terms), now=CLOCK()), field=field, limit=limit)
    values = [getattr(entry, field) for entry in entries if passes(entry, terms)]
    expected = Counter(value for value in values if value is not None)
    assert (found.rows, found.missing) == (len(values), values.count(None))
    assert sum(one.count for one in found.values) + found.other == expected.total()
    assert [one.count for one in found.values] == [count for _, count in expected.most_common(limit)]
    for one in found.values:
        assert expected[one.value] == one.count
        assert one.share == pytest.approx(one.count / expected.total())


@pytest.mark.parametrize(
    "field", ["request.n", "request.text", "reply.label", "reply.nothing", "request.1.n"]
)
@pytest.mark.parametrize(
    "text",
    ["", "version=v1", "version=v3 latency_ms>2", "latency_ms>5", "confidence<0.5", "reply.label=spam"],
)
def test_top_values_of_bodies(log: RequestLog, entries: Entries, field: str, text: str) -> None:
    found = find_top(log, wanted(text, now=CLOCK()), field=field, limit=100)
    expected: Counter[Any] = Counter()
    rows = there = 0
    for entry in log.query(wanted(text, now=CLOCK()), limit=MAX_LIMIT).rows:
        rows += 1
        body, _, name = field.partition(".")
        if (kept := getattr(entry, body)) is None:
            continue
        items = next(iter(json.loads(kept.content).values()))
        if name == "1.n":
            name, items = "n", items[1:2]
        values = {(type(item[name]) is bool, item[name]) for item in items if item.get(name) is not None}
        there += bool(values)
        expected.update(values)
    assert (found.rows, found.missing) == (rows, rows - there)
    assert {(type(one.value) is bool, one.value): one.count for one in found.values} == dict(expected)


@BRUTE
@given(terms=TERMS, exact=st.booleans())
def test_percentiles_are_those_of_what_passes(
    log: RequestLog, entries: Entries, terms: Any, exact: bool
) -> None:
    found = find_percentiles(log, wanted(spell(terms), now=CLOCK()), max_exact=10**6 if exact else 50)
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        if passes(entry, terms):
            groups.setdefault((entry.project, entry.model, entry.version, entry.shadow), []).append(entry)
    assert {(one.project, one.model, one.version, one.shadow) for one in found.groups} == set(groups)
    off = 1e-9 if found.exact else 0.004
    assert found.exact or not exact
    for one in found.groups:
        mine = groups[one.project, one.model, one.version, one.shadow]
        good = [entry for entry in mine if entry.status < 400]
        errors = sum(entry.status >= 500 for entry in mine)
        assert (one.count, one.errors, one.refused) == (len(mine), errors, len(mine) - len(good) - errors)
        assert one.error_rate == (errors / (len(good) + errors) if good or errors else None)
        latencies = sorted(entry.latency_ms for entry in good)
        assert (one.latency_ms is None) == (not good)
        if one.latency_ms is not None:
            for share, value in (
                (0.5, one.latency_ms.p50),
                (0.9, one.latency_ms.p90),
                (0.99, one.latency_ms.p99),
            ):
                assert value == pytest.approx(latencies[math.ceil(share * len(good)) - 1], rel=off, abs=1e-9)
            assert one.latency_ms.max == latencies[-1]
        sure = sorted(entry.confidence for entry in good if entry.confidence is not None)
        if not sure:
            assert one.confidence is None
            continue
        assert one.confidence is not None
        assert one.confidence.p10 == pytest.approx(sure[math.ceil(0.1 * len(sure)) - 1], rel=off)
        assert one.confidence.mean == pytest.approx(sum(sure) / len(sure))


# What is said of them


def test_rollups_answer_where_names_alone_are_asked_for(log: RequestLog) -> None:
    sources = {
        ("", 60.0): "minutes", ("version=v1 status>=400", 900.0): "minutes", ("", 7.0): "seconds",
        ("latency_ms>1", 60.0): "entries", ("url~q", 60.0): "entries", ("request.n=1", 60.0): "entries",
    }  # fmt: skip
    for (text, interval_s), source in sources.items():
        assert make_histogram(log, wanted(text), interval_s=interval_s, clock=CLOCK).source == source


def test_an_interval_is_chosen_and_told(log: RequestLog) -> None:
    found = make_histogram(log, wanted(now=CLOCK()), clock=CLOCK)
    assert found.interval_s == choose_interval(CLOCK() - START) == 120.0
    assert found.since <= START < found.since + found.interval_s
    assert choose_interval(86_400) == 900
    assert choose_interval(60) == 1
    assert choose_interval(1e9) == 604_800


def test_a_log_that_is_not_there_has_no_figures(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "nothing")
    found = make_histogram(log, wanted(), clock=CLOCK)
    assert (found.series, found.until - found.since) == ((), 86_400)
    assert find_top(log, wanted(), field="version").values == ()
    assert find_percentiles(log, wanted()).groups == ()


def test_the_greatest_series_come_first_and_the_rest_is_summed_up(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        for number in range(MAX_SERIES + 10):
            for _ in range(MAX_SERIES + 10 - number):
                journal.append(row(version=f"v{number:03}"))
        assert journal.flush()
        found = make_histogram(
            RequestLog(tmp_path), wanted("since=2026-11-22T12:00 until=2026-11-22T12:01"), interval_s=60.0
        )
    assert [one.version for one in found.series] == [f"v{number:03}" for number in range(MAX_SERIES)]
    assert found.other == (sum(range(1, 11)),)


@pytest.mark.parametrize(
    ("text", "interval_s", "says"),
    [
        ("", 0.0, "above 0"),
        ("", math.nan, "above 0"),
        ("", -1.0, "above 0"),
        ("", 1e308, "above 0 and at most 1000000000"),
        ("", 99_999_999_999.0, "above 0 and at most 1000000000"),
        ("since=2026-11-22T13:00", 60.0, "empty"),
        ("since=2026-01-01", 1.0, f"at most {MAX_BUCKETS}"),
    ],
)
def test_a_histogram_that_makes_no_sense_is_refused(
    log: RequestLog, text: str, interval_s: float, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        make_histogram(log, wanted(text, now=CLOCK()), interval_s=interval_s, clock=CLOCK)


@pytest.mark.parametrize("interval_s", [1.0, 1e-9, 1e-308, 5e-324])
def test_the_smallest_interval_that_works_is_named(log: RequestLog, interval_s: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_histogram(log, wanted("since=2026-11-15", now=CLOCK()), interval_s=interval_s, clock=CLOCK)
    assert caught.value.hint == "an interval of 120 s fits this window"
    make_histogram(log, wanted("since=2026-11-15", now=CLOCK()), interval_s=120.0, clock=CLOCK)


def test_the_requests_of_each_trace_are_counted(tmp_path: Path) -> None:
    trace, other = bytes(range(16)), bytes(16)
    with running(tmp_path) as journal:
        for number, one in enumerate((trace, other, None, trace, trace)):
            version = "v2" if number == 4 else "v1"
            journal.append(row(time=NOON + number // 2 * HOUR_S, trace_id=one, version=version))
        assert journal.flush()
        log = RequestLog(tmp_path)  # finished hours, and the one that is being written
        found = find_top(log, wanted(), field="trace_id")
        assert [(one.value, one.count) for one in found.values] == [(trace.hex(), 3), (other.hex(), 1)]
        assert (found.rows, found.missing, found.other) == (5, 1, 0)
        narrower = find_top(log, wanted("version=v1"), field="trace_id", limit=1)
        assert [(one.value, one.count) for one in narrower.values] == [(trace.hex(), 2)]
        assert (narrower.rows, narrower.missing, narrower.other) == (4, 1, 1)


@pytest.mark.parametrize("field", ["text", "since", "nonsense", "request", "request.", "reply..a"])
def test_what_has_no_values_is_refused(log: RequestLog, field: str) -> None:
    with pytest.raises(InvalidRequest, match="no values to count") as caught:
        find_top(log, wanted(), field=field)
    assert "reply.NAME" in (caught.value.hint or "")


# The files


def test_a_file_whose_columns_are_damaged_is_left_out_and_named(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        for number in range(20):
            journal.append(row(time=NOON + number // 10 * HOUR_S, latency_ms=number + 1.0))
    with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db")) as db:
        db.execute("UPDATE columns SET data = x'00' WHERE field = 'latency_us'")
        db.commit()
    log = RequestLog(tmp_path)
    found = log.query(wanted("latency_ms>5.5", now=NOON + 3 * HOUR_S))
    assert (len(found.rows), found.skipped) == (10, ("2026-11-22T12.db",))
    assert find_top(log, wanted(), field="latency_ms").skipped == ("2026-11-22T12.db",)
    assert len(log.query(wanted("version=v1")).rows) == 20  # other columns are whole


def test_rows_that_stand_in_no_chunk_get_one_when_their_hour_is_written_again(tmp_path: Path) -> None:
    def chunked() -> list[tuple[int, int]]:
        with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db")) as db:
            return db.execute(
                "SELECT rows, (SELECT count(*) FROM entries) FROM chunks ORDER BY id"
            ).fetchall()

    with running(tmp_path) as journal:
        journal.append(row())
    with closing(sqlite3.connect(tmp_path / "2026-11-22T12.db")) as db:
        db.executescript("DROP TABLE chunks; DROP TABLE columns")
    with running(tmp_path) as journal:
        for number in range(5):
            journal.append(row(latency_ms=number + 1.0))
        assert journal.flush()
        assert len(RequestLog(tmp_path).query(wanted("latency_ms<3")).rows) == 3
    assert chunked() == [(6, 6)]
    with running(tmp_path) as journal:
        journal.append(row())
    assert chunked() == [(6, 7), (1, 7)]
    found = make_histogram(
        RequestLog(tmp_path), wanted("since=2026-11-22T12:00"), interval_s=1.0, clock=CLOCK
    )
    assert (found.source, sum(one.total for one in found.series)) == ("seconds", 7)
