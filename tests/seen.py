"""What has been seen of a version, as a gate is given it."""

from __future__ import annotations

import numpy as np

from mdslite.store.evidence import Evidence


def evidence(
    version: str = "v2", requests: int = 1000, errors: int = 0, *, ms: float = 10.0, seed: int = 0
) -> Evidence:
    random = np.random.default_rng(seed)
    latency = random.gamma(4.0, ms / 4.0, requests - errors)
    return Evidence(
        version, False, requests, errors, latency, np.clip(random.normal(0.8, 0.05, requests), 0, 1)
    )
