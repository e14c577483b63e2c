"""Packages that do what they should not, behind a real appliance: what their callers get, that they come
back, and that a model beside them notices nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import pytest
from live import Live, up
from obedient import OBEDIENT, do, write_package

DEADLINE_S = 30.0
ALLOWED_MS = 1500

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes of their own are for Linux")

# What a package is made to do, what its caller gets, and whether the package has to be started again.
ROW_FAULTS = [
    ("raise ValueError('no such luck')", 500, "model_error", "ValueError: no such luck"),
    ("raise ValueError('half a pair: ' + chr(0xd800))", 500, "model_error", "half a pair: \\ud800"),
    ("sys.exit(3)", 500, "model_error", "SystemExit: 3"),
    ("raise KeyboardInterrupt", 500, "model_error", "KeyboardInterrupt"),
    ("self.surplus = [1]", 500, "model_error", "predict returned 2 answers; expected a list of 1"),
]
PROCESS_FAULTS = [
    ("ctypes.string_at(0)", 503, "unavailable", "its process was killed by signal 11 (SIGSEGV)"),
    ("os._exit(3)", 503, "unavailable", "its process exited with status 3"),
    ("os.kill(os.getpid(), 9)", 503, "unavailable", "killed by signal 9, perhaps for want of memory"),
    (
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        503,
        "unavailable",
        "used more than the 96 MiB that resource.memory allows",
    ),
    ("time.sleep(600)", 504, "deadline_exceeded", "was not answered in time"),
    ("re.match('(a+)+$', 'a' * 60 + 'b')", 504, "deadline_exceeded", "was not answered in time"),
    ("while True: print('x' * 1000)", 504, "deadline_exceeded", "was not answered in time"),
]

NEIGHBOUR = """\
deployments:
- project: p
  model: neighbour
  versions:
  - version: v1
    spec: {uri: ./neighbour.onnx}
"""


def deployed(*models: str) -> str:
    """A deployments.yaml with the same package under each of these names, and its neighbour."""
    return NEIGHBOUR + "".join(
        f"""\
- project: p
  model: {model}
  versions:
  - version: v1
    spec:
      uri: ./package
      batch: {{prediction_time_ms: {ALLOWED_MS}, batch_timeout_ms: 200}}
      resource: {{memory: 96Mi}}
      container_parameter: {{env: {{COLOUR: red}}}}
"""
        for model in models
    )


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: Any


class Box:
    """An appliance with an obedient package, and a model beside it."""

    def __init__(self, running: Live) -> None:
        self._url = running.url

    def ask(self, model: str, body: bytes) -> Reply:
        return self.get(f"/projects/p/models/{model}:predict", body)

    def show(self, target: str) -> str:
        """What `mdslite show` prints."""
        command = [sys.executable, "-m", "mdslite", "show", target, "--url", self._url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def get(self, path: str, body: bytes | None = None) -> Reply:
        request = urllib.request.Request(f"{self._url}{path}", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as reply:
                return Reply(reply.status, dict(reply.headers), json.loads(reply.read()))
        except urllib.error.HTTPError as exc:
            with exc:
                return Reply(exc.code, dict(exc.headers), json.loads(exc.read()))

    def order(self, *instances: bytes, model: str = "obedient") -> Reply:
        """Have a package do something."""
        return self.ask(model, b'{"instances": [' + b", ".join(instances) + b"]}")

    def neighbour(self) -> int:
        return self.ask("neighbour", b'{"instances": [[1, 2, 3]]}').status

    def recovered(self, model: str) -> bool:
        """Does a package serve again, soon enough? Until then it is unavailable, or a request that it was
        still waited for comes too late."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            reply = self.order(b'"back"', model=model)
            if reply.status == 200:
                return reply.body == {"predictions": ["back"]}  # type: ignore[no-any-return]
            assert reply.status in (503, 504)
            if reply.status == 503:
                assert int(reply.headers["retry-after"]) >= 1
            time.sleep(0.05)
        return False


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("box")
    write_package(folder / "package")
    models.identity(folder / "neighbour.onnx")
    # A model for each fault that ends a process: the second one of a package would be waited for longer.
    text = deployed("obedient", "printing", *(f"fault-{number}" for number in range(len(PROCESS_FAULTS))))
    (folder / "deployments.yaml").write_text(text)
    with up("deployments.yaml", cwd=folder) as running:
        yield Box(running)


