"""Predictions that show a token, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h2_client
import msgspec
from doors import Site
from h1_client import PREDICT, ROW, request

BODY = json.dumps({"instances": [ROW]}).encode()
LARGE = BODY + b" " * 200_000
PROTOCOLS = ("http/1.1", "h2")


@dataclass
class Heard:
    status: int
    headers: dict[str, str]
    json: Any


async def ask(
    site: Site,
    protocol: str,
    target: str = PREDICT,
    *,
    fields: Sequence[tuple[str, str]] = (),
    body: bytes = BODY,
) -> Heard:
    """A POST on a connection of its own."""
    fields = [("content-type", "application/json"), *fields]
    if protocol == "http/1.1":
        async with site.connect() as wire:
            wire.send(request("POST", target, body, headers=fields))
            reply = await wire.reply()
            return Heard(reply.status, reply.headers, msgspec.json.decode(reply.body))
    async with h2_client.connect(site.address) as client:
        head = client.head(target, method="POST", headers=fields, end=False)
        pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
        client.send(head, *(h2_client.data(head.stream_id, piece) for piece in pieces))
        client.send(h2_client.data(head.stream_id, end=True))
        answer = await client.answer(head.stream_id)
        return Heard(answer.status, answer.headers, msgspec.json.decode(answer.body))
