"""Which bodies the request log keeps: rules, bounds, and what is taken out of them first."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import models
import msgspec
import numpy as np
import pytest
from doors import Deployed, open_site, run
from h1_client import ROW, predict
from log_rows import HOUR_S, Clock, row, running, wanted
from waiting import until

from mdslite.api.comparing import _told as told
from mdslite.deployments import load
from mdslite.errors import SpecError
from mdslite.logrules import Log, Some
from mdslite.serving.samples import Samples
from mdslite.spec import Spec, to_plain
from mdslite.store.bodies import BodyBudget
from mdslite.store.redaction import REDACTED, Redactor
from mdslite.store.requests import Entry, RequestLog
from mdslite.store.rows import REDACTED_BYTES, SAMPLED, Keeping, Labels, pack_row, unpack

SECRET = "4111-1111"


def read(folder: Path, text: str = "") -> list[Entry]:
    return list(reversed(RequestLog(folder).query(wanted(text), limit=10_000).rows))


def on_disk(folder: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in folder.iterdir())


# Redaction


def redacted(body: Any, *names: str, is_error: bool = False) -> Any:
    found = Redactor(names).redact(json.dumps(body).encode(), is_error=is_error)
    return None if found is None else json.loads(found)


def test_named_fields_lose_their_values_wherever_they_stand() -> None:
    body = {"instances": [{"card": SECRET, "amount": 3}, {"who": {"Card": [1, {"card": 2}]}}]}
    assert redacted(body, "card") == {
        "instances": [{"card": REDACTED, "amount": 3}, {"who": {"Card": REDACTED}}]
    }


def test_a_name_with_dots_means_a_field_within_another() -> None:
    body = {"user": {"email": "a@b", "name": "c"}, "email": "d", "users": [{"user": [{"email": "e"}]}]}
    assert redacted(body, "user.email") == {
        "user": {"email": REDACTED, "name": "c"},
        "email": "d",
        "users": [{"user": [{"email": REDACTED}]}],
    }
    assert redacted({"user.email": 1, "email": 2}, "user.email") == {"user.email": REDACTED, "email": 2}


def test_inputs_are_redacted_by_their_names_in_every_json_form() -> None:
    assert redacted({"inputs": {"card": [[1]], "x": [[2]]}}, "card")["inputs"] == {
        "card": REDACTED,
        "x": [[2]],
    }
    tensors = [{"name": "card", "shape": [1], "datatype": "FP32", "data": [1.0]}, {"name": "x", "data": [2]}]
    first, second = redacted({"inputs": tensors}, "card")["inputs"]
    assert (first["data"], second["data"]) == (REDACTED, [2])


def test_an_errors_message_may_quote_what_came() -> None:
    reply = {"error": f"expected a number, got {SECRET!r}", "code": "invalid_request"}
    assert redacted(reply, "card", is_error=True) == {"error": REDACTED, "code": "invalid_request"}


@pytest.mark.parametrize(
    "body",
    [
        b"card=4111-1111", b"4111", b'"4111"', b"\x93NUMPY", b'{"card": 4111', b"[" * 200_000, b"",
        b'{"card": "\xff"}', b'{"inputs":[]}' + b"\0" * 8, b"[" + b" " * REDACTED_BYTES + b"1]",
    ],
)  # fmt: skip
def test_what_cannot_be_redacted_is_not_kept(body: bytes) -> None:
    assert Redactor(["card"]).redact(body) is None


def test_nothing_redacted_reaches_the_disk(tmp_path: Path) -> None:
    keeping = Keeping(max_bytes=40, redact=("card",))
    span = {"node": "a", "started_ms": 0.0, "error": SECRET}
    spans = json.dumps([{**span, "spans": [span]}])
    body = json.dumps({"instances": [{"card": SECRET, "text": "x" * 60}]}).encode()
    with running(tmp_path) as journal:
        journal.append(row(request=body, reply=b'{"predictions":[1]}'), keeping)
        journal.append(row(request=SECRET.encode(), reply=b'{"card":1}', spans=spans), keeping)
        journal.append(row(request=SECRET.encode()), keeping)
        assert journal.flush()
        assert not on_disk(tmp_path, SECRET)
        first, second, third = read(tmp_path)
        assert journal.statistics().bodies == 2
    whole = json.dumps({"instances": [{"card": REDACTED, "text": "x" * 60}]}, separators=(",", ":"))
    assert first.request is not None and second.reply is not None
    assert (first.request.content, first.request.size_bytes, first.request.truncated) == (
        whole[:40],
        len(whole),
        True,
    )
    assert (second.request, second.reply.content) == (None, f'{{"card":"{REDACTED}"}}')
    assert second.spans is not None
    assert second.spans[0].error == REDACTED
    assert third.request is None


# What there is room for


def candidates(
    *fields: dict[str, Any], keeping: Keeping = SAMPLED
) -> tuple[list[Any], list[Labels], np.ndarray]:
    rows = [unpack(pack_row(row(**one), keeping)) for one in fields]
    labels = [Labels(one[2], one[3], one[4], False, "local/0", one[7], None) for one in rows]  # type: ignore[index]
    return rows, labels, np.arange(len(rows))


def test_the_sample_never_outgrows_its_bound_and_is_spread_over_time() -> None:
    budget, used = BodyBudget(sample_bytes=1 << 20), 0
    by_hour = []
    for hour in range(96):
        before = used
        for minute in range(0, 60, 5):
            budget.grant(used, hour * HOUR_S + minute * 60)
            kept = budget.choose(*candidates(*[{"request": b"x" * 1000}] * 50))
            used += sum(body.size_bytes for body in kept)
        by_hour.append(used - before)
        assert used < 1 << 20
    assert used > 0.75 * (1 << 20)
    assert all(later <= earlier for earlier, later in zip(by_hour[2::24], by_hour[26::24], strict=False))
    assert budget.left_out > budget.kept > 0


def test_errors_may_use_more_of_the_sample_than_good_answers() -> None:
    budget = BodyBudget(sample_bytes=1 << 24)
    budget.grant(0, 0.0)
    good = budget.choose(*candidates(*[{"request": b"x" * 1000}] * 200))
    failed = budget.choose(*candidates(*[{"request": b"x" * 1000, "status": 500}] * 200))
    assert 0 < len(failed) < len(good) < 200


def test_a_busy_version_leaves_room_for_the_others() -> None:
    budget = BodyBudget(sample_bytes=1 << 21)
    budget.grant(0, 0.0)
    rows, labels, label = candidates(
        *[{"version": "busy", "request": b"x" * 1000}] * 100, {"version": "calm", "request": b"x" * 1000}
    )
    kept = Counter(labels[body.index].version for body in budget.choose(rows, labels, label))
    assert kept["calm"] == 1
    assert 0 < kept["busy"] < 100


def test_what_a_rule_asks_for_is_no_part_of_the_sample_but_may_not_fill_the_log_in_an_hour() -> None:
    asked = Keeping(asked=True)
    budget = BodyBudget(sample_bytes=0, hour_bytes=1 << 20)
    budget.grant(0, 0.0)
    kept = 0
    for minute in range(60):
        budget.grant(0, minute * 60.0)
        kept += len(budget.choose(*candidates(*[{"request": b"x" * 1000}] * 50, keeping=asked)))
    assert 0.99 * (1 << 20) < kept * 1024 < 1.2 * (1 << 20)


def test_the_sample_is_counted_over_restarts_and_given_back_by_retention(tmp_path: Path) -> None:
    clock = Clock()
    with running(tmp_path, clock, max_age_s=2 * HOUR_S) as journal:
        journal.append(row(request=b"x" * 1000))
        journal.append(row(request=b"x" * 1000), Keeping(asked=True))
        assert journal.flush()
        assert journal.statistics().sampled_bytes == 1024
    with running(tmp_path, clock, max_age_s=2 * HOUR_S) as journal:
        journal.append(row(request=b"y" * 500))
        assert journal.flush()
        assert journal.statistics().sampled_bytes == 1024 + 524
        for _ in range(4):
            clock.pass_by(HOUR_S)
            assert journal.flush()
        assert journal.statistics().sampled_bytes == 0
        assert journal.statistics().size_bytes == 0


def test_without_room_for_a_sample_rows_are_logged_without_bodies(tmp_path: Path) -> None:
    with running(tmp_path, sample_bytes=0) as journal:
        journal.append(row(request=b"x"))
        journal.append(row(request=b"y"), Keeping(asked=True, max_bytes=1))
        assert journal.flush()
        assert (journal.statistics().bodies, journal.statistics().bodiless) == (1, 1)
    assert [entry.request and entry.request.content for entry in read(tmp_path)] == [None, "y"]


# Rules


def taken(rule: Log, *, failed: bool = False, confidence: float | None = None, count: int = 1) -> int:
    samples = Samples(rule)
    return sum(samples.due(10.0, failed=failed, confidence=confidence) for _ in range(count))


def test_each_rule_takes_what_it_says() -> None:
    assert taken(Log("all"), count=1000) == taken(Log("all"), failed=True, count=1000) == 1000
    assert taken(Log("never"), count=1000) == taken(Log("never"), failed=True, count=1000) == 0
    assert (taken(Log("errors")), taken(Log("errors"), failed=True)) == (0, 1)
    unsure = Log(Some(below_confidence=0.6))
    assert [taken(unsure, confidence=one) for one in (0.59, 0.6, None)] == [1, 0, 0]
    assert taken(unsure, failed=True) == 0
    several = Log(Some(below_confidence=0.6, errors=True))
    assert (taken(several, failed=True), taken(several, confidence=0.1), taken(several)) == (1, 1, 0)
    assert 150 < taken(Log(Some(share=0.2)), count=1000) < 250


def test_without_a_rule_good_answers_are_taken_evenly_at_a_bounded_rate() -> None:
    samples = Samples(good=10)
    for number in range(5000):
        samples.due(10.0 + number / 1000, failed=False)
    places = [at for at in range(1000) if samples.due(15.0 + at / 1000, failed=False)]
    assert 4 <= len(places) <= 10
    assert places[-1] > 300  # not only the first ones of the second


def test_the_spec_says_the_rule(tmp_path: Path) -> None:
    text = """
