"""What kind of artifact a version has, and so which runtime serves it: told by names and first bytes, without
opening the model. Also names each runtime's library, the extra that installs it and the spec's key for its
settings. Imports none of the libraries.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdslite.errors import LoadFailed
from mdslite.guises import AGAIN, CHOOSE, HOW_TO_SERVE, PICKLE, recognize
from mdslite.runtimes.graph import find_end

UNSET_PACKAGETYPE = "UNSET_PACKAGETYPE"
UNSET_RUNTIME = "UNSET_RUNTIME"


@dataclass(frozen=True, slots=True)
class Kind:
    """A package type and the runtime that serves it, in the words of the version spec."""

    package_type: str
    runtime: str


ONNX = Kind("ONNX", "ONNXRUNTIME")
MDS = Kind("MDS", "PYTHON")
PIPELINE = Kind("PIPELINE", "PYTHON")
TORCH = Kind("TORCH", "PYTORCH")
SAVED_MODEL = Kind("SAVED_MODEL", "TENSORFLOW")
KINDS = (ONNX, MDS, PIPELINE, TORCH, SAVED_MODEL)

ONNX_SUFFIXES = frozenset({".onnx", ".ort"})
TORCH_SUFFIXES = frozenset({".pt", ".pth", ".ts", ".pt2", ".jit", ".torchscript"})
PIPELINE_FILE = "pipeline.yaml"
SAVED_MODEL_FILE = "saved_model.pb"
UNDERSTOOD = (
    "a .onnx file (ONNX); a .pt, .pth, .ts or .pt2 file (TORCH); a folder with saved_model.pb (SAVED_MODEL); "
    "a folder with pipeline.yaml (PIPELINE); a .py file or a folder of them (MDS)"
)

# Models that people have, but that are not served as they are: why, and what to do.
_PICKLE = (f"is {PICKLE}", HOW_TO_SERVE)
_KERAS = (
    "is a Keras file",
    'write a SavedModel folder with model.export("folder"), and point uri at it',
)
_WEIGHTS = (
    "holds weights without the model",
    "export the model with torch.export or to ONNX, or write a Python package: mdslite init NAME",
)
_YAML = (
    "is a YAML text, and no model",
    "point uri at the model; a pipeline is the folder that holds its pipeline.yaml",
)
_REFUSED: Mapping[str, tuple[str, str]] = {
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".keras": _KERAS,
    ".safetensors": _WEIGHTS,
    ".bin": _WEIGHTS,
    ".ckpt": _WEIGHTS,
    ".pb": (
        "is one file of a SavedModel",
        "point uri at the folder that holds it and variables/",
    ),
    ".yaml": _YAML,
    ".yml": _YAML,
}
_EXPECTED = {
    "ONNX": "an ONNX model",
    "TORCH": "a file of torch.export.save or torch.jit.save",
    "SAVED_MODEL": "a SavedModel",
}
_TORCH_MARKS = (b"PK", b"\x80")  # of archives and pickles, of which its own reader has more to say
_USES_MDS = re.compile(rb"^[ \t]*(?:import|from)[ \t]+mds\b", re.MULTILINE)
_SOURCE_BYTES = 1 << 20  # of a Python file, as much is looked through for its imports


def detect(path: Path, package_type: str = UNSET_PACKAGETYPE, runtime: str = UNSET_RUNTIME) -> Kind:
    """Work out what the artifact at `path` is, a file or a folder, within what the spec says it is.

    :raises LoadFailed: nothing that is understood, or something else than the spec says
    """
    _check_stated(package_type, runtime)
    stated = package_type != UNSET_PACKAGETYPE or runtime != UNSET_RUNTIME
    found = list(_file_kinds(path, stated=stated) if path.is_file() else _folder_kinds(path))
    for kind in found:
        if _meets(kind, package_type, runtime):
            for file in _model_files(path, kind):
                _check_guise(file, kind)
            return kind
    if found:
        by_type = package_type not in (UNSET_PACKAGETYPE, found[0].package_type)
        said = f"package_type: {package_type}" if by_type else f"runtime: {runtime}"
        what = f"of package type {found[0].package_type}, served by {found[0].runtime}"
        raise LoadFailed(
            f"the spec says {said}, but {path.name} is {what}",
            hint=f"leave {said.partition(':')[0]} out, or point uri at what it says",
        )
    raise _unknown(path)


def _meets(kind: Kind, package_type: str, runtime: str) -> bool:
    return package_type in (UNSET_PACKAGETYPE, kind.package_type) and runtime in (UNSET_RUNTIME, kind.runtime)


def _check_stated(package_type: str, runtime: str) -> None:
    """Refuse what no artifact could meet."""
    if package_type == "DOCKER_IMAGE":
        raise LoadFailed(
            "package_type: DOCKER_IMAGE: images are for the cluster operators, this machine serves files",
            hint=f"point uri at {UNDERSTOOD}",
        )
    if package_type == UNSET_PACKAGETYPE or runtime == UNSET_RUNTIME:
        return
    right = next((kind.runtime for kind in KINDS if kind.package_type == package_type), runtime)
    if right != runtime:
        raise LoadFailed(
            f"package_type: {package_type} is served by {right}, but the spec says runtime: {runtime}",
            hint="leave one of the two out",
        )


def _file_kinds(path: Path, *, stated: bool) -> Iterator[Kind]:
    suffix = path.suffix.lower()
    if suffix in ONNX_SUFFIXES:
        yield ONNX
    elif suffix in TORCH_SUFFIXES:
        yield TORCH
    elif suffix == ".py":
        yield MDS
    elif find_end(path) is not None:
        yield ONNX
    elif suffix not in _REFUSED:
        # A name without a meaning, from a URL say: what torch writes is a zip.
        if _is_torch(path):
            yield TORCH
        elif not suffix or stated:
            yield ONNX


def _folder_kinds(path: Path) -> Iterator[Kind]:
    """The kinds that a folder may be, the likeliest first: a package may well hold the model that it uses."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else []
    names = {one.name for one in files}
    suffixes = {one.suffix.lower() for one in files}
    sources = [*(one for one in files if one.suffix == ".py"), *(path.glob("*/*.py"))]
    if PIPELINE_FILE in names:
        yield PIPELINE
    if any(_uses_mds(one) for one in sources):
        yield MDS
    if SAVED_MODEL_FILE in names:
        yield SAVED_MODEL
    if suffixes & ONNX_SUFFIXES:
        yield ONNX
    if suffixes & TORCH_SUFFIXES:
        yield TORCH
    if sources and PIPELINE_FILE not in names:
        yield MDS  # of which the runtime says what it misses in it


