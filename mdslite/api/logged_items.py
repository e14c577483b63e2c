"""What is put before people, made of what the request log has: requests with what each version answered.

Reads the log, which may take its time: everything here is for a thread.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from time import time

from msgspec.structs import replace

from mdslite.api.inputs import content_of
from mdslite.errors import NotFound, Unprocessable
from mdslite.serving.classes import read_answer
from mdslite.serving.fleet import Fleet
from mdslite.store.comparisons import BODY_BYTES, Disagreement
from mdslite.store.filters import parse
from mdslite.store.labels import Item, Reason, VersionAnswer
from mdslite.store.requests import Entry, LoggedBody, RequestLog
from mdslite.store.rows import REPLAY

_AROUND_S = 300.0  # shadows answer within so long of their primary


class LoggedItems:
    """Made and used by the labels' queue."""

    def __init__(self, log: RequestLog, fleet: Fleet) -> None:
        self._log = log
        self._fleet = fleet

    def find_primary(self, row_id: int) -> int:
        row = self._find_row(row_id)
        return row_id if row is None else row.id

    def find(self, row_id: int) -> Item:
        row = self._find_row(row_id)
        if row is None or row.project is None or row.model is None or row.version is None:
            raise NotFound(
                f"the log has no request {row_id} of a model", hint="mdslite logs --json shows ids"
            )
        if row.rows != 1:
            alike = f"project={row.project} model={row.model} rows=1 status=200"
            raise Unprocessable(
                f"request {row_id} has {row.rows} rows: expected one row, as a label is for one answer",
                hint="send each row as a request of its own, and label those;"
                f" mdslite logs '{alike}' --json lists what can be labelled",
            )
        if not is_whole(row.request):
            raise Unprocessable(
                f"the body of request {row_id} was not kept whole, so there is nothing to label",
                hint="`log` in a version's spec says whose bodies are kept",
            )
        return self._make(row, "chosen")

    def make_all(self, picked: Sequence[tuple[Entry, Reason]]) -> list[Item]:
        if not picked:
            return []
        # Each search for a request's shadows goes through all that was logged beside it.
        first = min(row.time for row, _ in picked)
        copies = self._log.query(parse(f"shadow since={first:.3f}", now=time()), limit=1).rows
        return [self._make(row, reason, alone=not copies) for row, reason in picked]

    def _make(self, row: Entry, reason: Reason, *, alone: bool = False) -> Item:
        """A row with what others answered to the same request, unless it is known to be `alone`."""
        assert row.project is not None and row.model is not None and row.version is not None
        assert row.request is not None
        same = () if alone else self._same_request(row)
        others = [one for one in same if one.shadow and one.id != row.id]
        answers = {one.version: one for one in (self._answer(entry) for entry in (row, *others))}
        return Item(
            id=row.id,
            request_id=row.request_id,
            project=row.project,
            model=row.model,
            version=row.version,
            reason=reason,
            time=row.time,
            confidence=row.confidence,
            request=row.request,
            answers=tuple(answers.values()),
        )

    def _answer(self, row: Entry) -> VersionAnswer:
        assert row.project is not None and row.model is not None and row.version is not None
        return VersionAnswer(
            version=row.version,
            shadow=row.shadow,
            replay=(row.client or "").startswith(REPLAY),
            answer=self._told((row.project, row.model, row.version), row.reply),
            confidence=row.confidence,
            reply=row.reply,
        )

    def _told(self, key: tuple[str, str, str], reply: LoggedBody | None) -> str | None:
        if reply is None or reply.truncated:
            return None
        served = self._fleet.find(*key)
        return read_answer(content_of(reply), served.spec.compare if served is not None else None)

    def _same_request(self, row: Entry) -> Sequence[Entry]:
        """All rows of the log with a row's request id, its own and its shadows'."""
        names: Mapping[str, str] = {"project": row.project or "", "model": row.model or ""}
        terms = [f"{name}={quote(value)}" for name, value in (*names.items(), ("request_id", row.request_id))]
        before_s = _AROUND_S if row.shadow else 1.0
        moments = f"since={row.time - before_s:.3f} until={row.time + _AROUND_S:.3f} status=200"
        found = self._log.query(parse(" ".join([*terms, moments]), now=time()), limit=20).rows
        return sorted(found, key=lambda one: one.id)

    def make_disagreed(self, one: Disagreement, *, drawn: Callable[[Entry], bool]) -> Item | None:
        pair = one.pair
        text = (
            f"project={pair.project} model={pair.model} version={pair.primary} "
            "shadow=false rows=1 status=200 "
            f"request_id={quote(one.request_id)} since={one.time - _AROUND_S:.3f} until={one.time + 1:.3f}"
        )
        rows = self._log.query(parse(text, now=time()), limit=1).rows
        if not rows:
            return None
        row = rows[0]
        first, second = (_body(one.primary_reply), _body(one.shadow_reply))
        key = pair.project, pair.model
        primary = VersionAnswer(
            version=pair.primary,
            answer=self._told((*key, pair.primary), first),
            confidence=row.confidence,
            reply=first,
        )
        shadow = VersionAnswer(
            version=pair.shadow, shadow=True, answer=self._told((*key, pair.shadow), second), reply=second
        )
        # Drawn and kept, it is one of the random share, whoever finds it first.
        reason: Reason = "random" if drawn(row) else "disagreement"
        known = self._make(replace(row, request=_body(one.request)), reason)
        others = [it for it in known.answers if it.version not in (pair.primary, pair.shadow)]
        return replace(known, answers=(primary, self._known(known, shadow), *others))

    def _known(self, item: Item, answer: VersionAnswer) -> VersionAnswer:
        """An answer with the confidence that the log has of it."""
        logged = [one for one in item.answers if one.version == answer.version]
        return replace(answer, confidence=logged[0].confidence) if logged else answer

    def _find_row(self, row_id: int) -> Entry | None:
        """The row of the log that answered its request: a shadow's leads to the primary's."""
        page = self._log.query(parse("", now=time()), before=row_id + 1, limit=1)
        row = page.rows[0] if page.rows and page.rows[0].id == row_id else None
        if row is not None and row.shadow:
            row = next((one for one in self._same_request(row) if not one.shadow), row)
        return row


def is_whole(body: LoggedBody | None) -> bool:
    """Was all of a request's body kept?"""
    return body is not None and not body.truncated and body.size_bytes > 0


def quote(value: str) -> str:
    """A text as a filter's value."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _body(kept: bytes) -> LoggedBody:
    """What the comparison kept of a body."""
    cut = len(kept) >= BODY_BYTES
    size = len(kept) + cut
    try:
        return LoggedBody(kept.decode(), "utf-8", size, cut)
    except UnicodeDecodeError:
        return LoggedBody(base64.b64encode(kept).decode(), "base64", size, cut)
