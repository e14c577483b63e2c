"""Optional inputs that have one value for all rows of a request, such as a threshold with a default."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import models
import numpy as np
import odd_models
import pytest
from doors import Deployed, Site, open_site, run
from h1_client import PREDICT, Reply, request

INFER = "/v2/models/p.m/infer"
JSON = [("content-type", "application/json")]


def open_scaling(folder: Path) -> Any:
    """x [N, 2], factor [1] (3.0 where it is left out) → y = x * factor."""
    return open_site(folder, Deployed(odd_models.overridable(folder / "m.onnx", shared=True)))


async def ask(site: Site, body: Mapping[str, Any], target: str = PREDICT) -> Reply:
    return await site.ask(request("POST", target, json.dumps(body).encode(), headers=JSON))


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ({"instances": [[1, 2]]}, {"predictions": [[3, 6]]}),
        ({"instances": [{"x": [1, 2]}]}, {"predictions": [[3, 6]]}),
        ({"instances": [{"x": [1, 2], "factor": [5]}]}, {"predictions": [[5, 10]]}),
        ({"instances": [{"x": [1, 2], "factor": 5}] * 2}, {"predictions": [[5, 10]] * 2}),
        ({"inputs": {"x": [[1, 2], [3, 4]], "factor": [5]}}, {"outputs": {"y": [[5, 10], [15, 20]]}}),
        ({"inputs": [[1, 2]]}, {"outputs": {"y": [[3, 6]]}}),
        ({"inputs": {"x": [], "factor": [5]}}, {"outputs": {"y": []}}),
    ],
)
def test_it_may_be_given_or_left_out(tmp_path: Path, body: Any, reply: Any) -> None:
    async def test() -> None:
        async with open_scaling(tmp_path) as site:
            found = await ask(site, body)
            assert (found.status, found.json) == (200, reply)

    run(test())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"instances": [{"x": [1, 2], "factor": 5}, {"x": [1, 2], "factor": 6}]}, "share it"),
        (
            {"instances": [{"x": [1, 2], "factor": 5}, {"x": [1, 2]}]},
            "instances[1]: it names other inputs than the first",
        ),
        ({"instances": [{"x": [1, 2], "factor": [5, 6]}]}, "shape [2], expected [1]"),
        ({"inputs": {"x": [[1, 2]], "factor": "5"}}, 'inputs.factor: input "factor": expected FP32 values'),
        ({"inputs": {"x": [[1, 2]], "factor": 1e39}}, "does not fit into FP32"),
        ({"inputs": {"factor": [5]}}, 'missing input "x"'),
        ({"inputs": {"x": [], "factor": [5, 6]}}, "shape [2], expected [1]"),
        ({"inputs": {"x": [], "factor": "5"}}, "expected FP32 values"),
        (
            {"instances": [{"x": [1, 2], "factor": 1}, {"x": [1, 2], "factor": True}]},
            "instances[1].factor: input",
        ),
        ({"instances": [{"x": [1, 2], "factor": 5}, {"x": [1, 2], "factor": [[5]]}]}, "got a list"),
        (
            {"instances": [{"x": [1, 2], "factor": 0.0}, {"x": [1, 2], "factor": -0.0}]},
            'instances[1]: another "factor"',
        ),
        (
            {"instances": [{"x": [1, 2], "factor": math.nan}, {"x": [1, 2], "factor": 1}]},
            'instances[1]: another "factor"',
        ),
        ({"inputs": {"x": [[1, 2]], "facto": [5]}}, 'expected "x", "factor"'),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, body: Any, says: str) -> None:
    async def test() -> None:
        async with open_scaling(tmp_path) as site:
            found = await ask(site, body)
            assert found.status == 400
            assert says in found.json["error"]

    run(test())


@pytest.mark.parametrize("depth", [33, 500, 990, 1000, 1010, 1020])
def test_one_that_is_nested_deep_is_refused(tmp_path: Path, depth: int) -> None:
    deep = b"[" * depth + b"5" + b"]" * depth
    instance = b'{"x": [1, 2], "factor": ' + deep + b"}"

    async def test() -> None:
        async with open_scaling(tmp_path) as site:
            for body in (
                b'{"instances": [%b, %b]}' % (instance, instance),
                b'{"instances": [%b]}' % instance,
            ):
                found = await site.ask(request("POST", PREDICT, body, headers=JSON))
                assert found.status == 400, found.body

    run(test())


@pytest.mark.parametrize("count", [1, 2])
def test_it_may_be_no_number_at_all(tmp_path: Path, count: int) -> None:
    async def test() -> None:
        async with open_scaling(tmp_path) as site:
            found = await ask(site, {"instances": [{"x": [1, 2], "factor": math.nan}] * count})
            assert (found.status, found.json) == (200, {"predictions": [[None, None]] * count})

    run(test())


@pytest.mark.parametrize("datatype", ["BF16", "FP16", "FP32", "INT64", "UINT16"])
def test_it_may_be_of_any_type(tmp_path: Path, datatype: str) -> None:
    model = models.shared_of(tmp_path / "m.onnx", datatype)

    async def test() -> None:
        async with open_site(tmp_path, Deployed(model)) as site:
            for given, added in (({"k": 5}, 5), ({}, 1)):
                found = await ask(site, {"instances": [{"x": [1, 2], **given}] * 2})
                assert (found.status, found.json) == (200, {"predictions": [[1 + added, 2 + added]] * 2})

    run(test())


@pytest.mark.parametrize("other", [1.0, True, None, "1"])
def test_each_instance_gives_it_in_its_type(tmp_path: Path, other: Any) -> None:
    model = models.shared_of(tmp_path / "m.onnx", "INT64")

    async def test() -> None:
        async with open_site(tmp_path, Deployed(model)) as site:
            found = await ask(site, {"instances": [{"x": [1, 2], "k": 1}, {"x": [1, 2], "k": other}]})
            assert (found.status, found.code) == (400, "invalid_tensor")
            assert "expected INT64 values" in found.json["error"]

    run(test())


def test_requests_with_other_values_never_share_a_batch(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_scaling(tmp_path) as site:
            factors = [number % 5 for number in range(60)]
            rows: list[object] = [{"x": [1, 2], "factor": factor} for factor in factors]
            rows += [[1, 2]] * 20
            found = await asyncio.gather(*(ask(site, {"instances": [row]}) for row in rows))
            wanted = [[[factor, 2 * factor]] for factor in factors] + [[[3, 6]]] * 20
            assert [reply.json["predictions"] for reply in found] == wanted

    run(test())


@pytest.mark.parametrize("binary", [False, True])
def test_the_open_inference_protocol_takes_it_too(tmp_path: Path, binary: bool) -> None:
    async def test() -> None:
        async with open_scaling(tmp_path) as site:
            for factor in (5.0, 6.0, None, 5.0):
                given = {"x": np.array([[1, 2], [3, 4]], np.float32)}
                if factor is not None:
                    given["factor"] = np.array([factor], np.float32)
                found = await site.ask(infer(given, binary=binary))
                assert found.status == 200, found.body
                wanted = [(factor or 3.0) * one for one in (1, 2, 3, 4)]
                assert found.json["outputs"][0]["data"] == wanted
            found = await site.ask(infer({"x": given["x"], "factor": given["x"]}, binary=binary))
            assert (found.status, found.code) == (400, "invalid_tensor")

    run(test())


def infer(arrays: Mapping[str, Any], *, binary: bool) -> bytes:
    inputs, pieces = [], []
    for name, array in arrays.items():
        tensor: dict[str, object] = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
        if binary:
            pieces.append(array.tobytes())
            tensor["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            tensor["data"] = array.ravel().tolist()
        inputs.append(tensor)
    head = json.dumps({"inputs": inputs}).encode()
    headers = [("inference-header-content-length", str(len(head)))] if binary else []
    return request("POST", INFER, head + b"".join(pieces), headers=headers)


def test_who_fills_in_all_that_is_listed_leaves_it_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_scaling(tmp_path) as site:
            found = await site.ask(request("GET", "/v2/models/p.m"))
            assert [one["name"] for one in found.json["inputs"]] == ["x"]

    run(test())
