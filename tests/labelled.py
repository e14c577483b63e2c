"""An appliance with two classifiers of digits, one the other's shadow, whose log keeps every body."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import numpy as np
from box import Box, Caller, Heard, deployments, open_box
from waiting import answered

from mdslite.runtimes.prober import Prober
from mdslite.serving.samples import Samples
from mdslite.store.filters import parse

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"
PREDICT = "/projects/demo/models/digits:predict"
LABELS = "/api/v1/labels"
QUEUE = f"{LABELS}/queue?project=demo&model=digits"
RULES = "/api/v1/projects/demo/models/digits/labeling"


def held_out() -> tuple[list[list[float]], list[int]]:
    """Digits that no version was trained on, and what they are."""
    told = json.loads((DIGITS / "held_out.json").read_text())
    return told["instances"], told["labels"]


def held_out_arrays() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows, truth = held_out()
    return np.asarray(rows, np.float32), np.asarray(truth)


@asynccontextmanager
async def open_digits(store: Path, *versions: str) -> AsyncIterator[tuple[Box, Caller]]:
    """demo/digits with v1 and its shadow v2, or with `versions` as `deployments` takes them."""
    with closing(Prober()) as prober:
        async with open_box(store, prober) as box:
            caller = Caller(box.app)
            lines = versions or ("v1, uri: v1.onnx", "v2, uri: v2.onnx, shadow: true")
            source = deployments(*lines, project="demo", model="digits")
            if not box.fleet.all():
                reply = await caller.post("/api/v1/apply", {"source": source, "base": str(DIGITS)})
                assert reply.status == 200, reply.json
            for served in box.fleet.all():
                served.samples = Samples(good=1 << 30, failed=1 << 30)
            yield box, caller


async def send(caller: Caller, rows: list[list[float]], *, prefix: str = "r") -> None:
    for number, row in enumerate(rows):
        body = {"instances": [row]}
        reply = await caller.ask("POST", PREDICT, body, headers={"x-request-id": f"{prefix}{number}"})
        assert reply.status == 200, reply.json


async def logged(box: Box, filter: str, count: int) -> list[Any]:
    """Rows of the log that pass a filter, the oldest first, once so many are written."""

    async def ask() -> list[Any]:
        await asyncio.to_thread(box.journal.flush, timeout_s=5)
        rows = box.request_log.query(parse(filter, now=box.started_at + 3600), limit=1000).rows
        return sorted(rows, key=lambda row: row.id) if len(rows) >= count else []

    return await answered(ask)


async def set_rules(caller: Caller, **rules: Any) -> Heard:
    reply = await caller.ask("PUT", RULES, {"below_confidence": None, "disagreements": False, **rules})
    assert reply.status == 200, reply.json
    return reply
