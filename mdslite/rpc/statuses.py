"""Our errors as gRPC's statuses, and what goes with them in the fields that end an answer."""

from __future__ import annotations

from collections.abc import Mapping

from mdslite.errors import MdsliteError
from mdslite.http.guard import error_fields
from mdslite.rpc import frames

REQUEST_ID = "mdslite-request-id"
CODE = "mdslite-code"  # of the error, as `code` is in a REST error's body
_MESSAGE_MAX = 2048  # it travels as a header, which clients take up to 8 KiB of

OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED = 0, 1, 3, 4, 5, 7
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, UNIMPLEMENTED, INTERNAL = 8, 9, 10, 12, 13
UNAVAILABLE, UNAUTHENTICATED = 14, 16

STATUSES: Mapping[int, int] = {
    400: INVALID_ARGUMENT,
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    404: NOT_FOUND,
    405: UNIMPLEMENTED,
    408: DEADLINE_EXCEEDED,
    409: ABORTED,
    412: FAILED_PRECONDITION,
    413: RESOURCE_EXHAUSTED,
    415: INVALID_ARGUMENT,
    422: FAILED_PRECONDITION,
    429: RESOURCE_EXHAUSTED,
    431: RESOURCE_EXHAUSTED,
    499: CANCELLED,
    500: INTERNAL,
    503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
    505: UNIMPLEMENTED,
    507: RESOURCE_EXHAUSTED,
}


def describe(error: MdsliteError) -> str:
    """The status' message: what was wrong, and what to do."""
    hint = error.details().get("hint")
    text = f"{error.message} ({hint})" if hint else error.message
    return text if len(text) <= _MESSAGE_MAX else f"{text[: _MESSAGE_MAX - 1]}…"


def end_of(error: MdsliteError, request_id: str) -> bytes:
    """The fields that end an answer which is an error."""
    trailing = [(REQUEST_ID, request_id), (CODE, error.code)]
    trailing += [(name.decode(), value.decode("latin-1")) for name, value in error_fields(error)]
    code = STATUSES.get(error.status, INTERNAL)
    return frames.status(code, describe(error)) + frames.fields(trailing)
