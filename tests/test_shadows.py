"""Shadow versions: what is copied to them, when, and that nothing of it reaches who asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import models
import pytest
from doors import Deployed, Site, open_site, run
from h1_client import ROW, predict
from lanes import FakeData, GivenRuntime, lane_of
from waiting import until

from mdslite.errors import ModelError, Unavailable
from mdslite.predict.allowance import Allowance
from mdslite.predict.shadows import WAITING_MAX
from mdslite.runtimes.protocol import DATA_SIGNATURE, Answers, PackageReport, ProbeReport
from mdslite.serving.fleet import Served
from mdslite.serving.gate import Priority
from mdslite.serving.knobs import Knobs
from mdslite.serving.loader import LoadRequest
from mdslite.spec import ServiceInfo, Spec


@asynccontextmanager
async def shadowed(
    folder: Path, session: FakeData | None = None, *, percent: float = 100.0
) -> AsyncIterator[tuple[Site, Served, FakeData]]:
    """p/m, whose v1 is an identity and whose shadow v2 is a package of one fake session."""
    session = session or FakeData()
    identity = models.identity(folder / "identity.onnx")
    async with open_site(folder, Deployed(identity), Deployed(identity, model="other")) as site:
        site.predictor.shadows.allowance = idle()
        site.fleet._loader.runtimes["PYTHON"] = GivenRuntime(session)  # type: ignore[index]
        package = PackageReport("m", "v2", "Model", batch_size=4)
        report = ProbeReport(DATA_SIGNATURE, 0, 0.0, False, package)
        info = ServiceInfo(weight=0, shadow=True, shadow_percent=percent)
        spec = Spec(uri="/model", service_info=info)
        wanted = LoadRequest("p", "m", "v2", spec, "sha256:00", folder, report, "PYTHON", "MDS")
        served = await site.fleet.load(wanted)
        site.fleet.switch(added=[served])
        yield site, served, session


def idle() -> Allowance:
    """The allowance of a machine with nothing else to do, which this one may not be."""
    return Allowance(times=lambda: (0.0, 0.0))


def shadows_of(site: Site) -> list[dict[str, Any]]:
    return [row for row in site.logged if row["shadow"]]


def test_a_shadow_gets_a_copy_after_the_primary_has_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path) as (site, _, session):
            reply = await site.ask(predict(headers=[("x-request-id", "mine")]))
            assert reply.headers["mdslite-version"] == "v1"
            assert reply.json == {"predictions": [ROW]}
            await until(lambda: len(site.rows) == 2)
            primary, shadow = site.logged
            assert (primary["shadow"], primary["version"]) == (False, "v1")
            assert (shadow["shadow"], shadow["version"], shadow["status"]) == (True, "v2", 200)
            assert primary["request_id"] == shadow["request_id"] == "mine"
            assert [json.loads(datum) for batch in session.batches for datum in batch] == [ROW]

    run(test())


def test_what_asks_for_a_version_is_not_copied(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path) as (site, _, session):
            for version in ("v1", "v2"):
                target = f"/projects/p/models/m/versions/{version}:predict"
                reply = await site.ask(predict(target=target))
                assert reply.headers["mdslite-version"] == version
            assert (await site.ask(predict(target="/projects/p/models/other:predict"))).status == 200
            assert not shadows_of(site)
            assert len(session.batches) == 1

    run(test())


def test_a_share_of_the_traffic_is_copied_evenly(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path, percent=25) as (site, _, _):
            for _ in range(8):
                await site.ask(predict())
            await until(lambda: len(site.rows) == 10)
            places = [at for at, row in enumerate(site.logged) if not row["shadow"]]
            assert len(places) == 8

    run(test())


def test_a_request_without_rows_is_not_copied(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path) as (site, _, session):
            empty = await site.ask(predict(()))
            assert (empty.status, empty.json) == (200, {"predictions": []})
            await site.ask(predict())
            await until(lambda: len(site.rows) == 3)
            assert [row["rows"] for row in shadows_of(site)] == [1]
            assert len(session.batches) == 1

    run(test())


def test_a_wrong_request_is_not_copied(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path) as (site, _, session):
            assert (await site.ask(predict(body=b"{"))).status == 400
            assert (await site.ask(predict())).status == 200
            await until(lambda: len(site.rows) == 3)
            assert len(session.batches) == 1

    run(test())


@pytest.mark.parametrize("failure", [ModelError("broken"), Unavailable("gone", retry_after_s=1)])
def test_a_shadow_that_fails_is_logged_and_nobody_hears_of_it(tmp_path: Path, failure: Any) -> None:
    class Broken(FakeData):
        def run(self, feeds: Any, handle: Any = None) -> list[Answers]:
            raise failure

    async def test() -> None:
        async with shadowed(tmp_path, Broken()) as (site, served, _):
            for _ in range(3):
                assert (await site.ask(predict())).json == {"predictions": [ROW]}
            # One whose replica is lost takes no part until that is built again.
            await until(
                lambda: len(shadows_of(site)) == 3 or (shadows_of(site) and not lane_of(served).replicas)
            )
            assert {row["status"] for row in shadows_of(site)} == {failure.status}
            assert [row["status"] for row in site.logged if not row["shadow"]] == [200] * 3

    run(test())


def test_a_shadow_that_hangs_loses_copies_and_holds_nothing_up(tmp_path: Path) -> None:
    async def test() -> None:
        session = FakeData(held=True)
        async with shadowed(tmp_path, session) as (site, served, _):
            async with site.connect() as wire:
                asked = 0
                while not served.shadows_dropped.total():
                    wire.send(predict())
                    assert (await wire.reply()).json == {"predictions": [ROW]}
                    asked += 1
                    assert asked < 3000
            assert not shadows_of(site)
            assert set(served.shadows_dropped) == {"slow"}
            assert served.lane.queue_rows <= served.lane.knobs.queue_rows
            session.hold.set()

    run(test())


def test_a_shadow_that_hangs_keeps_no_other_from_its_copies(tmp_path: Path) -> None:
    async def test() -> None:
        session = FakeData(held=True)
        async with shadowed(tmp_path, session) as (site, served, _):
            info = ServiceInfo(weight=0, shadow=True)
            other = await site.load(Deployed(tmp_path / "identity.onnx", version="v3"))
            site.fleet.switch(added=[other])
            other.follow(Spec(uri="/model", service_info=info))
            site.fleet.switch()
            asked = WAITING_MAX
            async with site.connect() as wire:
                for _ in range(asked):
                    wire.send(predict())
                    assert (await wire.reply()).headers["mdslite-version"] == "v1"
            await until(lambda: len(shadows_of(site)) + other.shadows_dropped.total() == asked)
            assert {row["version"] for row in shadows_of(site)} == {"v3"}
            # Its lane has no more than the batch that runs and the next ones.
            assert served.lane.queue_rows <= 32
            assert site.predictor.shadows.waiting >= asked - 32 - 4 - served.shadows_dropped.total()
            session.hold.set()

    run(test())


def test_while_primaries_leave_no_time_copies_wait_and_are_dropped(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path) as (site, served, session):
            allowance = Allowance(times=lambda: (0.0, 0.0), clock=lambda: 0.0)
            allowance.spend(1.0)  # and this clock gives nothing back
            site.predictor.shadows.allowance = allowance
            asked = WAITING_MAX + 44
            async with site.connect() as wire:
                for _ in range(asked):
                    wire.send(predict())
                    assert (await wire.reply()).json == {"predictions": [ROW]}
            assert (site.predictor.shadows.waiting, served.shadows_dropped) == (WAITING_MAX, {"busy": 44})
            assert not session.batches
            assert [row["status"] for row in site.logged] == [200] * asked
            site.predictor.shadows.allowance = idle()
            await until(lambda: len(shadows_of(site)) == WAITING_MAX)

    run(test())


def test_a_copy_waits_no_longer_than_its_prediction_may_take(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path) as (site, served, session):
            shadows = site.predictor.shadows
            frozen = Allowance(times=lambda: (0.0, 0.0), clock=lambda: 0.0)
            frozen.spend(1.0)
            shadows.allowance = frozen
            await site.ask(predict())
            assert shadows.waiting == 1
            served.lane.knobs = Knobs(prediction_s=0.0)
            shadows.allowance = idle()
            await until(lambda: served.shadows_dropped == {"late": 1})
            assert not session.batches

    run(test())


def test_copies_that_wait_are_bounded(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path) as (site, served, _):
            shadows = site.predictor.shadows
            calls = []
            copy = shadows.copy
            shadows.copy = lambda call, status: calls.append(call)  # type: ignore[method-assign]
            await site.ask(predict())
            for _ in range(WAITING_MAX + 5):
                copy(calls[0], 200)
            assert shadows.waiting == WAITING_MAX
            assert served.shadows_dropped == {"busy": 5}
            # The lane has a bound of its own: what it has no room for is counted too.
            await until(lambda: len(site.rows) - 1 + served.shadows_dropped.total() == WAITING_MAX + 5)

    run(test())


def test_a_shadow_s_work_comes_last_until_it_is_promoted(tmp_path: Path) -> None:
    async def test() -> None:
        async with shadowed(tmp_path) as (site, served, _):
            assert lane_of(served).priority is Priority.SHADOW
            site.fleet.switch(respecced=[(served.key, Spec(uri="/model"))])
            assert lane_of(served).priority is Priority.PRIMARY
            assert {site.fleet.router.find("p", "m", None).pick().version for _ in range(2)} == {"v1", "v2"}

    run(test())
