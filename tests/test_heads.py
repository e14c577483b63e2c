"""What is read of a head that was read before is what the parser would have read."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doors import open_site, run
from h1_client import ROW, predict, request
from minted import make_token

from mdslite.door.heads import KnownHead
from mdslite.door.receiver import Receiver
from mdslite.errors import MdsliteError
from mdslite.http.paths import is_prediction
from mdslite.http.request import Request
from mdslite.predict.reading import Reader

HEAD = b"POST /projects/p/models/m:predict HTTP/1.1\r\nHost: here\r\nContent-Length: %s\r\nX-Any: 1\r\n\r\n"
LIMIT = 500


class Reading(Receiver):
    """Keeps what it was told; heads that lead to the predict function have passed."""

    def __init__(self, *, remembers: bool = True) -> None:
        access = SimpleNamespace(required=False)
        reader = Reader(max_json_bytes=LIMIT, max_body_bytes=LIMIT)
        super().__init__(SimpleNamespace(access=access, reader=reader))  # type: ignore[arg-type]
        self.told: list[Any] = []
        self.again = 0
        self._remembers = remembers

    def take(self, request: Request) -> None:
        fields = {name: value for name, value in request.fields.items() if name != b"content-length"}
        self.told.append((request.method, request.target, request.version, fields, request.body))
        request.passed = self._remembers and request.method == b"POST" and is_prediction(request.target)

    def take_again(self, known: KnownHead, body: bytes) -> None:
        self.again += 1
        self.take(known.repeat(body, 0.0))

    def refuse(self, error: MdsliteError) -> None:
        self.told.append((type(error), error.message))

    def await_rest(self) -> None:
        pass


def message(body: bytes, *, head: bytes = HEAD) -> bytes:
    return head % str(len(body)).encode() + body


def feed(*pieces: bytes, remembers: bool = True) -> Reading:
    reading = Reading(remembers=remembers)
    for piece in pieces:
        reading.data_received(piece)
    return reading


def test_a_head_that_comes_again_is_not_parsed_again_whatever_its_body_is_long() -> None:
    reading = feed(*(message(b"x" * size) for size in (7, 9, 10, 123, 0, 7)))
    assert reading.again == 5
    assert [len(told[-1]) for told in reading.told] == [7, 9, 10, 123, 0, 7]


@pytest.mark.parametrize(
    "line",
    [b"X-Request-Id: a", b"traceparent: 00-1-1-01", b"Expect: 100-continue", b"Prefer: respond-async",
     b"Connection: close", b"X-Long: " + b"x" * 3000],
)  # fmt: skip
def test_a_head_that_asks_for_more_or_never_comes_again_is_not_remembered(line: bytes) -> None:
    once = message(b"{}", head=HEAD.replace(b"X-Any: 1", line))
    assert feed(once, once).again == 0


ENDINGS = [
    message(b"123"),
    message(b"123") + message(b"45"),  # two at once
    message(b"123")[:-1],
    message(b"123") + b"4",
    message(b"x" * (LIMIT + 1)),
    HEAD % b"03" + b"123",
    HEAD % b" 3" + b"123",
    HEAD % b"+3" + b"123",
    HEAD % b"3 " + b"123",
    HEAD % b"-3" + b"123",
    HEAD % b"1_0" + b"1234567890",
    HEAD % b"" + b"123",
    HEAD % b"\xc2\xb3" + b"123",
    HEAD % b"3\r\nContent-Length: 4" + b"123",
    HEAD % b"3\r\nTransfer-Encoding: chunked" + b"123",
    HEAD % b"3\n" + b"123",
    HEAD.replace(b"X-Any: 1", b"X-Any: 2") % b"3" + b"123",
    HEAD.replace(b"X-Any: 1", b"X-Any 1") % b"3" + b"123",
    HEAD.replace(b"\r\n\r\n", b"\r\n \r\n\r\n") % b"3" + b"123",
    b"\r\n" + message(b"123"),
    b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    b"nonsense\r\n\r\n",
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_follows_a_head_that_is_known_is_read_as_if_it_were_not(ending: bytes) -> None:
    pieces = (message(b"1234567"), ending, message(b"end"))
    assert feed(*pieces).told == feed(*pieces, remembers=False).told


@pytest.mark.parametrize("beginning", [b"\r\n", b"\r\n\r\n", message(b"1")])
def test_a_head_is_learnt_with_what_stands_before_it_or_not_at_all(beginning: bytes) -> None:
    pieces = (beginning + message(b"12"), message(b"123"), beginning + message(b"4"), message(b"end"))
    assert feed(*pieces).told == feed(*pieces, remembers=False).told


@pytest.mark.parametrize("seed", range(20))
def test_however_a_stream_is_cut_the_same_requests_are_read(seed: int) -> None:
    rng = random.Random(seed)
    stream = [message(b"y" * rng.randrange(30)) for _ in range(30)]
    stream.insert(rng.randrange(20, 30), rng.choice(ENDINGS))
    pieces: list[bytes] = []
    for each in stream:
        at = rng.randrange(1, len(each)) if rng.random() < 0.3 else len(each)
        if pieces and rng.random() < 0.2:
            pieces[-1] += each[:at]
        else:
            pieces.append(each[:at])
        pieces += [each[at:]] * (at < len(each))
    reading = feed(*pieces)
    assert reading.told == feed(*pieces, remembers=False).told
    assert reading.again


def test_a_connection_that_asks_again_and_again_gets_each_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            for number in range(12):
                row = [float(10**number), *ROW[1:]]
                wire.send(predict([row]))
                assert (await wire.reply()).json == {"predictions": [row]}
            wire.send(predict([ROW]) + predict([row]) + predict([ROW]))
            answers = [(await wire.reply()).json["predictions"] for _ in range(3)]
            assert answers == [[ROW], [row], [ROW]]
            wire.send(request(target="/healthz"))
            assert (await wire.reply()).status == 200
            wire.send(predict([ROW])[:-1] + b" ")
            assert (await wire.reply()).status == 400
            wire.send(predict([ROW]))
            assert (await wire.reply()).status == 200

    run(test())


def test_a_token_is_asked_for_with_the_next_request_of_a_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path) as site, site.connect() as wire:
            statuses = []
            token, text = make_token()
            shown = predict(headers=[("Authorization", f"Bearer {text}")])
            for tokens in ([], [token], []):
                site.predictor.access.replace(tokens, {})
                for data in (predict(), predict(), shown, shown):
                    wire.send(data)
                    statuses.append((await wire.reply()).status)
            assert statuses == [200] * 4 + [401, 401, 200, 200] + [401] * 4

    run(test())
