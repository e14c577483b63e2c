"""Requests made up from a model's signature: something to send before anyone has real data.

A signature is the admin API's JSON: `inputs` and `outputs` of `{name, datatype, shape, optional}`, and
`rows`, which says how the first dimension counts rows (`free`, `one`, or `none` when it does not).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mdslite.hosts import curl_address

# Above this many values a curl line is better written as an expression than as the values.
_SPELLED_VALUES = 256


def example_body(signature: Mapping[str, Any]) -> dict[str, Any]:
    """A predict body with one instance of zeros (or of "text"); free dimensions are 1."""
    inputs = _needed(signature)
    values = {one["name"]: _zeros(_instance_shape(one, signature), one["datatype"]) for one in inputs}
    return {"instances": [values if _named(signature) else next(iter(values.values()), {})]}


def example_curl(
    url: str,
    path: str,
    signature: Mapping[str, Any],
    *,
    with_token: bool = False,
    tls_cert: str | None = None,
) -> str:
    """A line for a shell that sends `example_body` to the predict path of the appliance at `url`."""
    count = sum(_count(_instance_shape(one, signature)) for one in _needed(signature))
    if count <= _SPELLED_VALUES:
        body = json.dumps(example_body(signature))
        return curl_line(url, path, body, with_token=with_token, tls_cert=tls_cert)
    script = f"import json; print(json.dumps({_expression(signature)}))"
    line = curl_line(url, path, None, with_token=with_token, tls_cert=tls_cert)
    return f"python3 -c {shlex.quote(script)} | {line}"


def curl_line(
    url: str, path: str, data: str | None, *, with_token: bool = False, tls_cert: str | None = None
) -> str:
    """A curl command that posts `data`, JSON text, `@FILE`, or stdin when None, to the appliance at `url`."""
    options, address = curl_address(url)
    parts = [
        "curl",
        "-sS",
        *map(shlex.quote, options),
        shlex.quote(address + path),
        "-H 'content-type: application/json'",
    ]
    if tls_cert is not None:
        parts.append(f"--cacert {shlex.quote(tls_cert)}")
    if with_token and not options:  # the store's owner needs none
        # The shell fills it in, and curl hides this option's value, not a header's, in the list of processes.
        parts.append('--oauth2-bearer "$MDSLITE_TOKEN"')
    if data is None or data.startswith("@"):
        parts.append(f"--data-binary {shlex.quote(data or '@-')}")
    else:
        parts.append(f"-d {shlex.quote(data)}")
    return " ".join(parts)


def instance_depth(signature: Mapping[str, Any]) -> int | None:
    """How many lists deep one instance of a model is, or None when an instance is an object."""
    if _named(signature):
        return None
    return len(_instance_shape(signature["inputs"][0], signature))


def _named(signature: Mapping[str, Any]) -> bool:
    """An instance is `{input: value}` for every model but those of a single input."""
    return len(signature["inputs"]) != 1


def _needed(signature: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    inputs: Sequence[Mapping[str, Any]] = signature["inputs"]
    return [one for one in inputs if not one.get("optional")] or inputs[:1]


def _instance_shape(tensor: Mapping[str, Any], signature: Mapping[str, Any]) -> list[int]:
    shape = [1 if size is None or size < 0 else int(size) for size in tensor["shape"]]
    return shape if signature.get("rows") == "none" else shape[1:]


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _zeros(shape: Sequence[int], datatype: str) -> Any:
    if not shape:
        return _zero(datatype)
    return [_zeros(shape[1:], datatype) for _ in range(shape[0])]


def _zero(datatype: str) -> bool | int | float | str:
    if datatype == "BOOL":
        return False
    if datatype == "BYTES":
        return "text"
    return 0 if "INT" in datatype else 0.0


def _expression(signature: Mapping[str, Any]) -> str:
    """`example_body` as a Python expression, such as {"instances": [[[0.0] * 224] * 224]}."""
    values = []
    for one in _needed(signature):
        text = repr(_zero(one["datatype"]))
        for size in reversed(_instance_shape(one, signature)):
            text = f"[{text}] * {size}"
        values.append((one["name"], text))
    if not _named(signature):
        return f'{{"instances": [{values[0][1]}]}}'
    fields = ", ".join(f"{json.dumps(name)}: {text}" for name, text in values)
    return f'{{"instances": [{{{fields}}}]}}'
