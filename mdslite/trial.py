"""One request to a package that is being tried, and whether the answer has the shape that it asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from mdslite.errors import ModelError

HOST = "127.0.0.1"
PATH = "/predict"
SAMPLE = "sample.json"
JSON = "application/json"
EXAMPLE = b'{"instances": ["example"]}'  # for who has no sample
MADE_UP = f"made up, for want of a {SAMPLE}"


@dataclass(frozen=True, slots=True)
class Body:
    """A request to send, and where it came from."""

    data: bytes
    content_type: str = JSON
    source: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply as it came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def timing(self) -> str:
        """What it says of where its time went, such as `queue 0.1 ms, compute 2.0 ms`."""
        parts = (part.strip().split(";dur=") for part in self.headers.get("server-timing", "").split(","))
        found = {name: float(value) for name, value in (part for part in parts if len(part) == 2)}
        return ", ".join(f"{name} {value:.1f} ms" for name, value in found.items())


def post(port: int, body: Body, *, timeout_s: float) -> Answer:
    """Send a request, and wait for all of its answer. Blocks.

    :raises ModelError: there was none
    """
    connection = HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("POST", PATH, body.data, {"content-type": body.content_type})
        reply = connection.getresponse()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        return Answer(reply.status, headers, reply.read())
    except (OSError, HTTPException) as exc:
        raise ModelError(f"POST {PATH} got no answer: {exc}") from exc
    finally:
        connection.close()


def check_answer(answer: Answer, body: Body, *, hint: str | None = None) -> str:
    """See to it that an answer has the shape that its request asks for; what it holds, in words.

    :raises ModelError: it is an error, or something else than was asked for
    """
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return _check_events(answer.body)
    found = _parse(answer.body)
    if answer.status != 200:
        said = found.get("error", "") if isinstance(found, dict) else ""
        raise ModelError(
            f"POST {PATH} answered {answer.status}: {said}",
            hint=hint if answer.status in (400, 500) else None,
        )
    instances = _instances(body)
    if instances is None:
        return f"one {type(found).__name__}"
    predictions = found.get("predictions") if isinstance(found, dict) else None
    if not isinstance(predictions, list) or len(predictions) != len(instances):
        raise ModelError(f"POST {PATH} answered no list of {len(instances)} predictions")
    return f"{len(predictions)} prediction{'s' if len(predictions) != 1 else ''}"


def fill_batch(body: Body, rows: int) -> Body | None:
    """A request with the same instances again and again, up to so many; None where that is no more."""
    instances = _instances(body)
    if not instances or rows <= len(instances):
        return None
    data = json.dumps({"instances": [instances[row % len(instances)] for row in range(rows)]})
    return Body(data.encode())


def find_sample(path: Path) -> Body | None:
    """The `sample.json` in a package's folder, or beside it."""
    folder = path if path.is_dir() else path.parent
    for file in (folder / SAMPLE, folder.parent / SAMPLE):
        try:
            return Body(file.read_bytes(), source=os.path.relpath(file))
        except OSError:
            continue
    return None


def _instances(body: Body) -> list[Any] | None:
    if body.content_type != JSON:
        return None
    found = _parse(body.data)
    instances = found.get("instances") if isinstance(found, dict) else None
    return instances if isinstance(instances, list) else None


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _check_events(text: bytes) -> str:
    """Count a stream's items.

    :raises ModelError: it ended with an error
    """
    events = [block for block in text.decode().split("\n\n") if block]
    for event in events:
        if event.startswith("event: error"):
            found = _parse(event.partition("data: ")[2].encode())
            raise ModelError(f"the stream broke off: {found['error'] if isinstance(found, dict) else event}")
    return f"a stream of {len(events)} items"
