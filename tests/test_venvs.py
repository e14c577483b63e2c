"""Requirements of packages: what is met here, what gets an environment of its own, and what cannot be met."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from obedient import OBEDIENT, do, feeds, write_package
from wheels import only_index, write_wheel

from mdslite.errors import LoadFailed
from mdslite.runtimes.protocol import LoadOptions
from mdslite.runtimes.python import PythonRuntime
from mdslite.runtimes.requirements import find_unmet, parse_requirements
from mdslite.runtimes.venvs import Environments, environment_name, packages_folder

DEADLINE_S = 30.0
USES = "import frobnicator\n"
METHODS = f"{OBEDIENT}\nversion = frobnicator.__version__"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, which is all that pip finds."""
    folder = tmp_path / "wheels"
    only_index(folder, monkeypatch)
    return folder


@pytest.fixture
def environments(tmp_path: Path) -> Environments:
    return Environments(tmp_path / "environments")


def ask(python: str, code: str) -> str:
    return subprocess.run(
        [python, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=DEADLINE_S
    ).stdout.strip()


# What is met


@pytest.mark.parametrize(
    "requirement",
    [
        "numpy",
        "NumPy>=1",
        f"numpy=={np.__version__}",
        "pytest",
        "gizmo; python_version < '3'",
        "mds",
        "mdslite>9",
    ],
)
def test_what_is_installed_here_is_met(requirement: str) -> None:
    assert find_unmet(parse_requirements([requirement])) == []


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("numpy<1", f"numpy {np.__version__} is installed, not <1"),
        ("no-such-thing>=2", "no-such-thing is not installed"),
        ("numpy @ https://example.org/numpy.whl", "numpy was not installed from https://example.org/numpy.whl"),
    ],
)  # fmt: skip
def test_what_is_not_met_is_named(requirement: str, said: str) -> None:
    assert find_unmet(parse_requirements([requirement])) == [said]


def test_what_a_requirement_needs_itself_counts(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_info(folder, "outer", "1.0", requires=["inner>=2", 'extra-one; extra == "more"'])
    write_info(folder, "inner", "1.5")
    path = [str(folder)]
    assert find_unmet(parse_requirements(["outer"]), path) == ["inner 1.5 is installed, not >=2"]
    write_info(folder, "inner", "2.1")
    assert find_unmet(parse_requirements(["outer"]), [str(folder)]) == ["inner 1.5 is installed, not >=2"]


def write_info(folder: Path, name: str, version: str, *, requires: list[str] | None = None) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires or [])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


def test_what_is_no_requirement_is_refused() -> None:
    with pytest.raises(LoadFailed, match="'--index-url x' is none") as caught:
        parse_requirements(["numpy", "--index-url x"])
    assert caught.value.hint == 'write it as pip does: "numpy>=2"'


# Environments


def test_what_is_met_here_costs_no_environment(environments: Environments, tmp_path: Path) -> None:
    assert environments.find_python(["numpy", "mds"]) == sys.executable
    assert not (tmp_path / "environments").exists()


def test_what_is_not_met_gets_an_environment(index: Path, environments: Environments) -> None:
    write_wheel(index, "frobnicator", "2.5", requires=["gizmo"])
    write_wheel(index, "gizmo")
    lines: list[str] = []
    python = environments.find_python(["frobnicator>=2"], lines.append)
    assert lines[0] == "making an environment with frobnicator>=2"
    assert "mdslite" not in sys.modules["sys"].modules or python != sys.executable
    code = (
        "import frobnicator, gizmo, mds, mdslite, numpy; print(frobnicator.__version__, mds.model.__name__)"
    )
    assert ask(python, code) == "2.5 model"
    lines.clear()
    assert environments.find_python(["frobnicator>=2"], lines.append) == python
    assert lines == []


def test_the_environment_s_own_packages_come_first(index: Path, environments: Environments) -> None:
    write_wheel(index, "orjson", "0.1", files={"orjson.py": "own = True\n"})
    python = environments.find_python(["orjson<1"])
    assert ask(python, "import orjson; print(orjson.own)") == "True"


