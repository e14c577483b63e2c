"""What an appliance's replies mean: values, or the `MdsliteError` that an error reply stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2

from mdslite import errors

Json = dict[str, Any]

MARK = "mdslite-request-id"  # in each reply of an appliance, and in nobody else's
ELSEWHERE = "MDSLITE_URL or --url says where the appliance is; mdslite up --port 0 starts one on a free port"
_SHOWN_CHARS = 80  # of what a stranger says of itself


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
    error.field = reply.get("field")
    if reply.get("line") is not None:
        error.place = _spec_error("", reply)
    return error


def _spec_error(message: str, reply: Mapping[str, Any]) -> errors.SpecError:
    file, line, column = reply.get("file", "deployments.yaml"), reply.get("line"), reply.get("column")
    place = f"{file}:{line}:{column or 1}: " if line is not None else f"{file}: "
    field = reply.get("field")
    return errors.SpecError(
        message.removeprefix(place).removeprefix(f"{field}: "),  # SpecError writes the place itself
        file=str(file),
        line=line,
        column=column,
        excerpt=reply.get("excerpt"),
        field=field,
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


def require(reply: httpx2.Response) -> None:
    """:raises MdsliteError: what an error reply says, or that no appliance has answered"""
    if MARK not in reply.headers:
        raise _stranger(reply)
    if reply.status_code < 300:
        return
    try:
        body = json.loads(reply.content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or "error" not in body:
        raise _odd(reply)
    if reply.status_code == 401 and "hint" not in body:
        body["hint"] = "export MDSLITE_TOKEN=TOKEN; or, as the owner of the store: --url unix:DIR"
    raise error_from(body, retry_after_s=_seconds(reply.headers.get("retry-after")))


def read_json(reply: httpx2.Response) -> Any:
    require(reply)
    try:
        return json.loads(reply.content)
    except ValueError as exc:
        raise _odd(reply) from exc


def read_object(reply: httpx2.Response) -> Json:
    value = read_json(reply)
    if not isinstance(value, dict):
        raise _odd(reply)
    return value


def read_array(reply: httpx2.Response) -> list[Json]:
    value = read_json(reply)
    if not isinstance(value, list):
        raise _odd(reply)
    return value


def read_events(reply: httpx2.Response) -> list[Any]:
    """The items of an answer that came in pieces, as server-sent events.

    :raises MdsliteError: what ended it before its last item
    """
    items = []
    for event in reply.content.split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
        if b"data" not in fields:
            continue
        try:
            found = json.loads(fields[b"data"])
        except ValueError as exc:
            raise _odd(reply) from exc
        if fields.get(b"event") == b"error":
            raise error_from(found)
        items.append(found)
    return items


def _odd(reply: httpx2.Response) -> errors.Unavailable:
    """An appliance's reply that none of this version would give."""
    kind = reply.headers.get("content-type", "no content type")
    return errors.Unavailable(
        f"{reply.url} does not answer like an appliance: HTTP {reply.status_code}, {kind}",
        hint="is it of the version of this client? mdslite --version",
    )


def _stranger(reply: httpx2.Response) -> errors.Unavailable:
    """What answered where an appliance was expected, as far as it tells."""
    told = [f"HTTP {reply.status_code}", reply.headers.get("content-type") or "no content type"]
    told += [f"{name} {reply.headers[name]}" for name in ("server", "location") if reply.headers.get(name)]
    shown = ", ".join(one if len(one) <= _SHOWN_CHARS else f"{one[: _SHOWN_CHARS - 1]}…" for one in told)
    place = reply.url.copy_with(raw_path=b"/")
    return errors.Unavailable(
        f"what answers at {str(place).rstrip('/')} is no mdslite appliance: {shown}", hint=ELSEWHERE
    )


def read_line(line: str) -> Json:
    try:
        value = json.loads(line)
    except ValueError as exc:
        raise errors.Unavailable(f"the appliance sent a line that is no JSON: {errors.quoted(line)}") from exc
    if not isinstance(value, dict):
        raise errors.Unavailable(f"the appliance sent a line that is no JSON object: {errors.quoted(line)}")
    return value


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
