"""A Kubernetes service's ready addresses, read from its EndpointSlices. Reads; changes nothing there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mdslite.errors import LoadFailed
from mdslite.serving.remote.pool import Address
from mdslite.serving.remote.wire import Unanswered, Wires, read_trust

# What every pod finds of its cluster.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 5.0


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None


class _Endpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions = _Conditions()


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None


class _Slice(msgspec.Struct, rename="camel"):
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None
    address_type: str = "IPv4"


class _Slices(msgspec.Struct):
    items: list[_Slice]


async def watch_service(
    service: str,
    namespace: str | None,
    *,
    port: int | None,
    options: Mapping[str, Any],
    every_s: float,
    account: Path = ACCOUNT,
    tell: Callable[[str], None] = lambda why: None,
) -> AsyncIterator[list[tuple[str, int]]]:
    """Addresses and ports of what is ready behind a service, asked again every `every_s` seconds.

    `options.api` is the API server's URL, by default that of the cluster this runs in; `options.port_name`
    chooses among several ports, of which `port` is the default's number; `options.ca` is trusted beside the
    cluster's authority. `tell` hears why nothing is found, "" when it is.

    :raises LoadFailed: it runs in no cluster, and no API server is named
    """
    api = options.get("api") or _cluster()
    namespace = namespace or _read(account / "namespace") or "default"
    path = (
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        f"?labelSelector=kubernetes.io%2Fservice-name%3D{service}"
    )
    while True:
        # The account's token is renewed in its file: made anew for each look.
        token, certificate = _read(account / "token"), account / "ca.crt"
        tls = read_trust(options, more=certificate if certificate.exists() else None)
        wires = Wires(tls=tls, token=token)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await wires.get(Address(api), path)
            if answer.status == 200:
                found = read_slices(answer.body, port=port, port_name=options.get("port_name"))
                tell("" if found else "the service has no ready address")
                yield found
            else:
                tell(f"the cluster's API answered {answer.status}")
        except (Unanswered, TimeoutError, msgspec.DecodeError) as exc:
            why = str(exc) or f"it gave no answer within {_TIMEOUT_S:g} s"
            tell(f"the cluster's API: {why}")
        finally:
            wires.close()
        await asyncio.sleep(every_s)


def read_slices(body: bytes, *, port: int | None, port_name: str | None = None) -> list[tuple[str, int]]:
    """Addresses and ports in a list of EndpointSlices, those that are ready.

    :raises msgspec.DecodeError: it is none
    """
    found = set()
    for one in msgspec.json.decode(body, type=_Slices).items:
        numbers = [item.port for item in one.ports or () if port_name in (None, item.name) and item.port]
        number = port if port in numbers or not numbers else numbers[0]
        if number is None or one.address_type == "FQDN":
            continue
        for endpoint in one.endpoints or ():
            if endpoint.conditions.ready is not False:
                found |= {(address, number) for address in endpoint.addresses}
    return sorted(found)


def _cluster() -> str:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host:
        raise LoadFailed(
            "endpoints_infos: this process runs in no Kubernetes cluster",
            hint="name the API server: options: {api: https://HOST:6443}",
        )
    return f"https://{f'[{host}]' if ':' in host else host}:{port or 443}"


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
