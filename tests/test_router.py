from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdslite.errors import NotFound, StillLoading, Unavailable
from mdslite.serving.router import CYCLE_MAX, Route, Router, weighted_cycle


@dataclass
class Target:
    version: str
    project: str = "p"
    model: str = "m"


def test_eighty_twenty_is_exactly_eighty_of_every_hundred_wherever_one_starts_to_count() -> None:
    route = Route(
        "p", "m", None, [Target("v1") if at == 0 else Target("v2") for at in weighted_cycle([80, 20])]
    )
    picks = [route.pick().version for _ in range(1000)]
    for start in range(0, 900, 5):
        assert Counter(picks[start : start + 100]) == {"v1": 80, "v2": 20}
    twos = [at for at, version in enumerate(picks) if version == "v2"]
    assert {after - before for before, after in pairwise(twos)} == {5}


def test_the_order_is_that_of_smooth_weighted_round_robin() -> None:
    assert weighted_cycle([5, 1, 1]) == [0, 0, 1, 0, 2, 0, 0]


def test_weight_zero_takes_no_traffic_and_all_zero_makes_no_cycle() -> None:
    assert weighted_cycle([1, 0, 1]) == [0, 2]
    assert weighted_cycle([0, 0]) == []
    assert weighted_cycle([]) == []


def test_fractions_are_taken_at_their_word() -> None:
    assert Counter(weighted_cycle([33.3, 66.7])) == {0: 333, 1: 667}
    assert weighted_cycle([0.1, 0.3]) == weighted_cycle([1, 3])


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8).filter(any))
def test_every_weight_gets_its_share_well_interleaved(weights: list[int]) -> None:
    cycle = weighted_cycle(weights)
    total = sum(weights)
    counts = Counter(cycle)
    for index, weight in enumerate(weights):
        assert counts[index] * total == weight * len(cycle)
        for length in range(1, len(cycle)):  # never far from its share in any prefix
            expected = length * weight / total
            assert abs(cycle[:length].count(index) - expected) < len(weights)


def test_an_unwieldy_cycle_is_rounded_but_starves_nobody() -> None:
    cycle = weighted_cycle([1, 999_983, 999_979])
    assert len(cycle) <= CYCLE_MAX + 3
    assert Counter(cycle)[0] == 1


def test_a_url_finds_its_route_and_an_unknown_one_says_what_there_is() -> None:
    router: Router[Target] = Router()
    one = Target("v1")
    router.replace([Route("p", "m", None, [one]), Route("p", "m", "v1", [one])])
    assert router.get(b"/projects/p/models/m:predict") is not None
    found = router.get(b"/projects/p/models/m/versions/v1:predict")
    assert found is not None
    assert found.pick() is one
    with pytest.raises(NotFound, match="it has v1"):
        router.find("p", "m", "v9")
    with pytest.raises(NotFound, match="there is p/m"):
        router.find("p", "other", None)


def test_no_ready_version_is_503_with_a_time_to_come_back() -> None:
    with pytest.raises(Unavailable) as caught:
        Route("p", "m", None, []).pick()
    assert caught.value.status == 503
    assert caught.value.retry_after_s


@pytest.mark.parametrize(
    ("version", "states", "code", "hint"),
    [
        (None, {"v1": "failed"}, "unavailable", "mdslite ls p/m"),
        ("v1", {"v1": "failed"}, "unavailable", "mdslite show p/m@v1"),
        (None, {"v1": "unloaded"}, "unavailable", "mdslite load p/m"),
        ("v1", {"v1": "unloaded"}, "unavailable", "mdslite load p/m"),
        (None, {"v1": "unloaded", "v2": "loading"}, "still_loading", "mdslite ls p/m"),
        ("v1", {"v1": "loading"}, "still_loading", "mdslite show p/m@v1"),
    ],
)
def test_who_asks_what_is_not_ready_is_told_where_it_says_why(
    version: str | None, states: dict[str, str], code: str, hint: str
) -> None:
    with pytest.raises(Unavailable) as caught:
        Route("p", "m", version, [], states=states).pick()
    assert (caught.value.code, caught.value.hint) == (code, hint)


def test_what_there_is_not_is_told_only_once_all_is_there() -> None:
    router: Router[Target] = Router()
    router.starting = True
    one = Target("v1")
    router.replace([Route("p", "m", None, [one]), Route("p", "m", "v1", [one])])
    assert router.find("p", "m", "v1").pick() is one
    for names in (("p", "m", "v9"), ("p", "other", None)):
        with pytest.raises(StillLoading) as caught:
            router.find(*names)
        assert caught.value.retry_after_s == 1
    router.starting = False
    with pytest.raises(NotFound):
        router.find("p", "m", "v9")
