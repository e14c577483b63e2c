"""What is kept of watching versions for drift: `drift.db` in a folder of its own, written by the request
log's writer and read by the appliance; and `wishes.json` beside it, which goes the other way. Owns their
forms. `hours` are sketches, a row for each hour and version; all else that is known of a version is one row
of `watches`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from mdslite.drift.baseline import Baseline
from mdslite.drift.sketches import Window
from mdslite.drift.watch import Signal
from mdslite.errors import StoreCorrupt, StoreError
from mdslite.store.database import connect_reader, connect_writer, sqlite_errors
from mdslite.store.disk import storage_errors
from mdslite.store.recovery import DRIFT_DATABASE

KEPT_S = 8 * 86_400.0  # of hours: a week, and a day to choose it
HOURS_BYTES = 256 << 20  # of all versions' hours; the oldest go
ALERTS_MAX = 10_000
WISHES = "wishes.json"
SET_AGAIN = "set them again: mdslite alerts --webhook URL, mdslite drift P/M --baseline SINCE"
SET_ASIDE = ".damaged"  # behind the name of what could not be read, with when that was

_SCHEMA = """
create table if not exists watches (
  project text not null, model text not null, version text not null, shadow integer not null,
  data blob not null, baseline blob, primary key (project, model, version, shadow)
) without rowid;
create table if not exists hours (
  project text not null, model text not null, version text not null, shadow integer not null,
  start integer not null, data blob not null, primary key (project, model, version, shadow, start)
) without rowid;
create table if not exists alerts (
  id integer primary key autoincrement, time real not null, project text not null, model text not null,
  data blob not null
);
create index if not exists alerts_by_time on alerts (time);
"""


class Key(NamedTuple):
    """A version, as itself or as a shadow: what it is asked and how fast it may be differ."""

    project: str
    model: str
    version: str
    shadow: bool


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The baseline that somebody chose for a model: a span of time, and maybe one version's."""

    since: float
    until: float
    version: str | None = None


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that serves as a version, and since when."""

    project: str
    model: str
    version: str
    digest: str
    since: float


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What the appliance tells the writer: what is deployed, and each model's baseline by `PROJECT/MODEL`.
    `told` is the last alert that was passed on, `webhook` where to."""

    deployed: list[Deployed] = []
    chosen: dict[str, Chosen] = {}
    webhook: str | None = None
    told: int = 0


class Record(msgspec.Struct, kw_only=True):
    """What is known of a version under watch. `notes` says how its baseline stands, for people."""

    digest: str
    began: float
    known: list[str]
    vocabulary: dict[str, list[str]]
    signals: list[Signal]
    note: str
    chosen: Chosen | None = None  # that the baseline was built for
    requests: int = 0  # of the last full hour, as all that follows
    rows: int = 0
    unread: int = 0
    left_out: int = 0
    seen_at: float = 0.0
    counted_to: float = 0.0  # what came later waits for the next look


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline without what was usual."""

    chosen: bool
    source: str
    since: float
    until: float
    hours: int
    requests: int
    rows: int


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that fires, or is resolved: then `opened` is the alert that said it fired."""

    id: int
    time: float
    project: str
    model: str
    version: str
    shadow: bool
    signal: str
    state: Literal["firing", "resolved"]
    text: str
    window: str | None
    test: str | None
    statistic: float | None
    p: float | None
    measure: str | None
    effect: float | None
    threshold: float | None
    count: int
    opened: int | None


@dataclass(frozen=True, slots=True)
class Watched:
    """A version as the appliance reads it."""

    key: Key
    record: Record
    baseline: Head | None


