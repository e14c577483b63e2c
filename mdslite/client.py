"""The admin API's client: one method a route, JSON in and JSON out, every failure an `MdsliteError`.

It owns the connection and the translation of HTTP's and the network's failures. It knows nothing of
terminals; the command line and the dashboard both talk to the appliance through it and nothing else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from mdslite import errors
from mdslite.links import DEFAULT_URL, network_error, open_link

PAGE_MAX = 1000  # what the appliance hands out in one page

CONNECT_WAIT_S = 5.0
REPLY_WAIT_S = 30.0
PREDICT_WAIT_S = 600.0  # beyond any sensible prediction_time_ms: the appliance's own 504 comes first
LOAD_WAIT_S = 3600.0  # the longest silence while artifacts are fetched and models load

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction's reply: the body as it came, and what its headers said."""

    body: bytes
    version: str | None
    request_id: str | None
    server_timing: str | None


class Client:
    """A connection to one appliance. Close it, or use it in a `with` block.

    `url` may be `unix:` and a store's folder: its owner needs no token there. `ca_file` holds the
    certificates to trust, by default those of the system or of SSL_CERT_FILE; `cert_file` a certificate and
    its key to show.

    :raises InvalidRequest: when `url` is no http or https URL, or a file is none
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._open_files = contextlib.ExitStack()
        self._http = open_link(
            self.url, token=token, ca_file=ca_file, cert_file=cert_file, open_files=self._open_files
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()
        self._open_files.close()

    def status(self) -> Json:
        return self._get_object("/api/v1/status")

    def models(self, project: str | None = None) -> list[Json]:
        return self._get_array("/api/v1/models", {"project": project})

    def model(self, project: str, model: str, *, at: float | None = None) -> Json:
        """One model's versions now, or those that served at the unix time `at`."""
        moment = None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
        return self._get_object(_model_path(project, model), {"at": moment})

    def version(self, project: str, model: str, version: str) -> Json:
        return self._get_object(f"{_model_path(project, model)}/versions/{quote(version, safe='')}")

    def output(self, project: str, model: str, version: str) -> list[Json]:
        """What the package of a version printed: an object for each replica's process, ended ones first."""
        return self._get_array(f"{_model_path(project, model)}/versions/{quote(version, safe='')}/output", {})

    def revisions(self, *, limit: int | None = None, before: int | None = None) -> list[Json]:
        """Revisions, newest first; `before` continues after the last one of the page before."""
        return self._get_array("/api/v1/revisions", {"limit": limit, "before": before})

    def compare(
        self,
        project: str,
        model: str,
        first: str,
        second: str,
        *,
        since: str,
        until: str | None = None,
        limit: int = 20,
    ) -> Json:
        """Two versions beside each other: errors, latency, confidence, agreement; `since` such as `1h`."""
        params = {"first": first, "second": second, "since": since, "until": until, "limit": limit}
        return self._get_object(f"{_model_path(project, model)}/comparison", params)

    def rollout(self, project: str, model: str) -> Json:
        """The rollout that a model has, or had last."""
        return self._get_object(f"{_model_path(project, model)}/rollout")

    def begin_rollout(
        self,
        project: str,
        model: str,
        version: str,
        *,
        steps: Sequence[float],
        every_s: float,
        gates: Sequence[str] = (),
        reason: str = "",
    ) -> Json:
        """Step a version up, `steps` in percent, while its gates hold."""
        body = {"version": version, "steps": list(steps), "every_s": every_s, "gates": list(gates)}
        path = f"{_model_path(project, model)}/rollout"
        return self._post(path, {**body, "reason": reason}, wait_s=REPLY_WAIT_S)

    def change_rollout(self, project: str, model: str, action: str) -> Json:
        """`pause`, `resume`, `promote` or `abort` the rollout that a model has."""
        path = f"{_model_path(project, model)}/rollout/action"
        return self._post(path, {"action": action}, wait_s=REPLY_WAIT_S)

    def revision(self, number: int) -> Json:
        return self._get_object(f"/api/v1/revisions/{number}")

    def doctor(self) -> list[Json]:
        return self._get_array("/api/v1/doctor", wait_s=LOAD_WAIT_S)  # it reads every artifact

    def backup(self, path: str | None = None, *, log: bool = False) -> Json:
        return self._post("/api/v1/backup", {"path": path, "log": log}, wait_s=LOAD_WAIT_S)

    def plan(self, body: Mapping[str, Any]) -> Json:
        """What applying `body` (`source`, `file`, `base`, `prune`; or `revision`) would change."""
        return self._post("/api/v1/plan", body, wait_s=LOAD_WAIT_S)

    def apply(self, body: Mapping[str, Any]) -> Iterator[Json]:
        """Apply `body` and yield the events of its progress; the last one has `event` `result`.

        A failed apply is a `result` event with state `failed`, not an exception.

        :raises MdsliteError: when the apply was refused before it began
        """
        with self._stream("POST", "/api/v1/apply", body=body, wait_s=LOAD_WAIT_S) as events:
            yield from events

    def logs(self, filter: str = "", *, limit: int | None = None, before: int | None = None) -> Json:
        """One page of the request log, newest first: `rows`, and `next` to hand in as `before`."""
        return self._get_object("/api/v1/logs", {"filter": filter or None, "limit": limit, "before": before})

    @contextlib.contextmanager
    def follow_logs(self, filter: str = "") -> Iterator[Iterator[Json]]:
        """Rows of the request log that are written from now on, for as long as the block runs.

        They are collected from the moment the block is entered, so that a page asked for inside it and the
        rows that follow leave no gap; they may overlap, which the rows' `id` tells.
        """
        params = {"filter": filter or None, "follow": "true"}
        with self._stream("GET", "/api/v1/logs", params=params, wait_s=None) as rows:
            yield rows

    def needs_token(self) -> bool:
        return bool(self.status().get("needs_token"))

    def tokens(self) -> list[Json]:
        return self._get_array("/api/v1/tokens")

    def create_token(self, body: Mapping[str, Any]) -> Json:
        """Make a token of `scopes` and maybe `name`, `project`, `model`, `rate`, `expires`. The answer is the
        only place where the `token` itself ever stands."""
        return self._post("/api/v1/tokens", _present(body) or {}, wait_s=REPLY_WAIT_S)

    def revoke_token(self, which: str) -> Json:
        """End a token, by its id or its name."""
        return _object(self._send("DELETE", f"/api/v1/tokens/{quote(which, safe='')}"))

    def limits(self) -> list[Json]:
        return self._get_array("/api/v1/limits")

    def limit(self, project: str, model: str, rate: str | None) -> Json:
        """Limit how often a model may be asked, or, without a rate, stop doing so."""
        path = f"{_model_path(project, model)}/limit"
        if rate is None:
            return _object(self._send("DELETE", path))
        return _object(self._send("PUT", path, content=_dump({"rate": rate})))

    def audit(self, *, limit: int | None = None, before: int | None = None) -> list[Json]:
        """Who did what, newest first; `before` continues after the last line of the page before."""
        return self._get_array("/api/v1/audit", {"limit": limit, "before": before})

    def predict(self, project: str, model: str, body: bytes, *, version: str | None = None) -> Prediction:
        """Send a predict body, JSON as it stands."""
        path = predict_path(project, model, version)
        reply = self._send("POST", path, content=body, wait_s=PREDICT_WAIT_S)
        _require(reply)
        headers = reply.headers
        return Prediction(
            body=reply.content,
            version=headers.get("mdslite-version"),
            request_id=headers.get("mdslite-request-id"),
            server_timing=headers.get("server-timing"),
        )

    def _get_object(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        return _object(self._send("GET", path, params=params))

    def _get_array(
        self, path: str, params: Mapping[str, Any] | None = None, *, wait_s: float = REPLY_WAIT_S
    ) -> list[Json]:
        return _array(self._send("GET", path, params=params, wait_s=wait_s))

    def _post(self, path: str, body: Mapping[str, Any], *, wait_s: float) -> Json:
        return _object(self._send("POST", path, content=_dump(body), wait_s=wait_s))

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        wait_s: float = REPLY_WAIT_S,
    ) -> httpx2.Response:
        with self._translated():
            return self._http.request(
                method,
                path,
                params=_present(params),
                content=content,
                headers={"content-type": "application/json"} if content is not None else None,
                timeout=_timeout(wait_s),
            )

    @contextlib.contextmanager
    def _stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        wait_s: float | None,
    ) -> Iterator[Iterator[Json]]:
        headers = {"accept": "application/x-ndjson"}
        if body is not None:
            headers["content-type"] = "application/json"
        with (
            self._translated(),
            self._http.stream(
                method,
                path,
                params=_present(params),
                content=_dump(body) if body is not None else None,
                headers=headers,
                timeout=_timeout(wait_s),
            ) as reply,
        ):
            if reply.status_code >= 400:
                reply.read()
                _require(reply)
            yield (_event(line) for line in reply.iter_lines() if line.strip())

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.StreamError) as exc:
            raise network_error(exc, self.url) from exc


