"""How a lane batches, and what it counts: values that outlive no lane."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Knobs:
    """How a lane batches. Rows and seconds."""

    batch_size: int = 32
    batch_timeout_s: float = 0.002
    prediction_s: float = 30.0
    queue_rows: int = 1024


@dataclass(slots=True)
class LaneStats:
    batches: int = 0
    inline_batches: int = 0
    refused: int = 0  # 429: the queue was full
    expired: int = 0  # 504: before or while computing
    cancelled: int = 0
    reruns: int = 0  # parts of failed batches that were tried again
    sizes: dict[int, tuple[int, float]] = field(default_factory=dict)  # batches and their seconds, by rows

    def ran(self, rows: int, seconds: float) -> None:
        """Count a batch that was computed."""
        count, total_s = self.sizes.get(rows, (0, 0.0))
        self.sizes[rows] = count + 1, total_s + seconds
