"""Send an appliance of its own whatever its OpenAPI document allows, and much that it does not, with
Schemathesis: no reply may be an internal error, of an undocumented status or type, or unlike its schema.

    python scripts/fuzz_api.py [--cases 10000] [--seed 1]

Prints Schemathesis' report and exits as it does. Most requests are led to the one model that is deployed.
Where artifacts would come from and backups would go is replaced, and that model is not unloaded, as 503 would
be right.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.models import TINY, write_model

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance"
)
HOOKS = """
import os
import schemathesis

REAL = {"project": "default", "model": "tiny", "version": "v1", "name": "default.tiny", "revision": 1}
MODEL = os.path.abspath("tiny.onnx")


@schemathesis.hook
def before_call(context, case, kwargs):
    names = case.path_parameters
    if "unload" in case.path:
        case.path_parameters = {"name": "no.such"}
    elif names and sum(len(str(name)) for name in names.values()) % 3:
        case.path_parameters = {name: REAL.get(name, value) for name, value in names.items()}
    if isinstance(case.query, dict):
        case.query.pop("follow", None)  # such an answer does not end
    body = case.body
    if isinstance(body, dict):
        if isinstance(body.get("path"), str):
            body["path"] = "not absolute"
        spec = body.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("uri"), str):
            spec["uri"] = MODEL if len(spec["uri"]) % 4 else "http://127.0.0.1:9/tiny.onnx"
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as url:
        folder = Path(name)
        (folder / "hooks.py").write_text(HOOKS)
        operations = count_operations(url)
        # The other phases send thousands of their own, whatever is asked for.
        phases = "examples,coverage,fuzzing" if asked.cases >= 5_000 else "fuzzing"
        command = [
            *(find_schemathesis(), "run", f"{url}/openapi.json", "--no-color", "--continue-on-failure"),
            *("--phases", phases, "--checks", CHECKS, "--seed", str(asked.seed)),
            *("--max-examples", str(-(-asked.cases // operations)), "--request-timeout", "30"),
            *("--exclude-operation-id", "listen", "--header", f"authorization: Bearer {make_token(url)}"),
            *("--suppress-health-check", "all"),
        ]
        env = os.environ | {"SCHEMATHESIS_HOOKS": "hooks"}
        return subprocess.run(command, cwd=folder, env=env, check=False).returncode


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """An appliance with `default/tiny`; its URL."""
    write_model(TINY, folder / "tiny.onnx")
    command = [sys.executable, "-m", "mdslite", "up", "tiny.onnx", "--port", "0", "--drain-grace", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[2]
        finally:
            process.terminate()


def make_token(url: str) -> str:
    """One that lives through the run: else the first that is made at random would shut everybody out."""
    body = json.dumps({"scopes": ["admin"]}).encode()
    request = urllib.request.Request(f"{url}/api/v1/tokens", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return str(json.load(reply)["token"])


def count_operations(url: str) -> int:
    with urllib.request.urlopen(f"{url}/openapi.json") as reply:
        return sum(len(methods) for methods in json.load(reply)["paths"].values())


def find_schemathesis() -> str:
    beside = Path(sys.executable).with_name("schemathesis")
    found = str(beside) if beside.exists() else shutil.which("schemathesis")
    if found is None:
        raise SystemExit("schemathesis is not installed: pip install schemathesis")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
