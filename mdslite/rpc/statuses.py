"""Our errors as gRPC's statuses, and what goes with them in the trailing metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import grpc

from mdslite.errors import MdsliteError
from mdslite.http.guard import error_fields

REQUEST_ID = "mdslite-request-id"
CODE = "mdslite-code"  # of the error, as `code` is in a REST error's body
_MESSAGE_MAX = 2048  # it travels as a header, which clients take up to 8 KiB of

STATUSES: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    505: grpc.StatusCode.UNIMPLEMENTED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def describe(error: MdsliteError) -> str:
    """The status' message: what was wrong, and what to do."""
    hint = error.details().get("hint")
    text = f"{error.message} ({hint})" if hint else error.message
    return text if len(text) <= _MESSAGE_MAX else f"{text[: _MESSAGE_MAX - 1]}…"


async def refuse(context: Any, error: MdsliteError, request_id: str) -> NoReturn:
    """End an RPC with an error."""
    trailing = [(REQUEST_ID, request_id), (CODE, error.code)]
    trailing += [(name.decode(), value.decode("latin-1")) for name, value in error_fields(error)]
    await context.abort(
        STATUSES.get(error.status, grpc.StatusCode.INTERNAL), describe(error), tuple(trailing)
    )
    raise AssertionError("abort raises")


def unknown_error() -> MdsliteError:
    """What is said of what nobody foresaw."""
    return MdsliteError("something went wrong inside the appliance; its log has the details")
