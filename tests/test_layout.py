"""What is installed and who may import whom: the wheel, the editable install and the rooms."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
RULES = ROOT / "scripts" / "import_rules.py"
PRINT_FILES = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""


def read_package_folders() -> dict[str, Path]:
    """The installed name of each mapped package and the folder that it comes from."""
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return {name: ROOT / folder for name, folder in settings["package-dir"].items()}


def expected_modules() -> set[str]:
    """Every module of the checkout at the place where the wheel has to hold it."""
    folders = read_package_folders()
    return {
        "/".join([*package.split("."), *file.relative_to(folder).parts])
        for package, folder in folders.items()
        for file in folder.rglob("*.py")
        if not any(folder in inner.parents and inner in file.parents for inner in folders.values())
    }


def module_names() -> list[str]:
    files = sorted(expected_modules() - {"mdslite/__main__.py"})
    return [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files]


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=50, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy: setuptools would leave its build folder in the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in read_package_folders().values():
        skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(folder, copy / folder.relative_to(ROOT), ignore=skipped, dirs_exist_ok=True)
    built = run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", cwd=copy)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = (copy / "dist").glob("*.whl")
    return file


def test_the_wheel_holds_every_module_of_every_room(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.endswith(".py")}
    assert held == expected_modules()


def test_the_wheel_holds_what_describes_grpc(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("mdslite/rpc/")}
    assert {"mdslite/rpc/descriptors.binpb", "mdslite/rpc/inference.proto", "mdslite/rpc/admin.proto"} <= held


def test_the_wheel_holds_the_recording_of_the_dashboard(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "mdslite/tui/demo.json.xz" in archive.namelist()


def test_the_wheel_brings_two_top_level_names(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mds", "mdslite"}


def test_the_wheel_says_that_it_is_typed_and_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (licence,) = [name for name in names if name.endswith("licenses/LICENSE")]
        assert b"Apache License" in archive.read(licence)
    assert {"mds/py.typed", "mdslite/py.typed"} <= set(names)


def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PRINT_FILES}"
    found = run_python("-W", "error", "-c", code, *module_names(), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert set(found.stdout.split()) == {
        str(tmp_path / file) for file in expected_modules() - {"mdslite/__main__.py"}
    }


def test_every_module_imports_from_the_editable_install(tmp_path: Path) -> None:
    found = run_python("-W", "error", "-c", PRINT_FILES, *module_names(), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    files = found.stdout.split()
    assert str(ROOT / "store" / "__init__.py") in files
    assert all(file.startswith(f"{ROOT}/") for file in files)


def test_imports_between_the_rooms_point_one_way() -> None:
    found = run_python(str(RULES), cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("place", "line", "complaint"),
    [
        ("store/registry.py", "from mdslite.serving.lane import Lane", "store imports serving"),
        ("store/registry.py", "from mdslite import appliance", "store imports appliance"),
        ("store/registry.py", "import mdslite.door.door", "store imports door"),
        ("store/registry.py", "from ..serving import lane", "store imports serving"),
        ("store/registry.py", "def f():\n    from mdslite.serving import lane", "store imports serving"),
        ("mdslite/errors.py", "import mdslite.spec", "errors imports spec"),
        ("mdslite/mds/marks.py", "import mdslite.errors", "mds imports errors"),
        ("store/registry.py", "from mds import describe", "store imports mds"),
        ("mdslite/cli/up.py", "import mdslite.appliance", "cli imports appliance"),
        ("mdslite/novel.py", "import mdslite.errors", "room 'novel' has no row"),
    ],
)
def test_an_import_that_points_the_other_way_is_named(
    tmp_path: Path, place: str, line: str, complaint: str
) -> None:
    file = tmp_path / place
    (tmp_path / "mdslite").mkdir()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line + "\n")
    found = run_python(str(RULES), str(tmp_path), cwd=tmp_path)
    assert found.returncode == 1
    assert complaint in found.stdout
    assert found.stdout.startswith(f"{place}:")


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("mdslite/cli/up.py", "def up():\n    from mdslite.appliance import run"),
        ("store/registry.py", "from mdslite.errors import StoreError"),
        ("store/registry.py", "from . import worker"),
        ("runtimes/onnx.py", "from mdslite.runtimes.protocol import Session"),
        ("mdslite/cli/show.py", "from mdslite import __version__"),
        ("runtimes/executor.py", "import mds"),
        ("mdslite/mds/decorators.py", "from mds.marks import Batch"),
    ],
)
def test_an_import_that_points_down_is_fine(tmp_path: Path, place: str, line: str) -> None:
    file = tmp_path / place
    (tmp_path / "mdslite").mkdir()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line + "\n")
    found = run_python(str(RULES), str(tmp_path), cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "")


def rows_of_rooms() -> list[set[str]]:
    """The rooms that each row of the architecture's table names, from its first row to its last."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    (section,) = re.findall(r"^## Rooms\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [{name.removesuffix("/") for name in re.findall(r"`(.+?)`", row)} for row in rows]


def test_the_rooms_of_the_architecture_are_those_that_there_are() -> None:
    named = [name for row in rows_of_rooms() for name in row]
    there = {path.stem for path in (ROOT / "mdslite").glob("[!_]*") if path.suffix in ("", ".py")}
    assert sorted(named) == sorted(there | {"runtimes", "store", "tui"})


def test_each_room_of_the_architecture_imports_from_rows_above_its_own() -> None:
    place = {name: at for at, row in enumerate(rows_of_rooms()) for name in row}
    place["runtimes.protocol"] = place["runtimes"]
    allowed = runpy.run_path(str(RULES))["ROOMS"]
    below = [(room, one) for room, found in allowed.items() for one in found if place[one] > place[room]]
    assert below == []


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in DOCS)])
def test_what_the_pages_lead_to_is_there(page: str) -> None:
    text, folder = (ROOT / page).read_text(), (ROOT / page).parent
    for link, place in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" in link:
            continue
        target = folder / link if link else ROOT / page
        assert target.exists(), link
        if place:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert place in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, place
    for path in re.findall(r"`((?:scripts|mdslite|runtimes|store|tui|examples|docs|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:[a-z]+/)+[a-z_0-9]+\.py)`", text):
        assert (ROOT / path).exists() or (ROOT / "mdslite" / path).exists(), path
