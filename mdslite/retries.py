"""Whether a request that failed is sent again, and when. Sleeps and sends nothing.

What was never sent, or was refused before it began (429, 503), may be repeated whatever it is; what broke
while it may have been carried out, only when to do it twice is to do it once. A budget keeps a client from
multiplying the load of a box that is in trouble: each request adds a tenth of a retry to it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpx2

_EARNED = 0.1  # retries that a request earns
_SAVED_MAX = 10.0
_REFUSED = frozenset({429, 503})
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


@dataclass(frozen=True, slots=True)
class Retries:
    """`count` is how often one request is repeated, `first_s` the mean first wait (then twice as long each
    time), and `longest_s` the longest: told to wait longer, the client gives up at once."""

    count: int = 2
    first_s: float = 0.1
    longest_s: float = 5.0


class Budget:
    """What a client has left for retries, over all its requests."""

    def __init__(self) -> None:
        self._left = _SAVED_MAX

    def earn(self) -> None:
        self._left = min(_SAVED_MAX, self._left + _EARNED)

    def spend(self) -> bool:
        """Take one retry, if there is one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Course:
    """One request's tries. `repeatable` says that to do it twice is to do it once."""

    def __init__(self, retries: Retries, budget: Budget, *, repeatable: bool) -> None:
        budget.earn()
        self._retries = retries
        self._budget = budget
        self._repeatable = repeatable
        self._tries = 0

    def after_failure(self, exc: httpx2.RequestError) -> float | None:
        """Seconds until the next try after the network failed, None to give up."""
        timed_out = isinstance(exc, httpx2.TimeoutException)
        if isinstance(exc, _NEVER_SENT) or (self._repeatable and not timed_out):
            return self._next(None)
        return None

    def after_reply(self, reply: httpx2.Response) -> float | None:
        """Seconds until the next try after a reply, None when it is the one to go by."""
        if reply.status_code not in _REFUSED:
            return None
        try:
            asked_s = float(reply.headers.get("retry-after", ""))
        except ValueError:
            asked_s = None
        return self._next(asked_s)

    def _next(self, asked_s: float | None) -> float | None:
        self._tries += 1
        if self._tries > self._retries.count or (asked_s or 0.0) > self._retries.longest_s:
            return None
        if not self._budget.spend():
            return None
        # Full jitter, so that clients that failed together do not come back together.
        wait_s = random.uniform(0, 2 * self._retries.first_s * 2 ** (self._tries - 1))
        return min(wait_s + (asked_s or 0.0), self._retries.longest_s)
