"""The spam filter under BentoML: its adaptive batching, in the processes that answer HTTP.

WORKERS=2 BATCH_TEXTS=32 LATENCY_MS=1000 python -m bentoml serve benchmarks.servers.spam_bentoml:Spam
"""

from __future__ import annotations

import os
from typing import Any

import bentoml

from benchmarks.servers.spam_filter import SpamFilter


@bentoml.service(  # type: ignore[untyped-decorator,unused-ignore]
    workers=int(os.environ["WORKERS"]),
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Spam:
    def __init__(self) -> None:
        self.filter = SpamFilter()

    @bentoml.api(  # type: ignore[untyped-decorator,unused-ignore]
        batchable=True,
        max_batch_size=int(os.environ["BATCH_TEXTS"]),
        max_latency_ms=int(os.environ["LATENCY_MS"]),
    )
    def predict(self, instances: list[str]) -> list[dict[str, Any]]:
        return self.filter.answer(instances)
