"""Where endpoints come from: SRV records of a name server that speaks DNS, and a provider of a user's own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rrset
import pytest

from mdslite.errors import LoadFailed
from mdslite.serving.remote.discovery import Wanted, _resolve_srv, find_provider
from mdslite.serving.remote.pool import Address

RECORDS = (
    "20 0 9000 spare.boxes.test.",
    "10 5 8501 b.boxes.test.",
    "10 60 8500 a.boxes.test.",
)


class NameServer(asyncio.DatagramProtocol):
    """Answers what is asked for `_mdslite._tcp.boxes.test`, and of every other name that there is none."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        name = query.question[0].name
        if str(name) == "_mdslite._tcp.boxes.test.":
            reply.answer.append(dns.rrset.from_text(name, 5, "IN", "SRV", *RECORDS))
        else:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(reply.to_wire(), addr)


def wanted(url: str, **options: object) -> Wanted:
    return Wanted(url, options, "p", "m", "v1")


def test_srv_records_name_hosts_and_ports_the_first_priority_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> list[Address]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = transport.get_extra_info("sockname")[1]
        monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
        watch = find_provider("dns")(wanted("http://_mdslite._tcp.boxes.test/base", srv=True))
        try:
            async with asyncio.timeout(20):
                found = list(await anext(watch))
                with pytest.raises(OSError, match="does not exist"):
                    await _resolve_srv("_none._tcp.boxes.test")
        finally:
            await watch.aclose()  # type: ignore[attr-defined]
            transport.close()
        return found

    assert asyncio.run(test()) == [
        Address("http://a.boxes.test:8500/base"),
        Address("http://b.boxes.test:8501/base"),
    ]


def test_a_package_of_one_s_own_brings_a_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fixed_places.py").write_text(
        "from mdslite.serving.remote.discovery import Address\n"
        "async def watch(wanted):\n"
        "    yield [Address(f'http://{wanted.model}.{wanted.options[\"zone\"]}:8500')]\n"
    )
    folder = tmp_path / "fixed_places-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fixed-places\nVersion: 1\n")
    points = "[mdslite.discovery]\nfixed = fixed_places:watch\nbroken = fixed_places:nothing\n"
    (folder / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)

    async def test() -> list[Address]:
        watch = find_provider("fixed")(wanted("http://unused", zone="east"))
        try:
            return list(await anext(watch))
        finally:
            await watch.aclose()  # type: ignore[attr-defined]

    assert asyncio.run(test()) == [Address("http://m.east:8500")]
    with pytest.raises(LoadFailed, match="the provider broken cannot be loaded"):
        find_provider("broken")
    with pytest.raises(LoadFailed, match="expected one of broken, dns, fixed, kubernetes, mdslite, static"):
        find_provider("consul")
    sys.modules.pop("fixed_places")
