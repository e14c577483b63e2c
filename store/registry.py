"""The registry: which version of which model is deployed, since when, by whom and from which bytes.

One transaction writes one revision. A version's row is never changed, only closed: so the state after any
revision, or at any time, can be read back. Owns `registry.db` and nothing else of the store; it is not
thread-safe, and belongs to the one thread that opened it (see `worker.py`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlite_utils import Database

from mdslite.errors import Conflict, NotFound, StoreError
from mdslite.store.database import check_beside, connect_writer, first_fault, size_fault, sqlite_errors
from mdslite.store.disk import draft_path, storage_errors, sync_folder
from mdslite.store.migrations import APPLICATION_ID, make_migrations, unknown_migrations
from mdslite.store.recovery import corrupt_store, finish_restore

ArtifactKind = Literal["file", "folder"]
RevisionState = Literal["applied", "failed"]


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One deployed version. `spec` is plain JSON; `memory_bytes` None means not measured.

    `since_revision` is filled in when reading: the revision that made the row what it is.
    """

    project: str
    model: str
    version: str
    spec: Mapping[str, Any]
    digest: str
    size_bytes: int
    memory_bytes: int | None = None
    since_revision: int | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.project, self.model, self.version


@dataclass(frozen=True, slots=True)
class Revision:
    """One apply. `time` in Unix seconds; `diff` is plain JSON; `source` is the text that was applied."""

    id: int
    time: float
    author: str
    reason: str
    state: RevisionState
    error: str | None
    diff: Any
    source: str


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    digest: str
    kind: ArtifactKind
    size_bytes: int
    origin: str
    added_at: float


