"""Data of a prediction to bytes and back: arrays in the fastest form that holds them, all else as JSON.

one array               its bytes, with dtype and shape in the header
arrays by input         the Open Inference Protocol with binary tensors, both ways
bytes                   a JSON body as it stands
a list of instances     JSON
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2

from mdslite import errors
from mdslite.replies import read_events, read_json, require

if TYPE_CHECKING:
    import numpy as np

OCTETS = "application/octet-stream"
_HEAD = "inference-header-content-length"
_LENGTH = struct.Struct("<I")
# The protocol's names by NumPy's, both of little-endian numbers.
_DATATYPES = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "float16": "FP16", "float32": "FP32",
    "float64": "FP64",
}  # fmt: skip
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction: its body as it came, what its headers said, and the value.

    The value is an array where one output was asked for by its name, arrays by output where arrays came by
    input, and else what the JSON body holds: `predictions`, or for one array `outputs`, lists by name; of a
    model that streams, the list of its items.
    """

    body: bytes
    version: str | None
    request_id: str | None
    server_timing: str | None
    value: Any


@dataclass(frozen=True, slots=True)
class Payload:
    """A predict request: where to, what of, and how its reply is to be read."""

    path: str
    content: bytes
    headers: Mapping[str, str]


def make_payload(project: str, model: str, data: Any, *, version: str | None, output: str | None) -> Payload:
    """:raises InvalidRequest: the data fit no form"""
    if isinstance(data, bytes):
        return Payload(predict_path(project, model, version), data, {"content-type": "application/json"})
    if _is_array(data):
        return _one_array(predict_path(project, model, version), data, output)
    if isinstance(data, Mapping) and data and all(_is_array(one) for one in data.values()):
        name = quote(f"{project}.{model}", safe="")
        path = (
            f"/v2/models/{name}"
            if version is None
            else f"/v2/models/{name}/versions/{quote(version, safe='')}"
        )
        return _named_arrays(f"{path}/infer", data, output)
    if output is not None:
        raise errors.InvalidRequest("output goes with arrays: of a JSON reply, take what you need")
    whole = isinstance(data, Mapping) and len(data) == 1 and next(iter(data)) in ("instances", "inputs")
    if not whole and not isinstance(data, list | tuple):
        raise errors.InvalidRequest(
            f"expected a list of instances, an array, or arrays by input; got {type(data).__name__}",
            hint="one instance goes into a list of one",
        )
    try:
        content = json.dumps(data if whole else {"instances": data}).encode()
    except (TypeError, ValueError) as exc:
        raise errors.InvalidRequest(f"the instances cannot be written as JSON: {exc}") from exc
    return Payload(predict_path(project, model, version), content, {"content-type": "application/json"})


def read_prediction(reply: httpx2.Response) -> Prediction:
    """:raises MdsliteError: what an error reply says"""
    require(reply)
    headers = reply.headers
    return Prediction(
        body=reply.content,
        version=headers.get("mdslite-version"),
        request_id=headers.get("mdslite-request-id"),
        server_timing=headers.get("server-timing"),
        value=_value(reply),
    )


def predict_path(project: str, model: str, version: str | None = None) -> str:
    path = f"/projects/{quote(project, safe='')}/models/{quote(model, safe='')}"
    return f"{path}:predict" if version is None else f"{path}/versions/{quote(version, safe='')}:predict"


def _one_array(path: str, array: np.ndarray[Any, Any], output: str | None) -> Payload:
    dtype, content = _pack(array)
    headers = {
        "content-type": OCTETS,
        "mdslite-dtype": dtype,
        "mdslite-shape": ",".join(map(str, array.shape)),
    }
    if output is not None:
        headers |= {"accept": OCTETS, "mdslite-output": output}
    return Payload(path, content, headers)


def _named_arrays(path: str, arrays: Mapping[str, np.ndarray[Any, Any]], output: str | None) -> Payload:
    inputs, parts = [], []
    for name, array in arrays.items():
        if array.dtype.kind in "SUO":
            texts = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel().tolist()]
            datatype, content = "BYTES", b"".join(_LENGTH.pack(len(one)) + one for one in texts)
        else:
            dtype, content = _pack(array)
            datatype = _DATATYPES[dtype]
        parameters = {"binary_data_size": len(content)}
        inputs.append(
            {"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": parameters}
        )
        parts.append(content)
    request: dict[str, Any] = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    if output is not None:
        request["outputs"] = [{"name": output, "parameters": {"binary_data": True}}]
    head = json.dumps(request).encode()
    headers = {"content-type": OCTETS, _HEAD: str(len(head))}
    return Payload(path, b"".join((head, *parts)), headers)


def _pack(array: np.ndarray[Any, Any]) -> tuple[str, bytes]:
    dtype = array.dtype
    if dtype.name not in _DATATYPES:
        raise errors.InvalidRequest(
            f"arrays of {dtype} are not sent as bytes: expected numbers or booleans",
            hint="strings go by the name of their input: {'text': array}; or as a list",
        )
    return dtype.name, array.astype(dtype.newbyteorder("<"), copy=False).tobytes()


def _value(reply: httpx2.Response) -> Any:
    kind = reply.headers.get("content-type", "").partition(";")[0]
    if _HEAD in reply.headers:
        return _read_tensors(reply.content, int(reply.headers[_HEAD]))
    if kind == OCTETS and "mdslite-dtype" in reply.headers:
        return _unpack(reply.content, reply.headers["mdslite-dtype"], _shape(reply.headers["mdslite-shape"]))
    if kind == "text/event-stream":
        return read_events(reply)
    if kind != "application/json":
        return reply.content
    found = read_json(reply)
    if isinstance(found, dict):
        if "model_name" in found and isinstance(found.get("outputs"), list):
            return _read_tensors(reply.content, len(reply.content))
        return found.get("predictions", found.get("outputs", found))
    return found


def _read_tensors(body: bytes, head_bytes: int) -> dict[str, Any]:
    import numpy as np

    found: dict[str, Any] = {}
    at = head_bytes
    for one in json.loads(body[:head_bytes])["outputs"]:
        size = (one.get("parameters") or {}).get("binary_data_size")
        name, shape, datatype = one["name"], tuple(one["shape"]), one["datatype"]
        if size is None:
            found[name] = np.array(one["data"], dtype=_DTYPES.get(datatype, object)).reshape(shape)
            continue
        part, at = body[at : at + size], at + size
        if datatype == "BYTES":
            found[name] = np.array(_strings(part), dtype=object).reshape(shape)
        else:
            found[name] = _unpack(part, _DTYPES.get(datatype, datatype), shape)
    return found


def _unpack(content: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    import numpy as np

    if dtype in ("bfloat16", "BF16"):  # the upper half of a float32
        halves = np.frombuffer(content, np.dtype("<u2")).astype(np.uint32)
        return (halves << 16).view(np.float32).reshape(shape)
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _strings(content: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        found.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


def _is_array(value: Any) -> bool:
    """An array, without importing NumPy for whoever has none."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)
