"""Answers that take a while to write as JSON: the same bytes, and a turn for others after each part."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from doors import Deployed, open_site, run
from predictions import ask, parsed
from waiting import until

from mdslite.packing import to_bfloat16
from mdslite.runtimes.protocol import Datatype, Signature, TensorSpec
from mdslite.serving.answers import LONG_VALUES, encode_answer, encode_parts, is_long
from mdslite.tensors import Codec, Form

MANY = 3 * LONG_VALUES


def values(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    made = np.random.default_rng(1).normal(size=shape) * 100
    if dtype == np.float32:
        made.flat[0] = np.nan
    return made.astype(dtype)


def codec(*datatypes: Datatype) -> Codec:
    outputs = tuple(TensorSpec(f"y{at}", one, (None,)) for at, one in enumerate(datatypes))
    return Codec(Signature((TensorSpec("x", "FP32", (None,)),), outputs, "free"))


@pytest.mark.parametrize("form", ["instances", "inputs"])
@pytest.mark.parametrize(
    ("datatypes", "outputs"),
    [
        (["FP32"], [values(MANY)]),
        (["FP32"], [values(1, MANY)]),
        (["FP32"], [values(3, 2, MANY)]),
        (["FP32"], [values(1000, MANY // 900)]),
        (["INT64"], [values(MANY, dtype=np.int64)]),
        (["BF16"], [to_bfloat16(values(40, MANY // 30))]),
        (["FP32", "INT64"], [values(500, 200), values(500, dtype=np.int64)]),
        (["FP32", "BOOL"], [values(2, MANY), values(2, 3, dtype=np.bool_)]),
        (["BYTES", "FP32"], [np.array(["a", "é"] * 200, object), values(400, 300)]),
    ],
)
def test_the_parts_of_a_long_answer_are_the_whole(datatypes: Any, outputs: Any, form: Form) -> None:
    pieces = [(0, outputs)]
    assert is_long(pieces)
    parts = list(encode_parts(codec(*datatypes), pieces, form))
    assert b"".join(parts) == encode_answer(codec(*datatypes), pieces, form)
    assert len(parts) > 2


def test_an_answer_is_long_by_all_of_its_batches() -> None:
    half = values(LONG_VALUES // 2 + 1)
    assert not is_long([(0, [half])])
    assert is_long([(half.size, [half]), (0, [half])])
    whole = b"".join(encode_parts(codec("FP32"), [(half.size, [half]), (0, [half])], "instances"))
    assert whole == encode_answer(codec("FP32"), [(0, [np.concatenate([half, half])])], "instances")


def test_others_are_answered_between_the_parts_of_a_long_answer(tmp_path: Path) -> None:
    async def test() -> None:
        wide = Deployed(models.identity(tmp_path / "m.onnx", shape=("N", "M")))
        async with open_site(tmp_path, wide) as site:
            rows = values(20, MANY // 10)
            rows[0, 0] = 0
            order: list[str] = []

            async def note(name: str, instances: Any) -> Any:
                reply = parsed(await ask(site, instances))
                order.append(name)
                return reply["predictions"]

            long = asyncio.create_task(note("long", rows.tolist()))
            await until(lambda: site.lane().stats.batches)
            assert await note("short", [[1]]) == [[1]]
            assert np.array_equal(np.array(await long, np.float32), rows)
            assert order == ["short", "long"]
            assert site.statuses == [200, 200]
            assert site.predictor.books.open == 0

    run(test())


def test_a_mistake_of_ours_in_the_middle_is_an_opaque_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(*_: Any) -> Any:
        yield b"x" * 100_000
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("mdslite.predict.predictor.encode_long", parts)

    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.identity(tmp_path / "m.onnx"))) as site:
            reply = await ask(site)
            assert (reply.status, parsed(reply)["error"]) == (500, "the model's answer could not be encoded")

    run(test())
