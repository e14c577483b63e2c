"""Which devices there are, on which of them replicas go, and what their gauges read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_nvml import GIB, FakeGpu, FakeNvml

from mdslite.errors import LoadFailed, OutOfMemory
from mdslite.runtimes.devices import Devices, matches
from mdslite.runtimes.machine import cores
from mdslite.runtimes.nvidia import Nvml, NvmlError
from mdslite.runtimes.protocol import CPU


@dataclass(frozen=True)
class Wish:
    gpu: int | None = None
    gpu_names: str | None = None


H200 = FakeGpu("NVIDIA H200", "GPU-aaaa", 140 * GIB)
A100 = FakeGpu("NVIDIA A100-SXM4-80GB", "GPU-bbbb", 80 * GIB)


def open_nvml(library: FakeNvml, **environ: str) -> Nvml:
    return Nvml.open(dict(environ), library=library)


def discover(*gpus: FakeGpu, problem: str | None = None) -> Devices:
    return Devices.discover(open_nvml=lambda: open_nvml(FakeNvml(gpus)), problem=lambda: problem)


def labels(devices: Devices, wish: Wish, replicas: int = 1, *, needs_bytes: int = 0) -> list[str]:
    return [device.label for device in devices.place(wish, replicas, needs_bytes=needs_bytes)]


# Finding GPUs


@pytest.mark.parametrize(
    ("failure", "trouble", "said"),
    [
        ("NVMLError_LibraryNotFound", "absent", "no NVIDIA driver"),
        ("NVMLError_DriverNotLoaded", "unloaded", "not loaded"),
        ("NVMLError_LibRmVersionMismatch", "mismatched", "without a restart"),
        ("NVMLError_NoPermission", "forbidden", "may not open"),
        ("NVMLError_Unknown", "failing", "does not answer: it failed"),
    ],
)
def test_a_driver_that_does_not_answer_is_said_in_plain_words(failure: str, trouble: str, said: str) -> None:
    with pytest.raises(NvmlError, match=said) as caught:
        open_nvml(FakeNvml(failure=failure))
    assert caught.value.trouble == trouble


def test_a_machine_without_a_driver_serves_on_the_cpu() -> None:
    library = FakeNvml(failure="NVMLError_LibraryNotFound")
    devices = Devices.discover(open_nvml=lambda: open_nvml(library), problem=lambda: pytest.fail("asked"))
    assert devices.gpus == ()
    assert devices.describe() == ["no GPU found: serving on CPU (mdslite doctor says why)"]
    assert [one.label for one in devices.readings()] == ["cpu"]
    assert labels(devices, Wish(), 2) == ["cpu", "cpu"]


def test_this_machine_s_own_devices_are_found() -> None:
    devices = Devices.discover()
    assert devices.readings()[0].memory_total_bytes
    assert devices.describe()
    devices.close()


def test_a_gpu_that_onnxruntime_cannot_use_is_left_alone() -> None:
    devices = discover(H200, A100, problem="libcublasLt.so.13: cannot open shared object file")
    assert devices.gpus == ()
    assert devices.reason is not None
    assert "2 GPUs found" in devices.reason
    assert "libcublasLt.so.13" in devices.reason


def test_a_driver_that_shows_no_gpu_is_said_so() -> None:
    assert "shows this process no GPU" in (discover().reason or "")


def test_gpus_are_described_by_name_and_memory() -> None:
    assert discover(H200, A100).describe() == [
        "cuda:0: NVIDIA H200, 140 GiB",
        "cuda:1: NVIDIA A100-SXM4-80GB, 80 GiB",
    ]


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("0,1", ["NVIDIA H200", "NVIDIA A100-SXM4-80GB"]),
        ("1,0", ["NVIDIA A100-SXM4-80GB", "NVIDIA H200"]),
        ("1", ["NVIDIA A100-SXM4-80GB"]),
        ("GPU-bb", ["NVIDIA A100-SXM4-80GB"]),
        ("GPU-", []),
        ("0,7,1", ["NVIDIA H200"]),
        ("0,0", ["NVIDIA H200"]),
        ("MIG-1", ["NVIDIA H200 MIG 1g.18gb"]),
        ("MIG-2", []),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_counted_as_cuda_counts_them(visible: str, found: list[str]) -> None:
    library = FakeNvml([H200, A100], mig={"MIG-1": FakeGpu("NVIDIA H200 MIG 1g.18gb")})
    nvml = open_nvml(library, CUDA_VISIBLE_DEVICES=visible)
    assert [gpu.name for gpu in nvml.gpus] == found
    assert [gpu.index for gpu in nvml.gpus] == list(range(len(found)))


def test_cuda_is_told_to_count_by_the_bus_unless_it_was_told_otherwise() -> None:
    environ: dict[str, str] = {}
    Nvml.open(environ, library=FakeNvml([H200]))
    assert environ == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    environ["CUDA_DEVICE_ORDER"] = "FASTEST_FIRST"
    Nvml.open(environ, library=FakeNvml([H200]))
    assert environ == {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}


def test_the_driver_s_cuda_version_is_read() -> None:
    assert open_nvml(FakeNvml(cuda=12040)).cuda_version == "12.4"


# Placing


def test_a_library_for_the_cpu_stays_there_unless_a_gpu_is_insisted_on() -> None:
    devices = discover(H200)
    reason = "torch 2.13.0+cpu is a build for the CPU"
    assert [one.label for one in devices.place(Wish(), 2, cpu_only=reason)] == ["cpu", "cpu"]
    for wish in (Wish(gpu=1), Wish(gpu_names="H200")):
        with pytest.raises(
            LoadFailed, match=r"asks for a GPU, but torch 2\.13\.0\+cpu is a build for the CPU"
        ):
            devices.place(wish, 1, cpu_only=reason)
    with pytest.raises(LoadFailed, match="shows this process no GPU"):
        discover().place(Wish(gpu=1), 1, cpu_only=reason)


def test_a_gpu_is_taken_where_there_is_one_unless_the_spec_says_none() -> None:
    devices = discover(H200)
    assert labels(devices, Wish()) == ["cuda:0"]
    assert labels(devices, Wish(gpu=1)) == ["cuda:0"]
    assert devices.place(Wish(gpu=0), 1) == [CPU]
    assert devices.place(Wish(gpu=0, gpu_names="H200"), 1) == [CPU]


@pytest.mark.parametrize("wish", [Wish(gpu=1), Wish(gpu_names="H200")])
def test_a_gpu_that_is_insisted_on_and_absent_is_refused(wish: Wish) -> None:
    devices = Devices(reason="there is no NVIDIA driver on this machine")
    with pytest.raises(LoadFailed, match="asks for a GPU, but there is no NVIDIA driver") as caught:
        devices.place(wish, 1)
    assert caught.value.hint is not None
    assert "mdslite doctor" in caught.value.hint


def test_a_replica_takes_one_gpu() -> None:
    with pytest.raises(LoadFailed, match="a replica computes on one GPU"):
        discover(H200, A100).place(Wish(gpu=2), 1)


def test_a_gpu_is_chosen_by_name() -> None:
    devices = discover(H200, A100)
    assert labels(devices, Wish(gpu_names="A100*")) == ["cuda:1"]
    assert labels(devices, Wish(gpu_names="V100, H200")) == ["cuda:0"]
    with pytest.raises(
        LoadFailed, match='no GPU is named "V100": there is NVIDIA A100-SXM4-80GB, NVIDIA H200'
    ):
        devices.place(Wish(gpu_names="V100"), 1)


def test_replicas_spread_over_gpus_of_a_kind() -> None:
    devices = discover(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b"))
    assert labels(devices, Wish(), 4) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_replicas_go_where_memory_is_free() -> None:
    devices = discover(FakeGpu(used_bytes=100 * GIB), FakeGpu(used_bytes=20 * GIB))
    assert labels(devices, Wish(), 4, needs_bytes=30 * GIB) == ["cuda:1", "cuda:1", "cuda:1", "cuda:0"]


def test_replicas_that_do_not_fit_are_refused_with_the_numbers() -> None:
    devices = discover(FakeGpu(used_bytes=100 * GIB))
    with pytest.raises(OutOfMemory, match=r"cuda:0 has 40\.0 GiB free, but a replica needs 50\.0 GiB"):
        devices.place(Wish(), 1, needs_bytes=50 * GIB)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("NVIDIA H200", "H200", True),
        ("NVIDIA H200", "h200", True),
        ("NVIDIA H200 NVL", "H200", True),
        ("NVIDIA H200", "NVIDIA H200", True),
        ("NVIDIA H200", "*", True),
        ("NVIDIA A100-SXM4-80GB", "A100*", True),
        ("NVIDIA A100-SXM4-80GB", "A10", False),
        ("NVIDIA A100-SXM4-80GB", "A10?", True),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", True),
        ("NVIDIA GeForce RTX 4090", "RTX.4090", False),
        ("NVIDIA L40S", "L40", False),
    ],
)
def test_a_name_pattern_matches_whole_words(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, pattern) is expected


# Reading


def test_readings_are_in_their_units() -> None:
    host, gpu = discover(FakeGpu(used_bytes=3 * GIB)).readings()
    assert host.label == "cpu"
    assert (gpu.label, gpu.name) == ("cuda:0", "NVIDIA H200")
    assert (gpu.utilization_percent, gpu.temperature_c, gpu.power_w) == (37.0, 51, 123.0)
    assert (gpu.memory_used_bytes, gpu.memory_total_bytes) == (3 * GIB, 140 * GIB)


def test_a_reading_that_a_gpu_does_not_offer_is_none() -> None:
    lacks = frozenset({"utilization", "temperature", "power", "memory"})
    _, gpu = discover(FakeGpu(lacks=lacks)).readings()
    assert (gpu.utilization_percent, gpu.temperature_c, gpu.power_w) == (None, None, None)
    assert gpu.memory_used_bytes is None


def test_a_gpu_that_hides_its_memory_is_used_all_the_same() -> None:
    assert labels(discover(FakeGpu(lacks=frozenset({"memory"}))), Wish()) == ["cuda:0"]


def test_closed_devices_let_go_of_the_library() -> None:
    library = FakeNvml([H200])
    devices = Devices.discover(open_nvml=lambda: open_nvml(library), problem=lambda: None)
    assert library.open
    devices.close()
    devices.close()
    assert not library.open


def test_a_container_s_quota_limits_the_cores(tmp_path: Path) -> None:
    limits = tmp_path / "cpu.max"
    unlimited = cores(limits=limits)
    limits.write_text("max 100000\n")
    assert cores(limits=limits) == unlimited
    limits.write_text("50000 100000\n")
    assert cores(limits=limits) == 1
