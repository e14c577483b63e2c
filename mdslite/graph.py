"""A pipeline's nodes and what follows from how they are connected: the order in which they can run, which of
them merge, which end it. Values only: reads no file and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

END = "end"  # what `next` says where a pipeline ends; no node has this name

# The nodes that a node leads to, all at once; none of them ends the pipeline there.
Targets = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelName:
    """A deployed model; without a version its weights choose one."""

    project: str
    model: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.project}/{self.model}" + (f"@{self.version}" if self.version else "")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which nodes come next by what a node answers.

    `by` leads to the field that decides, through objects by key and through lists by index; empty, the whole
    answer decides. `when` has texts as they are, and other values as JSON writes them.
    """

    by: tuple[str, ...]
    when: Mapping[str, Targets]
    otherwise: Targets | None = None

    @property
    def options(self) -> tuple[Targets, ...]:
        return (*self.when.values(), *(() if self.otherwise is None else (self.otherwise,)))


@dataclass(frozen=True, slots=True)
class Node:
    """One step: `work` is the dotted module of a class under the pipeline's folder, or a deployed model."""

    name: str
    work: str | ModelName
    next: Targets | Choice

    @property
    def options(self) -> tuple[Targets, ...]:
        """The alternatives: exactly one of them follows each answer."""
        return self.next.options if isinstance(self.next, Choice) else (self.next,)

    @property
    def targets(self) -> Targets:
        """Every node that may follow, each once; END where the pipeline may end here."""
        found = [name for option in self.options for name in option or (END,)]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Pipeline:
    """A pipeline whose names all exist and which has no cycle. `nodes` are in the file's order."""

    name: str
    start: str
    nodes: tuple[Node, ...]

    @cached_property
    def order(self) -> tuple[Node, ...]:
        """The nodes that can run, each after all that may lead to it."""
        by_name = {node.name: node for node in self.nodes}
        reached = set(find_reached(self.nodes, self.start))
        waits_for = dict.fromkeys(reached, 0)
        for name in reached:
            for target in by_name[name].targets:
                if target != END:
                    waits_for[target] += 1
        order: list[Node] = []
        while len(order) < len(reached):
            ready = next(node for node in self.nodes if waits_for.get(node.name) == 0)
            del waits_for[ready.name]
            order.append(ready)
            for target in ready.targets:
                if target != END:
                    waits_for[target] -= 1
        return tuple(order)

    @property
    def unreached(self) -> tuple[Node, ...]:
        """The nodes that can never run."""
        return tuple(node for node in self.nodes if node not in self.order)

    @cached_property
    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """By node, and by END: the nodes that may lead there, in order."""
        found: dict[str, list[str]] = {node.name: [] for node in self.order}
        found[END] = []
        for node in self.order:
            for target in node.targets:
                found[target].append(node.name)
        return {name: tuple(sources) for name, sources in found.items()}

    @cached_property
    def merges(self) -> frozenset[str]:
        """Where several nodes may lead in one run: such a node, and END, takes an object of their answers.

        Nodes that exclude each other, because one choice leads to either, do not make a merge.
        """
        together = _Together(self)
        return frozenset(
            name
            for name, sources in self.sources.items()
            if any(
                together.lead(first, name, second, name)
                for at, first in enumerate(sources)
                for second in sources[at + 1 :]
            )
        )

    @property
    def models(self) -> tuple[ModelName, ...]:
        """The deployed models that it may call."""
        return tuple(dict.fromkeys(node.work for node in self.order if isinstance(node.work, ModelName)))


class _Together:
    """Whether two things can happen in one run of a pipeline, whatever its choices are.

    Looks at the later of two nodes in the order: what leads to it has to go with the earlier one, and no
    way to it passes through anything later.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._at = {node.name: number for number, node in enumerate(pipeline.order)}
        self._sources = pipeline.sources
        self._options: dict[tuple[str, str], set[int]] = {}  # the numbers of those that lead to a target
        for node in pipeline.order:
            for number, option in enumerate(node.options):
                for target in option or (END,):
                    self._options.setdefault((node.name, target), set()).add(number)
        self._known: dict[tuple[str, str, int], bool] = {}

    def lead(self, first: str, to: str, second: str, to_second: str) -> bool:
        """Can both nodes run, and each lead to its target?"""
        if first == second:
            return bool(self._options[first, to] & self._options[first, to_second])
        if self._at[first] < self._at[second]:
            first, second, to_second = second, first, to
        return any(self._runs(first, second, option) for option in self._options[second, to_second])

    def _runs(self, later: str, earlier: str, option: int) -> bool:
        """Can `later` run when `earlier` runs and takes its option of that number?"""
        key = later, earlier, option
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = any(
                self._leads(source, later, earlier, option) for source in self._sources[later]
            )
        return known

    def _leads(self, source: str, to: str, earlier: str, option: int) -> bool:
        if source == earlier:
            return option in self._options[source, to]
        if self._at[source] > self._at[earlier]:
            return self._runs(source, earlier, option)
        # The earlier node's option is its own affair: it has no part in how either of the two is reached.
        return any(self._runs(earlier, source, one) for one in self._options[source, to])


def find_reached(nodes: Sequence[Node], start: str) -> Iterator[str]:
    """The names of the nodes that `start` leads to, itself first."""
    by_name = {node.name: node for node in nodes}
    seen = {start}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        yield name
        for target in by_name[name].targets:
            if target != END and target not in seen:
                seen.add(target)
                waiting.append(target)


def find_cycle(nodes: Sequence[Node]) -> list[str] | None:
    """The names along a cycle, the first one again at its end; None where there is none."""
    by_name = {node.name: node for node in nodes}
    done: set[str] = set()
    for node in nodes:
        trail: list[str] = []
        branches = [iter((node.name,))]
        while branches:
            name = next(branches[-1], None)
            if name is None:
                branches.pop()
                if trail:
                    done.add(trail.pop())
            elif name in trail:
                return [*trail[trail.index(name) :], name]
            elif name not in done and name != END:
                trail.append(name)
                branches.append(iter(by_name[name].targets))
    return None
