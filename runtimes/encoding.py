"""An answer of user code to JSON: whatever NumPy, the standard library or a tensor library makes of one.

Not a number and infinities become null. Bytes become a string where they are UTF-8, else `{"b64": ...}`.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from mdslite.errors import ModelError

DEPTH_MOST = 200
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_EXPECTED = "expected dicts, lists, strings, numbers, booleans, None, bytes or arrays"


def encode(value: object) -> bytes:
    """The JSON text of an answer.

    :raises ModelError: it holds something that JSON has no word for, named with its place
    """
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError:
        plain = _plain(value, "", 0)
    try:
        return orjson.dumps(plain)
    except TypeError:  # integers of more than 64 bits
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Any, place: str, depth: int) -> Any:
    """Rebuild an answer out of what JSON knows."""
    if depth > DEPTH_MOST:
        raise ModelError(f"the answer is nested more than {DEPTH_MOST} deep, or holds itself")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON has no lone surrogates
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray):
        return _plain_bytes(bytes(value))
    if isinstance(value, Mapping):
        return {_key(key, place): _plain(one, f"{place}.{key}", depth + 1) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict(), place, depth)
    if isinstance(value, list | tuple):
        return [_plain(one, f"{place}[{index}]", depth + 1) for index, one in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _plain(fields, place, depth)
    return _plain_foreign(value, place, depth)


def _plain_foreign(value: Any, place: str, depth: int) -> Any:
    """Arrays, tensors and the scalars among them; dates, UUIDs and enums, which orjson knows."""
    if isinstance(value, np.ndarray | np.generic) or callable(getattr(value, "tolist", None)):
        return _plain_array(value, place, depth)
    if callable(getattr(value, "numpy", None)):  # TensorFlow's
        return _plain_array(np.asarray(value.numpy()), place, depth)
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError:
        where = f" at {place.lstrip('.')}" if place else ""
        raise ModelError(
            f"the answer holds a {type(value).__name__}{where}, which is no JSON; {_EXPECTED}"
        ) from None


def _plain_array(value: Any, place: str, depth: int) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "mM":
        return value.astype(str).tolist()
    plain = value.tolist()
    if type(plain) is type(value):
        raise ModelError(f"the answer holds a {type(value).__name__} at {place.lstrip('.') or 'its top'}")
    return _plain(plain, place, depth)


def _plain_bytes(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _key(key: Any, place: str) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, np.generic):
        key = key.item()
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    if isinstance(key, bytes) and isinstance(text := _plain_bytes(key), str):
        return text
    where = f" at {place.lstrip('.')}" if place else ""
    raise ModelError(f"the answer has a {type(key).__name__} as a key{where}; expected strings as keys")
