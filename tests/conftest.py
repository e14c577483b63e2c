"""Fixtures that several test modules share."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
from api_server import ApiServer, serving
from box import Box, Caller, open_box
from clocks import Clock
from file_server import FileServer, serving_files
from isolation import opened
from models import mlp
from obedient import write_package
from parties import Party, settle_in
from stores import Store, open_store

from mdslite.runtimes.prober import Prober
from mdslite.runtimes.protocol import DataSession
from mdslite.serving import crew
from mdslite.store.artifacts import ArtifactStore
from mdslite.store.registry import Registry

# The same examples in every run, however slow the machine.
hypothesis.settings.register_profile(
    "mdslite",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mdslite")

# A shell that starts the tests in the background has them ignore it, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def prober() -> Iterator[Prober]:
    """Looks at models for every test that does not look at the prober itself."""
    with contextlib.closing(Prober()) as one:
        yield one


@pytest.fixture(scope="session")
def obedient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that runs what it is told to."""
    return write_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def isolated(obedient: Path) -> Iterator[DataSession]:
    """It in a process that all tests of a module share which let it live."""
    with opened(obedient) as session:
        yield session


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """A small server that speaks the admin API, with the command line pointed at it."""
    with serving(ApiServer()) as running:
        monkeypatch.setenv("MDSLITE_URL", running.url)
        monkeypatch.delenv("MDSLITE_TOKEN", raising=False)
        yield running


@pytest.fixture
def deployments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployments.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "deployments.yaml"
    file.write_text("deployments: []\n")
    return file


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store as the appliance keeps it, without the appliance."""
    with open_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    """A store of artifacts alone."""
    return ArtifactStore(tmp_path / "store" / "artifacts")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    """A registry alone."""
    registry = Registry(tmp_path / "registry.db", clock=clock)
    registry.open()
    yield registry
    registry.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model to deploy there."""
    return mlp(tmp_path / "model.onnx")


@pytest.fixture
def web() -> Iterator[FileServer]:
    """A server elsewhere that has what it is told."""
    with serving_files() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a deployments file would be, with two models beside it."""
    mlp(tmp_path / "v1.onnx", seed=1)
    mlp(tmp_path / "v2.onnx", seed=2)
    return tmp_path


@pytest.fixture
async def box(tmp_path: Path, prober: Prober) -> AsyncIterator[Box]:
    """An appliance without its socket, on an empty store."""
    async with open_box(tmp_path / "store", prober) as box:
        yield box


@pytest.fixture
def caller(box: Box) -> Caller:
    """Somebody who asks it over HTTP."""
    return Caller(box.app)


@pytest.fixture
async def admin(box: Box, tmp_path: Path) -> Party:
    """Who made the first token, and deployed p/m and q/n."""
    return await settle_in(box, tmp_path)


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown as those of Greenwich."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run is too long to have a batch behind it, so that a slow machine cannot come between."""
    monkeypatch.setattr(crew, "AHEAD_S", 1000.0)


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Nothing that is in a circle goes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB that a test can really fill."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], capture_output=True, check=True)
