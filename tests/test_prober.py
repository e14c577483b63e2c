"""Models tried in a disposable child: what it reports, what its end means, and what it must not have."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import models
import numpy as np
import odd_models
import psutil  # type: ignore[import-untyped]
import pytest
from waiting import hold_on

from mdslite.errors import LoadFailed, OutOfMemory
from mdslite.runtimes import engine
from mdslite.runtimes.probe import NICENESS, STACK_BYTES
from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import Device, LoadOptions, ProbeReport, TensorSpec, Trial

DEADLINE_S = 30.0
LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    made = Prober()
    yield made
    made.close()


def probe(prober: Prober, path: Path, *, timeout_s: float = DEADLINE_S) -> ProbeReport:
    return prober.probe("ONNXRUNTIME", path, LoadOptions(), timeout_s=timeout_s)


def zygote_of(prober: Prober) -> psutil.Process:
    prober.start()
    assert prober.pid is not None
    return psutil.Process(prober.pid)


def start_probe(prober: Prober, path: Path, trial: Trial | None = None) -> tuple[threading.Thread, list[str]]:
    """Probe in a thread of its own; the list gets the message of the error that ends it."""
    messages: list[str] = []

    def run() -> None:
        try:
            prober.probe("ONNXRUNTIME", path, LoadOptions(), timeout_s=DEADLINE_S, trial=trial)
        except LoadFailed as exc:
            messages.append(exc.message)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, messages


# Reports


def test_a_model_s_signature_and_cost_are_reported(prober: Prober, tmp_path: Path) -> None:
    report = probe(prober, models.mlp(tmp_path / "m.onnx", (4, 8, 3)))
    assert report.signature.rows == "free"
    assert report.signature.inputs == (TensorSpec("x", "FP32", (None, 4)),)
    assert report.bounded
    assert report.load_s > 0


def test_weights_count_as_memory_inside_the_file_and_outside(prober: Prober, tmp_path: Path) -> None:
    inside = models.mlp(tmp_path / "inside.onnx", (1500, 1500, 3))
    assert probe(prober, inside).memory_bytes > 8 << 20
    outside = models.added_weights(tmp_path / "outside.onnx", size=1500)
    assert probe(prober, outside).memory_bytes > 8 << 20


def test_the_reported_rows_are_those_that_a_run_showed(prober: Prober, tmp_path: Path) -> None:
    assert probe(prober, odd_models.unranked(tmp_path / "a.onnx")).signature.rows == "free"
    assert probe(prober, odd_models.collapsing(tmp_path / "b.onnx")).signature.rows == "none"


def test_a_model_that_refuses_made_up_inputs_is_accepted(prober: Prober, tmp_path: Path) -> None:
    assert probe(prober, models.gather(tmp_path / "m.onnx", offset=-100)).signature.rows == "free"


def test_weights_beside_the_model_are_found(prober: Prober, tmp_path: Path) -> None:
    models.external(tmp_path / "m.onnx")
    assert probe(prober, tmp_path / "m.onnx").signature == probe(prober, tmp_path).signature


def test_probes_from_several_threads_wait_for_each_other(prober: Prober, tmp_path: Path) -> None:
    paths = [models.identity(tmp_path / f"{width}.onnx", shape=("N", width)) for width in range(1, 7)]
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda path: probe(prober, path), paths))
    assert [report.signature.inputs[0].shape[1] for report in reports] == [1, 2, 3, 4, 5, 6]


# Refusals


def test_a_model_that_crashes_the_runtime_is_refused(prober: Prober, tmp_path: Path) -> None:
    with pytest.raises(
        LoadFailed, match=r"m\.onnx crashed the runtime \(SIGSEGV\) while it was opened"
    ) as caught:
        probe(prober, odd_models.crashing(tmp_path / "m.onnx"))
    assert caught.value.hint is not None
    assert probe(prober, models.mlp(tmp_path / "sound.onnx")).bounded


@pytest.mark.parametrize("build", [models.loop, models.words], ids=["loop", "texts"])
def test_a_model_with_a_loop_or_texts_is_reported_as_unbounded(
    prober: Prober, tmp_path: Path, build: Any
) -> None:
    assert not probe(prober, build(tmp_path / "m.onnx")).bounded


@pytest.mark.parametrize(("build", "said"), odd_models.BROKEN)
def test_a_broken_model_is_refused_with_the_reason(
    prober: Prober, tmp_path: Path, build: Any, said: str
) -> None:
    with pytest.raises(LoadFailed, match=said) as caught:
        probe(prober, build(tmp_path / "m.onnx"))
    assert str(tmp_path) not in caught.value.message


def test_a_model_that_never_ends_is_refused_in_time(prober: Prober, tmp_path: Path) -> None:
    path = models.loop(tmp_path / "m.onnx", endless=True)
    with pytest.raises(LoadFailed, match=r"did not come to an end in its first run: 0\.5 s were allowed"):
        probe(prober, path, timeout_s=0.5)
    assert probe(prober, models.mlp(tmp_path / "sound.onnx")).bounded


def test_a_model_too_large_for_memory_is_told_apart(prober: Prober, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        probe(prober, models.hungry(tmp_path / "m.onnx", extra=1 << 50))


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink", "hardlink"])
def test_weights_from_elsewhere_are_refused(prober: Prober, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    location = {"parent": "../secret.bin", "absolute": str(secret)}.get(kind, "w.bin")
    if kind == "symlink":
        (folder / location).symlink_to(secret)
    if kind == "hardlink":
        os.link(secret, folder / location)
    models.external(folder / "m.onnx", location=location, write=False)
    for path in (folder, folder / "m.onnx"):
        with pytest.raises(LoadFailed, match="the model keeps weights in"):
            probe(prober, path)


@pytest.mark.skipif(engine.cuda_problem() is None, reason="CUDA works here")
def test_a_gpu_that_is_not_there_is_refused_with_the_reason(prober: Prober, tmp_path: Path) -> None:
    options = LoadOptions(device=Device("cuda"))
    with pytest.raises(LoadFailed) as caught:
        prober.probe("ONNXRUNTIME", models.mlp(tmp_path / "m.onnx"), options, timeout_s=DEADLINE_S)
    assert "cuda" in caught.value.message.lower()


# The processes


def test_a_zygote_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = models.mlp(tmp_path / "m.onnx")
    with contextlib.closing(Prober()) as prober:
        probe(prober, path)
        zygote = zygote_of(prober)
        zygote.kill()
        hold_on(lambda: zygote.status() == psutil.STATUS_ZOMBIE)
        assert probe(prober, path).bounded


def test_a_closed_prober_leaves_no_process_and_may_be_used_again(tmp_path: Path) -> None:
    path = models.mlp(tmp_path / "m.onnx")
    before = psutil.Process().children()
    with contextlib.closing(Prober()) as prober:
        prober.start()
        prober.start()
        assert len(psutil.Process().children()) == len(before) + 1
        prober.close()
        assert psutil.Process().children() == before
        assert probe(prober, path).bounded
    assert psutil.Process().children() == before


def test_a_trial_that_is_given_up_ends_with_its_process_and_others_go_on(tmp_path: Path) -> None:
    endless, sound = models.loop(tmp_path / "endless.onnx", endless=True), models.mlp(tmp_path / "m.onnx")
    with contextlib.closing(Prober()) as prober:
        zygote = zygote_of(prober)
        first, second = Trial(), Trial()
        thread, messages = start_probe(prober, endless, first)
        hold_on(lambda: bool(zygote.children()))
        (child,) = zygote.children()
        behind, told = start_probe(prober, sound, second)
        third, unharmed = start_probe(prober, sound)
        second.give_up()
        first.give_up()
        for one in (thread, behind, third):
            one.join(DEADLINE_S)
            assert not one.is_alive()
        hold_on(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert messages == ["the process that tries models ended"]
        assert told == ["nobody waits for the model any more"]
        assert unharmed == []
        first.give_up()
        assert probe(prober, sound).bounded


def test_closing_ends_a_probe_under_way(tmp_path: Path) -> None:
    with contextlib.closing(Prober()) as prober:
        zygote = zygote_of(prober)
        thread, messages = start_probe(prober, models.loop(tmp_path / "m.onnx", endless=True))
        hold_on(lambda: bool(zygote.children()))
        (child,) = zygote.children()
        prober.close()
        thread.join(DEADLINE_S)
    assert len(messages) == 1
    hold_on(lambda: not child.is_running())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('nonsense', flush=True); input(); input()", "was not understood"),
        ("raise SystemExit('there is no numpy')", "ended: there is no numpy"),
        ("import time; time.sleep(60)", "did not answer in time"),
    ],
)
def test_a_process_that_does_not_answer_is_a_failed_load(tmp_path: Path, code: str, said: str) -> None:
    made = Prober(command=(sys.executable, "-c", code), margin_s=1.0)
    with contextlib.closing(made), pytest.raises(LoadFailed, match=said):
        probe(made, models.mlp(tmp_path / "m.onnx"), timeout_s=0)


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_probing_processes_are_limited_and_hold_no_socket(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.closing(Prober()) as prober:
        listener.set_inheritable(True)
        zygote = zygote_of(prober)
        thread, _ = start_probe(prober, models.loop(tmp_path / "m.onnx", endless=True))
        hold_on(lambda: any(one.rlimit(psutil.RLIMIT_FSIZE)[0] == 0 for one in zygote.children()))
        (child,) = zygote.children()
        assert child.nice() == min(19, os.nice(0) + NICENESS)
        assert child.rlimit(psutil.RLIMIT_CORE)[0] == 0
        assert child.rlimit(psutil.RLIMIT_STACK)[0] == STACK_BYTES
        assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000"
        for process in (zygote, child):
            held = [os.readlink(one) for one in Path(f"/proc/{process.pid}/fd").iterdir()]
            assert not any("socket" in one for one in held)
        assert zygote.num_threads() == 1
        prober.close()
        thread.join(DEADLINE_S)


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_probing_processes_end_when_the_appliance_is_killed(tmp_path: Path) -> None:
    path = models.loop(tmp_path / "m.onnx", endless=True)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mdslite.runtimes.prober import Prober\n"
        "from mdslite.runtimes.protocol import LoadOptions\n"
        "Prober().probe('ONNXRUNTIME', Path(sys.argv[1]), LoadOptions(), timeout_s=600)\n"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code, str(path)]) as appliance:
        process = psutil.Process(appliance.pid)
        hold_on(lambda: len(process.children(recursive=True)) == 2)
        family = process.children(recursive=True)
        os.kill(appliance.pid, signal.SIGKILL)
    hold_on(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family))
