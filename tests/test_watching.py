"""The watch in the request log's writer: what it reads of requests, and that it goes on through restarts, new
artifacts and chosen baselines."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from log_rows import NOON, Clock, block, row, running, wanted

from mdslite.drift.sketches import Window
from mdslite.store.blocks import Block, build_block
from mdslite.store.bodies import BodyBudget
from mdslite.store.drift import (
    Alert,
    Chosen,
    Deployed,
    DriftReader,
    DriftStore,
    Key,
    Watched,
    Wishes,
    write_wishes,
)
from mdslite.store.requests import RequestLog
from mdslite.store.rows import Keeping, pack_row, unpack
from mdslite.store.watching import ROWS_AT_ONCE, WATCHES_MAX, Watcher

PANE_S = 600
DAY_PANES = 144
START = NOON - NOON % 3600
V1 = Deployed(project="mail", model="spam", version="v1", digest="one", since=START)


class Site:
    """A watch on a clock of the test's, fed with a version's requests."""

    def __init__(self, folder: Path, *, deployed: tuple[Deployed, ...] = (V1,)) -> None:
        self.folder = folder
        self.clock = Clock(START)
        self.random = np.random.default_rng(1)
        self.wishes = Wishes(deployed=list(deployed))
        self.wish()
        self.watcher = self.opened()

    def opened(self) -> Watcher:
        watcher = Watcher(self.folder, clock=self.clock.wall, random=Random(1))
        watcher.open()
        return watcher

    def wish(self, **changes: Any) -> None:
        """As the appliance does."""
        self.wishes = Wishes(**{"deployed": self.wishes.deployed, "chosen": self.wishes.chosen, **changes})
        write_wishes(self.folder, self.wishes)

    def restart(self) -> None:
        self.watcher.close()
        self.watcher = self.opened()

    def live(self, panes: int, *, shift: float = 0.0, rows: int = 120, **fields: Any) -> None:
        """Let time pass, with requests in every minute of it."""
        for _ in range(panes * 10):
            ages = self.random.normal(40 + 10 * shift, 10, rows // 10).tolist()
            self.watcher.observe(block(*(self.row(age, **fields) for age in ages)))
            self.clock.pass_by(PANE_S / 10)
            self.watcher.turn()

    def row(self, age: float, **fields: Any) -> Any:
        given: dict[str, Any] = {
            "time": self.clock.now,
            "confidence": float(self.random.beta(8, 2)),
            "request": json.dumps({"instances": [{"age": age}]}).encode(),
            "reply": b'{"predictions": [{"label": "ham"}]}',
        }
        return row(**{**given, **fields})

    def alerts(self) -> list[Alert]:
        return DriftReader(self.folder).alerts()[::-1]

    def seen(self, version: str = "v1") -> Watched:
        (one,) = (it for it in DriftReader(self.folder).watched() if it.key.version == version)
        return one


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_version_learns_for_a_day_and_a_change_after_it_is_an_alert(site: Site) -> None:
    site.live(DAY_PANES - 6)
    assert site.seen().baseline is None
    assert site.seen().record.note.startswith("learns what is usual until 2026-11-23T12:00")
    site.live(6)
    usual = site.seen().baseline
    assert usual is not None
    assert (usual.chosen, usual.source, usual.hours, usual.requests) == (False, "v1", 24, 144 * 120)
    site.live(18)
    assert site.alerts() == []
    site.live(6, shift=1.0)
    (found,) = site.alerts()
    assert (found.signal, found.state, found.version) == ("input.age", "firing", "v1")
    assert found.p is not None
    assert found.p < 1e-7
    site.live(40)
    assert [(one.signal, one.state, one.opened) for one in site.alerts()] == [
        ("input.age", "firing", None),
        ("input.age", "resolved", found.id),
    ]


def test_it_goes_on_after_restarts_as_if_there_had_been_none(site: Site) -> None:
    for _ in range(8):  # in the middle of hours and panes
        site.live(18)
        site.restart()
    assert site.seen().baseline is not None
    site.live(3)
    site.restart()
    site.live(6, shift=1.0)
    (found,) = site.alerts()
    site.restart()
    site.live(6, shift=1.0)
    assert site.alerts() == [found]
    site.restart()
    site.live(40)
    assert [one.state for one in site.alerts()] == ["firing", "resolved"]
    assert site.alerts()[-1].opened == found.id


def test_a_new_artifact_of_a_version_starts_anew(site: Site) -> None:
    site.live(DAY_PANES)
    site.live(6, shift=1.0)
    assert [one.state for one in site.alerts()] == ["firing"]
    new = Deployed(project="mail", model="spam", version="v1", digest="two", since=site.clock.now)
    site.wish(deployed=[new])
    site.live(1, shift=1.0)
    assert [(one.state, one.text) for one in site.alerts()][1:] == [
        ("resolved", "this artifact serves no more")
    ]
    seen = site.seen()
    assert (seen.baseline, seen.record.digest) == (None, "two")
    late = block(site.row(40.0, time=START))  # answered by the old one
    before = site.watcher._versions[Key("mail", "spam", "v1", False)].watch.pane.requests
    site.watcher.observe(late)
    assert site.watcher._versions[Key("mail", "spam", "v1", False)].watch.pane.requests == before


def test_a_version_that_serves_no_more_is_resolved_and_remembered_for_a_day(site: Site) -> None:
    other = Deployed(project="mail", model="spam", version="v2", digest="b", since=START)
    site.wish(deployed=[V1, other])
    site.live(DAY_PANES)
    site.live(6, shift=1.0)
    site.wish(deployed=[other])
    site.live(6, version="v2")
    assert [one.state for one in site.alerts()] == ["firing", "resolved"]
    site.wish(deployed=[V1, other])  # somebody took it back
    site.live(1)
    assert site.seen().baseline is not None


def test_a_chosen_baseline_is_taken_of_the_hours_that_there_were(site: Site) -> None:
    site.live(24)
    site.live(24, shift=3.0)
    site.wish(chosen={"mail/spam": Chosen(since=START, until=START + 4 * 3600)})
    site.live(6, shift=3.0)
    usual = site.seen().baseline
    assert usual is not None
    assert (usual.chosen, usual.hours, usual.since) == (True, 4, START)
    assert "input.age" in {one.signal for one in site.alerts()}
    site.wish(chosen={})
    site.live(1)
    assert site.seen().baseline is None
    assert site.alerts()[-1].text == "compared with another baseline from now on"


def test_a_baseline_may_lie_ahead(site: Site) -> None:
    site.wish(chosen={"mail/spam": Chosen(since=START, until=START + 3 * 3600)})
    site.live(12)
    assert site.seen().record.note.startswith("waits until the chosen baseline is over")
    site.live(12)
    usual = site.seen().baseline
    assert usual is not None
    assert (usual.chosen, usual.hours) == (True, 3)


def test_versions_may_be_compared_with_one_of_them(site: Site) -> None:
    site.wish(deployed=[V1, Deployed(project="mail", model="spam", version="v2", digest="b", since=START)])
    texts: dict[str, Any] = {"request": b'{"instances": [{"city": "Rome"}]}', "reply": None}
    site.live(24, **texts)
    site.live(1, version="v2", **{**texts, "request": b'{"instances": [{"city": "Oslo"}]}'})
    site.wish(chosen={"mail/spam": Chosen(since=START, until=START + 4 * 3600, version="v1")})
    site.live(12, version="v2", **texts)
    usual = site.seen("v2").baseline
    assert usual is not None
    assert usual.source == "v1"
    assert site.alerts() == []  # the same city is the same city
    site.live(2, version="v2", **{**texts, "request": b'{"instances": [{"city": "Oslo"}]}'})
    assert [(one.version, one.signal) for one in site.alerts()] == [("v2", "input.city")]


def test_hours_with_too_little_make_no_baseline(site: Site) -> None:
    site.wish(chosen={"mail/spam": Chosen(since=START - 86_400, until=START - 3600)})
    site.live(7)
    seen = site.seen()
    assert seen.baseline is None
    assert seen.record.note.startswith("the chosen hours hold too little of it; learns")


# What is counted


def counted(site: Site, *rows: Any) -> dict[Key, Any]:
    site.watcher.observe(block(*rows))
    return {key: one.watch.pane for key, one in site.watcher._versions.items()}


def test_refusals_strangers_and_replays_are_left_out(site: Site) -> None:
    found = counted(
        site,
        row(),
        row(status=429, code="overloaded"),
        row(status=400, code="invalid"),
        row(project=None, model=None, version=None),
        row(client="replay:7", shadow=True),
        row(status=500, code="model_error"),
    )
    (pane,) = found.values()
    assert (pane.requests, pane.failed) == (2, 1)


def test_a_shadow_is_watched_by_itself(site: Site) -> None:
    found = counted(site, row(), row(shadow=True), row(shadow=True))
    assert {key.shadow: pane.requests for key, pane in found.items()} == {False: 1, True: 2}


def kept(keeping: Keeping, *rows: Any) -> Block:
    budget = BodyBudget()
    budget.grant(0, 0.0)
    return build_block([unpack(pack_row(one, keeping)) for one in rows], budget=budget)


def test_only_bodies_that_chance_chose_say_what_is_usual(site: Site) -> None:
    doubtful = Keeping(asked=True, below=0.6, share=0.0)
    site.watcher.observe(
        kept(
            doubtful,
            site.row(1.0, confidence=0.3),
            site.row(2.0, status=500, code="model_error"),
            site.row(3.0, confidence=0.9),
        )
    )
    (one,) = site.watcher._versions.values()
    assert one.watch.pane.rows == 1  # the sure one: the doubtful one was kept for its doubt


def test_doubtful_answers_weigh_no_more_than_their_share() -> None:
    keeping = Keeping(asked=True, below=0.6, share=0.25)
    bodies = kept(keeping, *(row(confidence=0.3, request=b"{}") for _ in range(2000))).bodies
    assert 400 < sum(body.even for body in bodies) < 600


def test_as_many_bodies_as_there_are_a_few_are_read(site: Site) -> None:
    (pane,) = counted(site, *(site.row(float(n)) for n in range(200))).values()
    assert (pane.requests, pane.rows) == (200, ROWS_AT_ONCE)


def test_cut_bodies_are_counted_as_unread(site: Site) -> None:
    (pane,) = counted(site, row(request=b'{"instances": [[1, 2', reply=b"{")).values()
    assert (pane.rows, pane.unread) == (0, 1)


def test_as_many_versions_as_may_be_are_watched(tmp_path: Path) -> None:
    site = Site(tmp_path, deployed=())
    found = counted(site, *(row(version=f"v{n}") for n in range(WATCHES_MAX + 5)))
    assert len(found) == WATCHES_MAX
    site.clock.pass_by(2 * 86_400)
    assert Key("mail", "spam", "late", False) in counted(site, row(version="late"))


def test_hours_are_kept_for_eight_days_and_within_a_bound(tmp_path: Path) -> None:
    store = DriftStore(tmp_path, hours_bytes=10 * len(Window().encode()))
    store.open()
    key = Key("p", "m", "v1", False)
    with store.writing():
        for hour in range(300):
            store.save_hour(key, hour * 3600, Window())
        store.tidy(300 * 3600)
    assert [start // 3600 for start, _ in store.hours(key, since=0, until=1e9)] == list(range(290, 300))
    with store.writing():
        store.tidy(300 * 3600 + 8 * 86_400 - 3600)
    assert [start // 3600 for start, _ in store.hours(key, since=0, until=1e9)] == [299]
    store.close()


# The log goes on whatever happens here


@pytest.mark.parametrize("spoil", ["folder", "database"])
def test_a_database_that_cannot_be_used_costs_the_log_no_row(
    tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    drift = tmp_path / "drift"
    if spoil == "folder":
        drift.write_text("a file")
    else:
        drift.mkdir()
        (drift / "drift.db").write_bytes(b"no database" * 1000)
    with running(tmp_path / "log", drift=drift) as journal:
        journal.append(row())
        assert journal.flush()
    assert len(RequestLog(tmp_path / "log").query(wanted(now=NOON), limit=10).rows) == 1
    assert "not watched for drift" in caplog.text


def test_a_journal_has_its_requests_watched_and_another_one_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    for count in (1, 2):
        with running(tmp_path / "log", clock, drift=tmp_path / "drift") as journal:
            journal.append(row())
            assert journal.flush()
        (seen,) = DriftReader(tmp_path / "drift").watched()
        assert seen.key == Key("mail", "spam", "v1", False)
        assert seen.record.requests == count


def test_a_mistake_in_the_watch_costs_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Watcher, block: Block) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Watcher, "observe", fail)
    with running(tmp_path / "log", drift=tmp_path / "drift") as journal, caplog.at_level(logging.ERROR):
        journal.append(row())
        assert journal.flush()
    assert "watching for drift has failed" in caplog.text
    assert len(RequestLog(tmp_path / "log").query(wanted(now=NOON), limit=10).rows) == 1
