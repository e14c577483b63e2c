"""Sentences on a terminal are broken between words, commands and a file's lines not at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from api_server import ApiServer, on_a_terminal
from packages import class_text, write_package

from mdslite.cli.output import fitted
from mdslite.cli.up import Announcer

COMMAND = "mdslite up --store /srv/a-folder-whose-name/is-long --port 8501"
LONG = "error: demo/digits v1: deployments.yaml is a YAML text, and no model that could be served"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    monkeypatch.setenv("COLUMNS", "50")
    ours, theirs = os.openpty()
    with open(theirs, "w") as stream:
        yield stream
    os.close(ours)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("error: " + "y" * 43, ["error: " + "y" * 43]),
        (
            LONG,
            [
                "error: demo/digits v1: deployments.yaml is a YAML",
                "       text, and no model that could be served",
            ],
        ),
        (
            "! whoever can reach 0.0.0.0 can use its models and change what is deployed",
            ["! whoever can reach 0.0.0.0 can use its models and", "  change what is deployed"],
        ),
        (
            "hint: stop it first (kill 28215): mdslite up --store st-2 serves beside it",
            ["hint: stop it first (kill 28215):", "      mdslite up --store st-2 serves beside it"],
        ),
        (
            f"hint: to serve it: {COMMAND} does",
            ["hint: to serve it:", f"      {COMMAND}", "      does"],
        ),
        (
            "hint: export MDSLITE_TOKEN=TOKEN, or as its owner: --url unix:DIR",
            ["hint: export MDSLITE_TOKEN=TOKEN, or as its owner:", "      --url unix:DIR"],
        ),
        ("12 | " + "spec: " * 20, ["12 | " + "spec: " * 20]),
        (f"none\n{'x ' * 30}[y/N] ", ["none", ("x " * 25).rstrip(), "x x x x x [y/N] "]),
    ],
)
def test_what_is_too_long_is_broken_between_words(terminal: TextIO, text: str, lines: list[str]) -> None:
    assert fitted(text, terminal).split("\n") == lines


def test_what_is_no_terminal_gets_lines_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert fitted(LONG, io.StringIO()) == LONG


def test_a_refused_command_breaks_no_word_on_a_terminal(api: ApiServer) -> None:
    typed = ["logs", "model=digit"]
    code, printed = on_a_terminal(typed, MDSLITE_URL=api.url, COLUMNS="50")
    assert code == 1
    assert printed.splitlines()[:2] == [
        "error: nothing is deployed as model digit, and the",
        "       log has no request of it: did you mean",
    ]
    command = [sys.executable, "-m", "mdslite", *typed]
    env = {**os.environ, "MDSLITE_URL": api.url, "COLUMNS": "50"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=env)
    assert done.stderr.splitlines()[0].endswith("did you mean model=digits?")


def test_doctor_breaks_no_word_on_a_terminal(api: ApiServer) -> None:
    what = "the driver of this machine is older than the one that the runtime was built for"
    api.findings = [
        {"level": "warning", "what": what, "hint": "install another one, and start it again after that"}
    ]
    code, printed = on_a_terminal(["doctor"], MDSLITE_URL=api.url, COLUMNS="50")
    assert code == 0
    assert printed.splitlines()[1:] == [
        "! the driver of this machine is older than the one",
        "  that the runtime was built for",
        "  hint: install another one, and start it again",
        "        after that",
    ]


def test_a_long_value_goes_on_below_where_it_began(api: ApiServer) -> None:
    digest = f"sha256:{'5f41995932ccd0d1' * 4}"
    api.models[0]["versions"][0]["digest"] = digest
    code, printed = on_a_terminal(["show", "demo/digits@v1"], MDSLITE_URL=api.url, COLUMNS="60")
    lines = printed.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  digest"))
    first, second = lines[at : at + 2]
    assert (code, first.split()[0], len(first)) == (0, "digest", 60)
    assert second == f"{' ' * first.index('sha256')}{digest[len(first.split()[1]) :]}"


def test_what_up_suggests_stands_in_a_line_each_where_one_has_no_room(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = os.openpty()
    with open(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        announcer = Announcer(None, "no-such-store", None, as_json=False)
        announcer(f"serving on {api.url}   docs /docs")
        announcer.close()
    printed = os.read(ours, 4096).decode().splitlines()
    os.close(ours)
    assert printed[0] == f"serving on {api.url}   docs /docs"
    assert [line[:20] for line in printed[1:]] == ["next: mdslite predic", "      mdslite dash -"]


def test_what_a_report_says_of_a_step_is_set_in_below_it(tmp_path: Path) -> None:
    methods = "    @mds.predict\n    def answer(self, data):\n        return data\n"
    write_package(tmp_path / "package", {"model.py": class_text(methods)})
    code, printed = on_a_terminal(["verify", str(tmp_path / "package")], COLUMNS="80")
    lines = printed.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("✓ POST /predict"))
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert lines[at + 1][:32] == " " * 32
    assert lines[at + 1][32] != " "
