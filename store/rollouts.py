"""Rollouts in the registry: what each is at, as who runs them writes it. Owns the table, not its meaning."""

from __future__ import annotations

from mdslite.store.registry import Registry

ENDED_MAX = 500


class RolloutStore:
    """The table. Like the registry, it belongs to the one thread that opened that."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def add(self, project: str, model: str) -> int:
        """Make room for a rollout; returns its number."""
        with self._registry.writing() as db:
            number = db.execute(
                "insert into rollouts (project, model, live, data) values (?, ?, 1, x'') returning id",
                (project, model),
            ).fetchone()[0]
        return int(number)

    def save(self, number: int, data: bytes, *, live: bool) -> None:
        """Write down what a rollout is at, and drop the oldest of those that ended."""
        with self._registry.writing() as db:
            db.execute("update rollouts set data = ?, live = ? where id = ?", (data, live, number))
            if not live:
                db.execute(
                    "delete from rollouts where id in (select id from rollouts where live = 0"
                    " order by id desc limit -1 offset ?)",
                    (ENDED_MAX,),
                )

    def live(self) -> list[bytes]:
        """Those that have not ended, the oldest first."""
        rows = self._registry.read("select data from rollouts where live = 1 and data != x'' order by id")
        return [row["data"] for row in rows]

    def replaced_in(self, project: str, model: str, version: str) -> int | None:
        """The revision that made a version the model that it is; None where it never was another."""
        found = self._registry.read(
            "with mine as (select since_revision, until_revision, digest ||"
            " coalesce(json_extract(spec, '$.service_info.endpoints_infos'), '') as what"
            " from versions where project = ? and model = ? and version = ?)"
            " select min(since_revision) as number from mine where since_revision >="
            " (select max(until_revision) from mine where what <>"
            " (select what from mine order by since_revision desc limit 1))",
            project, model, version,
        )  # fmt: skip
        number = found[0]["number"]
        return None if number is None else int(number)

    def newest(self, limit: int) -> list[bytes]:
        rows = self._registry.read(
            "select data from rollouts where data != x'' order by id desc limit ?", limit
        )
        return [row["data"] for row in rows]
