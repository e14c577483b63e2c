"""What is typed into dialogs, read: weights and rollouts. Asks nobody."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mdslite.errors import InvalidRequest

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class RolloutWish:
    steps: tuple[float, ...]
    every_s: float
    every_text: str
    gates: tuple[str, ...]


def parse_weights(text: str, known: Mapping[str, float | None], *, chosen: str) -> dict[str, float]:
    """`v2 20, v1 80`, `v2=20`, or a number alone for the chosen version.

    :raises InvalidRequest: it is none of these, or names no version of the model
    """
    wanted: dict[str, float] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        words = part.replace("=", " ").split()
        version, number = (chosen, words[0]) if len(words) == 1 else (words[0], words[-1])
        if len(words) > 2 or version not in known:
            there = ", ".join(known)
            raise InvalidRequest(f"{part!r}: expected VERSION WEIGHT; the versions are {there}")
        wanted[version] = _weight(number)
    if not wanted:
        raise InvalidRequest("expected a weight, such as 20")
    return wanted


def shares_after(weights: Mapping[str, float | None], wanted: Mapping[str, float]) -> dict[str, float]:
    """Each version's share of the traffic once it has the wanted weights."""
    after = {version: wanted.get(version, weight or 0.0) for version, weight in weights.items()}
    total = sum(after.values())
    return {version: weight / total if total else 0.0 for version, weight in after.items()}


def parse_rollout(text: str) -> RolloutWish:
    """`5,25,50,100 every 10m error_rate<1% p99<1.2x`.

    :raises InvalidRequest: it is not like that
    """
    words = text.split()
    if not words:
        raise InvalidRequest("expected steps in percent, such as 5,25,50,100")
    try:
        steps = tuple(float(one) for one in words[0].split(","))
    except ValueError as exc:
        raise InvalidRequest(f"{words[0]!r}: expected percentages with commas, such as 5,25,50,100") from exc
    rest, every = words[1:], "10m"
    if rest and rest[0] == "every":
        if len(rest) == 1:
            raise InvalidRequest("every what? expected a span such as 90s, 10m, 2h or 1d")
        every, rest = rest[1], rest[2:]
    found = _SPAN.fullmatch(every)
    if found is None:
        raise InvalidRequest(f"{every!r}: expected a span such as 90s, 10m, 2h or 1d")
    return RolloutWish(steps, float(found[1]) * _UNITS_S[found[2]], every, tuple(rest))


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError as exc:
        raise InvalidRequest(f"weight: expected a number, got {text!r}") from exc
    if not (math.isfinite(weight) and weight >= 0):
        raise InvalidRequest(f"weight: expected 0 or more, got {text}")
    return weight
