"""Folders and models to be stored as artifacts, and what a store keeps beside them."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from models import mlp
from onnx import external_data_helper

from mdslite.store.artifacts import ArtifactStore


def make_folder(top: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


def split_model(path: Path, location: str) -> Path:
    """A model whose weights lie in a file of their own."""
    proto = onnx.load(mlp(path))
    external_data_helper.convert_model_to_external_data(proto, location=location, size_threshold=0)
    (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return path


def relocate(path: Path, location: str) -> Path:
    """Say that all tensors of a split model lie elsewhere."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())
    return path


def left_behind(artifacts: ArtifactStore) -> list[str]:
    """What is in the store beside whole artifacts."""
    staging = artifacts.root / ".staging"
    return sorted(os.listdir(staging)) if staging.exists() else []


def damage(path: Path, content: bytes | None = None) -> None:
    """Write something else into a stored file, or flip its last bit."""
    path.chmod(0o644)
    if content is None:
        before = path.read_bytes()
        content = before[:-1] + bytes([before[-1] ^ 1])
    path.write_bytes(content)
