"""What `mdslite doctor` says of a machine's packages, GPUs and memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_nvml import GIB, FakeGpu, FakeNvml

from mdslite.findings import Finding
from mdslite.runtimes import engine
from mdslite.runtimes.check import check_machine
from mdslite.runtimes.nvidia import Nvml

GOOD = {"onnxruntime-gpu": "1.31.1", "nvidia-ml-py": "13"}


def check(
    library: FakeNvml,
    *,
    packages: dict[str, str] = GOOD,
    problem: str | None = None,
    pci: Path = Path("/nowhere"),
) -> list[Finding]:
    return check_machine(
        installed=lambda: packages,
        open_nvml=lambda: Nvml.open({}, library=library),
        problem=lambda: problem,
        pci=pci,
    )


def only(findings: list[Finding], level: str) -> Finding:
    (found,) = [one for one in findings if one.level == level]
    return found


NO_DRIVER = FakeNvml(failure="NVMLError_LibraryNotFound")


def test_a_sound_machine_has_only_good_findings() -> None:
    findings = check(FakeNvml([FakeGpu()]))
    assert {one.level for one in findings} == {"ok"}
    assert any("computes on the CPU" in one.what for one in findings)
    assert any("computes on CUDA" in one.what for one in findings)
    assert any(one.what == "cuda:0: NVIDIA H200, 140 GiB" for one in findings)


def test_this_machine_is_looked_at() -> None:
    assert any("computes on the CPU" in one.what for one in check_machine())


def test_both_builds_of_onnxruntime_are_an_error() -> None:
    found = only(check(NO_DRIVER, packages=GOOD | {"onnxruntime": "1.31.1"}), "error")
    assert "both installed" in found.what
    assert found.hint is not None
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in found.hint


def test_the_deprecated_nvml_package_is_a_warning() -> None:
    assert "pynvml" in only(check(NO_DRIVER, packages=GOOD | {"pynvml": "12"}), "warning").what


def test_a_machine_without_a_gpu_is_fine() -> None:
    findings = check(NO_DRIVER)
    assert {one.level for one in findings} == {"ok"}
    assert any("no NVIDIA GPU" in one.what for one in findings)


def test_a_gpu_without_a_driver_is_an_error(tmp_path: Path) -> None:
    for name, vendor, kind in (("a", "0x8086", "0x030000"), ("b", "0x10de", "0x030200")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "c").mkdir()
    assert "no driver for it" in only(check(NO_DRIVER, pci=tmp_path), "error").what


@pytest.mark.parametrize(
    ("failure", "hint"),
    [
        ("NVMLError_DriverNotLoaded", "modprobe nvidia"),
        ("NVMLError_LibRmVersionMismatch", "restart the machine"),
        ("NVMLError_NoPermission", "/dev/nvidia"),
        ("NVMLError_Unknown", "nvidia-smi"),
    ],
)
def test_a_driver_in_trouble_is_an_error_with_its_cure(failure: str, hint: str) -> None:
    found = only(check(FakeNvml(failure=failure)), "error")
    assert found.hint is not None
    assert hint in found.hint


@pytest.mark.skipif(not getattr(engine.load(), "cuda_version", ""), reason="a build without CUDA")
def test_a_driver_too_old_for_onnxruntime_is_an_error() -> None:
    found = only(check(FakeNvml([FakeGpu()], cuda=11080)), "error")
    assert "runs CUDA up to 11.8" in found.what


def test_missing_cuda_libraries_name_the_extra_that_brings_them() -> None:
    found = only(check(FakeNvml([FakeGpu()]), problem="libcublasLt.so.13: cannot open"), "error")
    assert "libcublasLt.so.13" in found.what
    assert found.hint is not None
    assert "mdslite[cuda]" in found.hint


def test_a_gpu_with_the_build_for_the_cpu_names_the_other_one() -> None:
    found = only(check(FakeNvml([FakeGpu()]), packages={"onnxruntime": "1"}, problem="no provider"), "error")
    assert found.hint is not None
    assert "onnxruntime-gpu" in found.hint


def test_a_driver_that_shows_no_gpu_is_a_warning() -> None:
    assert "shows this process no GPU" in only(check(FakeNvml()), "warning").what


def test_a_full_gpu_is_a_warning() -> None:
    found = only(check(FakeNvml([FakeGpu(used_bytes=139 * GIB)])), "warning")
    assert found.what == "cuda:0 (NVIDIA H200) has only 1.0 of 140.0 GiB free"


def test_the_library_is_closed_again() -> None:
    library = FakeNvml([FakeGpu()])
    check(library)
    assert not library.open
