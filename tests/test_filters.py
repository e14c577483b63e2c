"""The filter language of the request log: what it understands, and what it says when it does not."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdslite.errors import InvalidRequest
from mdslite.store.filters import FIELDS, MAX_CHARS, MAX_TERMS, Term, parse
from mdslite.store.moments import parse_moment

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()


def terms(text: str) -> list[tuple[str, str, object]]:
    return [(term.field, term.operator, term.value) for term in parse(text, now=NOW).terms]


def refused(text: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(text, now=NOW)
    return caught.value


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_an_empty_filter_has_no_terms() -> None:
    assert parse("  ", now=NOW).terms == ()
    assert parse("", now=NOW).on("series") is None


def test_terms_stand_side_by_side() -> None:
    assert terms('model=spamfilter confidence<0.6 shadow status>=400 text~"refund"') == [
        ("model", "=", "spamfilter"),
        ("confidence", "<", 0.6),
        ("shadow", "=", True),
        ("status", ">=", 400),
        ("text", "~", "refund"),
    ]


def test_a_term_knows_where_it_stands() -> None:
    assert parse("shadow  status=200", now=NOW).terms[1] == Term("status", "=", 200, 9)


def test_spaces_around_an_operator_do_not_matter() -> None:
    assert terms("status >= 400 model = spam") == terms("status>=400 model=spam")


@pytest.mark.parametrize("text", ["shadow", "shadow=true", "shadow=yes", "shadow=1", "shadow!=false"])
def test_a_flag_may_be_spelled_out(text: str) -> None:
    db = sqlite3.connect(":memory:")
    sql, values = parse(text, now=NOW).on("series") or ("", [])
    assert db.execute(f"SELECT {sql} FROM (SELECT 1 AS shadow)", values).fetchone() == (1,)
    db.close()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('text~"two words"', "two words"),
        ("text~'two words'", "two words"),
        (r'text~"a \"quoted\" word"', 'a "quoted" word'),
        (r'text~"back\\slash"', "back\\slash"),
        (r'text~"a\nb"', r"a\nb"),
        ('code=""', ""),
        ("url~/v2/models?x=1&y=2", "/v2/models?x=1&y=2"),
        ("text~größe", "größe"),
    ],
)
def test_values_may_be_quoted(text: str, value: str) -> None:
    assert terms(text)[0][2] == value


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("15m", NOW - 900),
        ("2h30m", NOW - 9000),
        ("1.5h", NOW - 5400),
        ("500ms", NOW - 0.5),
        ("7d", NOW - 7 * 86400),
        ("1w", NOW - 7 * 86400),
        ("now", NOW),
        ("2026-11-22T10:00", unix("2026-11-22T10:00+00:00")),
        ("2026-11-22T10:00:30.5Z", unix("2026-11-22T10:00:30.5+00:00")),
        ("2026-11-22T10:00+01:00", unix("2026-11-22T09:00+00:00")),
        ("2026-11-22", unix("2026-11-22T00:00+00:00")),
        ("10:00", unix("2026-11-22T10:00+00:00")),
        ("9:05", unix("2026-11-22T09:05+00:00")),
        ("13:30:15", unix("2026-11-21T13:30:15+00:00")),
        ("1763800000", 1763800000.0),
        ("1763800000.5", 1763800000.5),
    ],
)
def test_moments_are_written_in_many_ways(text: str, moment: float) -> None:
    assert parse_moment(text, now=NOW) == moment
    assert parse(f"since={text}", now=NOW + 1 if text == "now" else NOW).since is not None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "15",
            "15x",
            "m15",
            "-15m",
            "",
            "2026-13-01",
            "25:00",
            "20261122",
            "²",
            "soon",
            "9" * 6 + "w",
            "٣m",
        ),
        *("9" * 30, "253402300800", "9999-12-31T23:59-14:00", "0001-01-01T00:00+14:00"),
    ],
)
def test_what_is_no_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_moment(text, now=NOW)
    assert "15m" in (caught.value.hint or "")


def test_since_and_until_bound_the_filter() -> None:
    found = parse("since=2026-11-22T10:00 until=2026-11-22T11:00 model=spam", now=NOW)
    assert (found.since, found.until) == (NOW - 7200, NOW - 3600)
    assert [term.field for term in found.terms] == ["model"]


@pytest.mark.parametrize(
    ("text", "position", "says", "hint"),
    [
        ("statsu=200", 1, "'statsu'", "did you mean status?"),
        ("model=a confidnce<0.5", 9, "'confidnce'", "did you mean confidence?"),
        ("Model=a", 1, "'Model'", "did you mean model?"),
        ("latency>5", 1, "'latency'", "did you mean latency_ms?"),
        ("time=5", 1, "'time'", "did you mean since?"),
        ("zzz=5", 1, "'zzz'", "fields: project model"),
        ("shadow refund", 8, "'refund'", 'text~"refund"'),
        ("shadw", 1, "'shadw'", "did you mean shadow?"),
        ("model", 1, "needs an operator", "model takes = != ~ !~; in a shell quote"),
        ("shadow and model=x", 8, "'and'", "side by side"),
        ("status~40", 7, "status does not take '~'", "status takes = != < <= > >="),
        ("text=refund", 5, "text does not take '='", "text takes ~ !~"),
        ("model<b", 6, "model does not take '<'", "model takes = != ~ !~"),
        ("since>15m", 6, "since does not take '>'", "since takes ="),
        ("status=ok", 8, "status is a whole number, got 'ok'", "such as status>=400"),
        ("rows=1.5", 6, "rows is a whole number, got '1.5'", "such as rows>=1"),
        ("confidence<low", 12, "confidence is a number, got 'low'", "such as confidence<0.6"),
        ("confidence<nan", 12, "'nan'", None),
        ("latency_ms>inf", 12, "'inf'", "such as latency_ms>20"),
        (f"status={'9' * 5000}", 0, "characters", "in several parts"),
        (f"status={'9' * 400}", 8, "no number that it can have", None),
        ("status=٣", 8, "status is a whole number, got '٣'", None),
        ("rows>1_0", 6, "rows is a whole number, got '1_0'", None),
        ("confidence<1_0.5", 12, "confidence is a number, got '1_0.5'", None),
        ("since=٣m", 7, "since: '٣m' is no moment", "15m"),
        ("trace_id=abc", 10, "trace_id is 32 hex digits, got 'abc'", '"" for none'),
        ("trace_id~abc", 9, "trace_id does not take '~'", "trace_id takes = !="),
        ("trace=abc", 1, "'trace'", "did you mean trace_id?"),
        ("shadow=maybe", 8, "true or false, got 'maybe'", "shadow=false"),
        ("model=", 7, "model has no value", 'model=""'),
        ("model= ", 8, "model has no value", 'model=""'),
        ('text~"refund', 6, "never closed", '\\"'),
        ("(model=a)", 1, "expected a field name, got '(model=a)'", "fields: project"),
        ("model=a,b =c", 11, "expected a field name, got '=c'", "fields: project"),
        ("since=15", 7, "since: '15' has no unit", "15m"),
        ("since=5m since=6m", 10, "since is given twice", "keep one"),
        ("since=5m until=10m", 0, "nothing can match", "since=1h until=15m"),
    ],
)
def test_a_mistake_names_its_position_and_what_is_allowed(
    text: str, position: int, says: str, hint: str | None
) -> None:
    error = refused(text)
    assert says in error.message
    assert (hint or "") in (error.hint or "")
    if position:
        assert error.message.startswith(f"filter, position {position}: ")
    assert error.status == 400


@pytest.mark.parametrize("name", [name for name, of in FIELDS.items() if of.kind == "text"])
def test_every_near_miss_leads_to_a_field_that_works(name: str) -> None:
    hint = refused(f"{name}s=x").hint or ""
    suggested = hint.removeprefix("did you mean ").removesuffix("?")
    assert parse(f"{suggested}=x", now=NOW).terms


def test_a_filter_is_bounded() -> None:
    assert "at most" in refused("x" * (MAX_CHARS + 1)).message
    assert str(MAX_TERMS) in refused("shadow " * (MAX_TERMS + 1)).message
    assert len(parse("shadow " * MAX_TERMS, now=NOW).terms) == MAX_TERMS


def test_text_that_no_database_can_hold_is_refused() -> None:
    assert "Unicode" in refused("model=\ud800").message


@given(st.text(max_size=60))
def test_any_text_is_either_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(text, now=NOW)


@given(st.text(min_size=1, max_size=30).filter(lambda value: "\0" not in value))
def test_any_value_survives_quoting_and_matches_itself_literally(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    found = parse(f'url="{quoted}" url~"{quoted}"', now=NOW)
    sql, values = found.on("urls") or ("", [])
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE urls (url TEXT)")
    db.execute("INSERT INTO urls VALUES (?)", [value])
    assert db.execute(f"SELECT count(*) FROM urls WHERE {sql}", values).fetchone() == (1,)
    db.close()
