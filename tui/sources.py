"""The things that a dashboard asks an appliance for: each with how often, of what of the view it depends on,
and what becomes of the answer. Sends nothing by itself and knows no time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

from mdslite import asks, calls, drift_calls, log_calls
from mdslite.tui.histories import merge_history
from mdslite.tui.snapshot import Connection, Json, Snapshot, View

RING = 2000  # rows of the log that are kept
FIRST_ROWS = 200  # of them that are asked for at first
RECENT_S = 60.0  # the figures of versions are those of the last minute, unless a part of the past is chosen
HISTORY_S = 3600.0

Asker = Callable[[Any], Awaitable[Any]]


@dataclass(slots=True)
class Kept:
    """The newest answers, as they come in."""

    status: Json | None = None
    models: list[Json] | None = None
    history: Json | None = None
    histogram: Json | None = None
    percentiles: Json | None = None
    revisions: list[Json] | None = None
    rollouts: list[Json] = field(default_factory=list)
    alerts: list[Json] | None = None
    rows: list[Json] | None = None
    missed: int = 0
    rows_of: tuple[Any, ...] = ()
    rows_filter: str | None = None
    progress: Json | None = None
    troubles: dict[str, str] = field(default_factory=dict)
    restarts: int = 0

    def snapshot(self, clock: float, connection: Connection, view: View) -> Snapshot:
        return Snapshot(
            clock=clock,
            connection=connection,
            view=view,
            status=self.status,
            models=self.models,
            history=self.history,
            histogram=self.histogram,
            percentiles=self.percentiles,
            revisions=self.revisions,
            rollouts=self.rollouts,
            alerts=self.alerts,
            rows=self.rows,
            rows_filter=self.rows_filter,
            missed=self.missed,
            progress=self.progress,
            troubles=dict(self.troubles),
            restarts=self.restarts,
        )


class Source(Protocol):
    """One thing to ask for."""

    @property
    def name(self) -> str: ...

    def wanted(self, view: View) -> bool: ...

    def every_s(self, view: View) -> float: ...

    def depends(self, view: View) -> tuple[Any, ...]:
        """What of the view the answer is an answer to."""
        ...

    async def fetch(self, ask: Asker, view: View, kept: Kept, now: float) -> Any: ...

    def keep(self, kept: Kept, view: View, found: Any) -> bool:
        """Put the answer in its place. True when it shows that another process answers than before."""
        ...


@dataclass(frozen=True, slots=True)
class StatusSource:
    name: str = "status"

    def wanted(self, view: View) -> bool:
        return True

    def every_s(self, view: View) -> float:
        return 2.0

    def depends(self, view: View) -> tuple[Any, ...]:
        return ()

    async def fetch(self, ask: Asker, view: View, kept: Kept, now: float) -> Any:
        return await ask(calls.status())

    def keep(self, kept: Kept, view: View, found: Json) -> bool:
        before, kept.status = kept.status, found
        if before is None or before.get("started_at") == found.get("started_at"):
            return False
        kept.restarts += 1
        kept.progress = None
        return True


@dataclass(frozen=True, slots=True)
class ModelsSource:
    name: str = "models"

    def wanted(self, view: View) -> bool:
        return True

    def every_s(self, view: View) -> float:
        return 1.0 if view.moment is None else 60.0

    def depends(self, view: View) -> tuple[Any, ...]:
        return (view.moment,)

    async def fetch(self, ask: Asker, view: View, kept: Kept, now: float) -> Any:
        return await ask(calls.models(at=view.moment))

    def keep(self, kept: Kept, view: View, found: list[Json]) -> bool:
        kept.models = found
        return False


@dataclass(frozen=True, slots=True)
class RowsSource:
    """The log's newest rows as they come, without their bodies, and never more than one page at once: what is
    too fast for that is counted, and not shown."""

    name: str = "rows"

    def wanted(self, view: View) -> bool:
        return not view.paused

    def every_s(self, view: View) -> float:
        if view.moment is not None:
            return 60.0
        return 0.25 if view.pane == "requests" else 0.5

    def depends(self, view: View) -> tuple[Any, ...]:
        return (view.filter, view.moment, view.brush, view.model if view.pane == "deploy" else None)

    async def fetch(self, ask: Asker, view: View, kept: Kept, now: float) -> Any:
        fresh = kept.rows is None or kept.rows_of != self.depends(view)
        known = None if fresh or not kept.rows else kept.rows[0]["id"]
        limit = FIRST_ROWS if known is None else asks.PAGE_MAX
        page = await ask(log_calls.logs(log_filter(view), limit=limit, after=known, bodies=False))
        return page["rows"], known

    def keep(self, kept: Kept, view: View, found: tuple[list[Json], int | None]) -> bool:
        rows, known = found
        if known is None:
            kept.rows, kept.missed = rows, 0
            kept.rows_of, kept.rows_filter = self.depends(view), log_filter(view)
        elif rows:
            kept.missed += len(rows) >= asks.PAGE_MAX
            kept.rows = (rows + (kept.rows or []))[:RING]
        return False


@dataclass(frozen=True, slots=True)
class HistogramSource:
    name: str = "histogram"

    def wanted(self, view: View) -> bool:
        return view.pane == "deploy"

    def every_s(self, view: View) -> float:
        if view.moment is not None or view.until is not None:
            return 60.0
        return min(15.0, max(1.0, view.span_s / 900.0))

    def depends(self, view: View) -> tuple[Any, ...]:
        return (view.filter, view.model, view.span_s, view.moment, view.until, view.bars)

    async def fetch(self, ask: Asker, view: View, kept: Kept, now: float) -> Any:
        interval_s = interval_of(view)
        until = (int((view.until or view.moment or now) / interval_s) + 1) * interval_s
        since = until - bars_of(view) * interval_s
        terms = [view.filter, *model_terms(view), f"since={since:.3f}", f"until={until:.3f}"]
        return await ask(log_calls.histogram(" ".join(filter(None, terms)), interval_s=interval_s))

    def keep(self, kept: Kept, view: View, found: Json) -> bool:
        kept.histogram = found
        return False


@dataclass(frozen=True, slots=True)
class PercentilesSource:
    name: str = "percentiles"

    def wanted(self, view: View) -> bool:
        return view.pane in ("deploy", "requests")

    def every_s(self, view: View) -> float:
        return 60.0 if view.moment is not None else 3.0

    def depends(self, view: View) -> tuple[Any, ...]:
        return (view.filter, view.moment, view.brush)

    async def fetch(self, ask: Asker, view: View, kept: Kept, now: float) -> Any:
        since, until = chosen(view, now)
        terms = [view.filter, f"since={since:.3f}", f"until={until:.3f}"]
        return await ask(log_calls.percentiles(" ".join(filter(None, terms))))

    def keep(self, kept: Kept, view: View, found: Json) -> bool:
        kept.percentiles = found
        return False


@dataclass(frozen=True, slots=True)
class HistorySource:
    name: str = "history"

    def wanted(self, view: View) -> bool:
        return True

    def every_s(self, view: View) -> float:
        return 2.0 if view.moment is None else 60.0

    def depends(self, view: View) -> tuple[Any, ...]:
        return (view.moment, max(view.span_s, HISTORY_S) if view.moment is not None else None)

    async def fetch(self, ask: Asker, view: View, kept: Kept, now: float) -> Any:
        if view.moment is not None:
            return await ask(calls.devices_history(since=view.moment - 900.0, until=view.moment))
        times = (kept.history or {}).get("times") or []
        since = max(times[-1], now - HISTORY_S) if times and times[-1] <= now else now - HISTORY_S
        return await ask(calls.devices_history(since=since))

    def keep(self, kept: Kept, view: View, found: Json) -> bool:
        kept.history = (
            found if view.moment is not None else merge_history(kept.history, found, longest_s=HISTORY_S)
        )
        return False


@dataclass(frozen=True, slots=True)
class ListSource:
    """A list that changes seldom, and of whose changes there are events."""

    name: str
    make: Callable[[], Any]
    often_s: float = 30.0

    def wanted(self, view: View) -> bool:
        return True

    def every_s(self, view: View) -> float:
        return self.often_s

    def depends(self, view: View) -> tuple[Any, ...]:
        return ()

    async def fetch(self, ask: Asker, view: View, kept: Kept, now: float) -> Any:
        return await ask(self.make())

    def keep(self, kept: Kept, view: View, found: list[Json]) -> bool:
        setattr(kept, self.name, found)
        return False


def interval_of(view: View) -> float:
    """How long one bar of the histogram is: a round time, so that there is room for all of the span and for
    the bar that is not over."""
    least = view.span_s / (max(8, view.bars) - 1)
    return next((one for one in _ROUND_S if one >= least), _ROUND_S[-1])


def bars_of(view: View) -> int:
    """How many bars hold the span, and the one that is not over."""
    return ceil(view.span_s / interval_of(view)) + 1


def chosen(view: View, now: float) -> tuple[float, float]:
    """The part of time that figures are about: the brush, or the minute before the moment."""
    if view.brush is not None:
        return view.brush
    end = view.moment if view.moment is not None else now
    return end - RECENT_S, end


def model_terms(view: View) -> list[str]:
    return [] if view.model is None else [f"project={view.model[0]}", f"model={view.model[1]}"]


def log_filter(view: View) -> str:
    """The filter of the rows that are shown."""
    terms = [view.filter]
    if view.pane == "deploy":
        terms += model_terms(view)
    if view.brush is not None:
        terms += [f"since={view.brush[0]:.3f}", f"until={view.brush[1]:.3f}"]
    elif view.moment is not None:
        terms += [f"until={view.moment:.3f}"]
    return " ".join(filter(None, terms))


_ROUND_S = (
    *(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 18.0, 20.0, 24.0, 30.0, 40.0, 60.0, 80.0),
    *(
        120.0,
        180.0,
        240.0,
        300.0,
        480.0,
        600.0,
        720.0,
        900.0,
        1200.0,
        1800.0,
        3600.0,
        7200.0,
        10_800.0,
        14_400.0,
        21_600.0,
        43_200.0,
        86_400.0,
    ),
)

# The first one shows whether the appliance answers.
SOURCES: tuple[Source, ...] = (
    StatusSource(),
    ModelsSource(),
    RowsSource(),
    HistogramSource(),
    PercentilesSource(),
    HistorySource(),
    ListSource("revisions", lambda: calls.revisions(limit=50)),
    ListSource("rollouts", calls.rollouts, 5.0),
    ListSource("alerts", lambda: drift_calls.alerts(limit=50)),
)
