"""Measure what others feel while clients behave badly: a thousand slow ones, over HTTP/1.1, HTTP/2 and gRPC,
one that opens and resets streams as fast as it can, over HTTP/2 and gRPC, and a thousand that begin a TLS
handshake and say no more.

    python scripts/measure_hostile.py [--seconds 2] [--token | --insiders] [--only NAME]

Starts an appliance of its own and a polite client, and prints the polite client's latencies with nobody else
there and during each attack, taking turns, what they were in the second after, how far the appliance's memory
grew, and how busy the attack alone kept it, which a crowded machine shows more truly than latencies. The bad
clients get the processor last, as if they were on another machine. With --token every request shows a token,
and the bad clients have none; with --insiders they have one, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import hpack
import psutil  # type: ignore[import-untyped]
from benchmarks.models import TINY, write_model
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, SettingsFrame

CLIENTS = 1000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ROW = json.dumps({"instances": [[0.5] * 64]}).encode()
RPC_TARGET = "/inference.GRPCInferenceService/ModelInfer"
TARGET = b"/projects/default/models/tiny:predict"
ROUNDS = 3
PAUSE_S = 0.002  # of the polite client, between two requests
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """`token` is what a bad client shows."""

    host: str
    port: int
    rpc_port: int = 0
    token: str | None = None

    def http2(self) -> tuple[int, list[tuple[str, str]]]:
        """Where an HTTP/2 client sends what."""
        return self.port, self._fields(TARGET.decode(), "application/json")

    def rpc(self) -> tuple[int, list[tuple[str, str]]]:
        return self.rpc_port, self._fields(RPC_TARGET, "application/grpc")

    def _fields(self, path: str, media_type: str) -> list[tuple[str, str]]:
        shown = [("authorization", f"Bearer {self.token}")] if self.token else []
        pseudo = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "localhost")]
        return [*pseudo, ("content-type", media_type), *shown]


@dataclass(frozen=True, slots=True)
class Figures:
    p50_ms: float
    p99_ms: float
    failed: int

    def __str__(self) -> str:
        failures = f", {self.failed} failed" if self.failed else ""
        return f"p50 {self.p50_ms:6.2f} ms, p99 {self.p99_ms:6.2f} ms{failures}"


# The polite client


async def ask(place: Place, seconds: float, token: str | None) -> Figures:
    """Send predictions one after the other, with pauses."""
    reader, writer = await asyncio.open_connection(place.host, place.port)
    shown = b"Authorization: Bearer %b\r\n" % token.encode() if token else b""
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % TARGET
    request = b"%b%bContent-Length: %d\r\n\r\n%b" % (head, shown, len(ROW), ROW)
    until, took, failed = perf_counter() + seconds, [], 0
    while perf_counter() < until:
        began = perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        took.append((perf_counter() - began) * 1e3)
        failed += not head.startswith(b"HTTP/1.1 200")
        await asyncio.sleep(PAUSE_S)
    writer.close()
    cuts = statistics.quantiles(took, n=100)
    return Figures(cuts[49], cuts[98], failed)


# The others, each in a process of its own


async def trickle(place: Place) -> None:
    """Send a head, or a body, a byte a second."""

    async def one(number: int) -> None:
        words = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % TARGET
        words += b"Authorization: Bearer %b\r\n" % place.token.encode() if place.token else b""
        words += b"Content-Length: 4000\r\n\r\n" if number % 2 else b"X-Slow: "
        await asyncio.sleep(number / CLIENTS)  # they do not act in step
        while True:
            try:
                _, writer = await asyncio.open_connection(place.host, place.port)
                writer.write(words)
                while not writer.is_closing():
                    await asyncio.sleep(1)
                    writer.write(b"x")
                    await writer.drain()
            except OSError:
                await asyncio.sleep(0.2)

    await asyncio.gather(*(one(number) for number in range(CLIENTS)))


async def trickle_http2(place: Place) -> None:
    await trickle_frames(place.host, *place.http2())


async def trickle_rpc(place: Place) -> None:
    await trickle_frames(place.host, *place.rpc())


async def trickle_frames(host: str, port: int, fields: list[tuple[str, str]]) -> None:
    """Send a body, a frame of a byte a second."""
    head = HeadersFrame(1, hpack.Encoder().encode(fields), flags=["END_HEADERS"]).serialize()
    begin = PREFACE + SettingsFrame(0).serialize() + head + DataFrame(1, b"\0\0\0\x0f\xa0").serialize()
    byte = DataFrame(1, b"x").serialize()

    async def one(number: int) -> None:
        await asyncio.sleep(number / CLIENTS)
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
                writer.write(begin)
                while not writer.is_closing():
                    await asyncio.sleep(1)
                    writer.write(byte)
                    await writer.drain()
            except OSError:
                await asyncio.sleep(0.2)

    await asyncio.gather(*(one(number) for number in range(CLIENTS)))


async def reset_http2(place: Place) -> None:
    await reset(place.host, *place.http2())


async def reset_rpc(place: Place) -> None:
    await reset(place.host, *place.rpc())


async def reset(host: str, port: int, fields: list[tuple[str, str]]) -> None:
    """Open streams and reset them at once, on a new connection whenever the last was cut."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
            writer.write(PREFACE + SettingsFrame(0).serialize())
            plain = hpack.Encoder()
            for start in range(1, 200_000, 200):
                frames = []
                for stream_id in range(start, start + 200, 2):
                    head = HeadersFrame(stream_id, plain.encode(fields), flags=["END_HEADERS"])
                    frames += [head.serialize(), RstStreamFrame(stream_id, error_code=8).serialize()]
                writer.write(b"".join(frames))
                await writer.drain()
        except OSError:
            pass


