"""Who sends a request that is no prediction, and from where: what an operation decides by, and what the audit
log says of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any

from mdslite.errors import Unauthorized
from mdslite.hosts import is_loopback
from mdslite.http.access import NOBODY, Access, Grant
from mdslite.store.audit import Act
from mdslite.store.tokens import Scope

_TARGET_MAX = 256
_REMARK_MAX = 512


@dataclass(slots=True)
class Caller:
    """`origin` is an address, maybe with the subject of a certificate, or empty for one who came without a
    network; `is_here` says that it is this machine's; `remark` is for the audit log."""

    origin: str
    is_here: bool
    grant: Grant = NOBODY
    remark: str = ""
    began_at: float = field(default_factory=time)

    def enter(
        self, access: Access, authorization: bytes, scope: Scope | None, *, also: Scope | None = None
    ) -> None:
        """Let the caller in for `scope` or `also`; everybody, when there is none, by name or as nobody.

        :raises Unauthorized: no token, or none that is good
        :raises Forbidden: the token lacks the scope
        :raises RateLimited: it came too often
        """
        if scope is not None:
            self.grant = access.enter(authorization, perf_counter())
            self.grant.require(scope, also=also)
            return
        try:
            self.grant = access.recognise(authorization)
        except Unauthorized:
            self.grant = NOBODY

    def act(self, what: str, target: str, status: int, request_id: str) -> Act:
        """The audit log's line of what the caller did."""
        return Act(
            time=self.began_at,
            who=self.grant.name,
            what=what,
            target=target[:_TARGET_MAX],
            origin=self.origin,
            status=status,
            remark=self.remark[:_REMARK_MAX],
            request_id=request_id,
        )


def caller_of(scope: Any) -> Caller:
    """Who an ASGI scope says that it is, not yet let in."""
    client = scope.get("client")
    address = "" if client is None else client[0]
    subject = scope.get("extensions", {}).get("tls", {}).get("client_cert_name")
    return Caller(f"{address} ({subject})" if subject else address, is_here=is_loopback(address))
