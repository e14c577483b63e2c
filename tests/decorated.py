"""Decorated classes with an executor around them, what they are given and what they answer."""

from __future__ import annotations

import json
from typing import Any

import mds
from mdslite.errors import MdsliteError
from mdslite.runtimes.executor import Executor, build


def make(cls: type) -> Executor:
    """An executor around a class that carries marks on its methods only."""
    return build(mds.describe(mds.model("tested", "v1")(type(cls.__name__, (cls,), {}))))


def texts(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def read(answers: Any) -> list[Any]:
    """The answers as values; an error as its code and message."""
    return [
        f"{one.code}: {one.message}" if isinstance(one, MdsliteError) else json.loads(one) for one in answers
    ]


class Doubles:
    """One datum a call."""

    @mds.pre
    def parse(self, data: Any) -> Any:
        return data["x"]

    @mds.predict
    def double(self, data: Any) -> Any:
        return data * 2

    @mds.post
    def wrap(self, data: Any) -> Any:
        return {"y": data}
