"""What an answer says in a word, what is kept of what people say, how right versions were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mdslite.api.labels import judge
from mdslite.errors import Conflict, NotFound, StorageFull
from mdslite.serving.classes import count_classes, read_answer
from mdslite.serving.lots import is_drawn
from mdslite.spec import Compare
from mdslite.store.candidates import CandidateStore
from mdslite.store.labels import CHANGES_MAX, Count, Item, LabelStore, Rules, VersionAnswer
from mdslite.store.registry import Registry
from mdslite.store.requests import LoggedBody

# What an answer says in a word


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ({"predictions": [{"label": "spam", "score": 0.9}]}, "spam"),
        ({"predictions": [[0.1, 0.2, 0.7]]}, "2"),
        ({"predictions": [{"output_label": [3], "output_probability": [[0.1, 0.9]]}]}, "3"),
        ({"predictions": [{"probabilities": [0.9, 0.1], "embedding": [1, 2, 3]}]}, "0"),
        ({"predictions": [{"ham": 0.2, "spam": 0.8}]}, "spam"),
        ({"predictions": [7.0]}, "7"),
        ({"predictions": [True]}, "true"),
        ({"predictions": [[12.5, 3.5]]}, "[12.5,3.5]"),
        ({"outputs": {"label": [4], "probabilities": [[0.5, 0.5]]}}, "4"),
        ({"outputs": [{"name": "label", "shape": [1], "data": [5]}]}, "5"),
        ({"class": "cat"}, "cat"),
        ("just a text", "just a text"),
        ({"error": "no", "code": "model_error"}, None),
        ({"predictions": []}, None),
    ],
)
def test_an_answer_says_a_class_or_itself(reply: Any, told: str | None) -> None:
    assert read_answer(json.dumps(reply).encode()) == told


def test_a_version_s_rule_says_which_field_is_the_answer() -> None:
    reply = b'{"predictions": [{"label": "x", "inner": {"verdict": "y"}}]}'
    assert read_answer(reply, Compare(field="inner.verdict")) == "y"
    assert read_answer(reply, Compare(output="nothing")) == "x"
    assert read_answer(b"\x93NUMPY...") is None


def test_classes_are_counted_where_probabilities_are_given() -> None:
    assert count_classes(b'{"predictions": [{"p": [[0.25, 0.25, 0.5]]}]}') == 3
    assert count_classes(b'{"predictions": [3]}') is None


def test_a_random_share_draws_alike_for_the_same_request() -> None:
    ids = [f"request-{number}" for number in range(20_000)]
    drawn = [one for one in ids if is_drawn(one, 0.1)]
    assert 1700 < len(drawn) < 2300
    assert all(is_drawn("request-" + one.removeprefix("request-"), 0.1) for one in drawn)
    assert all(is_drawn(one, 1.0) and not is_drawn(one, 0.0) for one in ids)


# What is kept


def body(text: str) -> LoggedBody:
    return LoggedBody(text, "utf-8", len(text), False)


def item(number: int, *, reason: Any = "random", answer: str = "7", shadow: str | None = None) -> Item:
    answers = [VersionAnswer(version="v1", answer=answer, confidence=0.5, reply=body("{}"))]
    if shadow is not None:
        answers.append(VersionAnswer(version="v2", shadow=True, answer=shadow))
    return Item(
        id=number,
        request_id=f"r{number}",
        project="demo",
        model="digits",
        version="v1",
        reason=reason,
        time=1_795_348_800.0,
        confidence=0.5,
        request=body('{"instances": [1]}'),
        answers=tuple(answers),
    )


@pytest.fixture
def store(registry: Registry) -> LabelStore:
    return LabelStore(registry, labels_max=5, clock=iter(range(1000, 2000)).__next__)


def test_each_change_of_a_label_is_kept_and_an_undo_goes_back_to_the_one_before(store: LabelStore) -> None:
    store.put(item(1), "7", note="", author="ann")
    store.put(item(1), "9", note="a nine, look at the loop", author="bob")
    label = store.get(1)
    assert label.current is not None and (label.current.label, label.current.author) == ("9", "bob")
    label = store.undo(1, author="ann")
    assert label.current is not None and label.current.label == "7"
    assert [(one.label, one.undone_by) for one in label.changes] == [("7", None), ("9", "ann")]
    assert [one.item.id for one in store.page(limit=10)] == [1]
    assert store.undo(1, author="ann").current is None
    assert store.page(limit=10) == [] and store.counts("demo", "digits") == []
    with pytest.raises(NotFound, match="no label"):
        store.undo(1, author="ann")
    with pytest.raises(NotFound, match="no label"):
        store.get(2)


def test_labels_are_bounded_and_those_that_are_there_can_still_change(store: LabelStore) -> None:
    for number in range(1, 6):
        store.put(item(number), "7", note="", author="ann")
    with pytest.raises(StorageFull, match="as much as may be"):
        store.put(item(6), "7", note="", author="ann")
    for _ in range(CHANGES_MAX - 1):
        store.put(item(1), "8", note="", author="ann")
    with pytest.raises(Conflict, match="as often as it may be"):
        store.put(item(1), "8", note="", author="ann")
    assert store.forget("demo", "digits") == 5
    assert store.page(limit=10) == []


def test_labels_are_paged_and_narrowed(store: LabelStore) -> None:
    for number, label in enumerate("78787", 1):
        store.put(item(number), label, note="", author="ann")
    assert [one.item.id for one in store.page(limit=2)] == [5, 4]
    assert [one.item.id for one in store.page(limit=2, before=4)] == [3, 2]
    assert [one.item.id for one in store.page(limit=10, label="8")] == [4, 2]
    assert store.page(limit=10, project="demo", model="other") == []
    assert store.classes("demo", "digits") == ["7", "8"]
    assert store.labelled([1, 9]) == {1}


def test_a_replay_s_answer_joins_a_label_but_never_takes_the_place_of_a_live_one(store: LabelStore) -> None:
    store.put(item(1), "7", note="", author="ann")
    for answer in ("1", "7"):
        store.add_answer(1, VersionAnswer(version="v3", replay=True, answer=answer))
    store.add_answer(1, VersionAnswer(version="v1", replay=True, answer="9"))
    store.add_answer(99, VersionAnswer(version="v3", replay=True, answer="9"))
    told = {one.version: one.answer for one in store.get(1).item.answers}
    assert told == {"v1": "7", "v3": "7"}
    assert {(one.version, one.answer) for one in store.counts("demo", "digits")} == {("v1", "7"), ("v3", "7")}


def test_rules_are_kept_by_model(store: LabelStore) -> None:
    assert store.rules() == {}
    store.set_rules("demo", "digits", Rules(below_confidence=None, share=0.5, classes=("a", "b")))
    store.set_rules("demo", "digits", Rules(share=0.25))
    assert store.rules() == {("demo", "digits"): Rules(share=0.25)}


def test_the_queue_keeps_the_newest_of_each_rule(tmp_path: Path) -> None:
    queue = CandidateStore(tmp_path / "candidates.db", waiting_max=3)
    queue.open()
    queue.add([item(number) for number in range(1, 6)], cursors={"log": 5})
    queue.add([item(9, reason="confidence")])
    assert [one.id for one in queue.page(project="demo", model=None, reason=None, limit=9)] == [9, 5, 4, 3]
    assert [one.id for one in queue.page(project=None, model=None, reason="random", limit=1, before=5)] == [4]
    assert queue.count(project="demo", model="digits", reason="random") == 3
    assert queue.counts() == {("demo", "digits", "random"): 3, ("demo", "digits", "confidence"): 1}
    queue.close()
    queue.open()
    queue.remove(9)
    assert queue.get(9) is None and queue.get(5) == item(5)
    assert queue.cursors() == {"log": 5}
    queue.close()


# How right versions were


def count(version: str, label: str, answer: str | None, number: int, *, reason: Any = "random") -> Count:
    return Count(version, reason, label, answer, False, number)


def test_accuracy_is_told_of_the_random_share_apart_from_what_was_picked() -> None:
    counts = [
        count("v1", "7", "7", 45),
        count("v1", "7", "9", 5),
        count("v1", "3", "3", 2, reason="confidence"),
        count("v1", "3", "8", 8, reason="disagreement"),
        count("v2", "7", None, 3),
    ]
    told = judge("demo", "digits", counts)
    first, second = told.versions
    assert (first.random.labelled, first.random.correct) == (50, 45)
    assert first.random.accuracy is not None
    # Wilson's interval of 45 in 50, as Newcombe (1998) computes it.
    assert (round(first.random.accuracy.low, 4), round(first.random.accuracy.high, 4)) == (0.7864, 0.9565)
    assert (first.picked.labelled, first.picked.correct) == (10, 2)
    assert second.random.accuracy is None and second.random.labelled == 0
    assert any(note.startswith("picked: ") for note in told.notes)
    only_picked = judge("demo", "digits", counts[2:4])
    assert any("no accuracy over all traffic" in note for note in only_picked.notes)
    assert judge("demo", "digits", [count("v1", "7", "7", 3)]).notes[0] == "v1: 3 random labels tell little"
