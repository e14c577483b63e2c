"""Versions beside each other: when two answers agree, what is kept of the pairs, and what is said of them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import time
from typing import Any, get_args

import models
import numpy as np
import pytest
from box import Box, Caller, deployments, open_box
from waiting import answered, until

from mdslite.api.comparing import WAITING_MAX as PAIRS_MAX
from mdslite.api.comparison import Agreement, Differences, Dropped, Figure, Side, judge, make_comparison
from mdslite.api.schema import ModelPath
from mdslite.errors import LoadFailed
from mdslite.predict.allowance import Allowance
from mdslite.predict.shadows import WAITING_MAX, ShadowCall
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, Signature, TensorSpec
from mdslite.serving.agreement import check_output, make_agree
from mdslite.spec import Compare
from mdslite.store.comparisons import DISAGREEMENTS_MAX, ComparisonStore, Disagreement, DropReason, Pair, Sums

X = (TensorSpec("x", "FP32", (None, 2)),)
LABELS = Signature(
    X, (TensorSpec("probabilities", "FP32", (None, 2)), TensorSpec("label", "INT64", (None,))), "free"
)
SHARES = Signature(X, (TensorSpec("y", "FP32", (None, 2)),), "free")


def floats(*rows: list[float]) -> np.ndarray[Any, Any]:
    return np.array(rows, dtype=np.float32)


# When two answers agree


def test_labels_are_compared_before_anything_else() -> None:
    agree = make_agree(LABELS, LABELS, None)
    ones, twos = np.array([1]), np.array([2])
    assert agree([floats([0.4, 0.6]), ones], [floats([0.1, 0.9]), ones]) is True
    assert agree([floats([0.4, 0.6]), ones], [floats([0.4, 0.6]), twos]) is False


def test_of_probabilities_the_greatest_is_the_answer() -> None:
    agree = make_agree(SHARES, SHARES, None)
    assert agree([floats([0.4, 0.6])], [floats([0.1, 0.9])]) is True
    assert agree([floats([0.4, 0.6])], [floats([0.6, 0.4])]) is False
    assert agree([floats([0.4, 0.6])], [floats([0.1, 0.8, 0.1])]) is True


def test_other_numbers_agree_within_a_tolerance() -> None:
    agree = make_agree(SHARES, SHARES, None)
    assert agree([floats([10.0, 20.0])], [floats([10.001, 20.0])]) is True
    assert agree([floats([10.0, 20.0])], [floats([10.5, 20.0])]) is False
    wide = make_agree(SHARES, SHARES, Compare(tolerance=0.1))
    assert wide([floats([10.0, 20.0])], [floats([10.5, 20.0])]) is True


def test_a_named_output_is_compared_alone() -> None:
    agree = make_agree(LABELS, LABELS, Compare(output="probabilities"))
    assert agree([floats([0.4, 0.6]), np.array([1])], [floats([0.1, 0.9]), np.array([2])]) is True
    with pytest.raises(LoadFailed, match="expected one of probabilities, label"):
        make_agree(LABELS, LABELS, Compare(output="z"))


def test_an_output_that_is_to_be_compared_has_to_be_there() -> None:
    for rule in (None, Compare(field="a"), Compare(output="label")):
        check_output(rule, LABELS)
    check_output(Compare(field="a"), DATA_SIGNATURE)
    with pytest.raises(LoadFailed, match='no output "z"; expected one of probabilities, label'):
        check_output(Compare(output="z"), LABELS)
    with pytest.raises(LoadFailed, match="a Python package has no named outputs") as caught:
        check_output(Compare(output="label"), DATA_SIGNATURE)
    assert "{field: NAME}" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("mine", "theirs", "field", "verdict"),
    [
        ({"label": "spam", "score": 0.9}, {"label": "spam", "score": 0.6}, None, True),
        ({"label": "spam"}, {"label": "ham"}, None, False),
        ({"x": 1.0, "confidence": 0.2}, {"x": 1.0005, "confidence": 0.9}, None, True),
        ({"x": [1, {"y": "a"}]}, {"x": [1, {"y": "b"}]}, None, False),
        ({"a": {"b": 1}}, {"a": {"b": 1}, "c": 2}, "a.b", True),
        ({"label": "spam", "lang": "en"}, {"label": "spam", "lang": "fr"}, "lang", False),
        ("text", "text", None, True),
        (True, 1, None, False),
        ([1, 2], [1], None, False),
        (None, None, None, True),
    ],
)
def test_free_answers_agree_in_what_they_say_and_not_in_how_sure_they_are(
    mine: Any, theirs: Any, field: str | None, verdict: bool
) -> None:
    agree = make_agree(DATA_SIGNATURE, DATA_SIGNATURE, Compare(field=field))
    answers = [[Answers([json.dumps(one).encode()])] for one in (mine, theirs)]
    assert agree(*answers) is verdict


def test_a_package_and_a_model_with_tensors_are_compared_as_json() -> None:
    agree = make_agree(DATA_SIGNATURE, SHARES, None)
    assert agree([Answers([b"[1.0, 2.0]"])], [floats([1.0, 2.0])]) is True
    assert agree([Answers([b"[1.0, 2.0]"])], [floats([1.0, 3.0])]) is False
    assert agree([Answers([b"1"])], [floats([1.0, 2.0], [1.0, 2.0])]) is None


def test_a_function_of_the_user_s_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules.py").write_text(
        "def near(a, b):\n    return abs(a['n'] - b['n']) <= 2\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    agree = make_agree(DATA_SIGNATURE, DATA_SIGNATURE, Compare(function="my_rules:near"))
    assert agree([Answers([b'{"n": 1}'])], [Answers([b'{"n": 3}'])]) is True
    assert agree([Answers([b'{"n": 1}'])], [Answers([b'{"n": 4}'])]) is False
    for wrong in ("my_rules:none", "my_rules:number", "no_rules:near"):
        with pytest.raises(LoadFailed, match=r"compare\.function"):
            make_agree(DATA_SIGNATURE, DATA_SIGNATURE, Compare(function=wrong))
    sys.modules.pop("my_rules")


# What is kept

PAIR = Pair("p", "m", "v1", "v2")


def disagreement(number: int) -> Disagreement:
    return Disagreement(PAIR, float(number), f"id{number}", b"\xff" * 5000, b"a", b"b")


def test_sums_add_up_over_minutes_and_old_ones_go(tmp_path: Path) -> None:
    store = ComparisonStore(tmp_path / "comparisons.db")
    store.open()
    store.add([(PAIR, 60, Sums(pairs=2, compared=2, agreed=1, latency_sum=1.5))], [], now=100.0)
    store.add([(PAIR, 60, Sums(pairs=1)), (PAIR, 120, Sums(pairs=4, agreed=3))], [], now=150.0)
    assert store.sums(PAIR, since=61.0, until=200.0) == Sums(pairs=7, compared=2, agreed=4, latency_sum=1.5)
    assert store.sums(PAIR, since=120.0, until=200.0).pairs == 4
    assert store.sums(Pair("p", "m", "v2", "v1"), since=0.0, until=200.0) == Sums()
    store.add([], [], now=60.0 + 31 * 86_400)
    assert store.sums(PAIR, since=0.0, until=200.0) == Sums()
    store.close()


def test_a_store_of_before_copies_were_counted_is_read_on(tmp_path: Path) -> None:
    store = ComparisonStore(tmp_path / "comparisons.db")
    store.open()
    store.add([(PAIR, 60, Sums(pairs=2))], [], now=100.0)
    store.close()
    with closing(sqlite3.connect(store.path)) as db:
        for reason in get_args(DropReason):
            db.execute(f"alter table minutes drop column dropped_{reason}")
    store.open()
    store.add([(PAIR, 60, Sums(pairs=1, dropped_slow=4))], [], now=100.0)
    assert store.sums(PAIR, since=0.0, until=200.0) == Sums(pairs=3, dropped_slow=4)
    store.close()


def test_the_newest_disagreements_are_kept_cut_to_a_bound(tmp_path: Path) -> None:
    store = ComparisonStore(tmp_path / "comparisons.db")
    store.open()
    store.add([], [disagreement(number) for number in range(DISAGREEMENTS_MAX + 10)], now=0.0)
    found = store.disagreements(PAIR, limit=3)
    assert [one.request_id for _, one in found] == [f"id{DISAGREEMENTS_MAX + n}" for n in (9, 8, 7)]
    assert len(found[0][1].request) == 4096
    older = store.disagreements(PAIR, limit=DISAGREEMENTS_MAX * 2, before=found[-1][0])
    assert len(older) == DISAGREEMENTS_MAX - 3
    assert len(store.disagreements(PAIR, limit=10, since=DISAGREEMENTS_MAX + 8.0)) == 2
    store.close()


# What is said


@asynccontextmanager
async def compared(folder: Path) -> AsyncIterator[tuple[Box, Caller]]:
    """p/m v1, an identity of two numbers, with the shadow v2, which adds them up another way."""
    with closing(Prober()) as prober:
        await asyncio.to_thread(models.mlp, folder / "v1.onnx", (2, 4, 3), seed=1)
        await asyncio.to_thread(models.mlp, folder / "v2.onnx", (2, 4, 3), seed=2)
        async with open_box(folder / "store", prober) as box:
            caller = Caller(box.app)
            source = deployments("v1, uri: v1.onnx", "v2, uri: v2.onnx, shadow: true")
            reply = await caller.post("/api/v1/apply", {"source": source, "base": str(folder)})
            assert reply.status == 200, reply.json
            yield box, caller


async def ask(caller: Caller, count: int) -> None:
    random = np.random.default_rng(0)
    for row in random.normal(size=(count, 2)).tolist():
        await caller.post("/projects/p/models/m:predict", {"instances": [row]})


def test_two_versions_are_compared_from_the_log_and_their_pairs(tmp_path: Path) -> None:
    async def test() -> None:
        async with compared(tmp_path) as (box, caller):
            await ask(caller, 40)
            url = "/api/v1/projects/p/models/m/comparison?first=v1&second=v2"

            async def complete() -> Any:
                await asyncio.to_thread(box.journal.flush, timeout_s=5)
                found = (await caller.get(url)).json
                pairs = found.get("agreement", {}).get("pairs")
                return found if (pairs, found["second"]["requests"]) == (40, 40) else None

            found = await answered(complete)
            assert (found["first"]["requests"], found["first"]["shadow"]) == (40, False)
            assert found["second"]["shadow"] is True
            assert found["first"]["error_rate"]["value"] == 0.0
            assert 0.05 < found["first"]["error_rate"]["high"] < 0.1
            agreement = found["agreement"]
            assert (agreement["primary"], agreement["shadow"], agreement["compared"]) == ("v1", "v2", 40)
            assert len(found["disagreements"]) == min(20, 40 - agreement["agreed"])
            for one in found["disagreements"]:
                assert json.loads(one["request"])["instances"]
                assert json.loads(one["primary_reply"]) != json.loads(one["shadow_reply"])
            unknown = await caller.get(url.replace("second=v2", "second=v9"))
            assert unknown.status == 404
            assert "p/m has no version v9" in unknown.json["error"]
            turned = (await caller.get(url.replace("first=v1&second=v2", "first=v2&second=v1"))).json
            assert turned["agreement"]["pairs"] == 40
            assert turned["difference"]["latency_ms"]["value"] == pytest.approx(
                -found["difference"]["latency_ms"]["value"]
            )

    asyncio.run(test())


def test_copies_that_were_dropped_are_counted_with_why(tmp_path: Path) -> None:
    async def test() -> None:
        async with compared(tmp_path) as (box, caller):
            shadows = box.predictor.shadows
            shadows.allowance = Allowance(times=lambda: (0.0, 0.0), clock=lambda: 0.0)
            shadows.allowance.spend(1.0)  # and this clock gives nothing back
            await ask(caller, WAITING_MAX + 7)
            await asyncio.to_thread(box.journal.flush, timeout_s=5)
            found = (await caller.get("/api/v1/projects/p/models/m/comparison?first=v1&second=v2")).json
            agreement = found["agreement"]
            assert (agreement["pairs"], agreement["rate"]) == (0, None)
            assert agreement["dropped"] == {"busy": 7, "slow": 0, "late": 0, "refused": 0, "unjudged": 0}
            assert found["verdict"][-1] == (
                "copies: 0 of 7 had an answer to compare; dropped: 7 as requests left no time for them"
            )

    asyncio.run(test())


def test_pairs_that_nobody_comes_to_judging_are_counted(tmp_path: Path) -> None:
    async def test() -> None:
        async with compared(tmp_path) as (box, caller):
            copies: list[ShadowCall] = []
            observe = box.comparisons.observe

            def keep(copy: ShadowCall) -> None:
                copies.append(copy)

            box.comparisons.observe = keep  # type: ignore[method-assign]
            await ask(caller, 1)
            await until(lambda: len(copies) == 1)
            for _ in range(PAIRS_MAX + 3):
                observe(copies[0])
            pair = Pair("p", "m", "v1", "v2")

            async def judged() -> Sums | None:
                sums, _ = await box.comparisons.read(pair, since=0.0, until=time() + 60, limit=0)
                return sums if sums.pairs == PAIRS_MAX else None

            sums = await answered(judged)
            assert (sums.dropped_unjudged, sums.dropped) == (3, 3)

    asyncio.run(test())


def test_what_a_version_was_before_it_was_replaced_is_left_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with compared(tmp_path) as (box, caller):
            assert await box.worker.call(box.registry.replaced_at, "p", "m", "v2") == 0.0
            await ask(caller, 5)
            await asyncio.to_thread(box.journal.flush, timeout_s=5)
            source = deployments("v1, uri: v1.onnx", "v2, uri: v1.onnx, shadow: true")
            reply = await caller.post("/api/v1/apply", {"source": source, "base": str(tmp_path)})
            assert reply.status == 200, reply.json
            replaced_at = await box.worker.call(box.registry.replaced_at, "p", "m", "v2")
            assert replaced_at == (await box.revisions())[-1].time
            # Another spec of the same model is no other model.
            source = deployments("v1, uri: v1.onnx", "v2, uri: v1.onnx, weight: 5")
            await caller.post("/api/v1/apply", {"source": source, "base": str(tmp_path)})
            assert await box.worker.call(box.registry.replaced_at, "p", "m", "v2") == replaced_at
            url = "/api/v1/projects/p/models/m/comparison?first=v1&second=v2"
            reply = await caller.get(url)
            assert (reply.status, "v2 has been this model since" in reply.json["error"]) == (404, True)
            path = ModelPath(project="p", model="m")
            whole = await make_comparison(
                box, path, ("v1", "v2"), since=replaced_at - 600, until=replaced_at + 60, limit=0
            )
            assert whole.first.requests == 5

    asyncio.run(test())


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    async def test() -> None:
        async with compared(tmp_path) as (_, caller):
            url = "/api/v1/projects/p/models/m/comparison"
            reply = await caller.get(f"{url}?first=v1&second=v2")
            assert (reply.status, reply.json["code"]) == (404, "not_found")
            assert (await caller.get(f"{url}?first=v1&second=v1")).status == 400
            assert (await caller.get(f"{url}?first=v1&second=v2&since=0s&until=1h")).status == 400

    asyncio.run(test())


def side(version: str, *, shadow: bool = False) -> Side:
    return Side(
        version=version,
        shadow=shadow,
        requests=1,
        errors=0,
        error_rate=None,
        p50_ms=None,
        p99_ms=None,
        confidence=None,
    )


def make_agreement(
    compared: int,
    agreed: int,
    *,
    rate: Figure | None = None,
    compute_ms: Figure | None = None,
    **dropped: int,
) -> Agreement:
    """How far v2, a shadow, agrees with v1."""
    return Agreement(
        primary="v1",
        shadow="v2",
        pairs=compared,
        compared=compared,
        agreed=agreed,
        dropped=Dropped(**{"busy": 0, "slow": 0, "late": 0, "refused": 0, "unjudged": 0, **dropped}),
        rate=rate,
        compute_ms=compute_ms,
        confidence=None,
    )


def test_the_verdict_calls_a_difference_what_the_interval_shows_to_be_one() -> None:
    difference = Differences(
        error_rate=Figure(value=0.1, low=0.05, high=0.2),
        latency_ms=Figure(value=-1.0, low=-2.0, high=0.5),
        p50_ratio=None,
        p99_ratio=None,
        confidence=None,
    )
    rate = Figure(value=0.9, low=0.5959, high=0.98)
    agreement = make_agreement(10, 9, busy=88, slow=1, unjudged=1, rate=rate)
    assert judge((side("v1"), side("v2")), difference, agreement) == [
        "error rate: v2 fails more often than v1",
        "mean latency: no difference that these requests could show",
        "confidence: not enough requests to tell",
        "agreement: 9 of 10 answers, so at least 59.5 % of all",
        "copies: 10 of 100 had an answer to compare; dropped: 88 as requests left no time for them,"
        " 1 as v2 was behind with others, 1 as there was no time to judge the answers",
    ]


def test_a_shadow_that_waits_behind_all_others_is_not_called_slower_for_it() -> None:
    waits = Figure(value=9.0, low=8.0, high=10.0)
    difference = Differences(
        error_rate=None, latency_ms=waits, p50_ratio=None, p99_ratio=None, confidence=None
    )

    def told(compute: Figure | None, *, turned: bool = False) -> str:
        agreement = make_agreement(9, 9, compute_ms=compute)
        sides = side("v1"), side("v2", shadow=True)
        return judge(sides[::-1] if turned else sides, difference, agreement)[1]

    assert (
        told(Figure(value=0.1, low=-0.1, high=0.3)) == "compute: no difference that these requests could show"
    )
    assert told(Figure(value=2.0, low=1.0, high=3.0)) == "compute: v2 computes longer than v1"
    assert told(Figure(value=2.0, low=1.0, high=3.0), turned=True) == "compute: v1 computes less long than v2"
    assert told(None) == "compute: not enough requests to tell"
