"""The request log over the admin API: figures, one row, files; and a reader that leaves before its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from box import Box, Caller, open_box
from log_rows import NOON, row
from waiting import until

from mdslite.errors import ClientClosed
from mdslite.runtimes.prober import Prober
from mdslite.store.histograms import MAX_BUCKETS

pytestmark = pytest.mark.anyio
WINDOW = "since=2026-11-22T12:00 until=2026-11-22T12:10"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    with closing(Prober()) as prober:
        async with open_box(tmp_path / "store", prober) as box:
            for number in range(60):
                failed = number % 10 == 0
                box.journal.append(
                    row(
                        time=NOON + number * 10,
                        request_id=f"r{number // 2}",
                        version=f"v{number % 2 + 1}",
                        shadow=number % 2 == 1,
                        project="other" if number == 59 else "mail",
                        status=500 if failed else 200,
                        code="model_error" if failed else None,
                        latency_ms=number + 1.0,
                        confidence=None if failed else 0.5,
                        reply=b'{"predictions": [{"label": "spam"}]}' if number < 5 else None,
                    )
                )
            assert await asyncio.to_thread(box.journal.flush, timeout_s=10)
            yield box


async def get(caller: Caller, path: str, filter: str = "", **params: Any) -> Any:
    pairs = {"filter": filter, **params}
    query = "&".join(f"{name}={quote(str(value))}" for name, value in pairs.items())
    heard = await caller.get(f"/api/v1/logs{path}?{query}")
    assert heard.status == 200, heard.body
    return heard.json


async def test_a_histogram_by_version(caller: Caller) -> None:
    found = await get(caller, "/histogram", WINDOW, interval_s=300)
    assert (found["interval_s"], found["since"], found["until"]) == (300.0, NOON, NOON + 600)
    assert (found["by"], found["source"], found["other"], found["skipped"]) == (
        "version",
        "minutes",
        None,
        [],
    )
    first, second, _ = found["series"]
    assert first == {
        "project": "mail", "model": "spam", "version": "v1", "shadow": False, "value": "v1",
        "counts": [15, 15], "errors": [3, 3], "refused": [0, 0], "total": 30,
    }  # fmt: skip
    assert (second["version"], second["shadow"], second["errors"]) == ("v2", True, [0, 0])


async def test_a_histogram_by_something_else_has_a_value(caller: Caller) -> None:
    found = await get(caller, "/histogram", f"{WINDOW} confidence>0.4", interval_s=60, by="status")
    (only,) = found["series"]
    assert (only["value"], only["version"], found["source"]) == (200, None, "entries")


async def test_too_many_intervals_are_refused_with_what_works(caller: Caller) -> None:
    heard = await caller.get("/api/v1/logs/histogram?filter=since%3D2026-01-01&interval_s=1")
    assert heard.status == 400
    assert f"at most {MAX_BUCKETS}" in heard.json["error"]
    assert "fits this window" in heard.json["hint"]


async def test_top_values_and_percentiles(caller: Caller) -> None:
    found = await get(caller, "/top", "version=v1", field="code")
    assert found == {
        "field": "code", "rows": 30, "missing": 24, "other": 0, "skipped": [],
        "values": [{"value": "model_error", "count": 6, "share": 1.0}],
    }  # fmt: skip
    found = await get(caller, "/top", field="reply.label", limit=1)
    assert (found["missing"], found["values"]) == (55, [{"value": "spam", "count": 5, "share": 1.0}])
    found = await get(caller, "/percentiles", "version=v1")
    assert found["exact"] is True
    (group,) = found["groups"]
    assert (group["count"], group["errors"]) == (30, 6)
    assert group["latency_ms"] == {"p50": 29.0, "p90": 55.0, "p95": 57.0, "p99": 59.0, "max": 59.0}
    assert group["confidence"] == {"p10": 0.5, "p50": 0.5, "mean": 0.5}


async def test_a_page_without_bodies_is_the_same_page_otherwise(caller: Caller) -> None:
    for filter in ("", "text~spam", "version=v1 status=200", "since=2026-11-22T12:00"):
        whole = (await get(caller, "", filter))["rows"]
        bare = (await get(caller, "", filter, bodies="false"))["rows"]
        assert any(row["reply"] for row in whole) and whole
        assert bare == [{**row, "request": None, "reply": None} for row in whole]


async def test_a_page_of_what_came_after_a_row_that_is_known(caller: Caller) -> None:
    everything = (await get(caller, ""))["rows"]
    known = everything[20]["id"]
    found = await get(caller, "", after=known)
    assert (found["rows"], found["next"]) == (everything[:20], None)
    first = await get(caller, "", after=known, limit=15)
    second = await get(caller, "", after=known, limit=15, before=first["next"])
    assert first["rows"] + second["rows"] == everything[:20]
    assert (await get(caller, "", after=everything[0]["id"]))["rows"] == []
    assert (await get(caller, "", "version=v2 status=200", after=known))["rows"] == [
        row for row in everything[:20] if (row["version"], row["status"]) == ("v2", 200)
    ]


async def test_one_row_comes_with_those_of_its_request(caller: Caller) -> None:
    (shadow,) = (await get(caller, "", "request_id=r7 shadow"))["rows"]
    found = (await caller.get(f"/api/v1/logs/{shadow['id']}")).json
    assert found["row"] == shadow
    assert [(one["request_id"], one["version"]) for one in found["related"]] == [("r7", "v1")]
    assert (await caller.get(f"/api/v1/logs/{shadow['id'] + 1}")).status == 404


@pytest.mark.parametrize(
    ("format", "kind"), [("jsonl", "application/x-ndjson"), ("csv", "text/csv; charset=utf-8")]
)
async def test_an_export_is_a_file_and_says_how_many_rows_it_has(
    caller: Caller, format: str, kind: str
) -> None:
    heard = await caller.get(f"/api/v1/logs/export?filter=status%3D500&format={format}")
    assert (heard.status, heard.headers["content-type"], heard.headers["mdslite-rows"]) == (200, kind, "6")
    assert heard.headers["content-disposition"] == f'attachment; filename="requests.{format}"'
    lines = heard.body.decode().splitlines()
    assert heard.complete and len(lines) == 6 + (format == "csv")
    assert "mdslite-skipped" not in heard.headers
    if format == "jsonl":
        assert [json.loads(line)["status"] for line in lines] == [500] * 6


async def test_a_file_that_cannot_be_read_is_named_whatever_is_asked(tmp_path: Path, caller: Caller) -> None:
    broken = ["2026-11-22T10.db", "2026-11-22T11.db"]
    for name in broken:
        (tmp_path / "store" / "log" / name).write_bytes(b"damaged " * 512)
    for path in ("", "/histogram", "/top", "/percentiles"):
        params = {"field": "code"} if path == "/top" else {}
        assert sorted((await get(caller, path, WINDOW, **params))["skipped"]) == broken, path
    heard = await caller.get("/api/v1/logs/export?filter=status%3D500")
    assert (heard.headers["mdslite-rows"], heard.headers["mdslite-skipped"]) == ("6", ", ".join(broken))
    assert len(heard.body.splitlines()) == 6


async def test_a_follower_that_asks_hears_once_of_each_file_that_becomes_unreadable(
    tmp_path: Path, box: Box
) -> None:
    caller, quiet = Caller(box.app), Caller(box.app)
    following = [
        asyncio.create_task(caller.get("/api/v1/logs?follow=true&skipped=true")),
        asyncio.create_task(quiet.get("/api/v1/logs?follow=true")),
    ]
    await asyncio.gather(caller.began.wait(), quiet.began.wait())

    def told_last(name: str) -> bool:
        return caller.heard.body.endswith(name.encode() + b'"]}\n')

    for name in ("2026-11-22T10.db", "2026-11-22T11.db"):
        (tmp_path / "store" / "log" / name).write_bytes(b"damaged " * 512)
        await until(partial(told_last, name))
    box.journal.append(row(time=NOON + 3600, request_id="late"))
    await until(lambda: b"late" in caller.heard.body and b"late" in quiet.heard.body)
    told = [line["skipped"] for line in caller.heard.lines if "skipped" in line]
    assert told == [["2026-11-22T10.db"], ["2026-11-22T11.db"]]
    assert [line["request_id"] for line in quiet.heard.lines] == ["late"]
    box.draining = True
    await asyncio.gather(*following)


async def test_a_wrong_filter_is_400_whatever_is_asked(caller: Caller) -> None:
    for path in ("", "/histogram", "/top", "/percentiles", "/export"):
        more = "&field=code" if path == "/top" else ""
        heard = await caller.get(f"/api/v1/logs{path}?filter=nonsense%3D1{more}")
        assert (heard.status, heard.json["code"]) == (400, "invalid_request"), path
        assert "nonsense" in heard.json["error"]


async def test_a_reader_that_leaves_takes_its_question_back(box: Box, caller: Caller) -> None:
    caller.leaving.set()
    for path in ("/histogram", "/top?field=code", "/export"):
        try:
            await caller.get(f"/api/v1/logs{path}")
        except ClientClosed:
            continue
    assert len((await get(Caller(box.app), "", limit=3))["rows"]) == 3
