"""Mosec with its batching on. Model and knobs come from the environment, the rest are Mosec's arguments.

MODEL=tiny.onnx THREADS=1 WAIT_MS=1 WORKERS=1 python mosec_server.py --address 127.0.0.1 --port 8000
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime
import orjson
from mosec import Server, Worker

MAX_BATCH_ROWS = 32


class Classifier(Worker):  # type: ignore[misc]  # Mosec ships no types
    """orjson and one numpy conversion a request: Mosec's own json module is slower."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)["instances"][0]

    def forward(self, data: list[Any]) -> Any:
        (answer,) = self.session.run(None, {"x": np.asarray(data, np.float32)})
        return list(answer)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps({"predictions": [data]}, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Classifier,
        num=int(os.environ["WORKERS"]),
        max_batch_size=MAX_BATCH_ROWS,
        max_wait_time=int(os.environ["WAIT_MS"]),
    )
    server.run()
