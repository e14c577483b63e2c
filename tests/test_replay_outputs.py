"""What a replay's filter and pace mean, and the outputs that a logged reply was made of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from computed import array_of, arrays_of

from mdslite.api.replay_run import Pace
from mdslite.api.replay_source import read_filter
from mdslite.errors import InvalidRequest
from mdslite.http.access import ANYBODY, Grant
from mdslite.runtimes.protocol import DATA_SIGNATURE, Signature, TensorSpec
from mdslite.serving.replies import read_outputs


def test_a_filter_means_requests_to_the_model_itself_unless_it_says_otherwise() -> None:
    def read(text: str, grant: Grant = ANYBODY) -> str:
        return read_filter(text, project="mail", model="spam", grant=grant, now=2e9)

    assert read("since=1h") == (
        'project=mail model=spam shadow=false client!~"replay:" since=1h until=2000000000.000'
    )
    assert (
        read("project=a model=b shadow client=me until=5m") == "project=a model=b shadow client=me until=5m"
    )
    narrow = Grant("ann", project="mail", model="spam")
    assert read("project=a model=b", narrow).startswith("project=mail model=spam ")
    for wrong in ("since=2100000000", "until=2100000000", "nonsense"):
        with pytest.raises(InvalidRequest):
            read(wrong)


def test_a_pace_is_that_of_before_or_so_many_a_second() -> None:
    assert Pace.parse("2x").due_s(7, arrived_at=110.0, first_at=100.0) == 5.0
    assert Pace.parse("2x").due_s(7, arrived_at=99.0, first_at=100.0) == 0.0
    assert Pace.parse("50/s").due_s(100, arrived_at=0.0, first_at=100.0) == 2.0
    for wrong in ("0x", "2000x", "1001/s", "fast", "", "-1x", "2"):
        with pytest.raises(InvalidRequest, match="rate"):
            Pace.parse(wrong)


LABELS_AND_SHARES = Signature(
    (TensorSpec("x", "FP32", (None, 2)),),
    (TensorSpec("label", "INT64", (None,)), TensorSpec("p", "FP32", (None, 2))),
    "free",
)
WORDS = Signature((TensorSpec("x", "FP32", (None, 2)),), (TensorSpec("w", "BYTES", (None,)),), "free")


@pytest.mark.parametrize(
    "reply",
    [
        {"predictions": [{"label": 1, "p": [0.25, 0.75]}]},
        {"outputs": {"label": [1], "p": [[0.25, 0.75]]}},
        {
            "outputs": [
                {"name": "p", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]},
                {"name": "label", "datatype": "INT64", "shape": [1], "data": [1]},
            ]
        },
    ],
)
def test_a_logged_reply_becomes_the_outputs_that_it_was_made_of(reply: Any) -> None:
    outputs = read_outputs(json.dumps(reply).encode(), LABELS_AND_SHARES)
    assert outputs is not None
    assert [one.tolist() for one in arrays_of(outputs)] == [[1], [[0.25, 0.75]]]


def test_other_replies_become_what_they_can() -> None:
    words = read_outputs(b'{"predictions": ["a", "b"]}', WORDS)
    assert words is not None and array_of(words[0]).dtype == object
    assert read_outputs(b'{"predictions": [{"a": 1}, 2]}', DATA_SIGNATURE) == [[b'{"a":1}', b"2"]]
    assert read_outputs(b'{"label": "x"}', DATA_SIGNATURE) == [[b'{"label":"x"}']]
    for wrong in (b"no json", b'{"error": "x"}', b"[1]", b'{"predictions": [{"label": 1}]}'):
        assert read_outputs(wrong, LABELS_AND_SHARES) is None
