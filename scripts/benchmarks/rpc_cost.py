"""What came of the comparison over gRPC."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RpcTurn:
    requests_per_s: float
    p99_ms: float
    cpu_us: float  # of the server's processes, a request


@dataclass(frozen=True, slots=True)
class RpcCost:
    """The middle turns of both servers; `ratio` is the throughput of ours divided by the other's."""

    ours: RpcTurn
    bare: RpcTurn
    ratio: float
