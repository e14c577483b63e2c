"""The endpoints of one remote version: which takes the next request, which are left out for a while, and how
many requests may be repeated. Owns no connection; told what happened, by the clock that it is given.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from mdslite.errors import Unavailable

logger = logging.getLogger(__name__)

Balance = Literal["round_robin", "least_loaded"]

CONNECTIONS_MAX = 256  # for requests; each endpoint is asked how it is over one more
EJECT_AFTER = 3  # failures in a row
EJECT_FIRST_S = 1.0
EJECT_MAX_S = 30.0
# As with Envoy's outlier detection, no more than so many are left out: the others could not take the traffic.
EJECTED_SHARE_MAX = 0.5
# Finagle's retry budget: a share of the requests, and a few a second for those who have hardly any.
RETRY_SHARE = 0.2
RETRIES_PER_S = 10.0
_RETRIES_KEPT_S = 10.0
_WHY_CHARS = 400


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint answers. `host` is what it is to be called by, where the URL holds a bare number."""

    url: str
    host: str | None = None


class Endpoint:
    """One address and how it has been lately."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.open = 0  # requests that wait for its answer
        self.requests = 0
        self.failures = 0
        self.in_a_row = 0  # failures
        self.ejections = 0  # since it was last well
        self.ejected_until = 0.0
        self.lacking = False  # it said that it has no such model, and has answered nothing since
        self.refusing = False  # the same with our credentials
        self.proved = False  # it has let a request in
        self.reason = ""  # of its last failure

    @property
    def url(self) -> str:
        return self.address.url

    @property
    def unfit(self) -> bool:
        """Would it answer no request, however well it is?"""
        return self.lacking or self.refusing

    def is_ejected(self, now: float) -> bool:
        return now < self.ejected_until


class Pool:
    """All endpoints of one version. Used from the event loop's thread only. A request has one of the `turns`
    while it is under way: there are as many as connections."""

    def __init__(self, *, balance: Balance = "round_robin", clock: Callable[[], float]) -> None:
        self.endpoints: list[Endpoint] = []
        self.turns = asyncio.Semaphore(CONNECTIONS_MAX)
        self._unfound: dict[str, str] = {}  # why nothing is found at a URL
        self._balance = balance
        self._clock = clock
        self._turn = 0
        self._retries = RETRIES_PER_S
        self._counted_at = clock()

    def update(self, addresses: Iterable[Address]) -> None:
        """Take what discovery has found; what stays keeps its record."""
        known = {endpoint.address: endpoint for endpoint in self.endpoints}
        wanted = dict.fromkeys(addresses)
        self.endpoints = [known.get(address) or Endpoint(address) for address in wanted]

    def tell(self, url: str, why: str) -> None:
        """Discovery says why it finds nothing at a URL; "" when it does."""
        if why and self._unfound.get(url) != why:
            logger.warning("endpoints: nothing is found at %s: %s", url, why)
        self._unfound[url] = why

    def pick(self, tried: Iterable[Endpoint] = ()) -> Endpoint:
        """The endpoint for the next try of a request. Ejected ones take it only when no other is left, and
        one that has its share of the turns only when all have: who is slow would soon have them all, and make
        requests to the others wait.

        :raises Unavailable: there is none that has not been tried
        """
        now = self._clock()
        left = [one for one in self.endpoints if one not in set(tried)]
        if not left:
            raise Unavailable(self._why_not(), retry_after_s=1)
        well = [one for one in left if not one.is_ejected(now)]
        candidates = well or [one for one in left if not one.unfit] or left
        share = math.ceil(CONNECTIONS_MAX / len(self.endpoints))
        candidates = [one for one in candidates if one.open < share] or candidates
        self._turn += 1
        if self._balance == "least_loaded":
            least = min(one.open for one in candidates)
            candidates = [one for one in candidates if one.open == least]
        return candidates[self._turn % len(candidates)]

    def begin(self, endpoint: Endpoint) -> None:
        """A request goes to an endpoint; each adds to what may be repeated."""
        endpoint.open += 1
        endpoint.requests += 1
        self._retries = min(self._retries + RETRY_SHARE, self._budget_max)

    def end(self, endpoint: Endpoint) -> None:
        endpoint.open -= 1

    def succeeded(self, endpoint: Endpoint) -> None:
        """It answered, or its health check did."""
        endpoint.in_a_row = endpoint.ejections = 0
        endpoint.ejected_until = 0.0
        endpoint.lacking = endpoint.refusing = False

    def lacks(self, endpoint: Endpoint, reason: str) -> None:
        """It does not have the model. However well it is, it stays out until it has, or until its time is
        over and a request may try."""
        endpoint.lacking = True
        self.failed(endpoint, reason)

    def refuses(self, endpoint: Endpoint, reason: str) -> None:
        """It does not take our credentials: as `lacks`."""
        endpoint.refusing = True
        self.failed(endpoint, reason)

    def failed(self, endpoint: Endpoint, reason: str) -> None:
        """It did not answer, or not well."""
        endpoint.failures += 1
        endpoint.in_a_row += 1
        endpoint.reason = reason
        enough = endpoint.unfit or endpoint.in_a_row >= EJECT_AFTER
        if enough and not endpoint.is_ejected(self._clock()):
            self._eject(endpoint)

    def may_retry(self) -> bool:
        """Take one repetition out of the budget, if there is one."""
        now = self._clock()
        gained = (now - self._counted_at) * RETRIES_PER_S
        self._counted_at = now
        self._retries = min(self._retries + gained, self._budget_max)
        if self._retries < 1.0:
            return False
        self._retries -= 1.0
        return True

    @property
    def available(self) -> int:
        now = self._clock()
        return sum(not one.is_ejected(now) for one in self.endpoints)

    def why_none(self) -> str:
        """Why no endpoint can take requests, without saying where they are."""
        reasons = dict.fromkeys(one.reason for one in self.endpoints if one.reason)
        why = "; ".join(reasons) if self.endpoints else f"none was found{self.why_unfound()}"
        return "no endpoint can take requests" + (f": {why[:_WHY_CHARS]}" if why else "")

    def why_unfound(self) -> str:
        """Why discovery finds nothing, to be put after that it does."""
        reasons = dict.fromkeys(why for why in self._unfound.values() if why)
        return f": {'; '.join(reasons)}" if reasons else ""

    @property
    def _budget_max(self) -> float:
        return RETRIES_PER_S * _RETRIES_KEPT_S

    def _eject(self, endpoint: Endpoint) -> None:
        now = self._clock()
        if not endpoint.unfit:  # who is takes no load from the others
            having = [one for one in self.endpoints if not one.unfit]
            out = sum(one.is_ejected(now) for one in having if one is not endpoint)
            if out + 1 > max(1, math.floor(len(having) * EJECTED_SHARE_MAX)):
                return
        endpoint.ejected_until = now + min(EJECT_FIRST_S * 2**endpoint.ejections, EJECT_MAX_S)
        endpoint.ejections += 1

    def _why_not(self) -> str:
        if not self.endpoints:
            return "no endpoint was found"
        return "no endpoint could take the request"