def predict_path(project: str, model: str, version: str | None = None) -> str:
    path = f"/projects/{quote(project, safe='')}/models/{quote(model, safe='')}"
    return f"{path}:predict" if version is None else f"{path}/versions/{quote(version, safe='')}:predict"


def error_from(reply: Mapping[str, Any], *, retry_after_s: float | None = None) -> errors.MdsliteError:
    """The exception that an error reply (`error`, `code`, details) stands for; unknown codes get the base."""
    message, hint = str(reply.get("error") or "the appliance gave no reason"), reply.get("hint")
    kind = _codes().get(str(reply.get("code")), errors.MdsliteError)
    if issubclass(kind, errors.SpecError):
        return _spec_error(message, reply)
    request_id = reply.get("request_id")
    if hint is None and request_id and issubclass(kind, errors.ModelError):
        hint = f"mdslite logs 'request_id={request_id}' --json"
    error = kind(message, hint=hint, retry_after_s=retry_after_s)
    if reply.get("line") is not None:
        error.place = _spec_error("", reply)
    return error


def _spec_error(message: str, reply: Mapping[str, Any]) -> errors.SpecError:
    file, line, column = reply.get("file", "deployments.yaml"), reply.get("line"), reply.get("column")
    place = f"{file}:{line}:{column or 1}: " if line is not None else f"{file}: "
    return errors.SpecError(
        message.removeprefix(place),  # SpecError writes the place itself
        file=str(file),
        line=line,
        column=column,
        excerpt=reply.get("excerpt"),
        hint=reply.get("hint"),
    )


