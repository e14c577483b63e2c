"""What can be asked of an appliance: one function a call, each of which describes the request and how its
reply is read. Sends nothing: `client` does, in the one way or the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2

from mdslite.payloads import Prediction, make_payload, read_prediction
from mdslite.replies import Json, read_array, read_line, read_object

PAGE_MAX = 1000  # what the appliance hands out in one page

CONNECT_WAIT_S = 5.0
REPLY_WAIT_S = 30.0
PREDICT_WAIT_S = 600.0  # beyond any sensible prediction_time_ms: the appliance's own 504 comes first
EVENTS_WAIT_S = 45.0  # three heartbeats of the stream
LOAD_WAIT_S = 3600.0  # the longest silence while artifacts are fetched and models load

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """One request. `repeatable` says that to do it twice is to do it once."""

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float | None = REPLY_WAIT_S
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Lines(Generic[T]):
    """One request that is answered line by line."""

    ask: Ask[None]
    read: Callable[[str], T]


@dataclass(frozen=True, slots=True)
class Pieces:
    """One request that is answered by a file."""

    ask: Ask[Json]


def status() -> Ask[Json]:
    """The appliance: version, uptime, revision in force, devices."""
    return _get("/api/v1/status")


def models(project: str | None = None, *, at: float | None = None) -> Ask[list[Json]]:
    """Every model and its versions, with the traffic of the last minute; or those that were deployed at the
    unix time `at`."""
    return _list("/api/v1/models", project=project, at=_iso(at))


def model(project: str, model: str, *, at: float | None = None) -> Ask[Json]:
    """One model's versions now, or those that served at the unix time `at`."""
    return _get(_model(project, model), at=_iso(at))


def version(project: str, model: str, version: str) -> Ask[Json]:
    """One version as it serves, with its `spec`."""
    return _get(_version(project, model, version))


def put_version(
    project: str, model: str, version: str, spec: Mapping[str, Any], *, reason: str | None = None
) -> Ask[Json]:
    """Add or change one version beside the others; `spec` as in a file, with an absolute uri."""
    return _send(
        "PUT", _version(project, model, version), {"spec": spec}, {"reason": reason}, wait_s=LOAD_WAIT_S
    )


def delete_version(project: str, model: str, version: str, *, reason: str | None = None) -> Ask[Json]:
    """Delete one version; with its last one the model is gone."""
    return _send("DELETE", _version(project, model, version), params={"reason": reason}, wait_s=LOAD_WAIT_S)


def put_weights(
    project: str, model: str, weights: Mapping[str, float], *, reason: str | None = None
) -> Ask[Json]:
    """Give versions other weights; those that are not named keep theirs."""
    return _send("PUT", f"{_model(project, model)}/weights", weights, {"reason": reason})


def output(project: str, model: str, version: str) -> Ask[list[Json]]:
    """What the package of a version printed: an object for each replica's process, ended ones first."""
    return _list(f"{_version(project, model, version)}/output")


def compare(
    project: str,
    model: str,
    first: str,
    second: str,
    *,
    since: str,
    until: str | None = None,
    limit: int = 20,
) -> Ask[Json]:
    """Two versions beside each other: errors, latency, confidence, agreement; `since` such as `1h`."""
    return _get(
        f"{_model(project, model)}/comparison",
        first=first,
        second=second,
        since=since,
        until=until,
        limit=limit,
    )


def rollout(project: str, model: str) -> Ask[Json]:
    """The rollout that a model has, or had last."""
    return _get(f"{_model(project, model)}/rollout")


def begin_rollout(
    project: str,
    model: str,
    version: str,
    *,
    steps: Sequence[float],
    every_s: float,
    gates: Sequence[str] = (),
    ungated: bool = False,
    reason: str = "",
    author: str | None = None,
) -> Ask[Json]:
    """Step a version up, `steps` in percent, while its gates hold; without gates only if `ungated`."""
    body = {"version": version, "steps": list(steps), "every_s": every_s, "gates": list(gates)}
    who = _present({"author": author, "ungated": ungated or None})
    return _send("POST", f"{_model(project, model)}/rollout", {**body, **who, "reason": reason})


def change_rollout(project: str, model: str, action: str, *, author: str | None = None) -> Ask[Json]:
    """`pause`, `resume`, `promote` or `abort` the rollout that a model has."""
    body = _present({"action": action, "author": author})
    return _send("POST", f"{_model(project, model)}/rollout/action", body)


def rollouts(*, limit: int | None = None) -> Ask[list[Json]]:
    """All rollouts, those that have ended too, the newest first."""
    return _list("/api/v1/rollouts", limit=limit)


def load(project: str, model: str) -> Ask[Json]:
    """Load the versions of a deployed model that are not in memory."""
    return _send("POST", f"{_repository(project, model)}/load", {}, wait_s=LOAD_WAIT_S)


