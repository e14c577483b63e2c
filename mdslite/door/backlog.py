"""Pipelined requests that wait for the one in progress. Owns how many of them are too many to read on."""

from __future__ import annotations

from collections import deque

from mdslite.http.request import Request

_REQUESTS_MAX = 64
_BODY_BYTES = 256 * 1024


class Backlog(deque[Request]):
    """In the order in which they came."""

    __slots__ = ("_body_bytes",)

    def add(self, request: Request) -> bool:
        """Have one wait too; whether these are as many as may."""
        if not self:
            self._body_bytes = 0  # counted since it was empty: the sum need not be kept as they leave
        self.append(request)
        self._body_bytes += len(request.body)
        return len(self) >= _REQUESTS_MAX or self._body_bytes > _BODY_BYTES
