"""PyTorch files that may not be loaded: pickles, damage, code of their own, crashes; in a child at first."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from mdslite.errors import LoadFailed
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import LoadOptions, ProbeReport
from mdslite.runtimes.pytorch import TorchRuntime

pytest.importorskip("torch")
import torch
import torch_models as tm

DEADLINE_S = 50.0


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tm.export(tmp_path_factory.mktemp("exported") / "m.pt2", tm.Mlp(), torch.zeros(2, 4))


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tm.script(tmp_path_factory.mktemp("scripted") / "m.pt", tm.Mlp())


class Canary:
    """Unpickled, it makes a folder where it says."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._place),)


def probe(prober: Prober, path: Path, *, timeout_s: float = DEADLINE_S, **settings: Any) -> ProbeReport:
    return prober.probe("PYTORCH", path, LoadOptions(settings=settings), timeout_s=timeout_s)


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes], **added: bytes) -> Path:
    """Copy an archive, its members changed by `change(name, content)` and others added; `__` in their names
    stands for a slash."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, change(name, old.read(info)))
        for name, content in added.items():
            new.writestr(f"{top}/{name.replace('__', '/')}", content)
    return target


def same(_: str, content: bytes) -> bytes:
    return content


def program(change: Callable[[Any], None]) -> Callable[[str, bytes], bytes]:
    """A change of an exported program's JSON."""

    def apply(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        tree = json.loads(content)
        change(tree)
        return json.dumps(tree).encode()

    return apply


def refuse(path: Path, message: str) -> LoadFailed:
    """See to it that a file is refused before PyTorch opens it."""
    with pytest.raises(LoadFailed, match=message) as caught:
        TorchRuntime().inspect(path)
    with pytest.raises(LoadFailed, match=message):
        TorchRuntime().open(path, LoadOptions())
    assert str(path.parent) not in caught.value.message
    return caught.value


# The child's report


def test_a_child_reports_what_a_model_is(prober: Prober, exported: Path, scripted: Path) -> None:
    for path in (exported, scripted):
        report = probe(prober, path)
        assert (report.signature.rows, report.bounded) == ("free", True)
        assert [one.name for one in report.signature.outputs] == ["output"]
        assert 0 <= report.memory_bytes < 50_000_000


def test_the_process_that_forks_stays_single_threaded_with_pytorch_in_it(
    prober: Prober, scripted: Path
) -> None:
    probe(prober, scripted)
    assert prober.pid is not None
    zygote = psutil.Process(prober.pid)
    assert any("libtorch" in one.path for one in zygote.memory_maps())
    assert zygote.num_threads() == 1


def test_a_child_is_told_what_the_file_does_not_say(prober: Prober, tmp_path: Path) -> None:
    path = tm.script(tmp_path / "m.pt", tm.Identity())
    with pytest.raises(LoadFailed, match="TorchScript does not say"):
        probe(prober, path)
    stated = {"name": "x", "datatype": "FP16", "shape": [-1, 3]}
    assert probe(prober, path, inputs=[stated]).signature.inputs[0].datatype == "FP16"


def test_the_memory_of_a_model_is_measured(prober: Prober, tmp_path: Path) -> None:
    size = 16 << 20
    path = tm.trace(tmp_path / "m.pt", tm.Mlp((4, size // 32, 3)), torch.zeros(2, 4))
    assert size // 2 < probe(prober, path).memory_bytes < 16 * size


def test_a_model_that_crashes_the_runtime_ends_its_child_only(
    prober: Prober, tmp_path: Path, scripted: Path
) -> None:
    deep = b"(" * 100_000

    def nest(name: str, content: bytes) -> bytes:
        return content.replace(b"return ", b"return " + deep) if name.startswith("code/") else content

    with pytest.raises(LoadFailed, match=r"m\.pt crashed the runtime \(SIGSEGV\) while it was opened"):
        probe(prober, rewrite(scripted, tmp_path / "m.pt", nest))
    assert probe(prober, scripted).bounded


def test_a_model_that_never_ends_is_given_up(prober: Prober, tmp_path: Path, scripted: Path) -> None:
    class Endless(tm.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            while bool(torch.isfinite(x).all()):
                y = y + 1
            return y

    path = tm.script(tmp_path / "m.pt", Endless())
    probe(prober, scripted)  # so that PyTorch is imported
    with pytest.raises(LoadFailed, match=r"did not come to an end while it was opened: 0\.5 s were allowed"):
        probe(prober, path, timeout_s=0.5)


# Pickles


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_refused_with_what_to_do_instead(
    prober: Prober, tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "m.pt"
    torch.save(tm.Mlp(), path, _use_new_zipfile_serialization=zipped)
    error = refuse(path, r"m\.pt is a pickle of torch\.save.* which can run any code and is never loaded")
    assert "torch.export.save(program" in str(error.hint)
    with pytest.raises(LoadFailed, match="never loaded"):
        probe(prober, path)


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    torch.save(tm.Mlp().state_dict(), tmp_path / "m.pth")
    refuse(tmp_path / "m.pth", r"m\.pth is a pickle of torch\.save \(a module or its weights\)")


def test_a_pickle_inside_an_exported_program_is_never_run(tmp_path: Path, exported: Path) -> None:
    canary = tmp_path / "canary"
    content = io.BytesIO()
    torch.save(({"x": Canary(canary)},), content)

    def poison(name: str, old: bytes) -> bytes:
        return content.getvalue() if name == "data/sample_inputs/model.pt" else old

    refuse(rewrite(exported, tmp_path / "m.pt2", poison), "holds a pickle that is more than plain tensors")
    assert not canary.exists()


def test_a_weight_that_is_a_pickle_is_never_run(tmp_path: Path, exported: Path) -> None:
    canary = tmp_path / "canary"

    def poison(name: str, content: bytes) -> bytes:
        if name == "data/weights/model_weights_config.json":
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return pickle.dumps(Canary(canary)) if name == "data/weights/weight_0" else content

    refuse(rewrite(exported, tmp_path / "m.pt2", poison), "holds a pickle that is more than plain tensors")
    assert not canary.exists()


@pytest.mark.parametrize(
    "member",
    ["data__constants__opaque_obj_0", "data__constants__custom_obj_0", "data__aotinductor__model__m.so"],
)
def test_compiled_code_and_objects_are_refused(tmp_path: Path, exported: Path, member: str) -> None:
    path = rewrite(exported, tmp_path / "m.pt2", same, **{member: b"bytes"})
    refuse(path, f"holds {member.replace('__', '/')}: compiled code and Python objects are never loaded")


# Code in other places


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.mro",
        "torch.ops.higher_order.triton_kernel_wrapper_mutation",
        "_operator.attrgetter",
        "builtins.eval",
    ],
)
def test_a_function_that_is_no_operator_is_refused(tmp_path: Path, exported: Path, target: str) -> None:
    def change(tree: Any) -> None:
        tree["graph_module"]["graph"]["nodes"][0]["target"] = target

    refuse(rewrite(exported, tmp_path / "m.pt2", program(change)), f"holds '{target}' as target")


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').mkdir('canary')",
        "exec(Symbol('s0'))",
        "Symbol('s0').__class__",
        "[s0 for s0 in s1]",
        "lambda: s0",
        "'a b'",
    ],
)
def test_a_size_that_is_no_expression_is_refused(tmp_path: Path, exported: Path, expression: str) -> None:
    def change(tree: Any) -> None:
        tree["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = expression

    refuse(rewrite(exported, tmp_path / "m.pt2", program(change)), "as expr_str: the exporter writes no such")


def test_names_that_would_become_source_are_refused(tmp_path: Path, exported: Path) -> None:
    def rename_node(tree: Any) -> None:
        tree["graph_module"]["graph"]["nodes"][0]["name"] = "x = exit(); y"

    def rename_weight(tree: Any) -> None:
        spec = tree["graph_module"]["signature"]["input_specs"][0]["parameter"]
        spec["parameter_name"] = 'a", exit(), "b'

    refuse(rewrite(exported, tmp_path / "1.pt2", program(rename_node)), "as name")
    refuse(rewrite(exported, tmp_path / "2.pt2", program(rename_weight)), "as parameter_name")


@pytest.mark.parametrize(
    "call", [b'torch.save(x, "canary")', b'torch.from_file("canary")', b"ops.image.read_file()"]
)
def test_a_script_that_handles_files_is_refused(tmp_path: Path, scripted: Path, call: bytes) -> None:
    def change(name: str, content: bytes) -> bytes:
        return content.replace(b"return ", call + b"\n    return ") if name.startswith("code/") else content

    refuse(rewrite(scripted, tmp_path / "m.pt", change), "a served model may not read or write files")


# Damage


@pytest.mark.parametrize("form", ["exported", "scripted"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(
    tmp_path: Path, form: str, part: float, request: pytest.FixtureRequest
) -> None:
    whole: Path = request.getfixturevalue(form)
    content = whole.read_bytes()
    path = tmp_path / whole.name
    path.write_bytes(content[: int(len(content) * part)])
    refuse(path, r"is damaged or cut off: expected a file of torch\.export\.save or torch\.jit\.save")


def test_an_archive_that_two_readers_may_read_differently_is_refused(tmp_path: Path, exported: Path) -> None:
    content = exported.read_bytes()
    comment = content[:-2] + len(content).to_bytes(4, "little")[:2] + content
    for number, changed in enumerate((content + b"\0", b"\0" + content, comment, content + content)):
        path = tmp_path / f"{number}.pt2"
        path.write_bytes(changed)
        refuse(path, "is damaged or cut off|was not written by PyTorch")
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = rewrite(exported, tmp_path / "twice.pt2", same, **{"models__model.json": b"{}"})
    refuse(path, "is damaged or cut off")


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(b"#!/bin/sh\n")
    refuse(path, r"m\.pt was not written by PyTorch")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", b"text")
    refuse(path, r"m\.pt was not written by PyTorch")


def test_a_program_that_is_no_program_is_refused(tmp_path: Path, exported: Path) -> None:
    def ruin(name: str, content: bytes) -> bytes:
        return b"[" if name == "models/model.json" else content

    refuse(rewrite(exported, tmp_path / "1.pt2", ruin), "is damaged or cut off")

    def empty(name: str, content: bytes) -> bytes:
        return b"{}" if name == "models/model.json" else content

    path = rewrite(exported, tmp_path / "2.pt2", empty)
    with pytest.raises(LoadFailed, match=r"2\.pt2: torch refused the model"):
        TorchRuntime().open(path, LoadOptions())


def test_an_archive_without_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/archive_format", b"pt2")
    refuse(path, "holds no exported program")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", b"{}")
    refuse(path, r"was exported by a PyTorch older than 2\.8")


def test_a_folder_holds_one_model_or_one_of_that_name(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(LoadFailed, match=r"the folder holds no \.pt, \.pth, \.ts or \.pt2 file"):
        TorchRuntime().inspect(tmp_path)
    for name in ("a.pt2", "b.pt2"):
        (tmp_path / name).write_bytes(exported.read_bytes())
    with pytest.raises(LoadFailed, match=r"the folder holds a\.pt2, b\.pt2: expected one"):
        TorchRuntime().inspect(tmp_path)
    (tmp_path / "a.pt2").rename(tmp_path / "model.pt2")
    assert TorchRuntime().open(tmp_path, LoadOptions()).signature.rows == "free"
