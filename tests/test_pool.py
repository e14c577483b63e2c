"""Which of a version's endpoints is asked: taking turns, ejection and what brings back."""

from __future__ import annotations

from typing import Any

import pytest
from clocks import Clock

from mdslite.errors import Unavailable
from mdslite.serving.remote.pool import CONNECTIONS_MAX, EJECT_AFTER, Address, Pool


def make_pool(count: int, **options: Any) -> tuple[Pool, Clock]:
    clock = Clock(100.0)
    pool = Pool(clock=clock, **options)
    pool.update(Address(f"http://h{number}") for number in range(count))
    return pool, clock


def test_endpoints_take_turns_or_the_least_loaded_goes_first() -> None:
    pool, _ = make_pool(3)
    assert sorted(pool.pick().url for _ in range(3)) == ["http://h0", "http://h1", "http://h2"]
    pool, _ = make_pool(3, balance="least_loaded")
    first, second, third = pool.endpoints
    pool.begin(first)
    pool.begin(second)
    assert {pool.pick() for _ in range(4)} == {third}


def test_who_has_its_share_of_the_connections_is_passed_over_while_another_has_not() -> None:
    pool, _ = make_pool(2)
    first, second = pool.endpoints
    for _ in range(CONNECTIONS_MAX // 2):
        pool.begin(first)
    assert {pool.pick() for _ in range(4)} == {second}
    pool.end(first)
    assert {pool.pick() for _ in range(4)} == {first, second}


def test_the_only_one_that_is_well_may_have_more_than_its_share() -> None:
    pool, _ = make_pool(2)
    first, second = pool.endpoints
    for _ in range(EJECT_AFTER):
        pool.failed(second, "no answer")
    for _ in range(CONNECTIONS_MAX // 2):
        pool.begin(first)
    assert {pool.pick() for _ in range(4)} == {first}


def test_failures_in_a_row_eject_longer_each_time_and_a_success_brings_back() -> None:
    pool, clock = make_pool(4)
    bad = pool.endpoints[0]
    waits = []
    for _ in range(7):
        for _ in range(EJECT_AFTER):
            pool.failed(bad, "refused")
        waits.append(bad.ejected_until - clock.now)
        clock.now = bad.ejected_until
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    pool.failed(bad, "refused")
    assert bad not in [pool.pick() for _ in range(12)]
    pool.succeeded(bad)
    assert bad in [pool.pick() for _ in range(4)]
    assert bad.ejections == 0


def test_no_more_than_half_are_ejected() -> None:
    pool, _ = make_pool(4)
    for endpoint in pool.endpoints:
        for _ in range(EJECT_AFTER):
            pool.failed(endpoint, "refused")
    assert pool.available == 2


def test_all_who_lack_the_model_are_out_and_a_failing_one_is_left_rather_than_them() -> None:
    pool, clock = make_pool(4)
    *lacking, good = pool.endpoints
    for endpoint in lacking:
        pool.lacks(endpoint, "no model")
    assert {pool.pick() for _ in range(8)} == {good}
    for _ in range(EJECT_AFTER):
        pool.failed(good, "refused")
    assert {pool.pick() for _ in range(8)} == {good}
    clock.now = lacking[0].ejected_until
    pool.lacks(lacking[0], "no model")
    assert lacking[0].ejected_until - clock.now == 2.0


def test_what_was_tried_is_not_picked_again_and_ejected_ones_are_the_last_resort() -> None:
    pool, _ = make_pool(2)
    first, second = pool.endpoints
    for _ in range(EJECT_AFTER):
        pool.failed(first, "refused")
    assert pool.pick() is second
    assert pool.pick([second]) is first
    with pytest.raises(Unavailable, match="no endpoint could take the request"):
        pool.pick([first, second])


def test_retries_have_a_budget() -> None:
    pool, clock = make_pool(1)
    while pool.may_retry():
        pass
    for _ in range(11):
        pool.begin(pool.endpoints[0])
    assert [pool.may_retry() for _ in range(3)] == [True, True, False]
    clock.now += 0.1
    assert [pool.may_retry() for _ in range(2)] == [True, False]


def test_an_endpoint_that_stays_keeps_its_record() -> None:
    pool, _ = make_pool(2)
    kept = pool.endpoints[1]
    pool.failed(kept, "x")
    pool.update([Address("http://h1"), Address("http://h9")])
    assert pool.endpoints[0] is kept
    assert [one.url for one in pool.endpoints] == ["http://h1", "http://h9"]
