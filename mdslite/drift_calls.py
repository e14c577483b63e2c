"""What can be asked of an appliance about drift, each call described as those of `calls`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from mdslite.calls import REPLY_WAIT_S, Ask
from mdslite.replies import Json, read_array, read_object

_WEBHOOK = "/api/v1/alerts/webhook"


def drift(project: str | None = None, model: str | None = None) -> Ask[list[Json]]:
    """Each version's signals against its baseline, those that fire first."""
    return Ask(
        "GET", "/api/v1/drift", read_array, _present({"project": project, "model": model}), repeatable=True
    )


def baseline(project: str, model: str) -> Ask[Json]:
    """Which time a model's versions are compared with, if one was chosen."""
    return Ask("GET", _baseline(project, model), read_object, repeatable=True)


def put_baseline(
    project: str, model: str, *, since: str, until: str | None = None, version: str | None = None
) -> Ask[Json]:
    """Compare a model's versions with this time, of `version` or each with its own."""
    body = _present({"since": since, "until": until, "version": version})
    return _send("PUT", _baseline(project, model), body)


def drop_baseline(project: str, model: str) -> Ask[Json]:
    """Let each version learn by itself again what is usual."""
    return _send("DELETE", _baseline(project, model))


def alert_webhook() -> Ask[Json]:
    """Where alerts are posted."""
    return Ask("GET", _WEBHOOK, read_object, repeatable=True)


def put_alert_webhook(url: str | None) -> Ask[Json]:
    """Have alerts posted to a URL, or, without one, nowhere."""
    return _send("DELETE", _WEBHOOK) if url is None else _send("PUT", _WEBHOOK, {"url": url})


def _baseline(project: str, model: str) -> str:
    return f"/api/v1/projects/{quote(project, safe='')}/models/{quote(model, safe='')}/baseline"


def _send(method: str, path: str, body: Mapping[str, Any] | None = None) -> Ask[Json]:
    content = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"content-type": "application/json"}
    return Ask(method, path, read_object, {}, content, headers, REPLY_WAIT_S, repeatable=True)


def _present(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
