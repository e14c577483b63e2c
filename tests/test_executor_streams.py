"""What running a decorated class means where it waits: coroutines, streams, health checks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from decorated import Doubles, make, read, texts

import mds
from mdslite.errors import ClientClosed, ModelError, Unavailable
from mdslite.runtimes.executor import Executor


class TestCoroutines:
    def test_of_a_batch_run_beside_each_other(self) -> None:
        class Meets:
            def __init__(self) -> None:
                self.here = 0
                self.all_here = asyncio.Event()

            @mds.pre
            async def parse(self, data: Any) -> Any:
                await asyncio.sleep(0)
                return data

            @mds.predict
            async def predict(self, data: Any) -> Any:
                self.here += 1
                if self.here == 3:
                    self.all_here.set()
                await asyncio.wait_for(self.all_here.wait(), 20)
                if data == 2:
                    raise ValueError("two")
                return data

        executor = make(Meets)
        assert read(executor.run(texts(1, 2, 3))) == [1, "model_error: ValueError: two", 3]
        executor.close()

    def test_may_take_a_whole_batch(self) -> None:
        class Whole:
            @mds.warmup
            async def warm(self) -> None:
                self.loop = asyncio.get_running_loop()

            @mds.predict
            @mds.batch(batch_size=8)
            async def predict(self, data: list[Any]) -> list[Any]:
                assert asyncio.get_running_loop() is self.loop
                if "poison" in data:
                    raise SystemExit("poison")
                return data

            @mds.health_check
            async def check(self) -> bool:
                return False

        executor = make(Whole)
        executor.warm()
        assert read(executor.run(texts("a", "poison", "b"))) == ["a", "model_error: SystemExit: poison", "b"]
        with pytest.raises(Unavailable, match="the health check answered False"):
            executor.check()
        executor.close()

    def test_run_where_another_loop_is_running(self) -> None:
        class Simple:
            @mds.predict
            async def predict(self, data: Any) -> Any:
                return data

        async def on_a_loop() -> Any:
            return executor.run(texts(1))

        executor = make(Simple)
        assert read(asyncio.run(on_a_loop())) == [1]
        executor.close()

    def test_outlive_a_task_of_theirs_that_exits(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Spawns:
            @mds.predict
            async def predict(self, data: Any) -> Any:
                if data:
                    self.task = asyncio.get_running_loop().create_task(self.leave())
                return data

            async def leave(self) -> None:
                raise SystemExit(4)

        executor = make(Spawns)
        assert read(executor.run(texts(True))) == [True]
        assert read(executor.run(texts(False, False))) == [False, False]
        executor.close()
        assert "SystemExit: 4" in capsys.readouterr().err

    def test_that_still_run_are_cancelled_at_the_end(self) -> None:
        ended = threading.Event()

        class Waits:
            @mds.predict
            async def predict(self, data: Any) -> Any:
                self.task = asyncio.get_running_loop().create_task(self.wait())
                await asyncio.sleep(0)

            async def wait(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

        executor = make(Waits)
        executor.run(texts(1))
        executor.close()
        assert ended.wait(20)


class Counts:
    """A generator; keeps whether it was closed."""

    closed = 0

    @mds.pre
    def parse(self, data: Any) -> int:
        return int(data)

    @mds.predict
    def count(self, data: int) -> Iterator[int]:
        try:
            for number in range(data):
                if number == 5:
                    raise ValueError("five is too many")
                yield number
        finally:
            type(self).closed += 1

    @mds.post
    def wrap(self, data: int) -> Any:
        return {"n": data, "confidence": data / 10}


class CountsLater(Counts):
    @mds.predict
    async def count(self, data: int) -> AsyncIterator[int]:  # type: ignore[override]
        try:
            for number in range(data):
                await asyncio.sleep(0)
                if number == 5:
                    raise ValueError("five is too many")
                yield number
        finally:
            type(self).closed += 1


@pytest.fixture(params=[Counts, CountsLater])
def counting(request: pytest.FixtureRequest) -> Iterator[Executor]:
    executor = make(type("Fresh", (request.param,), {"closed": 0}))
    yield executor
    executor.close()


def closed(executor: Executor) -> int:
    return executor.description.cls.closed  # type: ignore[attr-defined,no-any-return]


class TestStreams:
    def test_emit_each_item_through_post(self, counting: Executor) -> None:
        emitted: list[bytes] = []
        answers = counting.stream(b"3", emitted.append)
        assert read(emitted) == [{"n": n, "confidence": n / 10} for n in range(3)]
        assert read(answers) == [{"n": 2, "confidence": 0.2}]
        assert answers.confidences == [0.2]
        assert closed(counting) == 1

    def test_end_with_the_error_that_came_on_the_way(self, counting: Executor) -> None:
        emitted: list[bytes] = []
        answers = counting.stream(b"9", emitted.append)
        assert len(emitted) == 5
        assert read(answers) == ["model_error: ValueError: five is too many"]

    def test_end_before_they_began_where_pre_raises(self, counting: Executor) -> None:
        emitted: list[bytes] = []
        found = read(counting.stream(b'"x"', emitted.append))
        assert found[0].startswith("model_error: ValueError: invalid literal")
        assert emitted == []

    def test_of_nothing_answer_null(self, counting: Executor) -> None:
        emitted: list[bytes] = []
        assert read(counting.stream(b"0", emitted.append)) == [None]
        assert emitted == []

    def test_are_closed_when_the_client_left(self, counting: Executor) -> None:
        def leave(item: bytes) -> None:
            raise ClientClosed("the client left")

        with pytest.raises(ClientClosed):
            counting.stream(b"3", leave)
        assert closed(counting) == 1

    def test_are_lists_for_who_wants_them_whole(self, counting: Executor) -> None:
        answers = counting.run(texts([], 2, 9, 0))
        wrong, *others = read(answers)
        assert wrong.startswith("model_error: TypeError: int() argument")
        assert others == [
            [{"n": 0, "confidence": 0.0}, {"n": 1, "confidence": 0.1}],
            "model_error: ValueError: five is too many",
            [],
        ]
        assert answers.confidences == [None, 0.1, None, None]

    def test_that_will_not_close_trouble_nobody(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Stays:
            @mds.predict
            def count(self, data: Any) -> Iterator[int]:
                try:
                    yield 1
                except GeneratorExit:
                    yield 2

        def leave(item: bytes) -> None:
            raise ClientClosed("the client left")

        with pytest.raises(ClientClosed):
            make(Stays).stream(b"1", leave)
        assert "generator ignored GeneratorExit" in capsys.readouterr().err

    def test_of_items_that_are_no_json_end_there(self) -> None:
        class Sets:
            @mds.predict
            def count(self, data: Any) -> Iterator[Any]:
                yield 1
                yield {1}

        emitted: list[bytes] = []
        (ended,) = make(Sets).stream(b"1", emitted.append)
        assert emitted == [b"1"]
        assert isinstance(ended, ModelError)
        assert "a set" in ended.message


class TestChecks:
    @pytest.mark.parametrize(
        "found",
        [None, True, {"status": "OK"}, {"status": "ok", "free": 3}, {}, "healthy", 1, {"status": True}],
    )
    def test_pass(self, found: Any) -> None:
        class Checked:
            @mds.predict
            def predict(self, data: Any) -> Any: ...

            @mds.health_check
            def check(self) -> Any:
                return found

        executor = make(Checked)
        assert executor.has_check
        executor.check()

    @pytest.mark.parametrize(
        ("found", "said"),
        [
            (False, "the health check answered False"),
            ("down", "the health check answered 'down'"),
            (
                {"status": "FAIL", "why": "no disk"},
                'the health check answered {"status":"FAIL","why":"no disk"}',
            ),
            ({"status": False}, 'the health check answered {"status":false}'),
            (ValueError("no disk"), "the health check failed: ValueError: no disk"),
            (SystemExit(1), "the health check failed: SystemExit: 1"),
        ],
    )
    def test_fail_with_what_they_said(self, found: Any, said: str) -> None:
        class Checked:
            @mds.predict
            def predict(self, data: Any) -> Any: ...

            @mds.health_check
            def check(self) -> Any:
                if isinstance(found, BaseException):
                    raise found
                return found

        with pytest.raises(Unavailable) as caught:
            make(Checked).check()
        assert caught.value.message == said

    def test_are_not_there_where_the_class_has_none(self) -> None:
        executor = make(Doubles)
        assert not executor.has_check
        executor.check()
        executor.warm()
