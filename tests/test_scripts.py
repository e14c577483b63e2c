"""The scripts make their environments once, and say plainly why they cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [
    *(ROOT / "scripts" / name for name in ("bench", "check", "demo", "test")),
    ROOT / ".ci" / "run",
]


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=50, check=False
    )


def prepare(folder: Path, wanted: str = "pip") -> subprocess.CompletedProcess[str]:
    """Prepare an environment; the default needs nothing but what every environment has."""
    script = f"set -euo pipefail; . {ROOT}/scripts/environment.sh; prepare_environment '{folder}' {wanted}"
    return run(["bash", "-c", script], MDSLITE_PYTHON=sys.executable)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_is_executable_bash(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    checked = run(["bash", "-n", str(script)])
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that was just made."""
    folder = tmp_path_factory.mktemp("environments") / "env"
    made = prepare(folder)
    assert made.returncode == 0, made.stderr
    assert "preparing" in made.stderr
    return folder


def test_an_environment_is_made_once(environment: Path) -> None:
    second = prepare(environment)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


def test_an_environment_that_was_moved_is_refused_and_kept(environment: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(environment, moved, symlinks=True)
    refused = prepare(moved)
    assert refused.returncode == 1
    assert "was made in another place" in refused.stderr
    assert f"rm -r {moved}" in refused.stderr
    assert (moved / "bin" / "python").exists()


def test_a_failed_install_shows_what_pip_said_and_is_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        failed = prepare(tmp_path / "env", "./no-such-folder")
        assert failed.returncode == 1
        assert "no-such-folder" in failed.stderr
        assert "installing failed" in failed.stderr


def test_a_framework_that_cannot_be_had_is_named_once(environment: Path) -> None:
    script = f". {ROOT}/scripts/environment.sh; add_frameworks '{environment}'"
    missing = {"MDSLITE_FRAMEWORKS": "pip torch==0.0.1+cpu", "PIP_NO_INDEX": "1"}
    first = run(["bash", "-euo", "pipefail", "-c", script], **missing)
    assert first.returncode == 0, first.stderr
    assert "pip cannot install torch==0.0.1+cpu" in first.stderr
    assert "the tests that need it skip" in first.stderr
    second = run(["bash", "-euo", "pipefail", "-c", script], **missing)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["bench", "check", "demo", "test"])
def test_a_python_that_is_too_old_or_missing_is_named(name: str, tmp_path: Path) -> None:
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 2.7.18' && exit 0\nexit 1\n")
    old.chmod(0o755)
    wrk = tmp_path / "wrk"  # so that the benchmark does not begin by installing it
    wrk.symlink_to("/bin/true")
    path = f"{tmp_path}:{os.environ['PATH']}"
    refused = run([str(ROOT / "scripts" / name)], MDSLITE_PYTHON=str(old), PATH=path)
    assert refused.returncode == 1
    assert "needs Python 3.11 or newer" in refused.stderr
    assert "is Python 2.7.18" in refused.stderr
    assert "hint:" in refused.stderr


def test_ci_runs_the_tests_command() -> None:
    assert "exec scripts/test" in (ROOT / ".ci" / "run").read_text()