def test_a_package_runs_in_its_environment(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environments = Environments(Path("environments"))
    write_wheel(index, "frobnicator", "2.5")
    package = write_package(tmp_path / "package", METHODS, head=USES, requirements="['frobnicator>=2']")
    told: list[tuple[str, str]] = []
    runtime = PythonRuntime(environments, announce=lambda label, line: told.append((label, line)))
    report = runtime.probe(package, LoadOptions(label="p/m v1"), timeout_s=DEADLINE_S)
    assert report.package is not None
    assert report.package.requirements == ("frobnicator>=2",)
    assert told[0] == ("p/m v1", "making an environment with frobnicator>=2")
    session = runtime.open(package, LoadOptions())
    try:
        (answers,) = session.run(feeds(do("x = self.version"), np.zeros(2)))
    finally:
        session.close()
    assert answers == [b'"2.5"', b"[0.0,0.0]"]


def test_an_environment_that_is_not_whole_is_built_again(index: Path, environments: Environments) -> None:
    write_wheel(index, "frobnicator")
    python = environments.find_python(["frobnicator"])
    module = Path(ask(python, "import frobnicator; print(frobnicator.__file__)"))
    module.unlink()
    for info in module.parent.glob("frobnicator-*"):
        shutil.rmtree(info)
    assert environments.find_python(["frobnicator"]) == python
    assert module.exists()


def test_an_environment_that_was_not_finished_is_built_again(index: Path, environments: Environments) -> None:
    folder = environments.folder / environment_name(parse_requirements(["frobnicator"]))
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    write_info(packages_folder(folder), "frobnicator", "1.0")
    with pytest.raises(LoadFailed, match="No matching distribution found for frobnicator"):
        environments.find_python(["frobnicator"])
    assert not folder.exists()


def test_builders_of_one_environment_wait_for_each_other(index: Path, environments: Environments) -> None:
    write_wheel(index, "frobnicator")
    starts: list[str] = []
    lock = threading.Lock()

    def tell(line: str) -> None:
        with lock:
            starts.extend([line] if line.startswith("making") else [])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: environments.find_python(["frobnicator"], tell), range(4)))
    assert len(set(found)) == 1
    assert len(starts) == 1


def test_environments_that_nobody_has_used_for_long_go(index: Path, environments: Environments) -> None:
    write_wheel(index, "frobnicator")
    week_old, year_old, unfinished = (
        environments.folder / f"py3-{name}" for name in ("week", "year", "half")
    )
    for folder, days in ((week_old, 7), (year_old, 365)):
        folder.mkdir(parents=True)
        (folder / "complete").touch()
        os.utime(folder / "complete", (time.time() - days * 86_400,) * 2)
    unfinished.mkdir()
    environments.find_python(["frobnicator"])
    assert week_old.exists()
    assert not year_old.exists()
    assert not unfinished.exists()


# What cannot be met


def test_a_requirement_that_is_nowhere_is_refused_in_pip_s_words(
    index: Path, environments: Environments
) -> None:
    with pytest.raises(LoadFailed) as caught:
        environments.find_python(["frobnicator>=2"])
    assert caught.value.message == (
        "its requirements (frobnicator>=2) could not be installed: "
        "No matching distribution found for frobnicator>=2"
    )
    assert "pip said at its end:" in str(caught.value.hint)
    assert not any(one.is_dir() for one in environments.folder.glob("py*"))


def test_a_store_that_cannot_be_written_to_is_a_failed_load(tmp_path: Path) -> None:
    (tmp_path / "environments").touch()
    with pytest.raises(LoadFailed, match="no environment can be made for its requirements: File exists"):
        Environments(tmp_path / "environments").find_python(["frobnicator"])


def test_an_index_that_is_out_of_reach_is_explained(
    environments: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(LoadFailed) as caught:
        environments.find_python(["frobnicator"])
    assert "this machine may not reach the package index" in str(caught.value.hint)


def test_an_installation_that_takes_too_long_is_ended(index: Path, tmp_path: Path) -> None:
    write_wheel(index, "frobnicator")
    environments = Environments(tmp_path / "environments", install_timeout_s=0.0)
    with pytest.raises(LoadFailed, match=r"could not be installed: pip did not finish within 0 s"):
        environments.find_python(["frobnicator"])


def test_a_requirement_that_would_hide_mds_is_refused(index: Path, environments: Environments) -> None:
    write_wheel(index, "frobnicator", requires=["mds"])
    write_wheel(index, "mds", files={"mds.py": ""})
    with pytest.raises(LoadFailed, match="install a package named mds, which would hide the appliance's own"):
        environments.find_python(["frobnicator"])


def test_an_inline_package_has_no_environment_of_its_own(environments: Environments, tmp_path: Path) -> None:
    package = write_package(tmp_path, requirements="['frobnicator>=2']")
    with pytest.raises(LoadFailed, match="its requirements are not met here: frobnicator is not installed"):
        PythonRuntime(environments).open(package, LoadOptions(isolation="inline"))


def test_without_a_place_for_environments_there_are_none(tmp_path: Path) -> None:
    package = write_package(tmp_path, requirements="['frobnicator>=2']")
    with pytest.raises(LoadFailed, match="frobnicator is not installed"):
        PythonRuntime().open(package, LoadOptions())
