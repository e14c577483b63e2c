"""`logs` against a small API server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from api_server import ApiServer, on_a_terminal

from mdslite.cli import run
from mdslite.cli.logs import in_local_time


class TestLogs:
    @pytest.fixture
    def api(self, api: ApiServer) -> ApiServer:
        api.rows = [
            {
                "id": 100 - age, "time": 1_794_924_180.25 - age, "request_id": f"r-{age}", "project": "demo",
                "model": "digits", "version": "v1", "shadow": age == 1, "url": "/x",
                "status": 200 if age else 422,
                "code": None if age else "invalid\x1b]0;x\x07", "latency_ms": 1.5, "rows": 1,
                "confidence": 0.875 if age else None,
            }
            for age in range(5)
        ]  # fmt: skip
        return api

    def test_prints_the_newest_rows_oldest_first_over_pages(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["logs", "--limit", "3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["TIME", "MODEL", "VER", "CODE", "MS", "CONF", "S", "REQUEST"]
        assert [line.split()[-1] for line in lines[1:]] == ["r-2", "r-1", "r-0"]
        assert "422 invalid\\x1b]0;x\\x07" in lines[3]
        assert lines[2].split()[-2:] == ["S", "r-1"]

    def test_as_json_prints_one_object_a_line(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["logs", "model=digits status>=400", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert rows == api.rows[::-1]
        assert "filter=model%3Ddigits" in api.requests[0][1]

    def test_follows_after_the_rows_that_are_there_and_prints_none_twice(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.coming = [api.rows[0], {**api.rows[0], "id": 101, "request_id": "r-new"}]
        assert run(["logs", "shadow", "-f", "--limit", "2"]) == 1
        shown = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]]
        assert shown == ["r-1", "r-0", "r-new"]
        following = api.requests[1][1]
        assert "follow=true" in following
        assert "filter=shadow" in following

    @pytest.mark.parametrize("columns", [80, 120])
    def test_on_a_terminal_what_follows_stands_below_what_was_there_and_long_values_are_cut(
        self, api: ApiServer, columns: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = "/projects/demo/models/one-that-is-not-there-and-has-a-long-name:predict"
        request_id = "0123456789abcdefabcdef99"
        api.rows = [{**row, "request_id": request_id, "code": "invalid_tensor"} for row in api.rows[:2]]
        api.coming = [{**api.rows[0], "id": 101, "model": None, "url": lost, "version": None}]
        monkeypatch.setenv("MDSLITE_URL", api.url)
        _, printed = on_a_terminal(["logs", "--limit", "2"], COLUMNS=str(columns))
        _, followed = on_a_terminal(["logs", "--limit", "2", "-f"], COLUMNS=str(columns))
        there, coming = printed.splitlines(), followed.splitlines()
        assert coming[:3] == there
        assert max(map(len, coming[:4])) <= columns
        at = there[0].index("VER")
        assert [line[at:].split()[0] for line in coming[:4]] == ["VER", "v1", "v1", "-"]
        assert (request_id in there[1]) == (columns == 120)
        assert there[1].endswith(request_id[-4:]) and coming[3].startswith(there[1][:5])
        assert re.search(r"  demo/[^ ]*…[^ ]*me\?  ", coming[3])

    def test_names_the_model_that_a_request_asked_for_and_did_not_reach(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        urls = {
            "/projects/demo/models/nope/versions/v1:predict": "demo/nope?",
            "/projects/demo/models/nope:predict?x=1": "demo/nope?",
            "/v2/models/demo.nope/versions/v1/infer": "demo/nope?",
            "/v2/models/nope/infer": "/v2/models/nope/infer",
        }
        api.rows = [
            {**api.rows[0], "id": number, "project": None, "model": None, "version": None, "url": url}
            for number, url in enumerate(urls)
        ]
        assert run(["logs", "--limit", "4"]) == 0
        shown = [word for word in capsys.readouterr().out.split() if "nope" in word]
        assert sorted(shown) == sorted(urls.values())

    @pytest.mark.parametrize("columns", [20, 40])
    def test_on_a_very_narrow_terminal_each_cell_stands_behind_its_title(
        self, api: ApiServer, columns: int
    ) -> None:
        code, printed = on_a_terminal(["logs", "--limit", "1"], MDSLITE_URL=api.url, COLUMNS=str(columns))
        assert code == 0
        assert printed.startswith("TIME ") and "REQUEST r-0" in printed
        assert "TIME TIME" not in printed
        assert max(map(len, printed.splitlines())) <= columns

    def test_following_names_a_file_that_becomes_unreadable_once(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.skipped = ["2026-11-23T03.db"]
        new = {**api.rows[0], "id": 101, "request_id": "r-new"}
        api.coming = [{"skipped": ["2026-11-23T03.db"]}, new, {"skipped": ["2026-11-23T04.db"]}]
        assert run(["logs", "-f", "--limit", "1"]) == 1
        said = capsys.readouterr()
        assert [line.split()[-1] for line in said.out.splitlines()[1:]] == ["r-0", "r-new"]
        assert said.err.count("2026-11-23T03.db") == said.err.count("2026-11-23T04.db could not be read") == 1
        assert run(["logs", "-f", "--limit", "1", "--json"]) == 1
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["skipped"] for line in lines if "skipped" in line] == [
            [name] for name in ("2026-11-23T03.db", "2026-11-23T04.db")
        ]

    def test_sorts_rows_by_arrival_whatever_the_order_of_their_ids(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.rows[0]["time"] = api.rows[2]["time"] - 0.5
        assert run(["logs", "--limit", "3"]) == 0
        assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == [
            "r-0",
            "r-2",
            "r-1",
        ]

    def test_no_rows_asked_for_is_no_empty_log(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["logs", "--limit", "0"]) == 0
        assert capsys.readouterr().err == ""

    def test_says_why_the_latest_are_not_there(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.rows = []
        api.status["log_trouble"] = (
            "it is not written just now (its disk is full); 42,141 rows wait in memory"
        )
        assert run(["logs"]) == 0
        assert capsys.readouterr().err == (
            "no request was logged yet\n"
            "of the latest requests the log says nothing: it is not written just now (its disk is full); "
            "42,141 rows wait in memory\n"
        )

    def test_says_when_there_is_nothing(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        api.rows = []
        assert run(["logs"]) == 0
        assert capsys.readouterr().err == "no request was logged yet\n"
        assert run(["logs", "status=599"]) == 0
        assert capsys.readouterr().err == "no logged request matches 'status=599'\n"

    def test_as_json_ends_with_the_files_that_could_not_be_read(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.rows, api.skipped = api.rows[:1], ["2026-11-23T03.db"]
        assert run(["logs", "--json"]) == 0
        said = capsys.readouterr()
        lines = [json.loads(line) for line in said.out.splitlines()]
        assert lines == [api.rows[0], {"skipped": ["2026-11-23T03.db"]}]
        assert "2026-11-23T03.db could not be read" in said.err

    def test_a_reader_that_leaves_ends_it_quietly(self, api: ApiServer) -> None:
        api.rows = api.rows * 20
        command = f"{sys.executable} -m mdslite logs --limit 50 --json | head -1"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30)
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ""


class TestMoments:
    @pytest.fixture(autouse=True)
    def seoul(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "KST-9")
            time.tzset()
            yield
        time.tzset()

    @pytest.mark.parametrize(
        ("given", "sent"),
        [
            ("since=10:00", "since=2026-11-22T10:00:00+09:00"),
            ("since=9:05:30", "since=2026-11-22T09:05:30+09:00"),
            ("since=23:00", "since=2026-11-21T23:00:00+09:00"),
            ("since='2026-11-17 14:03'", "since=2026-11-17T14:03:00+09:00"),
            ("until=2026-11-17", "until=2026-11-17T00:00:00+09:00"),
        ],
    )
    def test_without_an_offset_are_of_this_machines_zone(self, given: str, sent: str) -> None:
        assert in_local_time(given, datetime(2026, 11, 22, 20, 0)).strip() == sent

    @pytest.mark.parametrize(
        "filter",
        ["", "since=15m", "since=now", "since=1794924180", "since=2026-11-17T14:03Z", "text~since=10:00"],
    )
    def test_that_say_when_they_are_stay(self, filter: str) -> None:
        assert in_local_time(filter) == filter

    def test_leave_the_positions_of_what_follows(self) -> None:
        sent = in_local_time("since=10:00 foo=1 until=11:00")
        assert sent.index("foo=1") == len("since=10:00 ")
