"""What the dashboard knows at one moment, as one value that never changes: whoever draws reads it and waits
for nothing. It can be written as JSON and read back, which is what `--json` prints and what a recording is.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Json = dict[str, Any]
Reach = Literal["connecting", "live", "unreachable", "unauthorised"]

SPANS_S = (60, 300, 900, 3600, 10_800, 21_600, 43_200, 86_400, 604_800)  # what the histogram zooms through

SHORTEST_S = 10.0  # less than that shows nothing


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at. `moment` is the time that the whole screen shows, None for now; `until` the
    histogram's right end when it was panned away from that; `brush` the part of it that everything is
    narrowed to; `model` (PROJECT, MODEL) whose traffic it shows."""

    pane: str = "deploy"
    filter: str = ""
    model: tuple[str, str] | None = None
    span_s: float = 900.0
    moment: float | None = None
    until: float | None = None
    brush: tuple[float, float] | None = None
    paused: bool = False
    bars: int = 60  # how many of them the histogram has room for


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the appliance answers; if not, what is wrong, what to do, and when it is tried again."""

    state: Reach
    url: str
    message: str = ""
    hint: str | None = None
    since: float = 0.0
    retry_at: float | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`clock` is when it was made. None stands for what is not known yet, an empty list for none. Values are
    as the API gives them; `rows` are the log's newest, newest first, and `missed` how often more of them came
    than are fetched at once; `troubles` says by source what could not be read."""

    clock: float
    connection: Connection
    view: View = View()
    status: Json | None = None
    models: list[Json] | None = None
    history: Json | None = None
    histogram: Json | None = None
    percentiles: Json | None = None
    revisions: list[Json] | None = None
    rollouts: list[Json] = []
    alerts: list[Json] | None = None
    rows: list[Json] | None = None
    rows_filter: str | None = None  # what they passed, None where nobody says
    missed: int = 0
    progress: Json | None = None  # of an apply that is going on, whoever asked for it
    troubles: dict[str, str] = {}
    restarts: int = 0  # of the appliance, while the dashboard looked

    @property
    def now(self) -> float:
        """The moment that is shown."""
        return self.clock if self.view.moment is None else self.view.moment


def to_plain(snapshot: Snapshot) -> Json:
    """The snapshot as JSON's values."""
    found: Json = msgspec.to_builtins(snapshot)
    return found


def encode(snapshot: Snapshot) -> bytes:
    return msgspec.json.encode(snapshot)


def decode(text: bytes) -> Snapshot:
    """:raises msgspec.ValidationError: it is no snapshot"""
    return msgspec.json.decode(text, type=Snapshot)
