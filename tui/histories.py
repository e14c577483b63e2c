"""The devices' recent past as columns: times, and beside them a list for each thing that was measured."""

from __future__ import annotations

from mdslite.tui.snapshot import Json


def merge_history(before: Json | None, found: Json, *, longest_s: float) -> Json:
    """What was known with what came after it, no longer than `longest_s`."""
    if before is None or not before.get("times") or len(before.get("devices", [])) != len(found["devices"]):
        return found
    last = before["times"][-1]
    fresh = sum(1 for one in found["times"] if one > last)
    if not fresh:
        return before
    times = before["times"] + found["times"][-fresh:]
    drop = next((at for at, one in enumerate(times) if one >= times[-1] - longest_s), 0)

    def joined(old: list[float | None], new: list[float | None]) -> list[float | None]:
        return (old + new[-fresh:])[drop:]

    return {
        **found,
        "times": times[drop:],
        "queue_rows": joined(before["queue_rows"], found["queue_rows"]),
        "devices": [
            {
                name: joined(old[name], value) if isinstance(value, list) else value
                for name, value in new.items()
            }
            for old, new in zip(before["devices"], found["devices"], strict=True)
        ],
    }
