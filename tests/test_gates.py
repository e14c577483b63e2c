"""What the gates of a rollout say of a version, and when."""

from __future__ import annotations

import numpy as np
import pytest
from seen import evidence

from mdslite.deploy.gates import Gate, judge
from mdslite.errors import InvalidRequest
from mdslite.store.comparisons import Sums
from mdslite.store.evidence import Evidence


@pytest.mark.parametrize(
    ("text", "metric", "below", "limit", "relative"),
    [
        ("error_rate<1%", "error_rate", True, 0.01, False),
        ("p99 < 1.2x", "p99", True, 1.2, True),
        ("p50<=50ms", "p50", True, 50.0, False),
        ("latency<2s", "latency", True, 2000.0, False),
        ("agreement>95%", "agreement", False, 0.95, False),
        ("confidence>0.7", "confidence", False, 0.7, False),
    ],
)
def test_gates_are_read(text: str, metric: str, below: bool, limit: float, relative: bool) -> None:
    gate = Gate.parse(text)
    assert (gate.metric, gate.below, gate.relative) == (metric, below, relative)
    assert gate.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    "text", ["", "p99", "p99<", "errors<1%", "p99<1%", "agreement>1.2x", "error_rate<5ms"]
)
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="gate"):
        Gate.parse(text)


def state(text: str, mine: Evidence, others: Evidence | None = None, sums: Sums | None = None) -> str:
    return judge(Gate.parse(text), mine, others or evidence("v1", 5000, seed=1), sums or Sums()).state


def test_a_gate_is_open_until_there_is_enough_to_tell() -> None:
    assert state("error_rate<1%", evidence(requests=20, errors=10)) == "open"
    assert state("error_rate<1%", evidence(requests=200)) == "open"
    assert state("error_rate<1%", evidence(requests=1000)) == "pass"
    assert state("p99<1.2x", evidence(), evidence("v1", requests=10)) == "open"
    assert state("agreement>95%", evidence(), sums=Sums(compared=49, agreed=0)) == "open"


@pytest.mark.parametrize(
    ("text", "mine", "verdict"),
    [
        ("error_rate<1%", evidence(requests=1000, errors=40), "fail"),
        ("error_rate<1%", evidence(requests=1000, errors=12), "open"),
        ("error_rate<2x", evidence(requests=1000, errors=40), "fail"),
        ("p99<1.5x", evidence(requests=5000), "pass"),
        ("p99<1.2x", evidence(requests=5000, ms=20.0), "fail"),
        ("p50<12ms", evidence(), "pass"),
        ("p50<8ms", evidence(), "fail"),
        ("latency<1.2x", evidence(), "pass"),
        ("latency<1.2x", evidence(ms=20.0), "fail"),
        ("latency<9ms", evidence(ms=20.0), "fail"),
        ("confidence>0.7", evidence(), "pass"),
        ("confidence>0.9x", evidence(), "pass"),
        ("confidence>0.9", evidence(), "fail"),
    ],
)
def test_a_gate_passes_and_fails_where_the_interval_leaves_out_its_limit(
    text: str, mine: Evidence, verdict: str
) -> None:
    assert state(text, mine) == verdict


def test_agreement_is_judged_by_pairs() -> None:
    assert state("agreement>95%", evidence(), sums=Sums(compared=1000, agreed=990)) == "pass"
    assert state("agreement>95%", evidence(), sums=Sums(compared=1000, agreed=800)) == "fail"
    assert state("agreement>95%", evidence(), sums=Sums(compared=1000, agreed=955)) == "open"


def test_a_version_that_is_well_is_seldom_failed_however_often_it_is_looked_at() -> None:
    random = np.random.default_rng(7)
    failed = 0
    for _ in range(60):
        errors = np.cumsum(random.random(6000) < 0.008)
        latency = random.gamma(4.0, 2.5, 6000)
        base = evidence("v1", 20_000, seed=int(random.integers(1 << 30)))
        for seen in range(100, 6000, 100):
            mine = Evidence("v2", False, seen, int(errors[seen - 1]), latency[:seen], np.empty(0))
            if "fail" in (state("error_rate<1%", mine, base), state("p99<1.2x", mine, base)):
                failed += 1
                break
    assert failed <= 3
