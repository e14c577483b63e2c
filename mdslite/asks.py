"""One request to an appliance as a value, how its reply is read, and how such values are made. Knows no call
of the API: those are in `calls` and the modules beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2

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


def get(path: str, **params: Any) -> Ask[Json]:
    return Ask("GET", path, read_object, present(params), repeatable=True)


def get_list(path: str, **params: Any) -> Ask[list[Json]]:
    return Ask("GET", path, read_array, present(params), repeatable=True)


def send(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    wait_s: float = REPLY_WAIT_S,
    repeatable: bool = False,
) -> Ask[Json]:
    content = None if body is None else dump(body)
    headers = {} if body is None else {"content-type": "application/json"}
    return Ask(method, path, read_object, present(params or {}), content, headers, wait_s, repeatable)


def get_lines(
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
    ask = Ask(method, path, read_nothing, present(params or {}), content, headers, wait_s)
    return Lines(ask, read_line)


def read_nothing(reply: httpx2.Response) -> None:
    """Lines have a reader of their own."""


def present(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def model_url(project: str, model: str) -> str:
    return f"/api/v1/projects/{quote(project, safe='')}/models/{quote(model, safe='')}"


def version_url(project: str, model: str, version: str) -> str:
    return f"{model_url(project, model)}/versions/{quote(version, safe='')}"
