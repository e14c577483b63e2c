"""Packages made for what has no file that could be served as it is: models of Triton's Python backend, and
ensembles, which become pipelines.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdslite.fields import make_name
from mdslite.triton.repository import TritonModel

_SERVICE = '''"""Triton's Python model {title}, version {version}. Made by `mdslite import triton`."""

from pathlib import Path

import mds
from mdslite.triton.backend import Backend


@mds.model({name!r}, {version!r})
class Model(Backend):
    folder = Path(__file__).parent

    def __init__(self):
        self.open()

    @mds.batch(batch_size={batch_size})
    @mds.predict
    def predict(self, data):
        return self.answer(data)
'''
_NODE = '''"""Made by `mdslite import triton`: a step of the ensemble {title}."""

import mds


@mds.model({name!r}, "1")
class Step:
    @mds.predict
    def predict(self, data):
{code}
'''
_START = """        if not isinstance(data, dict) and len({inputs!r}) == 1:
            data = {{{first!r}: data}}
        missing = [name for name in {inputs!r} if name not in data]
        if missing:
            raise ValueError("missing input " + ", ".join(missing))
        return data
"""
_IN = """        values = {{name: data[tensor] for name, tensor in {inputs!r}.items()}}
        return values if len(values) > 1 else next(iter(values.values()))
"""
_OUT = """        found, state = data[{model!r}], dict(data[{before!r}])
        for name, tensor in {outputs!r}.items():
            state[tensor] = found[name] if isinstance(found, dict) and name in found else found
        return {answer}
"""


def write_package(model: TritonModel, version: int, file: Path, *, name: str, target: Path) -> Path:
    """A package around one version of a Python model: its files, its configuration, and a class of ours."""
    folder = target / "packages" / f"{name}-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(file.parent, folder / "model", ignore=shutil.ignore_patterns("__pycache__"))
    for extra in model.folder.iterdir():
        if extra.is_file() and extra.name != "config.pbtxt":
            shutil.copy2(extra, folder / "model" / extra.name)
    (folder / "config.json").write_text(json.dumps(_config(model, version), indent=1) + "\n")
    most = max(1, int(model.first("max_batch_size", 0)))
    service = _SERVICE.format(title=model.name, name=name, version=str(version), batch_size=min(most, 1024))
    (folder / "service.py").write_text(service)
    return folder


def write_ensemble(
    model: TritonModel,
    *,
    project: str,
    names: Mapping[str, str],
    target: Path,
    remark: Callable[[str], None],
) -> Path | None:
    """A pipeline that takes an ensemble's steps one after the other, all its tensors in hand; None where it
    cannot be made, which the remark says."""
    scheduling = model.first("ensemble_scheduling", {})
    steps = _in_order(scheduling.get("step", []), _names(model, "input"))
    if steps is None:
        remark("its steps wait for each other: it is left out")
        return None
    unknown = sorted({step["model_name"][0] for step in steps} - set(names))
    if unknown:
        remark(f"it calls {', '.join(unknown)}, which the repository does not hold: it is left out")
        return None
    if any(step.get("model_version", [-1])[0] != -1 for step in steps):
        remark("its steps call fixed versions")
    folder = target / "packages" / names[model.name]
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "steps").mkdir(parents=True)
    inputs, outputs = _names(model, "input"), _names(model, "output")
    _write_node(folder, model, "start", _START.format(inputs=inputs, first=inputs[0] if inputs else ""))
    nodes: list[dict[str, Any]] = [_handler("start", ["in_1", "out_1"])]
    for number, step in enumerate(steps, 1):
        called = names[step["model_name"][0]]
        version = step.get("model_version", [-1])[0]
        last = number == len(steps)
        before = "start" if number == 1 else f"out_{number - 1}"
        answer = "state"
        if last:
            kept = f"{{name: state[name] for name in {outputs!r}}}"
            answer = kept if len(outputs) != 1 else f"state[{outputs[0]!r}]"
        _write_node(folder, model, f"in_{number}", _IN.format(inputs=_map(step, "input_map")))
        out = _OUT.format(
            model=f"model_{number}", before=before, outputs=_map(step, "output_map"), answer=answer
        )
        _write_node(folder, model, f"out_{number}", out)
        reference = f"{project}/{called}" + (f"@{version}" if version != -1 else "")
        nodes += [
            _handler(f"in_{number}", f"model_{number}"),
            {"name": f"model_{number}", "model": reference, "next": f"out_{number}"},
            _handler(f"out_{number}", "end" if last else [f"in_{number + 1}", f"out_{number + 1}"]),
        ]
    pipeline = {"pipeline": {"name": names[model.name], "start_node_name": "start", "nodes": nodes}}
    (folder / "pipeline.yaml").write_text(json.dumps(pipeline, indent=1) + "\n")  # JSON is YAML
    return folder


def _handler(name: str, following: str | list[str]) -> dict[str, Any]:
    return {"name": name, "model_load_meta": {"handler_module": f"steps.{name}"}, "next": following}


def _write_node(folder: Path, model: TritonModel, name: str, code: str) -> None:
    text = _NODE.format(title=model.name, name=make_name(f"{model.name}-{name}"), code=code.rstrip("\n"))
    (folder / "steps" / f"{name}.py").write_text(text)


def _in_order(steps: Sequence[Any], inputs: Sequence[str]) -> list[Any] | None:
    """Steps such that each finds its inputs made; None where none can go on."""
    known, left, ordered = set(inputs), list(steps), []
    while left:
        ready = [step for step in left if set(_map(step, "input_map").values()) <= known]
        if not ready:
            return None
        for step in ready:
            known |= set(_map(step, "output_map").values())
            ordered.append(step)
            left.remove(step)
    return ordered


def _map(step: Any, name: str) -> dict[str, str]:
    """The model's tensors and what the ensemble calls them."""
    return {entry["key"][0]: entry["value"][0] for entry in step.get(name, [])}


def _names(model: TritonModel, kind: str) -> list[str]:
    return [one["name"][0] for one in model.config.get(kind, [])]


def _config(model: TritonModel, version: int) -> dict[str, Any]:
    """The configuration as such models get it: JSON with plain fields."""
    parameters = {
        entry.get("key", [""])[0]: {"string_value": entry.get("value", [{}])[0].get("string_value", [""])[0]}
        for entry in model.config.get("parameters", [])
    }
    return {
        "name": model.name,
        "version": version,
        "backend": model.backend,
        "max_batch_size": int(model.first("max_batch_size", 0)),
        "input": [_tensor(one) for one in model.config.get("input", [])],
        "output": [_tensor(one) for one in model.config.get("output", [])],
        "parameters": parameters,
    }


def _tensor(one: Any) -> dict[str, Any]:
    return {
        "name": one["name"][0],
        "data_type": one["data_type"][0],
        "dims": list(one.get("dims", [])),
        "optional": bool(one.get("optional", [False])[0]),
    }
