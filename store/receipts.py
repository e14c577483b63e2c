"""What requests with a key came to, kept in the registry for a day, so that one that is sent again is
answered and not carried out twice. Bounded: the oldest go first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from time import time

from mdslite.store.registry import Registry

KEPT_S = 24 * 3600.0
RECEIPTS_MAX = 1_000
BODY_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class Receipt:
    """A reply, and the fingerprint of the request that it answered."""

    fingerprint: bytes
    status: int
    media_type: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Receipts:
    """The table. Like the registry, it belongs to the one thread that opened that."""

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time) -> None:
        self._registry = registry
        self._clock = clock

    def find(self, who: str, key: str) -> Receipt | None:
        """What came of somebody's request with this key, if it is not forgotten."""
        rows = self._registry.read(
            "select * from receipts where who = ? and key = ? and time > ?", who, key, self._clock() - KEPT_S
        )
        if not rows:
            return None
        row = rows[0]
        headers = tuple((name, value) for name, value in json.loads(row["headers"]))
        return Receipt(row["fingerprint"], row["status"], row["media_type"], headers, row["body"])

    def add(self, who: str, key: str, receipt: Receipt) -> None:
        """Keep what came of a request, and drop what is too old or too much."""
        if len(receipt.body) > BODY_BYTES_MAX:
            return
        now = self._clock()
        with self._registry.writing() as db:
            db.execute(
                "insert or replace into receipts (who, key, time, fingerprint, status, media_type, headers,"
                " body) values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    who,
                    key,
                    now,
                    receipt.fingerprint,
                    receipt.status,
                    receipt.media_type,
                    json.dumps(receipt.headers),
                    receipt.body,
                ),
            )
            db.execute("delete from receipts where time <= ?", (now - KEPT_S,))
            db.execute(
                "delete from receipts where rowid in"
                " (select rowid from receipts order by time desc limit -1 offset ?)",
                (RECEIPTS_MAX,),
            )
