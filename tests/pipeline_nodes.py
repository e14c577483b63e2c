"""Nodes of a pipeline in a few words, and handlers that append letters."""

from __future__ import annotations

import asyncio
from pipes import FakeHandler, Request
from time import perf_counter
from typing import Any

from hypothesis import strategies as some

from mdslite.graph import Choice, ModelName, Node, Pipeline, Targets
from mdslite.serving.pipeline import PipelineLane


async def entered(handler: FakeHandler) -> None:
    """Wait until a batch is being computed."""
    await asyncio.to_thread(handler.entered.wait, 10)


def submit(lane: PipelineLane, *requests: Request) -> None:
    for request in requests:
        lane.submit(request, perf_counter())


def pipeline(*nodes: Node) -> Pipeline:
    return Pipeline("pipe", nodes[0].name, nodes)


def to(name: str, *targets: str) -> Node:
    return Node(name, f"nodes.{name}", targets)


def model(name: str, deployed: str, *targets: str) -> Node:
    found, _, version = deployed.partition("@")
    project, called = found.split("/")
    return Node(name, ModelName(project, called, version or None), targets)


def choose(name: str, by: str, when: dict[str, Targets], otherwise: Targets | None = None) -> Node:
    return Node(name, f"nodes.{name}", Choice(tuple(by.split(".")) if by else (), when, otherwise))


@some.composite
def pipelines(draw_from: some.DrawFn) -> Pipeline:
    """Up to seven nodes that lead to later ones only, then shuffled."""
    count = draw_from(some.integers(1, 7))
    names = [f"n{at}" for at in range(count)]
    nodes = []
    for at, name in enumerate(names):
        later = names[at + 1 :]
        targets = some.lists(some.sampled_from(later), max_size=3, unique=True) if later else some.just([])
        options = [tuple(option) for option in draw_from(some.lists(targets, min_size=1, max_size=3))]
        when = {str(number): option for number, option in enumerate(options)}
        nodes.append(to(name, *options[0]) if len(options) == 1 else choose(name, "label", when))
    return Pipeline("p", "n0", tuple(draw_from(some.permutations(nodes))))


def append(letter: str) -> FakeHandler:
    """A handler that adds a letter to a text, or to what is under each key of an object."""

    def compute(value: Any) -> Any:
        return (
            {key: one + letter for key, one in value.items()} if isinstance(value, dict) else value + letter
        )

    return FakeHandler(compute)


def same() -> FakeHandler:
    return FakeHandler(lambda value: value)


def appenders(*names: str) -> dict[str, FakeHandler]:
    return {name: append(name) for name in names}
