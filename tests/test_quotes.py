"""What callers wrote stands in messages, but no longer than a person would read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from applying import V1, post_apply
from box import Box, Caller

from mdslite.api.app import make_operations
from mdslite.api.operations import Operation
from mdslite.errors import QUOTED_CHARS, clip, quoted

pytestmark = pytest.mark.anyio

LONG = "a" * 14_000
MOST_BYTES = 700  # of a reply that quotes one thing
NAMES = {"project": "p", "model": "m", "version": "v1", "name": "p.m"}
OPERATIONS = [one for one in make_operations() if one.handler is not None]


def url_of(operation: Operation, **names: str) -> str:
    url = operation.url
    for name in operation.path.__struct_fields__:
        url = url.replace(f"{{{name}}}", quote({**NAMES, **names}.get(name, "1")))
    return url


def test_a_text_is_cut_and_its_control_characters_are_shown() -> None:
    assert clip("x" * QUOTED_CHARS) == "x" * QUOTED_CHARS
    assert clip("x" * QUOTED_CHARS + "y") == "x" * (QUOTED_CHARS - 1) + "…"
    assert quoted("it's\x1b") == repr("it's\x1b")
    assert len(quoted(LONG)) == QUOTED_CHARS + 2
    assert quoted(["x"]) == "['x']"
    assert len(quoted([LONG])) == QUOTED_CHARS


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
async def test_no_operation_repeats_a_long_url_or_header(caller: Caller, operation: Operation) -> None:
    caller.leaving.set()  # some answers have no end
    url = url_of(operation)
    urls = [f"{url}?{LONG}=1", *(f"{url}?{name}={LONG}" for name in operation.query.__struct_fields__)]
    urls += [url_of(operation, **{name: LONG}) for name in operation.path.__struct_fields__]
    for one in urls:
        heard = await caller.ask(operation.method, one, b"{}")
        assert heard.status >= 400
        assert len(heard.body) < MOST_BYTES, heard.body
        assert heard.status not in (400, 422) or "field" in heard.json, heard.body
    for name in ("host", "origin", "content-type", "content-encoding", "if-match"):
        heard = await caller.ask(operation.method, url, b"{}", headers={name: LONG})
        assert heard.status == 200 or len(heard.body) < MOST_BYTES, heard.body


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("GET", f"/{LONG}", b""),
        ("POST", f"/healthz/{LONG}", b""),
        ("PUT", f"/projects/{LONG}", b""),
        ("POST", f"/projects/{LONG}/models/m:predict", b""),
        ("POST", f"/v2/models/{LONG}/infer", b""),
        ("POST", "/projects/p/models/m:predict", {LONG: []}),
        ("POST", "/projects/p/models/m:predict", {"inputs": {LONG: [1]}}),
        ("POST", "/projects/p/models/m:predict", {"instances": [LONG]}),
        ("POST", "/projects/p/models/m:predict", {"instances": [{LONG: 1}]}),
        ("POST", "/v2/models/p.m/infer", {"inputs": [{"name": LONG, "datatype": LONG, "shape": [1]}]}),
        ("POST", "/v1/embeddings", {"model": LONG, "input": "x"}),
        ("POST", "/v1/embeddings", {"model": "p.m", "input": "x", LONG: 1}),
        ("POST", "/v1/embeddings", {"model": "p.m", "input": "x", "encoding_format": LONG}),
        ("POST", "/api/v1/plan", {"source": f"{LONG}: 1", "base": "/"}),
        ("POST", "/api/v1/plan", {"source": f"deployments: {LONG}", "base": "/"}),
        ("POST", "/api/v1/plan", {"source": "", "base": LONG}),
        ("PUT", "/api/v1/projects/p/models/m/weights", {LONG: 1}),
        ("PUT", "/api/v1/projects/p/models/m/versions/v1", {"spec": {"uri": LONG}}),
        ("PUT", "/api/v1/projects/p/models/m/versions/v1", {"spec": {"uri": "/x"}, "version": LONG}),
        ("POST", "/api/v1/tokens", {"name": LONG, "scopes": [LONG]}),
        ("POST", "/api/v1/backup", {"path": LONG}),
    ],
)
async def test_no_body_or_path_is_repeated_either(
    box: Box, caller: Caller, folder: Path, method: str, url: str, body: Any
) -> None:
    await post_apply(caller, folder, V1)
    heard = await caller.ask(method, url, body)
    assert 400 <= heard.status < 500
    assert len(heard.body) < MOST_BYTES, heard.body
