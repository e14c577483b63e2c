"""The Starlette application: everything that is not the door's own fast path. Puts the operations, the
predict URLs (for HTTP/2, and for whatever the door does not recognise) and the pages behind one router, and
the guards around it. Owns no socket and no state.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from mdslite.api import (
    admin,
    comparison,
    drift,
    keys,
    labels,
    later,
    logs,
    oip,
    openai,
    replays,
    rollouts,
    views,
)
from mdslite.api.later import send_reply
from mdslite.api.ndjson import until_left
from mdslite.api.openapi import make_document
from mdslite.api.operations import (
    Answer,
    Call,
    Endpoint,
    Nothing,
    Operation,
    Raw,
    declare,
)
from mdslite.api.page import make_page
from mdslite.api.parts import Parts
from mdslite.api.reading import header, read_body
from mdslite.api.schema import (
    Health,
    ModelPath,
    PredictBody,
    PredictReply,
    Readiness,
    ReadyQuery,
    VersionPath,
)
from mdslite.errors import (
    InvalidRequest,
    MdsliteError,
    RequestTimeout,
    TooLarge,
    Unauthorized,
    Unavailable,
    quoted,
)
from mdslite.exposition import OPEN_METRICS, TEXT, wants_open_metrics
from mdslite.http.access import NOBODY
from mdslite.http.budget import BODIES, Claim
from mdslite.http.guard import AllowList, Errors, Guard, RequestIds
from mdslite.http.paths import is_prediction
from mdslite.http.request import REFUSED
from mdslite.media import OCTETS
from mdslite.npy import NPY
from mdslite.predict.deferred import Deferrals, wants_later
from mdslite.predict.events import EVENTS
from mdslite.predict.predictor import Predictor

HTML = "text/html; charset=utf-8"
_MODEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,62})/([A-Za-z0-9][A-Za-z0-9_-]{0,62})")


def create_app(parts: Parts) -> ASGIApp:
    """Build the application around the appliance's parts, which may still be starting."""
    operations = make_operations()
    predict = PredictEndpoint(parts.predictor, parts.deferrals)
    routes = [
        Route(
            operation.url,
            predict if operation.handler is None else Endpoint(operation, parts),
            methods=[operation.method],
        )
        for operation in operations
    ]
    routes += [Route(url, oip.NoSharedMemory()) for url in oip.SHARED_MEMORY_URLS]
    routes.append(Route("/", Welcome(), methods=["GET"]))
    settings = parts.settings
    allow_list = AllowList(settings.host, extra=settings.allow_hosts)
    return RequestIds(Errors(Guard(Routes(routes, predict=predict), allow_list)))


def make_operations() -> list[Operation]:
    """Every operation of the appliance, in the order in which the documentation lists them."""
    operations = [
        *_predict_operations(),
        *later.make_operations(),
        *openai.make_operations(),
        *comparison.make_operations(),
        *rollouts.make_operations(),
        *drift.make_operations(),
        *logs.make_operations(),
        *labels.make_operations(),
        *replays.make_operations(),
        *oip.make_operations(),
        *admin.make_operations(),
        *keys.make_operations(),
    ]
    pages = Pages(operations)
    operations += [
        declare("GET", "/healthz", get_health, group="appliance", scope="open"),
        declare("GET", "/readyz", get_readiness, group="appliance", errors=(404,), same=(503,), scope="open"),
        declare("GET", "/metrics", get_metrics, group="appliance", media_type=TEXT),
        declare("GET", "/openapi.json", pages.get_openapi, group="appliance", scope="open"),
        declare("GET", "/docs", pages.get_docs, group="appliance", media_type=HTML, scope="open"),
    ]
    return operations


class Routes:
    """Starlette's router; what is posted below /projects/ goes to the predict function, as at the door."""

    def __init__(self, routes: list[Route], *, predict: PredictEndpoint) -> None:
        self._router = Router(routes, redirect_slashes=False)
        self._predict = predict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST" and is_prediction(scope["path"].encode("latin-1", "replace")):
            await self._predict(scope, receive, send)
        else:
            # Undecoded, so that a %2F stays inside the name that it came in. And the router raises what it
            # has no route for only when it believes to be inside an application.
            path = scope["raw_path"].decode("latin-1")
            await self._router({**scope, "path": path, "app": self}, receive, send)


