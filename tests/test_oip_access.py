"""Tokens and the Open Inference Protocol: who may infer, look and load, and whose models are shown."""

from __future__ import annotations

import pytest
from box import Box
from parties import Party, make, party

pytestmark = pytest.mark.anyio

X4 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.mark.parametrize(
    ("scope", "infer", "look", "load"),
    [("predict", 200, 200, 403), ("read", 403, 200, 403), ("admin", 200, 200, 200)],
)
async def test_each_scope_opens_its_own(
    box: Box, admin: Party, scope: str, infer: int, look: int, load: int
) -> None:
    asker = party(box, await make(admin, scope))
    assert (await asker.ask("POST", "/v2/models/p.m/infer", X4)).status == infer
    for url in ("/v2/models/p.m", "/v2/models/p.m/ready", "/v2/models/p.m/config", "/v2/models/stats"):
        assert (await asker.ask("GET", url)).status == look
    assert (await asker.ask("POST", "/v2/repository/index")).status == look
    assert (await asker.ask("POST", "/v2/repository/models/p.m/unload")).status == load
    assert (await asker.ask("POST", "/v2/repository/models/p.m/load")).status == load


async def test_a_token_for_one_project_sees_and_reaches_no_other(box: Box, admin: Party) -> None:
    asker = party(box, await make(admin, "predict", project="p"))
    assert (await asker.ask("POST", "/v2/models/p.m/infer", X4)).status == 200
    for url in ("/v2/models/q.n", "/v2/models/q.n/ready", "/v2/models/q.n/stats", "/v2/models/q.nobody"):
        assert (await asker.ask("GET", url)).status == 403
    assert (await asker.ask("POST", "/v2/models/q.n/infer", X4)).status == 403
    index = (await asker.ask("POST", "/v2/repository/index")).json
    assert [one["name"] for one in index] == ["p.m"]
    statistics = (await asker.ask("GET", "/v2/models/stats")).json
    assert [one["name"] for one in statistics["model_stats"]] == ["p.m"]


async def test_who_loads_and_unloads_is_written_down(box: Box, admin: Party) -> None:
    asker = party(box, await make(admin, "admin"))
    await asker.ask("POST", "/v2/repository/models/p.m/unload")
    await asker.ask("POST", "/v2/repository/models/p.m/load")
    audit = (await asker.ask("GET", "/api/v1/audit")).json
    acts = [one["what"] for one in audit]
    assert {"load_repository_model", "unload_repository_model"} <= set(acts)