deployments:
- project: p
  model: m
  versions:
  - version: v1
    spec:
      uri: ./m.onnx
      log: {bodies: {share: 0.01, errors: true}, max_bytes: 100, redact: [card, user.email]}
"""
    spec = load(text, file="d.yaml", base=tmp_path).deployments[0].versions[0].spec
    assert spec.log == Log(Some(share=0.01, errors=True), 100, ("card", "user.email"))
    assert Samples(spec.log).keeping[:3] == (100, ("card", "user.email"), True)
    assert to_plain(Spec(uri="a", log=Log("never"))) == {"uri": "a", "log": {"bodies": "never"}}
    for wrong, said in (
        ("{bodies: most}", "all, errors, never"),
        ("{bodies: {shares: 1}}", "share"),
        ("{bodies: {share: 2}}", "0 to 1"),
        ("{bodies: {below_confidence: 5}}", "of 1 or less"),
        ("{bodies: {below_confidence: 0}}", "above 0"),
        ("{bodies: {}}", "expected share, below_confidence or errors"),
        ("{max_bytes: 0}", "1"),
        ("{redact: [a..b]}", "single dots"),
        ("{redact: [.b]}", "single dots"),
        ("{redact: card}", "list"),
    ):
        with pytest.raises(SpecError) as caught:
            load(
                text.replace(text[text.index("{bodies") : text.rindex("\n")], wrong), file="d", base=tmp_path
            )
        assert caught.value.line == 9
        assert said in f"{caught.value.message} {caught.value.hint}"


def test_a_version_s_rule_is_followed_and_changes_without_a_reload(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx")
        async with open_site(tmp_path, Deployed(path)) as site:
            served = site.fleet.find("p", "m", "v1")
            assert served is not None
            lane = served.lane
            given = []
            site.predictor.books._append = lambda *args: given.append(args)
            for rule in (Log("all", 8), Log("errors", redact=("x",)), Log("never"), Log()):
                spec = msgspec.structs.replace(served.spec, log=rule)
                site.fleet.switch(respecced=[(served.key, spec)])
                assert served.lane is lane
                for asked in (predict(), predict(body=b"nonsense")):
                    await site.ask(asked)
            await until(lambda: len(given) == 8)
            assert [(bool(args[0][17]), *(keeping[:3] for keeping in args[1:])) for args in given] == [
                (True, (8, (), True)), (True, (8, (), True)),
                (False, (4096, ("x",), True)), (True, (4096, ("x",), True)),
                (False, (4096, (), True)), (False, (4096, (), True)),
                (True,), (True,),
            ]  # fmt: skip

    run(test())


def test_a_shadow_s_bodies_are_kept_where_its_primary_s_are(tmp_path: Path) -> None:
    async def test() -> None:
        path = models.identity(tmp_path / "m.onnx")
        async with open_site(tmp_path, Deployed(path), Deployed(path, version="v2", weight=0)) as site:
            primary, shadow = site.fleet.find("p", "m", "v1"), site.fleet.find("p", "m", "v2")
            assert primary is not None and shadow is not None
            info = msgspec.structs.replace(shadow.spec.service_info, shadow=True)
            spec = msgspec.structs.replace(shadow.spec, service_info=info)
            site.fleet.switch(respecced=[(shadow.key, spec)])
            primary.samples = Samples(good=1)
            shadow.samples = Samples(good=1000)
            for _ in range(3):
                await site.ask(predict())
            await until(lambda: len(site.rows) == 6)
            rows = site.logged
            assert [row["request_id"] for row in rows if row["shadow"] and row["request"]] == [
                row["request_id"] for row in rows if not row["shadow"] and row["request"]
            ]
            (kept,) = (row for row in rows if row["shadow"] and row["request"])
            assert json.loads(kept["reply"]) == {"predictions": [ROW]}

    run(test())


def test_disagreements_keep_no_more_than_the_log_may() -> None:
    body = json.dumps({"instances": [{"card": SECRET, "x": "y" * 100}]}).encode()
    assert told(body, [Log(), Log()]) == body
    assert told(body, [Log(), Log("never")]) == b""
    assert told(body, [Log(max_bytes=10), Log()]) == body[:10]
    kept = told(body, [Log(redact=("card",)), Log()])
    assert json.loads(kept) == {"instances": [{"card": REDACTED, "x": "y" * 100}]}
    assert told(SECRET.encode(), [Log(), Log(redact=("card",))]) == b""


def test_of_what_reached_no_version_no_request_body_is_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.identity(tmp_path / "m.onnx"))) as site:
            await site.ask(predict(target="/projects/p/models/m/versions/v9:predict"))
            await site.ask(predict(body=b"nonsense"))
            await until(lambda: len(site.rows) == 2)
            stray, wrong = site.logged
            assert (stray["status"], stray["request"]) == (404, None)
            assert b"v9" in stray["reply"]
            assert (wrong["status"], wrong["request"]) == (400, b"nonsense")

    run(test())
