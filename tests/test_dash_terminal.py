"""The dashboard in a real terminal, beside the appliance too, and what scripts get of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import live
import pytest
from dash_box import fill, free_port, send
from piloting import WAIT_S

REVERSED = "\x1b[7m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


def test_scripts_get_text_and_json(folder: Path) -> None:
    with live.up("deployments.yaml", cwd=folder) as running:
        send(running.url, 2)
        command = [sys.executable, "-m", "mdslite", "dash", "--url", running.url]
        env = {**os.environ, "COLUMNS": "90", "LINES": "30"}
        once = subprocess.run([*command, "--once"], capture_output=True, text=True, env=env, check=True)
        assert "p/m" in once.stdout and "v2" in once.stdout and "\x1b" not in once.stdout
        assert max(map(len, once.stdout.splitlines())) <= 90
        found = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
        assert found["models"][0]["model"] == "m" and found["connection"]["state"] == "live"


def test_scripts_are_told_when_nobody_answers() -> None:
    command = [sys.executable, "-m", "mdslite", "dash", "--url", f"http://127.0.0.1:{free_port()}", "--once"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "no appliance answers" in ended.stderr


class Terminal:
    """A real terminal without a window, and what runs in it."""

    def __init__(self, folder: Path, command: str) -> None:
        self._folder = folder
        self._tmux(
            "new-session", "-d", "-s", "dash", "-x", "80", "-y", "24", f"{command}; echo ended $?; cat"
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        self._tmux("kill-server")

    def type(self, key: str) -> None:
        self._tmux("send-keys", "-t", "dash", key)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-t", "dash", "-x", str(width), "-y", str(height))

    def shows(self, text: str, *, styled: bool = False) -> None:
        """Wait until it does; `styled` compares what letters look like too."""
        deadline = time.monotonic() + WAIT_S
        how = "-ep" if styled else "-p"
        while text not in (screen := self._tmux("capture-pane", how, "-t", "dash")):
            assert time.monotonic() < deadline, screen
            time.sleep(0.05)

    def _tmux(self, *words: str) -> str:
        asked = ["tmux", "-S", str(self._folder / "tmux"), "-f", "/dev/null", *words]
        env = {name: value for name, value in os.environ.items() if not name.startswith("MDSLITE_")}
        ended = subprocess.run(
            asked, capture_output=True, text=True, check=False, timeout=20, cwd=self._folder, env=env
        )
        return ended.stdout


needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


@needs_tmux
def test_it_runs_in_a_real_terminal(folder: Path) -> None:
    with (
        live.up("deployments.yaml", cwd=folder) as running,
        Terminal(folder, f"{sys.executable} -m mdslite dash --url {running.url}") as terminal,
    ):
        terminal.shows("LIVE")
        terminal.shows("p/m")
        terminal.type("Down")
        terminal.shows("▸   └")
        terminal.resize(130, 40)
        terminal.shows("p/m@v2")  # the panel of wide terminals
        terminal.type("!")
        terminal.shows("read-only")
        terminal.type("q")
        terminal.shows("ended 0")


@needs_tmux
def test_without_colours_the_line_has_a_cursor_and_a_mark_that_typing_replaces(
    folder: Path,
) -> None:
    with (
        live.up("deployments.yaml", cwd=folder),
        Terminal(folder, f"NO_COLOR=1 {sys.executable} -m mdslite dash --url unix:.mdslite") as terminal,
    ):
        terminal.shows("p/m")
        terminal.type("w")
        terminal.shows(f"v1 {REVERSED}80", styled=True)
        terminal.type("5")
        terminal.shows(f"v1 5{REVERSED} ", styled=True)


@needs_tmux
@pytest.mark.parametrize(("key", "said"), [("k", "serving goes on"), ("Enter", "stopping the appliance")])
def test_up_with_the_dashboard_asks_whether_the_appliance_goes_on(folder: Path, key: str, said: str) -> None:
    command = f"{sys.executable} -m mdslite up deployments.yaml --port 0 --drain-grace 0 --dash"
    with Terminal(folder, command) as terminal:
        terminal.shows("LIVE")
        terminal.type("q")
        terminal.shows("Leave the dashboard")
        terminal.type(key)
        terminal.shows(said)
        if key == "k":
            terminal.type("C-c")
        terminal.shows("ended 0")


def test_up_with_the_dashboard_takes_a_terminal(folder: Path) -> None:
    command = [sys.executable, "-m", "mdslite", "up", "--dash"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert ended.returncode == 1 and "--dash takes a terminal" in ended.stderr
