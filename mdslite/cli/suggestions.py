"""What to type next, made from what an appliance really serves, so that every line works as it stands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdslite import errors
from mdslite.cli.examples import example_curl, instance_depth
from mdslite.cli.options import DEFAULT_URL, connect

BETWEEN = "   |   "  # two commands
_SAMPLE_FILES = 20
_SAMPLE_BYTES = 64 * 1024
_SPEC_SUFFIXES = (".yaml", ".yml", ".json")

Json = Mapping[str, Any]


def suggest(url: str, *, file: str | None, tls_cert: str | None, ask: str | None = None) -> str:
    """The next command line after `mdslite up FILE` serves at `url`; `ask` is a better way to ask it what."""
    models, with_token = _look(ask, None) or _look(url, tls_cert) or ([], False)
    model = _choose(models, file)
    for everywhere in ("//0.0.0.0:", "//[::]:"):  # good to listen on, and no name that a certificate has
        url = url.replace(everywhere, "//localhost:")
    if model is None:
        return command_line("ls", url, tls_cert=tls_cert)
    name = f"{model['project']}/{model['model']}"
    signature = _signature(model)
    if signature is None:
        return command_line(f"show {name}", url, tls_cert=tls_cert)
    if file is not None and Path(file).suffix not in _SPEC_SUFFIXES:
        path = f"/projects/{model['project']}/models/{model['model']}:predict"
        return example_curl(url, path, signature, with_token=with_token, tls_cert=tls_cert)
    sample = find_sample(Path(file).parent, signature) if file is not None else None
    data = "--curl" if sample is None else f"-d {shlex.quote(f'@{sample}')}"
    predict = command_line(f"predict {name} {data}", url, tls_cert=tls_cert)
    return f"{predict}{BETWEEN}{command_line('dash', url, tls_cert=tls_cert)}"


def find_sample(folder: Path, signature: Json) -> Path | None:
    """A JSON file in `folder` that holds a body or an instance for a model of this signature."""
    try:
        files = sorted(folder.glob("*.json"))[:_SAMPLE_FILES]
        return next((file for file in files if _fits(file, signature)), None)
    except OSError:
        return None


def _fits(file: Path, signature: Json) -> bool:
    if file.stat().st_size > _SAMPLE_BYTES:
        return False
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    if isinstance(data, dict) and isinstance(data.get("instances"), list):
        data = data["instances"][0] if data["instances"] else None
    if instance_depth(signature) is None:
        return isinstance(data, dict) and data.keys() == {one["name"] for one in signature["inputs"]}
    tensor = signature["inputs"][0]
    shape = tensor["shape"] if signature.get("rows") == "none" else tensor["shape"][1:]
    return _has_shape(data, shape)


def _has_shape(data: Any, shape: Sequence[int | None]) -> bool:
    if not shape:
        return not isinstance(data, (list, dict)) and data is not None
    if not isinstance(data, list) or (shape[0] not in (None, -1) and len(data) != shape[0]):
        return False
    return all(_has_shape(item, shape[1:]) for item in data)


def _look(url: str | None, tls_cert: str | None) -> tuple[list[Json], bool] | None:
    """What is served, and whether asking takes a token; None when that cannot be learnt there."""
    if url is None:
        return None
    try:
        with connect(url, ca_file=tls_cert) as client:
            return list(client.models()), bool(client.status().get("needs_token"))
    except errors.MdsliteError:
        return None  # a certificate for another name, say: suggest what needs no knowledge


def _choose(models: Sequence[Json], file: str | None) -> Json | None:
    """The model that `file` was deployed as, else the first."""
    from mdslite.fields import make_name

    wanted = ("default", make_name(Path(file).stem)) if file is not None else None
    return next(
        (one for one in models if (one["project"], one["model"]) == wanted), models[0] if models else None
    )


def _signature(model: Json) -> Json | None:
    return next((one["signature"] for one in model["versions"] if one.get("signature")), None)


def command_line(text: str, url: str, *, tls_cert: str | None = None) -> str:
    """A command of mdslite as it has to be typed to reach `url`."""
    trust = f"SSL_CERT_FILE={shlex.quote(tls_cert)} " if tls_cert is not None else ""
    return f"{trust}mdslite {text}" + ("" if url == DEFAULT_URL else f" --url {url}")
