"""Whose fault a failed request is: one answer, wherever figures are made of requests."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from time import time
from typing import Any

import models
import pytest
from box import Caller, deployments, open_box
from log_rows import row

from mdslite.blame import error_rate, is_error, is_good, is_refused
from mdslite.runtimes.prober import Prober
from mdslite.tui.snapshot import Connection, Snapshot
from mdslite.tui.traffic import add_up

GOOD, ERRORS = 30, (500, 502, 503, 504, 500, 503)
REFUSED = (400, 404, 413, 422, 429, 429, 499) * 6


@pytest.mark.parametrize("status", [100, 200, 202, 204, 304, 399, 400, 404, 429, 499, 500, 504, 507, 599])
def test_each_status_is_one_of_three(status: int) -> None:
    assert [is_good(status), is_refused(status), is_error(status)].count(True) == 1


def test_what_was_refused_is_no_part_of_the_error_rate() -> None:
    assert error_rate(good=3, errors=1) == 0.25
    assert error_rate(good=0, errors=0) is None


def test_all_figures_of_a_version_tell_errors_and_latencies_alike(tmp_path: Path) -> None:
    async def test(prober: Prober) -> None:
        await asyncio.to_thread(models.mlp, tmp_path / "m.onnx")
        async with open_box(tmp_path / "store", prober) as box:
            caller = Caller(box.app)
            source = deployments("v1, uri: m.onnx", "v2, uri: m.onnx, weight: 5")
            reply = await caller.post("/api/v1/apply", {"source": source, "base": str(tmp_path)})
            assert reply.status == 200, reply.json
            now = time()
            for version in ("v1", "v2"):
                for status in (*[200] * GOOD, *ERRORS, *REFUSED):
                    latency_ms = 8.0 if status == 200 else 0.1
                    names: dict[str, Any] = {"project": "p", "model": "m", "version": version}
                    box.journal.append(row(time=now, status=status, latency_ms=latency_ms, **names))
            assert await asyncio.to_thread(box.journal.flush, timeout_s=10)

            rate = pytest.approx(len(ERRORS) / (GOOD + len(ERRORS)))
            model = (await caller.get("/api/v1/projects/p/models/m")).json
            listed = model["versions"][0]
            counts = [listed[name] for name in ("requests", "errors", "refused")]
            assert counts == [GOOD + len(ERRORS) + len(REFUSED), len(ERRORS), len(REFUSED)]
            assert listed["error_rate"] == rate
            assert listed["p50_ms"] == pytest.approx(8, rel=0.05)
            assert listed["rps"] == pytest.approx(counts[0] / listed["window_s"], rel=0.1)
            assert 1 <= listed["window_s"] < 60  # it has only just begun to serve

            found = (await caller.get("/api/v1/logs/percentiles")).json
            group = found["groups"][0]
            assert [group[name] for name in ("count", "errors", "refused")] == counts
            assert (group["error_rate"], group["latency_ms"]["p50"]) == (rate, 8)
            assert now - 1 <= found["since"] <= now <= found["until"] <= time()

            stacked = (await caller.get("/api/v1/logs/histogram")).json["series"][0]
            assert [sum(stacked[name]) for name in ("counts", "errors", "refused")] == counts

            url = "/api/v1/projects/p/models/m/comparison?first=v1&second=v2"
            side = (await caller.get(url)).json["first"]
            assert (side["requests"], side["errors"]) == (GOOD + len(ERRORS), len(ERRORS))
            assert (side["error_rate"]["value"], side["p50_ms"]["value"]) == (rate, 8)

            total = add_up(
                Snapshot(clock=now, connection=Connection(state="live", url=box.url), models=[model])
            )
            assert total is not None
            assert total.error_rate == rate
            assert total.window_s == listed["window_s"]

    with closing(Prober()) as prober:
        asyncio.run(test(prober))
