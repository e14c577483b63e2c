"""gRPC: mdslite beside a bare grpc.aio server that runs the same tiny model without batching, in turns. The
load is one process: asyncio callers that each wait for their answer, with the message ready as bytes.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import psutil  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2 as messages

from benchmarks.contenders import SERVERS, STOP_WAIT_S, Bench, find_free_port, write_deployments
from benchmarks.models import TINY
from benchmarks.rpc_cost import RpcCost, RpcTurn
from benchmarks.turns import Effort, Say

CALLERS = 32
CHANNELS = 4
WARM_S = 1.0
START_S = 60.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


class RpcServer:
    """One server process, from its start to its end."""

    def __init__(self, label: str, command: Sequence[str], port: int, folder: Path) -> None:
        self.label = label
        self._command = command
        self.place = f"127.0.0.1:{port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> RpcServer:
        self._folder.mkdir()
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(STOP_WAIT_S)

    def cpu_s(self) -> float:
        parent = psutil.Process(self._process.pid)
        times = [one.cpu_times() for one in (parent, *parent.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))


def measure_rpc(bench: Bench, effort: Effort, say: Say) -> RpcCost:
    """Give both servers their turns, after a warm-up."""
    say(f"gRPC beside a bare grpc.aio server, {CALLERS} callers")
    ours, bare = _measure(bench, seconds=effort.seconds, rounds=effort.rounds).values()
    ratios = [one.requests_per_s / other.requests_per_s for one, other in zip(ours, bare, strict=True)]
    return RpcCost(_middle(ours), _middle(bare), statistics.median(ratios))


def _middle(turns: Sequence[RpcTurn]) -> RpcTurn:
    return RpcTurn(
        *(
            statistics.median(getattr(turn, name) for turn in turns)
            for name in ("requests_per_s", "p99_ms", "cpu_us")
        )
    )


def _measure(bench: Bench, *, seconds: float, rounds: int) -> dict[str, list[RpcTurn]]:
    body = make_request()
    with ExitStack() as stack:
        servers = [stack.enter_context(server) for server in make_servers(bench)]
        for server in servers:
            asyncio.run(wait_for(server, body))
            asyncio.run(load(server.place, body, seconds=WARM_S))
        turns: dict[str, list[RpcTurn]] = {server.label: [] for server in servers}
        for _ in range(rounds):
            for server in servers:
                before_s = server.cpu_s()
                took_s = asyncio.run(load(server.place, body, seconds=seconds))
                cpu_us = (server.cpu_s() - before_s) / len(took_s) * 1e6
                p99_ms = sorted(took_s)[int(len(took_s) * 0.99)] * 1e3
                turns[server.label].append(RpcTurn(len(took_s) / seconds, p99_ms, cpu_us))
    return turns


def make_servers(bench: Bench) -> list[RpcServer]:
    model = bench.model(TINY)
    file = bench.folder / "rpc.yaml"
    file.write_text(write_deployments(TINY, {"v1": (model, 100)}))
    port, other = find_free_port(), find_free_port()
    store = bench.folder / "rpc-store"
    up = [str(bench.mdslite), "up", str(file), "--port", "0", "--store", str(store), "--grpc-port", str(port)]
    bare = [sys.executable, str(SERVERS / "grpc_server.py"), str(model), str(other), "1"]
    return [
        RpcServer("mdslite", up, port, bench.folder / "rpc-mdslite"),
        RpcServer("bare grpc.aio", bare, other, bench.folder / "rpc-bare"),
    ]


def make_request() -> bytes:
    """One row for the tiny model, as tritonclient sends it."""
    row = np.random.default_rng(11).random((1, TINY.widths[0]), np.float32)
    request = messages.ModelInferRequest(model_name=f"bench.{TINY.name}", raw_input_contents=[row.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=row.shape)
    return bytes(request.SerializeToString())


async def wait_for(server: RpcServer, body: bytes) -> None:
    until = time.monotonic() + START_S
    async with grpc.aio.insecure_channel(server.place) as channel:
        while True:
            try:
                await channel.unary_unary(_METHOD)(body, timeout=5)
                return
            except grpc.aio.AioRpcError as exc:
                if time.monotonic() > until:
                    raise RuntimeError(f"{server.label} does not answer: {exc.details()}") from exc
                await asyncio.sleep(0.1)


async def load(place: str, body: bytes, *, seconds: float) -> list[float]:
    """How long each request took."""
    took_s: list[float] = []
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with _Channels([grpc.aio.insecure_channel(place, options) for _ in range(CHANNELS)]) as channels:
        until = time.perf_counter() + seconds

        async def call(method: Any) -> None:
            begun = time.perf_counter()
            while begun < until:
                await method(body)
                now = time.perf_counter()
                took_s.append(now - begun)
                begun = now

        methods = [channel.unary_unary(_METHOD) for channel in channels]
        await asyncio.gather(*(call(methods[number % CHANNELS]) for number in range(CALLERS)))
    return took_s


class _Channels:
    def __init__(self, channels: list[Any]) -> None:
        self._channels = channels

    async def __aenter__(self) -> list[Any]:
        return self._channels

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))
