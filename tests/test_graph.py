"""What follows from how a pipeline's nodes are connected, and its drawing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pipeline_nodes import pipeline, pipelines, to

from mdslite.drawing import draw
from mdslite.graph import END, Choice, ModelName, Node, Pipeline, Targets, find_cycle


def choose(name: str, *options: Targets, otherwise: Targets | None = None) -> Node:
    when = {str(number): option for number, option in enumerate(options)}
    return Node(name, f"nodes.{name}", Choice(("label",), when, otherwise))


def runs(of: Pipeline) -> Iterator[dict[str, set[str]]]:
    """Every run that the choices allow: who led where."""
    for picks in product(*(node.options for node in of.order)):
        led: dict[str, set[str]] = {name: set() for name in (*(node.name for node in of.order), END)}
        for node, picked in zip(of.order, picks, strict=True):
            if node.name == of.start or led[node.name]:
                for target in picked or (END,):
                    led[target].add(node.name)
        yield led


@given(pipelines())
def test_merges_are_where_several_nodes_lead_in_some_run(of: Pipeline) -> None:
    met = {name for led in runs(of) for name, sources in led.items() if len(sources) > 1}
    assert of.merges == met


@given(pipelines())
def test_every_node_comes_after_all_that_lead_to_it(of: Pipeline) -> None:
    names = [node.name for node in of.order]
    for node in of.order:
        for target in node.targets:
            assert target == END or names.index(node.name) < names.index(target)
    for name, sources in of.sources.items():
        assert set(sources) == {node.name for node in of.order if name in node.targets}


@given(pipelines())
def test_the_order_and_the_unreached_are_all_nodes(of: Pipeline) -> None:
    assert {node.name for node in (*of.order, *of.unreached)} == {node.name for node in of.nodes}
    ran = {name for led in runs(of) for name, sources in led.items() if sources and name != END}
    assert {node.name for node in of.order} == ran | {of.start}


@given(pipelines())
def test_every_node_that_can_run_is_drawn_once_below_those_that_lead_to_it(of: Pipeline) -> None:
    lines = draw(of).splitlines()
    shown = [line for line in lines if "●" in line or "◆" in line]
    assert [next(word for word in line.split() if word.startswith("n")) for line in shown] == [
        node.name for node in of.order
    ]
    assert lines[-1].startswith("never reached") == bool(of.unreached)


@given(pipelines())
def test_what_leads_on_only_has_no_cycle(of: Pipeline) -> None:
    assert find_cycle(of.nodes) is None


@given(pipelines(), some.data())
def test_an_edge_that_leads_back_makes_a_cycle(of: Pipeline, data: some.DataObject) -> None:
    last = data.draw(some.sampled_from(of.order))
    above = data.draw(some.sampled_from([node for node in of.order if leads(of, node.name, last.name)]))
    nodes = [to(last.name, above.name) if node == last else node for node in of.nodes]
    cycle = find_cycle(nodes)
    assert cycle is not None and cycle[0] == cycle[-1] and len(set(cycle)) == len(cycle) - 1
    by_name = {node.name: node for node in nodes}
    assert all(after in by_name[name].targets for name, after in pairwise(cycle))


def leads(of: Pipeline, name: str, target: str) -> bool:
    if name == target:
        return True
    return any(target in of.sources and leads(of, name, source) for source in of.sources[target])


def test_nodes_that_exclude_each_other_make_no_merge() -> None:
    of = pipeline(choose("ask", ("a",), ("b",)), to("a", "last"), to("b", "last"), to("last"))
    assert of.merges == set()


def test_a_branch_that_may_be_skipped_still_makes_one() -> None:
    of = pipeline(to("s", "a", "b"), choose("a", ("last",), ()), to("b", "last"), to("last"))
    assert of.merges == {"last", END}


def test_the_deployed_models_that_it_calls_are_known() -> None:
    digits = ModelName("demo", "digits")
    of = pipeline(Node("a", digits, ("b",)), Node("b", digits, ()), Node("c", ModelName("x", "y"), ()))
    assert of.models == (digits,)


def test_a_fan_out_with_a_merge_is_drawn_with_rails() -> None:
    of = Pipeline(
        "digits",
        "prepare",
        (
            to("prepare", "first", "second"),
            Node("first", ModelName("demo", "digits", "v1"), ("name",)),
            Node("second", ModelName("demo", "digits", "v2"), ("name",)),
            to("name"),
            to("old"),
        ),
    )
    assert draw(of) == (
        "digits\n"
        "\n"
        "●    prepare  nodes.prepare   → first, second\n"
        "├─╮\n"
        "● │  first    demo/digits@v1  → name\n"
        "│ ●  second   demo/digits@v2  → name\n"
        "├─╯\n"
        "●    name     nodes.name      → end            merges first, second\n"
        "\n"
        "never reached, so not run: old"
    )


def test_a_choice_is_drawn_as_a_diamond_that_says_what_decides() -> None:
    of = pipeline(choose("ask", ("a",), ("a", "b"), otherwise=()), to("a"), to("b"))
    assert draw(of).splitlines()[2:] == [
        "◆    ask  nodes.ask  by label: 0 → a · 1 → a, b · otherwise → end",
        "├─╮",
        "● │  a    nodes.a    → end",
        "  ●  b    nodes.b    → end",
    ]


def test_rails_cross_those_that_lead_elsewhere() -> None:
    of = pipeline(
        to("s", "a", "b", "c"),
        to("a", "d", "e"),
        to("b", "e"),
        to("c", "d"),
        to("d", "f"),
        to("e", "f"),
        to("f"),
    )
    assert [line[:9].rstrip() for line in draw(of).splitlines()[2:]] == [
        "●",
        "├─┬─╮",
        "● │ │",
        "├─┼─┼─╮",
        "│ ● │ │",
        "│ │ ● │",
        "├─┼─╯ │",
        "● │   │",
        "│ ├───╯",
        "│ ●",
        "├─╯",
        "●",
    ]


@pytest.mark.parametrize("count", [64])
def test_a_pipeline_as_large_as_may_be_is_understood_quickly(count: int) -> None:
    names = [f"n{at}" for at in range(count)]
    nodes = [choose(name, *((target,) for target in names[at + 1 :]), ()) for at, name in enumerate(names)]
    assert pipeline(*nodes).merges == set()
