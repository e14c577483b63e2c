"""The predict call behind every way in: what it answers, what it frees and what it tells the request log."""

from __future__ import annotations

import asyncio
import json
import zlib
from pathlib import Path
from time import perf_counter, time
from typing import Any

import models
import numpy as np
import pytest
from doors import Deployed, Site, open_site, run
from h1_client import PREDICT, ROW, gzipped, npy, predict
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from mdslite.errors import InvalidRequest, RequestTimeout, TooLarge, UnsupportedMedia
from mdslite.http.inflate import decompress
from mdslite.http.paths import parse_predict_path
from mdslite.npy import NPY
from mdslite.predict.books import Books
from mdslite.predict.call import Call, Reply
from mdslite.serving.router import Route, Router
from mdslite.spec import ServiceInfo, Spec
from mdslite.targets import Match, Sticky
from mdslite.tensors import Codec

JSON = (b"content-type", b"application/json")


async def ask(site: Site, instances: Any = (ROW,), *, target: str = PREDICT, **options: Any) -> Reply:
    body = json.dumps({"instances": instances}).encode()
    return await site.predictor.respond(target=target.encode(), headers=[JSON], body=body, **options)


def parsed(reply: Reply) -> Any:
    return json.loads(reply.body)


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
            running.cancel()
            assert [parsed(await task) for task in queued[3:]] == [
                {"predictions": [[3]]},
                {"predictions": [[4]]},
            ]
            assert site.statuses == [499] * 4 + [200] * 2
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


# The request log


def test_the_log_is_told_all_about_a_prediction(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.mlp(tmp_path / "m.onnx", (3, 4, 2))
        async with open_site(tmp_path, Deployed(path, version="v7")) as site:
            before = time()
            body = b'{"instances": [[1, 2, 3], [3, 2, 1]]}'
            reply = await site.predictor.respond(
                target=PREDICT.encode() + b"?debug=1", headers=[JSON, (b"x-request-id", b"id-1")], body=body
            )
            (row,) = site.logged
            assert before - 1 < row["time"] <= time()
            assert row["latency_ms"] >= row["queue_ms"] + row["compute_ms"] > 0
            confidences = [max(answer) for answer in parsed(reply)["predictions"]]
            assert row["confidence"] == pytest.approx(min(confidences))
            known = {name: row[name] for name in row.keys() - {"time", "confidence"} if "_ms" not in name}
            assert known == {
                "request_id": "id-1",
                "project": "p",
                "model": "m",
                "version": "v7",
                "shadow": False,
                "url": PREDICT,
                "status": 200,
                "code": None,
                "rows": 2,
                "batch_rows": 2,
                "endpoint": "local/0",
                "request": body,
                "reply": reply.body,
                "spans": None,
                "client": None,
                "trace_id": None,
            }
            assert row["upstream_ms"] is None

    run(test())


def test_the_log_is_told_of_what_never_reached_a_model(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            await ask(site, target="/projects/p/models/" + "x" * 5000)
            await ask(site, "nonsense")
            unknown, wrong = site.logged
            assert (unknown["status"], unknown["code"], unknown["model"]) == (404, "not_found", None)
            assert unknown["url"].startswith("/projects/p/models/xxx")
            assert len(unknown["url"]) == 1024
            assert (wrong["status"], wrong["code"], wrong["model"]) == (400, "invalid_request", "m")
            assert (wrong["rows"], wrong["batch_rows"], wrong["compute_ms"]) == (0, 0, 0)
            assert json.loads(wrong["reply"])["code"] == "invalid_request"

    run(test())


def test_without_a_log_predictions_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, books=Books(None)) as site:
            assert (await ask(site)).status == 200
            assert site.predictor.books.open == 0

    run(test())


# Paths, types and encodings


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (b"/projects/p/models/m:predict", ("p", "m", None)),
        (b"/projects/p/models/m/versions/v-1:predict", ("p", "m", "v-1")),
        (b"/projects/P_1/models/0%3Apredict", ("P_1", "0", None)),
        (b"/projects/p/models/%6d%3apredict", ("p", "m", None)),
        (b"/projects/p/models/m", None),
        (b"/projects/p/models/m:predict/", None),
        (b"/projects/p/models/m/versions:predict", None),
        (b"/projects/p/models/m/v/v1:predict", None),
        (b"/project/p/models/m:predict", None),
        (b"//projects/p/models/m:predict", None),
        (b"/projects/p%2Fmodels/m:predict", None),
        (b"/projects", None),
        (b"/", None),
        (b"", None),
    ],
)
def test_a_predict_path_is_told_from_others(path: bytes, names: Any) -> None:
    assert parse_predict_path(path) == names


