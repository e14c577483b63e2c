"""How far distributions lie apart, and the features of requests and replies that are watched."""

from __future__ import annotations

import json
import math
from random import Random

import numpy as np
import pytest
from numpy.random import default_rng

from mdslite.drift import measures
from mdslite.drift.features import VECTOR_MAX, read_bodies
from mdslite.drift.schedule import LEVELS, SIGNALS_MAX, WEEKLY, Span

# Measures


@pytest.mark.parametrize(
    ("statistic", "freedom", "tail"),
    [
        (3.841459, 1, 0.05),
        (16.918978, 9, 0.05),
        (6.634897, 1, 0.01),
        (33.0, 1, 9.215887e-9),
        (60, 60, 0.47574),
    ],
)
def test_the_tail_of_chi_square_is_that_of_the_tables(statistic: float, freedom: int, tail: float) -> None:
    assert measures.chi_square_tail(statistic, freedom) == pytest.approx(tail, rel=1e-4)


def test_the_index_is_what_two_shares_give_by_hand() -> None:
    found = measures.psi(np.array([80_000.0, 20_000.0]), np.array([60_000.0, 40_000.0]))
    assert found == pytest.approx(-0.2 * math.log(0.75) + 0.2 * math.log(2.0), rel=1e-3)


def test_the_distance_is_the_greatest_of_the_distribution_functions() -> None:
    both, greater = measures.ks_distance(np.array([50.0, 50.0, 0.0]), np.array([30.0, 30.0, 40.0]))
    assert both == greater == pytest.approx(0.4)
    both, greater = measures.ks_distance(np.array([30.0, 70.0]), np.array([60.0, 40.0]))
    assert both == pytest.approx(0.3)
    assert greater == 0.0


def test_equal_shares_are_no_excess_and_more_of_them_are_ever_less_likely() -> None:
    def tail(count: float) -> float:
        return measures.excess_tail(count, 1000, 50, 10_000, dispersion=1.0)

    assert tail(0) == tail(5) == 1.0
    assert 1.0 > tail(10) > tail(20) > tail(40) > 0.0
    assert measures.excess_tail(20, 1000, 50, 10_000, dispersion=4.0) > tail(20)


def test_small_cells_do_not_make_chance_look_impossible() -> None:
    """Pearson's statistic over cells of one expected request would."""
    tails = []
    source = default_rng(3)
    shares = np.array([0.9, *[0.1 / 50] * 50])
    base = source.multinomial(20_000, shares).astype(np.float64)
    for _ in range(400):
        window = source.multinomial(300, shares).astype(np.float64)
        tails.append(measures.chi_square(base, window, dispersion=1.0)[1])
    assert sum(tail < 0.01 for tail in tails) <= 8
    assert min(tails) > 1e-4


def test_what_the_baseline_never_had_stands_out() -> None:
    base = np.array([5000.0, 5000.0, 0.0])
    _, tail = measures.chi_square(base, np.array([90.0, 90.0, 20.0]), dispersion=1.0)
    assert tail < 1e-12


def test_a_week_of_looks_at_all_signals_has_the_chance_of_one_alarm_that_is_promised() -> None:
    looks: dict[Span, int] = {"10m": 1008, "1h": 168, "24h": 168}
    total = math.fsum(LEVELS[span] * count * SIGNALS_MAX for span, count in looks.items())
    assert total == pytest.approx(WEEKLY)


# Features


def read(request: object, reply: object = None) -> dict[str, object]:
    found = read_bodies(json.dumps(request), None if reply is None else json.dumps(reply), Random(1))
    assert found is not None
    return dict(found)


def test_fields_of_an_instance_are_features_by_their_names() -> None:
    row = {"age": 31, "city": "Oslo", "member": True, "home": {"zip": "0150"}, "note": None}
    assert read({"instances": [row]}) == {
        "input.age": 31.0,
        "input.city": "Oslo",
        "input.city.length": 4.0,
        "input.member": "true",
        "input.home.zip": "0150",
        "input.home.zip.length": 4.0,
        "input.note": None,
    }


@pytest.mark.parametrize(
    "request_body",
    [
        {"instances": [[1.0, 2.0]]},
        {"inputs": {"x": [[1.0, 2.0]]}},
        {"inputs": [[1.0, 2.0]]} | {},
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]},
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1.0, 2.0]]}]},
        [1.0, 2.0],
    ],
)
def test_every_form_of_a_request_has_the_same_features(request_body: object) -> None:
    found = read(request_body)
    assert set(found.values()) == {1.0, 2.0}
    assert all(name.startswith("input") for name in found)


def test_several_inputs_keep_their_names() -> None:
    found = read({"inputs": {"a": [1, 2], "b": [1, 2]}})
    assert found in ({"input.a": 1.0, "input.b": 1.0}, {"input.a": 2.0, "input.b": 2.0})


def test_long_vectors_and_texts_are_summed_up() -> None:
    found = read({"instances": [list(range(VECTOR_MAX + 1))]})
    assert found["input.mean"] == VECTOR_MAX / 2
    assert (found["input.least"], found["input.greatest"]) == (0.0, float(VECTOR_MAX))
    assert read({"instances": ["x" * 100]}) == {"input.value": "(long)", "input.value.length": 100.0}


@pytest.mark.parametrize(
    ("reply", "output"),
    [
        ({"predictions": [{"label": "spam", "score": 0.9}]}, "spam"),
        ({"predictions": ["spam"]}, "spam"),
        ({"predictions": [3]}, "3"),
        ({"predictions": [0.25]}, 0.25),
        ({"predictions": [[0.25]]}, 0.25),
        ({"predictions": [[0.1, 0.7, 0.2]]}, "1"),
        ({"predictions": [{"probabilities": [0.9, 0.1]}]}, "0"),
        ({"outputs": {"label": ["spam"], "probabilities": [[0.1, 0.9]]}}, "spam"),
        ({"outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [0.1, 0.9]}]}, "1"),
    ],
)
def test_the_class_of_an_answer_is_found(reply: object, output: object) -> None:
    assert read({"instances": [1]}, reply)["output"] == output


def test_request_and_reply_are_read_at_the_same_row() -> None:
    rows = list(range(10))
    for seed in range(20):
        found = read_bodies(
            json.dumps({"instances": rows}),
            json.dumps({"predictions": [f"c{n}" for n in rows]}),
            Random(seed),
        )
        assert found is not None
        assert found["output"] == f"c{found['input.value']:.0f}"


@pytest.mark.parametrize(
    "body", ["", "{", '{"instances": [NaN]}', "[" * 100_000, b"\xff\xfe", '{"instances": []}', "1e999999"]
)
def test_what_cannot_be_read_is_nothing_or_nothing_known(body: str | bytes) -> None:
    found = read_bodies(body, None, Random(1))
    assert found is None or set(found.values()) == {None}


def test_names_cannot_carry_control_characters() -> None:
    assert list(read({"instances": [{"a\x1b[31m\n": 1}]})) == ["input.a\\x1b[31m\\n"]