def read_wishes(folder: Path) -> Wishes:
    """What was wished last; nothing where there is no file.

    :raises StoreCorrupt: it is damaged
    :raises StoreError: it cannot be read
    """
    path = folder.absolute() / WISHES
    try:
        return msgspec.json.decode(path.read_bytes(), type=Wishes)
    except FileNotFoundError:
        return Wishes()
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {exc.strerror}", hint="check its permissions") from exc
    except ValueError as exc:
        raise StoreCorrupt(
            f"{path}, with the alerts' webhook and the baselines that were chosen, is damaged: {exc}",
            hint=f"the next mdslite up sets it aside; {SET_AGAIN}",
        ) from exc


def recover_wishes(folder: Path) -> tuple[Wishes, Path | None]:
    """What was wished last; of a damaged file nothing, and under which name it is kept.

    :raises StoreError: it can neither be read nor set aside
    """
    try:
        return read_wishes(folder), None
    except StoreCorrupt:
        aside = folder / f"{WISHES}{SET_ASIDE}-{time.time_ns()}"
        with storage_errors(WISHES):
            (folder / WISHES).rename(aside)
        return Wishes(), aside.absolute()


def wishes_set_aside(folder: Path) -> list[Path]:
    """The damaged files that were set aside, the oldest first."""
    return sorted(folder.absolute().glob(f"{WISHES}{SET_ASIDE}-*"))


def write_wishes(folder: Path, wishes: Wishes) -> None:
    """Put a file in place of the last one, whole or not at all.

    :raises StorageFull: the disk takes no more
    :raises StoreError: the folder cannot be written
    """
    fresh = folder / f"{WISHES}.new"
    with storage_errors(WISHES):
        folder.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(wishes))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / WISHES)


@dataclass(slots=True)
class DriftStore:
    """The tables, for their one writer."""

    folder: Path
    hours_bytes: int = HOURS_BYTES
    _db: sqlite3.Connection | None = field(default=None, init=False)

    @property
    def path(self) -> Path:
        return self.folder / DRIFT_DATABASE

    def open(self) -> None:
        """
        :raises MdsliteError: the database cannot be used
        """
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with sqlite_errors(self.path):
                self.path.touch()
                self._db = connect_writer(self.path)
                self._db.executescript("pragma synchronous = normal; pragma journal_size_limit = 8388608")
                self._db.executescript(_SCHEMA)
        except OSError as exc:
            raise StoreError(f"{DRIFT_DATABASE} cannot be made: {exc.strerror}") from exc

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """All that is written in the block, or nothing of it."""
        with sqlite_errors(self.path), self._open:
            yield

    def save(self, key: Key, record: Record) -> None:
        self._open.execute(
            "insert into watches values (?, ?, ?, ?, ?, null) on conflict do update set data = excluded.data",
            (*key, msgspec.msgpack.encode(record)),
        )

    def save_baseline(self, key: Key, baseline: Baseline | None) -> None:
        data = None if baseline is None else msgspec.msgpack.encode(baseline)
        self._open.execute(
            "update watches set baseline = ? where project = ? and model = ? and version = ? and shadow = ?",
            (data, *key),
        )

    def save_hour(self, key: Key, start: int, window: Window) -> None:
        self._open.execute(
            "insert or replace into hours values (?, ?, ?, ?, ?, ?)", (*key, start, window.encode())
        )

    def add_alert(self, alert: Alert) -> int:
        """Keep an alert; its number is a new one."""
        number = self._open.execute(
            "insert into alerts (time, project, model, data) values (?, ?, ?, ?) returning id",
            (alert.time, alert.project, alert.model, msgspec.msgpack.encode(alert)),
        ).fetchone()[0]
        self._open.execute("delete from alerts where id <= ?", (number - ALERTS_MAX,))
        return int(number)

    def forget(self, key: Key, *, hours_only: bool = False) -> None:
        for table in ("hours",) if hours_only else ("hours", "watches"):
            self._open.execute(
                f"delete from {table} where project = ? and model = ? and version = ? and shadow = ?", key
            )

    def tidy(self, now: float) -> None:
        """Drop hours that are too old, and the oldest of what is too much."""
        self._open.execute("delete from hours where start < ?", (now - KEPT_S,))
        sizes = self._open.execute(
            "select start, sum(length(data)) from hours group by start order by start desc"
        ).fetchall()
        total = 0
        for start, size_bytes in sizes:
            total += size_bytes
            if total > self.hours_bytes:
                self._open.execute("delete from hours where start <= ?", (start,))
                break

    def load(self) -> list[tuple[Key, Record, Baseline | None]]:
        """Every version that is known."""
        with sqlite_errors(self.path):
            rows = self._open.execute("select * from watches").fetchall()
        found = []
        for project, model, version, shadow, data, baseline in rows:
            with contextlib.suppress(msgspec.DecodeError):  # of another edition: it is learnt anew
                found.append(
                    (
                        Key(project, model, version, bool(shadow)),
                        msgspec.msgpack.decode(data, type=Record),
                        None if baseline is None else msgspec.msgpack.decode(baseline, type=Baseline),
                    )
                )
        return found

    def hours(self, key: Key, *, since: float, until: float) -> list[tuple[int, Window]]:
        """The sketches of hours that begin in [since, until), oldest first."""
        with sqlite_errors(self.path):
            rows = self._open.execute(
                "select start, data from hours where project = ? and model = ? and version = ? and shadow = ?"
                " and start >= ? and start < ? order by start",
                (*key, since, until),
            ).fetchall()
        found = []
        for start, data in rows:
            with contextlib.suppress(ValueError):
                found.append((start, Window.decode(data)))
        return found

    @property
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"{DRIFT_DATABASE} is not open")
        return self._db


