"""Replays in the registry: what each is at, as who runs them writes it. Owns the table, not its meaning."""

from __future__ import annotations

from mdslite.store.registry import Registry

ENDED_MAX = 200


class ReplayStore:
    """The table. Like the registry, it belongs to the one thread that opened that."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def add(self, project: str, model: str) -> int:
        """Make room for a replay; returns its number."""
        with self._registry.writing() as db:
            number = db.execute(
                "insert into replays (project, model, live, data) values (?, ?, 1, x'') returning id",
                (project, model),
            ).fetchone()[0]
        return int(number)

    def save(self, number: int, data: bytes, *, live: bool) -> None:
        """Write down what a replay is at, and drop the oldest of those that ended."""
        with self._registry.writing() as db:
            db.execute("update replays set data = ?, live = ? where id = ?", (data, live, number))
            if not live:
                db.execute(
                    "delete from replays where id in (select id from replays where live = 0"
                    " order by id desc limit -1 offset ?)",
                    (ENDED_MAX,),
                )

    def live(self) -> list[tuple[int, bytes]]:
        """Those that have not ended, the oldest first."""
        rows = self._registry.read("select id, data from replays where live = 1 and data != x'' order by id")
        return [(row["id"], row["data"]) for row in rows]

    def newest(self, limit: int) -> list[bytes]:
        rows = self._registry.read(
            "select data from replays where data != x'' order by id desc limit ?", limit
        )
        return [row["data"] for row in rows]

    def find(self, number: int) -> bytes | None:
        rows = self._registry.read("select data from replays where data != x'' and id = ?", number)
        return rows[0]["data"] if rows else None
