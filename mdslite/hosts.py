"""Names and addresses of hosts, as people write them."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Can only this machine reach it? IPv6 addresses may stand in brackets."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
