"""What can be asked of an appliance about drift and its alerts, each call described as those of `calls`."""

from __future__ import annotations

from mdslite.asks import Ask, get, get_list, model_url, present, send
from mdslite.replies import Json

_WEBHOOK = "/api/v1/alerts/webhook"


def drift(project: str | None = None, model: str | None = None) -> Ask[list[Json]]:
    """Each version's signals against its baseline, those that fire first."""
    return get_list("/api/v1/drift", project=project, model=model)


def alerts(
    project: str | None = None,
    model: str | None = None,
    *,
    since: str | float | None = None,
    limit: int | None = None,
    before: int | None = None,
) -> Ask[list[Json]]:
    """What has drifted and what was resolved, newest first; `since` such as `7d`, or unix seconds."""
    return get_list("/api/v1/alerts", project=project, model=model, since=since, limit=limit, before=before)


def baseline(project: str, model: str) -> Ask[Json]:
    """Which time a model's versions are compared with, if one was chosen."""
    return get(_baseline(project, model))


def put_baseline(
    project: str, model: str, *, since: str, until: str | None = None, version: str | None = None
) -> Ask[Json]:
    """Compare a model's versions with this time, of `version` or each with its own."""
    body = present({"since": since, "until": until, "version": version})
    return send("PUT", _baseline(project, model), body, repeatable=True)


def drop_baseline(project: str, model: str) -> Ask[Json]:
    """Let each version learn by itself again what is usual."""
    return send("DELETE", _baseline(project, model), repeatable=True)


def alert_webhook() -> Ask[Json]:
    """Where alerts are posted."""
    return get(_WEBHOOK)


def put_alert_webhook(url: str | None) -> Ask[Json]:
    """Have alerts posted to a URL, or, without one, nowhere."""
    if url is None:
        return send("DELETE", _WEBHOOK, repeatable=True)
    return send("PUT", _WEBHOOK, {"url": url}, repeatable=True)


def _baseline(project: str, model: str) -> str:
    return f"{model_url(project, model)}/baseline"
