"""One corpus of good and bad requests, asked over HTTP/1.1 and over HTTP/2 at the same port: the answers are
equal but for what names the moment (date, server-timing, ids that were generated) or the connection."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import models
import numpy as np
from alike import Asked, ask_http1, ask_http2, compare, open_corpus_site, post
from doors import Deployed, open_site, run
from h1_client import PREDICT, gzipped, npy, predict
from waiting import until

NPY = ("content-type", "application/x-npy")


def row(*values: Any, **options: Any) -> Asked:
    return post({"instances": [list(values) or [1, 2, 3]]}, **options)


ROW = b'{"instances": [[1, 2, 3]]}'
INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}

GOOD = [
    row(),
    row(target="/projects/p/models/m/versions/v1:predict"),
    row(target="/projects/p/models/m%3Apredict?a=b&c=%20"),
    row(target="/%70rojects/p/models/m:predict"),
    post({"instances": [[1, 2, 3], [4, 5, 6]] * 100}),
    post({"inputs": {"x": [[1, 2, 3]]}}),
    post({"inputs": [[1, 2, 3]]}),
    post({"instances": [{"x": [1, 2, 3]}]}),
    post({"instances": []}),
    post({"inputs": {"x": []}}),
    post(b'{"instances": [[NaN, Infinity, -Infinity]]}'),
    post(ROW, media_type=("content-type", "application/json; charset=utf-8")),
    post(ROW, media_type=("content-type", "application/x-www-form-urlencoded")),
    Asked("POST", PREDICT, ROW),
    post(ROW, says_length=False),
    post(gzipped(ROW), ("content-encoding", "gzip")),
    post(npy(np.eye(3, dtype=np.float32)), media_type=NPY),
    post(npy(np.eye(3, dtype=">f4")), media_type=NPY),
    post({"instances": [{"a": [1, 2], "b": [3, 4]}]}, target="/projects/p/models/two:predict"),
    post({"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}, target="/projects/p/models/two:predict"),
    post({"instances": [["ham"], ["spam\u00e4"]]}, target="/projects/p/models/words:predict"),
    row(7, target="/projects/p/models/gather:predict"),
    row(target="/projects/p/models/%6D:predict"),
    row(target="/projects/p/models/m%3apredict"),
    post(ROW, ("te", "trailers"), ("range", "bytes=0-1"), ("if-match", "x"), ("priority", "u=1")),
    post(INFER, target="/v2/models/p.m/infer"),
    post(INFER, target="/v2/models/p.m/versions/v1/infer?a=b"),
    Asked(),
    Asked(target="/v2/models/p%2Em"),
    Asked("GET", "/healthz", b"a body"),
    Asked(host="LOCALHOST."),
    Asked(headers=[(f"x-{number}", "y" * 140) for number in range(99)]),
    Asked(headers=[("cookie", "y" * 15 * 1024)]),
    Asked("HEAD"),
    Asked(target="/readyz"),
    Asked(target="/readyz?model=p/m"),
    Asked(target="/openapi.json"),
    Asked(target="/docs"),
]

BAD = [
    # tensors
    row(1, 2),
    row(1, 2, 1e39),
    post(b'{"instances": [[1, 2, -1e999]]}'),
    row("a", 2, 3),
    row(True, 2, 3),
    row([1], [2], [3]),
    post({"instances": [[1, 2, 3], [1, 2]]}),
    post({"instances": [{"y": [1, 2, 3]}]}),
    post({"instances": [{"a": [1, 2]}]}, target="/projects/p/models/two:predict"),
    post({"instances": 5}),
    post({"rows": []}),
    post({"instances": [], "inputs": {}}),
    post([1, 2, 3]),
    post(b""),
    post(b"{"),
    post(b"\xff\xfe"),
    post(b"[" * 100_000),
    post(b'{"instances": [[' + b"9" * 10_000 + b", 2, 3]]}"),
    post({"instances": [[1, 2, 3]] * 1025}),
    post(npy(np.eye(3, dtype=np.float64)), media_type=NPY),
    post(npy(np.eye(2, dtype=np.float32)), media_type=NPY),
    post(npy(np.eye(3, dtype=np.float32))[:-4], media_type=NPY),
    post(npy(np.array([None]), pickled=True), media_type=NPY),
    # bodies
    post(ROW, media_type=("content-type", "text/plain")),
    post(ROW, media_type=("content-type", "text/plain; charset=utf-8")),
    post(ROW, media_type=("content-type", "application/xml")),
    post(ROW, media_type=("content-type", "application/python-pickle")),
    post(b"not gzip", ("content-encoding", "gzip")),
    post(gzipped(ROW)[:-1], ("content-encoding", "gzip")),
    post(gzipped(ROW) * 2, ("content-encoding", "gzip")),
    post(gzipped(b" " * 200_000), ("content-encoding", "gzip")),
    post(ROW, ("content-encoding", "br")),
    post(b" " * 100_001),
    post(b" " * 100_001, says_length=False),
    post(b" " * 100_001, media_type=("content-type", "text/plain")),
    post(b" " * 300_001, media_type=("content-type", "text/plain")),
    post(b" " * 100_001, media_type=("content-type", "application/x-www-form-urlencoded")),
    post(b" " * 300_001, media_type=NPY),
    post(b" " * 300_001, media_type=NPY, says_length=False),
    post(b" " * 100_001, target="/projects/p/models/nobody:predict"),
    post(b" " * (4 << 20 | 1), target="/api/v1/plan"),
    post(b" " * (4 << 20 | 1), target="/api/v1/plan", says_length=False),
    post(gzipped(b"{}"), ("content-encoding", "gzip"), target="/api/v1/plan"),
    post([], target="/api/v1/plan"),
    # what a model or its lane says
    row(99, target="/projects/p/models/gather:predict"),
    row(-1, target="/projects/p/models/loop:predict"),
    row(target="/projects/p/models/idle:predict"),
    # places
    row(target="/projects/p/models/nobody:predict"),
    row(target="/projects/q/models/m:predict"),
    row(target="/projects/p/models/m/versions/v9:predict"),
    row(target="/projects/p/models/m"),
    row(target="/projects/p/models/m:predict/"),
    row(target="/projects/p/models/m:explain"),
    row(target="/projects//models/m:predict"),
    row(target="/projects/p/models/..:predict"),
    row(target="/projects/p/models/" + "x" * 64 + ":predict"),
    row(target="/projects/p/models/a%2Fb:predict"),
    row(target="/projects/p%2Fmodels/m:predict"),
    row(target="/projects/p/models/%C3%A4:predict"),
    row(target="/projects/"),
    row(target="/%70rojects/p/models/nobody:predict"),
    row(target="//projects/p/models/m:predict"),
    Asked("GET", PREDICT),
    Asked("HEAD", PREDICT),
    Asked("PUT", PREDICT, ROW),
    Asked("OPTIONS", PREDICT),
    Asked("POST", "/healthz"),
    Asked("DELETE", "/healthz"),
    Asked(method="POST", target="/"),
    Asked(target="/nowhere"),
    Asked(target="/healthz/"),
    Asked(target="/readyz?model=nonsense"),
    Asked(target="/readyz?model=p/nobody"),
    Asked(target="/readyz?surplus=1"),
    Asked(target="/api/v1/models/%2e%2e"),
    # heads
    Asked(headers=[(f"x-{number}", "y") for number in range(100)]),
    Asked(headers=[(f"x-{number}", "y" * 330) for number in range(50)]),
    *(Asked(headers=[("cookie", "y" * kib * 1024)]) for kib in (16, 20, 30)),
    Asked(headers=[(f"x-{number}", "y") for number in range(400)]),
    Asked(target="/healthz?" + "y" * 16 * 1024),
    # what is quoted
    Asked(target="/healthz?" + "y" * 14_000),
    Asked(target="/" + "y" * 14_000),
    row(target=f"/projects/p/models/{'y' * 14_000}:predict"),
    Asked(host="y" * 14_000),
    Asked(headers=[("origin", "y" * 14_000)]),
    # targets
    *(
        Asked(target=target)
        for target in (
            "/caf\xe9",
            "/%",
            "/%zz",
            "/healthz?a=%zz",
            "/x|y",
            "/HEALTHZ",
            "/./healthz",
            "/health%7A",
        )
    ),
    row(target="/projects/p/models/m:predict%20"),
    row(target="/projects/p/models/m%ff:predict"),
    row(target="/projects/p/models/m:predict#part"),
    post(INFER, target="/v2/models/pm/infer"),
    post(INFER, target="/v2/models/p.m/infer/"),
    post(INFER, ("inference-header-content-length", "some"), target="/v2/models/p.m/infer"),
    *(Asked(method, "/healthz") for method in ("TRACE", "PROPFIND", "PATCH")),
    # what nobody may ask
    Asked(target="/healthz%00"),
    Asked(target="/healthz%0a"),
    Asked(target="/healthz?%0D"),
    row(target="/projects/p/models/m:predict?%00"),
    Asked(host="evil.example"),
    Asked(host="evil.example:80"),
    Asked(host="local host"),
    row(host="evil.example"),
    row(host="localhost:x"),
    Asked(headers=[("origin", "http://evil.example")]),
    post(ROW, ("origin", "null")),
]


def test_good_requests_are_answered_alike(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for asked in GOOD:
                answer = await compare(site, asked)
                assert answer.status == 200, asked

    run(test())


def test_the_way_to_the_documentation_is_shown_alike(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for method in ("GET", "HEAD"):
                answer = await compare(site, Asked(method=method, target="/"))
                assert (answer.status, answer.headers["location"]) == (307, "docs")

    run(test())


def test_bad_requests_are_answered_alike(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for asked in BAD:
                answer = await compare(site, asked)
                assert answer.status >= 400, asked
                if asked.method != "HEAD":
                    error = json.loads(answer.body)
                    assert error.keys() >= {"error", "code", "request_id"}, asked
                if (
                    asked.method == "POST"
                    and asked.target.startswith("/projects/")
                    and "403" not in str(answer)
                ):
                    assert answer.row or answer.status == 400, asked

    run(test())


def test_ids_that_are_given_are_echoed_alike(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_corpus_site(tmp_path) as site:
            for value in ("abc", "x" * 128, "x" * 129, "two words", "caf\xe9"):
                named = ("x-request-id", value)
                for asked in (
                    post(ROW, named),
                    post(b"{", named),
                    post(b" " * 100_001, named),
                    Asked(headers=[named]),
                    Asked(target="/nowhere", headers=[named]),
                    Asked(host="evil.example", headers=[named]),
                    post(b" " * (4 << 20 | 1), named, target="/api/v1/plan"),
                ):
                    answer = await compare(site, asked)
                    is_sane = value in ("abc", "x" * 128)
                    assert (answer.headers["mdslite-request-id"] == value) == is_sane

    run(test())


def test_a_full_queue_is_answered_alike(tmp_path: Path) -> None:
    async def test() -> None:
        loop = Deployed(models.loop(tmp_path / "loop.onnx"))
        async with open_site(tmp_path, loop) as site:
            lane = site.lane()
            async with site.connect() as running, site.connect() as queued:
                running.send(predict([[-1]]))
                await until(lambda: lane.running)
                queued.send(predict([[1]] * 1024))
                await until(lambda: lane.queue_rows == 1024)
                answer = await compare(site, post({"instances": [[1]]}))
                assert answer.status == 429
                assert answer.headers["retry-after"] == "1"

    run(test())


def test_predictions_of_clients_that_leave_are_logged_alike(tmp_path: Path) -> None:
    async def test() -> None:
        loop = Deployed(models.loop(tmp_path / "loop.onnx"))
        async with open_site(tmp_path, loop) as site:
            lane = site.lane()
            rows = []
            for ask in (ask_http1, ask_http2):
                asking = asyncio.create_task(ask(site, post({"instances": [[-1]]})))
                await until(lambda: lane.running)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                await until(lambda: not lane.running)
                row = site.logged[-1]
                rows.append({name: row[name] for name in ("status", "code", "model", "rows", "url", "reply")})
            assert rows[0] == rows[1]
            assert rows[0]["status"] == 499

    run(test())
