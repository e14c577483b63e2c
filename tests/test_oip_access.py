"""Tokens and the Open Inference Protocol: who may infer, look and load, and whose models are shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import models
import pytest
from box import Box, Caller, deployments, file_order, open_box

from mdslite.runtimes.prober import Prober

pytestmark = pytest.mark.anyio

X4 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.fixture
async def box(tmp_path: Path, prober: Prober) -> AsyncIterator[Box]:
    """`p/m` and `q/n`."""
    models.mlp(tmp_path / "v1.onnx")
    async with open_box(tmp_path / "store", prober) as box:
        for project, model in (("p", "m"), ("q", "n")):
            text = deployments("v1, uri: v1.onnx", project=project, model=model)
            await box.deployer.apply(file_order(text, tmp_path))
        yield box


class Party:
    """A caller with a token."""

    def __init__(self, box: Box, token: str) -> None:
        self._caller = Caller(box.app)
        self._headers = {"authorization": f"Bearer {token}"}

    async def ask(self, method: str, url: str, body: Any = b"") -> tuple[int, Any]:
        heard = await self._caller.ask(method, url, body, headers=self._headers)
        return heard.status, heard.json


async def make(box: Box, *scopes: str, **fields: Any) -> Party:
    """A party with a token of these scopes; the first of all is made for an admin."""
    heard = await Caller(box.app).post("/api/v1/tokens", {"scopes": ["admin"], "name": "root"})
    root = str(heard.json["token"])
    heard = await Caller(box.app).ask(
        "POST", "/api/v1/tokens", {"scopes": scopes, **fields}, headers={"authorization": f"Bearer {root}"}
    )
    assert heard.status == 200, heard.body
    return Party(box, str(heard.json["token"]))


@pytest.mark.parametrize(
    ("scope", "infer", "look", "load"),
    [("predict", 200, 200, 403), ("read", 403, 200, 403), ("admin", 200, 200, 200)],
)
async def test_each_scope_opens_its_own(box: Box, scope: str, infer: int, look: int, load: int) -> None:
    party = await make(box, scope)
    assert (await party.ask("POST", "/v2/models/p.m/infer", X4))[0] == infer
    for url in ("/v2/models/p.m", "/v2/models/p.m/ready", "/v2/models/p.m/config", "/v2/models/stats"):
        assert (await party.ask("GET", url))[0] == look
    assert (await party.ask("POST", "/v2/repository/index"))[0] == look
    assert (await party.ask("POST", "/v2/repository/models/p.m/unload"))[0] == load
    assert (await party.ask("POST", "/v2/repository/models/p.m/load"))[0] == load


async def test_a_token_for_one_project_sees_and_reaches_no_other(box: Box) -> None:
    party = await make(box, "predict", project="p")
    assert (await party.ask("POST", "/v2/models/p.m/infer", X4))[0] == 200
    for url in ("/v2/models/q.n", "/v2/models/q.n/ready", "/v2/models/q.n/stats", "/v2/models/q.nobody"):
        assert (await party.ask("GET", url))[0] == 403
    assert (await party.ask("POST", "/v2/models/q.n/infer", X4))[0] == 403
    _, index = await party.ask("POST", "/v2/repository/index")
    assert [one["name"] for one in index] == ["p.m"]
    _, statistics = await party.ask("GET", "/v2/models/stats")
    assert [one["name"] for one in statistics["model_stats"]] == ["p.m"]


async def test_who_loads_and_unloads_is_written_down(box: Box) -> None:
    party = await make(box, "admin")
    await party.ask("POST", "/v2/repository/models/p.m/unload")
    await party.ask("POST", "/v2/repository/models/p.m/load")
    _, audit = await party.ask("GET", "/api/v1/audit")
    acts = [one["what"] for one in audit]
    assert {"load_repository_model", "unload_repository_model"} <= set(acts)
