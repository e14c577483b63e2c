"""How a model's shadow versions answered beside its primary ones: sums by the minute of each pair of
versions, and the requests on which they disagreed. A database of its own, `comparisons.db`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Literal, get_args

from mdslite.store.database import Ledger, sqlite_errors

KEPT_S = 30 * 86_400.0
DISAGREEMENTS_MAX = 2_000  # of each pair
BODY_BYTES = 4096

# Why a copy came to no comparison: requests left no time for it, its version was behind with others, it had
# waited for longer than a prediction may take, its version took none, or nobody came to judging the answers.
DropReason = Literal["busy", "slow", "late", "refused", "unjudged"]

_SCHEMA = """
create table if not exists minutes (
  project text not null, model text not null, primary_version text not null, shadow_version text not null,
  minute integer not null,
  pairs integer not null, compared integer not null, agreed integer not null,
  primary_errors integer not null, shadow_errors integer not null,
  latency_count integer not null, latency_sum real not null, latency_squares real not null,
  confidence_count integer not null, confidence_sum real not null, confidence_squares real not null,
  dropped_busy integer not null default 0, dropped_slow integer not null default 0,
  dropped_late integer not null default 0, dropped_refused integer not null default 0,
  dropped_unjudged integer not null default 0,
  primary key (project, model, primary_version, shadow_version, minute)
) without rowid;
create table if not exists disagreements (
  id integer primary key, project text not null, model text not null,
  primary_version text not null, shadow_version text not null, time real not null,
  request_id text not null, request blob, primary_reply blob, shadow_reply blob
);
create index if not exists disagreements_by_pair on disagreements
  (project, model, primary_version, shadow_version, id);
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions of one model that answered the same requests."""

    project: str
    model: str
    primary: str
    shadow: str


@dataclass(slots=True)
class Sums:
    """What became of a number of pairs. Differences are the shadow's less the primary's: latencies in
    milliseconds, confidences where both have one. `dropped_...` are copies that became no pair."""

    pairs: int = 0
    compared: int = 0  # both answered, and their answers could be compared
    agreed: int = 0
    primary_errors: int = 0
    shadow_errors: int = 0
    latency_count: int = 0
    latency_sum: float = 0.0
    latency_squares: float = 0.0
    confidence_count: int = 0
    confidence_sum: float = 0.0
    confidence_squares: float = 0.0
    dropped_busy: int = 0
    dropped_slow: int = 0
    dropped_late: int = 0
    dropped_refused: int = 0
    dropped_unjudged: int = 0

    @property
    def dropped(self) -> int:
        """For whatever reason."""
        return sum(getattr(self, f"dropped_{reason}") for reason in get_args(DropReason))

    def drop(self, reason: DropReason, count: int) -> None:
        """Count copies that became no pair."""
        name = f"dropped_{reason}"
        setattr(self, name, getattr(self, name) + count)

    def take(self, others: Sums) -> None:
        """Add another number of pairs."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(others, name))

    def add(self, *, slower_ms: float, surer: float | None) -> None:
        """Count the differences of a pair that both answered."""
        self.latency_count += 1
        self.latency_sum += slower_ms
        self.latency_squares += slower_ms * slower_ms
        if surer is not None:
            self.confidence_count += 1
            self.confidence_sum += surer
            self.confidence_squares += surer * surer


_SUMS = tuple(one.name for one in fields(Sums))


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One request that two versions answered differently; bodies are cut to BODY_BYTES."""

    pair: Pair
    time: float
    request_id: str
    request: bytes
    primary_reply: bytes
    shadow_reply: bytes


class ComparisonStore(Ledger):
    """The tables."""

    def _lay_out(self, db: sqlite3.Connection) -> None:
        db.executescript(_SCHEMA)
        known = {row[1] for row in db.execute("pragma table_info(minutes)")}
        for name in _SUMS:
            if name not in known:  # a store that was made before copies were counted
                db.execute(f"alter table minutes add column {name} integer not null default 0")

    def add(
        self, sums: Sequence[tuple[Pair, int, Sums]], disagreements: Sequence[Disagreement], *, now: float
    ) -> None:
        """Add sums of minutes (Unix seconds), and requests; what is too old or too much is dropped."""
        changes = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
        with sqlite_errors(self.path), self._open as db:
            db.executemany(
                "insert into minutes (project, model, primary_version, shadow_version, minute,"
                f" {', '.join(_SUMS)}) values ({', '.join('?' * (5 + len(_SUMS)))})"
                f" on conflict do update set {changes}",
                [(*astuple(pair), minute, *astuple(found)) for pair, minute, found in sums],
            )
            db.executemany(
                "insert into disagreements (project, model, primary_version, shadow_version, time,"
                " request_id, request, primary_reply, shadow_reply) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *astuple(one.pair),
                        one.time,
                        one.request_id,
                        one.request[:BODY_BYTES],
                        one.primary_reply[:BODY_BYTES],
                        one.shadow_reply[:BODY_BYTES],
                    )
                    for one in disagreements
                ],
            )
            for pair in {one.pair for one in disagreements}:
                db.execute(
                    "delete from disagreements where id in (select id from disagreements where project = ?"
                    " and model = ? and primary_version = ? and shadow_version = ? order by id desc"
                    " limit -1 offset ?)",
                    (*astuple(pair), DISAGREEMENTS_MAX),
                )
            db.execute("delete from minutes where minute < ?", (now - KEPT_S,))

    def sums(self, pair: Pair, *, since: float, until: float) -> Sums:
        """All of a pair's minutes that begin within [since, until)."""
        with sqlite_errors(self.path):
            row = self._open.execute(
                f"select {', '.join(f'coalesce(sum({name}), 0)' for name in _SUMS)} from minutes where"
                " project = ? and model = ? and primary_version = ? and shadow_version = ?"
                " and minute >= ? and minute < ?",
                (*astuple(pair), since - since % 60, until),
            ).fetchone()
        return Sums(*row)

    def disagreements(
        self, pair: Pair, *, limit: int, since: float = 0.0, before: int | None = None
    ) -> list[tuple[int, Disagreement]]:
        """A pair's requests with their numbers, the newest first."""
        with sqlite_errors(self.path):
            rows = self._open.execute(
                "select id, time, request_id, request, primary_reply, shadow_reply from disagreements where"
                " project = ? and model = ? and primary_version = ? and shadow_version = ? and time >= ?"
                " and (? is null or id < ?) order by id desc limit ?",
                (*astuple(pair), since, before, before, limit),
            ).fetchall()
        return [(row[0], Disagreement(pair, *row[1:])) for row in rows]

    def disagreed(self, after: int | None, *, limit: int) -> list[tuple[int, Disagreement]]:
        """Disagreements of all pairs that came after a number, the oldest first; without one, the newest."""
        with sqlite_errors(self.path):
            rows = self._open.execute(
                "select * from (select id, project, model, primary_version, shadow_version, time, request_id,"
                " request, primary_reply, shadow_reply from disagreements where ?1 is null or id > ?1"
                " order by case when ?1 is null then -id else id end limit ?2) order by id",
                (after, limit),
            ).fetchall()
        return [(row[0], Disagreement(Pair(*row[1:5]), *row[5:])) for row in rows]