def _codes() -> dict[str, type[errors.MdsliteError]]:
    found: dict[str, type[errors.MdsliteError]] = {}
    waiting: list[type[errors.MdsliteError]] = [errors.MdsliteError]
    while waiting:
        kind = waiting.pop()
        found[kind.code] = kind
        waiting.extend(kind.__subclasses__())
    return found


def _require(reply: httpx2.Response) -> None:
    if reply.status_code < 300:
        return
    try:
        body = json.loads(reply.content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or "error" not in body:
        raise _foreign(reply)
    if reply.status_code == 401 and "hint" not in body:
        body["hint"] = "export MDSLITE_TOKEN=TOKEN; or, as the owner of the store: --url unix:DIR"
    raise error_from(body, retry_after_s=_seconds(reply.headers.get("retry-after")))


def _json(reply: httpx2.Response) -> Any:
    _require(reply)
    try:
        return json.loads(reply.content)
    except ValueError as exc:
        raise _foreign(reply) from exc


def _object(reply: httpx2.Response) -> Json:
    value = _json(reply)
    if not isinstance(value, dict):
        raise _foreign(reply)
    return value


def _array(reply: httpx2.Response) -> list[Json]:
    value = _json(reply)
    if not isinstance(value, list):
        raise _foreign(reply)
    return value


def _foreign(reply: httpx2.Response) -> errors.Unavailable:
    kind = reply.headers.get("content-type", "no content type")
    return errors.Unavailable(
        f"{reply.url} does not answer like an appliance: HTTP {reply.status_code}, {kind}",
        hint="MDSLITE_URL and --url say where the appliance is",
    )


def _event(line: str) -> Json:
    try:
        value = json.loads(line)
    except ValueError as exc:
        raise errors.Unavailable(f"the appliance sent a line that is no JSON: {line[:80]!r}") from exc
    if not isinstance(value, dict):
        raise errors.Unavailable(f"the appliance sent a line that is no JSON object: {line[:80]!r}")
    return value


def _present(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {key: value for key, value in params.items() if value is not None} if params else None


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _timeout(wait_s: float | None) -> httpx2.Timeout:
    return httpx2.Timeout(wait_s, connect=CONNECT_WAIT_S)


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _model_path(project: str, model: str) -> str:
    return f"/api/v1/projects/{quote(project, safe='')}/models/{quote(model, safe='')}"
