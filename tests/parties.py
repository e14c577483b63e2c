"""Callers with a token of their own, or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
from box import Box, Caller, Heard, deployments


class Party(Caller):
    """A caller with a token, or without."""

    token: str | None = None

    async def ask(self, method: str, url: str, body: Any = b"", **options: Any) -> Heard:
        headers = dict(options.pop("headers", None) or {})
        if self.token is not None:
            headers.setdefault("authorization", f"Bearer {self.token}")
        return await super().ask(method, url, body, headers=headers, **options)


def party(box: Box, token: str | None = None) -> Party:
    found = Party(box.app)
    found.token = token
    return found


async def settle_in(box: Box, folder: Path) -> Party:
    """Who made the first token, and deployed p/m and q/n."""
    stranger = party(box)
    models.mlp(folder / "v1.onnx")
    for project, model in (("p", "m"), ("q", "n")):
        text = deployments("v1, uri: v1.onnx", project=project, model=model)
        heard = await stranger.post("/api/v1/apply", {"source": text, "base": str(folder)})
        assert heard.status == 200
    return party(box, await make(stranger, "admin", name="root"))


async def make(maker: Caller, *scopes: str, **fields: Any) -> str:
    heard = await maker.post("/api/v1/tokens", {"scopes": scopes, **fields})
    assert heard.status == 200, heard.body
    return str(heard.json["token"])
