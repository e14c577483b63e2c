"""What a command says of a value that makes no sense: the flag, what was expected, and a hint.

Against a real appliance, which is who refuses most of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import models
import pytest
from live import Live, up

from mdslite.cli import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("mistakes")
    models.mlp(folder / "m.onnx")
    with up("m.onnx", cwd=folder) as started:
        yield started


@pytest.fixture(autouse=True)
def url(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSLITE_URL", live.url)


@pytest.mark.parametrize(
    ("line", "flag", "words"),
    [
        ("token create --scope read --rate fast", "--rate", "'fast': expected a rate such as 100/s"),
        ("token create --scope read --expires soon", "--expires", "'soon': expected a span such as 30m"),
        ("token create --scope read --project 'a b'", "--project", "'a b': expected 1 to 63 letters"),
        ("token create --scope read --model m", "--model", "a token for one model names its project"),
        ("token create 'a b' --scope read", "[NAME]", "'a b': expected 1 to 63 letters"),
        ("token limit default/m often", "[RATE|off]", "'often': expected a rate such as 100/s"),
        ("replay --to default/m@v1 --rate fast", "--rate", "'fast': expected a rate such as 2x"),
        ("replay --to default/m@v1 --rate 0/s", "--rate", "expected 2x or 50/s"),
        (
            "rollout default/m v1 --steps 5,200 --ungated",
            "--steps",
            "rising percentages up to 100; got 5",
        ),
        ("rollout default/m v1 --steps nan --ungated", "--steps", "'nan': expected percentages"),
        ("rollout default/m v1 --every 99d --ungated", "--every", "expected 1 s to 30 days"),
        ("rollout default/m v1 --gate 'luck>1'", "--gate", "expected such as error_rate<1%"),
        ("rollout default/m v1", "--gate", "expected at least one"),
        ("rollout default/m 'v 1' --ungated", "[VERSION|pause|resume|promote|abort]", "'v 1': expected 1 to"),
        ("compare default/m 'v 1' v2", "V1", "expected 1 to 63 letters"),
        ("compare default/m v1 v2 --since then", "--since", "'then' is no moment"),
        ("drift default/m --baseline then", "--baseline", "'then' is no moment"),
        ("drift default/m --baseline 24h --until then", "--until", "'then' is no moment"),
        ("drift default/m --baseline 24h --of 'v 1'", "--of", "'v 1': expected 1 to 63 letters"),
        ("show default/m --at '2999-01-01 10:00'", "--at", "2999-01-01 10:00:00 is yet to come: expected"),
        ("drift default/m --baseline 99d", "--baseline", "'99d': expected a time within the last 8 days"),
        ("alerts --since then", "--since", "'then' is no moment"),
        ("alerts --webhook here", "--webhook", "expected an http(s) URL, got 'here'"),
        ("label default/m --class ''", "--class", "expected text that is not empty"),
        ("label default/m 1 ''", "[LABEL]", "'': expected text that is not empty"),
        (f"label default/m 1 x --note {'a' * 2001}", "--note", "expected text of at most 2000 characters"),
        ("label default/m 99999999999999999999 x", "[ID]", "expected a whole number <="),
        ("undo 99999999999999999999", "[REV]", "expected a whole number <="),
        ("logs --histogram --interval often", "--interval", "'often' is no interval"),
    ],
)
def test_it_is_named_with_its_flag_and_with_what_was_expected(
    line: str, flag: str, words: str, capsys: Captured
) -> None:
    assert run(shlex.split(line)) == 1
    printed = capsys.readouterr()
    said, hint = printed.err.splitlines()
    assert printed.out == ""
    assert said.startswith(f"error: Invalid value for '{flag}': ")
    assert words in said
    assert hint.startswith("hint: ")
    assert "/docs" not in hint  # a body is what nobody typed


@pytest.mark.parametrize(
    "line",
    [
        "drift default/m@v7",
        "drift default/m@v7 --json",
        "drift default/m --baseline 24h --of v7",
        "replay since=1h --to default/m@v7",
        "rollout default/m v7 --ungated",
        "show default/m@v7",
        "predict default/m@v7 -d '[1, 2, 3, 4]'",
    ],
)
def test_a_version_that_is_not_there_is_answered_with_those_that_are(line: str, capsys: Captured) -> None:
    assert run(shlex.split(line)) == 1
    printed = capsys.readouterr()
    assert bool(printed.out) == ("--json" in line)  # the error, told once more
    assert printed.err == "error: default/m has no version v7: it has v1\nhint: mdslite show default/m\n"


@pytest.mark.parametrize(
    "line",
    [
        "drift x/y",
        "drift x/y@v1",
        "drift x/y --baseline 24h",
        "label x/y",
        "rollout x/y",
        "rollout x/y v1 --ungated",
        "show x/y@v1",
        "replay --to x/y@v1",
        "compare x/y v1 v2",
    ],
)
def test_a_model_that_is_not_there_is_an_error(line: str, capsys: Captured) -> None:
    assert run(shlex.split(line)) == 1
    said, hint = capsys.readouterr().err.splitlines()
    assert "no model x/y is deployed" in said
    assert hint == "hint: mdslite ls"


def test_a_comparison_without_requests_leads_to_what_is_deployed(capsys: Captured) -> None:
    assert run(["compare", "default/m", "v1", "v7"]) == 1
    said, hint = capsys.readouterr().err.splitlines()
    assert "default/m has no version v7, and none answered anything then: it has v1" in said
    assert hint == "hint: mdslite show default/m says what is deployed; --since goes further back"


def test_a_store_that_nobody_serves_says_the_same(tmp_path: Path, capsys: Captured) -> None:
    assert run(["token", "create", "--scope", "read", "--rate", "fast", "--store", str(tmp_path / "s")]) == 1
    assert capsys.readouterr().err == (
        "error: Invalid value for '--rate': expected such as 100/s, 6000/m or 50/h; got 'fast'\n"
        "hint: mdslite token create --help\n"
    )
