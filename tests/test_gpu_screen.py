"""GPUs from NVIDIA's own functions to the dashboard's screen of devices: what they say, what they do not say,
several of them, and divided ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from scenes import NOW, agree, make_history, make_scene, make_version

from mdslite.history import History
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.nvidia import Nvml, Reading
from mdslite.tui.gpu import pane_lines
from mdslite.tui.header import header_lines
from mdslite.tui.lines import cells, fill, plain
from mdslite.tui.snapshot import Snapshot, View

pytest.importorskip("pynvml")

from nvml_library import Board, installed

GIB = 1 << 30
HOST = Reading("cpu", "CPU", 20.0, 8 * GIB, 32 * GIB)
H200 = Board("NVIDIA H200", "GPU-aaaa", 141 * GIB, 60 * GIB, 63, 51, 412_345)
SLICE = Board("NVIDIA H200 MIG 1g.18gb", "MIG-1111", 18 * GIB, 2 * GIB, is_part=True)
DIVIDED = Board("NVIDIA H200", "GPU-bbbb", 141 * GIB, 3 * GIB, None, 44, 98_000, parts=(SLICE,))
GEFORCE = Board("NVIDIA GeForce RTX 4090", "GPU-cccc", 24 * GIB, 9 * GIB, 7, 38, None)
SHARED = Board("NVIDIA GB10", "GPU-dddd", None, 0, 12, 47, 30_100)  # its memory is the host's
MUTE = Board("NVIDIA T1000", "GPU-eeee", 4 * GIB, GIB)


def read(*boards: Board, visible: str | None = None) -> Sequence[Reading]:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with installed(*boards) as library:
        devices = Devices.discover(
            open_nvml=lambda: Nvml.open(environ, library=library), problem=lambda: None
        )
        try:
            return [HOST, *devices.readings()[1:]]  # whatever this machine is at
        finally:
            devices.close()


def scene(readings: Sequence[Reading]) -> Snapshot:
    """What the API tells of these devices, read once a second for two minutes."""
    now = NOW - 120
    history = History(lambda: readings, lambda: 0, clock=lambda: now)
    for _ in range(120):
        now += 1.0
        history.sample()
    past = history.between()
    kept = [
        {
            **msgspec.to_builtins(reading),
            **{name: [None if one != one else one for one in values] for name, values in columns.items()},
        }
        for reading, columns in past.devices
    ]
    status = {**(make_scene().status or {}), "devices": msgspec.to_builtins(list(readings))}
    versions = [make_version("v1", 100, device="cuda:0", memory_bytes=2_000_000_000)]
    return make_scene(
        status=status,
        models=[{"project": "vision", "model": "resnet50", "versions": versions}],
        history={**make_history(), "times": past.times, "queue_rows": past.queue_rows, "devices": kept},
        view=View(pane="gpu", span_s=60),
    )


def drawn(readings: Sequence[Reading], width: int, height: int) -> str:
    lines, _ = pane_lines(width, height, scene(readings))
    assert len(lines) <= height
    return "\n".join(plain(line).rstrip() for line in fill(lines, width, height))


def test_a_gpu_is_read_through_the_real_library() -> None:
    _, gpu = read(H200)
    assert gpu == Reading("cuda:0", "NVIDIA H200", 63.0, 60 * GIB, 141 * GIB, 51, 412.345)


@pytest.mark.parametrize(
    ("board", "unknown"),
    [
        (GEFORCE, {"power_w"}),
        (SHARED, {"memory_used_bytes", "memory_total_bytes"}),
        (MUTE, {"utilization_percent", "temperature_c", "power_w"}),
    ],
)
def test_what_a_gpu_does_not_say_is_not_known(board: Board, unknown: set[str]) -> None:
    _, gpu = read(board)
    values: dict[str, Any] = msgspec.to_builtins(gpu)
    assert {name for name, value in values.items() if value is None} == unknown


def test_of_a_divided_gpu_cuda_sees_one_part_and_nothing_else() -> None:
    for boards, visible in (
        ((DIVIDED,), None),
        ((H200, DIVIDED), None),
        ((DIVIDED, H200), "0,1"),
        ((H200, DIVIDED), "MIG-1111"),
    ):
        found = read(*boards, visible=visible)[1:]
        assert [(one.label, one.name) for one in found] == [("cuda:0", SLICE.name)]
        assert (found[0].memory_total_bytes, found[0].utilization_percent) == (18 * GIB, None)
    assert [one.name for one in read(H200, DIVIDED, visible="0")[1:]] == ["NVIDIA H200"]
    empty = Board("NVIDIA H200", "GPU-ffff", 141 * GIB, parts=())
    assert [one.label for one in read(empty)] == ["cpu"]


@pytest.mark.parametrize(("width", "height"), [(78, 18), (98, 24), (138, 39)])
@pytest.mark.parametrize(
    "boards",
    [(H200,), (SHARED,), (MUTE,), (DIVIDED,), (H200, GEFORCE), (H200, MUTE, SHARED, GEFORCE), (H200,) * 8],
)
def test_every_device_and_the_queues_are_seen_at_any_size(
    boards: tuple[Board, ...], width: int, height: int
) -> None:
    # Boards are told apart by their UUIDs.
    several = [
        Board(one.name, f"GPU-{at}", one.total_bytes, one.used_bytes, one.utilization, one.temperature)
        if len(boards) > 2
        else one
        for at, one in enumerate(boards)
    ]
    text = drawn(read(*several), width, height)
    for at in range(len(boards)):
        assert f"cuda:{at}" in text
    for word in ("host", "queues", "VERSION", "resnet50"):
        assert word in text
    assert "None" not in text and "nan" not in text
    assert max(map(cells, text.split("\n"))) <= width


def test_what_is_not_told_is_said_in_words() -> None:
    text = drawn(read(DIVIDED), 98, 24)
    assert "NVIDIA H200 MIG 1g.18gb" in text
    assert "2.1G of 19G" in text
    assert "does not tell" in text
    assert "VRAM" not in drawn(read(SHARED), 98, 24)


def test_heat_and_power_are_seen_in_the_smallest_terminal() -> None:
    assert "51°C 412W" in drawn(read(H200), 78, 18)


@pytest.mark.parametrize("width", [80, 100, 140, 200])
@pytest.mark.parametrize("board", [H200, GEFORCE, SHARED, MUTE, DIVIDED])
def test_the_header_has_what_there_is(board: Board, width: int) -> None:
    line = plain(header_lines(width, scene(read(board)))[1])
    assert line.startswith(" GPU0 ")
    assert ("%" in line.split("VRAM")[0].split("CPU")[0]) == (board.utilization is not None)
    assert ("VRAM" in line) == (board.total_bytes is not None)
    assert "- %" not in line and "-%" not in line and "-°C" not in line


def test_eight_gpus_look_like_this() -> None:
    boards = [
        Board("NVIDIA H200", f"GPU-{at}", 141 * GIB, at * 17 * GIB, at * 13, 40 + at, 100_000 * at)
        for at in range(8)
    ]
    agree("gpus-78x18", drawn(read(*boards), 78, 18))
    agree("gpus-138x39", drawn(read(*boards), 138, 39))