class PredictEndpoint:
    """The predict function behind ASGI. A client that leaves frees what its request holds; what it prefers to
    be answered later is accepted."""

    def __init__(self, predictor: Predictor, deferrals: Deferrals) -> None:
        self._predictor = predictor
        self._deferrals = deferrals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        claim = BODIES.open(0)
        try:
            await self._answer(scope, receive, send, claim)
        finally:
            claim.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, claim: Claim) -> None:
        """`claim` is the body's, which is needed until the model has answered."""
        predictor = self._predictor
        target, fields = scope["raw_path"], dict(scope["headers"])
        limit_bytes = predictor.reader.body_limit(target, fields)
        body = b""
        error: MdsliteError | None = scope.get("extensions", {}).get(REFUSED)
        error = error or predictor.access.stranger(header(scope, b"authorization").encode("latin-1"))
        try:
            if error is None:
                body = await read_body(scope, receive, limit_bytes=limit_bytes, compressed=True, claim=claim)
        except TooLarge:
            error = predictor.reader.too_large(target, fields)
        except (RequestTimeout, Unavailable) as exc:
            error = exc  # which is logged, as at the door
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        if error is None and wants_later(fields):
            route, client = predictor.admit(target, fields.get(b"authorization", b""))
            accepted = await self._deferrals.accept(
                project=route.project,
                model=route.model,
                target=target,
                fields=fields,
                body=body,
                client=client,
            )
            await send_reply(send, accepted)
            return
        work = predictor.respond(target=target, headers=scope["headers"], body=body, error=error)
        reply = await until_left(work, receive)
        if reply.pieces is not None:
            await until_left(reply.pieces.send(send, reply.headers), receive)
            return
        # Before the answer goes out, which may take a slow reader long.
        body = b""
        claim.close()
        await send_reply(send, reply)


async def get_health(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> Health:
    """Is the process alive?"""
    return Health()


async def get_readiness(parts: Parts, call: Call[Nothing, ReadyQuery, Nothing]) -> Readiness | Answer:
    """Can it take traffic? 503 while it loads at start, and while it drains. Who shows no token is told of no
    version"""
    grant, model = call.caller.grant, None
    if call.query.model is not None:
        found = _MODEL.fullmatch(call.query.model)
        if found is None:
            raise InvalidRequest(f"expected PROJECT/MODEL, got {quoted(call.query.model)}", field="model")
        model = (found[1], found[2])
        if grant is NOBODY:
            raise Unauthorized("to ask for one model takes a token", hint="/readyz tells of the whole box")
        grant.require_model(*model)
    readiness = views.readiness_of(parts, model, grant)
    return Raw(msgspec.json.encode(readiness), status=200 if readiness.ready else 503)


async def get_metrics(parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> str | Answer:
    """Prometheus' text"""
    wanted = wants_open_metrics(call.headers.get("accept", ""))
    text = await asyncio.to_thread(parts.metrics.render, open_metrics=wanted)
    return Raw(text, media_type=OPEN_METRICS if wanted else TEXT)


class Pages:
    """The documentation, made when it is first asked for."""

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = operations
        self._openapi = b""
        self._docs = b""

    async def get_openapi(
        self, parts: Parts, call: Call[Nothing, Nothing, Nothing]
    ) -> dict[str, Any] | Answer:
        """This API as an OpenAPI 3.1 document"""
        self._openapi = self._openapi or msgspec.json.encode(make_document(self._operations))
        return Raw(self._openapi)

    async def get_docs(self, parts: Parts, call: Call[Nothing, Nothing, Nothing]) -> str | Answer:
        """This API as a page to read"""
        self._docs = self._docs or make_page(make_document(self._operations))
        return Raw(self._docs, media_type=HTML)


class Welcome:
    """What stands where `up` says that it serves: the way to the documentation, for a browser to follow and
    for others to read. No operation, as there is nothing to ask for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ways = {"docs": "/docs", "openapi": "/openapi.json", "metrics": "/metrics", "ready": "/readyz"}
        answer = Raw(msgspec.json.encode(ways), status=307, headers=((b"location", b"docs"),))
        await answer(send)


def _predict_operations() -> list[Operation]:
    model = "/projects/{project}/models/{model}"
    urls: tuple[tuple[str, str, type[msgspec.Struct], str], ...] = (
        (
            f"{model}:predict",
            "predict",
            ModelPath,
            "Predict with a version chosen by weight",
        ),
        (f"{model}/versions/{{version}}:predict", "predict_version", VersionPath, "Predict with one version"),
    )
    return [
        Operation(
            "POST",
            url,
            "predict",
            name=name,
            summary=summary,
            handler=None,
            path=path,
            query=Nothing,
            body=PredictBody,
            reply=PredictReply,
            errors=(404, 503, 504),
            scope="predict",
            reach="named",
            consumes=(NPY.decode(), OCTETS.decode()),
            produces=(NPY.decode(), OCTETS.decode(), EVENTS.decode()),
            wishes=(
                ("mdslite-dtype", "of a body of bytes: float32, bfloat16, ...; by default the model's"),
                ("mdslite-shape", "of a body of bytes: 8,3,224,224; by default what their number says"),
                ("mdslite-output", "which output, where Accept asks for a tensor"),
            ),
            headers=(
                ("mdslite-version", "the version that answered"),
                ("server-timing", "queue, compute and total, in milliseconds"),
            ),
        )
        for url, name, path, summary in urls
    ]
