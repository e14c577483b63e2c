"""The spam filter under Mosec: batches of requests in worker processes behind a server in Rust.

WORKERS=1 BATCH_REQUESTS=32 WAIT_MS=1 python spam_mosec.py --address 127.0.0.1 --port 8000
"""

from __future__ import annotations

import os
from typing import Any

import orjson
from mosec import Server, Worker

from benchmarks.servers.spam_filter import SpamFilter


class Spam(Worker):  # type: ignore[misc]  # Mosec ships no types
    """orjson: Mosec's own json module is slower."""

    def __init__(self) -> None:
        self.filter = SpamFilter()

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)["instances"]

    def forward(self, data: list[Any]) -> Any:
        return self.filter.answer_requests(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps({"predictions": data})


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Spam,
        num=int(os.environ["WORKERS"]),
        max_batch_size=int(os.environ["BATCH_REQUESTS"]),
        max_wait_time=int(os.environ["WAIT_MS"]),
    )
    server.run()
