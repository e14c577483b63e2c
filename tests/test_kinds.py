"""What kind an artifact is, by its names and first bytes, and what the spec may say of it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import models
import pytest

from mdslite.errors import LoadFailed
from mdslite.fields import PackageType, RuntimeType
from mdslite.runtimes import engine, kinds
from mdslite.runtimes.kinds import PROBE_RULES, Kind, detect

PACKAGE = "import mds\n\n\n@mds.model('spam', 'v1')\nclass Spam: ...\n"


def write(path: Path, content: str | bytes = b"\x08\x01bytes") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"bytes")
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("m.onnx", kinds.ONNX),
        ("m.ONNX", kinds.ONNX),
        ("m.pt", kinds.TORCH),
        ("m.pth", kinds.TORCH),
        ("m.ts", kinds.TORCH),
        ("m.pt2", kinds.TORCH),
        ("spam.py", kinds.MDS),
        ("download", kinds.ONNX),
    ],
)
def test_a_file_is_what_its_name_says(tmp_path: Path, name: str, kind: Kind) -> None:
    assert detect(write(tmp_path / name)) == kind


@pytest.mark.parametrize("member", ["m/data.pkl", "m/archive_format", "serialized_exported_program.json"])
def test_a_file_without_a_telling_name_that_torch_wrote_is_torch(tmp_path: Path, member: str) -> None:
    assert detect(write_zip(tmp_path / "download", member)) == kinds.TORCH


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["model.onnx", "model.onnx.data"], kinds.ONNX),
        (["model.pt2", "README.md"], kinds.TORCH),
        (["saved_model.pb", "variables/variables.index"], kinds.SAVED_MODEL),
        (["pipeline.yaml", "tokenise.py", "classify.py"], kinds.PIPELINE),
        (["spam.py", "weights.npz"], kinds.MDS),
        (["app/__init__.py", "app/spam.py"], kinds.MDS),
        (["spam.py", "model.onnx"], kinds.MDS),
        (["spam.py", "model.pt", "saved_model.pb"], kinds.MDS),
    ],
)
def test_a_folder_is_what_it_holds(tmp_path: Path, files: list[str], kind: Kind) -> None:
    for name in files:
        write(tmp_path / "m" / name, PACKAGE if name.endswith(".py") else b"\x08\x01bytes")
    assert detect(tmp_path / "m") == kind


def test_a_script_beside_a_model_makes_no_package_of_it(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    write(tmp_path / "train.py", "import torch\n")
    assert detect(tmp_path) == kinds.ONNX


def test_the_spec_chooses_among_what_a_folder_may_be(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx")
    write(tmp_path / "spam.py", PACKAGE)
    assert detect(tmp_path) == kinds.MDS
    assert detect(tmp_path, "ONNX") == kinds.ONNX
    assert detect(tmp_path, runtime="ONNXRUNTIME") == kinds.ONNX


def test_the_spec_speaks_for_a_file_whose_name_says_nothing(tmp_path: Path) -> None:
    assert detect(write(tmp_path / "spam.v2"), "ONNX") == kinds.ONNX
    with pytest.raises(LoadFailed, match="is no model that is understood"):
        detect(tmp_path / "spam.v2")


def test_the_words_are_the_specs(tmp_path: Path) -> None:
    for kind in kinds.KINDS:
        assert kind.package_type in PackageType.__members__
        assert kind.runtime in RuntimeType.__members__
    path = write(tmp_path / "m.onnx")
    assert detect(path, PackageType.UNSET_PACKAGETYPE, RuntimeType.UNSET_RUNTIME) == kinds.ONNX
    assert detect(path, PackageType.ONNX, RuntimeType.ONNXRUNTIME) == kinds.ONNX


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("TORCH",), r"the spec says package_type: TORCH, but m\.onnx is of package type ONNX"),
        (("UNSET_PACKAGETYPE", "PYTHON"), r"the spec says runtime: PYTHON, but m\.onnx is .* ONNXRUNTIME"),
        (("ONNX", "PYTORCH"), r"ONNX is served by ONNXRUNTIME, but the spec says runtime: PYTORCH"),
        (("DOCKER_IMAGE",), r"DOCKER_IMAGE: images are for the cluster operators"),
    ],
)
def test_a_spec_that_contradicts_the_artifact_is_refused(
    tmp_path: Path, said: tuple[str, ...], message: str
) -> None:
    with pytest.raises(LoadFailed, match=message):
        detect(write(tmp_path / "m.onnx"), *said)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.pkl", "is a pickle, which can run any code and is never loaded"),
        ("m.joblib", "is a pickle"),
        ("m.keras", "is a Keras file"),
        ("m.safetensors", "holds weights without the model"),
        ("text.yaml", "is a YAML text, and no model"),
        ("saved_model.pb", "is one file of a SavedModel"),
        ("m.txt", r"expected a \.onnx file \(ONNX\); a \.pt, .* a \.py file or a folder of them \(MDS\)"),
    ],
)
def test_a_file_that_is_not_served_is_refused_with_what_to_do(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(LoadFailed, match=message) as caught:
        detect(write(tmp_path / name))
    assert str(tmp_path) not in caught.value.message
    assert caught.value.hint


def test_an_onnx_model_is_one_by_any_name(tmp_path: Path) -> None:
    for name in ("m.model", "m.bin", "m.txt", "m"):
        assert detect(models.mlp(tmp_path / name)) == kinds.ONNX
    assert detect(models.mlp(tmp_path / "m.py")) == kinds.MDS  # a name that says otherwise is believed


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_an_onnx_model_that_was_cut_off_is_told(tmp_path: Path, share: float) -> None:
    path = models.mlp(tmp_path / "m.onnx", (64, 64, 10))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    has = f"it has {path.stat().st_size:,} of at least "
    with pytest.raises(LoadFailed, match=f"m.onnx is an ONNX model that was cut off: {has}") as caught:
        detect(path)
    assert caught.value.hint == "copy or download it again"


def test_a_model_by_the_name_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        LoadFailed, match=r"m\.pt is an ONNX model: expected a file of torch\.export"
    ) as caught:
        detect(models.mlp(tmp_path / "m.pt"))
    assert caught.value.hint == "call it m.onnx"
    with pytest.raises(LoadFailed, match=r"m\.onnx is a file of PyTorch: expected an ONNX model") as caught:
        detect(write_zip(tmp_path / "m.onnx", "m/data.pkl"))
    assert caught.value.hint == "call it m.pt"


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2", "m", "m.bin", "m.safetensors", "m.v2"])
def test_a_pointer_is_told_whatever_name_it_has(tmp_path: Path, name: str) -> None:
    said = f"{name} is a Git LFS pointer, which stands for a file of 12.3 kB: expected "
    with pytest.raises(LoadFailed, match=said) as caught:
        detect(write(tmp_path / name, POINTER))
    assert caught.value.hint is not None
    assert "git lfs pull" in caught.value.hint


@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "saved_model.pb"])
def test_a_pointer_in_a_folder_is_told(tmp_path: Path, name: str) -> None:
    write(tmp_path / "README.md", "a text")
    write(tmp_path / name, POINTER)
    with pytest.raises(LoadFailed, match=f"{name} is a Git LFS pointer"):
        detect(tmp_path)


def test_what_is_no_model_is_told_with_what_is_served(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"^notes\.txt is a text: expected a model$") as caught:
        detect(write(tmp_path / "notes.txt", "call Ann"))
    assert caught.value.hint == f"give the model's own file or folder: {kinds.UNDERSTOOD}"
    with pytest.raises(LoadFailed, match=r"^m\.pkl is a pickle"):
        detect(write(tmp_path / "m.pkl", "call Ann"))  # of such a name there is more to say


def test_a_folder_without_a_model_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "README.md")
    with pytest.raises(LoadFailed, match=r"the folder holds README\.md: no model that is understood"):
        detect(tmp_path)
    with pytest.raises(LoadFailed, match="there is no model absent"):
        detect(tmp_path / "absent")


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds.require("ONNXRUNTIME")
    kinds.require("PYTHON")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for runtime, module in (("PYTORCH", "torch"), ("TENSORFLOW", "tensorflow")):
        with pytest.raises(LoadFailed, match=f"{module} is not installed") as caught:
            kinds.require(runtime)
        assert caught.value.hint == f"run: pip install 'mdslite[{module}]', then restart mdslite"


def test_a_probe_holds_for_one_library_and_its_settings_and_for_our_rules() -> None:
    rules = f"rules {PROBE_RULES}"
    assert kinds.probe_engine("ONNXRUNTIME") == f"{engine.version()} {rules}"
    assert kinds.probe_engine("PYTHON") == f"python {rules}"
    assert kinds.probe_engine("PYTHON", {"b": 1, "a": 2}) == f'python {rules} {{"a": 2, "b": 1}}'


def test_a_build_for_the_cpu_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "tensorflow-cpu": "2.21.0", "onnxruntime-gpu": "1.31.1"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    assert kinds.cpu_build("PYTORCH") == "torch 2.13.0+cpu is a build for the CPU"
    assert kinds.cpu_build("TENSORFLOW") == "tensorflow-cpu 2.21.0 is a build for the CPU"
    assert kinds.cpu_build("ONNXRUNTIME") is None
    versions["torch"] = "2.13.0+cu130"
    assert kinds.cpu_build("PYTORCH") is None
    assert kinds.cpu_build("PYTHON") is None


def test_settings_are_read_from_the_librarys_key() -> None:
    parameter = {"torch": {"threads": 2}, "onnxruntime": None, "env": {}}
    assert kinds.runtime_settings("PYTORCH", parameter) == {"threads": 2}
    assert kinds.runtime_settings("ONNXRUNTIME", parameter) == {}
    assert kinds.runtime_settings("PYTHON", parameter) == {}


def test_no_framework_is_imported_before_a_model_needs_it() -> None:
    code = (
        "import sys, mdslite.appliance, mdslite.runtimes.probe\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)
