"""A logged request as the curl line that sends it again. What is copied may be pasted into a shell, so that
whatever a stranger wrote is quoted, and nothing in it is a control character.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from mdslite.hosts import curl_address

_TOKEN: Final = '-H "authorization: Bearer $MDSLITE_TOKEN"'


def curl_line(row: Mapping[str, Any], server: str, *, token: bool = False) -> str:
    """What to type to send the request of a row to `server`, with a note where the log kept only a part."""
    body = row.get("request")
    options, address = curl_address(server)
    url = address + quote(str(row.get("url") or ""), safe="/:?&=%@,;+~!$'()*-._")
    words = ["curl", "-sg", *map(shlex.quote, options), shlex.quote(url)]
    if token and not options:  # the store's owner needs none
        words.append(_TOKEN)
    if body is None:
        words += ["-H", "'content-type: application/json'", "-d", "@body.json"]
        return f"{' '.join(words)}  # the log kept no body of this request: put one into body.json"
    content = str(body.get("content", ""))
    note = ""
    if body.get("truncated"):
        note = f"  # the log kept only the first part of {body.get('size_bytes', 0)} bytes"
    if body.get("encoding") == "base64" or not _is_plain(content):
        held = content if body.get("encoding") == "base64" else base64.b64encode(content.encode()).decode()
        words += ["-H", shlex.quote(f"content-type: {_kind(row, content)}"), "--data-binary", "@-"]
        return f"printf %s {shlex.quote(held)} | base64 -d | {' '.join(words)}{note}"
    words += ["-H", shlex.quote(f"content-type: {_kind(row, content)}"), "--data-raw", shlex.quote(content)]
    return " ".join(words) + note


def _is_plain(text: str) -> bool:
    return all(char.isprintable() for char in text)


def _kind(row: Mapping[str, Any], content: str) -> str:
    body = row["request"]
    if body.get("encoding") == "base64":
        is_array = base64.b64decode(content[:12]).startswith(b"\x93NUMPY")
        return "application/x-npy" if is_array else "application/octet-stream"
    try:
        json.loads(content)
    except ValueError:
        return "application/json" if content[:1] in "{[" else "text/plain"
    return "application/json"
