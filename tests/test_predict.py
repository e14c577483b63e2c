"""The predict call behind every way in: what it answers, what it refuses, what it frees."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import perf_counter
from typing import Any

import models
import pytest
from doors import Deployed, open_site, run
from h1_client import PREDICT, ROW, predict
from predictions import JSON, ask, parsed
from waiting import until

from mdslite.errors import RequestTimeout, TooLarge
from mdslite.predict.call import Call
from mdslite.serving.router import Route, Router
from mdslite.tensors import Codec

# Answers


def test_a_reply_names_its_version_its_request_and_its_times(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await site.predictor.respond(
                target=PREDICT.encode(),
                headers=[JSON, (b"x-request-id", b"mine"), (b"x-other", b"y")],
                body=b'{"instances": [[1, 2, 3]]}',
            )
            assert (reply.status, parsed(reply)) == (200, {"predictions": [ROW]})
            names = [name for name, _ in reply.headers]
            assert names == [b"content-type", b"mdslite-request-id", b"mdslite-version", b"server-timing"]
            assert dict(reply.headers)[b"mdslite-request-id"] == b"mine"

    run(test())


def test_a_request_larger_than_a_batch_is_answered_in_one_piece_and_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx")
        async with open_site(tmp_path, Deployed(path, batch={"batch_size": 8})) as site:
            rows = [[float(number), 0.0, 0.0] for number in range(100)]
            assert parsed(await ask(site, rows)) == {"predictions": rows}
            assert site.lane().stats.batches == 13

    run(test())


def test_concurrent_requests_share_batches_and_get_their_own_rows(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            rows = [[[float(number), 0.0, 0.0]] * (number % 4 + 1) for number in range(64)]
            replies = await asyncio.gather(*(ask(site, one) for one in rows))
            assert [parsed(reply)["predictions"] for reply in replies] == rows
            assert site.lane().stats.batches < 20
            assert max(row["batch_rows"] for row in site.logged) > 4

    run(test())


def test_a_model_without_rows_answers_instance_by_instance(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.total(tmp_path / "m.onnx"))) as site:
            assert parsed(await ask(site, [[1, 2, 3], [4, 5, 6]])) == {"predictions": [6, 15]}
            body = b'{"inputs": {"x": [1, 2, 3]}}'
            reply = await site.predictor.respond(target=PREDICT.encode(), headers=[JSON], body=body)
            assert parsed(reply) == {"outputs": {"y": 6}}

    run(test())


def test_an_empty_batch_is_answered_without_a_run(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            assert parsed(await ask(site, [])) == {"predictions": []}
            assert site.lane().stats.batches == 0
            assert (site.logged[0]["rows"], site.logged[0]["status"]) == (0, 200)

    run(test())


def test_one_poison_request_among_many_fails_alone(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.gather(tmp_path / "m.onnx")
        async with open_site(tmp_path, Deployed(path)) as site:
            replies = await asyncio.gather(*(ask(site, [[99 if at == 13 else at % 8]]) for at in range(32)))
            for at, reply in enumerate(replies):
                if at == 13:
                    assert reply.status == 500
                    assert parsed(reply)["code"] == "model_error"
                else:
                    assert parsed(reply) == {"predictions": [[at % 8 * 10]]}

    run(test())


# Refusals


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.loop(tmp_path / "m.onnx"))) as site:
            lane = site.lane()
            running = asyncio.create_task(ask(site, [[-1]]))
            await until(lambda: lane.running)
            queued = asyncio.create_task(ask(site, [[1]] * 1000))
            await until(lambda: lane.queue_rows == 1000)
            async with site.connect() as wire:
                for count in (25, 1000, 1024) * 10:
                    wire.send(predict([[1]] * count))
                    reply = await wire.reply()
                    assert reply.status == 429
                    assert reply.code == "queue_full"
                    assert int(reply.headers["retry-after"]) >= 1
                    assert not reply.closes
            assert lane.queue_rows == 1000
            assert lane.stats.refused == 30
            fits = asyncio.create_task(ask(site, [[2]] * 24))
            await until(lambda: lane.queue_rows == 1024)
            running.cancel()
            assert (await queued).status == (await fits).status == 200
            assert site.statuses.count(429) == 30

    run(test())


def test_more_rows_than_a_queue_takes_are_too_large(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await ask(site, [ROW] * 1025)
            assert (reply.status, parsed(reply)["code"]) == (413, "too_large")
            assert (await ask(site, [ROW] * 1024)).status == 200

    run(test())


def test_a_prediction_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        loop = Deployed(models.loop(tmp_path / "m.onnx"), batch={"prediction_time_ms": 30})
        async with open_site(tmp_path, loop) as site:
            first, second = await asyncio.gather(ask(site, [[-1]]), ask(site, [[-1]]))
            for reply in (first, second):
                assert (reply.status, parsed(reply)["code"]) == (504, "deadline_exceeded")
            await until(lambda: not site.lane().running)
            assert parsed(await ask(site, [[1]])) == {"predictions": [[1]]}
            assert site.statuses == [504, 504, 200]
            given_up = next(row for row in site.logged if row["endpoint"])
            assert (given_up["endpoint"], given_up["batch_rows"]) == ("local/0", 2)
            assert given_up["latency_ms"] > given_up["compute_ms"] > 20

    run(test())


def test_a_model_without_a_ready_version_is_unavailable(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx")
        async with open_site(tmp_path, Deployed(path, weight=0)) as site:
            reply = await ask(site)
            assert (reply.status, parsed(reply)["code"]) == (503, "unavailable")
            assert dict(reply.headers)[b"retry-after"] == b"1"
            assert (await ask(site, target="/projects/p/models/m/versions/v1:predict")).status == 200

    run(test())


@pytest.mark.parametrize("error", [TooLarge("too much"), RequestTimeout("too late")])
def test_a_body_that_could_not_be_read_is_answered_and_logged_like_any_error(
    tmp_path: Path, error: Any
) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            reply = await ask(site, error=error)
            assert (reply.status, parsed(reply)["error"]) == (error.status, error.message)
            assert dict(reply.headers)[b"mdslite-version"] == b"v1"
            assert (site.logged[0]["code"], site.logged[0]["version"]) == (error.code, "v1")
            unknown = await ask(site, error=error, target="/projects/p/models/nobody:predict")
            assert unknown.status == 404

    run(test())


def test_a_mistake_of_ours_is_an_opaque_error_and_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenCodec(Codec):
        def encode(self, *_: Any) -> bytes:
            raise ValueError("a secret")

    class BrokenRoute(Route[Any]):
        def pick(self) -> Any:
            raise ZeroDivisionError("another secret")

    async def test() -> None:
        async with open_site(tmp_path) as site:
            served = site.fleet.find("p", "m", "v1")
            assert served is not None and served.signature is not None
            whole, served.codec = served.codec, BrokenCodec(served.signature)
            reply = await ask(site)
            assert (reply.status, parsed(reply)["code"]) == (500, "internal_error")
            assert b"secret" not in reply.body
            served.codec = whole
            router: Router[Any] = Router()
            router.replace([BrokenRoute("p", "m", None, [served])])
            site.predictor.router, kept = router, site.predictor.router
            reply = await ask(site)
            assert (reply.status, parsed(reply)["code"]) == (500, "internal_error")
            assert b"secret" not in reply.body
            site.predictor.router = kept
            assert (await ask(site)).status == 200
            assert site.statuses == [500, 500, 200]
            assert site.predictor.books.open == 0

    run(test())
    assert "a secret" in caplog.text
    assert "another secret" in caplog.text


# Leaving


def test_cancelling_frees_the_rows_and_is_logged_as_a_client_that_left(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.loop(tmp_path / "m.onnx"))) as site:
            lane = site.lane()
            running = asyncio.create_task(ask(site, [[-1]]))
            await until(lambda: lane.running)
            queued = [asyncio.create_task(ask(site, [[at]])) for at in range(5)]
            await until(lambda: lane.queue_rows == 5)
            assert site.predictor.books.open == 6
            for task in queued[:3]:
                task.cancel()
            await until(lambda: lane.queue_rows == 2)
            assert site.statuses == [499] * 3
            assert not any(row["endpoint"] for row in site.logged)
            await until(lambda: not lane._crew.flight.waiting())
            running.cancel()
            assert [parsed(await task) for task in queued[3:]] == [
                {"predictions": [[3]]},
                {"predictions": [[4]]},
            ]
            assert site.statuses == [499] * 4 + [200] * 2
            left = site.logged[3]
            assert (left["endpoint"], left["compute_ms"] > 0) == ("local/0", True)
            assert site.predictor.books.open == 0

    run(test())


def test_an_answer_that_meets_a_cancelled_caller_hurts_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.loop(tmp_path / "m.onnx"))) as site:
            lane = site.lane()
            running = asyncio.create_task(ask(site, [[-1]]))
            await until(lambda: lane.running)
            leaving, staying = (asyncio.create_task(ask(site, [[1]])) for _ in range(2))
            await until(lambda: lane.queue_rows == 2)
            leaving.cancel()
            lane.close()  # answers all three before `leaving` has run again
            assert (await running).status == (await staying).status == 503
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert len(site.rows) == 3
            assert site.predictor.books.open == 0

    run(test())


def test_each_call_is_replied_to_exactly_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            bodies = [b'{"instances": [[1, 2, 3]]}', b'{"instances": []}', b"{", b'{"instances": [["x"]]}']
            replies: list[Call] = []
            for body in bodies * 10:
                call = Call(
                    PREDICT.encode(),
                    body,
                    b"application/json",
                    b"",
                    None,
                    perf_counter(),
                    lambda call, status, reply: replies.append(call),
                )
                site.predictor.start(call)
            await until(lambda: not site.predictor.books.open)
            assert len(replies) == len(set(map(id, replies))) == 40
            assert sorted(site.statuses) == [200] * 20 + [400] * 20

    run(test())
