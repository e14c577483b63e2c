"""Labels in the registry: what people say that requests should have been answered, with who said it and when,
and by which rules a model's requests are put before them. Owns four of the registry's tables.

A label keeps a copy of its request and of what each version answered, since the request log is thrown away
after some days. Nothing is overwritten: each change is a row, and to undo one is to mark it.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from sqlite_utils import Database

from mdslite.errors import Conflict, NotFound, StorageFull
from mdslite.store.registry import Registry
from mdslite.store.requests import LoggedBody

Reason = Literal["confidence", "disagreement", "random", "chosen"]

LABELS_MAX = 100_000
BYTES_MAX = 256 * 1024 * 1024  # of copies, compressed
CHANGES_MAX = 50  # of one label
CLASSES_MAX = 40
RULED_MAX = 10_000


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a model's requests are put before people: those less sure than `below_confidence`, those that
    a shadow answered otherwise, and a random `share` of all. `classes` are the labels to choose from, learned
    from answers where there are none."""

    below_confidence: float | None = 0.6
    disagreements: bool = True
    share: float = 0.01
    classes: tuple[str, ...] = ()


class VersionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one version answered: `answer` in a word, and the reply as it was logged."""

    version: str
    shadow: bool = False
    replay: bool = False
    answer: str | None = None
    confidence: float | None = None
    reply: LoggedBody | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A request that can be labelled, as it is copied out of the log. `id` is its row's there, `time` Unix
    seconds; the first of the answers is the primary's."""

    id: int
    request_id: str
    project: str
    model: str
    version: str
    reason: Reason
    time: float
    confidence: float | None
    request: LoggedBody
    answers: tuple[VersionAnswer, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One label that somebody gave; times in Unix seconds."""

    label: str
    note: str
    author: str
    time: float
    undone_by: str | None = None
    undone_at: float | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """An item with all labels that it was given, the oldest first."""

    item: Item
    changes: tuple[Change, ...]

    @property
    def current(self) -> Change | None:
        return next((one for one in reversed(self.changes) if one.undone_at is None), None)


@dataclass(frozen=True, slots=True)
class Count:
    """How many labels of a model have this text, and the answers to them by version."""

    version: str
    reason: Reason
    label: str
    answer: str | None
    shadow: bool
    count: int


class LabelStore:
    """The tables. Like the registry, it belongs to the one thread that opened that."""

    def __init__(
        self,
        registry: Registry,
        *,
        clock: Callable[[], float] = time.time,
        labels_max: int = LABELS_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._labels_max = labels_max
        self._bytes_max = bytes_max

    # Rules

    def rules(self) -> dict[tuple[str, str], Rules]:
        """The rules of each model that has its own."""
        rows = self._registry.read("select project, model, rules from label_rules")
        return {(row["project"], row["model"]): msgspec.json.decode(row["rules"], type=Rules) for row in rows}

    def set_rules(self, project: str, model: str, rules: Rules) -> None:
        """Give a model rules of its own. It need not be deployed.

        :raises Conflict: as many models have some as may
        """
        with self._registry.writing() as db:
            db.execute(
                "insert or replace into label_rules (project, model, rules) values (?, ?, ?)",
                (project, model, msgspec.json.encode(rules).decode()),
            )
            if db.execute("select count(*) from label_rules").fetchone()[0] > RULED_MAX:
                raise Conflict(f"{RULED_MAX} models have rules for labels, which is as many as there may be")

    # Labels

    def put(self, item: Item, label: str, *, note: str, author: str) -> Label:
        """Label a request, or label it otherwise.

        :raises StorageFull: as many are kept as may be, or the disk has no room
        :raises Conflict: it was labelled too often
        """
        data = _pack(item)
        with self._registry.writing() as db:
            known = db.execute("select changes from labels where id = ?", (item.id,)).fetchone()
            if known is None:
                self._check_room(db, len(data))
            elif known[0] >= CHANGES_MAX:
                raise Conflict(f"this request was labelled {CHANGES_MAX} times, as often as it may be")
            db.execute(
                "insert into labels (id, project, model, version, reason, label, data, changes)"
                " values (?, ?, ?, ?, ?, ?, ?, 1)"
                " on conflict do update set label = excluded.label, changes = changes + 1,"
                " data = excluded.data",
                (item.id, item.project, item.model, item.version, item.reason, label, data),
            )
            db.execute(
                "insert into label_changes (label_id, label, note, author, time) values (?, ?, ?, ?, ?)",
                (item.id, label, note, author, self._clock()),
            )
            _put_answers(db, item)
        return self.get(item.id)

    def undo(self, label_id: int, *, author: str) -> Label:
        """Take the last label of a request back: it has the one before it again, or none.

        :raises NotFound: it has none
        """
        with self._registry.writing() as db:
            last = db.execute(
                "select id from label_changes where label_id = ? and undone_at is null"
                " order by id desc limit 1",
                (label_id,),
            ).fetchone()
            if last is None:
                raise NotFound(f"request {label_id} has no label")
            db.execute(
                "update label_changes set undone_at = ?, undone_by = ? where id = ?",
                (self._clock(), author, last[0]),
            )
            db.execute(
                "update labels set label = (select label from label_changes where label_id = labels.id"
                " and undone_at is null order by id desc limit 1) where id = ?",
                (label_id,),
            )
        return self.get(label_id)

    def add_answer(self, label_id: int, answer: VersionAnswer) -> None:
        """Keep what another version answered to a labelled request, in the place of what it answered before;
        nothing where there is no such label."""
        found = self._registry.read("select data from labels where id = ?", label_id)
        if not found:
            return
        item = _unpack(found[0]["data"])
        if any(one.version == answer.version and not one.replay for one in item.answers):
            return  # what it said when it was asked in earnest counts
        kept = [one for one in item.answers if one.version != answer.version]
        item = msgspec.structs.replace(item, answers=(*kept, answer))
        with self._registry.writing() as db:
            db.execute("update labels set data = ? where id = ?", (_pack(item), label_id))
            _put_answers(db, item)

    def get(self, label_id: int) -> Label:
        """:raises NotFound: the request was never labelled"""
        found = self.find(label_id)
        if found is None:
            raise NotFound(f"request {label_id} has no label")
        return found

    def find(self, label_id: int) -> Label | None:
        rows = self._registry.read("select id, data from labels where id = ?", label_id)
        return self._labels(rows)[0] if rows else None

    def labelled(self, ids: Sequence[int]) -> set[int]:
        """Which of these requests have a label."""
        found: set[int] = set()
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            marks = ",".join("?" * len(some))
            rows = self._registry.read(
                f"select id from labels where label is not null and id in ({marks})", *some
            )
            found.update(row["id"] for row in rows)
        return found

    def page(
        self,
        *,
        project: str | None = None,
        model: str | None = None,
        label: str | None = None,
        limit: int,
        before: int | None = None,
    ) -> list[Label]:
        """Labels by their requests' ids, the newest first; ids below `before` alone."""
        rows = self._registry.read(
            "select id, data from labels where label is not null and (?1 is null or project = ?1)"
            " and (?2 is null or model = ?2) and (?3 is null or label = ?3) and (?4 is null or id < ?4)"
            " order by id desc limit ?5",
            project,
            model,
            label,
            before,
            limit,
        )
        return self._labels(rows)

    def counts(self, project: str, model: str) -> list[Count]:
        """What a model's versions answered to the requests that have a label now, summed up."""
        rows = self._registry.read(
            "select a.version, l.reason, l.label, a.answer, a.shadow, count(*) as count from labels l"
            " join label_answers a on a.label_id = l.id"
            " where l.project = ? and l.model = ? and l.label is not null"
            " group by a.version, l.reason, l.label, a.answer, a.shadow",
            project,
            model,
        )
        return [Count(**{**row, "shadow": bool(row["shadow"])}) for row in rows]

    def size(self, project: str, model: str) -> int:
        """How many of a model's requests have a label."""
        count = "select count(*) as n from labels where project = ? and model = ? and label is not null"
        return int(self._registry.read(count, project, model)[0]["n"])

    def classes(self, project: str, model: str) -> list[str]:
        """A model's labels, the most frequent first."""
        rows = self._registry.read(
            "select label from labels where project = ? and model = ? and label is not null"
            " group by label order by count(*) desc, label limit ?",
            project,
            model,
            CLASSES_MAX,
        )
        return [row["label"] for row in rows]

    def _check_room(self, db: Database, size: int) -> None:
        count, size_bytes = db.execute(
            "select count(*), coalesce(sum(length(data)), 0) from labels"
        ).fetchone()
        if count >= self._labels_max or size_bytes + size > self._bytes_max:
            raise StorageFull(
                f"{count} labels are kept with {size_bytes} bytes of requests, as much as may be",
                hint="export them, and forget those of models that are gone: mdslite label P/M --forget",
            )

    def forget(self, project: str, model: str) -> int:
        """Drop a model's labels with their history; returns how many there were."""
        which = "(select id from labels where project = ? and model = ?)"
        with self._registry.writing() as db:
            for table in ("label_changes", "label_answers"):
                db.execute(f"delete from {table} where label_id in {which}", (project, model))
            gone = db.execute("delete from labels where project = ? and model = ?", (project, model))
        return int(gone.rowcount)

    def _labels(self, rows: Sequence[Mapping[str, Any]]) -> list[Label]:
        if not rows:
            return []
        ids = [row["id"] for row in rows]
        changes: dict[int, list[Change]] = {}
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            for row in self._registry.read(
                "select label_id, label, note, author, time, undone_by, undone_at from label_changes"
                f" where label_id in ({','.join('?' * len(some))}) order by id",
                *some,
            ):
                change = {name: value for name, value in row.items() if name != "label_id"}
                changes.setdefault(row["label_id"], []).append(Change(**change))
        return [Label(_unpack(row["data"]), tuple(changes.get(row["id"], ()))) for row in rows]


def _put_answers(db: Database, item: Item) -> None:
    db.execute("delete from label_answers where label_id = ?", (item.id,))
    for one in {answer.version: answer for answer in reversed(item.answers)}.values():
        db.execute(
            "insert into label_answers (label_id, version, shadow, answer) values (?, ?, ?, ?)",
            (item.id, one.version, one.shadow or one.replay, one.answer),
        )


def _pack(item: Item) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(item), 6)


def _unpack(data: bytes) -> Item:
    return msgspec.msgpack.decode(zlib.decompress(data), type=Item)
