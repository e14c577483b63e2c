"""Requests with an `Idempotency-Key`: the same one again is answered with what came of the first, not carried
out twice. Owns which keys are being worked on; what came of the others is the store's.

What refused a request before it began is not kept: nothing was done, and another try may fare better.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from mdslite.api.operations import Call, Raw
from mdslite.errors import Conflict, InvalidRequest, MdsliteError, Unprocessable
from mdslite.store.receipts import Receipt, Receipts
from mdslite.store.registry import Registry
from mdslite.store.worker import Worker

logger = logging.getLogger(__name__)

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_REPLAYED = (b"idempotent-replayed", b"true")


class Once:
    """Used from the event loop's thread only; the registry is open while it is."""

    def __init__(self, registry: Registry, worker: Worker) -> None:
        self._receipts = Receipts(registry)
        self._worker = worker
        self._running: set[tuple[str, str]] = set()

    async def replay(self, call: Call[Any, Any, Any]) -> Raw | None:
        """What came of this request when it came before. None when it is new: then its key is taken, and
        `keep` has to follow.

        :raises InvalidRequest: the key is none
        :raises Conflict: it is being carried out right now
        :raises Unprocessable: the key was another request's
        """
        name = _name(call)
        if name is None:
            return None
        found = await self._worker.call(self._receipts.find, *name)
        if found is None:
            if name in self._running:
                raise Conflict(
                    "the request with this Idempotency-Key is still being carried out", retry_after_s=1.0
                )
            self._running.add(name)
            return None
        if found.fingerprint != _fingerprint(call):
            raise Unprocessable(
                "this Idempotency-Key came with another request before; expected the same request again",
                hint="make a new key for each change",
            )
        headers = ((key.encode("latin-1"), value.encode("latin-1")) for key, value in found.headers)
        return Raw(found.body, found.media_type, found.status, (*headers, _REPLAYED))

    async def keep(self, call: Call[Any, Any, Any], work: Callable[[], Awaitable[Raw]]) -> Raw:
        """Do the work of a new request, and keep what came of it. Not to be cancelled by its caller."""
        name = _name(call)
        try:
            raw = await work()
            if name is not None and raw.status < 500:
                await self._keep(name, _fingerprint(call), raw)
            return raw
        finally:
            if name is not None:
                self._running.discard(name)

    async def _keep(self, name: tuple[str, str], fingerprint: bytes, raw: Raw) -> None:
        headers = tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in raw.headers)
        receipt = Receipt(fingerprint, raw.status, raw.media_type, headers, raw.body)
        try:
            await self._worker.call(self._receipts.add, *name, receipt)
        except MdsliteError as exc:  # a full disk: what was done is done, and says so
            logger.warning("what came of a request with a key could not be kept: %s", exc.message)


def _name(call: Call[Any, Any, Any]) -> tuple[str, str] | None:
    """Whose key, and which; None where there is none."""
    key = call.headers.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key: expected 1 to 255 visible ASCII characters, such as a UUID")
    grant = call.caller.grant
    return grant.token_id or grant.name, key


def _fingerprint(call: Call[Any, Any, Any]) -> bytes:
    query = msgspec.json.encode(call.query)
    parts = call.method.encode(), call.target.encode(), query, call.content
    return hashlib.sha256(b"\n".join(parts)).digest()