def _unknown(path: Path) -> LoadFailed:
    if path.is_file():
        with path.open("rb") as file:
            guise = recognize(file, name=path.name)
        why, hint = _REFUSED.get(path.suffix.lower(), (None, None))
        if why is not None and not (guise and guise.stand_in):
            return LoadFailed(f"{path.name} {why}", hint=hint)
        if guise is None:
            what = f"{path.name} is no model that is understood; expected {UNDERSTOOD}"
            return LoadFailed(what, hint=HOW_TO_SERVE)
        hint = f"{guise.hint}: {UNDERSTOOD}" if guise.hint == CHOOSE else guise.hint
        return LoadFailed(f"{path.name} is {guise.what}: expected a model", hint=hint)
    if not path.is_dir():
        return LoadFailed(f"there is no model {path.name}")
    names = ", ".join(sorted(one.name for one in path.iterdir())[:5]) or "nothing"
    what = f"the folder holds {names}: no model that is understood; expected {UNDERSTOOD}"
    return LoadFailed(what, hint=HOW_TO_SERVE)


def _model_files(path: Path, kind: Kind) -> list[Path]:
    """What of an artifact the runtime of this kind will open itself."""
    if kind in (MDS, PIPELINE):
        return []
    if path.is_file():
        return [path]
    if kind == SAVED_MODEL:
        return [path / SAVED_MODEL_FILE]
    suffixes = ONNX_SUFFIXES if kind == ONNX else TORCH_SUFFIXES
    return [one for one in sorted(path.iterdir()) if one.is_file() and one.suffix.lower() in suffixes]


