"""What the model behind the door answers, and an application that answers."""

from __future__ import annotations

from typing import Any

from h1_client import ROW

ANSWER = {"predictions": [ROW]}


async def answer(send: Any, body: bytes, *, status: int = 200, more: bool = False) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": more})
