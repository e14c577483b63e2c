"""Starts and stops the servers that are compared, and measures their memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]

from benchmarks.models import Workload, make_body, write_model

SERVERS = Path(__file__).parent / "servers"
MIB = 1024 * 1024
ANSWER_WAIT_S = 60.0
STOP_WAIT_S = 45.0
MEMORY_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Bench:
    """Where this run keeps its files, and which mdslite it measures; `frameworks` is the Python that has
    LitServe and BentoML, None where they are not installed."""

    folder: Path
    mdslite: Path
    frameworks: Path | None = None

    def model(self, workload: Workload, *, seed: int = 7) -> Path:
        file = self.folder / f"{workload.name}-{seed}.onnx"
        if not file.exists():
            write_model(workload, file, seed=seed)
        return file

    def body(self, workload: Workload) -> Path:
        file = self.folder / f"{workload.name}.json"
        if not file.exists():
            file.write_bytes(make_body(workload))
        return file


@dataclass(frozen=True, slots=True)
class Contender:
    """How one server is started. `command` may hold PORT, which becomes a free port."""

    name: str
    label: str
    command: Sequence[str]
    path: str
    environment: Mapping[str, str] = field(default_factory=dict)


def contenders(bench: Bench, workload: Workload) -> list[Contender]:
    """Everybody who serves this workload, each with the settings that suit it best here.

    Two intra-op threads pay for the one model and cost on the other; batches of at most 32 rows after at most
    1 ms and one worker gave Mosec its best figures at 32 connections, two workers at 128.
    """
    model = str(bench.model(workload))
    threads = "1" if workload.name == "tiny" else "2"
    asgi = [sys.executable, str(SERVERS / "asgi.py")]
    mosec = [sys.executable, str(SERVERS / "mosec_server.py"), "--address", "127.0.0.1", "--port", "PORT"]

    def mosec_with(workers: int, intra_op: str) -> dict[str, str]:
        return {"MODEL": model, "THREADS": intra_op, "WAIT_MS": "1", "WORKERS": str(workers)}

    return [
        mdslite(bench, workload),
        Contender("mosec", "Mosec", mosec, "/inference", mosec_with(1, threads)),
        Contender("mosec-2", "Mosec, 2 workers", mosec, "/inference", mosec_with(2, "1")),
        Contender("uvicorn", "Starlette on uvicorn", [*asgi, "uvicorn", model, "PORT", threads], "/predict"),
        Contender(
            "hypercorn", "Starlette on Hypercorn", [*asgi, "hypercorn", model, "PORT", threads], "/predict"
        ),
    ]


def mdslite(bench: Bench, workload: Workload, *, log: bool = True) -> Contender:
    """`mdslite up` on a deployments file, as anybody would run it; its whole path is measured."""
    file = bench.folder / f"{workload.name}.yaml"
    file.write_text(write_deployments(workload, {"v1": (bench.model(workload), 100)}))
    command = [str(bench.mdslite), "up", str(file), "--port", "PORT", "--store", "STORE"]
    if not log:
        command.append("--no-log")
    label = "mdslite" if log else "mdslite --no-log"
    return Contender("mdslite" if log else "no-log", label, command, predict_path(workload))


def predict_path(workload: Workload) -> str:
    return f"/projects/bench/models/{workload.name}:predict"


def write_deployments(workload: Workload, versions: Mapping[str, tuple[Path, int]]) -> str:
    entries = [
        {"version": name, "weight": weight, "spec": {"uri": str(uri)}}
        for name, (uri, weight) in versions.items()
    ]
    deployment = {"project": "bench", "model": workload.name, "versions": entries}
    return json.dumps({"deployments": [deployment]}, indent=1)


class Running:
    """One server process from its start to its end; `with` waits for its first answer."""

    def __init__(self, contender: Contender, *, body: Path, folder: Path) -> None:
        self.contender = contender
        self.folder = folder
        self._body = body.read_bytes()
        self._process: subprocess.Popen[bytes] | None = None
        self.base = ""
        self.first_answer_s = 0.0

    @property
    def url(self) -> str:
        return self.base + self.contender.path

    def __enter__(self) -> Self:
        port = find_free_port()
        self.base = f"http://127.0.0.1:{port}"
        self.folder.mkdir(parents=True, exist_ok=True)
        places = {"PORT": str(port), "STORE": str(self.folder / "store")}
        command = [places.get(word, word) for word in self.contender.command]
        started = time.perf_counter()
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "MOSEC_LOG_LEVEL": "error", **self.contender.environment},
            )
        try:
            self._wait_for_an_answer()
        except BaseException:
            self.stop()
            raise
        self.first_answer_s = time.perf_counter() - started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"content-type": "application/json"} if body is not None else {}
        request = urllib.request.Request(self.base + path, body, headers)
        with urllib.request.urlopen(request, timeout=ANSWER_WAIT_S) as reply:
            return bytes(reply.read())

    def memory_bytes(self) -> int:
        """What the process and its children hold, pages that they share counted once."""
        return sum(process.memory_full_info().pss for process in self._tree())

    def cpu_s(self) -> float:
        """The processor time that the process and its children have taken."""
        times = [process.cpu_times() for process in self._tree()]
        return float(sum(each.user + each.system for each in times))

    def _tree(self) -> list[psutil.Process]:
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _wait_for_an_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + ANSWER_WAIT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                self.ask(self.contender.path, self._body)
            except (OSError, urllib.error.URLError):
                time.sleep(0.005)
            else:
                return
        output = (self.folder / "output").read_text(errors="replace")
        raise RuntimeError(f"{self.contender.label} gave no answer; it said:\n{output[-2000:]}")


class Meter:
    """The greatest memory of a server while it is under load, and the processor time that it takes."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter")
        self._cpu_before_s = 0.0
        self.peak_bytes = 0
        self.cpu_s = 0.0

    def __enter__(self) -> Self:
        self._cpu_before_s = self._running.cpu_s()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self.cpu_s = self._running.cpu_s() - self._cpu_before_s

    def _watch(self) -> None:
        while not self._stopping.wait(MEMORY_EVERY_S):
            try:
                self.peak_bytes = max(self.peak_bytes, self._running.memory_bytes())
            except psutil.NoSuchProcess:
                continue  # a short-lived child ended while it was read


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