def unload(project: str, model: str) -> Ask[Json]:
    """Take a model's versions out of memory, until they are loaded again."""
    return _send("POST", f"{_repository(project, model)}/unload", {}, wait_s=LOAD_WAIT_S)


def devices_history(*, since: float | None = None, until: float | None = None) -> Ask[Json]:
    """What the devices and the queues were at: by the second for an hour, by the minute for a day."""
    return _get("/api/v1/devices/history", since=since, until=until)


def events(last: str | None = None) -> Lines[str]:
    """The lines of the stream of events (server-sent events), going on after the event with the id `last`."""
    headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
    ask = Ask("GET", "/api/v1/events", _read_nothing, headers=headers, wait_s=EVENTS_WAIT_S, repeatable=True)
    return Lines(ask, str)


def revisions(*, limit: int | None = None, before: int | None = None) -> Ask[list[Json]]:
    """Revisions, newest first; `before` continues after the last one of the page before."""
    return _list("/api/v1/revisions", limit=limit, before=before)


def revision(number: int) -> Ask[Json]:
    """One revision: its diff, the text that was applied, and what was deployed after it."""
    return _get(f"/api/v1/revisions/{number}")


def doctor() -> Ask[list[Json]]:
    """What is wrong with the machine and the store."""
    # It reads every artifact.
    return Ask("GET", "/api/v1/doctor", read_array, wait_s=LOAD_WAIT_S, repeatable=True)


def backup(path: str | None = None, *, log: bool = False) -> Ask[Json]:
    """Copy the store into one file of the appliance's machine while it serves."""
    return _send("POST", "/api/v1/backup", {"path": path, "log": log}, wait_s=LOAD_WAIT_S)


def plan(body: Mapping[str, Any]) -> Ask[Json]:
    """What applying `body` (`source`, `file`, `base`, `prune`; or `revision`) would change."""
    return _send("POST", "/api/v1/plan", body, wait_s=LOAD_WAIT_S)


def apply(body: Mapping[str, Any]) -> Lines[Json]:
    """Apply `body` and yield the events of its progress; the last one has `event` `result`.

    A failed apply is a `result` event with state `failed`, not an exception.

    :raises MdsliteError: when the apply was refused before it began
    """
    return _lines("POST", "/api/v1/apply", content=_dump(body), wait_s=LOAD_WAIT_S)


def undo(revision: int | None = None, *, reason: str | None = None) -> Lines[Json]:
    """Go back to the state after a revision, by default the one before the latest; events as of `apply`."""
    wanted = "previous" if revision is None else revision
    return apply({"revision": wanted, **({"reason": reason} if reason else {})})


def logs(
    filter: str = "",
    *,
    limit: int | None = None,
    before: int | None = None,
    after: int | None = None,
    bodies: bool = True,
) -> Ask[Json]:
    """One page of the request log, newest first: `rows`, and `next` to hand in as `before`. `after` is an
    `id` that is known already; without `bodies` no row has its request and reply."""
    return _get(
        "/api/v1/logs",
        filter=filter or None,
        limit=limit,
        before=before,
        after=after,
        bodies=None if bodies else "false",
    )


def histogram(filter: str = "", *, interval_s: float | None = None, by: str | None = None) -> Ask[Json]:
    """Requests by time, a series for each version or value of `by`; `since` and `until` are the filter's."""
    return _get("/api/v1/logs/histogram", filter=filter or None, interval_s=interval_s, by=by)


def log_row(id: int) -> Ask[Json]:
    """One `row` of the request log, and the `related` ones of the same request."""
    return _get(f"/api/v1/logs/{id}")


def top(field: str, filter: str = "", *, limit: int | None = None) -> Ask[Json]:
    """The most frequent values of a field, such as `code` or `reply.label`, with their shares."""
    return _get("/api/v1/logs/top", field=field, filter=filter or None, limit=limit)


def export_logs(filter: str = "", *, format: str = "jsonl") -> Pieces:
    """All rows that pass as a file: `jsonl`, `csv` or `parquet`."""
    return Pieces(_get("/api/v1/logs/export", filter=filter or None, format=format))


def percentiles(filter: str = "") -> Ask[Json]:
    """How many, how fast and how sure: by version."""
    return _get("/api/v1/logs/percentiles", filter=filter or None)


def alerts(
    project: str | None = None,
    model: str | None = None,
    *,
    since: str | float | None = None,
    limit: int | None = None,
    before: int | None = None,
) -> Ask[list[Json]]:
    """What has drifted and what was resolved, newest first; `since` such as `7d`, or unix seconds."""
    return _list("/api/v1/alerts", project=project, model=model, since=since, limit=limit, before=before)


