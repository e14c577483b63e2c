"""What watches that nothing of a request is left: neither its call nor its share of the budget for bodies."""

from __future__ import annotations

import weakref
from pathlib import Path

import models
from doors import Deployed
from waiting import until

from mdslite.http.budget import BODIES
from mdslite.predict.books import Books
from mdslite.predict.call import Call

MIB = 1024 * 1024
LIMIT_S = 10.0


class Witness(Books):
    """Remembers the calls without keeping them."""

    def __init__(self) -> None:
        super().__init__(None)
        self.seen: list[weakref.ref[Call]] = []

    def record(self, call: Call, status: int, code: str | None, reply: bytes | None) -> None:
        self.seen.append(weakref.ref(call))
        super().record(call, status, code, reply)

    async def all_gone(self, count: int) -> None:
        """Wait until so many calls have ended, of which nothing is left."""
        await until(lambda: len(self.seen) >= count, limit_s=LIMIT_S)
        await until(lambda: not any(one() for one in self.seen) and free() == 8 * MIB, limit_s=LIMIT_S)
        assert len(self.seen) == count


def free() -> int:
    return BODIES.most_bytes - BODIES.used_bytes


def wide(folder: Path) -> Deployed:
    """x FP32 [N, L] → y FP32 [N]: large bodies, small answers."""
    return Deployed(models.sixth(folder / "m.onnx"))
