"""`apply`, `undo` and `history` against a small API server."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from api_server import APPLIED, PLAN, STEPS, ApiServer, on_a_terminal

from mdslite.cli import run

FAILED = {
    "event": "result", "revision": 2, "state": "failed", "seconds": 0.1,
    "error": "demo/digits v2: no such op", "code": "load_failed", "status": 422,
}  # fmt: skip
DIFF = {"changed": True, "models": PLAN["models"]}


class TestHistory:
    @pytest.fixture
    def api(self, api: ApiServer) -> ApiServer:
        api.revisions = [
            {
                "id": number, "time": "2026-11-22T10:00:00Z", "author": "ada@edge", "state": state,
                "reason": "v2 to a tenth", "error": error, "source": "deployments: []\n",
                "summary": {"add": 1, "update": 2, "delete": 0, "retain": 4},
            }
            for number, state, error in (
                (3, "failed", "v3: no such op"), (2, "applied", None), (1, "applied", None)
            )
        ]  # fmt: skip
        return api

    def test_lists_revisions_newest_first(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["history"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["REV", "TIME", "AUTHOR", "STATE", "CHANGES", "REASON"]
        assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1"]
        assert "failed   +1 ~2    v2 to a tenth; failed: v3: no such op" in lines[1]
        assert "applied  +1 ~2    v2 to a tenth" in lines[2]

    def test_a_long_reason_goes_below_its_row_where_there_is_no_room_beside_it(self, api: ApiServer) -> None:
        reason = "the last weight was too small to tell anything in the time that was left on Friday"
        for one in api.revisions:
            one |= {"reason": reason, "diff": None}
        code, printed = on_a_terminal(
            ["history", "--limit", "2"], MDSLITE_URL=api.url, COLUMNS="80", NO_COLOR="1"
        )
        lines = [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in printed.splitlines()]
        assert code == 0
        assert lines[0] == "REV  TIME                 AUTHOR    STATE     CHANGES"
        assert lines[1].split()[-3:] == ["failed", "+1", "~2"]
        assert " ".join(line.strip() for line in lines[2:4]) == f"{reason}; failed: v3: no such op"
        assert [line[:5] for line in lines[2:4]] == [" " * 5] * 2
        assert max(map(len, lines)) <= 80
        code, printed = on_a_terminal(["history", "2"], MDSLITE_URL=api.url, COLUMNS="50", NO_COLOR="1")
        at = printed.splitlines().index("reason    the last weight was too small to tell")
        assert printed.splitlines()[at + 1] == "          anything in the time that was left on"

    def test_a_long_failure_takes_two_lines_and_is_told_whole_of_its_revision(self, api: ApiServer) -> None:
        why = "v3 failed to load: " + "an operator that nobody knows, " * 40
        api.revisions[0] |= {"reason": "", "error": f"{why}\nTraceback", "diff": None}
        _, printed = on_a_terminal(
            ["history", "--limit", "1"], MDSLITE_URL=api.url, COLUMNS="80", NO_COLOR="1"
        )
        lines = printed.splitlines()
        assert len(lines) == 4 and lines[3].rstrip().endswith("…")
        assert why.startswith(" ".join(line.strip() for line in lines[2:])[:-1])
        _, printed = on_a_terminal(["history", "3"], MDSLITE_URL=api.url, COLUMNS="80", NO_COLOR="1")
        assert printed.split().count("operator") == 40

    def test_of_a_failed_revision_without_a_reason_says_why_it_failed(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.revisions[0]["reason"] = ""
        assert run(["history"]) == 0
        assert "failed   +1 ~2    v3: no such op" in capsys.readouterr().out.splitlines()[1]

    def test_as_json_is_an_array(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["history", "--json", "--limit", "2"]) == 0
        assert [one["id"] for one in json.loads(capsys.readouterr().out)] == [3, 2]

    def test_of_one_revision_prints_its_file(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["history", "2"]) == 0
        out = capsys.readouterr().out
        assert "author    ada@edge" in out
        assert out.endswith("deployments: []\n")

    def test_says_when_nothing_was_applied(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        api.revisions = []
        assert run(["history"]) == 0
        assert capsys.readouterr().err.startswith("nothing has been applied yet\n")


class TestApply:
    def test_shows_the_plan_the_steps_and_the_way_back(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["apply", "-f", "deployments.yaml", "--yes", "--reason", "why not"]) == 0
        printed = capsys.readouterr()
        assert printed.err == "(1/2) v2 ... DONE\n(2/2) v1 ... DONE\n"
        assert printed.out.splitlines()[0] == "PROJECT: demo MODEL: digits"
        assert printed.out.splitlines()[-1] == "revision 2 in 0.4 s   undo: mdslite undo"
        sent = json.loads(api.requests[0][2])
        assert sent == {
            "source": "deployments: []\n",
            "file": "deployments.yaml",
            "base": str(deployments.parent),
            "prune": False,
        }
        assert api.last[2] | sent == api.last[2]
        assert api.last[2]["expect_revision"] == 1
        assert api.last[2]["reason"] == "why not"

    def test_names_the_model_of_a_step_when_several_change(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.plan = {**PLAN, "models": [*PLAN["models"], {**PLAN["models"][0], "model": "letters"}]}
        assert run(["apply", "-f", "deployments.yaml", "--yes"]) == 0
        assert capsys.readouterr().err.startswith("(1/2) demo/digits v2 ... DONE\n")

    def test_without_a_terminal_asks_for_yes_and_changes_nothing(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["apply", "-f", "deployments.yaml", "--prune"]) == 1
        hint = capsys.readouterr().err.splitlines()[-1]
        assert hint == "hint: mdslite apply -f deployments.yaml --prune --yes"
        assert [request[1] for request in api.requests] == ["/api/v1/plan"]
        assert run(shlex.split(hint.removeprefix("hint: mdslite "))) == 0

    @pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1), (b"\x04", 1)])
    def test_on_a_terminal_only_yes_counts(
        self, api: ApiServer, deployments: Path, answer: bytes, code: int
    ) -> None:
        found, printed = on_a_terminal(["apply", "-f", "deployments.yaml"], answer, MDSLITE_URL=api.url)
        assert found == code
        assert "Apply? [y/N]" in printed
        applied = [request[1] for request in api.requests].count("/api/v1/apply")
        assert applied == (1 if code == 0 else 0)
        assert ("(1/2) v2 ... DONE\n(2/2) v1 ... DONE\nrevision 2 in 0.4 s" in printed) == (code == 0)
        assert ("nothing was applied" in printed) == (code == 1)

    @pytest.mark.parametrize(("changed", "code"), [(True, 2), (False, 0)])
    def test_dry_run_tells_changes_by_its_exit_code(
        self,
        api: ApiServer,
        deployments: Path,
        changed: bool,
        code: int,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        api.plan = {**PLAN, "changed": changed}
        assert run(["apply", "-f", "deployments.yaml", "--dry-run"]) == code
        assert ("nothing would change" in capsys.readouterr().out) == (not changed)
        assert [request[1] for request in api.requests] == ["/api/v1/plan"]

    def test_a_plan_without_changes_is_not_asked_about(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.plan = {"base_revision": 1, "changed": False, "models": []}
        assert run(["apply", "-f", "deployments.yaml"]) == 0
        assert capsys.readouterr().out.endswith("nothing would change\n")

    def test_as_json_prints_plan_and_result_as_one_object(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["apply", "-f", "deployments.yaml", "--yes", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [one["index"] for one in found.pop("steps")] == [1, 2]
        assert found == {"plan": PLAN, "result": APPLIED}
        assert run(["apply", "-f", "deployments.yaml", "--dry-run", "--json"]) == 2
        assert json.loads(capsys.readouterr().out) == {"plan": PLAN, "steps": [], "result": None}

    def test_a_failed_load_ends_with_1_and_says_that_nothing_switched(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        failed = {**STEPS[1], "state": "FAILED", "error": "no such op"}
        api.events = [
            STEPS[0],
            failed,
            {"event": "result", "revision": 2, "state": "failed", "seconds": 0.1,
             "error": "demo/digits v2: no such op", "code": "load_failed"},
        ]  # fmt: skip
        assert run(["apply", "-f", "deployments.yaml", "--yes"]) == 1
        assert capsys.readouterr().err.splitlines() == [
            "(1/2) v2 ... FAILED",
            "error: demo/digits v2: no such op",
            "revision 2 failed, nothing was switched: what served before still serves",
        ]

    def test_as_json_tells_the_steps_in_the_order_in_which_they_ended(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        failed = {**STEPS[3], "state": "FAILED", "error": "no such op"}
        api.events = [*STEPS[:3], failed, FAILED]
        assert run(["apply", "-f", "deployments.yaml", "--yes", "--json"]) == 1
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        assert found["plan"] == PLAN
        assert [(one["version"], one["state"], one.get("error")) for one in found["steps"]] == [
            ("v2", "DONE", None),
            ("v1", "FAILED", "no such op"),
        ]
        assert found["result"] == FAILED
        assert "error: demo/digits v2: no such op" in printed.err

    @pytest.mark.parametrize(
        ("data", "code", "error"),
        [
            (None, "invalid_request", "cannot read d.yaml: No such file"),
            (b"\xff", "invalid_request", "d.yaml is no UTF-8 text"),
            (b"deployments: [", "invalid_spec", "d.yaml:1:14: expected ]"),
        ],
    )
    def test_as_json_a_file_that_cannot_be_read_is_one_object_too(
        self, api: ApiServer, deployments: Path, data: bytes | None, code: str, error: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        if data is not None:
            Path("d.yaml").write_bytes(data)
        if code == "invalid_spec":  # which the appliance says
            place = {"file": "d.yaml", "line": 1, "column": 14, "hint": "write it"}
            api.error = (422, {"error": f"{error}", "code": code, **place})
        assert run(["apply", "-f", "d.yaml", "--json", "--yes"]) == 1
        told = json.loads(capsys.readouterr().out)
        assert told["error"].startswith(error)
        assert told["code"] == code
        assert told["hint"]

    def test_as_json_a_plan_that_is_declined_is_printed(self, api: ApiServer, deployments: Path) -> None:
        code, screen = on_a_terminal(["apply", "-f", "deployments.yaml", "--json", "--url", api.url], b"n\n")
        assert code == 1
        told, _ = json.JSONDecoder().raw_decode(screen[screen.index("{") :])
        assert told == {"plan": PLAN, "steps": [], "result": None}

    @pytest.mark.parametrize("options", [["--yes"], ["--dry-run"], []])
    def test_a_plan_that_could_not_be_made_is_shown_as_far_as_it_is_known_before_its_error(
        self, api: ApiServer, deployments: Path, options: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.plan_failure = {**FAILED, "revision": None, "diff": DIFF}
        api.events = [{**FAILED, "diff": DIFF}]
        assert run(["apply", "-f", "deployments.yaml", *options]) == 1
        printed = capsys.readouterr()
        assert "Weight: 20" in printed.out
        assert printed.err.startswith("error: demo/digits v2: no such op\n")
        assert ("revision 2 failed" in printed.err) == (options == ["--yes"])
        asked = ["/api/v1/plan", *(["/api/v1/apply"] if options == ["--yes"] else [])]
        assert [request[1] for request in api.requests] == asked
        assert run(["apply", "-f", "deployments.yaml", "--json", *options]) == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["plan"], found["steps"], found["result"]["state"]) == (DIFF, [], "failed")
        assert "diff" not in found["result"]

    def test_what_is_no_fault_of_a_model_is_not_tried_again_by_an_apply(
        self, api: ApiServer, deployments: Path
    ) -> None:
        api.plan_failure = {**FAILED, "code": "storage_full"}
        assert run(["apply", "-f", "deployments.yaml", "--yes"]) == 1
        assert [request[1] for request in api.requests] == ["/api/v1/plan"]

    def test_an_archive_that_is_too_large_fails_as_an_apply_that_is_kept(
        self, api: ApiServer, deployments: Path
    ) -> None:
        api.plan_failure = {**FAILED, "code": "too_large"}
        api.events = [FAILED]
        assert run(["apply", "-f", "deployments.yaml", "--yes"]) == 1
        assert [request[1] for request in api.requests] == ["/api/v1/plan", "/api/v1/apply"]

    @pytest.mark.parametrize("when", ["planning", "events"])
    def test_a_fetch_shows_its_progress_on_a_terminal_only(
        self, api: ApiServer, deployments: Path, when: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        uri = "https://models.example/large\x1b[2J.onnx"
        fetch = {"event": "fetch", "uri": uri, "done_bytes": 10_000_000, "total_bytes": 40_000_000}
        whole = {**fetch, "uri": "small.onnx", "done_bytes": 1000, "total_bytes": 1000}
        setattr(api, when, [fetch, whole, *getattr(api, when)])
        code, printed = on_a_terminal(["apply", "-f", "deployments.yaml", "--yes"])
        assert code == 0
        shown = "\rfetching 10.0 MB of 40.0 MB: https://models.example/large\\x1b[2J.onnx\x1b[K\r\x1b[K"
        assert shown + ("PROJECT: " if when == "planning" else "(1/2) v2 ... DONE") in printed
        assert "small.onnx" not in printed
        assert run(["apply", "-f", "deployments.yaml", "--yes"]) == 0
        assert capsys.readouterr().err == "(1/2) v2 ... DONE\n(2/2) v1 ... DONE\n"

    def test_progress_stays_on_its_line(self, api: ApiServer, deployments: Path) -> None:
        uri = f"https://models.example/{'signed' * 30}"
        api.planning = [{"event": "fetch", "uri": uri, "done_bytes": 1_000_000_000, "total_bytes": None}]
        _, printed = on_a_terminal(["apply", "-f", "deployments.yaml", "--yes"], COLUMNS="60")
        line = next(one for one in printed.split("\r") if one.startswith("fetching 1.0 GB so far: "))
        assert len(line.removesuffix("\x1b[K")) < 60 and "…" in line

    def test_a_table_that_is_too_wide_for_the_terminal_breaks_within_its_columns(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        step = PLAN["models"][0]["steps"][1]
        changes = [
            {"field": "uri", "before": f"/srv/{name}.onnx", "after": f"/mnt/{name}.onnx"} for name in "ab"
        ]
        changed = {**step, "changes": [*step["changes"], *changes]}
        diff = {**DIFF, "models": [{**PLAN["models"][0], "steps": [changed]}]}
        api.plan, api.revisions = {**PLAN, **diff}, [{"id": 1, "time": 0, "state": "applied", "diff": diff}]
        for command in (["apply", "-f", "deployments.yaml", "--dry-run"], ["history", "1"]):
            _, printed = on_a_terminal(command, COLUMNS="60")
            table = [line for line in printed.splitlines() if line.startswith("|")]
            assert len(table) > 2 and max(map(len, table)) <= 60
            assert {line.count("|") for line in table} == {4} and len({len(line) for line in table}) == 1
            told = " ".join(line.split("|")[3].strip() for line in table)
            assert "URI: /srv/a.onnx -> /mnt/a.onnx," in told
            run(command)
            assert max(map(len, capsys.readouterr().out.splitlines())) > 80  # a file or a pipe has no width

    def test_a_plan_without_an_end_is_an_error(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.planning, api.plan_failure = [], {"event": "fetch", "uri": "a", "done_bytes": 1, "total_bytes": 2}
        assert run(["apply", "-f", "deployments.yaml", "--yes"]) == 1
        assert "hint: mdslite ls" in capsys.readouterr().err

    def test_an_interrupt_says_that_the_appliance_goes_on(self, api: ApiServer, deployments: Path) -> None:
        api.events, api.hangs = STEPS[:2], True
        command = [sys.executable, "-m", "mdslite", "apply", "-f", "deployments.yaml", "--yes"]
        with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "(1/2) v2 ... DONE\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "the appliance goes on with it; mdslite history tells how it ends" in err
        assert "Traceback" not in err

    def test_an_apply_without_an_end_is_an_error(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.events = STEPS[:1]
        assert run(["apply", "-f", "deployments.yaml", "--yes"]) == 1
        assert "hint: mdslite history" in capsys.readouterr().err

    def test_a_mistake_is_shown_with_its_place_its_line_and_a_hint(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.error = (
            422,
            {
                "code": "invalid_spec",
                "error": 'deployments.yaml:8:13: weight: expected a number, got "ten"',
                "file": "deployments.yaml", "line": 8, "column": 13, "excerpt": "    weight: ten",
                "hint": "relative weight, 0 or more", "request_id": "r",
            },
        )  # fmt: skip
        assert run(["apply", "-f", "deployments.yaml"]) == 1
        assert capsys.readouterr().err.splitlines() == [
            'error: deployments.yaml:8:13: weight: expected a number, got "ten"',
            "  8 |     weight: ten",
            "hint: relative weight, 0 or more",
        ]

    def test_a_file_that_cannot_be_read_is_an_error_in_words(
        self, api: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["apply", "-f", str(tmp_path / "nowhere.yaml")]) == 1
        assert "No such file" in capsys.readouterr().err
        model = tmp_path / "model.onnx"
        model.write_bytes(b"\x08\xff\xfe")
        assert run(["apply", "-f", str(model)]) == 1
        assert f"hint: to serve a model file: mdslite up {model}\n" in capsys.readouterr().err


class TestUndo:
    def test_goes_back_to_the_state_before_by_default(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["undo", "--yes"]) == 0
        assert json.loads(api.requests[0][2]) == {"revision": "previous"}
        assert api.last[2]["revision"] == "previous"
        assert capsys.readouterr().out.splitlines()[-1].startswith("revision 2 in 0.4 s")

    def test_shows_the_plan_and_asks(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["undo", "1"]) == 1
        printed = capsys.readouterr()
        assert "APPLY WILL" in printed.out
        assert printed.err.endswith("hint: mdslite undo 1 --yes\n")
        assert json.loads(api.requests[0][2]) == {"revision": 1}
