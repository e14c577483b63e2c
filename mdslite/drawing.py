"""A pipeline's graph as text: one line a node, each below all that lead to it, with rails between them.

●    prepare  nodes.prepare   → first, second
├─╮
● │  first    demo/digits@v1  → name
│ ●  second   demo/digits@v2  → name
├─╯
●    name     nodes.name      → end         merges first, second
"""

from __future__ import annotations

from mdslite.graph import END, Choice, Node, Pipeline, Targets

_NODE, _CHOICE = "●", "◆"


def draw(pipeline: Pipeline) -> str:
    """The graph, without a line end; a diamond stands for a node that chooses the next one."""
    rails = _Rails(pipeline)
    lines = [line for node in pipeline.order for line in rails.lines(node)]
    wide = max(len(graph) for graph, _ in lines)
    widths = [max(len(cells[at]) for _, cells in lines if cells) for at in range(3)]
    drawn = [pipeline.name, ""]
    for graph, cells in lines:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        drawn.append("  ".join([graph.ljust(wide), *padded, *cells[3:]]).rstrip())
    if pipeline.unreached:
        names = ", ".join(node.name for node in pipeline.unreached)
        drawn += ["", f"never reached, so not run: {names}"]
    return "\n".join(drawn)


class _Rails:
    """The columns of the drawing: each leads down to a node that is still to come, or is free."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._to: list[str | None] = [pipeline.start]

    def lines(self, node: Node) -> list[tuple[str, tuple[str, ...]]]:
        """The graph and the text of each line that a node adds."""
        found: list[tuple[str, tuple[str, ...]]] = []
        mine = [at for at, name in enumerate(self._to) if name == node.name]
        at, joining = mine[0], mine[1:]
        if joining:
            found.append((self._across(at, joining, "┴╯"), ()))
            for gone in joining:
                self._to[gone] = None
        mark = _CHOICE if isinstance(node.next, Choice) else _NODE
        found.append((self._down({at: mark}), self._text(node)))
        targets = [name for name in node.targets if name != END]
        self._to[at] = targets[0] if targets else None
        opening = [self._open(name, at) for name in targets[1:]]
        if opening:
            found.append((self._across(at, opening, "┬╮"), ()))
        while self._to and self._to[-1] is None:
            self._to.pop()
        return found

    def _open(self, name: str, right_of: int) -> int:
        """A free column for one more rail."""
        for at in range(right_of + 1, len(self._to)):
            if self._to[at] is None:
                self._to[at] = name
                return at
        self._to.append(name)
        return len(self._to) - 1

    def _down(self, marks: dict[int, str]) -> str:
        return " ".join(marks.get(at, " " if name is None else "│") for at, name in enumerate(self._to))

    def _across(self, start: int, others: list[int], corners: str) -> str:
        """A line from one rail to others on its right, over those between."""
        marks = {at: "┼" if self._to[at] is not None else "─" for at in range(start, others[-1])}
        marks |= dict.fromkeys(others, corners[0]) | {start: "├", others[-1]: corners[1]}
        plain = self._down(marks)
        return (
            plain[: 2 * start] + plain[2 * start : 2 * others[-1]].replace(" ", "─") + plain[2 * others[-1] :]
        )

    def _text(self, node: Node) -> tuple[str, ...]:
        sources = self._pipeline.sources[node.name]
        merged = (f"merges {', '.join(sources)}",) if node.name in self._pipeline.merges else ()
        return (node.name, str(node.work), _next(node), *merged)


def _next(node: Node) -> str:
    if not isinstance(node.next, Choice):
        return f"→ {_names(node.next)}"
    options = [f"{value} → {_names(targets)}" for value, targets in node.next.when.items()]
    if node.next.otherwise is not None:
        options.append(f"otherwise → {_names(node.next.otherwise)}")
    return f"by {'.'.join(node.next.by) or 'its answer'}: {' · '.join(options)}"


def _names(targets: Targets) -> str:
    return ", ".join(targets) or END
