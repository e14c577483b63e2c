"""One rollout as a value, and what somebody wants rolled out. Who carries it out is `rollouts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from mdslite.deploy.gates import Finding, Gate
from mdslite.errors import Conflict, InvalidRequest
from mdslite.spec import ServiceInfo

EVERY_MIN_S = 1.0
STEPS_MAX = 50
_NOTES_MAX = 200

State = Literal["running", "paused", "promoted", "aborted", "rolled_back"]
ENDED: frozenset[State] = frozenset({"promoted", "aborted", "rolled_back"})


class Note(msgspec.Struct, frozen=True):
    """Something that happened. Times in Unix seconds."""

    time: float
    what: str


class Rollout(msgspec.Struct, kw_only=True):
    """`at` is the step it is at, from 0; `since` when that began; `applied` whether its weights are in force.
    `before` are the weights to go back to, `shadow` whether the version was a shadow, `models` what each
    version's model is known by; pairs of answers from before `pairs_since` are another model's."""

    id: int
    project: str
    model: str
    version: str
    steps: tuple[float, ...]
    every_s: float
    gates: tuple[str, ...]
    author: str
    reason: str
    state: State = "running"
    at: int = 0
    since: float = 0.0
    applied: bool = False
    started_at: float = 0.0
    before: dict[str, float] = {}
    shadow: bool = False
    models: dict[str, str] = {}
    pairs_since: float = 0.0
    message: str = ""
    findings: tuple[Finding, ...] = ()
    notes: list[Note] = []

    @property
    def label(self) -> str:
        return f"{self.project}/{self.model} {self.version}"

    @property
    def share(self) -> str:
        """What its step has the version take, in words."""
        return f"{self.steps[self.at]:g} %"

    def note(self, now: float, what: str) -> None:
        self.message = what
        self.notes = [*self.notes[-_NOTES_MAX + 1 :], Note(now, what)]

    def begin_anew(self, now: float, models: dict[str, str], replaced: Sequence[str]) -> str:
        """Forget what is known of versions that were replaced by other models; what that means, in words.

        A candidate that was replaced has proved nothing yet: it goes back to the first step.
        """
        self.models, self.findings, self.since = models, (), now
        self.pairs_since = math.ceil(now / 60) * 60.0  # they are kept by the minute
        if self.version not in replaced:
            return f"the evidence at {self.share} begins anew"
        self.at, self.applied = 0, False
        return f"it begins anew at {self.share}"

    def has_left(self, info: ServiceInfo) -> bool:
        """Whether the version is what this rollout has made of it, so that nobody else has changed it."""
        return (
            not info.shadow and not info.match and any(abs(info.weight - step) < 1e-6 for step in self.steps)
        )

    def weights(self) -> dict[str, float]:
        """What every version of the model weighs at this step: the others share what is left as before."""
        share = self.steps[self.at]
        others = {name: weight for name, weight in self.before.items() if name != self.version}
        total = sum(others.values())
        shared = {name: round(weight / total * (100 - share), 6) for name, weight in others.items()}
        return {self.version: share, **shared}


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants rolled out, and how."""

    project: str
    model: str
    version: str
    steps: tuple[float, ...]
    every_s: float
    gates: tuple[str, ...]
    author: str
    reason: str = ""
    ungated: bool = False  # nothing but somebody is to stop it, and that is meant

    def check(self) -> None:
        """:raises InvalidRequest: it makes no sense"""
        if not self.steps or len(self.steps) > STEPS_MAX:
            raise InvalidRequest(
                f"expected 1 to {STEPS_MAX} percentages", field="steps", hint="such as 5,25,50,100"
            )
        if any(not 0 < step <= 100 for step in self.steps) or list(self.steps) != sorted(set(self.steps)):
            got = ", ".join(f"{step:g}" for step in self.steps)
            raise InvalidRequest(
                f"expected rising percentages up to 100; got {got}", field="steps", hint="such as 5,25,50,100"
            )
        if not EVERY_MIN_S <= self.every_s <= 30 * 86_400:
            raise InvalidRequest("expected 1 s to 30 days", field="every_s", hint="such as 10m")
        for gate in self.gates:
            Gate.parse(gate)
        if not self.gates and not self.ungated:
            raise InvalidRequest(
                f"expected at least one: without any, {self.version} would get {self.steps[-1]:g} % of all,"
                " whatever it does",
                field="gates",
                hint="--gate 'error_rate<1%', or --ungated if that is meant",
            )

    def refuse_step_down(self, before: Mapping[str, float]) -> None:
        """:raises Conflict: its first step is less than what the version has by these weights"""
        share = before[self.version] / sum(before.values()) * 100
        if self.steps[0] < share - 1e-9:
            above = [f"{step:g}" for step in (*self.steps, 100.0) if step > share]
            raise Conflict(
                f"{self.project}/{self.model} {self.version} has {share:.4g} % of the requests now,"
                f" so a first step of {self.steps[0]:g} % would take some away",
                hint=f"a rollout only steps up: --steps {','.join(dict.fromkeys(above))}",
            )


def told_steps(steps: Sequence[float]) -> str:
    """The shares, one after the other."""
    return " → ".join(f"{step:g} %" for step in steps)


def span_text(seconds: float) -> str:
    """A span in the largest unit that it is a whole number of."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size and not seconds % size:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
