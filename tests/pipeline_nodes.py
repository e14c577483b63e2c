"""Nodes of a pipeline in a few words, and handlers that append letters."""

from __future__ import annotations

import asyncio
from pipes import FakeHandler, Request
from time import perf_counter
from typing import Any

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


def model(name: str, deployed: str, *targets: str) -> Node:
    found, _, version = deployed.partition("@")
    return Node(name, ModelName(*found.split("/"), version or None), targets)


def choose(name: str, by: str, when: dict[str, Targets], otherwise: Targets | None = None) -> Node:
    return Node(name, f"nodes.{name}", Choice(tuple(by.split(".")) if by else (), when, otherwise))


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
