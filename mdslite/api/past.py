"""The operations on what was: the devices' recent past, and all models as they were deployed at a time."""

from __future__ import annotations

import math
from time import time
from typing import Annotated

from msgspec import Meta

from mdslite.api import views
from mdslite.api.operations import Call, Nothing, Operation, declare
from mdslite.api.parts import Parts
from mdslite.api.schema import Given, ModelInfo, Value
from mdslite.errors import InvalidRequest
from mdslite.http.access import Grant
from mdslite.store.moments import parse_moment, time_text
from mdslite.store.registry import VersionRow

_AHEAD_S = 5.0  # as far as a caller's clock may be ahead of this one

Column = Annotated[list[float | None], Meta(description="a value for each of `times`, null where unknown")]
Moment = Annotated[float | None, Meta(description="Unix seconds")]


class HistoryQuery(Given, frozen=True, kw_only=True):
    """By the second where `since` is within the last hour (or left out), else by the minute."""

    since: Moment = None
    until: Moment = None


class DevicePast(Value, frozen=True, kw_only=True):
    label: str
    name: str
    memory_total_bytes: int | None
    utilization_percent: Column
    memory_used_bytes: Column
    temperature_c: Column
    power_w: Column


class DevicesPast(Value, frozen=True, kw_only=True):
    """What was measured at `times` (Unix seconds, rising), by device. It begins with the process."""

    interval_s: float
    times: list[float]
    queue_rows: Annotated[list[float], Meta(description="that waited, of all versions together")]
    devices: list[DevicePast]


async def get_devices_history(parts: Parts, call: Call[Nothing, HistoryQuery, Nothing]) -> DevicesPast:
    """What the devices and the queues were at: an hour by the second, a day by the minute"""
    past = parts.history.between(call.query.since, call.query.until)
    return DevicesPast(
        interval_s=past.interval_s,
        times=[round(one, 3) for one in past.times],
        queue_rows=past.queue_rows,
        devices=[
            DevicePast(
                label=reading.label,
                name=reading.name,
                memory_total_bytes=reading.memory_total_bytes,
                **{field: [_known(one) for one in values] for field, values in columns.items()},
            )
            for reading, columns in past.devices
        ],
    )


def read_moment(text: str) -> float:
    """The unix seconds of an `at`.

    :raises InvalidRequest: it is no moment, or one that is yet to come
    """
    now = time()
    at = parse_moment(text, now=now, field="at")
    if at > now + _AHEAD_S:
        raise InvalidRequest(
            f"{time_text(at)} is yet to come: expected a time of the past, it is {time_text(now)}",
            field="at",
            hint="leave it out to see what serves now",
        )
    return at


def past_models(
    rows: list[VersionRow], *, at: float, revision: int, project: str | None, grant: Grant
) -> list[ModelInfo]:
    """All models as the registry had them at a time, as far as they are the grant's to know."""
    names = dict.fromkeys((row.project, row.model) for row in rows)
    return [
        views.past_model(*name, rows, at=at, revision=revision)
        for name in names
        if project in (None, name[0]) and grant.covers(*name)
    ]


def make_operations() -> list[Operation]:
    return [declare("GET", "/api/v1/devices/history", get_devices_history, group="appliance", reach="own")]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)