@pytest.mark.parametrize(("code", "status", "name", "said"), ROW_FAULTS)
def test_what_a_row_meets_is_its_caller_s_alone(
    box: Box, code: str, status: int, name: str, said: str
) -> None:
    reply = box.order(do(code))
    assert (reply.status, reply.body["code"]) == (status, name)
    assert said in reply.body["error"]
    assert box.order(b"1").status == 200


@pytest.mark.parametrize("number", range(len(PROCESS_FAULTS)))
def test_a_process_that_ends_or_hangs_harms_nobody_else(box: Box, number: int) -> None:
    code, status, name, said = PROCESS_FAULTS[number]
    model = f"fault-{number}"
    with ThreadPoolExecutor(1) as pool:
        faulty = pool.submit(box.order, do(code), model=model)
        neighbours = [box.neighbour()]
        while not wait([faulty], timeout=0.02).done:
            neighbours.append(box.neighbour())
    reply = faulty.result()
    assert (reply.status, reply.body["code"]) == (status, name)
    assert said in reply.body["error"]
    assert set(reply.body) <= {"error", "code", "request_id", "hint"}
    assert set(neighbours) == {200}
    if status == 503:
        assert int(reply.headers["retry-after"]) >= 1
    assert box.order(b"1").status == 200  # the same package under another name
    assert box.recovered(model)


def test_what_a_package_printed_is_shown_though_its_process_ended(box: Box) -> None:
    box.order(do("print('now', 'it crashes'); ctypes.string_at(0)"), model="printing")
    assert box.recovered("printing")
    assert box.order(do("print('all is', 'well')"), model="printing").status == 200
    deadline = time.monotonic() + DEADLINE_S
    while "all is well" not in (shown := box.show("p/printing@v1")):
        assert time.monotonic() < deadline
    assert "printed by local/0, which ended (" in shown
    assert "was killed by signal 11 (SIGSEGV)" in shown
    assert "    now it crashes\n    Fatal Python error: Segmentation fault\n" in shown
    assert shown.endswith("  printed by local/0:\n    all is well\n")
    assert "    all is well\n" in box.show("p/printing")  # as well where no version is named


def test_a_model_that_prints_nothing_has_no_output(box: Box) -> None:
    assert box.get("/api/v1/projects/p/models/neighbour/versions/v1/output").body == []
    assert box.get("/api/v1/projects/p/models/neighbour/versions/v2/output").status == 404
    assert "printed" not in box.show("p/neighbour@v1")


def test_one_poison_request_among_32_fails_alone(box: Box) -> None:
    together = threading.Barrier(32)

    def ask(number: int) -> Reply:
        together.wait(DEADLINE_S)
        return box.order(do("1 / 0") if number == 17 else str(number).encode())

    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(ask, range(32)))
    assert replies[17].status == 500
    assert replies[17].body["error"] == "ZeroDivisionError: division by zero"
    assert [reply.body for number, reply in enumerate(replies) if number != 17] == [
        {"predictions": [number]} for number in range(32) if number != 17
    ]


def test_variables_of_the_spec_reach_the_package(box: Box) -> None:
    assert box.order(do("x = os.environ['COLOUR']")).body == {"predictions": ["red"]}


def test_a_package_that_cannot_be_imported_is_refused_and_the_rest_serves_on(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    (tmp_path / "deployments.yaml").write_text(deployed("obedient"))
    models.identity(tmp_path / "neighbour.onnx")
    with up("deployments.yaml", cwd=tmp_path) as running:
        box = Box(running)
        before = box.order(b"1")
        write_package(package, OBEDIENT, head="print('about to fail')\nos._exit(5)")
        command = [sys.executable, "-m", "mdslite", "apply", "-f", "deployments.yaml", "--yes"]
        applied = subprocess.run(
            [*command, "--url", running.url], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        after = box.order(b"1")
    assert applied.returncode == 1
    assert "p/obedient v1: before it was imported, its process exited with status 5" in applied.stderr
    assert "about to fail" in applied.stderr
    assert (before.status, after.status) == (200, 200)
