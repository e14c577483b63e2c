"""Both clients against an appliance: what is predicted in which form, and what is tried again."""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import live
import models
import numpy as np
import pytest
from api_server import STEPS, ApiServer
from box import deployments

import mdslite
from mdslite import calls, drift_calls, label_calls, log_calls
from mdslite.client import AsyncClient, Client, Retries
from mdslite.errors import InvalidRequest, NotFound, Overloaded, Unavailable
from mdslite.retries import Budget, Course

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An appliance with p/m, whose one input is `x`, and p/two of two inputs."""
    folder = tmp_path_factory.mktemp("clients")
    models.mlp(folder / "v1.onnx", seed=1)
    (folder / "deployments.yaml").write_text(deployments("v1, uri: v1.onnx"))
    with live.up("deployments.yaml", cwd=folder) as appliance:
        yield appliance.url


def names(url: str) -> tuple[str, str]:
    """What p/m calls its input and its output."""
    with Client(url) as client:
        signature = client.version("p", "m", "v1")["signature"]
    return signature["inputs"][0]["name"], signature["outputs"][0]["name"]


def test_rows_predict_the_same_in_every_form(url: str) -> None:
    given, asked = names(url)
    with mdslite.Client(url) as client:
        listed = client.predict("p", "m", ROWS.tolist())
        body = client.predict("p", "m", b'{"instances": [[0,1,2,3],[4,5,6,7]]}', version="v1")
        bare = client.predict("p", "m", ROWS)
        one = client.predict("p", "m", ROWS, output=asked, version="v1")
        named = client.predict("p", "m", {given: ROWS})
    assert listed.value == body.value
    assert list(bare.value) == [asked]
    assert bare.value[asked] == listed.value
    assert isinstance(one.value, np.ndarray)
    np.testing.assert_allclose(one.value, np.array(listed.value), rtol=1e-6)
    np.testing.assert_array_equal(named.value[asked], one.value)
    assert {listed.version, body.version, bare.version, one.version} == {"v1"}
    assert listed.request_id and "total" in (listed.server_timing or "")


def test_any_byte_order_and_memory_layout_is_sent(url: str) -> None:
    with Client(url) as client:
        wanted = client.predict("p", "m", ROWS).value
        assert client.predict("p", "m", ROWS.astype(">f4")).value == wanted
        assert client.predict("p", "m", np.asfortranarray(ROWS)).value == wanted


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"a": 1}, "expected a list of instances"),
        ("text", "got str"),
        (np.array([object()]), "not sent as bytes"),
        ([{1, 2}], "cannot be written as JSON"),
    ],
)
def test_data_of_no_form_are_refused_before_they_are_sent(url: str, data: Any, words: str) -> None:
    with Client(url) as client, pytest.raises(InvalidRequest, match=words):
        client.predict("p", "m", data)


def test_what_the_appliance_refuses_is_an_error_of_its_class(url: str) -> None:
    with Client(url) as client, pytest.raises(NotFound, match="p/none"):
        client.predict("p", "none", ROWS)


def test_a_prediction_is_submitted_and_its_result_fetched(url: str) -> None:
    with Client(url) as client:
        found = client.result(client.submit("p", "m", ROWS), wait_s=20)
        assert found is not None
        assert found.value == client.predict("p", "m", ROWS).value


def test_weights_and_versions_are_changed_and_undone(url: str) -> None:
    with Client(url) as client:
        uri = client.version("p", "m", "v1")["uri"]
        before = client.status()["revision"]
        assert client.put_version("p", "m", "v9", {"uri": uri}, reason="try it")["state"] == "ready"
        assert client.put_weights("p", "m", {"v9": 0})["state"] == "applied"
        assert client.delete_version("p", "m", "v9")["summary"]["delete"] == 1
        client.put_weights("p", "m", {"v1": 50})
        assert list(client.undo(before))[-1]["state"] == "applied"
        assert client.revisions(limit=1)[0]["reason"] == f"back to revision {before}"


@pytest.mark.anyio
async def test_the_asyncio_client_does_the_same(url: str) -> None:
    given, asked = names(url)
    async with mdslite.AsyncClient(url) as client:
        assert [one["model"] for one in await client.models()] == ["m"]
        found = await client.predict("p", "m", {given: ROWS})
        assert found.value[asked].shape == (2, 3)
        assert not await client.needs_token()
        events = [one async for one in client.apply({"revision": 1})]
        assert events[-1]["event"] == "result"
        with pytest.raises(NotFound):
            await client.version("p", "m", "v77")
        async with client.follow_logs() as rows:
            await client.predict("p", "m", ROWS)
            async for row in rows:
                assert row["model"] == "m"
                break


def test_both_clients_have_the_same_methods_and_every_call_is_one() -> None:
    described = {
        name
        for module in (calls, drift_calls, label_calls, log_calls)
        for name, made in vars(module).items()
        if inspect.isfunction(made) and made.__module__ == module.__name__ and not name.startswith("_")
    }
    for kind in (Client, AsyncClient):
        own = {name for name in vars(kind) if not name.startswith("_")}
        assert own == described | {"ask", "read", "stream", "close", "needs_token"}
        for name in described:
            assert inspect.getdoc(getattr(kind, name)), name


def test_importing_mdslite_imports_no_client() -> None:
    assert mdslite.__version__
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        mdslite.Cleint  # noqa: B018


# Trying again

FAST = Retries(count=2, first_s=0.001, longest_s=1.0)


class Moody:
    """A server whose connections are ended, or answered with these replies, one after the other."""

    def __init__(self, *replies: bytes) -> None:
        self.asked = 0
        self._replies = replies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._answer)

    def _answer(self) -> None:
        for reply in self._replies:
            with self._listener.accept()[0] as connection:
                connection.recv(65536)
                self.asked += 1
                connection.sendall(reply)

    def __enter__(self) -> Moody:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()


def answer(status: str, body: bytes, *fields: str) -> bytes:
    fields = ("connection: close", f"content-length: {len(body)}", "mdslite-request-id: r", *fields)
    lines = [f"HTTP/1.1 {status}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


BUSY = b'{"error": "the queue is full", "code": "queue_full", "request_id": "r"}'
FINE = answer("200 OK", b'{"version": "0"}')


def test_what_was_refused_is_tried_again() -> None:
    busy = answer("429 Busy", BUSY), answer("503 Busy", BUSY)
    with Moody(*busy, FINE) as server, Client(server.url, retries=FAST) as client:
        assert client.create_token({"scopes": ["read"]}) == {"version": "0"}
    assert server.asked == 3


def test_a_server_that_says_to_wait_for_longer_is_not_waited_for() -> None:
    with (
        Moody(answer("429 Busy", BUSY, "retry-after: 30")) as server,
        Client(server.url, retries=FAST) as client,
        pytest.raises(Overloaded) as caught,
    ):
        client.status()
    assert caught.value.retry_after_s == 30


def test_a_question_is_asked_again_when_its_connection_breaks() -> None:
    with Moody(b"", FINE) as server, Client(server.url, retries=FAST) as client:
        assert client.status() == {"version": "0"}
    assert server.asked == 2


def test_an_order_is_not_sent_again_when_it_may_have_been_carried_out() -> None:
    with (
        Moody(b"") as server,
        Client(server.url, retries=FAST) as client,
        pytest.raises(Unavailable, match=r"ended the connection|the connection to .* failed"),
    ):
        client.put_weights("p", "m", {"v1": 1})
    assert server.asked == 1


def test_a_stream_is_asked_for_again_before_its_first_line(api: ApiServer) -> None:
    fine = answer("200 OK", b'{"event": "result"}\n')
    with (
        Moody(answer("503 Busy", BUSY), fine) as server,
        Client(server.url, retries=FAST) as client,
    ):
        assert list(client.apply({})) == [{"event": "result"}]
    with Client(api.url, retries=FAST) as client:
        assert next(client.undo()) == STEPS[0]
    assert api.last == ("POST", "/api/v1/apply", {"revision": "previous"})


@pytest.mark.anyio
async def test_asyncio_tries_again_too() -> None:
    with Moody(b"", answer("429 Busy", BUSY), FINE) as server:
        async with AsyncClient(server.url, retries=FAST) as client:
            assert await client.status() == {"version": "0"}
    assert server.asked == 3


def test_retries_end_with_the_budget() -> None:
    budget = Budget()
    failure = httpx2.ConnectError("refused")
    courses = [Course(FAST, budget, repeatable=False).after_failure(failure) for _ in range(30)]
    tried = sum(one is not None for one in courses)
    assert 10 <= tried <= 13  # ten that were saved, and a tenth for each request
    assert courses[-1] is None
