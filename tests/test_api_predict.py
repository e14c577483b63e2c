"""Predictions over the application alone, without the door before it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from applying import JSON, PREDICT, V1, post_apply
from box import Caller

from mdslite.api.app import PredictEndpoint
from mdslite.api.reading import read_body
from mdslite.errors import RequestTimeout
from mdslite.http.access import Access
from mdslite.http.guard import Errors, RequestIds
from mdslite.predict.call import Reply
from mdslite.predict.reading import Reader

pytestmark = pytest.mark.anyio


async def test_a_prediction_works_this_way_too(caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    heard = await caller.post(PREDICT, {"instances": [[1, 2, 3, 4]]}, **JSON, **{"x-request-id": "r-1"})
    assert heard.status == 200
    assert heard.headers["mdslite-version"] == "v1"
    assert heard.headers["mdslite-request-id"] == "r-1"
    assert "server-timing" in heard.headers
    assert len(heard.json["predictions"][0]) == 3
    heard = await caller.post("/projects/p/models/m/versions/v9:predict", b"{}", **JSON)
    assert heard.status == 404


async def test_a_prediction_too_large_to_read_is_413_with_a_way_out(caller: Caller, folder: Path) -> None:
    await post_apply(caller, folder, V1)
    heard = await caller.ask("POST", PREDICT, headers={**JSON, "content-length": "99999999999"})
    assert heard.status == 413
    assert "npy" in heard.json["hint"]


async def test_a_prediction_whose_client_left_is_cancelled() -> None:
    class WaitingPredictor:
        cancelled = False
        access = Access()
        reader = Reader(max_json_bytes=100, max_body_bytes=100)

        async def respond(self, **request: Any) -> Reply:
            caller.leaving.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            raise AssertionError

    predictor = WaitingPredictor()
    deferrals: Any = None  # nothing is deferred
    caller = Caller(RequestIds(Errors(PredictEndpoint(predictor, deferrals))))  # type: ignore[arg-type]
    heard = await caller.post(PREDICT, b"{}")
    assert predictor.cancelled
    assert heard.status == 0


async def test_a_body_that_does_not_come_is_a_408() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(RequestTimeout, match="in time"):
        await read_body({"headers": []}, receive, limit_bytes=10, timeout_s=0.01)


async def test_what_has_come_of_a_body_buys_time_for_the_rest() -> None:
    late, loop = asyncio.Event(), asyncio.get_running_loop()
    pieces = [b"b", bytes(1024 * 1024)]

    async def receive() -> Any:
        if len(pieces) == 1:
            loop.call_later(0.02, late.set)
            await late.wait()
        return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

    body = await read_body({"headers": []}, receive, limit_bytes=2**21, timeout_s=0.001)
    assert len(body) == 1024 * 1024 + 1
