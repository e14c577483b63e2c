"""The audit log in the registry: who did what to the appliance, when, from where, and how it ended. It is
bounded, and such that refused calls, which anybody can make, never push out those that were let in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

from mdslite.store.moments import time_text
from mdslite.store.registry import Registry

ADMITTED_MAX = 10_000
REFUSED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Act:
    """One call. `time` in Unix seconds; `who` is a token, a local user or anybody; `origin` an address, maybe
    with the subject of a certificate; `status` the HTTP status; `remark` what came of it."""

    time: float
    who: str
    what: str
    target: str
    origin: str
    status: int
    remark: str
    request_id: str

    @property
    def refused(self) -> bool:
        return self.status in (401, 403)


@dataclass(frozen=True, slots=True)
class Entry:
    """An act with its number, which rises."""

    id: int
    act: Act

    def describe(self) -> dict[str, Any]:
        """Plain values; the time as ISO 8601 in UTC."""
        return {"id": self.id, **asdict(self.act), "time": time_text(self.act.time)}


class Audit:
    """The table. Like the registry, it belongs to the one thread that opened that."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def add(self, *acts: Act) -> None:
        """Keep acts, and drop the oldest of their kind when there are too many."""
        with self._registry.writing() as db:
            for act in acts:
                db.execute(
                    "insert into audit (time, who, what, target, origin, status, remark, request_id, refused)"
                    " values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*astuple(act), act.refused),
                )
            for refused in {act.refused for act in acts}:
                db.execute(
                    "delete from audit where id in (select id from audit where refused = ?"
                    " order by id desc limit -1 offset ?)",
                    (refused, REFUSED_MAX if refused else ADMITTED_MAX),
                )

    def page(self, limit: int, before: int | None = None) -> list[Entry]:
        """Acts, newest first; only those before number `before`, if given."""
        rows = self._registry.read(
            "select * from audit where ? is null or id < ? order by id desc limit ?", before, before, limit
        )
        return [_entry(row) for row in rows]


def _entry(row: Mapping[str, Any]) -> Entry:
    names = ("time", "who", "what", "target", "origin", "status", "remark", "request_id")
    return Entry(row["id"], Act(*(row[name] for name in names)))
