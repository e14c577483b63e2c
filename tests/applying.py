"""Two versions of a model in a deployments.yaml, applied by the deployer or over the admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from box import Box, Caller, deployments, file_order

from mdslite.deploy.orders import Outcome

V1 = "v1, uri: v1.onnx, weight: 80"
V2 = "v2, uri: v2.onnx, weight: 20"
PREDICT = "/projects/p/models/m:predict"
JSON = {"content-type": "application/json"}


async def apply(box: Box, folder: Path, *versions: str, **options: Any) -> Outcome:
    return await box.deployer.apply(file_order(deployments(*versions), folder, **options))


async def post_apply(caller: Caller, folder: Path, *versions: str, **more: Any) -> Any:
    heard = await caller.post("/api/v1/apply", apply_body(folder, *versions, **more))
    assert heard.status == 200, heard.body
    return heard.json


def apply_body(folder: Path, *versions: str, **more: Any) -> dict[str, Any]:
    return {"source": deployments(*versions), "base": str(folder), **more}
