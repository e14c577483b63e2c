"""`mdslite predict`: one prediction from data as people write it, or the curl line that asks for it."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdslite import errors
from mdslite.cli import output
from mdslite.cli.examples import curl_line, example_curl, instance_depth
from mdslite.cli.files import unreadable
from mdslite.cli.options import connect, json_option, read_once, url_option
from mdslite.cli.target import Target, parse_target

if TYPE_CHECKING:
    from mdslite.client import Client
    from mdslite.payloads import Prediction

_PATIENCE_S = 5.0


@click.command(
    epilog="""\b
Examples:
  mdslite predict demo/digits -d @examples/digit.json
  mdslite predict demo/digits@v2 -d @examples/digit.json
  mdslite predict default/model -d '[0.0, 0.5, 1.0, 0.25]'
  mdslite predict mail/spamfilter -d '{"instances": ["hello", "cheap pills"]}'
  mdslite predict demo/digits --curl      # with data made from the signature
  cat examples/digit.json | mdslite predict demo/digits -d @-

\b
The data is one of:
  a whole body      an object with "instances" or "inputs", sent as it stands
  one instance      a value, or {"INPUT": value} where there are several
  many instances    a list of instances; the model's signature tells a list of
                    instances from one instance that is a list""",
)
@click.argument("target", metavar="PROJECT/MODEL[@VERSION]", callback=parse_target)
@click.option(
    "-d", "--data", multiple=True, callback=read_once, metavar="JSON|@FILE",
    help="What to predict from; @- reads stdin.",
)  # fmt: skip
@click.option("--curl", is_flag=True, help="Print the request as a curl line instead of sending it.")
@json_option
@url_option
def predict(target: Target, data: str | None, curl: bool, as_json: bool, url: str) -> int:
    """Ask a model for one prediction. Without a VERSION, the weights choose one."""
    with connect(url) as client:
        if curl:
            line = _curl(client, target, data)
            if as_json:
                output.write_json({"curl": line})
            else:
                output.write(line)
            return 0
        if data is None:
            _check_deployed(client, target)
            raise errors.InvalidRequest(
                "there is nothing to predict from: expected -d JSON or -d @FILE",
                hint=f"mdslite predict {target} --curl prints a request to start from",
            )
        body = _body(client, target, _read(data, target))
        with _hinting(target), _saying_that_it_waits():
            reply = client.predict(target.project, target.model, body, version=target.version)
    answer = _answer(reply)
    if as_json:
        is_named = isinstance(answer, dict) and not answer.keys().isdisjoint(("predictions", "outputs"))
        named = answer if is_named else {"answer": answer}
        output.write_json({**named, "version": reply.version, "request_id": reply.request_id})
        return 0
    output.write_json(answer, indent=None)
    output.note(_summary(target, reply.version, reply.server_timing, reply.request_id))
    return 0


def _answer(reply: Prediction) -> Any:
    """The body as JSON; of a model that streams, the list of its items."""
    try:
        return json.loads(reply.body)
    except ValueError as exc:
        if isinstance(reply.value, list):
            return reply.value
        raise errors.Unavailable(
            "what answers there is no appliance: this is no prediction",
            hint="MDSLITE_URL and --url say where the appliance is",
        ) from exc


def _check_deployed(client: Client, target: Target) -> None:
    """:raises NotFound: there is no such model or version, so that what could be sent is not the question"""
    try:
        if target.version is None:
            client.model(target.project, target.model)
        else:
            client.version(target.project, target.model, target.version)
    except errors.NotFound:
        raise
    except errors.MdsliteError:
        return  # a token for predictions alone, say, may not look


@contextmanager
def _hinting(target: Target) -> Iterator[None]:
    """Show the way to a body that the model takes, to who sent another."""
    try:
        yield
    except errors.InvalidRequest as exc:
        if exc.hint is None or exc.hint.startswith("GET "):  # what programs can look up, people are shown
            exc.hint = f"mdslite predict {target} --curl prints a request that it takes"
        raise


@contextmanager
def _saying_that_it_waits() -> Iterator[None]:
    """Say of an answer that takes long how long it is waited for."""
    from mdslite.asks import PREDICT_WAIT_S

    words = f"no answer yet: waiting for it, up to {PREDICT_WAIT_S / 60:.0f} minutes; Ctrl-C stops"
    timer = threading.Timer(_PATIENCE_S, lambda: output.note(words))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read(data: str, target: Target) -> str:
    if not data.startswith("@"):
        return data
    if data == "@-":
        return sys.stdin.read()
    try:
        return Path(data[1:]).read_text(encoding="utf-8")
    except OSError as exc:
        hint = f"mdslite predict {target} --curl prints a request to start from"
        raise unreadable(data[1:], exc, hint=hint) from exc
    except UnicodeDecodeError as exc:
        raise errors.InvalidRequest(
            f"{data[1:]} is no UTF-8 text: expected JSON",
            hint="arrays and raw bodies are sent by mdslite.Client, or by curl --data-binary",
        ) from exc


def _body(client: Client, target: Target, text: str) -> bytes:
    """The predict body for data as typed; numbers go out exactly as they were written."""
    if not text.strip():
        raise errors.InvalidJson(
            "the data is empty: expected JSON",
            hint=f"mdslite predict {target} --curl prints a request to start from",
        )
    try:
        data = json.loads(text, object_pairs_hook=_refuse_repeats)
    except (ValueError, RecursionError) as exc:
        raise errors.InvalidJson(
            f"the data is no JSON: {exc}", hint="a text is JSON in quotes; a file is written @FILE"
        ) from exc
    text = text.strip()
    if isinstance(data, dict) and ("instances" in data or "inputs" in data):
        return text.encode()
    if isinstance(data, list) and _holds_instances(client, target, data):
        return f'{{"instances": {text}}}'.encode()
    return f'{{"instances": [{text}]}}'.encode()


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose readers would silently take a key's last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise errors.InvalidJson(
            f"the data has {json.dumps(twice)} twice in an object", hint="keep one of them"
        )
    return found


def _holds_instances(client: Client, target: Target, data: list[Any]) -> bool:
    """Is this list a list of instances, and not one instance that is itself a list?"""
    if not data or isinstance(data[0], dict):
        return True
    depth = instance_depth(_signature(client, target))
    return depth is None or _depth(data) > depth


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = value[0] if value else None
    return depth


def _signature(client: Client, target: Target) -> Mapping[str, Any]:
    """The signature of the version, or of the first one of the model that has been loaded."""
    if target.version is not None:
        versions = [client.version(target.project, target.model, target.version)]
    else:
        versions = client.model(target.project, target.model)["versions"]
    for version in versions:
        if version.get("signature"):
            signature: Mapping[str, Any] = version["signature"]
            return signature
    unloaded = any(one["state"] == "unloaded" for one in versions)
    way = f"load {target.project}/{target.model}" if unloaded else f"ls {target.project}"
    raise errors.Unavailable(
        f"{target} has no loaded version that could say what it takes", hint=f"mdslite {way}"
    )


def _curl(client: Client, target: Target, data: str | None) -> str:
    from mdslite.payloads import predict_path

    path = predict_path(target.project, target.model, target.version)
    with_token = bool(os.environ.get("MDSLITE_TOKEN"))
    if data is None:
        return example_curl(client.url, path, _signature(client, target), with_token=with_token)
    text = _read(data, target)
    body = _body(client, target, text).decode()
    whole_file = data.startswith("@") and data != "@-" and body == text.strip()
    return curl_line(client.url, path, data if whole_file else body, with_token=with_token)


def _summary(target: Target, version: str | None, timing: str | None, request_id: str | None) -> str:
    """Which version answered, what the appliance says it took, and the id to look it up by."""
    name = f"{target.project}/{target.model}@{version or target.version or '?'}"
    total = re.search(r"(?:^|[,\s])total;dur=([0-9.]+)", timing or "")
    took = f"   {float(total[1]):.1f} ms" if total else ""
    return f"{name}{took}   request {request_id or '-'}"
