"""The benchmark of isolation: it runs, and its figures hang together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.isolation import Crossing, render
from benchmarks.package_cost import LaneCost, Restart

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux")
def test_the_cost_of_isolation_is_measured() -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "benchmarks.isolation",
        "--seconds",
        "0.05",
        "--restarts",
        "1",
        "--json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    found = json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
    assert [one["data"] for one in found["crossings"]] == [
        "64 floats, JSON",
        "64 floats, array",
        "3x224x224 float32, array",
    ]
    assert all(one["loop_us"] > 0 and one["isolated_us"] > 0 for one in found["crossings"])
    assert [one["data"] for one in found["lanes"]] == ["64 floats, JSON", "64 floats, array"]
    assert all(one["inline_us"] > one["loop_us"] and one["isolated_rows"] > 1 for one in found["lanes"])
    assert found["restart"].keys() == {"serving_s", "load_s"}


def test_a_table_says_what_isolation_adds() -> None:
    crossings = [Crossing("64 floats", 1.0, 3.0, 12.0, 0.5)]
    lanes = [LaneCost("64 floats", 1.0, 9.0, 32.0, 21.0, 32.0)]
    lines = render(crossings, lanes, Restart(1.5, 0.75)).splitlines()
    assert lines[1].split()[2:] == ["1.0", "3.0", "12.0", "11.0", "0.5"]
    assert lines[3].split()[2:] == ["1.0", "9.0", "21.0", "20.0"]
    assert "1.50 s after a crash" in lines[-1]
