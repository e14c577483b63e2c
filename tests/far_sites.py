"""A model that is served elsewhere, and a gateway that asks for it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from authority import Signed
from doors import Site, open_site

from mdslite.runtimes.protocol import DATA_SIGNATURE, ProbeReport
from mdslite.serving.fleet import Served
from mdslite.serving.loader import LoadRequest
from mdslite.serving.remote.lane import RemoteLane
from mdslite.spec import Confidence, EndpointInfo, ServiceInfo, Spec

GATEWAY = "/projects/p/models/far:predict"


@asynccontextmanager
async def gateway(
    folder: Path, *infos: EndpointInfo, confidence: Confidence | None = None, health_s: float = 1.0
) -> AsyncIterator[tuple[Site, Served]]:
    """A site with one version that is served elsewhere: p/far v1."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    async with open_site(folder) as site:
        spec = Spec(uri="/x", service_info=ServiceInfo(endpoints_infos=infos), confidence=confidence)
        report = ProbeReport(DATA_SIGNATURE, 0, 0.0, False)
        wanted = LoadRequest("p", "far", "v1", spec, "remote", Path(), report, "REMOTE", "REMOTE")
        served = await site.fleet.load(wanted)
        assert isinstance(served.lane, RemoteLane)
        served.lane._health_s = health_s
        site.fleet.switch(added=[served])
        yield site, served


def url(site: Site) -> str:
    return f"http://127.0.0.1:{site.address[1]}"


def lane_of(served: Served) -> RemoteLane:
    assert isinstance(served.lane, RemoteLane)
    return served.lane


def to(site: Site, **options: Any) -> EndpointInfo:
    return EndpointInfo(url=url(site), options={"model": "m", **options})


def oip(site: Site, **options: Any) -> EndpointInfo:
    return EndpointInfo(url=url(site), protocol="OIP", options={"model": "p.m", **options})


@asynccontextmanager
async def listening(
    answer: Callable[[], tuple[int, bytes] | None],
    *,
    ready: bool = True,
    admission: Callable[[], int] = lambda: 404,
    host: str = "127.0.0.1",
    signed: Signed | None = None,
) -> AsyncIterator[int]:
    """A server that answers what it is told, or ends the connection; `ready` is whether it knows /readyz,
    `admission` what it answers who asks for a model. It speaks TLS where it is `signed`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length or b"0"))
            found = (200, b"ok") if head.startswith(b"GET") else answer()
            if not ready and head.startswith(b"GET /readyz"):
                found = (404, b"what?")
            if head.startswith(b"GET /v2/models/"):
                found = (admission(), b"")
            if found is not None:
                status, body = found
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    tls = None
    if signed is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(signed.both)
    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


GOOD = b'{"predictions": [1]}'


UNTRUSTED = (
    "its certificate is not trusted (unable to get local issuer certificate): "
    "options: {ca: FILE} says whom to trust"
)
