"""The spam filter of the examples: trained as it says, right as often as it says, served as a package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import live
import numpy as np
import pytest

import mds
from mdslite import deployments
from mdslite.errors import ModelError
from mdslite.runtimes.executor import Executor, build
from mdslite.runtimes.packages import find_package, load_class, unload_class

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "spam"


def read_held_out() -> tuple[list[str], list[str]]:
    held_out = json.loads((EXAMPLE / "held_out.json").read_text())
    assert held_out["source"] == "messages.tsv, not trained on"
    messages = held_out["messages"]
    return [one["text"] for one in messages], [one["label"] for one in messages]


@pytest.fixture
def spam_filter() -> Iterator[Executor]:
    cls = load_class(find_package(EXAMPLE / "spamfilter"))
    executor = build(mds.describe(cls))
    yield executor
    executor.close()
    unload_class(cls)


def ask(executor: Executor, *data: Any) -> list[Any]:
    return [
        json.loads(one) if isinstance(one, bytes) else one
        for one in executor.run([json.dumps(datum).encode() for datum in data])
    ]


def test_the_messages_are_half_spam_and_no_two_the_same() -> None:
    lines = (EXAMPLE / "messages.tsv").read_text().splitlines()
    labels = [line.partition("\t")[0] for line in lines]
    assert len(set(lines)) == len(lines) == 180
    assert labels.count("spam") == labels.count("ham") == 90


def test_training_again_gives_the_same_filter(tmp_path: Path) -> None:
    trained = subprocess.run(
        [sys.executable, str(EXAMPLE / "train.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    assert "held out: 38 of 44 right (86.4%)" in trained.stdout
    for name in ("held_out.json", "sample.json"):
        assert (tmp_path / name).read_text() == (EXAMPLE / name).read_text()
    new, kept = (np.load(folder / "spamfilter" / "weights.npz") for folder in (tmp_path, EXAMPLE))
    assert list(new["words"]) == list(kept["words"])
    np.testing.assert_allclose(new["weights"], kept["weights"], atol=1e-5)
    new.close()
    kept.close()


def test_what_it_was_not_trained_on_it_tells_apart_as_often_as_it_says(spam_filter: Executor) -> None:
    texts, labels = read_held_out()
    found = [one["label"] for one in ask(spam_filter, *texts)]
    assert sum(one == label for one, label in zip(found, labels, strict=True)) == 38
    assert len(labels) == 44


def test_each_message_is_answered_alike_alone_and_in_a_batch(spam_filter: Executor) -> None:
    texts, _ = read_held_out()
    assert [ask(spam_filter, text)[0] for text in texts] == ask(spam_filter, *texts)


def test_a_wrong_message_fails_alone(spam_filter: Executor) -> None:
    ham, wrong, spam = ask(
        spam_filter,
        {"text": "Can you bring the notes to the meeting?"},
        42,
        "You have won a prize, claim it now",
    )
    assert ham["label"] == "ham"
    assert isinstance(wrong, ModelError)
    assert 'expected a text, or {"text": "..."}' in wrong.message
    assert spam["label"] == "spam"
    assert spam["confidence"] > 0.8


def test_the_appliance_serves_it(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "spam", ignore=shutil.ignore_patterns("__pycache__"))
    texts, labels = read_held_out()
    with live.up("spam/deployments.yaml", cwd=tmp_path) as box:
        url = f"{box.url}/projects/mail/models/spamfilter:predict"
        found = [one["label"] for one in post(url, {"instances": texts})["predictions"]]
        assert sum(one == label for one, label in zip(found, labels, strict=True)) == 38
        assert post(url, {"text": "You have won a prize, claim it now"})["label"] == "spam"
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(url, {"instances": ["fine", 42]})
        with caught.value as reply:
            assert reply.status == 500
            assert json.load(reply)["error"] == 'ValueError: expected a text, or {"text": "..."}'


def post(url: str, body: Any) -> Any:
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=20) as reply:
        return json.load(reply)


def test_it_is_healthy_and_warm(spam_filter: Executor) -> None:
    spam_filter.warm()
    spam_filter.check()


def test_its_deployments_file_names_the_package() -> None:
    file = EXAMPLE / "deployments.yaml"
    (deployment,) = deployments.load(file.read_text(), file=str(file), base=EXAMPLE).deployments
    (version,) = deployment.versions
    assert Path(version.spec.uri) == EXAMPLE / "spamfilter"


def test_nothing_but_what_is_needed_lies_in_the_package() -> None:
    names = sorted(one.name for one in (EXAMPLE / "spamfilter").iterdir() if one.name != "__pycache__")
    assert names == ["model.py", "weights.npz", "words.py"]
