"""Downloads as the store makes them, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mdslite.errors import ArtifactError
from mdslite.store.fetch import Network, open_url

TLS = Path(__file__).parent / "data" / "tls"
BODY = bytes(range(256)) * 2000


def read(url: str, *, allow: Sequence[str] = ("127.0.0.1",), network: Network | None = None) -> bytes:
    with open_url(url, allow=allow, network=network) as download:
        assert download is not None
        return b"".join(download.chunks)


def refusal(
    url: str, *, allow: Sequence[str] = ("127.0.0.1",), network: Network | None = None
) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        read(url, allow=allow, network=network)
    assert caught.value.status == 422
    return caught.value


def resolving(**names: str) -> Network:
    """A resolver that knows these names; a dash stands for a dot."""
    known = {name.replace("_", "."): addresses.split() for name, addresses in names.items()}

    def resolve(host: str, port: int) -> Sequence[str]:
        return known[host]

    return Network(resolve=resolve)
