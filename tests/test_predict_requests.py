"""What the request log is told of a prediction, and which paths, types and encodings one may have."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import unquote

import models
import numpy as np
import pytest
from doors import Deployed, open_site, run
from h1_client import PREDICT, gzipped, npy, predict
from hypothesis import given
from hypothesis import strategies as st
from predictions import JSON, ask, parsed

from mdslite.errors import InvalidRequest, TooLarge, UnsupportedMedia
from mdslite.http.inflate import decompress
from mdslite.http.paths import parse_predict_path
from mdslite.npy import NPY
from mdslite.predict.books import Books
from mdslite.spec import ServiceInfo, Spec
from mdslite.targets import Match, Sticky

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
    with pytest.raises(InvalidRequest) as caught:
        parse_predict_path(f"/projects/p/models/{name}:predict".encode())
    assert caught.value.message.startswith(f"{unquote(name)!r} is no name: expected 1 to 63")


@pytest.mark.parametrize(
    ("media_type", "limit"),
    [
        (b"application/json", 100),
        (b"", 100),
        (b"application/x-www-form-urlencoded; charset=x", 100),
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


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_of_a_bomb_no_more_is_held_than_the_limit(encoding: bytes) -> None:
    plain = bytes(20_000_000)
    bomb = gzipped(plain) if encoding == b"gzip" else zlib.compress(plain)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decompress(bomb, encoding, limit=100_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


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
