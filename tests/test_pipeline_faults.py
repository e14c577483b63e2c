"""A pipeline in service: what happens when something fails, is too much, or ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import weakref
from pipes import FakeHandler, FakeServed, Request, data_lane, pipeline_lane, router
from time import perf_counter
from typing import Any

import pytest
from lanes import run
from pipeline_nodes import append, appenders, choose, entered, model, pipeline, same, submit, to
from waiting import until

from mdslite.errors import DeadlineExceeded, MdsliteError, ModelError, Overloaded, TooLarge, Unavailable
from mdslite.serving.course import Visit
from mdslite.serving.queue import Job


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
            with pytest.raises(MdsliteError, match=r"^node b: something went wrong inside the appliance"):
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

            def submit_late(job: Job, now: float, *, room: int = 0) -> None:
                assert isinstance(job, Visit)
                submitted(job, now, room=room)
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
