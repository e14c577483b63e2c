"""Where the endpoints of a version are, and where they are a moment later: one small interface, and those who
implement it.

A provider is named by `endpoints_infos[].provider`. `static` takes the URL as it is, `dns` all addresses of
its host (or of an SRV record, `options: {srv: true}`), `mdslite` asks the box there whether it has the model
ready, `kubernetes` reads a service's EndpointSlices. A package of one's own adds more as entry points of the
group `mdslite.discovery`: callables that take a `Wanted` and return an asynchronous iterator of lists of
`Address`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mdslite.errors import LoadFailed, quoted
from mdslite.serving.remote.kubernetes import watch_service
from mdslite.serving.remote.pool import Address
from mdslite.serving.remote.wire import Unanswered, Wires, read_trust

logger = logging.getLogger(__name__)

GROUP = "mdslite.discovery"
LOOK_S = 5.0  # between two looks at what may have changed
PEER_S = 1.0
_TIMEOUT_S = 3.0

Watch = AsyncIterator[Sequence[Address]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a provider is asked for: the spec's URL and options, for which model. It may `tell` why it finds
    nothing, without saying where, and "" when it does."""

    url: str
    options: Mapping[str, Any]
    project: str
    model: str
    version: str
    tell: Callable[[str], None] = lambda why: None


Provider = Callable[[Wanted], Watch]


async def watch_static(wanted: Wanted) -> Watch:
    """The URL, for ever."""
    yield [Address(wanted.url)]


async def watch_dns(wanted: Wanted) -> Watch:
    """Every address of the URL's host, asked again every few seconds. A name that is not found for a while
    changes nothing."""
    parts = urlsplit(wanted.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    every_s = _seconds(wanted.options, "every_s", LOOK_S)
    while True:
        try:
            if wanted.options.get("srv"):
                found = await _resolve_srv(parts.hostname or "")
            else:
                found = await _resolve(parts.hostname or "", port)
        except OSError as exc:
            wanted.tell("its name was not found" + (f" ({exc.strerror})" if exc.strerror else ""))
        else:
            wanted.tell("")
            yield [
                Address(
                    urlunsplit(parts._replace(netloc=_netloc(host, number))),
                    parts.netloc if not wanted.options.get("srv") else None,
                )
                for host, number in found
            ]
        await asyncio.sleep(every_s)


async def watch_peer(wanted: Wanted) -> Watch:
    """Another mdslite, while it says that it has the model ready."""
    tls = await asyncio.to_thread(read_trust, wanted.options)
    wires = Wires(tls=tls, token_env=wanted.options.get("token_env"))
    project = wanted.options.get("project", wanted.project)
    model = wanted.options.get("model", wanted.model)
    address = Address(wanted.url)
    try:
        while True:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    answer = await wires.get(address, f"/readyz?model={project}/{model}")
            except (Unanswered, TimeoutError) as exc:
                why = getattr(exc, "reason", f"it gave no answer within {_TIMEOUT_S:g} s")
            else:
                refused = answer.status in (401, 403)
                why = wires.refusal(answer.status) if refused else "it does not have the model ready"
                if answer.status == 200:
                    why = ""
            wanted.tell(why)
            yield [] if why else [address]
            await asyncio.sleep(_seconds(wanted.options, "every_s", PEER_S))
    finally:
        wires.close()


async def watch_kubernetes(wanted: Wanted) -> Watch:
    """The ready addresses of a service, `http://SERVICE.NAMESPACE:PORT`, as its EndpointSlices say."""
    parts = urlsplit(wanted.url)
    service, _, rest = (parts.hostname or "").partition(".")
    async for found in watch_service(
        service,
        rest.partition(".")[0] or None,
        port=parts.port,
        options=wanted.options,
        every_s=_seconds(wanted.options, "every_s", LOOK_S),
        tell=wanted.tell,
    ):
        yield [
            Address(urlunsplit(parts._replace(netloc=_netloc(host, port))), parts.netloc)
            for host, port in found
        ]


PROVIDERS: Mapping[str, Provider] = {
    "static": watch_static,
    "dns": watch_dns,
    "mdslite": watch_peer,
    "kubernetes": watch_kubernetes,
}


def find_provider(name: str | None) -> Provider:
    """The provider of that name, which a package of the user's own may bring.

    :raises LoadFailed: there is none
    """
    known = PROVIDERS.get(name or "static")
    if known is not None:
        return known
    found = entry_points(group=GROUP, name=name or "")
    for point in found:
        try:
            provider: Provider = point.load()
        except Exception as exc:  # a package of somebody's own
            raise LoadFailed(f"the provider {name} cannot be loaded: {exc}") from exc
        return provider
    others = sorted({*PROVIDERS, *(point.name for point in entry_points(group=GROUP))})
    raise LoadFailed(
        f"endpoints_infos: there is no provider {quoted(name)}; expected one of {', '.join(others)}"
    )


async def merge(watches: Sequence[Watch]) -> Watch:
    """All that several watches have found, whenever one of them finds something else.

    :raises LoadFailed: one of them cannot begin, and no other has found anything yet
    """
    found: dict[int, Sequence[Address]] = {}
    changed: asyncio.Queue[tuple[int, Sequence[Address] | LoadFailed]] = asyncio.Queue(maxsize=len(watches))

    async def follow(number: int, watch: Watch) -> None:
        try:
            async for addresses in watch:
                await changed.put((number, addresses))
        except LoadFailed as exc:
            await changed.put((number, exc))

    tasks = [
        asyncio.create_task(follow(number, watch), name="discovery") for number, watch in enumerate(watches)
    ]
    try:
        while True:
            number, addresses = await changed.get()
            if isinstance(addresses, LoadFailed):
                if not found:
                    raise addresses
                logger.error("endpoints: %s", addresses.message)
                continue
            found[number] = addresses
            yield [address for key in sorted(found) for address in found[key]]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _resolve(host: str, port: int) -> list[tuple[str, int]]:
    async with asyncio.timeout(_TIMEOUT_S):
        answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({(str(answer[4][0]), port) for answer in answers})


async def _resolve_srv(name: str) -> list[tuple[str, int]]:
    """Targets of the first priority that has any (RFC 2782); weights are left to the pool's balance."""
    import dns.asyncresolver
    import dns.exception

    try:
        answers = await dns.asyncresolver.resolve(name, "SRV", lifetime=_TIMEOUT_S)
    except dns.exception.DNSException as exc:
        raise OSError(str(exc)) from exc
    records = list(answers)
    first = min((record.priority for record in records), default=0)
    return sorted((str(one.target).rstrip("."), one.port) for one in records if one.priority == first)


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _seconds(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    return float(value) if isinstance(value, int | float) and 0 < value <= 3600 else default
