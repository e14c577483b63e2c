"""A real `mdslite up` in a process of its own, on any free port."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import models

STOP_WAIT_S = 20
DEPLOYMENTS = """\
deployments:
- project: demo
  model: digits
  versions:
  - version: v1
    weight: 100
    spec:
      uri: ./v1.onnx
"""
TWO_VERSIONS = """\
deployments:
- project: demo
  model: digits
  versions:
  - version: v1
    weight: 80
    spec:
      uri: ./v1.onnx
  - version: v2
    weight: 20
    spec:
      uri: ./v2.onnx
"""


class Live:
    """A started appliance; `lines` are what it printed on stdout up to and with its suggestion."""

    def __init__(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        self.process = process
        self.lines = lines

    @property
    def url(self) -> str:
        return self.lines[0].split()[2]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Stop it; the exit code and all of stderr."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=STOP_WAIT_S)
        return self.process.returncode, err


@contextlib.contextmanager
def begin(*args: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `mdslite up ARGS` for as long as the block runs, from before it serves."""
    command = [sys.executable, "-m", "mdslite", "up", "--port", "0", "--drain-grace", "0", *args]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MDSLITE_")}
    process = subprocess.Popen(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=STOP_WAIT_S)


def served(process: subprocess.Popen[str]) -> Live:
    """The appliance, once it serves."""
    assert process.stdout is not None
    lines = [process.stdout.readline().rstrip("\n") for _ in range(2)]
    if not lines[0]:
        raise AssertionError(process.communicate(timeout=STOP_WAIT_S)[1])
    return Live(process, lines)


@contextlib.contextmanager
def up(*args: str, cwd: Path) -> Iterator[Live]:
    """Run `mdslite up ARGS` for as long as the block runs."""
    with begin(*args, cwd=cwd) as process:
        yield served(process)


def fill(folder: Path) -> Path:
    """Two models, a deployments.yaml and a sample."""
    models.mlp(folder / "v1.onnx")
    models.mlp(folder / "v2.onnx", seed=1)
    (folder / "deployments.yaml").write_text(DEPLOYMENTS)
    (folder / "sample.json").write_text("[0.1, 0.2, 0.3, 0.4]\n")
    return folder


def send(line: str) -> dict[str, object]:
    """What a curl line asks for, without needing curl."""
    words = shlex.split(line)
    url = next(word for word in words if word.startswith("http"))
    request = urllib.request.Request(url, words[-1].encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        found = json.load(reply)
    assert isinstance(found, dict)
    return found
