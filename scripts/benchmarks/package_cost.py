"""What a lane and a crash cost who is served by a Python package: `isolation.py` measures it and prints it as
JSON, in an environment that this one reads it back from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LaneCost:
    """Microseconds a datum of 32 that come at once, for a plain loop and through a lane; `rows` is how many
    shared a batch."""

    data: str
    loop_us: float
    inline_us: float
    inline_rows: float
    isolated_us: float
    isolated_rows: float


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from a crash to the first answer of the new process, and how long a load took before."""

    serving_s: float
    load_s: float
