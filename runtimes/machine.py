"""Host facts that the runtimes share: how many cores this process may use, and how long they idled."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]


def cores(*, limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may keep busy: its affinity, less what a container's quota takes away."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limits.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period))))


def memory_bytes(*, limits: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Memory that this process may use: the machine's, or its container's where that is less."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(limits.read_text()))
    except (OSError, ValueError):
        return total


def idle_s() -> float:
    """Seconds that the cores this process may use have idled since the machine started, all together."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    times = enumerate(psutil.cpu_times(percpu=True))
    return float(sum(core.idle for number, core in times if allowed is None or number in allowed))
