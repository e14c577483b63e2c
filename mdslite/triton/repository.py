"""A Triton model repository as it lies on the disk: its models, their configurations and their versions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdslite.errors import InvalidRequest
from mdslite.triton.enums import ENUMS
from mdslite.triton.pbtxt import Message, parse

CONFIG = "config.pbtxt"
_FILES = {
    "onnxruntime": "model.onnx",
    "python": "model.py",
    "pytorch": "model.pt",
    "tensorflow": "model.savedmodel",
}
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "ensemble": "ensemble",
}


@dataclass(frozen=True, slots=True)
class TritonModel:
    """One folder of the repository. `files` are its versions' models, by number, those to be served alone."""

    name: str
    folder: Path
    backend: str
    config: Message
    files: dict[int, Path] = field(default_factory=dict)
    skipped: tuple[int, ...] = ()  # versions that the policy leaves out

    def first(self, name: str, default: Any = None) -> Any:
        """A plain field of the configuration."""
        return self.config.get(name, [default])[0]


def read_repository(folder: Path) -> list[TritonModel]:
    """Every model of a repository, by name.

    :raises InvalidRequest: it is none, or a configuration cannot be understood
    """
    if not folder.is_dir():
        raise InvalidRequest(
            f"there is no folder {folder}: expected a model repository",
            hint="it is what --model-repository names",
        )
    models = [_read_model(one) for one in sorted(folder.iterdir()) if one.is_dir() and _is_model(one)]
    if not models:
        raise InvalidRequest(
            f"{folder} holds no models", hint="expected folders with config.pbtxt, or with 1/model.onnx"
        )
    return models


def _is_model(folder: Path) -> bool:
    versions = (one for one in folder.iterdir() if one.is_dir() and one.name.isdecimal())
    return (folder / CONFIG).is_file() or any(True for _ in versions)


def _read_model(folder: Path) -> TritonModel:
    file = folder / CONFIG
    config: Message = {}
    if file.is_file():
        try:
            config = parse(file.read_text("utf-8"), file=f"{folder.name}/{CONFIG}", enums=ENUMS)
        except UnicodeDecodeError as exc:
            raise InvalidRequest(f"{folder.name}/{CONFIG} is no text", hint="save it as UTF-8") from exc
    name = config.get("name", [folder.name])[0]
    versions = sorted(int(one.name) for one in folder.iterdir() if one.is_dir() and one.name.isdecimal())
    backend = _backend(config, folder, versions)
    served = _served(config, versions)
    files = {}
    for number in served:
        found = _model_file(folder / str(number), backend, config)
        if found is not None:
            files[number] = found
    skipped = tuple(number for number in versions if number not in served)
    return TritonModel(str(name), folder, backend, config, files, skipped)


def _backend(config: Message, folder: Path, versions: list[int]) -> str:
    """What runs the model: said, or told by its files, as Triton completes a configuration by itself."""
    platform = config.get("platform", [""])[0]
    backend = config.get("backend", [""])[0] or _PLATFORMS.get(platform, platform)
    if backend:
        return str(backend)
    for number in versions:
        for name, file in _FILES.items():
            if (folder / str(number) / file).exists():
                return name
    return "ensemble" if "ensemble_scheduling" in config else ""


def _served(config: Message, versions: list[int]) -> list[int]:
    """The versions that the policy serves: by default the latest."""
    policy = config.get("version_policy", [{}])[0]
    if "all" in policy:
        return versions
    if "specific" in policy:
        wanted = policy["specific"][0].get("versions", [])
        return [number for number in versions if number in wanted]
    latest = policy.get("latest", [{}])[0].get("num_versions", [1])[0]
    return versions[-max(1, int(latest)) :]


def _model_file(folder: Path, backend: str, config: Message) -> Path | None:
    named = config.get("default_model_filename", [_FILES.get(backend)])[0]
    if named is None:
        return None
    file = folder / str(named)
    if file.is_dir() and backend == "onnxruntime":
        inner = file / "model.onnx"
        return inner if inner.is_file() else None
    return file if file.exists() else None
