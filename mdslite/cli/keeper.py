"""Where commands about access go: to an appliance over the network, to the one that runs on a store by the
store's own socket, or, where none runs, to the store itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from mdslite.cli.options import F, connect
from mdslite.cli.usage import refuse_typed

Json = dict[str, Any]


class Keeper(Protocol):
    """What an appliance's client and a store that nobody serves have in common."""

    def needs_token(self) -> bool: ...
    def models(self) -> Sequence[Mapping[str, Any]]: ...
    def tokens(self) -> list[Json]: ...
    def create_token(self, body: Mapping[str, Any]) -> Json: ...
    def revoke_token(self, which: str) -> Json: ...
    def limits(self) -> list[Json]: ...
    def limit(self, project: str, model: str, rate: str | None) -> Json: ...
    def audit(self, *, limit: int, before: int | None = None) -> list[Json]: ...


def store_option(command: F) -> F:
    return click.option(
        "--store", type=click.Path(), metavar="DIR",
        help="Act as the owner of this store, whether an appliance runs on it or not; takes no token.",
    )(command)  # fmt: skip


@contextmanager
def keeper_of(url: str, store: str | None) -> Iterator[Keeper]:
    """The appliance at `url`, or whoever keeps `store`.

    :raises MdsliteError: nobody answers, or the store cannot be used
    """
    if store is None:
        with connect(url) as client:
            yield client
        return
    refuse_typed("beside --store", "url")
    from mdslite.store.keeper import keeping
    from mdslite.store.lock import is_locked

    if is_locked(Path(store)):
        with connect(f"unix:{store}") as client:
            yield client
    else:
        with keeping(Path(store)) as keeper:
            yield keeper
