"""What can be asked of an appliance: one function a call, each of which describes the request and how its
reply is read. Sends nothing: `client` does, in the one way or the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx2

from mdslite.asks import (
    EVENTS_WAIT_S,
    LOAD_WAIT_S,
    PREDICT_WAIT_S,
    REPLY_WAIT_S,
    Ask,
    Lines,
    dump,
    get,
    get_lines,
    get_list,
    model_url,
    present,
    read_nothing,
    send,
    version_url,
)
from mdslite.payloads import Prediction, make_payload, read_prediction
from mdslite.replies import Json, read_array, read_object


def status() -> Ask[Json]:
    """The appliance: version, uptime, revision in force, devices."""
    return get("/api/v1/status")


def models(project: str | None = None, *, at: float | None = None) -> Ask[list[Json]]:
    """Every model and its versions, with the traffic of the last minute; or those that were deployed at the
    unix time `at`."""
    return get_list("/api/v1/models", project=project, at=_iso(at))


def model(project: str, model: str, *, at: float | None = None) -> Ask[Json]:
    """One model's versions now, or those that served at the unix time `at`."""
    return get(model_url(project, model), at=_iso(at))


def version(project: str, model: str, version: str) -> Ask[Json]:
    """One version as it serves, with its `spec`."""
    return get(version_url(project, model, version))


def put_version(
    project: str, model: str, version: str, spec: Mapping[str, Any], *, reason: str | None = None
) -> Ask[Json]:
    """Add or change one version beside the others; `spec` as in a file, with an absolute uri."""
    return send(
        "PUT", version_url(project, model, version), {"spec": spec}, {"reason": reason}, wait_s=LOAD_WAIT_S
    )


def delete_version(project: str, model: str, version: str, *, reason: str | None = None) -> Ask[Json]:
    """Delete one version; with its last one the model is gone."""
    return send("DELETE", version_url(project, model, version), params={"reason": reason}, wait_s=LOAD_WAIT_S)


def put_weights(
    project: str, model: str, weights: Mapping[str, float], *, reason: str | None = None
) -> Ask[Json]:
    """Give versions other weights; those that are not named keep theirs."""
    return send("PUT", f"{model_url(project, model)}/weights", weights, {"reason": reason})


def output(project: str, model: str, version: str) -> Ask[list[Json]]:
    """What the package of a version printed: an object for each replica's process, ended ones first."""
    return get_list(f"{version_url(project, model, version)}/output")


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
    return get(
        f"{model_url(project, model)}/comparison",
        first=first,
        second=second,
        since=since,
        until=until,
        limit=limit,
    )


def rollout(project: str, model: str) -> Ask[Json]:
    """The rollout that a model has, or had last."""
    return get(f"{model_url(project, model)}/rollout")


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
    who = present({"author": author, "ungated": ungated or None})
    return send("POST", f"{model_url(project, model)}/rollout", {**body, **who, "reason": reason})


def change_rollout(project: str, model: str, action: str, *, author: str | None = None) -> Ask[Json]:
    """`pause`, `resume`, `promote` or `abort` the rollout that a model has."""
    body = present({"action": action, "author": author})
    return send("POST", f"{model_url(project, model)}/rollout/action", body)


def rollouts(*, limit: int | None = None) -> Ask[list[Json]]:
    """All rollouts, those that have ended too, the newest first."""
    return get_list("/api/v1/rollouts", limit=limit)


def load(project: str, model: str) -> Ask[Json]:
    """Load the versions of a deployed model that are not in memory."""
    return send("POST", f"{_repository(project, model)}/load", {}, wait_s=LOAD_WAIT_S)


def unload(project: str, model: str) -> Ask[Json]:
    """Take a model's versions out of memory, until they are loaded again."""
    return send("POST", f"{_repository(project, model)}/unload", {}, wait_s=LOAD_WAIT_S)


def devices_history(*, since: float | None = None, until: float | None = None) -> Ask[Json]:
    """What the devices and the queues were at: by the second for an hour, by the minute for a day."""
    return get("/api/v1/devices/history", since=since, until=until)


