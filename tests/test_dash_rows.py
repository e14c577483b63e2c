"""The log as the dashboard holds and draws it: which rows are seen while others come, how they look in any
width, filters that are completed, requests as curl lines.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import shlex
from pathlib import Path
from typing import Any

import pytest
from dash import body, make_row

from mdslite.asks import Ask
from mdslite.errors import InvalidRequest
from mdslite.store import filters
from mdslite.tui import completion
from mdslite.tui.commands import read_moment, read_span
from mdslite.tui.completion import complete_filter, matches, vocabulary_of
from mdslite.tui.curl import curl_line
from mdslite.tui.lines import cells, plain
from mdslite.tui.logbook import Logbook
from mdslite.tui.panel import Found, Looks, panel_lines, split_time, time_lines
from mdslite.tui.snapshot import Connection, Snapshot, View
from mdslite.tui.sources import Kept, RowsSource
from mdslite.tui.table import columns_for, head_line, row_line
from mdslite.tui.terms import parse_terms

SERVER = "http://127.0.0.1:8500"


def page(*numbers: int) -> list[dict[str, Any]]:
    """Rows, newest first, as the API gives them."""
    return [make_row(number) for number in sorted(numbers, reverse=True)]


def seen(book: Logbook, height: int = 5) -> list[int]:
    return [row["id"] for row in book.seen(height)]


# Which rows are seen


def test_the_newest_rows_are_at_the_top_while_it_follows() -> None:
    book = Logbook()
    book.absorb(page(1, 2, 3))
    assert seen(book) == [3, 2, 1]
    book.absorb(page(2, 3, 4, 5))
    assert seen(book, 3) == [5, 4, 3]
    assert book.follows and book.above() == 0


def test_a_chosen_row_stays_where_it_is_while_rows_arrive() -> None:
    book = Logbook()
    book.absorb(page(*range(1, 21)))
    book.choose(1, 5)
    book.choose(1, 5)
    before = seen(book)
    assert book.chosen == 19
    book.absorb(page(*range(10, 31)))
    assert seen(book) == before
    assert book.chosen == 19
    assert book.above() == 10


def test_rows_that_would_leave_a_hole_are_only_counted_while_a_row_is_chosen() -> None:
    book = Logbook()
    book.absorb(page(*range(1, 21)))
    book.choose(3, 5)
    book.absorb(page(*range(100, 121)))
    book.absorb(page(*range(100, 131)))
    assert seen(book)[0] == 20
    assert book.above() == 31
    assert book.follow()  # the newest have to be asked for anew
    book.absorb(page(*range(100, 131)))
    assert seen(book) == [130, 129, 128, 127, 126]


def test_a_hole_while_it_follows_drops_what_was_before() -> None:
    book = Logbook()
    book.absorb(page(1, 2, 3))
    book.absorb(page(50, 51, 52))
    assert seen(book) == [52, 51, 50]
    book.choose(1, 10)
    book.extend(page(47, 48, 49), ended=False)
    assert seen(book, 10) == [52, 51, 50, 49, 48, 47]


def test_the_choice_moves_within_what_is_held_and_back_to_following() -> None:
    book = Logbook()
    book.absorb(page(*range(1, 11)))
    book.choose(-1, 4)
    assert book.follows
    for _ in range(20):
        book.choose(1, 4)
    assert book.chosen == 1
    assert seen(book, 4) == [4, 3, 2, 1]
    for _ in range(9):
        book.choose(-1, 4)
    assert (book.chosen, seen(book, 4)) == (10, [10, 9, 8, 7])
    book.choose(-1, 4)
    assert book.follows


def test_older_pages_come_below_and_the_newest_make_room() -> None:
    book = Logbook(limit=10)
    book.absorb(page(*range(21, 31)))
    book.to_end(5)
    assert book.wants_older(5)
    book.extend(page(*range(11, 21)), ended=True)
    assert len(book) == 10
    assert book.chosen == 20
    assert book.above() > 0
    assert not book.wants_older(5)
    assert book.follow()


@pytest.mark.parametrize("seed", range(30))
def test_whatever_comes_no_row_is_shown_twice_or_out_of_order(seed: int) -> None:
    order = random.Random(seed)
    book, newest, log = Logbook(limit=60), 0, list(range(1, 3000))
    for _ in range(150):
        newest = min(len(log), newest + order.choice([0, 1, 5, 40, 300]))
        act = order.random()
        if act < 0.6:
            book.absorb(page(*log[max(0, newest - order.choice([20, 50])) : newest]))
        elif act < 0.8:
            before = book.chosen
            book.choose(order.choice([-10, -1, 1, 1, 10]), 8)
            assert before is None or book.chosen is None or book.chosen in log
        elif act < 0.9 and book.oldest is not None:
            book.extend(page(*log[max(0, book.oldest - 21) : book.oldest - 1]), ended=book.oldest < 22)
        elif act > 0.97:
            book.follow()
        shown = seen(book, 8)
        assert shown == sorted(set(shown), reverse=True)
        if shown:  # without holes
            assert shown == list(range(shown[0], shown[-1] - 1, -1))
        assert len(book) <= 60
        assert book.chosen is None or book.chosen in shown


def test_thousands_of_rows_are_absorbed_in_no_time_that_counts() -> None:
    book = Logbook()
    for start in range(0, 100_000, 250):
        book.absorb(page(*range(max(0, start - 1), start + 250)))
    assert len(book) == 5000
    assert seen(book, 3) == [99_999, 99_998, 99_997]


def test_the_log_is_asked_for_what_is_new_and_without_bodies() -> None:
    asked, view, source = [], View(pane="requests", filter="shadow"), RowsSource()
    kept = Kept()

    async def ask(question: Ask[Any]) -> Any:
        asked.append(dict(question.params))
        return {"rows": page(*answers.pop()), "next": None, "skipped": []}

    async def poll() -> None:
        source.keep(kept, view, await source.fetch(ask, view, kept, 0.0))

    answers: list[list[int]] = [[], [5, 6], [1, 2, 3]]
    for _ in range(3):
        asyncio.run(poll())
    assert asked == [
        {"filter": "shadow", "limit": 200, "bodies": "false"},
        {"filter": "shadow", "limit": 1000, "after": 3, "bodies": "false"},
        {"filter": "shadow", "limit": 1000, "after": 6, "bodies": "false"},
    ]
    assert [row["id"] for row in kept.rows or ()] == [6, 5, 3, 2, 1]
    assert not kept.missed


# How rows look


@pytest.mark.parametrize("width", [40, 60, 78, 98, 138, 250])
def test_a_row_fills_any_width_exactly(width: int) -> None:
    row = make_row(1, model="fraud" * 20, client="ana", code="overloaded", status=503, request_id="x" * 200)
    columns = columns_for(width)
    for line in (head_line(columns, width), row_line(row, columns, width, roles={})):
        assert sum(cells(text) for text, _ in line) == width
    assert "TIME" in plain(head_line(columns, width)) and "CODE" in plain(head_line(columns, width))


def test_what_a_stranger_wrote_is_shown_and_not_obeyed() -> None:
    nasty = "\x1b]0;gone\x07[red]\u202eabc\n"
    row = make_row(
        1, model=nasty, version=nasty, code=nasty, client=nasty, request_id=nasty, url=nasty, endpoint=nasty,
        status=400, request=body(nasty), reply=body(json.dumps({"error": nasty, nasty: [nasty]})),
        spans=[{"node": nasty, "started_ms": 0.0, "queue_ms": 1.0, "error": nasty}],
    )  # fmt: skip
    found = Found(row, [make_row(2, shadow=True, version=nasty)], {"label": nasty, "note": nasty}, nasty)
    lines = [row_line(row, columns_for(120), 120, roles={}), *panel_lines(found, 60, Looks())]
    text = "\n".join(plain(line) for line in lines)
    assert not [letter for letter in text if letter != "\n" and not letter.isprintable()]
    assert "\\x1b]0;gone\\x07[red]" in text


@pytest.mark.parametrize(
    "text", ["[" * 900, "9" * 400, '{"a":[1e999,NaN]}', '{"a":' + "9" * 400 + "}", "[[1,2],[3]]"]
)
def test_strange_bodies_are_drawn(text: str) -> None:
    for wrapped in (text, f'{{"instances":[{text}]}}', f'{{"predictions":[{text}]}}'):
        row = make_row(1, request=body(wrapped), reply=body(wrapped))
        lines = panel_lines(Found(row, [make_row(2, shadow=True, reply=body(wrapped))]), 40, Looks())
        assert len(lines) > 5


def test_the_time_of_a_request_is_split_into_its_parts() -> None:
    row = make_row(1, latency_ms=10.0, queue_ms=2.0, compute_ms=5.0)
    assert split_time(row) == {"queue": 2.0, "compute": 5.0, "other": 3.0}
    heading, bar, legend = time_lines(row, 40)
    assert plain(heading).split() == ["time", "10.0", "ms"]
    assert plain(bar) == "█" * 8 + "▓" * 20 + "░" * 12
    assert plain(legend).split() == ["█", "queue", "2.0", "▓", "compute", "5.0", "░", "other", "3.0"]
    remote = make_row(1, latency_ms=10.0, queue_ms=0.0, compute_ms=0.0, upstream_ms=9.0)
    assert split_time(remote)["upstream"] == 9.0


def test_the_panel_tells_what_went_in_and_out_and_what_the_shadow_said() -> None:
    digit = body('{"instances":[[' + ",".join("16" if at in (9, 54) else "0" for at in range(64)) + "]]}")
    row = make_row(1, request=digit, reply=body('{"predictions":[{"label":4,"probabilities":[0.1,0.9]}]}'))
    shadow = make_row(
        2, version="v2", shadow=True, confidence=0.5, reply=body('{"predictions":[{"label":7}]}')
    )
    lines = panel_lines(Found(row, [shadow]), 50, Looks(ascii=True))
    text = "\n".join(plain(line).rstrip() for line in lines)
    assert "request                             picture 8 by 8" in text
    assert "label          4" in text
    assert "≠ other answer" in text
    assert "version  v1                  v2 S" in text
    assert "answer   4                   7" in text


# What may be typed


def words(candidates: list[Any]) -> list[str]:
    return [one.text.strip() for one in candidates]


def test_fields_and_values_of_a_filter_are_completed() -> None:
    vocabulary = {"model": ["digits", "spam"], "status": ["200", "503"], "reply.label": ["4"]}
    assert words(complete_filter("mod", vocabulary)) == ["model="]
    assert words(complete_filter("model=", vocabulary)) == ["digits", "spam"]
    assert words(complete_filter("shadow model=sp", vocabulary)) == ["spam"]
    assert words(complete_filter("since=1", vocabulary)) == ["15m", "1h", "1d"]
    assert words(complete_filter("label", vocabulary)) == ["reply.label="]
    assert words(complete_filter("status>=5", vocabulary)) == ["503"]
    assert complete_filter("model=spam", vocabulary) == []
    assert words(complete_filter("trace", vocabulary)) == ["trace_id="]
    assert filters.FIELDS.keys() <= completion.FIELDS.keys()


def test_a_value_with_blanks_is_quoted() -> None:
    (found,) = complete_filter("code=to", {"code": ["too long"]})
    assert ("code=to"[: found.start] + found.text).strip() == 'code="too long"'


def test_the_vocabulary_is_what_is_deployed_and_what_was_logged() -> None:
    model = {"project": "mail", "model": "spam", "versions": [{"version": "v7"}]}
    snapshot = Snapshot(clock=0.0, connection=Connection(state="live", url=SERVER), models=[model])
    rows = [make_row(1, status=503, code="overloaded", reply=body('{"predictions":[{"label":"ham"}]}'))]
    found = vocabulary_of(snapshot, rows)
    assert found["version"] == ["v7", "v1"]
    assert found["status"] == ["503"]
    assert found["reply.label"] == ["ham"]


def test_letters_in_order_find_and_the_nearest_wins() -> None:
    assert matches("roll out", "rlt") is not None
    assert matches("label", "xl") is None
    assert (matches("replay", "rep") or 0) > (matches("screen deploy", "rep") or 0)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("2h30m", 9000), ("1.5d", 129_600)])
def test_spans_are_read(text: str, seconds: float) -> None:
    assert read_span(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "m", "1x", "-3m", "0s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a span"):
        read_span(text)


def test_a_time_of_day_is_the_last_one_that_was() -> None:
    noon = read_moment("2026-11-22T12:00", 0.0)
    assert read_moment("11:30", noon) == noon - 1800
    assert read_moment("13:00", noon) == noon - 23 * 3600
    assert read_moment("15m", noon) == noon - 900
    with pytest.raises(ValueError, match="expected a time"):
        read_moment("soon", noon)


def test_a_recording_knows_the_fields_of_rows() -> None:
    good, bad = make_row(1), make_row(2, status=503, code="overloaded", shadow=True, confidence=None)
    for text, expected in {
        "": (True, True), "status>=400": (False, True), "shadow": (False, True),
        "shadow=false": (True, False), "code~LOAD": (False, True), "confidence<0.95": (True, False),
        "model=digits version!=v1": (False, False), 'code=""': (True, False), "text~refund": (False, False),
        "trace_id=abc": (False, False), 'trace_id=""': (True, True),
    }.items():  # fmt: skip
        assert (parse_terms(text, 0.0).match(good), parse_terms(text, 0.0).match(bad)) == expected, text
    assert parse_terms("since=15m until=10", 1000.0).since == 100.0
    for text in ("nonsense=1", "status>=many", "model<3", "reply.label=4", 'model="open'):
        with pytest.raises(InvalidRequest):
            parse_terms(text, 0.0)


# A request as a curl line


def test_a_request_is_sent_again_by_its_curl_line() -> None:
    row = make_row(1, request=body('{"instances":[["it\'s"]]}'))
    assert shlex.split(curl_line(row, SERVER)) == [
        "curl", "-sg", SERVER + "/projects/demo/models/digits:predict",
        "-H", "content-type: application/json", "--data-raw", '{"instances":[["it\'s"]]}',
    ]  # fmt: skip
    assert '-H "authorization: Bearer $MDSLITE_TOKEN"' in curl_line(row, SERVER, token=True)


def test_by_the_socket_of_a_store_it_goes_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my store").mkdir()
    monkeypatch.chdir(tmp_path)
    row = make_row(1, request=body("[1]"))
    for url in ("unix:my store", f"unix:{tmp_path}/my store", "unix:my store/admin.sock"):
        line = curl_line(row, url, token=True)
        assert shlex.split(line)[:5] == [
            "curl", "-sg", "--unix-socket", f"{tmp_path}/my store/admin.sock",
            "http://localhost/projects/demo/models/digits:predict",
        ]  # fmt: skip
        assert "authorization" not in line  # the store's owner needs no token


@pytest.mark.parametrize("text", ["a\x1b[201~b\nrm -rf", "\r\n", "\u202e", "\x00"])
def test_nothing_that_a_terminal_obeys_gets_into_a_curl_line(text: str) -> None:
    line = curl_line(make_row(1, url=f"/x{text}", request=body(text)), SERVER)
    assert line.isprintable()
    encoded = shlex.split(line)[2]
    assert base64.b64decode(encoded).decode() == text


def test_a_body_that_was_cut_or_not_kept_is_said() -> None:
    cut = {**body('{"instances":[[1'), "truncated": True, "size_bytes": 9000}
    assert curl_line(make_row(1, request=cut), SERVER).endswith("only the first part of 9000 bytes")
    assert "kept no body" in curl_line(make_row(1), SERVER)


def test_bytes_go_through_base64() -> None:
    raw = {"content": base64.b64encode(b"\x93NUMPY\x01\x00").decode(), "encoding": "base64", "size_bytes": 8}
    line = curl_line(make_row(1, request=raw), SERVER)
    assert line.startswith("printf %s k05VTVBZAQA= | base64 -d | curl -sg ")
    assert "content-type: application/x-npy" in line and line.endswith("--data-binary @-")
