"""Numbers as they stand in a narrow column, and small pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

NONE = "-"
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LEFT = " ▏▎▍▌▋▊▉█"


def rate(value: float | None) -> str:
    """Requests a second: 0.2, 41, 1.2k."""
    return NONE if value is None else count(value) if value >= 100 or not value else f"{value:.3g}"


def count(value: float | None) -> str:
    if value is None:
        return NONE
    if value < 10_000:
        return f"{value:.0f}"
    for unit in ("k", "M"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g}{unit}" if value < 100 else f"{value:.0f}{unit}"
    return f"{value / 1000:.3g}G"


def milliseconds(value: float | None) -> str:
    if value is None:
        return NONE
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 10_000 else f"{value / 1000:.3g}s"


def percent(share: float | None, digits: int = 0) -> str:
    """Of three figures before the point none is left for behind it: `99.95`, and `100`."""
    if share is None:
        return NONE
    text = f"{100 * share:.{digits}f}"
    return text.partition(".")[0] if text.startswith("100") else text


def confidence(value: float | None) -> str:
    """`.94`, as there is never more than one before the point."""
    if value is None:
        return NONE
    text = f"{value:.2f}"
    return text.removeprefix("0") if 0 <= value <= 1 else text


def size(size_bytes: float | None) -> str:
    """Decimal units: 918B, 35M, 1.2G."""
    if size_bytes is None:
        return NONE
    for unit in ("B", "k", "M", "G", "T"):
        if size_bytes < 999.5 or unit == "T":
            break
        size_bytes /= 1000
    return f"{size_bytes:.1f}{unit}" if unit != "B" and size_bytes < 9.95 else f"{size_bytes:.0f}{unit}"


def span(seconds: float) -> str:
    """A round span of time: 15s, 15m, 3h, 7d."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length and (seconds % length == 0 or seconds >= 3 * length):
            return (
                f"{seconds / length:.3g}{unit}" if seconds < 10 * length else f"{seconds / length:.0f}{unit}"
            )
    return f"{seconds:.3g}s"


def exact_span(seconds: float) -> str:
    """A span to the second: 45s, 15m20s, 1h, 7d2h."""
    parts, rest = [], round(seconds)
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        number, rest = divmod(rest, length)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def clock(moment: float, *, seconds: bool = True) -> str:
    """The time of day in this machine's zone."""
    return datetime.fromtimestamp(moment).strftime("%H:%M:%S" if seconds else "%H:%M")


def day_clock(moment: float, now: float) -> str:
    """The time of day, with the date where it is another one's."""
    then, today = datetime.fromtimestamp(moment), datetime.fromtimestamp(now)
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%d %b %H:%M:%S")


def bar(share: float, width: int) -> str:
    """A horizontal bar of exactly `width` columns, to the eighth."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_LEFT[rest] if rest else "")).ljust(width)


def sparkline(values: Sequence[float | None], width: int, *, top: float | None = None) -> str:
    """The newest `width` values as columns of one row, to the eighth; gaps where nothing is known."""
    shown = list(values)[-width:]
    highest = top or max((one for one in shown if one is not None), default=0.0)
    text = "".join(
        " "
        if one is None
        else _EIGHTHS[max(1, min(8, round(one / highest * 8)))]
        if highest > 0
        else _EIGHTHS[1]
        for one in shown
    )
    return text.rjust(width)


def day(moment: float) -> str:
    return datetime.fromtimestamp(moment).strftime("%d %b")


def span_of(seconds: float | None) -> str:
    """How long something took: 0.4 s."""
    return NONE if seconds is None else f"{seconds:.1f} s"
