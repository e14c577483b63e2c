"""Labels: which requests are put before people, and what becomes of what they say."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any

from box import Caller
from labelled import LABELS, PREDICT, QUEUE, RULES, held_out, logged, open_digits, send, set_rules

from mdslite.logrules import Log, Some
from mdslite.serving.lots import is_drawn
from mdslite.serving.samples import Samples


def test_rules_choose_from_the_log_what_waits_for_a_label(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store") as (box, caller):
            assert (await caller.get(RULES)).json["share"] == 0.01
            await set_rules(caller, below_confidence=0.7, disagreements=True, share=0.0)
            await send(caller, rows[:120])
            first = await logged(box, "shadow=false", 120)
            await logged(box, "shadow", 120)
            found = (await caller.get(f"{QUEUE}&limit=200")).json
            unsure = {row.request_id for row in first if row.confidence < 0.7}
            by_reason: dict[str, set[str]] = {"confidence": set(), "disagreement": set()}
            for one in found["items"]:
                by_reason[one["reason"]].add(one["request_id"])
            assert unsure and unsure == by_reason["confidence"] | (unsure & by_reason["disagreement"])
            assert by_reason["disagreement"]
            for one in found["items"]:
                assert [answer["version"] for answer in one["answers"]] == ["v1", "v2"]
                assert one["other"]["shadow"] is True and one["answer"] == one["answers"][0]["answer"]
                if one["reason"] == "disagreement":
                    assert one["answer"] != one["other"]["answer"]
                assert one["input"] == rows[int(one["request_id"][1:])]
            assert found["classes"] == [str(digit) for digit in range(10)]
            assert found["waiting"] == len(found["items"])
            await box.labeling.look()
            assert (await caller.get(QUEUE)).json["waiting"] == found["waiting"]

    asyncio.run(test())


def test_of_a_random_share_all_count_as_random(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store") as (box, caller):
            await set_rules(caller, below_confidence=1.0, disagreements=True, share=0.5)
            await send(caller, rows[:60])
            await logged(box, "shadow=false", 60)
            await logged(box, "shadow", 60)
            found = (await caller.get(f"{QUEUE}&limit=200")).json
            reasons = {one["request_id"]: one["reason"] for one in found["items"]}
            assert len(reasons) == 60
            for request_id, reason in reasons.items():
                assert (reason == "random") == is_drawn(request_id, 0.5)
            only = (await caller.get(f"{QUEUE}&rule=random&limit=3")).json
            assert {one["reason"] for one in only["items"]} == {"random"}
            more = (await caller.get(f"{QUEUE}&rule=random&limit=3&before={only['next']}")).json
            assert not {one["id"] for one in more["items"]} & {one["id"] for one in only["items"]}

    asyncio.run(test())


def test_where_the_log_keeps_the_unsure_and_a_share_that_share_alone_is_random(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store", "v1, uri: v1.onnx") as (box, caller):
            await set_rules(caller, below_confidence=1.0, share=0.9)
            served = box.fleet.all()[0]
            served.samples = Samples(Log(bodies=Some(share=0.4, below_confidence=0.999)))
            await send(caller, rows[:80])
            await logged(box, "shadow=false", 80)
            items = (await caller.get(f"{QUEUE}&limit=200")).json["items"]
            random = {one["request_id"] for one in items if one["reason"] == "random"}
            assert random == {f"r{number}" for number in range(80) if is_drawn(f"r{number}", 0.4)}
            assert len(items) > len(random)

    asyncio.run(test())


async def label(caller: Caller, number: int, text: str, **more: str) -> Any:
    reply = await caller.ask("PUT", f"{LABELS}/{number}", {"label": text, **more})
    assert reply.status == 200, reply.json
    return reply.json


def test_models_that_are_not_there_have_no_labels_and_no_rules(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_digits(tmp_path / "store", "v1, uri: v1.onnx") as (_, caller):
            rules = "/api/v1/projects/demo/models/x/labeling"
            assert (await caller.get(rules)).status == 404
            assert (await caller.ask("PUT", rules, {"share": 0.5})).status == 404
            assert (await caller.get(rules)).status == 404
            assert (await caller.get(f"{LABELS}/accuracy?project=demo&model=x")).status == 404
            assert (await caller.get(f"{LABELS}/accuracy?project=demo&model=digits")).status == 200
            wrong = await caller.get("/api/v1/logs/export?format=xml")
            assert wrong.json["error"] == "format: expected one of csv, jsonl, parquet; got 'xml'"
            acted = await caller.post("/api/v1/projects/demo/models/digits/rollout/action", {"action": "zap"})
            assert "action: expected one of pause, resume, promote, abort; got 'zap'" in acted.json["error"]

    asyncio.run(test())


def test_a_label_takes_its_request_out_of_the_queue_and_an_undo_puts_it_back(tmp_path: Path) -> None:
    rows, truth = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store") as (box, caller):
            await set_rules(caller, share=1.0)
            await send(caller, rows[:8])
            await logged(box, "shadow=false", 8)
            await logged(box, "shadow", 8)
            items = (await caller.get(QUEUE)).json["items"]
            for one in items:
                await label(caller, one["id"], str(truth[int(one["request_id"][1:])]), author="ann")
            assert (await caller.get(QUEUE)).json["items"] == []
            told = (await caller.get(f"{LABELS}?project=demo&model=digits")).json["labels"]
            assert [one["id"] for one in told] == [one["id"] for one in items]
            assert {one["author"] for one in told} == {"ann"}
            first = items[0]["id"]
            assert (await label(caller, first, "5"))["label"] == "5"
            undone = (await caller.ask("DELETE", f"{LABELS}/{first}?author=bob")).json
            assert undone["label"] == str(truth[7]) and len(undone["history"]) == 2
            assert undone["history"][-1]["undone_by"] == "bob"
            named = await caller.ask("DELETE", f"{LABELS}/{first}?author=%1b")
            assert (named.status, named.json["field"]) == (400, "author")
            assert (await caller.ask("DELETE", f"{LABELS}/{first}")).json["label"] is None
            assert [one["id"] for one in (await caller.get(QUEUE)).json["items"]] == [first]
            assert (await caller.ask("DELETE", f"{LABELS}/{first}")).status == 404
            scores = (await caller.get(f"{LABELS}/accuracy?project=demo&model=digits")).json
            assert [one["version"] for one in scores["versions"]] == ["v1", "v2"]
            assert [one["random"]["labelled"] for one in scores["versions"]] == [7, 7]
            acts = (await caller.get("/api/v1/audit?limit=200")).json
            assert [one["what"] for one in acts][:3] == ["undo_label", "undo_label", "undo_label"]
            assert {"put_label", "put_labeling"} <= {one["what"] for one in acts}
            odd = await label(caller, first, "a\x1b[1m\nb", note="two\nlines")
            assert (odd["label"], odd["history"][-1]["note"]) == ("a\x1b[1m\nb", "two\nlines")
            refused = await caller.ask("PUT", f"{LABELS}/{first}", {"label": "5", "author": "ann\nbob"})
            assert (refused.status, refused.json["code"]) == (400, "invalid_request")

    asyncio.run(test())


def test_any_logged_request_of_one_row_can_be_labelled_a_shadow_s_for_its_primary_s(tmp_path: Path) -> None:
    rows, truth = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store") as (box, caller):
            await set_rules(caller, share=0.0)
            await send(caller, rows[:1])
            await caller.post(PREDICT, {"instances": rows[:3]})
            primary = (await logged(box, "shadow=false rows=1", 1))[0]
            shadow = (await logged(box, "shadow rows=1", 1))[0]
            many = (await logged(box, "shadow=false rows=3", 1))[0]
            made = await label(caller, shadow.id, str(truth[0]), note="by hand")
            assert (made["id"], made["reason"], made["note"]) == (primary.id, "chosen", "by hand")
            assert (await caller.get(f"{LABELS}/{shadow.id}")).json == made
            undone = await caller.ask("DELETE", f"{LABELS}/{shadow.id}")
            assert (undone.json["id"], undone.json["label"]) == (primary.id, None)
            assert (await caller.ask("DELETE", f"{LABELS}/{shadow.id}")).status == 404
            made = await label(caller, shadow.id, str(truth[0]), note="by hand")
            assert [one["version"] for one in made["answers"]] == ["v1", "v2"]
            assert (await caller.get(f"{LABELS}/{primary.id}")).json == made
            reply = await caller.ask("PUT", f"{LABELS}/{many.id}", {"label": "1"})
            assert (reply.status, "has 3 rows: expected one row" in reply.json["error"]) == (422, True)
            listed = shlex.split(reply.json["hint"].rpartition("mdslite logs ")[2])[
                0
            ]  # what it says to ask for
            assert [one.id for one in await logged(box, f"shadow=false {listed}", 1)] == [primary.id]
            assert (await caller.ask("PUT", f"{LABELS}/1", {"label": "1"})).status == 404
            assert (await caller.ask("PUT", f"{LABELS}/{many.id}", {"label": ""})).status == 400
            assert (await caller.get(f"{LABELS}/{many.id}")).status == 404

    asyncio.run(test())


def test_labels_outlive_the_log_and_the_process(tmp_path: Path) -> None:
    rows, truth = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store") as (box, caller):
            await set_rules(caller, share=1.0, classes=["0", "1"])
            await send(caller, rows[:3])
            await logged(box, "shadow=false", 3)
            items = (await caller.get(QUEUE)).json["items"]
            await label(caller, items[0]["id"], str(truth[2]))
        for file in (tmp_path / "store" / "log").iterdir():
            file.unlink()
        async with open_digits(tmp_path / "store") as (_, caller):
            assert (await caller.get(f"{LABELS}/{items[0]['id']}")).json["input"] == rows[2]
            queue = (await caller.get(QUEUE)).json
            assert [one["id"] for one in queue["items"]] == [one["id"] for one in items[1:]]
            assert queue["classes"] == ["0", "1"]
            await label(caller, items[1]["id"], "1")
            assert (await caller.ask("DELETE", "/api/v1/projects/demo/models/digits/labels")).json == {
                "labels": 2
            }
            assert (await caller.get(LABELS)).json["labels"] == []

    asyncio.run(test())


def test_a_token_for_a_model_sees_and_labels_that_one_alone(tmp_path: Path) -> None:
    rows, _ = held_out()

    async def test() -> None:
        async with open_digits(tmp_path / "store") as (box, caller):
            await set_rules(caller, share=1.0)
            await send(caller, rows[:1])
            await logged(box, "shadow=false", 1)
            found = (await caller.get(QUEUE)).json["items"][0]
            make = "/api/v1/tokens"
            ours = (await caller.post(make, {"scopes": ["admin"], "project": "demo", "model": "digits"})).json
            keys = {"authorization": f"Bearer {ours['token']}"}
            admin = await caller.ask("POST", make, {"scopes": ["admin"]}, headers=keys)
            assert admin.status == 403
            bearer = box.issuer.access.vouch("the owner").decode()

            async def token(**wish: Any) -> dict[str, str]:
                made = await caller.ask("POST", make, wish, headers={"authorization": bearer})
                return {"authorization": f"Bearer {made.json['token']}"}

            other = await token(scopes=["admin"], project="mail")
            reader = await token(scopes=["read"])
            one = f"{LABELS}/{found['id']}"
            assert (await caller.ask("GET", f"{LABELS}/queue", headers=other)).json["items"] == []
            assert (await caller.ask("GET", QUEUE, headers=other)).status == 403
            assert (await caller.ask("PUT", one, {"label": "1"}, headers=other)).status == 404
            assert (await caller.ask("PUT", one, {"label": "1"}, headers=reader)).status == 403
            assert len((await caller.ask("GET", QUEUE, headers=reader)).json["items"]) == 1
            made = await caller.ask("PUT", one, {"label": "1"}, headers=keys)
            assert made.status == 200 and made.json["author"] == f"the token {ours['name']}"
            again = await caller.ask("PUT", one, {"label": "2", "author": "ann@desk"}, headers=keys)
            assert again.json["author"] == f"ann@desk (the token {ours['name']})"
            assert (await caller.ask("GET", one, headers=other)).status == 404
            assert (await caller.ask("DELETE", one, headers=other)).status == 404

    asyncio.run(test())
