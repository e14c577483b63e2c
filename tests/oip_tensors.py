"""Tensors and messages of the Open Inference Protocol, written by hand."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from mdslite.oip.typed import TensorMessages
from mdslite.packing import from_bfloat16
from mdslite.runtimes.protocol import NUMPY_DTYPES, Rows, Signature, TensorSpec
from mdslite.tensors import Codec

X2 = TensorSpec("x", "FP32", (None, 2))


class Model:
    """Answers with its inputs: output `y` is input `x`, and so on."""

    def __init__(
        self, *inputs: TensorSpec, rows: Rows = "free", outputs: tuple[TensorSpec, ...] = ()
    ) -> None:
        outputs = outputs or tuple(TensorSpec("y", one.datatype, one.shape) for one in inputs[:1])
        self.codec = Codec(Signature(inputs, outputs, rows))
        self.messages = TensorMessages(self.codec, model="p.m", version="v1")
        self.feeds: dict[str, Any] = {}

    def ask(self, body: bytes | memoryview, head_bytes: int | None = None) -> dict[str, Any]:
        plan, columns = self.messages.read(body, head_bytes)
        if not columns.rows:
            return parse(self.messages.write(plan, None))
        self.feeds = self.codec.feeds(columns.columns, columns.key, columns.rows)
        return parse(self.messages.write(plan, list(self.feeds.values())))

    def send(self, *raws: bytes, **message: Any) -> dict[str, Any]:
        """A message whose inputs are followed by their bytes, where there are any."""
        head = json.dumps(message).encode()
        return self.ask(head + b"".join(raws), len(head) if raws else None)


def parse(message: tuple[bytes, int | None]) -> dict[str, Any]:
    """A reply as a client reads it: each output's `data`, in numbers or strings, whichever way it came."""
    body, head_bytes = message
    head_bytes = len(body) if head_bytes is None else head_bytes
    found: dict[str, Any] = json.loads(body[:head_bytes])
    at = head_bytes
    for output in found["outputs"]:
        parameters = output.get("parameters", {})
        if "binary_data_size" in parameters:
            assert "data" not in output
            raw = body[at : at + parameters["binary_data_size"]]
            at += len(raw)
            output["data"] = read(raw, output["datatype"])
    assert at == len(body)
    return found


def read(raw: bytes, datatype: str) -> list[Any]:
    if datatype != "BYTES":
        array = np.frombuffer(raw, NUMPY_DTYPES[datatype])
        return list((from_bfloat16(array) if datatype == "BF16" else array).tolist())
    found, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def tensor(name: str, datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape} | more


def binary(name: str, datatype: str, shape: list[int], size_bytes: int) -> dict[str, Any]:
    return tensor(name, datatype, shape, parameters={"binary_data_size": size_bytes})


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def fp32(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()
