"""Runs wrk, the load generator, and reads what it measured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

# The request is built once per connection and `done` runs at the end: no Lua runs per request.
SCRIPT = """
local file = assert(io.open({body!r}, "rb"))
wrk.method = "POST"
{headers}
wrk.body = file:read("*a")
file:close()
{pause}
function done(summary, latency, requests)
  local failed = summary.errors
  io.stderr:write(string.format(
    '{{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"refused":%d,"broken":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    failed.status, failed.connect + failed.read + failed.write + failed.timeout))
end
"""
PAUSE = "function delay() return math.floor({ms} * (0.5 + math.random())) end"
PATIENCE_S = 20  # longer than any queue
JSON_HEADERS = MappingProxyType({"Content-Type": "application/json"})
MARGIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk. `failed` counts answers other than 2xx, which `refused` counts alone, and connections
    that broke."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    refused: int
    seconds: float


def run_load(
    url: str,
    *,
    body: Path,
    connections: int,
    seconds: float,
    headers: Mapping[str, str] = JSON_HEADERS,
    pause_s: float = 0.0,
) -> Load:
    """Send `body` over and over on `connections` kept connections from one thread. Between an answer and the
    next request a connection rests for `pause_s` in the mean, from half as long to half as long again."""
    script = body.with_suffix(".lua")
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    pause = PAUSE.format(ms=pause_s * 1e3) if pause_s else ""
    script.write_text(SCRIPT.format(body=str(body), headers="\n".join(lines), pause=pause))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", f"--timeout={PATIENCE_S}s"]
    command += ["-s", str(script), url]
    found = subprocess.run(command, capture_output=True, text=True, timeout=seconds + MARGIN_S, check=False)
    if found.returncode != 0:
        raise RuntimeError(f"wrk failed on {url}: {found.stderr or found.stdout}")
    figures = json.loads(found.stderr.splitlines()[-1])
    return Load(
        requests=figures["requests"],
        requests_per_s=figures["requests"] / figures["duration_us"] * 1e6,
        p50_ms=figures["p50_us"] / 1000,
        p99_ms=figures["p99_us"] / 1000,
        failed=figures["refused"] + figures["broken"],
        refused=figures["refused"],
        seconds=figures["duration_us"] / 1e6,
    )
