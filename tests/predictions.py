"""Predictions that are asked of the predictor itself."""

from __future__ import annotations

import json
from typing import Any

from doors import Site
from h1_client import PREDICT, ROW

from mdslite.predict.call import Reply

JSON = (b"content-type", b"application/json")


async def ask(site: Site, instances: Any = (ROW,), *, target: str = PREDICT, **options: Any) -> Reply:
    body = json.dumps({"instances": instances}).encode()
    return await site.predictor.respond(target=target.encode(), headers=[JSON], body=body, **options)


def parsed(reply: Reply) -> Any:
    return json.loads(reply.body)
