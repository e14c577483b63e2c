"""What a version's spec says of its part in the request log: which bodies are kept, how much of them, which
fields are not. Owns the fields' bounds; the rules are applied by `serving/samples.py` and in the store."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

MAX_BODY_BYTES = 4096
BODY_BYTES_MAX = 1 << 20

_Share = (
    Annotated[int, Meta(ge=0, le=1)]
    | Annotated[float, Meta(ge=0, le=1, description="how many of the requests, 0 to 1, such as 0.01")]
)
_FieldName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"\A[^.]+(\.[^.]+)*\Z",
        description="a field's name, such as password or user.email",
        extra={"word": "names with single dots between them"},
    ),
]


class Some(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Bodies of requests that meet any of these."""

    share: Annotated[_Share, Meta(description="how many of all requests, 0 to 1, such as 0.01")] = 0.0
    below_confidence: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="answers that are less sure than this, above 0 and up to 1, such as 0.6"),
    ] = None
    errors: bool = False


class Log(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`bodies` None: the log's own sample, a few good answers and errors a second of each version."""

    bodies: Annotated[
        Literal["all", "errors", "never"] | Some | None,
        Meta(description="all, errors, never, or some: {share: 0.01, below_confidence: 0.6, errors: true}"),
    ] = None
    max_bytes: Annotated[
        int, Meta(ge=1, le=BODY_BYTES_MAX, description=f"of each body, up to {BODY_BYTES_MAX}")
    ] = MAX_BODY_BYTES
    redact: Annotated[
        tuple[_FieldName, ...], Meta(max_length=64, description="names of fields whose values are not kept")
    ] = ()
