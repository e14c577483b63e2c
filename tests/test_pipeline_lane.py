"""A pipeline in service: what runs, on what, in which batches, and what comes out."""

from __future__ import annotations

import asyncio
from pipes import FakeHandler, Request, pipeline_lane
from typing import Any

from hypothesis import given
from hypothesis import strategies as some
from lanes import run
from pipeline_nodes import append, appenders, choose, entered, pipeline, pipelines, same, submit, to
from waiting import until

from mdslite.graph import END, Node, Pipeline


class TestWhatRuns:
    def test_a_request_goes_from_node_to_node(self) -> None:
        async def test() -> None:
            lane = pipeline_lane(pipeline(to("a", "b"), to("b", "c"), to("c")), appenders(*"abc"))
            request = Request("x", "y")
            submit(lane, request)
            assert await request.answer() == ["xabc", "yabc"]
            assert request.times_resolved == 1
            lane.close()

        run(test())

    def test_the_branches_of_a_fan_out_run_side_by_side_and_are_merged(self) -> None:
        async def test() -> None:
            handlers = appenders(*"sabm")
            lane = pipeline_lane(pipeline(to("s", "a", "b"), to("a", "m"), to("b", "m"), to("m")), handlers)
            handlers["a"].hold.clear()
            handlers["b"].hold.clear()
            request = Request("x")
            submit(lane, request)
            await entered(handlers["a"])
            await entered(handlers["b"])
            handlers["b"].hold.set()
            handlers["a"].hold.set()
            assert await request.answer() == [{"a": "xsam", "b": "xsbm"}]
            lane.close()

        run(test())

    def test_a_choice_leads_each_row_its_own_way(self) -> None:
        async def test() -> None:
            handlers = {"s": FakeHandler(lambda value: {"kind": value}), **appenders(*"aboz")}
            lane = pipeline_lane(
                pipeline(
                    choose("s", "kind", {"one": ("a",), "2": ("b",), "true": ("o",)}, ()),
                    to("a", "z"),
                    to("b", "z"),
                    to("o", "z"),
                    to("z"),
                ),
                handlers,
            )
            request = Request("one", 2, True, None, "one")
            submit(lane, request)
            handlers["a"].compute = handlers["b"].compute = handlers["o"].compute = lambda value: value[
                "kind"
            ]
            handlers["z"].compute = lambda value: [value]
            assert await request.answer() == [["one"], [2], [True], {"kind": None}, ["one"]]
            assert [sorted(batch, key=str) for batch in handlers["z"].batches] == [[2, True, "one", "one"]]
            lane.close()

        run(test())

    def test_a_choice_reads_inside_objects_and_lists_and_may_be_a_fan_out(self) -> None:
        async def test() -> None:
            lane = pipeline_lane(
                pipeline(
                    choose("s", "top.1.label", {"é": ("a", "b")}, ("a",)), to("a", "m"), to("b", "m"), to("m")
                ),
                {
                    "s": same(),
                    "a": FakeHandler(lambda value: 1),
                    "b": FakeHandler(lambda value: 2),
                    "m": same(),
                },
            )
            request = Request({"top": [0, {"label": "é"}]}, {"top": [0, {"label": "e"}]})
            submit(lane, request)
            assert await request.answer() == [{"a": 1, "b": 2}, {"a": 1}]
            lane.close()

        run(test())

    def test_several_ends_make_an_object_of_their_answers(self) -> None:
        async def test() -> None:
            lane = pipeline_lane(pipeline(to("s", "a", "b"), to("a"), to("b")), appenders(*"sab"))
            request = Request("x")
            submit(lane, request)
            assert await request.answer() == [{"a": "xsa", "b": "xsb"}]
            lane.close()

        run(test())

    def test_a_merge_does_not_wait_for_a_branch_that_was_not_chosen(self) -> None:
        async def test() -> None:
            # b is skipped: m must not wait for it, nor for c behind it.
            handlers = {**appenders(*"abcm"), "s": FakeHandler(lambda value: value), "t": append("t")}
            lane = pipeline_lane(
                pipeline(
                    to("t", "s", "a"),
                    choose("s", "", {"xt": ("m",)}, ("b",)),
                    to("a", "m"),
                    to("b", "c"),
                    to("c", "m"),
                    to("m"),
                ),
                handlers,
            )
            request = Request("x")
            submit(lane, request)
            assert await request.answer() == [{"s": "xtm", "a": "xtam"}]
            assert handlers["b"].batches == handlers["c"].batches == []
            lane.close()

        run(test())

    def test_an_end_that_is_chosen_stands_beside_the_other_branch(self) -> None:
        async def test() -> None:
            handlers = {"s": same(), "a": same(), "b": append("b"), "m": FakeHandler(lambda value: value)}
            lane = pipeline_lane(
                pipeline(to("s", "a", "b"), choose("a", "", {"go": ("m",)}, ()), to("b", "m"), to("m")),
                handlers,
            )
            request = Request("go", "stay")
            submit(lane, request)
            assert await request.answer() == [
                {"m": {"a": "go", "b": "gob"}},
                {"a": "stay", "m": {"b": "stayb"}},
            ]
            lane.close()

        run(test())

    def test_nodes_that_nothing_leads_to_are_not_needed(self) -> None:
        async def test() -> None:
            of = Pipeline("pipe", "a", (to("a"), to("never", "a2"), to("a2")))
            lane = pipeline_lane(of, appenders("a"))
            request = Request("x")
            submit(lane, request)
            assert await request.answer() == ["xa"]
            lane.close()

        run(test())

    @given(pipelines(), some.integers(1, 6))
    def test_any_graph_runs_what_its_choices_say(self, of: Pipeline, rows: int) -> None:
        async def test() -> None:
            # Every node answers with its name and what it got; the row's number decides each choice.
            def handler(node: Node) -> FakeHandler:
                return FakeHandler(
                    lambda got: {
                        "label": str(row_of(got) % len(node.options)),
                        "row": row_of(got),
                        node.name: got,
                    }
                )

            lane = pipeline_lane(of, {node.name: handler(node) for node in of.order})
            request = Request(*({"row": row} for row in range(rows)))
            submit(lane, request)
            found = await request.answer()
            assert found == [expected(of, row) for row in range(rows)]
            lane.close()

        run(test())


