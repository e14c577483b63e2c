"""Moments of an appliance as the dashboard knows them, always the same; and what is drawn of them, as
text that a person can read. `MDSLITE_SNAPSHOTS=write pytest ...` writes anew what is compared.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from feeds import StillFeed
from piloting import piloted
from textual.pilot import Pilot

from mdslite.tui.app import DashApp
from mdslite.tui.histogram import bars_that_fit
from mdslite.tui.ink import Ink
from mdslite.tui.snapshot import Connection, Json, Snapshot, View

SNAPSHOTS = Path(__file__).parent / "snapshots"
DIGEST = "sha256:" + "0123abcd" * 8
NOW = 1_795_348_800.0  # 2026-11-22 12:00:00 UTC
SIZES = ((80, 24), (140, 45), (50, 16))
URL = "http://edge-07:8500"
EVIL = "\x1b[31mred\x1b[0m [bold]x[/] \u202egnp"  # what a name or an error may bring


def make_version(version: str, weight: float, **more: Any) -> Json:
    return {
        "version": version, "state": "ready", "reason": None, "weight": weight, "share": weight / 100,
        "shadow": False, "replicas": 1, "uri": f"/models/{version}.onnx", "digest": DIGEST,
        "size_bytes": 4_400_000, "memory_bytes": 1_200_000_000, "since_revision": 12,
        "runtime": "ONNXRUNTIME",
        "device": "cuda:0", "provider": "CUDAExecutionProvider", "loaded_at": None, "pipeline": None,
        "batch": {"batch_size": 32, "batch_timeout_ms": 2, "prediction_time_ms": 30000}, "queue_rows": 0,
        "signature": {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [None, 30], "optional": False}],
            "outputs": [{"name": "p", "datatype": "FP32", "shape": [None, 2], "optional": False}],
        },
        "window_s": 60.0, "requests": 0, "rps": 0.0, "p50_ms": None, "p99_ms": None, "errors": 0,
        "refused": 0, "error_rate": None, "requests_total": 0, **more,
    }  # fmt: skip


def make_models() -> list[Json]:
    fraud = [
        make_version(
            "v12",
            90,
            requests=22_260,
            rps=371.0,
            p50_ms=2.04,
            p99_ms=7.9,
            errors=2,
            error_rate=0.0001,
            requests_total=412_000,
        ),
        make_version(
            "v13",
            10,
            requests=2472,
            rps=41.2,
            p50_ms=2.4,
            p99_ms=9.8,
            errors=1,
            error_rate=0.0005,
            requests_total=46_000,
        ),
        make_version("v14", 0, shadow=True, rps=41.0, p50_ms=2.9, p99_ms=9.9, error_rate=0.0, share=0.0),
    ]
    broken = make_version("v3", 100, state="failed", reason=f"the file is cut short: {EVIL}", provider=None)
    return [
        {"project": "bank", "model": "fraud", "versions": fraud},
        {"project": "vision", "model": "resnet50", "versions": [broken]},
    ]


def make_histogram(bars: int, *, interval_s: float = 15.0) -> Json:
    """A slow wave of traffic, in which some requests of one bar failed."""
    since = NOW - (bars - 1) * interval_s
    wave = [30 + (at * 7) % 20 + (12 if at % 16 > 8 else 0) for at in range(bars)]

    def series(version: str, counts: list[int], **more: Any) -> Json:
        return {
            "project": "bank", "model": "fraud", "version": version, "shadow": False, "counts": counts,
            "errors": [2 if version == "v12" and at % 20 == 13 else 0 for at in range(bars)], **more,
        }  # fmt: skip

    few = [one // 9 + 1 for one in wave]
    found = [series("v12", wave), series("v13", few), series("v14", few, shadow=True)]
    return {"interval_s": interval_s, "since": since, "until": since + bars * interval_s, "series": found}


def make_rows(count: int) -> list[Json]:
    return [
        {
            "id": 9_000 - at, "time": NOW - at * 0.7, "request_id": f"{at:04x}c0ffee", "project": "bank",
            "model": "fraud", "version": ("v12", "v12", "v13", "v14")[at % 4], "shadow": at % 4 == 3,
            "url": "/projects/bank/models/fraud:predict", "status": 422 if at == 2 else 200,
            "code": "invalid_tensor" if at == 2 else None, "latency_ms": 1.8 + at % 5, "queue_ms": 0.4,
            "compute_ms": 1.1, "upstream_ms": None, "rows": 1, "batch_rows": 4,
            "confidence": None if at == 2 else 0.52 + (at % 5) / 10, "endpoint": "local/0", "request": None,
            "reply": None, "spans": None, "client": None, "trace_id": None,
        }
        for at in range(count)
    ]  # fmt: skip


def make_percentiles() -> Json:
    def group(version: str, count: int, sure: float) -> Json:
        return {
            "project": "bank", "model": "fraud", "version": version, "shadow": version == "v14",
            "count": count,
            "errors": 2, "refused": 1, "error_rate": 2 / (count - 1),
            "latency_ms": {"p50": 2.0, "p90": 5.0, "p95": 6.2, "p99": 8.0, "max": 31.0},
            "confidence": {"p10": sure - 0.3, "p50": sure, "mean": sure - 0.02},
        }  # fmt: skip

    groups = [group("v12", 22_260, 0.94), group("v13", 2_460, 0.91), group("v14", 2_460, 0.88)]
    return {"groups": groups, "exact": True, "since": NOW - 60, "until": NOW}


def make_history() -> Json:
    wave = [float(40 + (at * 13) % 50) for at in range(120)]
    gpu = {
        "label": "cuda:0", "name": "NVIDIA RTX A2000", "memory_total_bytes": 20_000_000_000,
        "utilization_percent": wave, "memory_used_bytes": [9.1e9] * 120, "temperature_c": [61.0] * 120,
        "power_w": [70.0] * 120,
    }  # fmt: skip
    host = {
        "label": "cpu", "name": "CPU", "memory_total_bytes": 32_000_000_000,
        "utilization_percent": wave[::-1],
        "memory_used_bytes": [8e9] * 120, "temperature_c": [None] * 120, "power_w": [None] * 120,
    }  # fmt: skip
    times = [NOW - 119 + at for at in range(120)]
    return {"interval_s": 1.0, "times": times, "queue_rows": [2.0] * 120, "devices": [host, gpu]}


def make_scene(**changes: Any) -> Snapshot:
    """Two models, one of them broken, under traffic; a revision and an alert a few minutes ago."""
    history = make_history()
    devices = [
        {name: value[-1] if isinstance(value, list) else value for name, value in one.items()}
        for one in history["devices"]
    ]
    status = {
        "version": "0.1.0", "pid": 7, "started_at": "2026-11-22T09:00:00Z", "uptime_s": 10_800.0,
        "revision": 14,
        "url": URL, "store": "/srv/mdslite", "devices": devices, "ready": True, "draining": False,
        "needs_token": False,
    }  # fmt: skip
    summary = {"add": 1, "update": 1, "delete": 0, "retain": 1}
    revision = {
        "id": 14, "time": "2026-11-22T11:53:30Z", "author": "ann@edge-07", "reason": "v13 to a tenth",
        "state": "applied", "error": None, "summary": summary, "diff": {"changed": True, "models": []},
    }  # fmt: skip
    alert = {
        "id": 3, "time": "2026-11-22T11:57:00Z", "project": "bank", "model": "fraud", "version": "v13",
        "signal": "confidence", "state": "firing", "text": "confidence of v13 has fallen",
    }  # fmt: skip
    found: dict[str, Any] = {
        "clock": NOW,
        "connection": Connection(state="live", url=URL, since=NOW - 60),
        "status": status,
        "models": make_models(),
        "history": history,
        "histogram": make_histogram(60),
        "percentiles": make_percentiles(),
        "revisions": [revision],
        "alerts": [alert],
        "rows": make_rows(40),
    }
    return Snapshot(**{**found, **changes})


class SceneFeed(StillFeed):
    """Feeds a scene whose histogram has as many bars as there is room for."""

    def look(self, view: View) -> None:
        histogram = self.snapshot.histogram
        if histogram is not None:
            histogram = make_histogram(view.bars)
        self.snapshot = msgspec.structs.replace(self.snapshot, view=view, histogram=histogram)


@asynccontextmanager
async def showing(
    snapshot: Snapshot, *, size: tuple[int, int] = (80, 24), ascii: bool = False, read_only: bool = False
) -> AsyncIterator[tuple[DashApp, Pilot[None]]]:
    """The real application on a snapshot."""
    app = DashApp(SceneFeed(snapshot), ink=Ink(ascii=ascii), read_only=read_only, tick=False)
    async with piloted(app, size) as pilot:
        await pilot.pause()
        yield app, pilot


def agree(name: str, text: str) -> None:
    """The text is the one that is kept under the name."""
    file = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("MDSLITE_SNAPSHOTS") == "write":
        file.write_text(text + "\n")
    assert text + "\n" == file.read_text(), f"tests/snapshots/{name}.txt is not what is drawn"


def fit_scene(width: int) -> Snapshot:
    return make_scene(view=View(bars=bars_that_fit(width)), histogram=make_histogram(bars_that_fit(width)))
