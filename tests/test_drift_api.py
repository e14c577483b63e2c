"""Drift over the API: what is watched, which baselines are chosen, who hears of alerts."""

from __future__ import annotations

import asyncio
import http.server
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import models
import pytest
from applying import apply
from box import Box, Caller, open_box
from waiting import until

from mdslite.api.alarms import Alarms
from mdslite.api.bulletin import Bulletin
from mdslite.api.drift import usual_text
from mdslite.drift.baseline import Finding
from mdslite.drift.watch import Signal
from mdslite.errors import MdsliteError, StoreError
from mdslite.runtimes.prober import Prober
from mdslite.store.drift import (
    Alert,
    Chosen,
    DriftReader,
    DriftStore,
    Key,
    Record,
    Wishes,
    read_wishes,
    wishes_set_aside,
    write_wishes,
)
from mdslite.store.webhooks import Webhooks

NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z
V1 = Key("p", "m", "v1", False)


def alert(**fields: Any) -> Alert:
    values: dict[str, Any] = {
        "id": 0, "time": NOON, "project": "p", "model": "m", "version": "v1", "shadow": False,
        "signal": "input.age", "state": "firing", "text": "median 40, usual is 20", "window": "1h",
        "test": "ks", "statistic": 0.4, "p": 1e-20, "measure": "psi", "effect": 0.5, "threshold": 0.1,
        "count": 900, "opened": None,
    }  # fmt: skip
    return Alert(**{**values, **fields})


def record(*signals: Signal) -> Record:
    return Record(
        digest="d", began=NOON, known=[], vocabulary={}, signals=list(signals), note="learns", requests=900
    )


def write(folder: Path, *alerts: Alert, signals: tuple[Signal, ...] = ()) -> None:
    """As the request log's writer does."""
    store = DriftStore(folder)
    store.open()
    with store.writing():
        store.save(V1, record(*signals))
        for one in alerts:
            store.add_alert(one)
    store.close()


def run(tmp_path: Path, prober: Prober, test: Any) -> None:
    async def main() -> None:
        models.identity(tmp_path / "v1.onnx")
        async with open_box(tmp_path / "store", prober) as box:
            await apply(box, tmp_path, "v1, uri: v1.onnx")
            await test(box, Caller(box.app))

    (tmp_path / "store").mkdir()
    asyncio.run(main())


def test_nothing_is_known_before_something_was_watched(tmp_path: Path, prober: Prober) -> None:
    async def test(box: Box, ask: Caller) -> None:
        assert (await ask.get("/api/v1/drift")).json == []
        assert (await ask.get("/api/v1/alerts")).json == []

    run(tmp_path, prober, test)


def test_versions_under_watch_are_told_with_what_fires_first(tmp_path: Path, prober: Prober) -> None:
    async def test(box: Box, ask: Caller) -> None:
        folder = tmp_path / "store" / "drift"
        calm, firing = Signal(signal="confidence", state="calm"), Signal(signal="latency", state="firing")
        write(folder, signals=(calm, firing))
        (one,) = (await ask.get("/api/v1/drift?project=p&model=m")).json
        assert (one["project"], one["version"], one["shadow"], one["requests"]) == ("p", "v1", False, 900)
        assert one["baseline"] is None
        assert (one["state"], one["message"]) == ("collecting", "learns")
        assert [(it["signal"], it["state"]) for it in one["signals"]] == [
            ("latency", "firing"),
            ("confidence", "calm"),
        ]
        assert (await ask.get("/api/v1/drift?project=q")).json == []

    run(tmp_path, prober, test)


def test_signals_of_which_too_little_is_known_are_not_called_usual() -> None:
    finding = Finding(
        signal="x", span="10m", count=900, test="ks", statistic=0.01, tail=0.9, level=1e-8,
        measure="psi", effect=0.01, threshold=0.1, exceeds=False, calm=True, text="as usual",
    )  # fmt: skip
    judged, few = Signal(signal="x", state="calm", finding=finding), Signal(signal="y")
    assert usual_text([judged, judged]) == "2 signals are as usual"
    assert usual_text([judged, few, few]) == "1 signal is as usual, 2 have too few values so far"
    assert usual_text([few, few, few]) == "no signal is judged yet: 3 have too few values so far"


def test_alerts_are_paged_and_narrowed(tmp_path: Path, prober: Prober) -> None:
    async def test(box: Box, ask: Caller) -> None:
        write(tmp_path / "store" / "drift", *(alert(time=NOON + n) for n in range(5)), alert(project="q"))
        first = (await ask.get("/api/v1/alerts?limit=2")).json
        assert [one["id"] for one in first] == [6, 5]
        rest = (await ask.get("/api/v1/alerts?before=5&project=p&model=m")).json
        assert [one["id"] for one in rest] == [4, 3, 2, 1]
        assert rest[-1]["time"] == "2026-11-22T12:00:00.000Z"
        assert rest[-1]["signal"] == "input.age"
        late = (await ask.get(f"/api/v1/alerts?since={NOON + 3}")).json
        assert [one["id"] for one in late] == [5, 4]
        assert (await ask.get("/api/v1/alerts?since=soon")).status == 400

    run(tmp_path, prober, test)


