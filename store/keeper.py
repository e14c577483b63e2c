"""The owner's hand on a store that nobody serves: what an appliance's API does to tokens, limits and the
audit log, in the same plain values.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

from mdslite.store.audit import Act, Audit
from mdslite.store.lock import StoreLock
from mdslite.store.registry import Registry
from mdslite.store.tokens import Rate, Tokens, Wish

Json = dict[str, Any]


@contextmanager
def keeping(store: Path) -> Iterator[Keeper]:
    """Hold a store, which is made if there is none.

    :raises StoreLocked: an appliance runs on it
    :raises StoreError: it cannot be used
    """
    with StoreLock(store):
        registry = Registry(store / "registry.db")
        registry.open()
        try:
            yield Keeper(registry)
        finally:
            registry.close()


class Keeper:
    """What it changes is written down like the calls of an appliance."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tokens = Tokens(registry)
        self._audit = Audit(registry)
        self._user = _user()

    def needs_token(self) -> bool:
        return bool(self._tokens.all())

    def models(self) -> list[Json]:
        """The names of what is deployed."""
        names = {(row.project, row.model) for row in self._registry.current()}
        return [{"project": project, "model": model} for project, model in sorted(names)]

    def tokens(self) -> list[Json]:
        return [token.describe(time()) for token in self._tokens.all()]

    def create_token(self, body: Mapping[str, Any]) -> Json:
        """:raises InvalidRequest, Conflict: no such token can be made"""
        token, text = self._tokens.create(Wish.parse(**body), by=self._user)
        self._record("create_token", f"{token.name} ({token.id})")
        return {**token.describe(time()), "token": text}

    def revoke_token(self, which: str) -> Json:
        """:raises NotFound: there is no such live token"""
        token = self._tokens.revoke(which)
        self._record("revoke_token", f"{token.name} ({token.id})")
        return token.describe(time())

    def limits(self) -> list[Json]:
        return [
            {"project": project, "model": model, "rate": str(rate)}
            for (project, model), rate in self._tokens.limits().items()
        ]

    def limit(self, project: str, model: str, rate: str | None) -> Json:
        """:raises InvalidRequest: it is no rate"""
        self._tokens.limit(project, model, None if rate is None else Rate.parse(rate))
        what = "lift_limit" if rate is None else "set_limit"
        self._record(what, f"{project}/{model} {rate or 'unlimited'}")
        return {"project": project, "model": model, "rate": rate}

    def audit(self, *, limit: int, before: int | None = None) -> list[Json]:
        return [entry.describe() for entry in self._audit.page(limit, before)]

    def _record(self, what: str, remark: str) -> None:
        self._audit.add(Act(time(), self._user, what, "", "", 200, remark, ""))


def _user() -> str:
    try:
        return f"local user {getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a passwd entry
        return f"local user {os.getuid()}"
