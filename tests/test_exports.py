"""The request log as files: what is in them is what is in the log."""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from log_rows import HOUR_S, NOON, row, running

from mdslite.errors import InvalidRequest
from mdslite.store.exports import COLUMNS
from mdslite.store.questions import Kind, Question, answer
from mdslite.store.requests import RequestLog

TEXT = '{"text": "a, \\"b\\"\\r\\nc größe"}'


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> RequestLog:
    folder = tmp_path_factory.mktemp("log")
    with running(folder) as journal:
        for number in range(5000):
            journal.append(
                row(
                    time=NOON + number * HOUR_S / 2500,
                    request_id=f"r{number}",
                    code="x,y" if number % 100 == 0 else None,
                    request=TEXT.encode() if number % 7 == 0 else None,
                    reply=b"\xff\x00" if number % 7 == 0 else None,
                    confidence=None if number % 3 else number / 5000,
                )
            )
        assert journal.flush()
    return RequestLog(folder)


def export(log: RequestLog, kind: Kind, text: str = "", newest: int | None = None) -> tuple[int, bytes]:
    count, *pieces = answer(log, Question(kind=kind, now=NOON + 3 * HOUR_S, filter=text, newest=newest))
    return int(count), b"".join(pieces)


def test_json_lines_are_the_rows_of_the_api_oldest_first(log: RequestLog) -> None:
    count, found = export(log, "jsonl", "confidence<0.5")
    rows = [json.loads(line) for line in found.splitlines()]
    assert count == len(rows) == 834
    assert [one["request_id"] for one in rows] == [f"r{number}" for number in range(0, 2500, 3)]
    (page,) = answer(log, Question(kind="page", now=NOON + 3 * HOUR_S, filter="request_id=r21"))
    assert rows[7] == json.loads(page)["rows"][0]


@pytest.mark.parametrize("text", ["", "confidence<0.5", "version=nothing"])
@pytest.mark.parametrize("newest", [1, 700, 2600, 5000])
def test_of_the_newest_rows_no_other_is_in_the_file(log: RequestLog, text: str, newest: int) -> None:
    _, everything = export(log, "jsonl", text)
    count, found = export(log, "jsonl", text, newest)
    assert found.splitlines() == everything.splitlines()[-newest:]
    assert count == len(found.splitlines())


def test_csv_holds_every_row_and_column(log: RequestLog) -> None:
    count, found = export(log, "csv")
    rows = list(csv.DictReader(io.StringIO(found.decode(), newline="")))
    assert count == len(rows) == 5000
    assert tuple(rows[0]) == COLUMNS
    seventh = rows[700]
    assert (seventh["request_id"], seventh["code"], seventh["shadow"]) == ("r700", "x,y", "false")
    assert seventh["time"] == "2026-11-22T12:16:48.000Z"
    assert (seventh["request"], seventh["request_encoding"]) == (TEXT, "utf-8")
    assert (base64.b64decode(seventh["reply"]), seventh["reply_bytes"]) == (b"\xff\x00", "2")
    assert (rows[1]["confidence"], rows[1]["request"]) == ("", "")


def test_parquet_has_types(log: RequestLog, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    count, found = export(log, "parquet", "request.text~größe")
    (tmp_path / "rows.parquet").write_bytes(found)
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert count == table.num_rows == 715
    first = table.slice(0, 1).to_pylist()[0]
    assert first["time"] == datetime.fromtimestamp(NOON, UTC)
    assert (first["status"], first["shadow"], first["confidence"]) == (200, False, 0.0)
    assert first["request"] == TEXT
    assert str(table.schema.field("latency_ms").type) == "double"
    everything, found = export(log, "parquet")
    (tmp_path / "rows.parquet").write_bytes(found)
    assert parquet.read_table(tmp_path / "rows.parquet")["request_id"].to_pylist() == [
        f"r{number}" for number in range(everything)
    ]


def test_without_pyarrow_parquet_is_refused_with_a_way_out(
    log: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidRequest, match="takes pyarrow") as caught:
        export(log, "parquet")
    assert "mdslite[parquet]" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_what_nothing_passes_makes_an_empty_file(log: RequestLog, kind: Kind, tmp_path: Path) -> None:
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    count, found = export(log, kind, "version=nothing")
    assert count == 0
    if kind == "parquet":
        (tmp_path / "rows.parquet").write_bytes(found)
        assert parquet.read_table(tmp_path / "rows.parquet").num_rows == 0
    else:
        assert found.splitlines() == ([",".join(COLUMNS).encode()] if kind == "csv" else [])


def test_rows_that_come_while_it_runs_are_left_out(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        for number in range(10):
            journal.append(row(request_id=f"r{number}"))
        assert journal.flush()
        pieces = answer(RequestLog(tmp_path), Question(kind="jsonl", now=NOON + 60))
        assert next(pieces) == b"10"
        journal.append(row(request_id="late"))
        assert journal.flush()
        assert b"".join(pieces).count(b"\n") == 10
