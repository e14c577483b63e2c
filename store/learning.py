"""Where a version's baseline comes from: the hours that somebody chose, or its first day. Owns no state."""

from __future__ import annotations

from mdslite.drift.baseline import BASE_MIN, FEW_HOURS, Baseline, build_usual
from mdslite.drift.schedule import DAY_S, HOUR_S
from mdslite.drift.sketches import Window
from mdslite.store.drift import Chosen, DriftStore, Key

LEARN_S = float(DAY_S)
LEARN_MAX_S = 7.0 * DAY_S  # with little traffic


def build_automatic(store: DriftStore, key: Key, now: float) -> Baseline | None:
    """Of all hours that there are, once they span a day; None before.

    :raises MdsliteError: the hours cannot be read
    """
    hours = store.hours(key, since=now - LEARN_MAX_S, until=now)
    if not hours or now - hours[0][0] < LEARN_S or len(hours) < FEW_HOURS:
        return None
    return _build(key, hours, chosen=False)


def build_chosen(store: DriftStore, key: Key, choice: Chosen) -> Baseline | None:
    """Of the chosen hours of the chosen version, as a shadow if need be; None where they hold too little.

    :raises MdsliteError: the hours cannot be read
    """
    start = choice.since // HOUR_S * HOUR_S
    source = key if choice.version is None else key._replace(version=choice.version)
    hours = store.hours(source, since=start, until=choice.until)
    if not hours and source.version != key.version:
        source = source._replace(shadow=not key.shadow)
        hours = store.hours(source, since=start, until=choice.until)
    return _build(source, hours, chosen=True)


def _build(source: Key, hours: list[tuple[int, Window]], *, chosen: bool) -> Baseline | None:
    windows = [window for _, window in hours]
    requests = sum(window.requests for window in windows)
    if requests < BASE_MIN:
        return None
    return Baseline(
        chosen=chosen,
        source=source.version,
        since=float(hours[0][0]),
        until=float(hours[-1][0] + HOUR_S),
        hours=len(hours),
        requests=requests,
        rows=sum(window.rows for window in windows),
        usual=build_usual(windows),
    )
