"""Makes the lane of a version that is served elsewhere from what its spec says of its endpoints."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import partial
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from mdslite.data import DataCodec
from mdslite.errors import LoadFailed, quoted
from mdslite.runtimes.protocol import Signature
from mdslite.serving.behaviour import remote_behaviour
from mdslite.serving.remote.discovery import Wanted, Watch, find_provider, merge
from mdslite.serving.remote.lane import RemoteLane
from mdslite.serving.remote.pool import Balance, Pool
from mdslite.serving.remote.speech import (
    InferSpeech,
    PassingCodec,
    PredictSpeech,
    Speech,
    model_path,
    read_metadata,
)
from mdslite.serving.remote.wire import Unanswered, Wires, read_trust
from mdslite.spec import EndpointInfo, Spec
from mdslite.store.addresses import is_machinery
from mdslite.tensors import Codec

FIRST_LOOK_S = 10.0
METADATA_S = 10.0
_OPTIONS: Mapping[str, type | tuple[type, ...]] = {
    "balance": str, "health": str, "idempotent": bool, "model": str, "project": str, "version": str,
    "token_env": str, "ca": str, "srv": bool, "every_s": (int, float), "api": str, "port_name": str,
}  # fmt: skip


async def load_remote(
    label: str, names: tuple[str, str, str], spec: Spec
) -> tuple[Codec | DataCodec, RemoteLane]:
    """The codec and the lane of a version whose spec lists endpoints; `names` are project, model, version.

    :raises LoadFailed: the endpoints cannot be understood, or, where they have to say what the model takes,
        cannot be reached
    """
    infos = spec.service_info.endpoints_infos
    first = check_infos(infos)
    options = first.options
    project, model, _ = names
    tls = await asyncio.to_thread(read_trust, options)
    wires = Wires(tls=tls, token_env=_checked_variable(options))
    pool = Pool(balance=_balance(options), clock=perf_counter)
    watch = merge([_watch(info, options, names, pool) for info in infos])
    try:
        async with asyncio.timeout(FIRST_LOOK_S):
            pool.update(await anext(watch))
        speech: Speech
        codec: Codec | DataCodec
        if first.protocol == "OIP":
            remote = options.get("model", f"{project}.{model}"), options.get("version")
            signature = await _ask_signature(pool, wires, *remote)
            speech, codec = InferSpeech(signature, *remote), Codec(signature)
        else:
            asked = options.get("project", project), options.get("model", model), options.get("version")
            speech = PredictSpeech(*asked, health=options.get("health", "/healthz"))
            codec = PassingCodec()
        knobs, read_confidence = remote_behaviour(spec, codec.signature)
    except BaseException as exc:
        await watch.aclose()  # type: ignore[attr-defined]
        wires.close()
        if isinstance(exc, TimeoutError):
            raise LoadFailed(f"no endpoint was found within {FIRST_LOOK_S:g} s{pool.why_unfound()}") from exc
        raise
    lane = RemoteLane(
        label,
        codec=codec,
        speech=speech,
        pool=pool,
        wires=wires,
        watch=watch,
        knobs=knobs,
        read_confidence=read_confidence,
        repeats=options.get("idempotent", True),
    )
    lane.start()
    return codec, lane


def _watch(info: EndpointInfo, options: Mapping[str, Any], names: tuple[str, str, str], pool: Pool) -> Watch:
    """Who finds the endpoints of one URL, by the version's options and its own."""
    tell = partial(pool.tell, info.url)
    return find_provider(info.provider)(Wanted(info.url, {**options, **info.options}, *names, tell=tell))


def check_infos(infos: tuple[EndpointInfo, ...]) -> EndpointInfo:
    """Find what is wrong with a version's endpoints; gives the first, whose options are for all.

    :raises LoadFailed: naming the field
    """
    for info in infos:
        parts = urlsplit(info.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LoadFailed(f"endpoints_infos: expected an http(s) URL, got {quoted(info.url)}")
        if parts.query or parts.fragment or parts.username:
            raise LoadFailed(f"endpoints_infos: expected a URL without user or query, got {quoted(info.url)}")
        if is_machinery(parts.hostname):
            raise LoadFailed(
                f"endpoints_infos: {parts.hostname} is a link-local address, as of a cloud's metadata;"
                " expected one that serves models"
            )
        if info.protocol != infos[0].protocol:
            raise LoadFailed("endpoints_infos: all endpoints of a version speak one protocol")
        for name, value in info.options.items():
            kind = _OPTIONS.get(name)
            if info.provider in (None, "static", "dns", "mdslite", "kubernetes") and kind is None:
                raise LoadFailed(
                    f"endpoints_infos: unknown option {quoted(name)}; "
                    f"expected one of {', '.join(sorted(_OPTIONS))}"
                )
            if kind is not None and not isinstance(value, kind):
                raise LoadFailed(f"endpoints_infos: option {name}: got {quoted(value)}")
    _balance(infos[0].options)
    return infos[0]


async def _ask_signature(pool: Pool, wires: Wires, model: str, version: str | None) -> Signature:
    reasons, answered = [], False
    for endpoint in pool.endpoints:
        try:
            async with asyncio.timeout(METADATA_S):
                answer = await wires.get(endpoint.address, model_path(model, version))
        except (Unanswered, TimeoutError) as exc:
            reasons.append(f"{endpoint.url}: {getattr(exc, 'reason', 'no answer')}")
            continue
        if answer.status == 200:
            return read_metadata(answer)
        if answer.status in (401, 403):
            reasons.append(f"{endpoint.url}: {wires.refusal(answer.status)}")
        else:
            reasons.append(f"{endpoint.url}: status {answer.status}")
            answered = True
    named = (
        "options: {model: NAME} says what the model is called there; "
        "of an mdslite, options: {model: PROJECT.MODEL}"
    )
    why = "; ".join(reasons) or f"none was found{pool.why_unfound()}"
    raise LoadFailed(
        f"no endpoint says what the model {model} takes ({why})", hint=named if answered else None
    )


def _checked_variable(options: Mapping[str, Any]) -> str | None:
    """The variable that holds a token, which has to be there."""
    name: str | None = options.get("token_env")
    if name is not None and not os.environ.get(name):
        raise LoadFailed(
            f"endpoints_infos: option token_env: {name} is not set where the appliance runs",
            hint=f"{name}=... mdslite up",
        )
    return name


def _balance(options: Mapping[str, Any]) -> Balance:
    found = options.get("balance", "round_robin")
    if found == "round_robin" or found == "least_loaded":
        return found  # type: ignore[no-any-return]
    raise LoadFailed(
        f"endpoints_infos: option balance: expected round_robin or least_loaded, got {quoted(found)}"
    )
