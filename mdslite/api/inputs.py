"""What a logged request asks about: the one instance in its body, as JSON has it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from mdslite.errors import MdsliteError
from mdslite.npy import read_npy
from mdslite.store.requests import LoggedBody

_NPY_MAGIC = b"\x93NUMPY"


def content_of(body: LoggedBody) -> bytes:
    """The kept bytes."""
    return base64.b64decode(body.content) if body.encoding == "base64" else body.content.encode()


def is_npy(content: bytes) -> bool:
    return content.startswith(_NPY_MAGIC)


def read_input(body: LoggedBody) -> Any:
    """The instance of a request of one row; the text itself where it is no JSON, None of bytes."""
    content = content_of(body)
    if is_npy(content):
        try:
            values = read_npy(content)
        except MdsliteError:
            return None
        return (values[0] if len(values) == 1 else values).tolist() if values.ndim else values.item()
    if body.encoding == "base64":
        return None
    try:
        return _instance(json.loads(content))
    except (ValueError, RecursionError):
        return body.content


def _instance(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    instances, inputs = value.get("instances"), value.get("inputs")
    if isinstance(instances, list) and len(instances) == 1:
        return instances[0]
    if isinstance(inputs, Mapping):
        return _only({name: _row(column) for name, column in inputs.items()})
    if isinstance(inputs, list) and inputs and all(isinstance(one, Mapping) for one in inputs):
        return _only({str(one.get("name")): one.get("data") for one in inputs})
    return _row(inputs) if isinstance(inputs, list) and set(value) == {"inputs"} else value


def _only(values: dict[str, Any]) -> Any:
    return next(iter(values.values())) if len(values) == 1 else values


def _row(column: Any) -> Any:
    return column[0] if isinstance(column, list) and len(column) == 1 else column
