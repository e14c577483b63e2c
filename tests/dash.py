"""A dashboard without a terminal: what it shows as text, and a small recording to show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from feeds import StillFeed
from piloting import piloted
from textual.pilot import Pilot

from mdslite.asks import Ask
from mdslite.tui.app import DashApp
from mdslite.tui.demo import RecordedClient
from mdslite.tui.feed import LiveFeed
from mdslite.tui.ink import Ink
from mdslite.tui.recording import FORMAT, Recording, Tape
from mdslite.tui.snapshot import Snapshot, View

T = TypeVar("T")
NOW = 1_795_400_000.0  # 2026-11-23 02:13:20 UTC
SIZES = ((80, 24), (100, 30), (140, 45))
DIGIT = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0, 0, 4, 12, 0, 0, 8, 8, 0, 0, 5, 8, 0, 0, 9, 8, 0, 0, 4, 11, 0, 1, 12, 7, 0, 0, 2, 14, 5, 10, 12, 0, 0, 0, 0, 6, 13, 10, 0, 0, 0]  # fmt: skip  # noqa: E501


@asynccontextmanager
async def opened(
    feed: LiveFeed | StillFeed,
    size: tuple[int, int] = (100, 30),
    *,
    ascii: bool = False,
    theme: str = "okabe-ito",
) -> AsyncIterator[tuple[DashApp, Pilot[None]]]:
    """A dashboard that draws when it is told to and after each key."""
    app = DashApp(feed, ink=Ink(theme, ascii=ascii), tick=isinstance(feed, LiveFeed))
    async with piloted(app, size) as pilot:
        await pilot.pause()
        yield app, pilot


class Standing(StillFeed):
    """One look at the small recording, which then stands still but answers questions."""

    async def ask(self, ask: Ask[T]) -> T:
        self.asked.append(ask)
        return await small_recording().ask(ask)


async def still(pane: str = "deploy", **view: Any) -> StillFeed:
    return Standing(await look(View(pane=pane, **view)))


async def look(view: View) -> Snapshot:
    feed = LiveFeed(small_recording(), clock=lambda: NOW, view=view)
    return msgspec.structs.replace(await feed.once(), view=view)


def small_recording() -> RecordedClient:
    return RecordedClient(Recording(make_tape(), clock=lambda: NOW))


def make_tape() -> Tape:
    rows = [row for at in range(60) for row in _rows(at)]
    return Tape(
        format=FORMAT,
        period_s=60,
        status={"version": "0.1.0", "revision": 2, "ready": True, "draining": False, "needs_token": False},
        rows=rows,
        models=[(0.0, [_model()])],
        history=_history(),
        revisions=[_revision(2, -900.0, "two at once", 1), _revision(1, -1800.0, "begin", 2)],
    )


def make_row(number: int, **changes: Any) -> dict[str, Any]:
    """A row of the log that was answered `number` microseconds after the beginning."""
    return {
        "id": number, "time": number / 1e6, "request_id": f"request{number:08d}", "project": "demo",
        "model": "digits", "version": "v1", "shadow": False, "url": "/projects/demo/models/digits:predict",
        "status": 200, "code": None, "latency_ms": 2.0, "queue_ms": 0.5, "compute_ms": 1.0,
        "upstream_ms": None, "rows": 1, "batch_rows": 4, "confidence": 0.9, "endpoint": "local/0",
        "request": None, "reply": None, "spans": None, "client": None, **changes,
    }  # fmt: skip


def body(content: str) -> dict[str, Any]:
    return {"content": content, "encoding": "utf-8", "size_bytes": len(content.encode()), "truncated": False}


def _rows(second: int) -> list[dict[str, Any]]:
    """Three requests a second: a good one with its shadow, and now and then a bad one."""
    at = second * 1_000_000
    label = second % 10
    request = body(msgspec.json.encode({"instances": [DIGIT]}).decode())
    primary = make_row(
        at + 100_000,
        version="v1" if second % 5 else "v2",
        confidence=round(0.5 + (second * 7 % 50) / 100, 2),
        latency_ms=1.0 + second % 7,
        request=request,
        reply=body(f'{{"predictions":[{{"label":{label},"probabilities":[0.1,0.9]}}]}}'),
    )
    other = label if second % 4 else (label + 1) % 10
    shadow = make_row(
        at + 105_000,
        request_id=primary["request_id"],
        version="v3",
        shadow=True,
        request=request,
        reply=body(f'{{"predictions":[{{"label":{other},"probabilities":[0.2,0.8]}}]}}'),
    )
    if second % 10 != 3:
        return [primary, shadow]
    told = body('{"error":"input \\"pixels\\": shape [1,3], expected [?,64]","code":"invalid_tensor"}')
    bad = make_row(at + 500_000, status=400, code="invalid_tensor", confidence=None, batch_rows=0, reply=told)
    return [primary, shadow, bad]


def _model() -> dict[str, Any]:
    def version(name: str, weight: float, *, shadow: bool = False) -> dict[str, Any]:
        return {
            "version": name, "state": "ready", "reason": None, "weight": weight, "share": weight / 100,
            "shadow": shadow, "replicas": 1, "uri": f"digits/{name}.onnx", "digest": "sha256:" + "ab" * 32,
            "size_bytes": 4392, "memory_bytes": 1_500_000, "since_revision": 2, "runtime": "ONNXRUNTIME",
            "device": "cpu", "provider": "CPUExecutionProvider", "loaded_at": "2026-11-23T01:00:00Z",
            "batch": {"batch_size": 32, "batch_timeout_ms": 2, "prediction_time_ms": 30000},
            "signature": {"inputs": [], "outputs": [], "rows": "free"}, "pipeline": None, "queue_rows": 0,
            "window_s": 59.5, "requests": 48, "rps": 0.8, "p50_ms": 3.0, "p99_ms": 7.0, "errors": 0,
            "refused": 0, "error_rate": 0.0, "requests_total": 4711,
        }  # fmt: skip

    return {
        "project": "demo",
        "model": "digits",
        "versions": [version("v1", 80), version("v2", 20), version("v3", 0, shadow=True)],
    }


def _history() -> dict[str, Any]:
    gpu = {
        "label": "cuda:0", "name": "NVIDIA A2", "memory_total_bytes": 16e9,
        "utilization_percent": [float(at * 5 % 100) for at in range(60)], "memory_used_bytes": [4e9] * 60,
        "temperature_c": [61.0] * 60, "power_w": [42.0] * 60,
    }  # fmt: skip
    cpu = {
        "label": "cpu", "name": "CPU", "memory_total_bytes": 32e9,
        "utilization_percent": [float(20 + at % 10) for at in range(60)], "memory_used_bytes": [8e9] * 60,
        "temperature_c": [None] * 60, "power_w": [None] * 60,
    }  # fmt: skip
    return {"devices": [gpu, cpu], "queue_rows": [float(at % 6) for at in range(60)]}


def _revision(number: int, time: float, reason: str, changes: int) -> dict[str, Any]:
    spec = {"service_info": {"weight": 20}, "uri": "digits/v2.onnx"}
    after = {"spec": spec, "digest": "sha256:" + "cd" * 32, "size_bytes": 78_597, "memory_bytes": 1_600_000}
    steps: list[dict[str, object]] = [
        {
            "action": "ADD",
            "version": f"v{at + 1}",
            "before": None,
            "after": after,
            "changes": [],
            "reload": True,
        }
        for at in range(changes)
    ]
    return {
        "id": number, "time": time, "author": "ana", "reason": reason, "state": "applied", "error": None,
        "summary": {"add": changes, "update": 0, "delete": 0, "retain": 1},
        "diff": {"changed": True, "models": [{"project": "demo", "model": "digits", "steps": steps}]},
        "source": "deployments:\n- project: demo\n  model: digits\n",
    }  # fmt: skip
