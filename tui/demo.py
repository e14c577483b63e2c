"""Answers a dashboard's questions out of a recording, in the place of an appliance's client. Whatever would
change something is refused by saying that this is a recording.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import httpx2

from mdslite import blame, errors
from mdslite.asks import Ask, Lines, Pieces
from mdslite.client import Download
from mdslite.replies import MARK
from mdslite.tui.recording import Recording
from mdslite.tui.snapshot import Json
from mdslite.tui.terms import Terms, parse_terms

URL: Final = "recording:digits"
_START: Final = "mdslite up examples/deployments.yaml starts an appliance that can be driven"
_ROUND_S: Final = (1, 5, 15, 60, 300, 900, 3600)

T = TypeVar("T")


class RecordedClient:
    """What a feed needs of a client."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    @property
    def url(self) -> str:
        return URL

    async def ask(self, ask: Ask[T]) -> T:
        """:raises MdsliteError: it is not in the recording, or would change something"""
        if ask.method != "GET":
            raise errors.Conflict("this is a recording: nothing can be changed in it", hint=_START)
        request = httpx2.Request("GET", f"http://recording{ask.path}")
        found = self._answer(ask.path, dict(ask.params))
        return ask.read(httpx2.Response(200, headers={MARK: "recorded"}, json=found, request=request))

    @contextlib.asynccontextmanager
    async def read(self, lines: Lines[T]) -> AsyncGenerator[AsyncIterator[T], None]:
        """Events never come; all else is refused."""
        if lines.ask.method != "GET":
            raise errors.Conflict("this is a recording: nothing can be changed in it", hint=_START)
        yield _silence()

    def stream(
        self, pieces: Pieces
    ) -> contextlib.AbstractAsyncContextManager[Download[AsyncIterator[bytes]]]:
        raise errors.Conflict("this is a recording: an appliance's log can be exported", hint=_START)

    def _answer(self, path: str, params: Mapping[str, Any]) -> Any:
        name = path.removeprefix("/api/v1/")
        answers: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "status": self._status,
            "models": self._models,
            "logs": self._logs,
            "logs/histogram": self._histogram,
            "logs/percentiles": self._percentiles,
            "devices/history": self._history,
            "revisions": self._revisions,
            "rollouts": lambda params: [],
            "alerts": lambda params: [],
        }
        if name in answers:
            return answers[name](params)
        parent, _, last = name.rpartition("/")
        if parent == "logs" and last.isdigit():
            return self._row(int(last))
        if parent == "revisions" and last.isdigit():
            return self._revision(int(last))
        raise errors.NotFound("this is not in the recording", hint=_START)

    def _status(self, params: Mapping[str, Any]) -> Json:
        recording = self._recording
        second = int(recording.offset(recording.now))
        devices = [
            {name: (value[second] if isinstance(value, list) else value) for name, value in one.items()}
            for one in recording.tape.history["devices"]
        ]
        return {
            **recording.tape.status,
            "devices": devices,
            "url": URL,
            "started_at": _iso(recording.first),
            "uptime_s": recording.now - recording.first,
        }

    def _models(self, params: Mapping[str, Any]) -> list[Json]:
        moment = datetime.fromisoformat(params["at"]).timestamp() if params.get("at") else self._recording.now
        if moment < self._recording.first:
            return []
        return self._recording.models(moment)

    def _logs(self, params: Mapping[str, Any]) -> Json:
        terms, text = self._terms(params)
        limit, after = int(params.get("limit") or 100), int(params.get("after") or 0)
        bare = {"request": None, "reply": None} if params.get("bodies") == "false" else {}
        rows: list[Json] = []
        for row in self._recording.rows(terms, text, before=params.get("before")):
            if row["id"] <= after:
                break
            rows.append({**row, **bare})
            if len(rows) == limit:
                break
        return {"rows": rows, "next": rows[-1]["id"] if len(rows) == limit else None, "skipped": []}

    def _row(self, number: int) -> Json:
        row = self._recording.row(number)
        if row is None:
            raise errors.NotFound(f"there is no request {number} in the recording")
        return {"row": row, "related": self._recording.related(row), "label": None}

    def _histogram(self, params: Mapping[str, Any]) -> Json:
        recording = self._recording
        terms, text = self._terms(params)
        interval_s = float(params.get("interval_s") or 15.0)
        since = (terms.since or recording.first) // interval_s * interval_s
        until = terms.until or recording.now
        buckets = min(2000, max(1, -int(-(until - since) // interval_s)))
        found = recording.counts(terms, text, since=since, interval_s=interval_s, buckets=buckets)
        series = [
            {
                "project": project, "model": model, "version": version, "shadow": shadow,
                "value": version, "counts": counts, "errors": failed, "total": sum(counts),
            }
            for (project, model, version, shadow), (counts, failed) in sorted(found.items(), key=str)
        ]  # fmt: skip
        return {
            "interval_s": interval_s,
            "since": since,
            "until": since + buckets * interval_s,
            "series": series,
        }

    def _percentiles(self, params: Mapping[str, Any]) -> Json:
        terms, text = self._terms(params)
        grouped: dict[tuple[Any, ...], list[Json]] = {}
        for at, row in enumerate(self._recording.rows(terms, text)):
            if at >= 20_000:
                break
            key = (row["project"], row["model"], row["version"], row["shadow"])
            grouped.setdefault(key, []).append(row)
        return {
            "groups": [_group(key, rows) for key, rows in sorted(grouped.items(), key=str)],
            "since": max(terms.since or 0.0, self._recording.first),
            "until": min(terms.until or self._recording.now, self._recording.now),
            "exact": True,
        }

    def _history(self, params: Mapping[str, Any]) -> Json:
        recording = self._recording
        since = float(params.get("since") or recording.first)
        times = recording.seconds(since, float(params.get("until") or recording.now))
        places = [int(recording.offset(second)) for second in times]
        kept = recording.tape.history

        def played(values: Sequence[Any]) -> list[Any]:
            return [values[place] for place in places]

        devices = [
            {name: played(value) if isinstance(value, list) else value for name, value in one.items()}
            for one in kept["devices"]
        ]
        return {
            "interval_s": 1.0,
            "times": times,
            "queue_rows": played(kept["queue_rows"]),
            "devices": devices,
        }

    def _revisions(self, params: Mapping[str, Any]) -> list[Json]:
        before = int(params.get("before") or 1 << 62)
        found = [self._dated(one) for one in self._recording.tape.revisions if one["id"] < before]
        return found[: int(params.get("limit") or 100)]

    def _revision(self, number: int) -> Json:
        for one in self._recording.tape.revisions:
            if one["id"] == number:
                return self._dated(one)
        raise errors.NotFound(f"there is no revision {number} in the recording")

    def _dated(self, revision: Json) -> Json:
        return {**revision, "time": _iso(self._recording.begin + revision["time"])}

    def _terms(self, params: Mapping[str, Any]) -> tuple[Terms, str]:
        text = str(params.get("filter") or "")
        kept = [word for word in text.split() if not word.startswith(("since=", "until="))]
        return parse_terms(text, self._recording.now), " ".join(kept)


def _group(key: tuple[Any, ...], rows: Sequence[Json]) -> Json:
    project, model, version, shadow = key
    good = [row for row in rows if blame.is_good(row["status"])]
    wrong = sum(blame.is_error(row["status"]) for row in rows)
    sure = [row["confidence"] for row in good if row["confidence"] is not None]
    times = [row["latency_ms"] for row in good]
    return {
        "project": project,
        "model": model,
        "version": version,
        "shadow": shadow,
        "count": len(rows),
        "errors": wrong,
        "refused": len(rows) - len(good) - wrong,
        "error_rate": blame.error_rate(good=len(good), errors=wrong),
        "latency_ms": _shares(times, p50=0.5, p90=0.9, p95=0.95, p99=0.99, max=1.0) if times else None,
        "confidence": _shares(sure, p10=0.1, p50=0.5) | {"mean": sum(sure) / len(sure)} if sure else None,
    }


def _shares(values: Sequence[float], **wanted: float) -> dict[str, float]:
    ordered = sorted(values)
    return {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in wanted.items()}


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


async def _silence() -> AsyncGenerator[Any, None]:
    await asyncio.Event().wait()
    yield None
