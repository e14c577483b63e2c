"""`scripts/demo` does what it says: real digits, the weights' split, an end that leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "scripts" / "demo.py"


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo without its environment making: it runs in this one."""
    process = subprocess.Popen(
        [sys.executable, str(DEMO), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=50)


def read_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"goes on serving on (\S+) ", line):
            return found[1]
    raise AssertionError(process.communicate(timeout=50)[1])


def run_once(*arguments: str) -> tuple[int, str, str]:
    with started("--once", *arguments) as process:
        output, errors = process.communicate(timeout=50)
        return process.returncode, output, errors


def test_it_reads_digits_in_both_versions_as_their_weights_say() -> None:
    code, output, errors = run_once("--port", "0")
    assert code == 0, errors
    rows = dict(re.findall(r"^(v\d) +(\d+ +[\d.]+%)", output, re.MULTILINE))
    assert {version: row.split() for version, row in rows.items()} == {
        "v1": ["80", "80.0%"],
        "v2": ["20", "20.0%"],
    }
    assert "demo/digits v1 ready" in errors


def test_at_its_end_it_says_how_to_start_it_again() -> None:
    code, output, errors = run_once("--port", "0")
    assert code == 0, errors
    again, by_hand = (line.partition("#")[0].strip() for line in output.strip().splitlines()[-2:])
    assert again == "scripts/demo --port 0"
    assert os.access(ROOT / again.split()[0], os.X_OK)
    activates, starts = by_hand.split(" && ")
    assert starts == "mdslite up examples/deployments.yaml --port 0"
    found = subprocess.run(
        ["bash", "-c", f"{activates} && command -v mdslite && {starts} --help"],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    assert found.stdout.startswith(str(Path(sys.executable).parent))


def test_it_says_why_when_its_port_is_taken() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        code, _, errors = run_once("--port", str(taken.getsockname()[1]))
    assert code == 1
    assert "--port" in errors
    assert "Traceback" not in errors


def test_every_line_that_it_suggests_works_as_it_stands() -> None:
    with started("--port", "0") as process:
        read_url(process)
        assert process.stdout is not None
        lines = list(itertools.takewhile(str.strip, process.stdout))
        assert len(lines) >= 5
        if shutil.which("curl") is None:
            lines = [line for line in lines if not line.strip().startswith("curl")]
        script = "set -e\n" + "".join(lines)
        found = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=50, check=False,
        )  # fmt: skip
        process.send_signal(signal.SIGINT)
    assert found.returncode == 0, found.stderr
    assert "demo/digits" in found.stdout
    assert '"predictions"' in found.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_it_goes_on_serving_until_it_is_stopped(number: signal.Signals, code: int) -> None:
    with started("--port", "0") as process:
        url = read_url(process)
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as reply:
            assert reply.status == 200
        process.send_signal(number)
        _, errors = process.communicate(timeout=50)
        assert process.returncode == code, errors
        assert "Traceback" not in errors
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/readyz", timeout=10)