def follow_logs(filter: str = "", *, bodies: bool = True) -> Lines[Json]:
    """Rows of the request log that are written from now on, for as long as the block runs.

    They are collected from the moment the block is entered, so that a page asked for inside it and the
    rows that follow leave no gap; they may overlap, which the rows' `id` tells.
    """
    params = {"filter": filter or None, "follow": "true", "bodies": None if bodies else "false"}
    return _lines("GET", "/api/v1/logs", params, wait_s=None)


def tokens() -> Ask[list[Json]]:
    """Every token that is known, all but itself."""
    return _list("/api/v1/tokens")


def create_token(body: Mapping[str, Any]) -> Ask[Json]:
    """Make a token of `scopes` and maybe `name`, `project`, `model`, `rate`, `expires`. The answer is the
    only place where the `token` itself ever stands."""
    return _send("POST", "/api/v1/tokens", _present(body))


def revoke_token(which: str) -> Ask[Json]:
    """End a token, by its id or its name."""
    return _send("DELETE", f"/api/v1/tokens/{quote(which, safe='')}")


def limits() -> Ask[list[Json]]:
    """How often models may be asked."""
    return _list("/api/v1/limits")


def limit(project: str, model: str, rate: str | None) -> Ask[Json]:
    """Limit how often a model may be asked, or, without a rate, stop doing so."""
    path = f"{_model(project, model)}/limit"
    return _send("DELETE", path) if rate is None else _send("PUT", path, {"rate": rate})


def audit(*, limit: int | None = None, before: int | None = None) -> Ask[list[Json]]:
    """Who did what, newest first; `before` continues after the last line of the page before."""
    return _list("/api/v1/audit", limit=limit, before=before)


def predict(
    project: str, model: str, data: Any, *, version: str | None = None, output: str | None = None
) -> Ask[Prediction]:
    """Predict from an array, arrays by input, a list of instances, or `bytes` that are a JSON body.

    With `output` the value is that output's array; arrays by input bring all outputs as arrays by name.

    :raises InvalidRequest: the data fit no form
    """
    made = make_payload(project, model, data, version=version, output=output)
    return Ask(
        "POST", made.path, read_prediction, content=made.content, headers=made.headers, wait_s=PREDICT_WAIT_S
    )


def submit(
    project: str,
    model: str,
    data: Any,
    *,
    version: str | None = None,
    output: str | None = None,
    webhook: str | None = None,
) -> Ask[str]:
    """Have a prediction made later; the id is for `result`. `webhook` is a URL to tell when it is there."""
    made = make_payload(project, model, data, version=version, output=output)
    headers = {**made.headers, "prefer": "respond-async"}
    if webhook is not None:
        headers["mdslite-webhook"] = webhook
    return Ask("POST", made.path, _read_id, content=made.content, headers=headers)


def result(prediction: str, *, wait_s: float = 0.0) -> Ask[Prediction | None]:
    """The answer to a prediction that was submitted, None while there is none after `wait_s` (60 at most)."""
    path = f"/api/v1/predictions/{quote(prediction, safe='')}"
    return Ask(
        "GET", path, _read_result, {"wait_s": wait_s or None}, wait_s=REPLY_WAIT_S + wait_s, repeatable=True
    )


def _get(path: str, **params: Any) -> Ask[Json]:
    return Ask("GET", path, read_object, _present(params), repeatable=True)


def _list(path: str, **params: Any) -> Ask[list[Json]]:
    return Ask("GET", path, read_array, _present(params), repeatable=True)


def _send(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    wait_s: float = REPLY_WAIT_S,
) -> Ask[Json]:
    content = None if body is None else _dump(body)
    headers = {} if body is None else {"content-type": "application/json"}
    return Ask(method, path, read_object, _present(params or {}), content, headers, wait_s)


def _lines(
    method: str,
    path: str,
    params: Mapping[str, Any] | None = None,
    *,
    content: bytes | None = None,
    wait_s: float | None,
) -> Lines[Json]:
    headers = {"accept": "application/x-ndjson"}
    if content is not None:
        headers["content-type"] = "application/json"
    ask = Ask(method, path, _read_nothing, _present(params or {}), content, headers, wait_s)
    return Lines(ask, read_line)


def _read_nothing(reply: httpx2.Response) -> None:
    """Lines have a reader of their own."""


def _read_id(reply: httpx2.Response) -> str:
    return str(read_object(reply)["id"])


def _read_result(reply: httpx2.Response) -> Prediction | None:
    return None if reply.status_code == 202 else read_prediction(reply)


def _present(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def _repository(project: str, model: str) -> str:
    return f"/v2/repository/models/{quote(f'{project}.{model}', safe='')}"


def _model(project: str, model: str) -> str:
    return f"/api/v1/projects/{quote(project, safe='')}/models/{quote(model, safe='')}"


def _version(project: str, model: str, version: str) -> str:
    return f"{_model(project, model)}/versions/{quote(version, safe='')}"
