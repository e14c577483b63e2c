"""`mdslite compare` as people read it, with what its figures leave out."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from time import time, tzset

import models
import pytest
from live import Live, up
from waiting import hold_on

from mdslite.cli import run
from mdslite.client import Client
from mdslite.store.comparisons import ComparisonStore, Pair, Sums

DEPLOYMENTS = """
deployments:
- project: p
  model: m
  versions:
  - {version: v1, spec: {uri: m.onnx}}
  - {version: v2, shadow: true, spec: {uri: m.onnx}}
  - {version: v3, weight: 0, spec: {uri: m.onnx}}
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One that has answered a few requests, and has dropped many copies in this minute, as if it had been
    busy."""
    folder = tmp_path_factory.mktemp("compared")
    models.identity(folder / "m.onnx")
    (folder / "deployments.yaml").write_text(DEPLOYMENTS)
    (folder / ".mdslite").mkdir()
    store = ComparisonStore(folder / ".mdslite" / "comparisons.db")
    store.open()
    sums = Sums(pairs=20, compared=20, agreed=19, dropped_busy=970, dropped_slow=10)
    store.add([(Pair("p", "m", "v1", "v2"), int(time()) // 60 * 60, sums)], [], now=time())
    store.close()
    with up("deployments.yaml", cwd=folder) as started:
        with Client(started.url) as client:
            client.predict("p", "m", [[1.0, 2.0, 3.0]], version="v1")
            client.predict("p", "m", [[1.0, 2.0, 3.0]], version="v3")
            hold_on(lambda: len(client.logs("model=m")["rows"]) == 2)
        yield started


def test_dropped_copies_are_told_with_why_and_what_to_do(
    live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", "p/m", "v1", "v2", "--since", "10m", "--url", live.url]) == 0
    told = capsys.readouterr()
    assert re.search(r"agreement +95.00 % \[.*\] of 20 pairs, v2 as the shadow of v1", told.out)
    head, *figures = told.out.partition("\n\n")[0].splitlines()
    assert head.split() == ["v1", "v2", "difference"]
    assert [re.split("  +", line)[0] for line in figures] == [
        "requests", "errors", "p50 ms", "p99 ms", "confidence",
    ]  # fmt: skip
    assert re.search(r"copies +20 of 1000 answered \(2 %\)", told.out)
    assert "dropped: 970 as requests left no time for them, 10 as v2 was behind with others" in told.out
    line = f"mdslite replay --url {live.url} 'version=v1 since=10m' --to p/m@v2 --compare --rate 1000/s"
    assert f"hint: {line}\n" in told.err
    assert run(shlex.split(line)[1:]) == 0  # at once, not at the pace of before
    replayed = capsys.readouterr().out
    assert re.search(r"at 1000/s\n", replayed)
    assert re.search(r"matched +1 logged requests, 1 of them", replayed)  # and none of v3's
    assert "errors are 5xx; what was refused (4xx) is left out" in told.err
    assert run(["compare", "p/m", "v1", "v2", "--since", "10m", "--url", live.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["dropped"]["busy"] == 970


def test_where_no_version_was_a_shadow_a_replay_is_suggested(
    live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", "p/m", "v1", "v3", "--url", live.url]) == 0
    told = capsys.readouterr().err
    assert "neither version has been the other's shadow" in told
    assert (
        f"mdslite replay --url {live.url} 'version=v1 since=1h' --to p/m@v3 --compare --rate 1000/s" in told
    )
    assert run(["compare", "p/m", "v1", "v3", "--url", live.url, "--since", "2h", "--until", "0.01s"]) == 0
    assert "'version=v1 since=2h until=0.01s' --to p/m@v3" in capsys.readouterr().err


def test_moments_are_of_this_machine_s_zone(
    live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TZ", "FAR-9")
    tzset()
    try:
        since = f"{datetime.fromtimestamp(time() - 3600):%Y-%m-%dT%H:%M:%S}"
        assert run(["compare", "p/m", "v1", "v3", "--since", since, "--url", live.url, "--json"]) == 0
        told = datetime.fromisoformat(json.loads(capsys.readouterr().out)["since"]).timestamp()
        assert told == pytest.approx(time() - 3600, abs=60)
    finally:
        monkeypatch.undo()
        tzset()
