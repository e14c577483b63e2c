"""The registry's tables, and how older registries become newer ones. Released migrations are never edited."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

MIGRATION_SET = "mdslite-registry"
APPLICATION_ID = 0x6D647372  # "mdsr": tells a registry from any other SQLite file


def make_migrations() -> Migrations:
    """Collect the migrations in the order in which they run."""
    migrations = Migrations(MIGRATION_SET)
    for name, run in _STEPS:
        migrations(name=name)(run)
    return migrations


def unknown_migrations(db: Database) -> list[str]:
    """Name the migrations that a newer mdslite has run on this registry."""
    known = {name for name, _ in _STEPS}
    return [found.name for found in make_migrations().applied(db) if found.name not in known]


def _create_tables(db: Database) -> None:
    for statement in _TABLES:
        db.execute(statement)


def _create_access_tables(db: Database) -> None:
    for statement in _ACCESS_TABLES:
        db.execute(statement)


# A version's row is valid for the revisions [since_revision, until_revision); until is NULL while it lasts.
# A failed revision is recorded but opens and closes no row.
_TABLES = (
    """
    create table revisions (
        id integer primary key autoincrement,
        time real not null,
        author text not null,
        reason text not null,
        state text not null check (state in ('applied', 'failed')),
        error text,
        diff text not null,
        source text not null
    )
    """,
    "create index revisions_by_time on revisions (time)",
    """
    create table versions (
        id integer primary key,
        project text not null,
        model text not null,
        version text not null,
        spec text not null,
        digest text not null,
        size_bytes integer not null,
        memory_bytes integer,
        position integer not null,
        since_revision integer not null references revisions (id),
        until_revision integer references revisions (id)
    )
    """,
    """
    create unique index versions_current on versions (project, model, version)
        where until_revision is null
    """,
    "create index versions_by_revision on versions (since_revision, until_revision)",
    """
    create table artifacts (
        digest text primary key,
        kind text not null check (kind in ('file', 'folder')),
        size_bytes integer not null,
        origin text not null,
        added_at real not null
    )
    """,
    """
    create table probes (
        digest text not null,
        engine text not null,
        runtime text not null,
        report text not null,
        probed_at real not null,
        primary key (digest, engine)
    )
    """,
)

# A token's digest is the SHA-256 of its text; `scopes` are words with spaces between them. An audit row that
# was `refused` counts apart from the others when old ones are dropped.
_ACCESS_TABLES = (
    """
    create table tokens (
        id text primary key,
        name text not null,
        digest blob not null,
        scopes text not null,
        project text,
        model text,
        rate text,
        created_at real not null,
        created_by text not null,
        expires_at real,
        revoked_at real,
        used_at real
    )
    """,
    """
    create table limits (
        project text not null,
        model text not null,
        rate text not null,
        primary key (project, model)
    )
    """,
    """
    create table audit (
        id integer primary key autoincrement,
        time real not null,
        who text not null,
        what text not null,
        target text not null,
        origin text not null,
        status integer not null,
        remark text not null,
        request_id text not null,
        refused integer not null
    )
    """,
    "create index audit_by_refused on audit (refused, id)",
)

_ROLLOUT_TABLES = (
    """
    create table rollouts (
        id integer primary key autoincrement,
        project text not null,
        model text not null,
        live integer not null,
        data blob not null
    )
    """,
    "create index rollouts_by_live on rollouts (live, id)",
)


# A receipt's headers are JSON, a list of pairs; `who` a token's id, or what else the caller is known by.
_RECEIPT_TABLES = (
    """
    create table receipts (
        who text not null,
        key text not null,
        time real not null,
        fingerprint blob not null,
        status integer not null,
        media_type text not null,
        headers text not null,
        body blob not null,
        primary key (who, key)
    )
    """,
    "create index receipts_by_time on receipts (time)",
)


def _create_receipt_tables(db: Database) -> None:
    for statement in _RECEIPT_TABLES:
        db.execute(statement)


def _create_rollout_tables(db: Database) -> None:
    for statement in _ROLLOUT_TABLES:
        db.execute(statement)


# A label's `data` is a compressed copy of its request and answers (see labels.py); `label` what it is now,
# NULL after everything was taken back. What each version answered stands apart, to be counted.
_LABEL_TABLES = (
    """
    create table labels (
        id integer primary key,
        project text not null,
        model text not null,
        version text not null,
        reason text not null,
        label text,
        changes integer not null,
        data blob not null
    )
    """,
    "create index labels_by_model on labels (project, model, label)",
    """
    create table label_changes (
        id integer primary key autoincrement,
        label_id integer not null references labels (id),
        label text not null,
        note text not null,
        author text not null,
        time real not null,
        undone_by text,
        undone_at real
    )
    """,
    "create index label_changes_by_label on label_changes (label_id, id)",
    """
    create table label_answers (
        label_id integer not null references labels (id),
        version text not null,
        shadow integer not null,
        answer text,
        primary key (label_id, version)
    ) without rowid
    """,
    """
    create table label_rules (
        project text not null,
        model text not null,
        rules text not null,
        primary key (project, model)
    )
    """,
)

_REPLAY_TABLES = (
    """
    create table replays (
        id integer primary key autoincrement,
        project text not null,
        model text not null,
        live integer not null,
        data blob not null
    )
    """,
    "create index replays_by_live on replays (live, id)",
)


def _create_label_tables(db: Database) -> None:
    for statement in _LABEL_TABLES:
        db.execute(statement)


def _create_replay_tables(db: Database) -> None:
    for statement in _REPLAY_TABLES:
        db.execute(statement)


_STEPS = (
    ("0001_revisions_versions_artifacts_probes", _create_tables),
    ("0002_tokens_limits_audit", _create_access_tables),
    ("0003_rollouts", _create_rollout_tables),
    ("0004_receipts", _create_receipt_tables),
    ("0005_labels", _create_label_tables),
    ("0006_replays", _create_replay_tables),
)
