"""The `/docs` page: the OpenAPI document as one HTML file that loads nothing else and needs no script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0072b2; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .6rem .8rem; overflow-x: auto; border-radius: 6px; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; }
summary b { display: inline-block; min-width: 3.2rem; color: var(--accent); }
summary span { opacity: .75; }
table { border-collapse: collapse; width: 100%; }
td { vertical-align: top; padding: .2rem .8rem .2rem 0; border-top: 1px solid var(--line); }
h4 { margin: .8rem 0 .2rem; }
"""


def make_page(document: Json) -> bytes:
    """Render an OpenAPI document."""
    return "\n".join(_lines(document)).encode()


def _lines(document: Json) -> Iterator[str]:
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{title}</h1><p>{escape(info['summary'])}. "
    yield 'For programs: <a href="/openapi.json">openapi.json</a>. Every error is '
    yield "<code>{&quot;error&quot;, &quot;code&quot;, &quot;request_id&quot;}</code>, and every reply names "
    yield "its request in <code>mdslite-request-id</code>.</p>"
    operations = [
        (url, method, operation)
        for url, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['description'])}</h2>"
        for url, method, operation in operations:
            if tag["name"] in operation["tags"]:
                yield from _operation(url, method, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        yield from _fields(schema)
        yield "</details>"
    yield "</body></html>"


def _operation(url: str, method: str, operation: Json) -> Iterator[str]:
    yield f"<details><summary><b>{method.upper()}</b> <code>{escape(url)}</code> "
    yield f"<span>{escape(operation['summary'])}</span></summary>"
    if operation["parameters"]:
        yield "<h4>Parameters</h4><table>"
        for one in operation["parameters"]:
            yield _row(one["name"], one["schema"], one.get("description", ""), required=one["required"])
        yield "</table>"
    if "requestBody" in operation:
        yield f"<h4>Body</h4><table>{''.join(_contents(operation['requestBody']['content']))}</table>"
    yield "<h4>Replies</h4><table>"
    for status, reply in operation["responses"].items():
        contents = "".join(_contents(reply.get("content", {})))
        yield f"<tr><td><code>{status}</code> {escape(reply['description'])}</td>"
        yield f"<td><table>{contents}</table></td></tr>"
    yield "</table></details>"


def _contents(content: Json) -> Iterator[str]:
    for media_type, one in content.items():
        kind = _kind(one.get("schema", {"type": "bytes"}))
        yield f"<tr><td><code>{escape(media_type)}</code></td><td>{kind}</td></tr>"


def _fields(schema: Json) -> Iterator[str]:
    if "description" in schema:
        yield f"<p>{escape(schema['description'])}</p>"
    properties = schema.get("properties")
    if not properties:
        yield f"<pre>{escape(json.dumps(schema, indent=2))}</pre>"
        return
    yield "<table>"
    for name, field in properties.items():
        required = name in schema.get("required", ())
        yield _row(name, field, field.get("description", ""), required=required)
    yield "</table>"


def _row(name: str, schema: Json, description: str, *, required: bool) -> str:
    notes = [escape(description)] if description else []
    if "default" in schema:
        notes.append(f"default <code>{escape(json.dumps(schema['default']))}</code>")
    elif not required:
        notes.append("optional")
    return f"<tr><td><code>{escape(name)}</code></td><td>{_kind(schema)}</td><td>{', '.join(notes)}</td></tr>"


def _kind(schema: Json) -> str:
    """A schema in a word or two, with links to the named ones."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_kind(one) for one in schema[key])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(one))}</code>" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any")))