def events(last: str | None = None) -> Lines[str]:
    """The lines of the stream of events (server-sent events), going on after the event with the id `last`."""
    headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
    ask = Ask("GET", "/api/v1/events", read_nothing, headers=headers, wait_s=EVENTS_WAIT_S, repeatable=True)
    return Lines(ask, str)


def revisions(*, limit: int | None = None, before: int | None = None) -> Ask[list[Json]]:
    """Revisions, newest first; `before` continues after the last one of the page before."""
    return get_list("/api/v1/revisions", limit=limit, before=before)


def revision(number: int) -> Ask[Json]:
    """One revision: its diff, the text that was applied, and what was deployed after it."""
    return get(f"/api/v1/revisions/{number}")


def doctor() -> Ask[list[Json]]:
    """What is wrong with the machine and the store."""
    # It reads every artifact.
    return Ask("GET", "/api/v1/doctor", read_array, wait_s=LOAD_WAIT_S, repeatable=True)


def backup(path: str | None = None, *, log: bool = False) -> Ask[Json]:
    """Copy the store into one file of the appliance's machine while it serves."""
    return send("POST", "/api/v1/backup", {"path": path, "log": log}, wait_s=LOAD_WAIT_S)


def plan(body: Mapping[str, Any]) -> Ask[Json]:
    """What applying `body` (`source`, `file`, `base`, `prune`; or `revision`) would change."""
    return send("POST", "/api/v1/plan", body, wait_s=LOAD_WAIT_S)


def follow_plan(body: Mapping[str, Any]) -> Lines[Json]:
    """The same, and how far it is: yields events while artifacts are fetched; the last one has `event` `plan`
    and is the plan, or `event` `result` and says why there is none."""
    return get_lines("POST", "/api/v1/plan", content=dump(body), wait_s=LOAD_WAIT_S)


def apply(body: Mapping[str, Any]) -> Lines[Json]:
    """Apply `body` and yield the events of its progress; the last one has `event` `result`.

    A failed apply is a `result` event with state `failed`, not an exception.

    :raises MdsliteError: when the apply was refused before it began
    """
    return get_lines("POST", "/api/v1/apply", content=dump(body), wait_s=LOAD_WAIT_S)


def undo(revision: int | None = None, *, reason: str | None = None) -> Lines[Json]:
    """Go back to the state after a revision, by default the one before the latest; events as of `apply`."""
    wanted = "previous" if revision is None else revision
    return apply({"revision": wanted, **({"reason": reason} if reason else {})})


def tokens() -> Ask[list[Json]]:
    """Every token that is known, all but itself."""
    return get_list("/api/v1/tokens")


def create_token(body: Mapping[str, Any]) -> Ask[Json]:
    """Make a token of `scopes` and maybe `name`, `project`, `model`, `rate`, `expires`. The answer is the
    only place where the `token` itself ever stands."""
    return send("POST", "/api/v1/tokens", present(body))


def revoke_token(which: str) -> Ask[Json]:
    """End a token, by its id or its name."""
    return send("DELETE", f"/api/v1/tokens/{quote(which, safe='')}")


def limits() -> Ask[list[Json]]:
    """How often models may be asked."""
    return get_list("/api/v1/limits")


def limit(project: str, model: str, rate: str | None) -> Ask[Json]:
    """Limit how often a model may be asked, or, without a rate, stop doing so."""
    path = f"{model_url(project, model)}/limit"
    return send("DELETE", path) if rate is None else send("PUT", path, {"rate": rate})


def audit(*, limit: int | None = None, before: int | None = None) -> Ask[list[Json]]:
    """Who did what, newest first; `before` continues after the last line of the page before."""
    return get_list("/api/v1/audit", limit=limit, before=before)


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


def _read_id(reply: httpx2.Response) -> str:
    return str(read_object(reply)["id"])


def _read_result(reply: httpx2.Response) -> Prediction | None:
    return None if reply.status_code == 202 else read_prediction(reply)


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def _repository(project: str, model: str) -> str:
    return f"/v2/repository/models/{quote(f'{project}.{model}', safe='')}"
