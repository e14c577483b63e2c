"""Moments as people write them: `15m` ago, `2026-11-22T10:00`, `10:00`, `now`. Owns nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

from mdslite.errors import InvalidRequest, quoted

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")
_MAX_UNIX = 253402300800.0  # the end of the year 9999
_EXAMPLES = "write 15m, 2h30m or 7d (ago), 2026-11-22T10:00, 10:00 or now"


def parse_moment(text: str, *, now: float, field: str | None = None) -> float:
    """Unix seconds. A clock time is its latest occurrence up to `now`. `field` is where the text stood.

    :raises InvalidRequest: it is no moment
    """
    try:
        return _parse(text, now)
    except InvalidRequest as exc:
        raise InvalidRequest(exc.message, field=field, hint=exc.hint) from exc


def _parse(text: str, now: float) -> float:
    text = text.strip()
    if text == "now":
        return now
    if not text.isascii():  # other scripts' digits, which Python reads as numbers, too
        raise InvalidRequest(f"{quoted(text)} is no moment", hint=_EXAMPLES)
    if _SPAN.fullmatch(text):
        ago_s = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
        if ago_s > now:
            raise InvalidRequest(f"{quoted(text)} is before 1970", hint=_EXAMPLES)
        return now - ago_s
    try:
        if _CLOCK.fullmatch(text):
            return _latest(time.fromisoformat(text.zfill(5) if text.count(":") == 1 else text.zfill(8)), now)
        if text.replace(".", "", 1).isdigit():
            return _unix(text)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest(f"{quoted(text)} is no moment", hint=_EXAMPLES) from exc


def time_text(unix_s: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _latest(clock: time, now: float) -> float:
    moment = datetime.combine(datetime.fromtimestamp(now, UTC).date(), clock, UTC)
    return (moment if moment.timestamp() <= now else moment - timedelta(days=1)).timestamp()


def _unix(text: str) -> float:
    seconds = float(text)
    if seconds < 1e9:
        raise InvalidRequest(f"{quoted(text)} has no unit", hint=_EXAMPLES)
    if seconds >= _MAX_UNIX:
        raise InvalidRequest(f"{quoted(text)} is too far in the future", hint=_EXAMPLES)
    return seconds
