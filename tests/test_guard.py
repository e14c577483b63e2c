"""Which hosts an appliance answers to."""

from __future__ import annotations

import pytest

from mdslite.errors import Forbidden, InvalidRequest, MdsliteError
from mdslite.http.guard import AllowList


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:8500", b"localhost.", b"localhost.:80", b"box.lan."]
)
def test_a_name_may_be_spelt_to_its_root(host: bytes) -> None:
    AllowList("127.0.0.1", extra=["box.lan"]).admit(host)


@pytest.mark.parametrize(
    ("host", "error"),
    [(b"localhost..", Forbidden), (b"evil.example.", Forbidden), (b".", Forbidden), (b"a b", InvalidRequest)],
)
def test_others_are_refused(host: bytes, error: type[MdsliteError]) -> None:
    with pytest.raises(error):
        AllowList("127.0.0.1").admit(host)
