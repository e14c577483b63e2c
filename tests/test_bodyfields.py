"""Fields within logged bodies: how they are found, and how they are compared."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdslite.errors import InvalidRequest
from mdslite.store.bodyfields import MAX_ITEMS, body_holds, find_values, make_path, read_values
from mdslite.store.filters import MAX_PATH, Term, find_field, parse

MAIL = {"instances": [{"text": "refund me", "n": 3, "user": {"id": "u7"}}, {"text": "hello", "n": 4.5}]}
OIP = {"outputs": [{"name": "label", "datatype": "BYTES", "data": ["spam", "ham"]}]}


@pytest.mark.parametrize(
    ("document", "path", "found"),
    [
        ({"label": "spam"}, "label", ["spam"]),
        ({"a": {"b": [1, {"c": 2}]}}, "a.b.c", [2]),
        (MAIL, "text", ["refund me", "hello"]),
        (MAIL, "user.id", ["u7"]),
        (MAIL, "instances.n", [3, 4.5]),
        (MAIL, "instances.1.n", [4.5]),
        (MAIL, "0.n", [3]),
        ({"instances": [{"n": 3, "0": 4}]}, "n", [3]),
        ({"instances": [{"n": 3, "0": 4}]}, "0", []),
        ({"instances": [{"instances": 3}]}, "instances", []),
        ({"instances": [{"n": None}]}, "n", [None]),
        ({"instances": {"n": 3}}, "n", [3]),
        (OIP, "label", ["spam", "ham"]),
        ({"outputs": {"label": [["a"], ["b"]]}}, "label", ["a", "b"]),
        ({"predictions": [1, 2]}, "predictions", [1, 2]),
        ({"predictions": [{"label": None}]}, "label", [None]),
        ([{"x": True}], "x", [True]),
        ({"a": {}}, "a", []),
        ({"a": 1}, "b", []),
        (7, "a", []),
    ],
)
def test_a_name_is_followed_from_the_top_and_from_each_instance(
    document: Any, path: str, found: list[Any]
) -> None:
    assert find_values(document, make_path(path)) == found


@pytest.mark.parametrize(
    ("term", "holds"),
    [
        ('text="refund me"', True), ("text=hello", True), ("text=refund", False), ("text~REFUND", True),
        ("text!~refund", False), ("text!~dog", True), ("text!=hello", False), ("text!=dog", True),
        ("n=3", True), ("n=3.0", True), ("n>4", True), ("n>4.5", False), ("n>=4.5", True), ("n<3", False),
        ("n<=3", True), ("n>text", False), ("text>hellp", True), ("text<3", False), ("n~4.", True),
        ('user.id=""', False), ('user.id!=""', True), ('nothing=""', True), ("nothing=x", False),
        ("nothing!=x", True), ("n=nan", False), ("n<inf", False),
    ],
)  # fmt: skip
def test_values_are_compared_by_their_type(term: str, holds: bool) -> None:
    (read,) = parse(f"request.{term}", now=0.0).terms
    path = read.field.partition(".")[2]
    assert body_holds(json.dumps(MAIL), path, read.operator, str(read.value)) is holds


@pytest.mark.parametrize(
    ("value", "asked", "holds"),
    [
        (True, "true", True), (True, "1", False), (False, "false", True), (None, "null", True),
        (None, "", True), ("", "", True), ("1", "1", True), (1, "1", True), ("01", "1", False),
        (12345678901234567890, "12345678901234567890", True),
    ],
)  # fmt: skip
def test_equal_is_what_is_spelled_alike(value: Any, asked: str, holds: bool) -> None:
    assert body_holds(json.dumps({"a": value}), "a", "=", asked) is holds


@pytest.mark.parametrize("body", ["", "{", '{"a": 1', "no json", b"\xff\x00", b"\x93NUMPY"])
def test_a_body_that_is_no_json_holds_nothing(body: str | bytes) -> None:
    for operator in ("=", "!=", "~", "!~", "<"):
        assert not body_holds(body, "a", operator, "1")
    assert read_values(body, ("a",)) == []


def test_long_lists_and_deep_ones_are_bounded() -> None:
    assert len(find_values({"a": list(range(5 * MAX_ITEMS))}, ("a",))) == MAX_ITEMS
    assert len(find_values({"a": [[1] * 900] * 900}, ("a",))) <= 2 * MAX_ITEMS
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    assert find_values({"a": deep}, ("a",)) == []


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "instances"]), inner)
    ),
)


@given(document=DOCUMENTS, path=st.sampled_from(["a", "a.b", "instances.a", "0.a", "b.0"]))
def test_whatever_a_body_is_only_scalars_are_found(document: Any, path: str) -> None:
    found = find_values(document, make_path(path))
    assert not any(isinstance(one, list | dict) for one in found)


def test_a_filter_takes_paths() -> None:
    parsed = parse('request.user-id=7 reply.a.0.b~"x y" reply.größe>2', now=0.0)
    assert parsed.terms == (
        Term("request.user-id", "=", "7", 1),
        Term("reply.a.0.b", "~", "x y", 19),
        Term("reply.größe", ">", "2", 37),
    )
    assert parsed.on("bodies") is not None
    assert parsed.on("entries") is None


@pytest.mark.parametrize(
    "name", ["request", "request.", "reply..a", "reply.a.", "answer.a", f"reply.{'a.' * MAX_PATH}a"]
)
def test_what_is_no_path_is_no_field(name: str) -> None:
    assert find_field(name) is None
    with pytest.raises(InvalidRequest):
        parse(f"{name}=1", now=0.0)