def row_of(value: Any) -> int:
    while "row" not in value:
        value = next(iter(value.values()))
    return int(value["row"])


def expected(of: Pipeline, row: int) -> Any:
    """What comes out for a row, worked out node by node in order."""
    brought: dict[str, dict[str, Any]] = {of.start: {"": {"row": row}}}
    for node in of.order:
        if node.name not in brought:
            continue
        picked = row % len(node.options)
        answer = {"label": str(picked), "row": row, node.name: _whole(of, node.name, brought)}
        for target in node.options[picked] or (END,):
            brought.setdefault(target, {})[node.name] = answer
    return _whole(of, END, brought)


def _whole(of: Pipeline, name: str, brought: dict[str, dict[str, Any]]) -> Any:
    return brought[name] if name in of.merges else next(iter(brought[name].values()))


class TestBatching:
    def test_each_node_batches_what_several_requests_bring(self) -> None:
        async def test() -> None:
            handlers = appenders(*"ab")
            lane = pipeline_lane(
                pipeline(to("a", "b"), to("b")),
                handlers,
                node_knobs={"a": {"batch_size": 2}, "b": {"batch_size": 64}},
            )
            handlers["b"].hold.clear()
            first = Request("0")
            submit(lane, first)
            await entered(handlers["b"])
            requests = [Request(f"{number}", f"{number}'") for number in range(1, 9)]
            submit(lane, *requests)
            await until(lambda: lane.handlers["b"].lane.queue_rows == 16)
            handlers["b"].hold.set()
            assert await first.answer() == ["0ab"]
            for number, request in enumerate(requests, 1):
                assert await request.answer() == [f"{number}ab", f"{number}'ab"]
            assert max(handlers["a"].sizes) == 2
            assert handlers["b"].sizes == [1, 16]
            lane.close()

        run(test())

    def test_a_large_request_moves_in_groups_and_its_answers_keep_their_order(self) -> None:
        async def test() -> None:
            handlers = {"s": same(), "a": append("a"), "b": append("b")}
            lane = pipeline_lane(
                pipeline(choose("s", "", {}, ("a",)), to("a", "b"), to("b")),
                handlers,
                node_knobs={"s": {"batch_size": 4}, "a": {"batch_size": 3}, "b": {"batch_size": 32}},
            )
            request = Request(*(str(number) for number in range(50)))
            submit(lane, request)
            assert await request.answer() == [f"{number}ab" for number in range(50)]
            assert set(handlers["s"].sizes) <= {2, 4}
            lane.close()

        run(test())

    def test_a_request_of_one_row_nodes_moves_in_no_more_groups_than_needed(self) -> None:
        async def test() -> None:
            handlers = appenders("a")
            lane = pipeline_lane(pipeline(to("a")), handlers, node_knobs={"a": {"batch_size": 1}})
            request = Request(*map(str, range(1000)))
            submit(lane, request)
            assert await request.answer() == [f"{number}a" for number in range(1000)]
            assert request.nodes["a"]["rows"] == 1000
            lane.close()

        run(test())

    def test_many_requests_at_a_time_each_get_their_own_answers(self) -> None:
        async def test() -> None:
            handlers = {"s": same(), **appenders(*"abm")}
            lane = pipeline_lane(
                pipeline(to("s", "a", "b"), to("a", "m"), to("b", "m"), to("m")),
                handlers,
                node_knobs={
                    name: {"batch_size": size} for name, size in zip("sabm", (8, 5, 32, 3), strict=True)
                },
            )
            requests = [Request(*(f"{at}.{row}" for row in range(at % 7 + 1))) for at in range(100)]
            for request in requests:
                submit(lane, request)
                await asyncio.sleep(0)
            for at, request in enumerate(requests):
                texts = [f"{at}.{row}" for row in range(at % 7 + 1)]
                assert await request.answer() == [{"a": f"{text}am", "b": f"{text}bm"} for text in texts]
            lane.close()

        run(test())
