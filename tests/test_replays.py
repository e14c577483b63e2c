"""Replays: which logged requests are sent to a version once more, at what pace, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from box import Caller
from labelled import LABELS, PREDICT, held_out, logged, open_digits, send
from waiting import answered

from mdslite.serving.samples import Samples
from mdslite.store.rows import Keeping

REPLAYS = "/api/v1/replays"
BOTH = ("v1, uri: v1.onnx", "v2, uri: v2.onnx, weight: 0")
ENDED = {"done", "cancelled", "failed", "interrupted"}


async def begin(caller: Caller, filter: str = "", **more: Any) -> Any:
    body = {"filter": filter, "project": "demo", "model": "digits", "version": "v2", "rate": "1000/s", **more}
    reply = await caller.post(REPLAYS, body)
    assert reply.status == 200, reply.json
    return reply.json


async def ended(caller: Caller, number: int) -> Any:
    """A replay once it is over."""

    async def ask() -> Any:
        found = (await caller.get(f"{REPLAYS}/{number}")).json
        return found if found["state"] in ENDED else None

    return await answered(ask)


# What is sent


def test_logged_requests_are_sent_to_another_version_and_logged_as_nobody_s_traffic(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            await send(caller, rows[:12])
            await caller.post(PREDICT, {"instances": rows[:3]})
            await caller.post(PREDICT, {"instances": [["no digit"]]})
            await logged(box, "shadow=false", 14)
            made = await begin(caller, "status=200", author="ann")
            assert (made["author"], made["state"], made["comparison"]) == ("ann", "counting", None)
            done = await ended(caller, made["id"])
            assert done["state"] == "done", done
            counts = {name: done[name] for name in ("matched", "with_body", "total", "sent", "answered")}
            assert set(counts.values()) == {13}
            assert (done["failed"], done["refused"], done["truncated"], done["unreadable"]) == (0, 0, 0, 0)
            again = await logged(box, f"client=replay:{made['id']}", 13)
            assert {row.version for row in again} == {"v2"} and all(row.shadow for row in again)
            assert {row.request_id for row in again} >= {f"r{number}" for number in range(12)}
            assert {row.url for row in again} == {PREDICT.replace(":predict", "/versions/v2:predict")}
            assert all(row.request is None for row in again)
            assert sorted(row.rows for row in again) == [1] * 12 + [3]
            assert box.metrics.recent("demo", "digits", "v2").requests_total == 0
            assert box.metrics.recent("demo", "digits", "v1").requests_total == 14
            log = box.request_log
            told = log.evidence("demo", "digits", since=box.started_at - 1, until=box.started_at + 3600)
            assert [(one.version, one.requests) for one in told] == [("v1", 13)]
            assert (await caller.get(REPLAYS)).json == [done]
            acts = (await caller.get("/api/v1/audit")).json
            assert acts[0]["what"] == "begin_replay" and "to demo/digits v2: status=200" in acts[0]["remark"]
            twice = await ended(caller, (await begin(caller, "shadow"))["id"])
            assert twice["matched"] == 0  # a replay's own rows are not replayed

    asyncio.run(test())


def test_what_cannot_be_sent_again_is_counted(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            served = box.fleet.find("demo", "digits", "v1")
            assert served is not None
            await send(caller, rows[:3])
            await caller.post(PREDICT, {"instances": rows[:60]})  # beyond what is kept of a body
            await caller.post(PREDICT, b"\x00\x01", **{"content-type": "application/octet-stream"})
            served.samples = Samples(good=0, failed=0)
            await send(caller, rows[:2], prefix="unkept")
            await logged(box, "shadow=false", 7)
            done = await ended(caller, (await begin(caller, "since=1h", limit=2))["id"])
            assert (done["total"], done["sent"]) == (2, 2)
            done = await ended(caller, (await begin(caller))["id"])
            names = ("matched", "with_body", "truncated", "unreadable", "total", "sent")
            assert [done[name] for name in names] == [7, 5, 1, 1, 3, 3]
            assert not done["limited"]
            done = await ended(caller, (await begin(caller, limit=3))["id"])
            assert (done["matched"], done["total"], done["limited"]) == (7, 3, True)

    asyncio.run(test())


def test_a_request_of_which_the_reply_alone_was_kept_is_left_out(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            await send(caller, rows[:1])
            (good,) = await logged(box, "shadow=false", 1)
            row = (
                *(good.time, "bodiless", "demo", "digits", "v1", False, PREDICT, 503, "UNAVAILABLE"),
                *(1.0, None, None, None, 0, 0, None, "local/0"),
                *(None, b'{"error": "later"}', None, None, None),
            )
            box.journal.append(row, Keeping(asked=True))
            await send(caller, rows[1:2])
            await logged(box, 'shadow=false text~""', 3)
            done = await ended(caller, (await begin(caller))["id"])
            names = ("state", "matched", "with_body", "truncated", "unreadable", "total", "sent")
            assert [done[name] for name in names] == ["done", 3, 2, 0, 0, 2, 2], done

    asyncio.run(test())


def test_arrays_and_the_open_inference_protocol_s_json_are_sent_as_they_came(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            served = box.fleet.find("demo", "digits", "v2")
            assert served is not None and served.signature is not None
            file = tmp_path / "rows.npy"
            np.save(file, np.array(rows[:2], np.float32))
            await caller.post(PREDICT, file.read_bytes(), **{"content-type": "application/x-npy"})
            name = served.signature.inputs[0].name
            tensor = {"name": name, "datatype": "FP32", "shape": [1, 64], "data": rows[0]}
            reply = await caller.post("/v2/models/demo.digits/infer", {"inputs": [tensor]})
            assert reply.status == 200, reply.json
            await logged(box, "shadow=false", 2)
            done = await ended(caller, (await begin(caller, compare=True))["id"])
            assert (done["sent"], done["answered"], done["unreadable"]) == (2, 2, 0)
            assert done["comparison"]["agreement"]["compared"] == 2
            again = await logged(box, "client~replay", 2)
            assert {row.url.partition("?")[0] for row in again} == {
                "/projects/demo/models/digits/versions/v2:predict",
                "/v2/models/demo.digits/versions/v2/infer",
            }

    asyncio.run(test())


# What is said


def test_answers_are_put_beside_those_of_before_as_a_shadow_s_are(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        shadowed = ("v1, uri: v1.onnx", "v2, uri: v2.onnx, shadow: true")
        async with open_digits(tmp_path / "store", *shadowed) as (box, caller):
            await send(caller, rows[:80])
            await logged(box, "shadow=false", 80)
            await logged(box, "shadow", 80)
            url = "/api/v1/projects/demo/models/digits/comparison?first=v1&second=v2&limit=200"
            live = (await caller.get(url)).json
            done = await ended(caller, (await begin(caller, compare=True))["id"])
            assert done["answered"] == 80, done
            told = done["comparison"]
            mine, theirs = told["agreement"], live["agreement"]
            assert (mine["pairs"], mine["compared"], mine["agreed"]) == (80, 80, theirs["agreed"])
            assert mine["rate"] == theirs["rate"]
            assert mine["confidence"]["value"] == pytest.approx(theirs["confidence"]["value"], abs=1e-6)
            assert told["first"]["version"] == "v1" and told["second"]["shadow"] is True
            assert (told["first"]["requests"], told["second"]["requests"]) == (80, 80)
            ids = {one["request_id"] for one in told["disagreements"]}
            assert ids == {one["request_id"] for one in live["disagreements"]}
            assert len(told["verdict"]) == 4
            assert any(line.startswith("compute: ") for line in told["verdict"])
            # The replay has changed nothing of what the versions' own comparison says.
            assert (await caller.get(url)).json["second"]["requests"] == 80

    asyncio.run(test())


def test_a_labelled_request_gets_the_new_version_s_answer_too(tmp_path: Path) -> None:
    rows, truth = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            await send(caller, rows[:5])
            for row in await logged(box, "shadow=false", 5):
                label = str(truth[int(row.request_id[1:])])
                assert (await caller.ask("PUT", f"{LABELS}/{row.id}", {"label": label})).status == 200
            await ended(caller, (await begin(caller))["id"])
            scores = (await caller.get(f"{LABELS}/accuracy?project=demo&model=digits")).json["versions"]
            assert [(one["version"], one["picked"]["labelled"]) for one in scores] == [("v1", 5), ("v2", 5)]

    asyncio.run(test())


def test_a_version_that_takes_other_inputs_fails_each_request_and_says_why(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        models.mlp(tmp_path / "small.onnx")
        other = f"v2, uri: {tmp_path / 'small.onnx'}, weight: 0"
        async with open_digits(tmp_path / "store", "v1, uri: v1.onnx", other) as (box, caller):
            await send(caller, rows[:3])
            await logged(box, "shadow=false", 3)
            done = await ended(caller, (await begin(caller, compare=True))["id"])
            assert (done["state"], done["sent"], done["failed"], done["answered"]) == ("done", 3, 3, 0)
            assert done["message"].startswith("the first that failed: ")
            assert done["comparison"]["agreement"]["compared"] == 0

    asyncio.run(test())


# In nobody's way


def test_live_requests_to_the_same_version_are_answered_in_batches_of_their_own(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", "v1, uri: v1.onnx") as (box, caller):
            await send(caller, rows[:100])
            await logged(box, "shadow=false", 100)
            made = await begin(caller, version="v1")
            live = 0
            while live < 300:
                await send(caller, [rows[live % 100]], prefix=f"live{live}-")
                live += 1
            done = await ended(caller, made["id"])
            assert (done["answered"], done["failed"], done["refused"]) == (100, 0, 0), done
            own = await logged(box, "request_id~live", live)
            assert live > 0 and {(row.status, row.rows, row.batch_rows) for row in own} == {(200, 1, 1)}
            served = box.fleet.all()[0]
            assert served.lane.stats.refused == 0 and served.lane.stats.expired == 0

    asyncio.run(test())


def test_poison_and_a_full_queue_fail_the_replay_and_nobody_else(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        models.sixth(tmp_path / "sixth.onnx")  # fails on rows of less than six values
        version = f"v1, uri: {tmp_path / 'sixth.onnx'}"
        async with open_digits(tmp_path / "store", version) as (box, caller):
            for number in range(20):
                row = rows[number] if number % 2 else rows[number][:3]
                await caller.post(PREDICT, {"instances": [row]})
            await logged(box, "shadow=false", 20)
            made = await begin(caller, version="v1", compare=True)
            live = 0
            while live < 300:
                await send(caller, [rows[live % 100]], prefix=f"live{live}-")
                live += 1
            done = await ended(caller, made["id"])
            assert (done["answered"], done["failed"], done["refused"]) == (10, 10, 0), done
            told = done["comparison"]
            assert (told["first"]["errors"], told["second"]["errors"]) == (10, 10)
            assert told["agreement"]["compared"] == told["agreement"]["agreed"] == 10

    asyncio.run(test())


# How it ends


def test_a_replay_can_be_cancelled_and_one_of_the_past_is_interrupted(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            await send(caller, rows[:3])
            await logged(box, "shadow=false", 3)
            slow = await begin(caller, rate="0.001/s")

            async def begun() -> bool:
                return bool((await caller.get(f"{REPLAYS}/{slow['id']}")).json["sent"])

            await answered(begun)
            gone = await caller.ask("DELETE", f"{REPLAYS}/{slow['id']}")
            assert (gone.json["state"], gone.json["sent"], gone.json["total"]) == ("cancelled", 1, 3)
            assert gone.json["message"] == ""
            assert (await caller.ask("DELETE", f"{REPLAYS}/{slow['id']}")).json == gone.json
            left = await begin(caller, rate="0.001/s")
            others = [await begin(caller, rate="0.001/s") for _ in range(3)]
            body = {"filter": "", "project": "demo", "model": "digits", "version": "v2"}
            assert (await caller.post(REPLAYS, body)).status == 429
            assert len(others) == 3
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            found = (await caller.get(f"{REPLAYS}/{left['id']}")).json
            assert (found["state"], found["message"]) == ("interrupted", "the appliance stopped")

    asyncio.run(test())


def test_a_replay_that_nobody_could_end_is_written_down_as_interrupted(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            done = await ended(caller, (await begin(caller))["id"])
            assert (done["state"], done["matched"], done["sent"]) == ("done", 0, 0)
            await caller.ask("DELETE", f"{REPLAYS}/{done['id']}")  # returns when all is written down
            save = box.replays._store.save
            data = json.dumps({**done, "state": "running", "ended_at": None}).encode()
            await box.worker.call(save, done["id"], data, live=True)
        async with open_digits(tmp_path / "store", *BOTH) as (_, caller):
            found = (await caller.get(f"{REPLAYS}/{done['id']}")).json
            assert found["state"] == "interrupted" and found["ended_at"] is not None

    asyncio.run(test())


def test_what_makes_no_sense_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (_, caller):
            body = {"filter": "", "project": "demo", "model": "digits", "version": "v2"}
            for wrong, status in (
                ({"version": "v9"}, 404),
                ({"filter": "nonsense"}, 400),
                ({"rate": "fast"}, 400),
                ({"rate": "5000/s"}, 400),
                ({"limit": 0}, 400),
            ):
                assert (await caller.post(REPLAYS, body | wrong)).status == status, wrong
            assert (await caller.get(f"{REPLAYS}/77")).status == 404
            assert (await caller.get(REPLAYS)).json == []

    asyncio.run(test())


def test_a_token_for_a_model_replays_that_one_s_requests_alone(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", *BOTH) as (box, caller):
            await send(caller, rows[:2])
            await logged(box, "shadow=false", 2)
            made = (await caller.post("/api/v1/tokens", {"scopes": ["admin"], "project": "mail"})).json
            other = {"authorization": f"Bearer {made['token']}"}
            body = {"filter": "", "project": "demo", "model": "digits", "version": "v2"}
            assert (await caller.ask("POST", REPLAYS, body, headers=other)).status == 403
            owner = {"authorization": box.issuer.access.vouch("the owner").decode()}
            begun = (await caller.ask("POST", REPLAYS, {**body, "rate": "1000/s"}, headers=owner)).json
            for method in ("GET", "DELETE"):
                assert (await caller.ask(method, f"{REPLAYS}/{begun['id']}", headers=other)).status == 404
            assert (await caller.ask("GET", REPLAYS, headers=other)).json == []
            assert (await caller.ask("GET", f"{REPLAYS}/{begun['id']}", headers=owner)).status == 200

    asyncio.run(test())
