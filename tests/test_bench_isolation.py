"""The benchmark of isolation: it runs, and its figures hang together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmarks" / "isolation.py"


@pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux")
def test_the_cost_of_isolation_is_measured() -> None:
    command = [sys.executable, "-P", str(SCRIPT), "--seconds", "0.05", "--restarts", "1"]
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert [one["data"] for one in found["crossings"]] == [
        "64 floats, JSON",
        "64 floats, array",
        "3x224x224 float32, array",
    ]
    assert all(one["loop_us"] > 0 and one["isolated_us"] > 0 for one in found["crossings"])
    assert found["restart"].keys() == {"noticed_s", "serving_s"}
    assert b"us a datum" in subprocess.run(command, capture_output=True, check=True).stdout