def _check_guise(file: Path, kind: Kind) -> None:
    """Refuse what cannot be a model of this kind, whatever its name says.

    :raises LoadFailed: with what it is instead
    """
    expected = _EXPECTED[kind.package_type]
    size_bytes = file.stat().st_size
    end = find_end(file)
    if kind == ONNX and end is not None and end <= size_bytes:
        return
    if kind == ONNX and end is not None:
        has = f"it has {size_bytes:,} of at least {end:,} bytes"
        raise LoadFailed(f"{file.name} is an ONNX model that was cut off: {has}", hint=AGAIN)
    if kind == TORCH and end is not None:
        raise LoadFailed(
            f"{file.name} is an ONNX model: expected {expected}", hint=f"call it {file.stem}.onnx"
        )
    if kind == ONNX and _is_torch(file):
        raise LoadFailed(
            f"{file.name} is a file of PyTorch: expected {expected}", hint=f"call it {file.stem}.pt"
        )
    with file.open("rb") as content:
        guise = recognize(content, name=file.name)
        content.seek(0)
        by_torch = content.read(2).startswith(_TORCH_MARKS)
    if guise is not None and not (kind == TORCH and by_torch):
        raise LoadFailed(f"{file.name} is {guise.what}: expected {expected}", hint=guise.hint)


def _uses_mds(source: Path) -> bool:
    with suppress(OSError), source.open("rb") as file:
        return _USES_MDS.search(file.read(_SOURCE_BYTES)) is not None
    return False


def _is_torch(path: Path) -> bool:
    """Is it a zip as torch.jit.save, torch.export.save or torch.save write it?"""
    with suppress(OSError, zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
        return not names.isdisjoint({"data.pkl", "archive_format", "serialized_exported_program.json"})
    return False


@dataclass(frozen=True, slots=True)
class Library:
    """What a runtime computes with: its module, the packages that may bring it, and mdslite's extra."""

    module: str
    packages: tuple[str, ...]
    extra: str | None
    settings: str | None  # the key in container_parameter


LIBRARIES: Mapping[str, Library] = {
    "ONNXRUNTIME": Library("onnxruntime", ("onnxruntime-gpu", "onnxruntime"), None, "onnxruntime"),
    "PYTORCH": Library("torch", ("torch",), "torch", "torch"),
    "TENSORFLOW": Library(
        "tensorflow",
        ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tensorflow-macos"),
        "tensorflow",
        "tensorflow",
    ),
}


def require(runtime: str) -> None:
    """Find out, without importing it, whether a runtime's library is installed.

    :raises LoadFailed: it is not; the hint is the command that installs it
    """
    library = LIBRARIES.get(runtime)
    if library is None or importlib.util.find_spec(library.module) is not None:
        return
    raise LoadFailed(
        f"{library.module} is not installed, which serves models of runtime {runtime}",
        hint=f"run: pip install 'mdslite[{library.extra}]', then restart mdslite",
    )


def library_version(runtime: str) -> str | None:
    """Name a runtime's library and its version, such as `torch 2.13.0`, without importing it.

    None where it has none, or none that is installed as a package."""
    library = LIBRARIES.get(runtime)
    if library is None:
        return None
    for package in library.packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            return f"{library.module} {importlib.metadata.version(package)}"
    return None


def cpu_build(runtime: str) -> str | None:
    """Why a runtime's library computes on the CPU only, where that can be told without importing it."""
    library = LIBRARIES.get(runtime)
    for package in library.packages if library is not None else ():
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(package)
            if package.endswith("-cpu") or version.endswith("+cpu"):
                return f"{package} {version} is a build for the CPU"
            return None
    return None


def runtime_settings(runtime: str, container_parameter: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings in a spec's `container_parameter` that are this runtime's."""
    library = LIBRARIES.get(runtime)
    found = container_parameter.get(library.settings) if library is not None and library.settings else None
    return found if isinstance(found, Mapping) else {}


PROBE_RULES = 6  # one more whenever a probe comes to say something else of the same file


def probe_engine(runtime: str, settings: Mapping[str, Any] | None = None) -> str:
    """What a probe's report depends on beside the artifact: the library, our own rules, and settings that a
    model's signature may come from. A report by another engine is not believed."""
    engine = f"{library_version(runtime) or runtime.lower()} rules {PROBE_RULES}"
    return f"{engine} {json.dumps(settings, sort_keys=True)}" if settings else engine