async def halt(place: Place) -> None:
    """Begin a handshake and say no more."""

    async def one() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(place.host, place.port)
                writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                await reader.read()
                writer.close()
            except OSError:
                await asyncio.sleep(0.2)

    await asyncio.gather(*(one() for _ in range(CLIENTS)))


def attack(how: Callable[[Place], Awaitable[None]], place: Place) -> None:
    """Run in a process of its own, until it is ended."""
    os.nice(19)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CLIENTS), hard))

    async def main() -> None:
        await how(place)

    asyncio.run(main())


@contextmanager
def attacking(how: Callable[[Place], Awaitable[None]], place: Place) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=attack, args=(how, place), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


# The appliance


@contextmanager
def appliance(folder: Path, *args: str) -> Iterator[tuple[Place, psutil.Process]]:
    command = [sys.executable, "-m", "mdslite", "up", "tiny.onnx", "--port", "0", "--grpc-port", "0", *args]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.stdout.readline()
        port, rpc_port = (int(line.split()[at].rpartition(":")[2]) for at in (2, -1))
        yield Place("127.0.0.1", port, rpc_port), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


ATTACKS: dict[str, Callable[[Place], Awaitable[None]]] = {
    "slow-http1": trickle,
    "slow-http2": trickle_http2,
    "slow-grpc": trickle_rpc,
    "reset-http2": reset_http2,
    "reset-grpc": reset_rpc,
}


def measure(
    place: Place, process: psutil.Process, attacks: list[str], seconds: float, token: str | None
) -> None:
    for name in attacks:
        how = ATTACKS[name]
        alone, beside, after, grown, load = [], [], [], 0.0, []
        for _ in range(ROUNDS):
            alone.append(asyncio.run(ask(place, seconds, token)))
            before = process.memory_info().rss
            with attacking(how, place):
                asyncio.run(asyncio.sleep(1.5))
                load.append(process.cpu_percent(seconds))
                beside.append(asyncio.run(ask(place, seconds, token)))
                grown = max(grown, (process.memory_info().rss - before) / _MIB)
            after.append(asyncio.run(ask(place, 1, token)))
        calm, attacked = best(alone), best(beside)
        times = attacked.p99_ms / calm.p99_ms
        print(f"{name}: busy {max(load):.0f} % of a core, {grown:+.0f} MiB, p99 {times:.1f} times")
        print(f"  nobody else  {calm}\n  beside it    {attacked}\n  just after   {best(after)}")


def best(figures: list[Figures]) -> Figures:
    """The calmest of several rounds: what a busy machine adds comes and goes."""
    return min(figures, key=lambda one: one.p99_ms)


async def shake(place: Place, trusted: Path, seconds: float) -> Figures:
    """Whole handshakes, one after the other."""
    context = ssl.create_default_context(cafile=trusted)
    until, took, failed = perf_counter() + seconds, [], 0
    while perf_counter() < until:
        began = perf_counter()
        try:
            _, writer = await asyncio.open_connection(
                place.host, place.port, ssl=context, server_hostname="localhost"
            )
            writer.close()
        except OSError:
            failed += 1
        took.append((perf_counter() - began) * 1e3)
        await asyncio.sleep(PAUSE_S)
    cuts = statistics.quantiles(took, n=100)
    return Figures(cuts[49], cuts[98], failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--token", action="store_true", help="let every request take a token")
    parser.add_argument("--insiders", action="store_true", help="let the bad clients have one, too")
    parser.add_argument("--only", action="append", choices=(*ATTACKS, "tls"), help="this attack; repeatable")
    wanted = parser.parse_args()
    chosen = wanted.only or [*ATTACKS, "tls"]
    with tempfile.TemporaryDirectory() as name:
        folder, token = Path(name), None
        write_model(TINY, folder / "tiny.onnx")
        if wanted.token or wanted.insiders:
            make = [sys.executable, "-m", "mdslite", "token", "create", "--scope", "admin", "--store", "s"]
            done = subprocess.run(make, cwd=folder, check=True, text=True, capture_output=True)
            token = done.stdout.strip()
        with appliance(folder, "--store", "s") as (place, process):
            place = replace(place, token=token if wanted.insiders else None)
            measure(place, process, [one for one in chosen if one != "tls"], wanted.seconds, token)
        if "tls" not in chosen:
            return
        with appliance(folder, "--store", "t", "--host", "localhost", "--tls-self-signed") as (place, _):
            trusted = folder / "t" / "tls" / "cert.pem"
            calm = asyncio.run(shake(place, trusted, wanted.seconds))
            with attacking(halt, place):
                asyncio.run(asyncio.sleep(1.5))
                during = asyncio.run(shake(place, trusted, wanted.seconds))
            print(f"1,000 that halt in their handshake\n  nobody else  {calm}\n  beside them  {during}")


if __name__ == "__main__":
    main()
