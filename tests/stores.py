"""A store as the appliance keeps it, without the appliance: what tests of backups and restores begin with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mdslite.store.artifacts import ArtifactStore
from mdslite.store.registry import Registry, VersionRow


@dataclass
class Store:
    """A store as the appliance uses it."""

    path: Path
    registry: Registry
    artifacts: ArtifactStore

    def deploy(self, *models: Path) -> list[str]:
        stored = [self.artifacts.add_path(model) for model in models]
        rows = [
            VersionRow("p", "m", f"v{number}", {}, artifact.digest, artifact.size_bytes)
            for number, artifact in enumerate(stored)
        ]
        self.registry.commit(author="ada", reason="", source="", diff=[], versions=rows)
        return [artifact.digest for artifact in stored]


@contextmanager
def open_store(path: Path) -> Iterator[Store]:
    registry = Registry(path / "registry.db")
    registry.open()
    with closing(registry):
        yield Store(path, registry, ArtifactStore(path / "artifacts"))


def deployed(store_dir: Path) -> list[str]:
    """What a store serves after it is opened, each artifact proved."""
    registry = Registry(store_dir / "registry.db")
    registry.open()
    try:
        digests = [row.digest for row in registry.current()]
    finally:
        registry.close()
    for digest in digests:
        ArtifactStore(store_dir / "artifacts").open(digest)
    return digests


def log_hour(store_dir: Path, name: str, rows: int) -> sqlite3.Connection:
    """An hour of a request log, still open and not yet merged."""
    (store_dir / "log").mkdir(exist_ok=True)
    db = sqlite3.connect(store_dir / "log" / name)
    db.execute("pragma journal_mode = wal")
    db.execute("create table entries (id integer primary key)")
    db.executemany("insert into entries values (?)", [(row,) for row in range(rows)])
    db.commit()
    return db


def count_rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("select count(*) from entries").fetchone()[0])


def entries(store_dir: Path) -> set[str]:
    return {entry.name for entry in store_dir.iterdir()}
