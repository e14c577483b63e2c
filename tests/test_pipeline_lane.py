"""A pipeline in service: what runs, on what, what comes out, and what happens when something fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import weakref
from collections.abc import Coroutine
from pipes import (
    FakeHandler,
    FakeServed,
    Request,
    data_lane,
    pipeline_lane,
    router,
    tensor_lane,
)
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from lanes import DOUBLER, FakeSession
from test_graph import pipelines as any_pipeline
from test_graph import to
from waiting import until

import mds
from mdslite.errors import (
    DeadlineExceeded,
    InvalidTensor,
    MdsliteError,
    ModelError,
    Overloaded,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from mdslite.graph import END, Choice, ModelName, Node, Pipeline, Targets
from mdslite.serving.course import Visit
from mdslite.serving.pipeline import PipelineLane
from mdslite.tensors import Codec


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


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

    @given(any_pipeline(), some.integers(1, 6))
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


class TestDeployedModels:
    def test_a_model_of_tensors_takes_the_data_as_instances(self) -> None:
        async def test() -> None:
            session = FakeSession()
            digits = tensor_lane("demo/digits v1", session, Codec(DOUBLER))
            lane = pipeline_lane(
                pipeline(to("a", "b"), model("b", "demo/digits", "c"), to("c")),
                {
                    "a": FakeHandler(lambda value: [value, 0]),
                    "c": FakeHandler(lambda value: {"twice": value}),
                },
                routes=router(FakeServed("demo/digits@v1", digits)),
            )
            request = Request(1, 2, 3)
            submit(lane, request)
            assert await request.answer() == [
                {"twice": [2.0, 0.0]},
                {"twice": [4.0, 0.0]},
                {"twice": [6.0, 0.0]},
            ]
            np.testing.assert_array_equal(session.batches[0], [[1, 0], [2, 0], [3, 0]])
            assert request.nodes["b"]["version"] == "v1"
            lane.close()
            digits.close()

        run(test())

    def test_weights_choose_the_version_at_each_call_and_a_version_stays(self) -> None:
        async def test() -> None:
            first, second = data_lane("m/m v1", append("1")), data_lane("m/m v2", append("2"))
            routes = router(FakeServed("m/m@v1", first, weight=75), FakeServed("m/m@v2", second, weight=25))
            weighted = pipeline_lane(pipeline(model("a", "m/m")), {}, routes=routes)
            stable = pipeline_lane(pipeline(model("a", "m/m@v2")), {}, routes=routes)
            requests = [Request("x") for _ in range(8)]
            submit(weighted, *requests)
            answers = [answer for request in requests for answer in await request.answer()]
            assert sorted(answers) == ["x1"] * 6 + ["x2"] * 2
            fixed = [Request("x") for _ in range(3)]
            submit(stable, *fixed)
            assert [await request.answer() for request in fixed] == [["x2"]] * 3
            first.close()
            second.close()

        run(test())

    def test_a_model_that_is_not_deployed_any_more_is_unavailable(self) -> None:
        async def test() -> None:
            lane = pipeline_lane(pipeline(to("a", "b"), model("b", "m/gone")), appenders("a"))
            request = Request("x")
            submit(lane, request)
            with pytest.raises(Unavailable, match=r"^node b: no model m/gone is deployed") as caught:
                await request.answer()
            assert caught.value.retry_after_s
            lane.close()

        run(test())

    def test_an_overloaded_model_refuses_through_the_pipeline(self) -> None:
        async def test() -> None:
            session = append("1")
            full = data_lane("m/m v1", session, queue_rows=1, batch_size=1)
            session.hold.clear()
            lane = pipeline_lane(pipeline(model("a", "m/m")), {}, routes=router(FakeServed("m/m@v1", full)))
            first, second = Request("x"), Request("y")
            submit(lane, first)
            await entered(session)
            submit(lane, second)
            with pytest.raises(Overloaded, match=r"^node a: m/m v1 is overloaded") as caught:
                submit(lane, Request("z"))
            assert caught.value.retry_after_s
            session.hold.set()
            assert await first.answer() + await second.answer() == ["x1", "y1"]
            full.close()

        run(test())

    def test_what_does_not_fit_a_model_is_the_callers_fault_at_the_start_only(self) -> None:
        async def test() -> None:
            digits = tensor_lane("demo/digits v1", FakeSession(), Codec(DOUBLER))
            routes = router(FakeServed("demo/digits@v1", digits))
            lane = pipeline_lane(pipeline(model("a", "demo/digits")), {}, routes=routes)
            with pytest.raises(InvalidTensor, match=r'^node a: input "x"'):
                submit(lane, Request("no numbers"))
            with pytest.raises(UnsupportedMedia, match=r"^node a: demo/digits takes JSON instances"):
                submit(lane, Request(mds.Body(b"\x89PNG", "image/png")))
            behind = pipeline_lane(
                pipeline(to("s", "a"), model("a", "demo/digits")), {"s": same()}, routes=routes
            )
            request = Request("no numbers")
            submit(behind, request)
            with pytest.raises(ModelError, match=r'^node a: input "x"'):
                await request.answer()
            assert lane._courses == behind._courses == {}
            digits.close()

        run(test())

    def test_a_pipeline_may_be_a_node_of_another(self) -> None:
        async def test() -> None:
            inner = pipeline_lane(pipeline(to("a", "b"), to("b")), appenders(*"ab"), name="p/inner v1")
            routes = router(FakeServed("p/inner@v1", inner))
            outer = pipeline_lane(
                pipeline(to("s", "i"), model("i", "p/inner", "z"), to("z")), appenders(*"sz"), routes=routes
            )
            request = Request("x", "y")
            submit(outer, request)
            assert await request.answer() == ["xsabz", "ysabz"]
            assert [span["node"] for span in request.nodes["i"]["spans"]] == ["a", "b"]
            inner.handlers["b"].lane.lose(inner.handlers["b"].lane.replicas[0], "gone")
            request = Request("x")
            submit(outer, request)
            with pytest.raises(
                Unavailable, match=r"^node i: node b: p/inner v1 b has no working replica: gone"
            ):
                await request.answer()
            outer.close()
            inner.close()

        run(test())

    def test_pipelines_that_call_each_other_in_a_circle_are_told_so(self) -> None:
        async def test() -> None:
            routes = router()
            one = pipeline_lane(pipeline(model("a", "p/two")), {}, routes=routes, name="p/one v1")
            two = pipeline_lane(
                pipeline(to("s", "b"), model("b", "p/one")), {"s": same()}, routes=routes, name="p/two v1"
            )
            routes.replace(
                list(router(FakeServed("p/one@v1", one), FakeServed("p/two@v1", two))._routes.values())
            )
            request = Request("x")
            submit(one, request)
            with pytest.raises(ModelError, match="in a circle: p/one v1 → p/two v1 → p/one v1") as caught:
                await request.answer()
            assert caught.value.hint == "let a node of one of them name another model"
            assert one._courses == two._courses == {}
            two.close()

        run(test())

    def test_pipelines_are_nested_only_so_deep(self) -> None:
        async def test() -> None:
            served: list[FakeServed] = []
            routes = router()
            for depth in range(9):
                node = model("a", f"p/n{depth + 1}")
                lane = pipeline_lane(pipeline(node), {}, routes=routes, name=f"p/n{depth} v1")
                served.append(FakeServed(f"p/n{depth}@v1", lane))
            routes.replace(list(router(*served)._routes.values()))
            with pytest.raises(ModelError, match="nested more than 8 deep"):
                submit(served[0].lane, Request("x"))

        run(test())


class TestErrors:
    def test_an_error_in_a_node_ends_its_request_alone_and_names_the_node(self) -> None:
        async def test() -> None:
            def refuse(value: str) -> str:
                if value == "bada":
                    raise ValueError("no such word")
                return value + "b"

            handlers = {"a": append("a"), "b": FakeHandler(refuse)}
            lane = pipeline_lane(pipeline(to("a", "b"), to("b")), handlers)
            good, bad, other = Request("good", "fine"), Request("x", "bad"), Request("y")
            submit(lane, good, bad, other)
            assert await good.answer() == ["goodab", "fineab"]
            assert await other.answer() == ["yab"]
            with pytest.raises(ModelError, match=r"^node b: no such word$"):
                await bad.answer()
            assert bad.times_resolved == 1
            assert bad.nodes["b"]["error"] == "no such word"
            assert "error" not in bad.nodes["a"]
            lane.close()

        run(test())

    def test_an_error_in_one_branch_frees_the_other(self) -> None:
        async def test() -> None:
            handlers = {"s": same(), "a": FakeHandler(lambda value: 1 / 0), "b": append("b"), "m": same()}
            lane = pipeline_lane(pipeline(to("s", "a", "b"), to("a", "m"), to("b", "m"), to("m")), handlers)
            handlers["b"].hold.clear()
            blocker, request = Request("first"), Request("x")
            submit(lane.handlers["b"].lane, blocker)  # type: ignore[arg-type]
            await entered(handlers["b"])
            submit(lane, request)
            with pytest.raises(ModelError, match=r"^node a: division by zero"):
                await request.answer()
            assert lane.handlers["b"].lane.queue_rows == 0
            handlers["b"].hold.set()
            assert await blocker.answer() == ["firstb"]
            assert handlers["b"].sizes == [1]
            lane.close()

        run(test())

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ("x", "it chose no next node: label is x, expected one of a, b"),
            ({"other": 1}, "it chose no next node: its answer has no label"),
            ([1], "it chose no next node: its answer has no label"),
            ({"label": {}}, "it chose no next node: label is an object, expected text or a number"),
            ({"label": [1]}, "it chose no next node: label is a list"),
            ({"label": "é" * 99}, "label is ééééé"),
        ],
    )
    def test_a_choice_that_chooses_nothing_is_an_error_that_says_why(self, answer: Any, message: str) -> None:
        async def test() -> None:
            value = {"label": answer} if isinstance(answer, str) else answer
            lane = pipeline_lane(
                pipeline(choose("s", "label", {"a": ("a",), "b": ("b",)}), to("a"), to("b")),
                {"s": FakeHandler(lambda _: value), **appenders(*"ab")},
            )
            request = Request("")
            submit(lane, request)
            with pytest.raises(ModelError) as caught:
                await request.answer()
            assert caught.value.message.startswith("node s: it chose no next node: ")
            assert message in caught.value.message
            lane.close()

        run(test())

    def test_a_handler_without_a_replica_is_unavailable(self) -> None:
        async def test() -> None:
            lane = pipeline_lane(pipeline(to("a", "b"), to("b")), appenders(*"ab"))
            inner = lane.handlers["a"].lane
            inner.lose(inner.replicas[0], "it crashed")
            with pytest.raises(Unavailable, match=r"^node a: .* has no working replica: it crashed$"):
                submit(lane, Request("x"))
            assert lane._courses == {}
            lane.close()

        run(test())

    def test_an_unexpected_error_is_opaque(self, caplog: pytest.LogCaptureFixture) -> None:
        async def test() -> None:
            lane = pipeline_lane(pipeline(to("a", "b"), model("b", "m/m")), appenders("a"), routes=object())  # type: ignore[arg-type]
            request = Request("x")
            submit(lane, request)
            with pytest.raises(MdsliteError, match=r"^node b: internal error$"):
                await request.answer()
            assert "AttributeError" in caplog.text
            lane.close()

        run(test())


class TestLimits:
    def test_one_deadline_counts_for_all_nodes(self) -> None:
        async def test() -> None:
            handlers = appenders(*"ab")
            handlers["b"].hold.clear()
            lane = pipeline_lane(pipeline(to("a", "b"), to("b")), handlers)
            request = Request("x", deadline=perf_counter() + 0.2)
            submit(lane, request)
            with pytest.raises(
                DeadlineExceeded, match=r"^the prediction was not answered in time: 200 ms were"
            ):
                await request.answer()
            assert request.error is not None and request.error.message.endswith("and it was at node b")
            assert lane.stats.expired == 1
            await until(lambda: lane.running == 0)
            handlers["b"].hold.set()
            again = Request("y")
            submit(lane, again)
            assert await again.answer() == ["yab"]
            lane.close()

        run(test())

    def test_a_nodes_own_limit_ends_a_request_sooner(self) -> None:
        async def test() -> None:
            handlers = appenders(*"ab")
            handlers["b"].hold.clear()
            lane = pipeline_lane(
                pipeline(to("a", "b"), to("b")), handlers, node_knobs={"b": {"prediction_s": 0.05}}
            )
            request = Request("x", deadline=perf_counter() + 60)
            submit(lane, request)
            with pytest.raises(
                DeadlineExceeded, match=r"^node b: the prediction was not answered in time: 50 ms"
            ):
                await request.answer()
            lane.close()

        run(test())

    def test_a_caller_that_leaves_frees_its_rows_at_every_node(self) -> None:
        async def test() -> None:
            handlers = appenders(*"sab")
            for name in "ab":
                handlers[name].hold.clear()
            lane = pipeline_lane(pipeline(to("s", "a", "b"), to("a"), to("b")), handlers)
            first, second = Request("x"), Request("y", "z")
            submit(lane, first)
            await entered(handlers["a"])
            await entered(handlers["b"])
            submit(lane, second)
            await until(lambda: lane.queue_rows == 4)
            lane.cancel(second)
            assert lane.queue_rows == 0
            lane.cancel(second)
            assert lane.stats.cancelled == 1
            for name in "ab":
                handlers[name].hold.set()
            assert await first.answer() == [{"a": "xsa", "b": "xsb"}]
            assert second.times_resolved == 0 and second.finished
            assert second.nodes["s"]["rows"] == 2
            lane.cancel(first)
            assert lane.stats.cancelled == 1
            assert lane._rows == 0
            lane.close()

        run(test())

    def test_a_full_pipeline_refuses_and_takes_more_when_something_left(self) -> None:
        async def test() -> None:
            handlers = appenders(*"ab")
            handlers["b"].hold.clear()
            lane = pipeline_lane(pipeline(to("a", "b"), to("b")), handlers, queue_rows=4)
            first, second = Request("1", "2"), Request("3", "4")
            submit(lane, first, second)
            with pytest.raises(
                Overloaded, match="p/pipe v1 is overloaded: 4 of 4 rows are on their way"
            ) as caught:
                lane.make_room()
            assert caught.value.retry_after_s
            with pytest.raises(TooLarge, match="5 rows in one request: p/pipe v1 takes at most 4"):
                submit(lane, Request(*"abcde"))
            assert lane.stats.refused == 1
            await entered(handlers["b"])
            lane.cancel(second)
            lane.make_room(2)
            handlers["b"].hold.set()
            assert await first.answer() == ["1ab", "2ab"]
            lane.close()

        run(test())

    def test_a_finished_batch_makes_room_before_the_loop_hears_of_it(self) -> None:
        async def test() -> None:
            handlers = appenders("a")
            lane = pipeline_lane(pipeline(to("a")), handlers, queue_rows=1)
            first, second = Request("1"), Request("2")
            submit(lane, first)
            handlers["a"].hold.clear()
            await entered(handlers["a"])
            done = lane.handlers["a"].lane._done
            handlers["a"].hold.set()
            while not done:  # the loop does nothing meanwhile
                pass
            lane.make_room()
            submit(lane, second)
            assert await first.answer() + await second.answer() == ["1a", "2a"]
            lane.close()

        run(test())

    def test_a_request_that_ends_while_a_node_takes_it_leaves_nothing_behind(self) -> None:
        async def test() -> None:
            handlers = appenders("a")
            lane = pipeline_lane(pipeline(to("a")), handlers, node_knobs={"a": {"batch_size": 1}})
            node = lane.handlers["a"].lane
            submitted = node.submit

            def submit_late(job: Any, now: float) -> None:
                submitted(job, now)
                if node.queue_rows == 3:  # a lane looks for finished work first, which may have failed
                    lost = Visit(job.group, 0, [])
                    lost.columns = job.columns
                    lost.error = ModelError("too bad")
                    job.group.answered(lost)

            node.submit = submit_late  # type: ignore[method-assign]
            with pytest.raises(ModelError, match="node a: too bad"):
                submit(lane, Request(*map(str, range(10))))
            assert node.queue_rows == 0
            assert lane._courses == {}
            lane.close()

        run(test())


class TestLife:
    def test_draining_waits_for_what_is_inside(self) -> None:
        async def test() -> None:
            handlers = appenders(*"ab")
            handlers["b"].hold.clear()
            lane = pipeline_lane(pipeline(to("a", "b"), to("b")), handlers)
            request = Request("x")
            submit(lane, request)
            await entered(handlers["b"])
            assert not await lane.drain(deadline_s=0.01)
            draining = asyncio.create_task(lane.drain(deadline_s=10))
            handlers["b"].hold.set()
            assert await draining
            assert await request.answer() == ["xab"]
            lane.close()
            await asyncio.to_thread(lambda: [handler.closed or None for handler in handlers.values()])

        run(test())

    def test_closing_answers_what_is_left_and_ends_the_handlers(self) -> None:
        async def test() -> None:
            handlers = appenders(*"a")
            session = append("1")
            session.hold.clear()
            slow = data_lane("m/m v1", session)
            lane = pipeline_lane(
                pipeline(to("a", "b"), model("b", "m/m")),
                handlers,
                routes=router(FakeServed("m/m@v1", slow)),
            )
            request = Request("x")
            submit(lane, request)
            await entered(session)
            lane.close()
            with pytest.raises(Unavailable, match="p/pipe v1 was taken down"):
                await request.answer()
            await until(lambda: handlers["a"].closed)
            session.hold.set()
            slow.close()

        run(test())

    def test_what_is_over_is_not_left_to_the_garbage_collector(self) -> None:
        async def test() -> None:
            handlers = {"s": same(), "a": append("a"), "b": FakeHandler(lambda value: 1 / (value != "bad"))}
            lane = pipeline_lane(pipeline(to("s", "a", "b"), to("a"), to("b")), handlers)
            requests = [Request("x", "y"), Request("bad"), Request("left")]
            submit(lane, *requests)
            seen = [weakref.ref(course) for course in lane._courses.values()]
            lane.cancel(requests[2])
            for request in requests[:2]:
                with contextlib.suppress(ModelError):
                    await request.answer()
            lane.close()  # a replica remembers its last batch for as long as it lives
            await until(lambda: [course() for course in seen] == [None] * 3)

        gc.disable()
        try:
            run(test())
        finally:
            gc.enable()

    def test_what_it_says_of_itself(self) -> None:
        async def test() -> None:
            handlers = appenders(*"ab")
            lane = pipeline_lane(pipeline(to("a", "b"), to("b")), handlers)
            request = Request("x")
            submit(lane, request)
            await request.answer()
            assert (lane.queue_rows, lane.running, len(lane.replicas)) == (0, 0, 2)
            assert lane.stats.batches == 2
            assert request.replica == "local"
            assert request.batch_rows == 1
            assert request.compute_s > 0
            assert request.queued_at <= request.started_at
            lane.close()

        run(test())

    def test_spans_say_what_each_node_did(self) -> None:
        async def test() -> None:
            handlers = {"a": append("a"), "b": FakeHandler(lambda value: {"text": value, "confidence": 0.75})}
            lane = pipeline_lane(pipeline(to("a", "b"), to("b")), handlers)
            request = Request("x", "y")
            submit(lane, request)
            await request.answer()
            assert request.spans is not None
            first, second = json.loads(request.spans)
            assert (first["node"], first["version"], first["rows"], first["batch_rows"]) == ("a", "h1", 2, 2)
            assert second["node"] == "b"
            assert second["started_ms"] >= first["started_ms"] + first["queue_ms"]
            assert {"queue_ms", "compute_ms"} <= first.keys()
            assert request.confidence == 0.75
            lane.close()

        run(test())

    def test_the_last_node_that_knows_its_confidence_says_it(self) -> None:
        async def test() -> None:
            handlers = {
                "a": FakeHandler(lambda value: {"confidence": 0.9, "text": value}),
                "b": FakeHandler(lambda value: {"confidence": 0.2 if value["text"] == "x" else 0.3}),
                "c": same(),
            }
            handlers["c"].compute = lambda value: "named"
            lane = pipeline_lane(pipeline(to("a", "b"), to("b", "c"), to("c")), handlers)
            request = Request("x", "y")
            submit(lane, request)
            assert await request.answer() == ["named"] * 2
            assert request.confidence == 0.2
            lane.close()

        run(test())
