"""The recording that comes with mdslite, what is answered out of it, and how a terminal sees the dashboard
that plays it."""

from __future__ import annotations

import asyncio
import json
import lzma
import os
import re
import subprocess
import sys
import time
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from dash import NOW, make_tape

from mdslite import asks, calls, errors, log_calls
from mdslite.tui.demo import RecordedClient
from mdslite.tui.recording import Recording

COLOUR = re.compile(r"\x1b\[[0-9;:]*\b(?:3[0-7]|4[0-7]|9[0-7]|10[0-7]|[34]8[;:][25])\b[0-9;:]*m")


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mdslite", "dash", "--demo", *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "COLUMNS": "100", "LINES": "30", **env},
    )  # fmt: skip


def client(**clock: float) -> RecordedClient:
    return RecordedClient(Recording(make_tape(), clock=lambda: clock.get("now", NOW)))


def test_the_recording_plays_without_an_appliance() -> None:
    done = run("--once", MDSLITE_URL="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout and "spamfilter" in done.stdout
    assert "╭ requests/" in done.stdout


def test_the_recording_is_there_as_json() -> None:
    told = json.loads(run("--json").stdout)
    assert {model["model"] for model in told["models"]} == {"digits", "spamfilter"}


def test_the_recording_names_nothing_of_the_machine_that_made_it() -> None:
    shipped = resources.files("mdslite.tui").joinpath("demo.json.xz").read_bytes()
    text = lzma.decompress(shipped).decode()
    assert not re.search(r'"/(home|root|tmp|work|usr|mnt)\b', text)
    assert "examples/digits/v1.onnx" in text


def test_the_recording_goes_round_without_a_seam() -> None:
    tape = make_tape()
    recording = Recording(tape, clock=lambda: NOW + 200.5)
    recording.begin = int(NOW)
    asked = RecordedClient(recording)

    async def scene() -> None:
        pages, before = [], None
        for _ in range(6):
            page = await asked.ask(log_calls.logs(limit=100, before=before))
            pages += page["rows"]
            before = page["next"]
        ids = [row["id"] for row in pages]
        assert ids == sorted(set(ids), reverse=True)
        moments = [row["time"] for row in pages]
        assert max(one - two for one, two in pairwise(moments)) < 1.5
        assert NOW + 200.5 - moments[0] < 1.5
        found = await asked.ask(log_calls.log_row(ids[150]))
        assert found["row"] == pages[150]
        assert all(abs(one["time"] - found["row"]["time"]) < 1 for one in found["related"])

    asyncio.run(scene())


def test_the_histogram_counts_the_rows_that_there_are() -> None:
    async def scene() -> None:
        filter = f"status<400 since={NOW - 130:.3f} until={NOW - 10:.3f}"
        told = await client().ask(log_calls.histogram(filter, interval_s=10.0))
        counted = sum(sum(one["counts"]) for one in told["series"])
        rows = (await client().ask(log_calls.logs(filter, limit=1000)))["rows"]
        assert counted == len(rows) == 240
        assert not any(sum(one["errors"]) for one in told["series"])

    asyncio.run(scene())


@pytest.mark.parametrize(
    "ask",
    [
        calls.plan({"revision": "previous"}),
        calls.put_weights("demo", "digits", {"v1": 1}),
        calls.predict("demo", "digits", b'{"instances": []}'),
    ],
)
def test_a_recording_is_not_changed(ask: asks.Ask[object]) -> None:
    with pytest.raises(errors.Conflict, match="this is a recording"):
        asyncio.run(client().ask(ask))


def test_what_is_not_recorded_is_not_found() -> None:
    for ask in (calls.doctor(), log_calls.log_row(1), calls.revision(99)):
        with pytest.raises(errors.NotFound):
            asyncio.run(client().ask(ask))


def terminal(tmp_path: Path, *keys: str, env: str = "", options: str = "") -> tuple[str, str]:
    """What a real terminal shows after some keys, and all the bytes that came to it."""
    socket, raw = tmp_path / "tmux", tmp_path / "bytes"
    command = f"{env} {sys.executable} -m mdslite dash --demo {options}"

    def tmux(*args: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(socket), *args], capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    def wait_for(text: str) -> str:
        deadline = time.monotonic() + 20
        while text not in (shown := tmux("capture-pane", "-p")):
            assert time.monotonic() < deadline, shown
        return shown

    tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "sh")
    try:
        tmux("pipe-pane", f"cat >{raw}")
        tmux("send-keys", command, "Enter")
        wait_for("LIVE")
        shown = wait_for("200")
        for key in keys:
            key, _, expected = key.partition(" ")
            tmux("send-keys", key)
            shown = wait_for(expected)
        tmux("send-keys", "q")
        wait_for("$") if os.getuid() else wait_for("#")
        return shown, raw.read_text(errors="replace")
    finally:
        tmux("kill-server")


needs_tmux = pytest.mark.skipif(
    subprocess.run(["sh", "-c", "command -v tmux"], capture_output=True, check=False).returncode != 0,
    reason="tmux is not installed",
)


@needs_tmux
def test_a_terminal_shows_the_recording_in_colours_and_its_screens(tmp_path: Path) -> None:
    shown, sent = terminal(
        tmp_path, "2 following", "Down ▸", "3 CPU", "4 REASON", "5 NCC", "? Everywhere", "Escape NCC"
    )
    assert "C3DLS" in shown
    assert COLOUR.search(sent)


@needs_tmux
def test_no_color_sends_no_colour_to_the_terminal(tmp_path: Path) -> None:
    _, sent = terminal(tmp_path, "2 following", "Down ▸", "3 CPU", "4 REASON", env="NO_COLOR=1")
    assert COLOUR.search(sent[sent.index("\x1b[?1049h") :]) is None


@needs_tmux
def test_ascii_sends_nothing_but_ascii_to_the_terminal(tmp_path: Path) -> None:
    _, sent = terminal(tmp_path, "2 following", "Down >", "3 CPU", options="--ascii")
    assert sent.isascii()