def test_a_baseline_is_chosen_and_given_up(tmp_path: Path, prober: Prober) -> None:
    async def test(box: Box, ask: Caller) -> None:
        url = "/api/v1/projects/p/models/m/baseline"
        chosen = await ask.ask("PUT", url, {"since": "24h", "version": "v1"})
        assert chosen.status == 200
        assert chosen.json["version"] == "v1"
        assert (await ask.get(url)).json == chosen.json
        (kept,) = read_wishes(tmp_path / "store" / "drift").chosen.items()
        assert kept[0] == "p/m"
        assert kept[1].since % 3600 == 0 and 86_400 <= kept[1].until - kept[1].since < 90_000
        past = await ask.ask("PUT", url, {"since": "2h30m", "until": "61m"})
        assert {past.json[end][-11:] for end in ("since", "until")} == {":00:00.000Z"}
        again = await ask.ask("DELETE", url)
        assert again.json["since"] is None
        assert read_wishes(tmp_path / "store" / "drift").chosen == {}

    run(tmp_path, prober, test)


@pytest.mark.parametrize(
    ("url", "body", "status", "said"),
    [
        ("p/models/m", {"since": "1h", "until": "2h"}, 400, "before until"),
        ("p/models/m", {"since": "30d"}, 400, "8 days"),
        ("p/models/m", {"since": "someday"}, 400, "moment"),
        ("p/models/m", {}, 400, "since"),
        ("p/models/m", {"since": "1h", "version": "v9"}, 404, "v9"),
        ("p/models/x", {"since": "1h"}, 404, "p/x"),
    ],
)
def test_a_baseline_that_cannot_be_is_refused(
    tmp_path: Path, prober: Prober, url: str, body: dict[str, str], status: int, said: str
) -> None:
    async def test(box: Box, ask: Caller) -> None:
        heard = await ask.ask("PUT", f"/api/v1/projects/{url}/baseline", body)
        assert heard.status == status
        assert said in heard.json["error"]

    run(tmp_path, prober, test)


@pytest.mark.parametrize("url", ["drift?project=p&model=x", "projects/p/models/x/baseline"])
def test_what_is_not_there_has_no_drift_and_no_baseline(tmp_path: Path, prober: Prober, url: str) -> None:
    async def test(box: Box, ask: Caller) -> None:
        heard = await ask.get(f"/api/v1/{url}")
        assert heard.status == 404
        assert "no model p/x" in heard.json["error"]
        assert (await ask.get(f"/api/v1/{url.replace('x', 'm')}")).status == 200

    run(tmp_path, prober, test)


def test_a_full_disk_is_told_as_such(tmp_path: Path, prober: Prober) -> None:
    async def test(box: Box, ask: Caller) -> None:
        folder = tmp_path / "store" / "drift"
        folder.mkdir(exist_ok=True)
        (folder / "wishes.json.new").symlink_to("/dev/full")
        for url, body in (
            ("/api/v1/projects/p/models/m/baseline", {"since": "6h"}),
            ("/api/v1/alerts/webhook", {"url": "http://8.8.8.8/hook"}),
        ):
            refused = await ask.ask("PUT", url, body)
            assert (refused.status, refused.json["code"]) == (507, "storage_full")
            assert "wishes.json" in refused.json["error"]

    run(tmp_path, prober, test)


def test_a_webhook_inside_is_refused(tmp_path: Path, prober: Prober) -> None:
    async def test(box: Box, ask: Caller) -> None:
        url = "/api/v1/alerts/webhook"
        refused = await ask.ask("PUT", url, {"url": "http://127.0.0.1:9/hook"})
        assert refused.status == 400
        assert (await ask.get(url)).json == {"url": None}

    run(tmp_path, prober, test)


def test_the_watch_is_told_what_is_deployed_and_since_when(tmp_path: Path, prober: Prober) -> None:
    async def test(box: Box, ask: Caller) -> None:
        folder = tmp_path / "store" / "drift"
        await box.alarms.look()
        (first,) = read_wishes(folder).deployed
        assert (first.project, first.model, first.version) == ("p", "m", "v1")
        await box.alarms.look()
        assert read_wishes(folder).deployed == [first]
        models.identity(tmp_path / "v1.onnx", shape=("N", 5))
        await apply(box, tmp_path, "v1, uri: v1.onnx")
        await box.alarms.look()
        (second,) = read_wishes(folder).deployed
        assert second.digest != first.digest
        assert second.since > first.since

    run(tmp_path, prober, test)


