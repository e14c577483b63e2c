"""What can be asked of an appliance about labels and replays, each call described as those of `calls`."""

from __future__ import annotations

from collections.abc import Sequence

from mdslite.asks import Ask, Pieces, get, get_list, model_url, present, send
from mdslite.replies import Json

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
    return get(f"{_LABELS}/queue", **params)


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
    return get(_LABELS, **params)


def label(request: int) -> Ask[Json]:
    """The label of a request, with its history; `request` is the id of its row in the log."""
    return get(f"{_LABELS}/{request}")


def put_label(request: int, label: str, *, note: str = "", author: str | None = None) -> Ask[Json]:
    """Say what the answer to a logged request should have been."""
    body = {"label": label, "note": note, **({"author": author} if author else {})}
    return send("PUT", f"{_LABELS}/{request}", body)


def undo_label(request: int, *, author: str | None = None) -> Ask[Json]:
    """Take the last label of a request back."""
    return send("DELETE", f"{_LABELS}/{request}", params={"author": author})


def label_accuracy(project: str, model: str) -> Ask[Json]:
    """How often each version answered as the labels say, with its interval."""
    return get(f"{_LABELS}/accuracy", project=project, model=model)


def export_labels(project: str, model: str, form: str = "jsonl") -> Pieces:
    """A model's labels as a training set: `jsonl`, `csv` or `parquet`."""
    return Pieces(get(f"{_LABELS}/export", project=project, model=model, format=form))


def labeling(project: str, model: str) -> Ask[Json]:
    """By which rules a model's requests are put before people."""
    return get(f"{model_url(project, model)}/labeling")


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
    return send("PUT", f"{model_url(project, model)}/labeling", {**body, "classes": list(classes)})


def forget_labels(project: str, model: str) -> Ask[Json]:
    """Drop all labels of a model."""
    return send("DELETE", f"{model_url(project, model)}/labels")


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
    return send("POST", _REPLAYS, present(body))


def replays(*, limit: int | None = None) -> Ask[list[Json]]:
    """Replays, the newest first."""
    return get_list(_REPLAYS, limit=limit)


def replay_progress(number: int) -> Ask[Json]:
    """How far a replay is, and what came of it."""
    return get(f"{_REPLAYS}/{number}")


def cancel_replay(number: int) -> Ask[Json]:
    """End a replay before all is sent."""
    return send("DELETE", f"{_REPLAYS}/{number}")