@dataclass(frozen=True, slots=True)
class DriftReader:
    """What was written, for the appliance. Every method opens the file and blocks."""

    folder: Path

    def watched(self, project: str | None = None, model: str | None = None) -> list[Watched]:
        """Versions under watch, by name."""
        with self._reading() as db:
            rows = (
                []
                if db is None
                else db.execute(
                    "select project, model, version, shadow, data, baseline from watches"
                    " where project = ifnull(?, project) and model = ifnull(?, model)"
                    " order by project, model, version, shadow",
                    (project, model),
                ).fetchall()
            )
        found = []
        for one_project, one_model, version, shadow, data, baseline in rows:
            with contextlib.suppress(msgspec.DecodeError):
                found.append(
                    Watched(
                        Key(one_project, one_model, version, bool(shadow)),
                        msgspec.msgpack.decode(data, type=Record),
                        None if baseline is None else msgspec.msgpack.decode(baseline, type=Head),
                    )
                )
        return found

    def alerts(
        self,
        *,
        since: float = 0.0,
        before: int | None = None,
        after: int | None = None,
        project: str | None = None,
        model: str | None = None,
        limit: int = 100,
    ) -> list[Alert]:
        """The newest first; with `after`, those that came then, the oldest first."""
        order = "desc" if after is None else "asc"
        with self._reading() as db:
            rows = (
                []
                if db is None
                else db.execute(
                    "select id, data from alerts where time >= ? and (? is null or id < ?) and id > ?"
                    " and project = ifnull(?, project) and model = ifnull(?, model)"
                    f" order by id {order} limit ?",
                    (since, before, before, after or 0, project, model, limit),
                ).fetchall()
            )
        found = []
        for number, data in rows:
            with contextlib.suppress(msgspec.DecodeError):  # of another edition
                alert = msgspec.msgpack.decode(data, type=Alert)
                found.append(msgspec.structs.replace(alert, id=number))
        return found

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        path = self.folder / DRIFT_DATABASE
        if not path.exists():
            yield None
            return
        with sqlite_errors(path), contextlib.closing(connect_reader(path)) as db:
            # The writer makes the tables in a moment.
            made = db.execute("select count(*) from sqlite_schema where name = 'alerts'").fetchone()[0]
            yield db if made else None
