"""`logs --histogram`, `--top`, `--percentiles` and `--export`, against a small API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from api_server import ApiServer

from mdslite.cli import run
from mdslite.cli.files import new_file
from mdslite.cli.log_figures import draw_histogram, read_interval
from mdslite.errors import InvalidRequest, StorageFull


def series(
    version: str, counts: list[int], *, errors: list[int] | None = None, refused: list[int] | None = None
) -> dict[str, Any]:
    none = [0] * len(counts)
    return {
        "project": "mail", "model": "spam", "version": version, "shadow": version == "v2", "value": version,
        "counts": counts, "errors": errors or none, "refused": refused or none, "total": sum(counts),
    }  # fmt: skip


def histogram(*stack: dict[str, Any], interval_s: float = 60.0) -> dict[str, Any]:
    buckets = len(stack[0]["counts"]) if stack else 0
    return {
        "interval_s": interval_s, "since": 1_795_348_800.0, "until": 1_795_348_800.0 + buckets * interval_s,
        "by": "version", "source": "minutes", "series": list(stack), "other": None, "skipped": [],
    }  # fmt: skip


def asked(api: ApiServer, number: int = -1) -> dict[str, list[str]]:
    return parse_qs(urlsplit(api.requests[number][1]).query)


def test_a_histogram_has_a_line_for_each_interval_and_a_part_for_each_version() -> None:
    found = histogram(series("v1", [8, 0, 4], errors=[0, 0, 1], refused=[2, 0, 3]), series("v2", [4, 0, 0]))
    lines = draw_histogram(found, width=52, fills="#=.")
    assert lines[0].startswith("16 requests, 1 error, 5 refused, from ")
    assert lines[0].endswith("a line is 1 min")
    assert lines[1] == "# mail/spam@v1 12  = mail/spam@v2 (shadow) 4"
    assert [line[16:].rstrip() for line in lines[2:]] == [
        "########====        12  2 refused",
        "                     0",
        "####                 4  1 error, 3 refused",
    ]


def test_a_histogram_counts_the_lines_of_a_long_quiet_time() -> None:
    lines = draw_histogram(histogram(series("v1", [1, *[0] * 3, 2, *[0] * 2000])), width=52, fills="#=.")
    assert [line[16:].split() for line in lines[2:7]] == [
        ["######", "1"],
        ["0"],
        ["0"],
        ["0"],
        ["#" * 12, "2"],
    ]
    assert lines[7:] == ["... 2,000 lines without requests"]


def test_requests_that_named_no_model_are_called_so() -> None:
    stray = series("v1", [2]) | {"project": None, "model": None, "version": None}
    lines = draw_histogram(histogram(stray), width=52, fills="#=.")
    assert lines[1] == "# no model 2"


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("1m", 60), ("1.5h", 5400), ("250ms", 0.25), ("90", 90), ("1d", 86400)]
)
def test_intervals_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert read_interval(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "1y", "-1m", "m", "1 m x"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no interval"):
        read_interval(text)


def test_the_interval_asked_for_is_the_one_that_is_shown(
    api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.figures["/logs/histogram"] = histogram(series("v1", [1] * 100), interval_s=10.0)
    assert run(["logs", "model=spam", "--histogram", "--interval", "10s", "--by", "status"]) == 0
    assert asked(api) == {"filter": ["model=spam"], "interval_s": ["10.0"], "by": ["status"]}
    lines = capsys.readouterr().out.splitlines()
    assert "a line is 10 s" in lines[0]
    assert len(lines) == 102


def test_without_an_interval_the_lines_fit_a_screen(
    api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api.figures["/logs/histogram"] = histogram(series("v1", [1] * 120))
    assert run(["logs", "since=2h model=spam", "--histogram"]) == 0
    assert asked(api)["interval_s"] == ["300.0"]
    assert asked(api)["filter"][0].split() == [
        "model=spam", "since=1795348800.000000", "until=1795356000.000000",
    ]  # fmt: skip


def test_top_values_come_with_their_shares(api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.figures["/logs/top"] = {
        "field": "reply.label", "rows": 20, "missing": 4, "other": 1, "skipped": [],
        "values": [
            {"value": "spam\x1b[31m", "count": 12, "share": 0.75},
            {"value": True, "count": 3, "share": 0.1875},
        ],
    }  # fmt: skip
    assert run(["logs", "since=1h", "--top", "reply.label", "--limit", "2"]) == 0
    assert asked(api) == {"filter": ["since=1h"], "field": ["reply.label"], "limit": ["2"]}
    said = capsys.readouterr()
    assert [line.split()[:3] for line in said.out.splitlines()[1:]] == [
        ["spam\\x1b[31m", "12", "75.0%"],
        ["true", "3", "18.8%"],
    ]
    assert said.err == "reply.label of 20 requests, 4 of them without; 1 have other values\n"


def test_values_of_no_rows_are_no_table(api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.figures["/logs/top"] = {
        "field": "status", "rows": 0, "missing": 0, "other": 0, "skipped": [], "values": []
    }  # fmt: skip
    assert run(["logs", "status=999", "--top", "status"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "no logged request matches\n")


def test_percentiles_by_version(api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    api.figures["/logs/percentiles"] = {
        "exact": False, "skipped": [],
        "groups": [
            {
                "project": "mail", "model": "spam", "version": "v1", "shadow": False,
                "count": 1200, "errors": 7, "refused": 3,
                "latency_ms": {"p50": 1.234, "p90": 2.0, "p95": 3.0, "p99": 4.0, "max": 5000.0},
                "confidence": {"p10": 0.5, "p50": 0.75, "mean": 0.7},
            },
            {
                "project": "mail", "model": "spam", "version": "v2", "shadow": True,
                "count": 2, "errors": 0, "refused": 2, "latency_ms": None, "confidence": None,
            },
        ],
    }  # fmt: skip
    assert run(["logs", "--percentiles"]) == 0
    said = capsys.readouterr()
    assert [line.split() for line in said.out.splitlines()] == [
        ["MODEL", "VER", "S", "COUNT", "ERRORS", "REFUSED", "P50", "MS", "P90", "P95", "P99", "MAX"],
        ["mail/spam", "v1", "1,200", "7", "3", "1.23", "2.00", "3.00", "4.00", "5000.00"],
        ["mail/spam", "v2", "S", "2", "0", "2", "-", "-", "-", "-", "-"],
        [],
        ["MODEL", "VER", "S", "CONF", "P10", "CONF", "P50", "CONF", "MEAN"],
        ["mail/spam", "v1", "0.500", "0.750", "0.700"],
    ]
    assert "within 0.4 %" in said.err
    assert "latencies are those of good answers" in said.err


@pytest.mark.parametrize("view", [["--histogram"], ["--top", "code"], ["--percentiles"]])
def test_as_json_views_are_what_the_api_says(
    api: ApiServer, view: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = view[0].removeprefix("--")
    api.figures[f"/logs/{name}"] = {"some": ["thing"]}
    assert run(["logs", *view, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"some": ["thing"]}


def test_an_export_is_a_whole_file_or_none(
    api: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "rows.csv"
    assert run(["logs", "shadow", "--export", str(target)]) == 0
    assert asked(api) == {"filter": ["shadow"], "format": ["csv"]}
    assert target.read_bytes() == api.exported
    assert capsys.readouterr().err == "exported 2 rows, 19 B\n"
    assert run(["logs", "--export", str(target), "--limit", "2", "--force"]) == 0
    assert asked(api) == {"format": ["csv"], "limit": ["2"]}
    capsys.readouterr()
    assert run(["logs", "--export", str(target), "--force", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"file": str(target), "rows": 2, "size_bytes": 19, "skipped": []}
    assert run(["logs", "--export", "-", "--format", "csv", "--json"]) == 1
    assert "which leaves no room for --json" in json.loads(capsys.readouterr().out)["error"]
    api.error = (400, {"error": "no", "code": "invalid_request", "request_id": "r"})
    assert run(["logs", "--export", str(tmp_path / "other.csv")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_an_export_to_stdout_names_its_format(
    api: ApiServer, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(["logs", "--export", "-", "--format", "csv"]) == 0
    assert capfdbinary.readouterr().out == api.exported


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--export", "rows.txt"], "which format"),
        (["--export", "/no/such/folder/rows.csv"], "name a file in a folder that is there"),
        (["--histogram", "--interval", "soon"], "no interval"),
    ],
)
def test_what_cannot_be_is_said(
    api: ApiServer, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["logs", *arguments]) == 1
    assert says in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_no_want_of_room(
    api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["logs", "--export", "/no/such/folder/rows.csv", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["code"] == "invalid_request"


def test_no_room_for_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.part").symlink_to("/dev/full")
    target = str(tmp_path / "rows.csv")
    with pytest.raises(StorageFull, match="No space left"), new_file(target, force=False) as file:
        file.write(b"x" * 10)
