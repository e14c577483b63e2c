"""What the README shows is what happens: its transcript, its commands, its YAML, its links."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import live
import pytest

from mdslite import deployments

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SHOWN_URL = "127.0.0.1:8500"
MDSLITE = [sys.executable, "-m", "mdslite"]


def find_blocks(language: str) -> list[str]:
    return [
        text for name, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S) if name == language
    ]


def read_transcript() -> list[tuple[str, list[str]]]:
    """Each command of the transcript with the lines that it is said to print."""
    (block,) = [block for block in find_blocks("") if "$ mdslite up" in block]
    steps: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        elif line.strip():
            steps[-1][1].append(line)
    return steps


def normalise(text: str) -> list[str]:
    """Without what differs from run to run and from machine to machine; small numbers to three places."""
    text = text.replace("Apply? [y/N] y", "Apply? [y/N] ").replace("Apply? [y/N] ", "Apply? [y/N]\n")
    text = re.sub(r"\b\d+\.\d( ?)s\b", r"N\1s", text)
    text = re.sub(r"\b\d\.\d{3,}(e-\d+)?", lambda found: f"{float(found[0]):.3f}", text)
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line not in ("", "y") and "GPU" not in line]


def as_shown(shown: list[str]) -> str:
    """A pattern of such lines; where a line is cut short, `…` stands for what is left out."""
    return "\n".join(re.escape(line).replace("…", ".*") for line in shown)


def fill(folder: Path) -> Path:
    """A place with the examples, where a deployments.yaml is as well."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    text = (folder / "examples" / "deployments.yaml").read_text()
    (folder / "deployments.yaml").write_text(text.replace("./digits", "./examples/digits"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("readme"))


@pytest.fixture(scope="module")
def box(folder: Path) -> Iterator[live.Live]:
    with live.up("examples/deployments.yaml", cwd=folder) as running:
        yield running


def run(words: Sequence[str], url: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as from a terminal where somebody types y: `apply` asks nobody else."""
    typed, terminal = os.openpty()
    try:
        os.write(typed, b"y\n")
        return subprocess.run(
            words, cwd=cwd, env=os.environ | {"MDSLITE_URL": url}, stdin=terminal, text=True, timeout=30,
            check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    finally:
        os.close(typed)
        os.close(terminal)


def as_run(command: str, url: str) -> list[str]:
    """The words of a shown command, for this interpreter and this address."""
    address = url.removeprefix("http://")
    words = shlex.split(command.replace(SHOWN_URL, address).replace("localhost:8500", address))
    if ">" in words:
        return ["sh", "-c", command]
    return [*MDSLITE, *words[1:]] if words[0] == "mdslite" else words


def test_the_transcript_is_what_a_reader_will_see(tmp_path: Path) -> None:
    with live.up("examples/deployments.yaml", cwd=fill(tmp_path)) as box:
        follow_the_transcript(tmp_path, box)


def follow_the_transcript(folder: Path, box: live.Live) -> None:
    (_, said_at_start), *steps = read_transcript()
    assert [command.split()[0] for command, _ in steps] == ["curl", "sed", "mdslite"]
    for command, said in steps:
        if shutil.which(command.split()[0]) is None and not command.startswith("mdslite"):
            continue  # no curl here
        found = run(as_run(command, box.url), box.url, cwd=folder)
        assert found.returncode == 0, found.stdout
        printed = "\n".join(normalise(found.stdout))
        assert re.fullmatch(as_shown(normalise("\n".join(said))), printed), f"{command}:\n{found.stdout}"
    serving = "\n".join(box.lines).replace(f" --url {box.url}", "").replace(box.url, f"http://{SHOWN_URL}")
    _, errors = box.stop()
    assert normalise("\n".join(said_at_start)) == [
        *(line for line in normalise(errors) if line.startswith("✓")),
        *normalise(serving),
    ]


@pytest.mark.parametrize("command", re.findall(r"`(mdslite [a-z]+ [^`]+)`", README))
def test_every_command_in_the_text_is_understood(command: str, folder: Path, box: live.Live) -> None:
    found = run(as_run(command.replace("FILE", "deployments.yaml"), box.url), box.url, cwd=folder)
    assert found.returncode in (0, 1)
    assert "Usage:" not in found.stdout
    assert "Traceback" not in found.stdout


def test_every_listed_command_has_help_with_examples_and_json() -> None:
    (listed,) = re.findall(r"^## Commands\n+(.*?);", README, re.M | re.S)
    names = [name.removeprefix("mdslite ") for name in re.findall(r"`([^`]+)`", listed)]
    assert {"up", "apply", "ls", "predict", "logs", "undo"} <= set(names)
    for name in names:
        found = run([*MDSLITE, name, "--help"], "", cwd=ROOT)
        assert found.returncode == 0, name
        assert "Examples:" in found.stdout, name
        assert "--json" in found.stdout, name


def test_every_script_that_it_names_is_there() -> None:
    named = set(re.findall(r"\bscripts/[a-z_]+", README))
    assert {"scripts/demo", "scripts/test"} <= named
    assert [name for name in named if not os.access(ROOT / name, os.X_OK)] == []


def test_a_model_file_alone_is_served_and_its_curl_line_works(tmp_path: Path) -> None:
    (file,) = re.findall(r"\.venv/bin/mdslite up (\S+)", README)
    with live.up(file, cwd=fill(tmp_path)) as box:
        line = box.lines[1].removeprefix("next: ")
        assert line.startswith("curl ")
        if shutil.which("curl") is not None:
            found = run(["bash", "-c", line], box.url, cwd=tmp_path)
            assert '"predictions"' in found.stdout


def test_its_deployments_file_is_a_valid_one() -> None:
    (text,) = find_blocks("yaml")
    (deployment,) = deployments.load(text, file="README.md", base=ROOT).deployments
    assert [version.version for version in deployment.versions] == ["v1", "v2"]


def test_the_paths_that_it_lists_answer(box: live.Live) -> None:
    paths = re.findall(r"`(/[a-z.]+)`", README)
    assert {"/healthz", "/readyz", "/metrics"} <= set(paths)
    for path in paths:
        with urllib.request.urlopen(box.url + path, timeout=10) as reply:
            assert reply.status == 200
