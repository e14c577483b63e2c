"""`logs` against a small API server."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from api_server import ApiServer

from mdslite.cli import run


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
        assert run(["logs", "shadow", "-f", "--limit", "2"]) == 0
        shown = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]]
        assert shown == ["r-1", "r-0", "r-new"]
        assert "follow=true" in api.requests[0][1]
        assert "filter=shadow" in api.requests[0][1]

    def test_says_when_there_is_nothing(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        api.rows = []
        assert run(["logs"]) == 0
        assert capsys.readouterr().err == "no request was logged yet\n"
        assert run(["logs", "model=x"]) == 0
        assert capsys.readouterr().err == "no logged request matches 'model=x'\n"

    def test_a_reader_that_leaves_ends_it_quietly(self, api: ApiServer) -> None:
        api.rows = api.rows * 20
        command = f"{sys.executable} -m mdslite logs --limit 50 --json | head -1"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30)
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ""
