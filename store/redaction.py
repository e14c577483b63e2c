"""Takes the values of named fields out of JSON before anybody keeps it. Owns no file.

A name without dots means the field of that name wherever it stands; `user.email` the field `email` directly
in a field `user`, lists between them left out of account. Case is not looked at. In the Open Inference
Protocol a tensor's name is that of its data. What is no JSON object or array cannot be redacted, and so is
not kept at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mdslite.store.rows import REDACTED_BYTES

REDACTED = "[redacted]"

_Path = tuple[str, ...]  # names from the outside to a field, folded


class Redactor:
    """For one list of names; used from any thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._wanted: dict[str, list[_Path]] = {}  # by their last name
        for name in names:
            path = tuple(name.casefold().split("."))
            self._wanted.setdefault(path[-1], []).append(path)
            self._wanted.setdefault(name.casefold(), []).append(())  # a name with a dot in it

    def redact(self, body: bytes, *, is_error: bool = False) -> bytes | None:
        """The body as JSON without what is named; None where it is no JSON or too long to be read.

        Of an error's reply the message goes too, which may quote what came: its `code` says enough.
        """
        if len(body) > REDACTED_BYTES or body.lstrip()[:1] not in (b"{", b"["):
            return None
        try:
            value = msgspec.json.decode(body)
            if is_error and isinstance(value, dict) and "error" in value:
                value["error"] = REDACTED
            self._clear(value)
            return msgspec.json.encode(value)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None

    def _clear(self, value: Any) -> None:
        pending: list[tuple[Any, _Path]] = [(value, ())]
        while pending:
            node, path = pending.pop()
            if isinstance(node, list):
                pending += [(one, path) for one in node if isinstance(one, dict | list)]
            elif isinstance(node, dict):
                self._clear_tensor(node, path)
                for name, inner in node.items():
                    here = (*path, name.casefold())
                    if self._is_named(here):
                        node[name] = REDACTED
                    elif isinstance(inner, dict | list):
                        pending.append((inner, here))

    def _clear_tensor(self, node: dict[str, Any], path: _Path) -> None:
        name = node.get("name")
        if "data" in node and isinstance(name, str) and self._is_named((*path, name.casefold())):
            node["data"] = REDACTED

    def _is_named(self, path: _Path) -> bool:
        wanted = self._wanted.get(path[-1])
        return wanted is not None and any(not one or path[-len(one) :] == one for one in wanted)


def redact_spans(spans: str) -> str | None:
    """A request's spans without what went wrong in them, which may quote what came."""
    try:
        found = msgspec.json.decode(spans)
    except (ValueError, RecursionError):
        return None
    pending: list[Any] = [found]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            if "error" in node:
                node["error"] = REDACTED
            pending.append(node.get("spans"))
    return msgspec.json.encode(found).decode()
