"""Which version a request asks for: headers that versions are matched with, and keys that stick."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdslite.deployments import load
from mdslite.errors import SpecError
from mdslite.serving.targeting import SLOTS, Selector, share_slots
from mdslite.spec import ServiceInfo
from mdslite.targets import Match, Sticky

HEADER = Sticky(header="X-User")
HALVES = [("v1", 50.0, "v1"), ("v2", 50.0, "v2")]


def text(model: str = "", v1: str = "", v2: str = "") -> str:
    lines = ["deployments:", "- project: p", "  model: m"]
    if model:
        lines.append(f"  {model}")
    lines += ["  versions:", f"  - version: v1\n    spec: {{uri: a.onnx{v1}}}"]
    lines += [f"  - version: v2\n    spec: {{uri: b.onnx{v2}}}"]
    return "\n".join(lines) + "\n"


def infos(source: str) -> list[ServiceInfo]:
    [deployment] = load(source, file="d.yaml", base=Path("/")).deployments
    return [version.spec.service_info for version in deployment.versions]


# Choosing


def test_a_header_brings_a_request_to_the_version_that_asks_for_it() -> None:
    matches = [(Match("X-Beta", "yes"), "v2"), (Match("x-any"), "v3")]
    selector = Selector(matches=matches, versions=HALVES)
    assert selector.choose({b"x-beta": b"yes"}, b"") == "v2"
    assert selector.choose({b"x-beta": b" yes "}, b"") == "v2"
    assert selector.choose({b"x-beta": b"no"}, b"") is None
    assert selector.choose({b"x-any": b""}, b"") == "v3"
    assert selector.choose({b"x-any": b"1", b"x-beta": b"yes"}, b"") == "v2"
    assert selector.choose({}, b"") is None


def test_of_several_headers_that_fit_the_first_one_written_counts() -> None:
    matches = [(Match("h", "a"), "v1"), (Match("g"), "v2"), (Match("h"), "v3"), (Match("h", "b"), "v4")]
    selector = Selector(matches=matches, versions=HALVES)
    assert selector.choose({b"g": b"x", b"h": b"a"}, b"") == "v1"
    assert selector.choose({b"g": b"x", b"h": b"b"}, b"") == "v2"
    assert selector.choose({b"h": b"b"}, b"") == "v3"


def test_a_key_stays_with_its_version() -> None:
    selector = Selector(sticky=HEADER, versions=HALVES)
    again = Selector(sticky=HEADER, versions=list(reversed(HALVES)))
    for user in range(200):
        fields = {b"x-user": b"%d" % user}
        assert selector.choose(fields, b"") == again.choose(fields, b"") != None  # noqa: E711
    assert selector.choose({}, b"") is None
    assert selector.choose({b"x-user": b""}, b"") is None


@pytest.mark.parametrize(
    ("body", "sticks"),
    [
        (b'{"user": {"id": "ann"}, "instances": [[1]]}', True),
        (b'{"user": {"id": 7}}', True),
        (b'{"user": {"id": null}}', False),
        (b'{"user": {"id": {}}}', False),
        (b'{"user": 7}', False),
        (b"[1]", False),
        (b"\x93NUMPY", False),
    ],
)
def test_the_key_may_be_a_field_of_the_body(body: bytes, sticks: bool) -> None:
    selector = Selector(sticky=Sticky(body="user.id"), versions=HALVES)
    chosen = selector.choose({}, body)
    assert (chosen is not None) == sticks
    assert selector.choose({}, body) == chosen


def test_shares_follow_the_weights_and_weight_zero_has_none() -> None:
    counts = Counter(share_slots([("v1", 80), ("v2", 15), ("v3", 5)]))
    assert [counts[at] / SLOTS for at in range(3)] == pytest.approx([0.8, 0.15, 0.05], abs=0.01)
    selector = Selector(sticky=HEADER, versions=[("v1", 0.0, "v1"), ("v2", 1.0, "v2")])
    assert {selector.choose({b"x-user": b"%d" % user}, b"") for user in range(50)} == {"v2"}


@given(
    before=st.lists(st.integers(1, 100), min_size=2, max_size=6),
    at=st.integers(0, 5),
    to=st.integers(0, 100),
)
def test_a_change_of_one_weight_moves_no_key_between_other_versions(
    before: list[int], at: int, to: int
) -> None:
    at %= len(before)
    after = [to if index == at else weight for index, weight in enumerate(before)]
    old = share_slots([(f"v{index}", weight) for index, weight in enumerate(before)])
    new = share_slots([(f"v{index}", weight or 1e-9) for index, weight in enumerate(after)])
    moved = [(was, now) for was, now in zip(old, new, strict=True) if was != now]
    assert all(at in pair for pair in moved)


# The file


def test_the_model_says_once_what_its_requests_stick_by() -> None:
    first, second = infos(text("sticky: {header: x-user}", v2=", service_info: {match: [{header: x-beta}]}"))
    assert first.sticky == second.sticky == Sticky(header="x-user")
    assert second.match == (Match("x-beta"),)


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        (text("sticky: {}"), 4, "exactly one of header and body"),
        (text("sticky: {header: x, body: y}"), 4, "exactly one of header and body"),
        (text("sticky: {header: 'x y'}"), 4, "the name of a header"),
        (text("sticky: {body: .a}"), 4, "a path of names"),
        (text(v2=", service_info: {sticky: {header: x}}"), 8, "another key"),
        (text(v2=", service_info: {shadow: true, match: [{header: x}]}"), 8, "no request can be matched"),
        (text(v2=", service_info: {match: [{header: x, value: ''}]}"), 8, "the value of a header"),
    ],
)
def test_mistakes_have_their_place(source: str, line: int, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        load(source, file="d.yaml", base=Path("/"))
    assert caught.value.line == line
