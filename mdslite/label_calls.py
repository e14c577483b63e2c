"""What can be asked of an appliance about labels and replays, each call described as those of `calls`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from mdslite.calls import REPLY_WAIT_S, Ask, Pieces
from mdslite.replies import Json, read_array, read_object

_LABELS = "/api/v1/labels"
_REPLAYS = "/api/v1/replays"


def label_queue(
    project: str | None = None,
    model: str | None = None,
    *,
    rule: str | None = None,
    limit: int | None = None,
    before: int | None = None,
) -> Ask[Json]:
    """Requests that wait for a label, the newest first: `items`, `waiting`, `classes`, `next`."""
    params = {"project": project, "model": model, "rule": rule, "limit": limit, "before": before}
    return _get(f"{_LABELS}/queue", params)


def labels(
    project: str | None = None,
    model: str | None = None,
    *,
    label: str | None = None,
    limit: int | None = None,
    before: int | None = None,
) -> Ask[Json]:
    """Requests that have a label, the newest first: `labels`, and `next` to hand in as `before`."""
    params = {"project": project, "model": model, "label": label, "limit": limit, "before": before}
    return _get(_LABELS, params)


def label(request: int) -> Ask[Json]:
    """The label of a request, with its history; `request` is the id of its row in the log."""
    return _get(f"{_LABELS}/{request}")


def put_label(request: int, label: str, *, note: str = "", author: str | None = None) -> Ask[Json]:
    """Say what the answer to a logged request should have been."""
    body = {"label": label, "note": note, **({"author": author} if author else {})}
    return _send("PUT", f"{_LABELS}/{request}", body)


def undo_label(request: int, *, author: str | None = None) -> Ask[Json]:
    """Take the last label of a request back."""
    return _send("DELETE", f"{_LABELS}/{request}", params={"author": author})


def label_accuracy(project: str, model: str) -> Ask[Json]:
    """How often each version answered as the labels say, with its interval."""
    return _get(f"{_LABELS}/accuracy", {"project": project, "model": model})


def export_labels(project: str, model: str, form: str = "jsonl") -> Pieces:
    """A model's labels as a training set: `jsonl`, `csv` or `parquet`."""
    return Pieces(_get(f"{_LABELS}/export", {"project": project, "model": model, "format": form}))


def labeling(project: str, model: str) -> Ask[Json]:
    """By which rules a model's requests are put before people."""
    return _get(f"{_model(project, model)}/labeling")


def put_labeling(
    project: str,
    model: str,
    *,
    below_confidence: float | None,
    disagreements: bool,
    share: float,
    classes: Sequence[str] = (),
) -> Ask[Json]:
    """Choose which requests are put before people: the unsure, those that a shadow answered otherwise, and a
    random `share`. `classes` are the labels to choose from; none means those that are known from answers."""
    body = {"below_confidence": below_confidence, "disagreements": disagreements, "share": share}
    return _send("PUT", f"{_model(project, model)}/labeling", {**body, "classes": list(classes)})


def forget_labels(project: str, model: str) -> Ask[Json]:
    """Drop all labels of a model."""
    return _send("DELETE", f"{_model(project, model)}/labels")


def replay(
    filter: str,
    project: str,
    model: str,
    version: str,
    *,
    rate: str | None = None,
    compare: bool = False,
    limit: int | None = None,
    author: str | None = None,
) -> Ask[Json]:
    """Send logged requests to a version once more; `rate` is such as `2x` the pace of before, or `50/s`."""
    body = {
        "filter": filter,
        "project": project,
        "model": model,
        "version": version,
        "rate": rate,
        "compare": compare,
        "limit": limit,
        "author": author,
    }
    return _send("POST", _REPLAYS, {name: value for name, value in body.items() if value is not None})


def replays(*, limit: int | None = None) -> Ask[list[Json]]:
    """Replays, the newest first."""
    return Ask("GET", _REPLAYS, read_array, _present({"limit": limit}), repeatable=True)


def replay_progress(number: int) -> Ask[Json]:
    """How far a replay is, and what came of it."""
    return _get(f"{_REPLAYS}/{number}")


def cancel_replay(number: int) -> Ask[Json]:
    """End a replay before all is sent."""
    return _send("DELETE", f"{_REPLAYS}/{number}")


def _get(path: str, params: Mapping[str, Any] | None = None) -> Ask[Json]:
    return Ask("GET", path, read_object, _present(params or {}), repeatable=True)


def _send(
    method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None
) -> Ask[Json]:
    content = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"content-type": "application/json"}
    return Ask(method, path, read_object, _present(params or {}), content, headers, REPLY_WAIT_S)


def _present(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _model(project: str, model: str) -> str:
    return f"/api/v1/projects/{quote(project, safe='')}/models/{quote(model, safe='')}"