class Registry:
    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._opened: Database | None = None

    def open(self) -> None:
        """Open the registry, creating or migrating it, after finishing a restore that was cut short and a
        look at the databases beside it: what is damaged is to be known before anybody is served.

        :raises StoreCorrupt: names the newest backup and the command that restores it
        :raises StoreError: the registry was written by a newer mdslite
        :raises StorageFull: there is no room to create or migrate it
        """
        finish_restore(self.path.parent)
        fault = size_fault(self.path)
        if fault is not None:
            raise corrupt_store(self.path.parent, fault)
        check_beside(self.path.parent)
        if not self.path.exists():
            self._create()
        with sqlite_errors(self.path):
            db = Database(connect_writer(self.path), execute_plugins=False)
            try:
                self._examine(db)
                make_migrations().apply(db)
            except BaseException:
                db.close()
                raise
        self._opened = db

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def current(self) -> list[VersionRow]:
        """Read what is deployed, in file order."""
        return self._versions("until_revision is null", ())

    def at_revision(self, number: int) -> list[VersionRow]:
        """Read what was deployed after revision `number`; 0 is the state before the first one.

        :raises NotFound: there is no such revision
        """
        if number != 0:
            self.revision(number)
        during = "since_revision <= ? and (until_revision is null or until_revision > ?)"
        return self._versions(during, (number, number))

    def in_force(self, number: int) -> int:
        """The revision that was in force after revision `number`, which may have failed; 0 before any was."""
        newest = "select max(id) as id from revisions where state = 'applied' and id <= ?"
        return int(self.read(newest, number)[0]["id"] or 0)

    def at_time(self, unix_s: float) -> list[VersionRow]:
        """Read what was deployed at a time; nothing before the first revision."""
        newest = "select max(id) as id from revisions where state = 'applied' and time <= ?"
        return self.at_revision(self.read(newest, unix_s)[0]["id"] or 0)

    def replaced_at(self, project: str, model: str, version: str) -> float:
        """Read when a version ceased to be another model than it is, or was last; 0.0 if it never was one."""
        found = self.read(
            "with mine as (select * from versions where project = ? and model = ? and version = ?)"
            " select max(time) as time from mine join revisions on revisions.id = until_revision"
            " where digest <> (select digest from mine order by since_revision desc limit 1)",
            project, model, version,
        )  # fmt: skip
        return found[0]["time"] or 0.0

    def commit(
        self,
        *,
        author: str,
        reason: str,
        source: str,
        diff: Any,
        versions: Sequence[VersionRow],
        expect_revision: int | None = None,
    ) -> int:
        """Make `versions` the whole of what is deployed, in one transaction; return the revision's number.

        Rows that stay as they are keep their `since_revision`.

        :raises Conflict: `expect_revision` is given and is not the latest applied one (0: none yet)
        :raises StorageFull: nothing was changed
        """
        with self.writing() as db:
            if expect_revision is not None:
                _check_expected(db, expect_revision)
            number = self._add_revision(db, (author, reason, "applied", None, _to_json(diff), source))
            _replace_versions(db, number, versions)
        return number

    def record_failure(self, *, author: str, reason: str, source: str, diff: Any, error: str) -> int:
        """Record an apply that changed nothing, and why."""
        with self.writing() as db:
            return self._add_revision(db, (author, reason, "failed", error, _to_json(diff), source))

    def revisions(self, limit: int, before: int | None = None) -> list[Revision]:
        """Read revisions, newest first; only those older than `before`, if given."""
        page = "select * from revisions where ? is null or id < ? order by id desc limit ?"
        return [_revision(row) for row in self.read(page, before, before, limit)]

    def revision(self, number: int) -> Revision:
        """Read one revision.

        :raises NotFound: there is no such revision
        """
        found = self.read("select * from revisions where id = ?", number)
        if not found:
            raise NotFound(f"there is no revision {number}", hint="mdslite history lists them")
        return _revision(found[0])

    def latest(self) -> Revision | None:
        """Read the latest applied revision."""
        found = self.read("select * from revisions where state = 'applied' order by id desc limit 1")
        return _revision(found[0]) if found else None

    def last_of_file(self) -> Revision | None:
        """Read the latest applied revision of a file; going back to a revision has none."""
        found = self.read(
            "select * from revisions where state = 'applied' and source <> '' order by id desc limit 1"
        )
        return _revision(found[0]) if found else None

    def add_artifact(self, digest: str, *, kind: ArtifactKind, size_bytes: int, origin: str) -> None:
        """Record where an artifact came from; the first origin of the same bytes is kept."""
        with self.writing() as db:
            db.execute(
                "insert or ignore into artifacts (digest, kind, size_bytes, origin, added_at)"
                " values (?, ?, ?, ?, ?)",
                (digest, kind, size_bytes, origin, self._clock()),
            )

    def artifact(self, digest: str) -> ArtifactRow | None:
        found = self.read("select * from artifacts where digest = ?", digest)
        return ArtifactRow(**found[0]) if found else None

    def artifacts(self) -> list[ArtifactRow]:
        return [ArtifactRow(**row) for row in self.read("select * from artifacts order by added_at, digest")]

    def referenced(self) -> set[str]:
        """Collect the digests that any revision refers to: what an undo may need again."""
        return {row["digest"] for row in self.read("select distinct digest from versions")}

    def forget_artifacts(self, digests: Sequence[str]) -> None:
        """Drop the records and probes of artifacts that were removed from the store."""
        with self.writing() as db:
            for digest in digests:
                db.execute("delete from artifacts where digest = ?", (digest,))
                db.execute("delete from probes where digest = ?", (digest,))

    def add_probe(self, digest: str, *, runtime: str, engine: str, report: Mapping[str, Any]) -> None:
        """Keep what a probe found; `engine` names the build that probed, such as `onnxruntime 1.31.1`."""
        with self.writing() as db:
            db.execute(
                "insert or replace into probes (digest, engine, runtime, report, probed_at)"
                " values (?, ?, ?, ?, ?)",
                (digest, engine, runtime, _to_json(report), self._clock()),
            )

    def probe(self, digest: str, engine: str) -> dict[str, Any] | None:
        """Read what a probe of these bytes by this engine found, if there was one."""
        found = self.read("select report from probes where digest = ? and engine = ?", digest, engine)
        return dict(json.loads(found[0]["report"])) if found else None

    @contextmanager
    def writing(self) -> Iterator[Database]:
        """One transaction, for this module and the store's others that keep tables in the registry.

        :raises StorageFull: nothing of it is kept
        """
        with sqlite_errors(self.path), self._db.atomic():
            yield self._db

    def read(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with sqlite_errors(self.path):
            return list(self._db.query(sql, values))

    @property
    def _db(self) -> Database:
        assert self._opened is not None, "the registry is not open"
        return self._opened

    def _create(self) -> None:
        """Make a registry under another name first: a crash on the way leaves none, and no half of one."""
        draft = draft_path(self.path)
        with storage_errors():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.touch(mode=0o600)
        with sqlite_errors(self.path):
            db = Database(connect_writer(draft), execute_plugins=False)
            try:
                db.execute(f"pragma application_id = {APPLICATION_ID}")
                make_migrations().apply(db)
            finally:
                db.close()  # merges the journal and removes it
        with storage_errors():
            os.rename(draft, self.path)
            sync_folder(self.path.parent)

    def _examine(self, db: Database) -> None:
        fault = first_fault(db.conn)
        if fault is None and db.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
            fault = "it is some other SQLite database"
        if fault is not None:
            raise corrupt_store(self.path.parent, fault)
        unknown = unknown_migrations(db)
        if unknown:
            raise StoreError(
                f"the store {self.path.parent} was written by a newer mdslite ({unknown[-1]})",
                hint="install that mdslite again, or restore a backup made before it",
            )

    def _versions(self, where: str, values: tuple[int, ...]) -> list[VersionRow]:
        rows = self.read(f"select * from versions where {where} order by position, id", *values)
        return [_version(row) for row in rows]

    def _add_revision(
        self, db: Database, fields: tuple[str, str, RevisionState, str | None, str, str]
    ) -> int:
        # Never before the one before it, even if the clock was set back: `at_time` relies on the order.
        newest = db.execute("select max(time) from revisions").fetchone()[0]
        now = max(self._clock(), newest or 0.0)
        cursor = db.execute(
            "insert into revisions (time, author, reason, state, error, diff, source)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            (now, *fields),
        )
        return int(cursor.lastrowid or 0)


def _check_expected(db: Database, expected: int) -> None:
    latest = db.execute("select max(id) from revisions where state = 'applied'").fetchone()[0] or 0
    if latest != expected:
        raise Conflict(
            f"the deployments changed meanwhile: the latest revision is {latest}, expected {expected}",
            hint="look at the plan again, then apply again",
        )


def _replace_versions(db: Database, number: int, versions: Sequence[VersionRow]) -> None:
    """Close the rows that are not in `versions` as they are, and open those that are not yet there."""
    open_rows = {
        _version(row).key: row for row in db.query("select * from versions where until_revision is null")
    }
    position = -1
    for version in versions:
        before = open_rows.pop(version.key, None)
        if before is not None and before["position"] > position and _fields(version) == _stored(before):
            position = before["position"]
            continue
        position += 1
        if before is not None:
            _close_row(db, number, before["id"])
        db.execute(
            "insert into versions (project, model, version, spec, digest, size_bytes, memory_bytes,"
            " position, since_revision) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*_fields(version), position, number),
        )
    for gone in open_rows.values():
        _close_row(db, number, gone["id"])


def _close_row(db: Database, number: int, row_id: int) -> None:
    db.execute("update versions set until_revision = ? where id = ?", (number, row_id))


def _fields(version: VersionRow) -> tuple[Any, ...]:
    spec = _to_json(version.spec)
    return (*version.key, spec, version.digest, version.size_bytes, version.memory_bytes)


def _stored(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("project", "model", "version", "spec", "digest", "size_bytes", "memory_bytes")
    return tuple(row[name] for name in names)


def _version(row: Mapping[str, Any]) -> VersionRow:
    return VersionRow(
        project=row["project"],
        model=row["model"],
        version=row["version"],
        spec=json.loads(row["spec"]),
        digest=row["digest"],
        size_bytes=row["size_bytes"],
        memory_bytes=row["memory_bytes"],
        since_revision=row["since_revision"],
    )


def _revision(row: Mapping[str, Any]) -> Revision:
    return Revision(**{**row, "diff": json.loads(row["diff"])})


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