# Alerts are passed on


@contextmanager
def hook(*statuses: int) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers posts with these statuses in turn, then with 200."""
    heard: list[bytes] = []
    waiting = list(statuses)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(waiting.pop(0) if waiting else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_alarms(folder: Path, bulletin: Bulletin | None = None) -> Alarms:
    return Alarms(
        folder,
        list,
        bulletin or Bulletin(),
        Webhooks(allow=("127.0.0.1",)),
        look_s=0.01,
        tell_delays_s=(0.0, 0.0),
    )


def test_an_alert_is_logged_told_as_event_and_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bulletin = Bulletin()
        alarms = make_alarms(tmp_path, bulletin)
        write(tmp_path, alert(), signals=(Signal(signal="input.age", state="firing"),))
        await alarms.start()
        await until(lambda: read_wishes(tmp_path).told == 1)
        (notice,), _ = bulletin.after(0)
        assert notice.kind == "alert"
        assert b'"signal":"input.age"' in notice.data
        assert (notice.project, notice.model) == ("p", "m")
        samples = {one.name: one.value for one in alarms.gauges()}
        assert samples["mdslite_drift_firing"] == 1
        assert samples["mdslite_drift_signal_firing"] == 1
        assert samples["mdslite_drift_alerts_total"] == 1
        await alarms.close()
        # After a restart it is not told again.
        second = make_alarms(tmp_path, bulletin)
        await second.start()
        write(tmp_path, alert(state="resolved", opened=1))
        await until(lambda: read_wishes(tmp_path).told == 2)
        assert len(bulletin.after(0)[0]) == 2
        await second.close()

    asyncio.run(main())
    assert "drift of input.age in p/m v1 firing: median 40, usual is 20" in caplog.text


def test_damaged_wishes_are_set_aside_and_said_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        write(tmp_path, alert())
        damaged = random.Random(7).randbytes(20)
        (tmp_path / "wishes.json").write_bytes(damaged)
        bulletin = Bulletin()
        alarms = make_alarms(tmp_path, bulletin)
        await alarms.start()
        (aside,) = wishes_set_aside(tmp_path)
        assert aside.read_bytes() == damaged
        assert f"the damaged file is kept as {aside}" in caplog.text
        assert "mdslite alerts --webhook URL" in caplog.text
        write(tmp_path, alert(state="resolved", opened=1))
        await until(lambda: read_wishes(tmp_path).told == 2)
        assert len(bulletin.after(0)[0]) == 1  # what was told before is not told anew
        await alarms.close()

    asyncio.run(main())


def test_wishes_that_cannot_be_read_are_not_overwritten(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "wishes.json").mkdir()
        alarms = make_alarms(tmp_path)
        with pytest.raises(StoreError, match="cannot be read: Is a directory"):
            await alarms.start()
        await alarms.close()

    asyncio.run(main())


def test_a_wish_without_a_log_keeps_those_before(tmp_path: Path) -> None:
    async def main() -> None:
        write_wishes(tmp_path, Wishes(webhook="http://8.8.8.8/hook", told=3))
        alarms = make_alarms(tmp_path)  # never started
        chosen = Chosen(since=0.0, until=3600.0)
        await alarms.choose("p", "m", chosen)
        assert read_wishes(tmp_path) == Wishes(webhook="http://8.8.8.8/hook", told=3, chosen={"p/m": chosen})

    asyncio.run(main())


def test_a_webhook_that_fails_is_called_again_and_given_up_at_last(tmp_path: Path) -> None:
    async def main() -> None:
        with hook(500, 503, 200, 500, 500, 500) as (url, heard):
            alarms = make_alarms(tmp_path)
            await alarms.start()
            await alarms.set_webhook(url)
            write(tmp_path, alert(), alert(signal="latency"), alert(signal="output"))
            await until(lambda: read_wishes(tmp_path).told == 3)
            assert [b"input.age" in one for one in heard] == [True] * 3 + [False] * 4
            assert b"output" in heard[-1]
            assert alarms.dropped == 1
            await alarms.close()

    asyncio.run(main())


def test_a_webhook_may_not_be_an_address_inside(tmp_path: Path) -> None:
    async def main() -> None:
        alarms = Alarms(tmp_path, list, Bulletin(), Webhooks())
        for url in ("http://127.0.0.1/x", "http://169.254.169.254/latest", "ftp://example.org", "nonsense"):
            with pytest.raises(MdsliteError):
                await alarms.set_webhook(url)

    asyncio.run(main())


def test_a_database_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    reader = DriftReader(tmp_path)
    assert (reader.watched(), reader.alerts()) == ([], [])
