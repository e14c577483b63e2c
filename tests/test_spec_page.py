"""docs/spec.md lists what a version's spec takes, no more and no less, and its example is a valid file."""

from __future__ import annotations

import enum
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from spec_page import PAGE, ROOT, ROWS

from mdslite import deployments
from mdslite.errors import SpecError
from mdslite.fields import DEFAULT_BATCH_SIZE, DEFAULT_BATCH_TIMEOUT_MS, DEFAULT_PREDICTION_TIME_MS
from mdslite.settings import ContainerParameter
from mdslite.spec import Spec


def structs_in(kind: Any, mark: str = "") -> Iterator[tuple[type[msgspec.Struct], str]]:
    """The structs that a value of a type may be, with `[]` where they are items of a list."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind, mark
    elif typing.get_origin(kind) is not dict:
        for inner in typing.get_args(kind):
            yield from structs_in(inner, "[]" if typing.get_origin(kind) is tuple else mark)


def fields_of(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Each field below a struct: its path, its default (`...`: needed), and whether it holds others."""
    hints = typing.get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        path = f"{prefix}{field.name}"
        kind = ContainerParameter if path == "container_parameter" else hints[field.name]
        inner = list(structs_in(kind))
        yield path, ... if field.required else field.default, bool(inner)
        for one, mark in inner:
            yield from fields_of(one, f"{path}{mark}.")


FIELDS = list(fields_of(Spec))


def test_every_field_is_listed_and_nothing_else() -> None:
    listed = [name for name, _ in ROWS]
    assert len(set(listed)) == len(listed)
    assert set(listed) <= {path for path, _, _ in FIELDS}
    assert {path for path, _, holds in FIELDS if not holds} <= set(listed)


def test_the_defaults_are_those_that_hold() -> None:
    cells = dict(ROWS)
    for path, default, _ in FIELDS:
        if path not in cells:
            continue
        said = cells[path][2].strip("`")
        if isinstance(default, enum.Enum):
            assert said == default.value
        elif isinstance(default, str):
            assert said == default
        elif isinstance(default, bool | int | float):
            assert said == json.dumps(default), path
        else:
            assert said == ("needed" if default is ... else "none"), path
    assert f"none is {DEFAULT_BATCH_SIZE} where" in cells["batch.batch_size"][4]
    assert cells["batch.batch_timeout_ms"][4].endswith(f"none is {DEFAULT_BATCH_TIMEOUT_MS}")
    assert cells["batch.prediction_time_ms"][4].endswith(f"none is {DEFAULT_PREDICTION_TIME_MS}")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("zz: 1", "the file"),
        ("deployments: [{zz: 1}]", "a model"),
        ("deployments: [{project: p, model: m, versions: [{zz: 1}]}]", "a version"),
    ],
)
def test_what_stands_around_a_spec_is_listed(text: str, place: str) -> None:
    with pytest.raises(SpecError) as caught:
        deployments.load(text, file="d.yaml", base=ROOT)
    assert caught.value.hint is not None
    known = caught.value.hint.removeprefix("known here: ").split(", ")
    table = PAGE.partition("## The file")[2].partition("\n## ")[0]
    listed: dict[str, list[str]] = {}
    for where, names in re.findall(r"^\| ?(.*?) ?\| (`.*?) \|", table, re.M):
        where = where or list(listed)[-1]
        listed.setdefault(where, []).extend(re.findall(r"`(\w+)`", names))
    assert sorted(listed[place]) == sorted(known)


def test_its_example_is_a_valid_file() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    (deployment,) = deployments.load(text, file="spec.md", base=ROOT).deployments
    assert [version.version for version in deployment.versions] == ["v1", "v2", "v3"]
    written = set(re.findall(r"\b([a-z_]+):", text))
    assert {"resource", "batch", "confidence", "compare", "tensors", "log", "container_parameter"} <= written
