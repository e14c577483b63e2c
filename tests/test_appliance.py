"""The whole program in a process of its own: what must hold while it is used, changed, stopped and killed."""

from __future__ import annotations

import http.client
import json
import re
import signal
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import live
import models
import odd_models
import pytest
from load import Load
from packages import class_text, write_package
from waiting import hold_on

from mdslite.appliance import _stop_line
from mdslite.client import Client
from mdslite.errors import LoadFailed, MdsliteError
from mdslite.hosts import SOCKET_NAME

PATH = "/projects/p/models/m:predict"
BODY = json.dumps({"instances": [[1, 2, 3, 4]]}).encode()


def spec_of(**versions: tuple[Path, int]) -> str:
    entries = [
        {"version": name, "weight": weight, "spec": {"uri": str(path)}}
        for name, (path, weight) in versions.items()
    ]
    return json.dumps({"deployments": [{"project": "p", "model": "m", "versions": entries}]})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.mlp(tmp_path / "one.onnx", seed=1)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return models.mlp(tmp_path / "two.onnx", seed=2)


def write_spec(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "deployments.json"
    path.write_text(text)
    return path


def apply(url: str, text: str, tmp_path: Path) -> dict[str, Any]:
    """Apply a spec as the command line does; the last event of the stream."""
    with Client(url) as client:
        *_, last = client.apply({"source": text, "file": "test.json", "base": str(tmp_path)})
    return last


def get(url: str, path: str) -> tuple[int, dict[str, Any]]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.request("GET", path)
    reply = connection.getresponse()
    found = reply.status, json.loads(reply.read())
    connection.close()
    return found


def test_the_split_is_exact_from_outside(tmp_path: Path, model: Path, other: Path) -> None:
    spec = write_spec(tmp_path, spec_of(v1=(model, 80), v2=(other, 20)))
    with live.up(str(spec), cwd=tmp_path) as box:
        parts = urlsplit(box.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        seen = []
        for _ in range(200):
            connection.request("POST", PATH, BODY, {"content-type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            seen.append(reply.headers["mdslite-version"])
        connection.close()
        assert seen[:100].count("v1") == seen[100:].count("v1") == 80


@pytest.mark.parametrize(
    ("keep", "number"),
    [(True, signal.SIGTERM), (False, signal.SIGTERM), (True, signal.SIGINT), (True, signal.SIGHUP)],
)
def test_a_stop_under_load_loses_no_request(
    tmp_path: Path, model: Path, keep: bool, number: signal.Signals
) -> None:
    spec = write_spec(tmp_path, spec_of(v1=(model, 100)))
    with live.up(str(spec), "--drain-grace", "0.3", cwd=tmp_path) as box:
        with Load(box.url, PATH, BODY, clients=32 if keep else 8, keep=keep) as load:
            load.wait_for_more(200)
            box.process.send_signal(number)
            load.join()
        assert load.lost == []
        assert set(load.statuses) == {200}
        assert box.process.wait(20) == 0


def test_the_end_of_a_terminal_stops_it_unless_nohup_was_asked_to_keep_it(tmp_path: Path) -> None:
    with live.up("--drain-grace", "30", cwd=tmp_path) as box:
        for _ in range(3):
            box.process.send_signal(signal.SIGHUP)
        hold_on(lambda: get(box.url, "/readyz")[0] == 503)
        assert get(box.url, "/healthz")[0] == 200
        assert box.stop()[0] == -signal.SIGTERM
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with live.up(cwd=tmp_path) as box:
            box.process.send_signal(signal.SIGHUP)
            assert get(box.url, "/readyz")[0] == 200
            assert box.stop()[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_loads_says_so_and_a_second_one_waits_for_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    methods = """
        def __init__(self):
            import time
            time.sleep(600)

        @mds.predict
        def answer(self, data):
            return data
    """
    package = write_package(tmp_path / "slow", {"model.py": class_text(methods, name="Slow")})
    with live.begin(str(package), cwd=tmp_path) as process:
        hold_on((tmp_path / ".mdslite" / SOCKET_NAME).exists)
        process.send_signal(number)
        assert process.stderr is not None
        assert next(line for line in process.stderr if line.startswith("stopping: what is being loaded"))
        process.send_signal(number)
        assert process.wait(20) == -number


def test_while_it_drains_it_is_not_ready_but_still_answers(tmp_path: Path, model: Path) -> None:
    spec = write_spec(tmp_path, spec_of(v1=(model, 100)))
    with live.up(str(spec), "--drain-grace", "2", cwd=tmp_path) as box:
        assert get(box.url, "/readyz")[0] == 200
        box.process.send_signal(signal.SIGTERM)
        hold_on(lambda: get(box.url, "/readyz")[0] == 503)
        assert get(box.url, "/readyz")[1]["draining"] is True
        assert get(box.url, "/healthz")[0] == 200


def test_weight_changes_and_version_swaps_under_load_lose_no_request(
    tmp_path: Path, model: Path, other: Path
) -> None:
    spec = write_spec(tmp_path, spec_of(v1=(model, 80), v2=(other, 20)))
    with live.up(str(spec), cwd=tmp_path) as box, Load(box.url, PATH, BODY) as load:
        load.wait_for_more()
        for weight in (10, 50, 90):
            assert (
                apply(box.url, spec_of(v1=(model, weight), v2=(other, 100 - weight)), tmp_path)["state"]
                == "applied"
            )
            load.wait_for_more()
        for first, second in ((other, model), (model, other)):  # the bytes of both versions change places
            assert apply(box.url, spec_of(v1=(first, 50), v2=(second, 50)), tmp_path)["state"] == "applied"
            load.wait_for_more()
        assert apply(box.url, spec_of(v3=(model, 100)), tmp_path)["state"] == "applied"
        load.wait_for_more()
        load.stop()
        assert load.lost == []
        assert set(load.statuses) == {200}
        assert set(load.versions) == {"v1", "v2", "v3"}


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(tmp_path: Path, model: Path) -> None:
    spec = write_spec(tmp_path, spec_of(v1=(model, 100)))
    broken = odd_models.truncated(tmp_path / "broken.onnx")
    with live.up(str(spec), cwd=tmp_path) as box, Load(box.url, PATH, BODY, clients=2) as load:
        with Client(box.url) as client:
            *_, last = client.apply(
                {"source": spec_of(v1=(broken, 100)), "file": "test.json", "base": str(tmp_path)}
            )
            assert last["state"] == "failed"
            assert last["code"] == LoadFailed.code
            newest = client.revisions(limit=1)[0]
        assert newest["state"] == "failed"
        assert newest["error"]
        load.wait_for_more()
        load.stop()
        assert set(load.statuses) == {200}


def test_a_start_with_a_file_that_cannot_be_applied_says_how_to_serve_what_was(
    tmp_path: Path, model: Path
) -> None:
    with live.up(str(write_spec(tmp_path, spec_of(v1=(model, 100)))), cwd=tmp_path):
        pass
    broken = write_spec(tmp_path, spec_of(v1=(odd_models.truncated(tmp_path / "broken.onnx"), 100)))
    with (
        pytest.raises(AssertionError, match="is an ONNX model that was cut off") as caught,
        live.up(str(broken), cwd=tmp_path),
    ):
        pass
    assert "stopping" not in str(caught.value)  # it never served
    hint = next(line for line in str(caught.value).splitlines() if line.startswith("hint: "))
    assert hint.endswith("serves what was deployed before")
    command = hint.partition("; or: ")[2].partition(" serves ")[0].split()
    with live.up(*command[2:], cwd=tmp_path) as box:
        assert box.lines
        with Client(box.url) as client:
            (deployed,) = client.models()
    assert [one["state"] for one in deployed["versions"]] == ["ready"]


def test_a_killed_appliance_comes_back_as_it_was(tmp_path: Path, model: Path, other: Path) -> None:
    spec = write_spec(tmp_path, spec_of(v1=(model, 80), v2=(other, 20)))
    with live.up(str(spec), cwd=tmp_path) as box:
        apply(box.url, spec_of(v1=(model, 30), v2=(other, 70)), tmp_path)
        with Load(box.url, PATH, BODY, clients=2) as load:
            load.wait_for_more(20)
        assert get(box.url, "/healthz")[0] == 200  # the loop has turned since the last answer
        box.process.send_signal(signal.SIGKILL)
        box.process.wait(20)
    with live.up(cwd=tmp_path) as box, Client(box.url) as client:
        (deployed,) = client.models()
        assert {one["version"]: one["weight"] for one in deployed["versions"]} == {"v1": 30, "v2": 70}
        assert all(one["state"] == "ready" for one in deployed["versions"])
        hold_on(lambda: len(client.logs(limit=1000)["rows"]) == load.answered)
        assert [one["id"] for one in client.revisions()] == [2, 1]


def test_the_log_loses_no_request(tmp_path: Path, model: Path) -> None:
    spec = write_spec(tmp_path, spec_of(v1=(model, 100)))
    with live.up(str(spec), cwd=tmp_path) as box:
        with Load(box.url, PATH, BODY, clients=8) as load:
            load.wait_for_more(3000)
        assert box.stop()[0] == 0
    (hour,) = (tmp_path / ".mdslite" / "log").glob("*.db")
    with sqlite3.connect(f"file:{hour}?mode=ro", uri=True) as database:
        (count,) = database.execute("select count(*) from requests").fetchone()
        (sure,) = database.execute("select count(*) from requests where confidence > 0.3").fetchone()
    database.close()
    assert count == sure == load.answered


def test_a_second_appliance_on_the_store_names_the_first(tmp_path: Path, model: Path) -> None:
    with live.up(str(model), cwd=tmp_path) as box:
        with pytest.raises(AssertionError, match=str(box.process.pid)), live.up(cwd=tmp_path):
            pass
        assert get(box.url, "/readyz")[0] == 200


def test_a_model_file_needs_no_yaml_and_is_applied_again_when_it_changed(tmp_path: Path) -> None:
    path = models.mlp(tmp_path / "my model.onnx", seed=1)
    digests = []
    for seed in (1, 1, 2):
        if seed == 2:
            models.mlp(path, seed=2)
        with live.up(str(path), cwd=tmp_path) as box, Client(box.url) as client:
            (deployed,) = client.models()
            assert (deployed["project"], deployed["model"]) == ("default", "my_model")
            digests.append(deployed["versions"][0]["digest"])
            revisions = len(client.revisions())
    assert digests[0] == digests[1] != digests[2]
    assert revisions == 2


def test_a_start_says_how_what_is_served_differs_from_its_file(tmp_path: Path, model: Path) -> None:
    spec = write_spec(tmp_path, spec_of(v1=(model, 100)))
    with live.up(spec.name, cwd=tmp_path):
        pass
    models.mlp(model, seed=2)
    with live.up(spec.name, cwd=tmp_path) as box:
        assert box.process.stderr is not None
        line = next(line for line in box.process.stderr if line.startswith("! "))
        assert line == (
            "! what is served differs from deployments.json (p/m v1 has other bytes); "
            f"to apply it: mdslite apply --url {box.url} -f deployments.json\n"
        )


def test_a_start_on_a_full_disk_says_so_and_what_to_do(tmp_path: Path, model: Path, small_disk: Path) -> None:
    def fail(*args: str) -> tuple[str, str]:
        with pytest.raises(AssertionError) as caught, live.up(*args, "--store", str(store), cwd=tmp_path):
            pass
        told = str(caught.value).splitlines()
        assert "Traceback" not in told
        return told[-2], told[-1]

    store = small_disk / "store"
    error, hint = fail(model.name)
    assert " do not fit on the store's disk: " in error
    assert error.endswith(" MB are free there, and 67.1 MB are kept for the registry and the request log")
    way = f"hint: free some space on the disk of {store}, or move it to a larger one; then start again"
    assert hint == way
    with (
        (small_disk / "ballast").open("wb", buffering=0) as ballast,
        pytest.raises(OSError, match="No space"),
    ):
        while True:
            ballast.write(bytes(4096))
    error, hint = fail()
    assert re.fullmatch(r"error: \w+\.db could not be written: its disk is full \(.* free\)", error)
    assert hint == way


def test_a_crashing_model_is_refused_and_the_appliance_lives(tmp_path: Path, model: Path) -> None:
    crashing = odd_models.crashing(tmp_path / "crashing.onnx")
    spec = write_spec(tmp_path, spec_of(v1=(model, 100)))
    with live.up(str(spec), cwd=tmp_path) as box:
        assert apply(box.url, spec_of(v1=(model, 50), v2=(crashing, 50)), tmp_path)["code"] == LoadFailed.code
        with Client(box.url) as client:
            assert client.predict("p", "m", BODY).version == "v1"


def test_an_endless_model_is_ended_at_its_time_and_harms_no_neighbour(tmp_path: Path, model: Path) -> None:
    endless = models.loop(tmp_path / "loop.onnx")
    text = json.dumps(
        {
            "deployments": [
                json.loads(spec_of(v1=(model, 100)))["deployments"][0],
                {
                    "project": "p",
                    "model": "slow",
                    "versions": [
                        {"version": "v1", "spec": {"uri": str(endless), "batch": {"prediction_time_ms": 200}}}
                    ],
                },
            ]
        }
    )
    three = json.dumps({"inputs": {"turns": [[3]]}}).encode()
    with live.up(str(write_spec(tmp_path, text)), cwd=tmp_path) as box, Client(box.url) as client:
        forever = json.dumps({"inputs": {"turns": [[-1]]}}).encode()
        with Load(box.url, PATH, BODY, clients=2) as load:
            load.wait_for_more(10)
            with pytest.raises(MdsliteError) as caught:
                client.predict("p", "slow", forever)
            assert caught.value.code == "deadline_exceeded"
            load.wait_for_more(10)
        assert set(load.statuses) == {200}
        assert json.loads(client.predict("p", "slow", three).body) == {"outputs": {"done": [[3]]}}


@pytest.mark.parametrize(
    ("open_calls", "grace_s", "line"),
    [
        (0, 0.0, "stopping: no request is under way; "),
        (1, 0.0, "stopping: 1 request is under way; "),
        (1200, 2.5, "stopping: requests are taken for 2.5 s more, 1,200 requests are under way; "),
    ],
)
def test_a_stop_says_what_goes_on_and_how_to_end_it(open_calls: int, grace_s: float, line: str) -> None:
    assert _stop_line(open_calls, grace_s) == f"{line}a second Ctrl-C or SIGTERM stops at once"
