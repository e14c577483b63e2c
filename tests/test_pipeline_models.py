"""A pipeline in service: nodes that are deployed models."""

from __future__ import annotations

from pipes import FakeHandler, FakeServed, Request, data_lane, pipeline_lane, router, tensor_lane

import numpy as np
import pytest
from lanes import DOUBLER, FakeSession, run
from pipeline_nodes import append, appenders, entered, model, pipeline, same, submit, to

import mds
from mdslite.errors import InvalidTensor, ModelError, Overloaded, Unavailable, UnsupportedMedia
from mdslite.tensors import Codec


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
            with pytest.raises(InvalidTensor, match=r'^node a: instances\[0\]: input "x"'):
                submit(lane, Request("no numbers"))
            with pytest.raises(UnsupportedMedia, match=r"^node a: demo/digits takes JSON instances"):
                submit(lane, Request(mds.Body(b"\x89PNG", "image/png")))
            behind = pipeline_lane(
                pipeline(to("s", "a"), model("a", "demo/digits")), {"s": same()}, routes=routes
            )
            request = Request("no numbers")
            submit(behind, request)
            with pytest.raises(ModelError, match=r'^node a: instances\[0\]: input "x"'):
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
