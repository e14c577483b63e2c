"""Free data over HTTP: what becomes a datum, what the answer looks like, and answers that come in pieces."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2_client
import numpy as np
import pytest
from doors import Site, open_site, run
from h1_client import npy, request
from lanes import FakeData, FakeGenerator, GivenRuntime
from waiting import until

import mds
from mdslite.data import DataCodec, read_confidences
from mdslite.errors import InvalidJson, InvalidRequest, ModelError, UnsupportedMedia
from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, PackageReport, ProbeReport
from mdslite.serving.loader import LoadRequest
from mdslite.spec import Spec
from mdslite.tensors import Columns

PREDICT = "/projects/p/models/data:predict"


def data_of(columns: Columns) -> list[Any]:
    (data,) = columns.columns
    assert isinstance(data, list)
    return data


@asynccontextmanager
async def serving(folder: Path, session: FakeData, **package: Any) -> AsyncIterator[Site]:
    """A site on which p/data v1 is a package of one fake session."""
    async with open_site(folder) as site:
        site.fleet._loader.runtimes["PYTHON"] = GivenRuntime(session)  # type: ignore[index]
        report = ProbeReport(
            DATA_SIGNATURE, 0, 0.0, False, PackageReport("data", "v1", "Model", batch_size=8, **package)
        )
        wanted = LoadRequest(
            "p", "data", "v1", Spec(uri="/model"), "sha256:00", folder, report, "PYTHON", "MDS"
        )
        site.fleet.switch(added=[await site.fleet.load(wanted)])
        yield site


def post(body: bytes, media_type: str = "application/json", **options: Any) -> bytes:
    return request("POST", PREDICT, body, headers=[("content-type", media_type)], **options)


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


# What becomes a datum


def test_each_instance_is_a_datum_and_its_text_is_not_parsed() -> None:
    columns = DataCodec().decode(
        b'{"instances": [ {"a": 1.50}, [2], "\xc3\xa9", null ], "signature_name": "x"}'
    )
    assert columns.columns == ([b'{"a": 1.50}', b"[2]", b'"\xc3\xa9"', b"null"],)
    assert (columns.rows, columns.form) == (4, "instances")


@pytest.mark.parametrize(
    "body",
    [b'{"text": "hi"}', b"[1, 2]", b'"hi"', b"3", b'{"instances": 3}', b'{"instances": [1], "top": 5}'],
)
def test_any_other_json_is_one_datum(body: bytes) -> None:
    columns = DataCodec().decode(body)
    assert (columns.columns, columns.rows, columns.form) == (([body],), 1, "value")


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"instances": [1,]}', b'"\xff"', b"[" * 100_000, b'{"a": 01}'],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson, match="the body is no JSON"):
        DataCodec().decode(body)


@pytest.mark.parametrize("body", [b'{"instances": [NaN]}', b"[1, -Infinity]"])
def test_a_number_that_json_has_not_is_refused_with_what_to_send_instead(body: bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        DataCodec().decode(body)
    assert caught.value.hint == (
        "JSON has no NaN and no infinities: send null, or an array as application/x-npy"
    )


def test_another_body_is_one_datum_that_knows_its_type() -> None:
    columns = DataCodec().decode_typed(b"\x89PNG", b"image/png; q=1")
    [datum] = data_of(columns)
    assert isinstance(datum, mds.Body)
    assert (bytes(datum), datum.content_type, columns.form) == (b"\x89PNG", "image/png", "value")
    [text] = data_of(DataCodec().decode_typed(b"42", b"text/plain"))
    assert isinstance(text, mds.Body)


def test_the_rows_of_an_array_are_data_of_this_machine_s_byte_order() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    columns = DataCodec().decode_typed(npy(array), b"application/x-npy")
    rows = data_of(columns)
    assert [row.tolist() for row in rows] == array.tolist()
    assert all(row.dtype == np.float32 and row.dtype.isnative for row in rows)
    assert columns.form == "instances"


def test_arrays_of_objects_and_scalars_are_refused() -> None:
    with pytest.raises(UnsupportedMedia):
        DataCodec().decode_typed(pickled(), b"application/x-npy")
    with pytest.raises(InvalidRequest, match="scalar"):
        DataCodec().decode_typed(npy(np.array(1.0)), b"application/x-npy")


def test_a_package_that_streams_takes_one_instance() -> None:
    codec = DataCodec(streams=True)
    assert codec.decode(b'{"instances": [1]}').rows == 1
    with pytest.raises(InvalidRequest, match="expected one instance, got 2"):
        codec.decode(b'{"instances": [1, 2]}')


def test_confidences_come_with_the_answers() -> None:
    assert read_confidences([Answers([b"1", b"2"], confidences=[0.5, None])]) == [0.5, None]
    assert read_confidences([Answers([b"1"])]) is None


# Answers


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"instances": [{"a": 1}, 2]}', {"predictions": [{"a": 1}, 2]}),
        (b'{"instances": []}', {"predictions": []}),
        (b'{"text": "hi"}', {"text": "hi"}),
    ],
)
def test_instances_are_answered_by_predictions_and_a_value_by_itself(
    tmp_path: Path, body: bytes, answer: Any
) -> None:
    async def test() -> None:
        async with serving(tmp_path, FakeData()) as site:
            reply = await site.ask(post(body))
            assert (reply.status, reply.json) == (200, answer)

    run(test())


def test_a_datum_that_fails_fails_its_request_and_no_other(tmp_path: Path) -> None:
    class Picky(FakeData):
        def run(self, feeds: Any, handle: Any = None) -> list[Answers]:
            return [Answers([ModelError("bad datum") if one == b'"bad"' else one for one in feeds["data"]])]

    async def test() -> None:
        async with serving(tmp_path, Picky()) as site:
            bodies = [b'{"instances": ["bad", 1]}', b'{"instances": [1, 2]}']
            failed, answered = await asyncio.gather(*(site.ask(post(body)) for body in bodies))
            assert (failed.status, failed.code) == (500, "model_error")
            assert failed.json["error"] == "bad datum"
            assert answered.json == {"predictions": [1, 2]}

    run(test())


# Answers in pieces


def test_a_generator_s_items_are_events_and_the_connection_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, FakeGenerator(), streams=True) as site, site.connect() as wire:
            for _ in range(2):
                wire.send(post(b"[1]"))
                reply = await wire.reply()
                assert (reply.status, reply.framing) == (200, "chunked")
                assert reply.headers["content-type"] == "text/event-stream"
                assert reply.headers["mdslite-version"] == "v1"
                assert reply.body == b"data: [\n\ndata: 1\n\ndata: ]\n\n"
            assert site.statuses == [200, 200]
            assert site.logged[0]["reply"] == reply.body

    run(test())


def test_an_old_client_reads_events_until_the_connection_ends(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, FakeGenerator(), streams=True) as site:
            reply = await site.ask(post(b"7", version="1.0"))
            assert (reply.framing, reply.body) == ("close", b"data: 7\n\n")

    run(test())


def test_a_generator_without_items_is_an_empty_stream(tmp_path: Path) -> None:
    class Silent(FakeGenerator):
        def stream(self, feeds: Any, handle: Any, emit: Any) -> list[Answers]:
            return [Answers()]

    async def test() -> None:
        async with serving(tmp_path, Silent(), streams=True) as site:
            reply = await site.ask(post(b"7"))
            assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
            assert reply.body == b""

    run(test())


def test_what_fails_before_the_first_item_is_an_error_and_after_it_an_event(tmp_path: Path) -> None:
    class Broken(FakeGenerator):
        def stream(self, feeds: Any, handle: Any, emit: Any) -> list[Answers]:
            if feeds["data"][0] == b"1":
                emit(b"1")
            raise ModelError("out of words")

    async def test() -> None:
        async with serving(tmp_path, Broken(), streams=True) as site:
            reply = await site.ask(post(b"0"))
            assert (reply.status, reply.code) == (500, "model_error")
            reply = await site.ask(post(b"1"))
            first, error = reply.body.removesuffix(b"\n\n").split(b"\n\n")
            assert (reply.status, first) == (200, b"data: 1")
            name, data = error.split(b"\n")
            assert name == b"event: error"
            assert json.loads(data.removeprefix(b"data: "))["error"] == "out of words"
            assert site.statuses == [500, 500]

    run(test())


def test_a_client_that_leaves_ends_the_generator(tmp_path: Path) -> None:
    async def test() -> None:
        session = FakeGenerator(held=True)
        async with serving(tmp_path, session, streams=True) as site:
            async with site.connect() as wire:
                wire.send(post(b"123"))
                await wire.head()
                assert await wire.chunk() == b"data: 1\n\n"
            session.hold.set()
            await asyncio.to_thread(session.ended.wait, 10)
            await until(lambda: site.statuses == [499])
            assert session.closed_by is not None
            assert (await site.ask(post(b"4"))).body == b"data: 4\n\n"

    run(test())


def test_a_client_that_does_not_read_holds_the_generator_up(tmp_path: Path) -> None:
    class Long(FakeGenerator):
        def stream(self, feeds: Any, handle: Any, emit: Any) -> list[Answers]:
            for _ in range(1000):
                emit(b'"%b"' % (b"x" * 65536))
                self.emitted += 1
            return [Answers()]

    async def test() -> None:
        session = Long()
        async with serving(tmp_path, session, streams=True) as site, site.connect() as wire:
            wire.stop_reading()
            wire.send(post(b"1"))
            await until(lambda: [one.state for one in site.door.connections] == ["reader"])
            assert session.emitted < 900
            wire.read_on()
            reply = await wire.reply()
            assert reply.body.count(b"data: ") == 1000

    run(test())


def test_http_2_streams_the_same_events(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, FakeGenerator(), streams=True) as site:
            async with h2_client.connect(site.address) as client:
                reply = await client.post(PREDICT, b"[1]")
            assert reply.status == 200
            assert reply.headers["content-type"] == "text/event-stream"
            assert reply.body == b"data: [\n\ndata: 1\n\ndata: ]\n\n"

    run(test())


def test_an_empty_body_is_called_empty() -> None:
    with pytest.raises(InvalidJson, match="the body is empty: expected JSON"):
        DataCodec().decode(b"")