@pytest.mark.parametrize(
    "name", ["", "-a", "_a", "a.b", "..", "a%2Fb", "%C3%A4", "a%20b", "x" * 64, "a:predict"]
)
def test_what_is_no_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is no name: expected 1 to 63"):
        parse_predict_path(f"/projects/p/models/{name}:predict".encode())


@pytest.mark.parametrize(
    ("media_type", "limit"),
    [
        (b"application/json", 100),
        (b"", 100),
        (b"text/plain; charset=x", 100),
        (b"nonsense", 100),
        (NPY, 5000),
        (b"Application/X-NPY ; version=1", 5000),
    ],
)
def test_only_binary_bodies_may_be_large(tmp_path: Path, media_type: bytes, limit: int) -> None:
    async def test() -> None:
        async with open_site(tmp_path, max_json_bytes=100, max_body_bytes=5000) as site:
            reader, fields = site.predictor.reader, {b"content-type": media_type}
            assert reader.body_limit(PREDICT.encode(), fields) == limit
            assert str(limit) in reader.too_large(PREDICT.encode(), fields).message

    run(test())


def test_a_compressed_array_is_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site:
            headers = [(b"content-type", NPY), (b"content-encoding", b"gzip")]
            array = np.ones((5, 3), dtype=np.float32)
            reply = await site.predictor.respond(
                target=PREDICT.encode(), headers=headers, body=gzipped(npy(array))
            )
            assert parsed(reply) == {"outputs": {"y": array.tolist()}}

    run(test())


@given(st.binary(max_size=2000), st.integers(0, 2500), st.sampled_from([b"gzip", b"deflate"]))
def test_decompressing_gives_the_bytes_back_or_says_that_they_are_too_many(
    plain: bytes, limit: int, encoding: bytes
) -> None:
    body = gzipped(plain) if encoding == b"gzip" else zlib.compress(plain)
    if len(plain) > limit:
        with pytest.raises(TooLarge):
            decompress(body, encoding, limit=limit)
    else:
        assert decompress(body, encoding, limit=limit) == plain


@given(st.binary(max_size=200), st.data())
def test_a_compressed_body_that_is_cut_or_padded_is_refused(plain: bytes, data: st.DataObject) -> None:
    body = gzipped(plain)
    cut = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:cut], body + body[: cut + 1]):
        with pytest.raises(InvalidRequest):
            decompress(wrong, b"gzip", limit=1000)


def test_an_unknown_encoding_is_unsupported() -> None:
    with pytest.raises(UnsupportedMedia, match="'zstd' is not served: expected gzip or deflate"):
        decompress(b"", b"zstd", limit=10)


# Requests that choose by themselves


def test_a_matched_header_and_a_key_choose_the_version_and_the_others_go_by_weight(tmp_path: Path) -> None:
    async def test() -> None:
        identity = models.identity(tmp_path / "identity.onnx")
        two = Deployed(identity, version="v2"), Deployed(identity)
        async with open_site(tmp_path, *two) as site:
            specs = {}
            for version in ("v1", "v2"):
                served = site.fleet.find("p", "m", version)
                assert served is not None
                match = (Match("x-beta", "yes"),) if version == "v2" else ()
                info = ServiceInfo(weight=50, match=match, sticky=Sticky(header="x-user"))
                specs[served.key] = Spec(uri="/m", service_info=info)
            site.fleet.switch(respecced=list(specs.items()))

            async def chosen(*headers: tuple[str, str]) -> str:
                return (await site.ask(predict(headers=headers))).headers["mdslite-version"]

            assert {await chosen(("X-Beta", "yes")) for _ in range(4)} == {"v2"}
            users = {user: await chosen(("X-User", str(user))) for user in range(30)}
            assert set(users.values()) == {"v1", "v2"}
            for user, version in users.items():
                assert await chosen(("X-User", str(user))) == version
            assert {await chosen() for _ in range(2)} == {"v1", "v2"}

    run(test())
