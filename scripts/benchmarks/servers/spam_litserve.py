"""The spam filter under LitServe: batches of requests in worker processes behind FastAPI.

WORKERS=1 API_SERVERS=1 FAST_QUEUE=1 BATCH_REQUESTS=32 WAIT_MS=2 python spam_litserve.py PORT
"""

from __future__ import annotations

import os
import sys
from typing import Any

import litserve

from benchmarks.servers.spam_filter import SpamFilter


class Spam(litserve.LitAPI):  # type: ignore[misc]  # where it is not installed, it has no types
    def setup(self, device: str) -> None:
        self.filter = SpamFilter()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # a type would be FastAPI's to check
        return request["instances"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, batch: list[Any]) -> Any:
        return self.filter.answer_requests(batch)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return {"predictions": output}


if __name__ == "__main__":
    api = Spam(
        max_batch_size=int(os.environ["BATCH_REQUESTS"]), batch_timeout=int(os.environ["WAIT_MS"]) / 1000
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(os.environ["WORKERS"]),
        fast_queue=bool(int(os.environ["FAST_QUEUE"])),
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=int(os.environ["API_SERVERS"]),
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )
