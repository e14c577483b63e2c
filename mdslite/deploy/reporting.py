"""Telling whoever watches an apply how far a step of its plan is. Takes no step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

from mdslite.deploy.events import Progress, StepEvent
from mdslite.deploy.plan import Step
from mdslite.errors import MdsliteError
from mdslite.serving.fleet import Key


@contextmanager
def reporting(progress: Progress, steps: Sequence[Step], at: int) -> Iterator[None]:
    """Tell that step `at` begins, and how the block that takes it ended."""

    def tell(state: Literal["START", "DONE", "FAILED"], error: str | None = None) -> None:
        step = steps[at]
        progress(
            StepEvent(
                index=at + 1,
                count=len(steps),
                project=step.project,
                model=step.model,
                version=step.version,
                action=cast(Literal["ADD", "UPDATE", "DELETE"], step.action.value),
                state=state,
                error=error,
            )
        )

    tell("START")
    try:
        yield
    except MdsliteError as exc:
        tell("FAILED", exc.message)
        raise
    tell("DONE")


def key_of(step: Step) -> Key:
    return step.project, step.model, step.version


def label_of(step: Step) -> str:
    return f"{step.project}/{step.model} {step.version}"
