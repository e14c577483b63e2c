"""The commands against a small API server: what they ask, print where, and end with."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from api_server import BACKUP, ApiServer, on_a_terminal

from mdslite import cli as cli_module
from mdslite.cli import COMMANDS, cli, output, run
from mdslite.sizes import size_text


class TestEveryCommand:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_explains_itself_with_examples(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert "Examples:" in out
        assert f"mdslite {name}" in out
        assert "--json" in out

    @pytest.mark.parametrize(
        "line",
        [
            "",
            *COMMANDS,
            "import triton",
            *(f"token {name}" for name in ("create", "list", "revoke", "limit")),
        ],
    )
    def test_is_described_in_80_columns_with_nothing_cut(
        self, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        assert run([*line.split(), "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [one for one in lines[1:] if len(one) > 80 or one.endswith("...")] == []

    def test_is_described_in_the_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run([]) == 0
        out = capsys.readouterr().out
        for name, (_, _, line) in COMMANDS.items():
            assert f"  {name} " in out
            assert line in out

    @pytest.mark.parametrize(
        "args",
        [
            ["nothing-like-it"],
            ["ls", "--surplus"],
            ["predict"],
            ["logs", "--limit", "many"],
            ["apply"],
            ["show", "../x"],
            ["show", "a/b@"],
            ["ls", "a/b/c"],
            ["show", "a/b", "--at", "yesterday-ish"],
            ["undo", "first"],
            ["up", "--port", "70000"],
        ],
    )
    def test_ends_with_1_on_wrong_use_and_points_to_help_that_works(
        self, args: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(args) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        hint = err.splitlines()[-1].removeprefix("hint: ")
        assert run(shlex.split(hint)[1:]) == 0

    @pytest.mark.parametrize("name", [*COMMANDS, "nothing-like-it"])
    def test_fails_in_json_too_where_that_was_asked_for(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run([name, "--json", "--surplus"]) == 1
        printed = capsys.readouterr()
        told = json.loads(printed.out)
        assert told.keys() == {"error", "code", "hint"}
        assert printed.err == f"error: {told['error']}\nhint: {told['hint']}\n"

    @pytest.mark.parametrize(
        ("typed", "question", "hint"),
        [
            ("aply", ": did you mean apply?", "mdslite apply --help"),
            ("pedict", ": did you mean predict?", "mdslite predict --help"),
            ("deploy", ": did you mean apply?", "mdslite apply --help"),  # and not replay, which is as near
            ("rollback", ": did you mean undo?", "mdslite undo --help"),
            ("xyzzy", "", "mdslite --help"),
            ("bogus", "", "mdslite --help"),  # and not logs
        ],
    )
    def test_asks_what_was_meant_where_it_is_mistyped(
        self, typed: str, question: str, hint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run([typed, "-f", "deployments.yaml"]) == 1
        assert capsys.readouterr().err == f"error: there is no command {typed!r}{question}\nhint: {hint}\n"

    @pytest.mark.parametrize(
        "args",
        [["ls"], ["history"], ["logs"], ["undo"], ["show", "a/b"], ["backup"], ["predict", "a/b", "-d", "1"]],
    )
    def test_says_how_to_start_an_appliance_that_is_not_there(
        self, args: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MDSLITE_URL", "http://127.0.0.1:1")
        assert run(args) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err == (
            "error: no appliance answers at http://127.0.0.1:1\nhint: start it with: mdslite up --port 1\n"
        )

    def test_prefers_the_url_option_to_the_environment(
        self, api: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MDSLITE_URL", "http://127.0.0.1:1")
        assert run(["ls", "--url", api.url]) == 0

    @pytest.mark.parametrize("args", [["ls", "none"], ["apply", "-f", "my file.yaml"], ["undo"]])
    def test_hints_lead_to_the_appliance_of_the_url_option(
        self,
        args: list[str],
        api: ApiServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("MDSLITE_URL", "http://127.0.0.1:1")
        monkeypatch.chdir(tmp_path)
        Path("my file.yaml").write_text("deployments: []")
        assert run([*args, "--url", api.url]) == 1
        hint = capsys.readouterr().err.splitlines()[-1].removeprefix("hint: ")
        assert f"--url {api.url}" in hint
        assert run(shlex.split(hint)[1:]) == 0
        out = capsys.readouterr().out
        assert "undo:" not in out or f"undo: mdslite undo --url {api.url}" in out

    def test_shows_the_token_of_the_environment(
        self, api: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MDSLITE_TOKEN", "s3cret")
        run(["ls"])
        assert api.requests[-1][3]["authorization"] == "Bearer s3cret"
        assert "s3cret" not in "".join(capsys.readouterr())

    def test_prints_an_error_of_the_appliance_with_its_hint(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.error = (
            503,
            {"error": "\x1b[2Jstarting", "code": "unavailable", "hint": "wait", "request_id": "r"},
        )
        assert run(["ls"]) == 1
        assert capsys.readouterr().err == "error: \\x1b[2Jstarting\nhint: wait\n"


def imported(*args: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running a command."""
    script = (
        "import sys; from mdslite.cli import run; run(sys.argv[1:]);"
        "print('|'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=30)
    return set(done.stderr.splitlines()[-1].split("|"))


HEAVY = {"onnxruntime", "numpy", "starlette", "hypercorn", "sqlite_utils", "prometheus_client", "sklearn"}


def test_help_loads_neither_an_http_client_nor_anything_heavy() -> None:
    assert not imported("--help") & (HEAVY | {"httpx2", "rich", "ruamel", "msgspec", "mdslite.client"})


@pytest.mark.parametrize("args", [["predict", "demo/digits", "-d", "[1,2,3,4]"], ["ls"], ["logs"]])
def test_talking_to_an_appliance_loads_nothing_heavy(api: ApiServer, args: list[str]) -> None:
    loaded = imported(*args)
    assert "httpx2" in loaded
    assert not loaded & HEAVY


class TestLs:
    def test_prints_a_plain_table_into_a_pipe(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["ls"]) == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines() == [
            "MODEL            VERSION  STATE   WEIGHT  SHARE   RPS  P50 MS  P99 MS  ERR %",
            "demo/digits      v1       ready       80    80%  12.5     1.2     4.0   0.50",
            "demo/digits      v2       ready       20    20%  12.5       -       -   0.50",
            "demo/digits      v3       ready   shadow     0%  12.5     1.2     4.0   0.50",
            "mail/spamfilter  v1       failed     100   100%     -     1.2     4.0   0.50",
        ]
        assert printed.err.splitlines() == [
            "traffic of the last minute",
            "mail/spamfilter@v1 failed: bad \\x1b[31mgraph [/bold]",
        ]

    def test_tells_few_requests_from_none(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        for version, rps in zip(api.models[0]["versions"], (0.0334, 0.0, 1.25), strict=True):
            version["rps"] = rps
        assert run(["ls", "demo"]) == 0
        assert [line.split()[5] for line in capsys.readouterr().out.splitlines()[1:]] == [
            "0.033",
            "0.0",
            "1.2",
        ]

    def test_of_an_unloaded_version_says_once_that_it_is(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        reason = "it was unloaded: mdslite load demo/digits brings it back"
        api.models[0]["versions"][0] |= {"state": "unloaded", "reason": reason}
        assert run(["ls", "demo"]) == 0
        assert capsys.readouterr().err.splitlines()[1] == f"demo/digits@v1: {reason}"

    @pytest.mark.parametrize(
        ("windows", "told"),
        [
            ([60, 59.1, None], "traffic of the last minute"),
            ([12.3, 12, 12.4], "traffic of the last 12 s, since they serve"),
            ([59.9, 12, 3], "traffic of the last minute, or since a version serves: 3 s, 12 s"),
        ],
    )
    def test_says_what_time_the_traffic_is_of(
        self, api: ApiServer, windows: list[float | None], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for version, window_s in zip(api.models[0]["versions"], windows, strict=True):
            version["window_s"] = window_s
        assert run(["ls", "demo"]) == 0
        assert capsys.readouterr().err.splitlines()[0] == told

    def test_tells_of_versions_that_refuse_much_why_and_what_helps(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        v1, v2, _ = api.models[0]["versions"]
        v1 |= {"requests": 10_000, "refused": 9_712, "window_s": 60.0}
        v2 |= {"requests": 1_000, "refused": 49}
        api.figures["/logs/top"] = {"values": [{"value": "queue_full", "count": 9_712, "share": 1.0}]}
        assert run(["ls"]) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "refused" in line or "hint" in line]
        assert told[0] == "demo/digits@v1 refused 97 % of its requests: 9,712 queue_full"
        assert told[1].startswith("hint: more is asked than it can answer") and len(told) == 2
        asked = parse_qs(urlsplit(api.requests[-1][1]).query)
        assert asked["field"] == ["code"]
        assert asked["filter"] == ["project=demo model=digits version=v1 status>=400 status<500 since=60s"]
        api.figures["/logs/top"]["values"][0]["value"] = "invalid_tensor"
        assert run(["ls"]) == 0
        shows = "mdslite logs 'project=demo model=digits version=v1 status>=400 status<500' shows them"
        assert f"hint: {shows}" in capsys.readouterr().err

    def test_of_many_refused_says_how_many_where_the_log_does_not_know_why(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.models[0]["versions"][0] |= {"requests": 20, "refused": 10}
        assert run(["ls"]) == 0
        assert "demo/digits@v1 refused 50 % of its requests\nhint: " in capsys.readouterr().err

    def test_narrows_to_a_project_or_a_model(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["ls", "demo/digits", "--json"]) == 0
        assert [model["model"] for model in json.loads(capsys.readouterr().out)] == ["digits"]

    def test_of_something_that_is_not_there_is_an_error(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["ls", "demo/letters"]) == 1
        assert capsys.readouterr().err == "error: nothing is deployed as demo/letters\nhint: mdslite ls\n"

    @pytest.mark.parametrize("typed", ["digits", "demo/digit"])
    def test_of_something_near_to_what_is_there_names_that(
        self, api: ApiServer, typed: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["ls", typed]) == 1
        assert capsys.readouterr().err.splitlines() == [
            f"error: nothing is deployed as {typed}: did you mean demo/digits?",
            "hint: mdslite ls demo/digits",
        ]

    def test_says_that_nothing_is_deployed(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        api.models = []
        assert run(["ls"]) == 0
        printed = capsys.readouterr()
        assert (printed.out, printed.err.splitlines()[0]) == ("", "nothing is deployed yet")
        api.status["ready"] = False
        assert run(["ls"]) == 0
        assert capsys.readouterr().err == (
            "nothing is deployed yet: the appliance is still loading, or stopping\n"
        )

    def test_names_no_other_model_while_the_one_may_be_loading(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.status["ready"] = False
        assert run(["ls", "demo/digit"]) == 1
        assert capsys.readouterr().err == (
            "error: demo/digit is not here yet: mdslite was just started, and is still loading what it "
            "serves\nhint: mdslite ls shows what is there\n"
        )
        api.status["draining"] = True
        assert run(["ls", "demo/digit"]) == 1
        assert "did you mean demo/digits?" in capsys.readouterr().err

    def test_marks_states_by_symbol_and_lets_no_escape_through_on_a_terminal(self, api: ApiServer) -> None:
        api.models[0]["versions"][0]["version"] = "v1\x1b[2J[red]"
        code, printed = on_a_terminal(["ls"], MDSLITE_URL=api.url, NO_COLOR="1")
        assert code == 0
        assert "● ready" in printed
        assert "✖ failed" in printed
        assert "v1\\x1b[2J[red]" in printed
        assert "\x1b[2J" not in printed

    @pytest.mark.parametrize("columns", [20, 50, 72, 80])
    def test_cuts_nothing_off_a_narrow_terminal_and_leaves_it_no_line_to_break(
        self, api: ApiServer, columns: int
    ) -> None:
        code, printed = on_a_terminal(["ls", "mail"], COLUMNS=str(columns), NO_COLOR="1")
        assert code == 0
        for title in ("VERSION", "STATE", "WEIGHT", "SHARE", "RPS", "P50 MS", "P99 MS", "ERR %", "100%"):
            assert title in printed
        table = re.sub("\x1b\\[[0-9;]*m", "", printed).partition("traffic of")[0]
        assert max(map(len, table.splitlines())) <= columns


class TestShow:
    def test_prints_a_version_in_full_with_a_line_to_try(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["show", "demo/digits@v1"]) == 0
        out = capsys.readouterr().out
        assert api.last[1] == "/api/v1/projects/demo/models/digits/versions/v1"
        assert "weight       80 (80% of traffic)" in out
        assert "input  x  FP32 [?,4]" in out
        assert "output y  FP32 [?,3]" in out
        assert f"try    mdslite predict demo/digits@v1 --curl --url {api.url}" in out

    def test_tells_of_traffic_what_there_is(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        shown = api.models[0]["versions"][0]
        assert run(["show", "demo/digits@v1"]) == 0
        assert "12.5/s  p50 1.2 ms  p99 4.0 ms  errors 0.50%\n" in capsys.readouterr().out
        shown |= {"p50_ms": None, "p99_ms": None, "error_rate": None, "refused": 744}
        assert run(["show", "demo/digits@v1"]) == 0
        assert "  12.5/s  refused 744\n" in capsys.readouterr().out

    def test_lists_inputs_and_outputs_as_a_table(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        longer = {"name": "probabilities", "datatype": "INT64", "shape": [None]}
        signature = api.models[0]["versions"][0]["signature"]
        api.models[0]["versions"][0]["signature"] = signature | {"outputs": [*signature["outputs"], longer]}
        assert run(["show", "demo/digits@v1"]) == 0
        table = (
            "  input  x              FP32  [?,4]\n"
            "  output y              FP32  [?,3]\n"
            "  output probabilities  INT64 [?]\n"
        )
        assert table in capsys.readouterr().out

    def test_of_a_project_leads_to_what_is_in_it(
        self, api: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["show", "demo"]) == 1
        error, hint = capsys.readouterr().err.splitlines()
        assert "'demo' names a project and no model: expected PROJECT/MODEL or PROJECT/MODEL@" in error
        assert hint == "hint: mdslite ls demo"
        monkeypatch.delenv("MDSLITE_URL")
        assert run(["rollout", "demo", "--url", api.url]) == 1
        assert capsys.readouterr().err.splitlines()[1] == f"hint: mdslite ls --url {api.url} demo"

    def test_of_a_model_prints_every_version(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["show", "demo/digits"]) == 0
        out = capsys.readouterr().out
        assert [line for line in out.splitlines() if line.startswith("demo/")] == [
            "demo/digits@v1",
            "demo/digits@v2",
            "demo/digits@v3",
        ]

    def test_of_the_past_asks_in_utc(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["show", "demo/digits", "--at", "2026-11-17T14:03:00+00:00"]) == 0
        assert api.last[1] == "/api/v1/projects/demo/models/digits?at=2026-11-17T14%3A03%3A00%2B00%3A00"
        assert "VERSION  WEIGHT  DIGEST" in capsys.readouterr().out

    def test_of_the_past_says_when_nothing_served(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.models[0]["versions"] = []
        assert run(["show", "demo/digits", "--at", "9:05"]) == 0
        assert "demo/digits did not serve at" in capsys.readouterr().out

    def test_of_what_is_not_there_is_the_appliances_error(
        self, api: ApiServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["show", "demo/letters@v1"]) == 1
        assert capsys.readouterr().err.startswith("error: there is no demo/letters/v1\n")


def test_an_interrupt_ends_quietly_with_130(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_module.cli, "callback", interrupt)
    assert run([]) == 130
    assert capfd.readouterr().err.strip() == ""


class TestBackup:
    def test_asks_the_appliance_with_an_absolute_path(
        self, api: ApiServer, deployments: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["backup", "copy.tar", "--log"]) == 0
        assert api.last[2] == {"path": str(deployments.parent / "copy.tar"), "log": True}
        printed = capsys.readouterr()
        assert printed.out == "/srv/backup.tar   2.5 MB\n"
        assert printed.err.splitlines() == [
            "in it: registry 80.0 kB, artifacts 2.4 MB",
            "restore it, with the appliance stopped: "
            "mdslite restore /srv/backup.tar --store '/srv/the store' --force",
        ]

    def test_as_json(self, api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["backup", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == BACKUP


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x9b2J", "\x07", "\r", "a\nb", "\x00", "\u202e", "\u2028", "\ud800", "\x7f"]
)
def test_no_control_character_passes(text: str) -> None:
    shown = output.escape(text)
    assert shown.isprintable()
    assert json.loads(output.json_text(text)) == text


@pytest.mark.parametrize("text", ["café", "模型", "naïve [/bold] :smile:", "✓"])
def test_plain_text_passes_untouched(text: str) -> None:
    assert output.escape(text) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (1_234_567, "1.2 MB"), (10**13, "10.0 TB")],
)
def test_sizes_are_written_for_people(size: int | None, text: str) -> None:
    assert size_text(size) == text


def test_the_group_lists_each_command_once() -> None:
    context = cli.make_context("mdslite", [], resilient_parsing=True)
    names = cli.list_commands(context)
    assert names == list(dict.fromkeys(names)) == list(COMMANDS)
    callbacks: list[Callable[..., Any] | None] = [cli.get_command(context, name).callback for name in names]  # type: ignore[union-attr]
    assert len(set(callbacks)) == len(names)
