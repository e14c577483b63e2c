"""`mdslite drift` and `mdslite alerts` against a real appliance whose watch has found something."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import models
import pytest
from live import Live, up

from mdslite.cli import output, run
from mdslite.drift.baseline import Baseline, Finding
from mdslite.drift.watch import Signal
from mdslite.store.drift import Alert, DriftStore, Key, Record, Wishes, read_wishes, write_wishes

NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z
TEXT = "median 52.1, usual is 39.8"

Captured = pytest.CaptureFixture[str]


def fill(folder: Path) -> None:
    """What a watch leaves behind."""
    finding = Finding(
        signal="input.age", span="10m", count=1180, test="ks", statistic=0.41, tail=3e-40, level=1.7e-8,
        measure="psi", effect=0.83, threshold=0.1, exceeds=True, calm=False, text=TEXT,
    )  # fmt: skip
    firing = Signal(signal="input.age", state="firing", since=NOON, span="10m", alert=1, finding=finding)
    record = Record(
        digest="", began=NOON, known=[], vocabulary={}, note="", requests=7200, rows=7000, unread=3,
        signals=[firing, Signal(signal="latency")], counted_to=NOON + 600,
    )  # fmt: skip
    alert = Alert(
        id=0, time=NOON, project="default", model="m", version="v1", shadow=False, signal="input.age",
        state="firing", text=TEXT, window="10m", test="ks", statistic=0.41, p=3e-40, measure="psi",
        effect=0.83, threshold=0.1, count=1180, opened=None,
    )  # fmt: skip
    baseline = Baseline(
        chosen=False, source="v1", since=NOON - 86_400, until=NOON, hours=24, requests=172_800, rows=86_000,
        usual=[],
    )  # fmt: skip
    store = DriftStore(folder / ".mdslite" / "drift")
    store.open()
    with store.writing():
        key = Key("default", "m", "v1", False)
        store.save(key, record)
        store.save_baseline(key, baseline)
        store.add_alert(alert)
    store.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Live]]:
    folder = tmp_path_factory.mktemp("drift")
    models.mlp(folder / "m.onnx")
    fill(folder)
    with up("m.onnx", cwd=folder) as started:
        yield folder, started


@pytest.fixture(autouse=True)
def url(live: tuple[Path, Live], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSLITE_URL", live[1].url)
    monkeypatch.setenv("TZ", "UTC")


def test_drift_shows_each_signal_with_what_it_takes_to_fire(capsys: Captured) -> None:
    assert run(["drift", "default/m"]) == 0
    out = capsys.readouterr().out
    assert "firing: 1 of 2 signals fire" in out
    assert f"counted        every ten minutes, up to {output.time_text(NOON + 600)} so far\n" in out
    assert "(automatic): 172800 requests, 86000 rows of them read" in out
    assert "7200 requests, 7000 rows of them read, 3 bodies not readable" in out
    (line,) = (line for line in out.splitlines() if "input.age" in line)
    assert line.split()[:5] == ["✖", "input.age", "10m", "1180", "PSI"]
    assert line.endswith(TEXT)
    assert "◌  latency" in out


def test_drift_as_json_is_what_the_api_says(capsys: Captured) -> None:
    assert run(["drift", "default/m@v1", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["signals"][0]["effect"], one["signals"][0]["p"]) == (0.83, 3e-40)


def test_alerts_are_listed(capsys: Captured) -> None:
    assert run(["alerts"]) == 0
    assert f"✖ firing  default/m v1  input.age  {TEXT}" in capsys.readouterr().out
    assert run(["alerts", "--since", "2026-11-23T12:00Z"]) == 0
    assert capsys.readouterr().err == "no alerts\n"
    assert run(["alerts", "default/other"]) == 1
    assert capsys.readouterr().err.startswith("error: nothing is deployed as default/other\n")
    assert run(["alerts", "default/m", "--since", "2026-11-22T12:00Z", "--json", "--limit", "1"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["id"], one["state"], one["time"]) == (1, "firing", "2026-11-22T12:00:00.000Z")


def test_a_baseline_is_chosen_and_given_up(live: tuple[Path, Live], capsys: Captured) -> None:
    drift = live[0] / ".mdslite" / "drift"
    assert run(["drift", "default/m", "--baseline", "24h", "--of", "v1"]) == 0
    err = capsys.readouterr().err
    chosen = read_wishes(drift).chosen["default/m"]
    span = f"{output.time_text(chosen.since)} to {output.time_text(chosen.until)}"
    assert f"are compared with v1 from {span}\nwhole hours are taken" in err
    assert chosen.since % 3600 == 0 and 86_400 <= chosen.until - chosen.since < 90_000
    assert run(["drift", "default/m", "--baseline", "3h", "--until", "90m", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["since"].endswith(":00:00.000Z") and told["until"].endswith(":00:00.000Z")
    assert run(["drift", "default/m", "--no-baseline"]) == 0
    assert read_wishes(drift).chosen == {}
    assert run(["drift", "default/m", "--until", "now"]) == 1
    assert run(["drift", "default/m", "--baseline", "1h", "--no-baseline"]) == 1


def test_a_webhook_inside_is_refused(capsys: Captured) -> None:
    assert run(["alerts", "--webhook", "http://127.0.0.1:9/hook"]) == 1
    assert "error: Invalid value for '--webhook': " in capsys.readouterr().err
    assert run(["alerts", "--no-webhook"]) == 0
    assert "posted nowhere" in capsys.readouterr().err


def test_the_appliance_says_it_on_its_log_and_in_its_metrics(live: tuple[Path, Live]) -> None:
    with urllib.request.urlopen(f"{live[1].url}/metrics") as reply:
        text = reply.read().decode()
    labels = 'project="default",model="m",version="v1",shadow="false"'
    assert f"mdslite_drift_firing{{{labels}}} 1" in text
    assert f'mdslite_drift_signal_firing{{{labels},signal="input.age"}} 1' in text
    _, err = live[1].stop()
    assert f"drift of input.age in default/m v1 firing: {TEXT}" in err


def test_without_a_log_the_webhook_is_shown_and_that_nothing_is_raised(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = "no request log is kept (mdslite up --no-log), so "
    write_wishes(tmp_path / ".mdslite" / "drift", Wishes(webhook="http://8.8.8.8/hook"))
    models.mlp(tmp_path / "m.onnx")
    with up("m.onnx", "--no-log", cwd=tmp_path) as started:
        monkeypatch.setenv("MDSLITE_URL", started.url)
        assert run(["alerts"]) == 0
        raised = f"{none}no alerts are raised\n"
        told = f"no alerts\nalerts are posted to http://8.8.8.8/hook\n{raised}"
        assert capsys.readouterr() == ("", told)
        assert run(["alerts", "--webhook", "http://8.8.8.8/other"]) == 0
        assert capsys.readouterr().err.endswith(raised)
        assert run(["drift", "default/m"]) == 0
        assert capsys.readouterr() == ("", f"{none}nothing is watched for drift\n")
        assert run(["logs"]) == 0
        assert capsys.readouterr().err.startswith(f"{none}requests are not added to what there is\n")
