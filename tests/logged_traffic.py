"""Traffic of three hours to be logged, filters to ask of it, and what passes them."""

from __future__ import annotations

import json
import math
import operator
import random
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from log_rows import HOUR_S, NOON, row

from mdslite.store.entries import Entry
from mdslite.store.rows import Row

START = NOON - 2.5 * HOUR_S
COUNT = 3000
CLOCK = (NOON + 0.5 * HOUR_S).__float__


def make_traffic() -> Iterator[Row]:
    chance = random.Random(11)
    for number in range(COUNT):
        failed = chance.random() < 0.1
        body: bytes | None = None
        if chance.random() < 0.3:
            one = {"text": chance.choice(["refund", "hello"]), "n": chance.choice([1, 2.5, True, None, "1"])}
            body = json.dumps({"instances": [one, {"n": chance.randrange(3)}]}).encode()
        yield row(
            time=START + number * 3 * HOUR_S / COUNT,
            request_id=f"r{number % 2500}",
            model=None if number % 50 == 0 else chance.choice(["spam", "topics"]),
            version=chance.choices(["v1", "v2", "v3"], [80, 15, 5])[0],
            shadow=chance.random() < 0.1,
            url=f"/p?q={chance.randrange(4)}",
            status=chance.choice([400, 500]) if failed else 200,
            code=chance.choice(["model_error", "invalid_request"]) if failed else None,
            latency_ms=round(chance.expovariate(0.2), 3) + (100_000 if chance.random() < 0.01 else 0),
            queue_ms=None if failed else round(chance.random(), 3),
            upstream_ms=round(chance.random() * 5, 3) if chance.random() < 0.2 else None,
            rows=chance.randrange(1, 4),
            confidence=None if failed else chance.choice([0.5, 1.0, chance.random()]),
            endpoint=f"local/{chance.randrange(2)}",
            client=chance.choice([None, "ci"]),
            request=body,
            reply=b'{"predictions": [{"label": "%s"}]}' % chance.choice([b"spam", b"ham"]) if body else None,
        )


class Entries(tuple[Entry, ...]):
    def __repr__(self) -> str:
        return "the log's rows"


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
NUMBERS = st.tuples(
    st.sampled_from(["latency_ms", "queue_ms", "upstream_ms", "confidence", "rows", "status"]),
    st.sampled_from(list(OPERATORS)),
    st.sampled_from([0, 0.5, 1, 2, 3.25, 200, 400, 100_000]),
).filter(lambda term: term[0] not in ("rows", "status") or isinstance(term[2], int))
NAMES = st.tuples(
    st.sampled_from(["version", "model", "code", "url", "request_id", "client", "endpoint"]),
    st.sampled_from(["=", "!=", "~", "!~"]),
    st.sampled_from(["", "v1", "spam", "model_error", "/p?q=1", "r77", "r1", "ci", "local/0"]),
).filter(lambda term: term[2] or term[1] in ("=", "!="))
MOMENTS = st.tuples(
    st.sampled_from(["since", "until"]), st.just("="), st.floats(0.01, 2.99).map(lambda h: START + h * HOUR_S)
)
TERMS = st.lists(st.one_of(NUMBERS, NAMES, MOMENTS), max_size=3, unique_by=lambda term: term[0]).filter(
    lambda terms: _moment(terms, "since", 0.0) < _moment(terms, "until", math.inf)
)


def _moment(terms: list[tuple[str, str, Any]], name: str, otherwise: float) -> float:
    return next((float(value) for field, _, value in terms if field == name), otherwise)


def spell(terms: list[tuple[str, str, Any]]) -> str:
    return " ".join(
        f'{name}{sign}"{value}"' if isinstance(value, str) else f"{name}{sign}{value!r}"
        for name, sign, value in terms
    )


def passes(entry: Entry, terms: list[tuple[str, str, Any]]) -> bool:
    for name, sign, value in terms:
        if name in ("since", "until"):
            held = entry.time >= value if name == "since" else entry.time < value
        elif isinstance(value, str):
            has = getattr(entry, name)
            found = value.lower() in (has or "").lower() if "~" in sign else has == (value or None)
            held = found != sign.startswith("!")
        else:
            has = getattr(entry, name)
            held = has is not None and OPERATORS[sign](has, value)
        if not held:
            return False
    return True


BRUTE = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
