"""Infer requests as texts and binary tensors, and what their replies hold."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
from alike import Asked, ask_http1, ask_http2
from doors import Site
from h1_client import Reply

INFER = "/v2/models/p.m/infer"
HEAD = "inference-header-content-length"
OCTETS = ("content-type", "application/octet-stream")
X = np.array([[1, 2, 3]], np.float32)


def infer(
    message: Any,
    *headers: tuple[str, str],
    raw: bytes = b"",
    target: str = INFER,
    head: Any = None,
    **more: Any,
) -> Asked:
    """An infer request, with `raw` after its JSON; `head` is what the header says of the JSON's length."""
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    says = [(HEAD, str(len(text) if head is None else head))] if raw or head is not None else []
    return Asked("POST", target, text + raw, (*says, *headers), **more)


def binary(array: Any, name: str = "x", datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": array.nbytes}
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": parameters}
    return {"inputs": [tensor], "parameters": {"binary_data_output": True}, **more}


def flat(array: Any, name: str = "x", datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
    return {"inputs": [tensor], **more}


def first(reply: Reply) -> Any:
    """The first output of a reply, as an array."""
    body = reply.body
    match reply.headers.get("content-encoding"):
        case "gzip":
            body = gzip.decompress(body)
        case "deflate":
            body = zlib.decompress(body)
    head_bytes = int(reply.headers.get(HEAD, len(body)))
    output = json.loads(body[:head_bytes])["outputs"][0]
    data = np.frombuffer(body[head_bytes:], np.float32) if HEAD in reply.headers else output["data"]
    return np.array(data, np.float32).reshape(output["shape"])


async def ask_both(site: Site, asked: Asked) -> list[Reply]:
    return [await ask_http1(site, asked), await ask_http2(site, asked)]
