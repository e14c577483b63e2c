"""Models for clients of gRPC: an identity for each datatype, a package that counts and one that hangs."""

from __future__ import annotations

import json
from pathlib import Path

import models
import numpy as np
from packages import class_text, write_package

DATATYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "UINT16": np.uint16,
    "INT32": np.int32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
STREAM = """
    @mds.predict
    def answer(self, data):
        for number in range(data):
            yield number
        if data == 3:
            raise ValueError("three is too many")
"""
HANG = """
    @mds.predict
    def answer(self, data):
        import time
        while True:
            time.sleep(0.01)
"""


def fill(folder: Path) -> None:
    """`deployments.json` with `p.NAME` for each datatype, `p.stream`, which counts, and `p.hang`."""
    uris = {}
    for datatype in (*DATATYPES, "BYTES"):
        uris[datatype.lower()] = f"{datatype.lower()}.onnx"
        models.identity(folder / f"{datatype.lower()}.onnx", datatype, shape=("N", 2))
    models.bfloat(folder / "bf16.onnx")
    models.identity(folder / "wide.onnx", shape=("N", "L"))
    uris["wide"] = "wide.onnx"
    uris["bf16"] = "bf16.onnx"
    for name, methods in (("stream", STREAM), ("hang", HANG)):
        write_package(folder / name, {"model.py": class_text(methods, name=name.title())})
        uris[name] = f"./{name}"
    deployments = [
        {"project": "p", "model": name, "versions": [{"version": "v1", "spec": {"uri": uri}}]}
        for name, uri in uris.items()
    ]
    (folder / "deployments.json").write_text(json.dumps({"deployments": deployments}))
