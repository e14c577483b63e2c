"""Which version a request asks for by what it says of itself: a header that a version is matched with, or a
key that keeps its holder with one version. Whatever says nothing goes by the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import numpy as np
import orjson

from mdslite.targets import Match, Sticky

T = TypeVar("T")

# A version's share is met to within a slot or two; a change of weights moves the least number of slots.
SLOTS = 1 << 14


class Selector(Generic[T]):
    """`matches` are asked in order. A key's holder stays for as long as its version keeps its weight."""

    def __init__(
        self,
        *,
        matches: Sequence[tuple[Match, T]] = (),
        sticky: Sticky | None = None,
        versions: Sequence[tuple[str, float, T]] = (),
    ) -> None:
        # By header, so that many versions with a value each cost one lookup; with the place in the order.
        self._matches: dict[bytes, dict[bytes | None, tuple[int, T]]] = {}
        for place, (match, target) in enumerate(matches):
            values = self._matches.setdefault(match.header.lower().encode(), {})
            values.setdefault(match.value.encode() if match.value is not None else None, (place, target))
        self._header = sticky.header.lower().encode() if sticky is not None and sticky.header else None
        self._path = sticky.body.split(".") if sticky is not None and sticky.body else None
        weighted = [one for one in versions if one[1] > 0]
        self._targets = [target for _, _, target in weighted]
        self._table: Sequence[int] = ()
        if sticky is not None and weighted:
            self._table = share_slots([(name, weight) for name, weight, _ in weighted])

    def choose(self, fields: Mapping[bytes, bytes], body: bytes | memoryview) -> T | None:
        """The version that a request asks for, None when it says nothing. `fields` have lower-case names."""
        first: tuple[int, T] | None = None
        for name, values in self._matches.items():
            found = fields.get(name)
            if found is not None:
                for one in (values.get(found.strip()), values.get(None)):
                    if one is not None and (first is None or one[0] < first[0]):
                        first = one
        if first is not None:
            return first[1]
        if not self._table:
            return None
        key = fields.get(self._header) if self._header is not None else self._key_in(body)
        if not key:
            return None
        slot = int.from_bytes(blake2b(key, digest_size=8).digest()) % SLOTS
        return self._targets[self._table[slot]]

    def _key_in(self, body: bytes | memoryview) -> bytes | None:
        if self._path is None:
            return None
        try:
            found: Any = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        for name in self._path:
            if not isinstance(found, dict):
                return None
            found = found.get(name)
        if isinstance(found, str):
            return found.encode()
        return None if found is None or isinstance(found, dict | list) else orjson.dumps(found)


def share_slots(versions: Sequence[tuple[str, float]]) -> list[int]:
    """Give each slot to one version, in proportion to the weights and by names alone, so that every box and
    every restart shares them alike.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005): each
    version draws a number for a slot from a hash of both, and the greatest -weight / ln(number) has it. When
    a weight changes, only slots that the change gains or loses move.
    """
    slots = np.arange(SLOTS, dtype=np.uint64)
    scores = []
    for name, weight in versions:
        seed = np.uint64(int.from_bytes(blake2b(name.encode(), digest_size=8).digest()))
        drawn = (_mix(slots ^ seed) >> np.uint64(11)).astype(np.float64)
        scores.append(-weight / np.log((drawn + 0.5) / (1 << 53)))
    winners: list[int] = np.argmax(np.array(scores), axis=0).tolist()
    return winners


def _mix(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """splitmix64's finalizer (Steele, Lea and Flood, 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
