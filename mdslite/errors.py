"""Every error that mdslite raises on purpose: one tree, each class with a stable `code` and an HTTP status.

    MdsliteError                 500 internal_error
    ├── InvalidRequest           400 invalid_request
    │   ├── InvalidJson          400 invalid_json
    │   └── InvalidTensor        400 invalid_tensor
    ├── Unauthorized             401 unauthorized         (challenge)
    ├── Forbidden                403 forbidden
    ├── NotFound                 404 not_found
    ├── MethodNotAllowed         405 method_not_allowed
    ├── RequestTimeout           408 request_timeout
    ├── Conflict                 409 conflict
    │   └── AddressInUse         409 address_in_use       (ends a command, exit 1)
    ├── PreconditionFailed       412 precondition_failed
    ├── TooLarge                 413 too_large
    ├── UnsupportedMedia         415 unsupported_media_type
    ├── Unprocessable            422 unprocessable
    │   ├── SpecError            422 invalid_spec         (file, line, column)
    │   ├── ArtifactError        422 invalid_artifact
    │   └── LoadFailed           422 load_failed
    ├── Overloaded               429 queue_full           (retry_after_s)
    ├── RateLimited              429 rate_limited         (retry_after_s)
    ├── HeadTooLong              431 head_too_long
    ├── ClientClosed             499 client_closed
    ├── ModelError               500 model_error
    ├── Unavailable              503 unavailable          (retry_after_s)
    │   ├── StillLoading         503 still_loading
    │   └── OutOfMemory          503 out_of_memory
    ├── DeadlineExceeded         504 deadline_exceeded
    ├── VersionNotSupported      505 http_version_not_supported
    ├── StorageFull              507 storage_full
    └── StoreError               500 store_error          (ends a command, exit 1)
        ├── StoreLocked
        └── StoreCorrupt

Foreign exceptions become one of these once, at the adapter that met them, with `raise ... from exc`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self, TypeVar

E = TypeVar("E", bound=BaseException)

QUOTED_CHARS = 100  # of what is not ours, in a message
_CAUSES_MAX = 64


class MdsliteError(Exception):
    """The base: `message` says what was wrong and what was expected, `hint` what to do next. `field` is the
    parameter, the header, or the place in the body that was wrong; given here, the message begins with it."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.field = field
        self.message = _plain_text(message if field is None else f"{field}: {message}")
        super().__init__(self.message)
        self.hint = hint and _plain_text(hint)
        self.retry_after_s = retry_after_s
        self.place: SpecError | None = None  # where in a deployments file the cause stands

    def details(self) -> dict[str, Any]:
        """What a reply carries beside `error`, `code` and `request_id`."""
        found = self.place.details() if self.place is not None else {}
        own = {"hint": self.hint, "field": self.field}
        return found | {name: value for name, value in own.items() if value}

    def locate(self, field: str) -> None:
        """Say what was wrong, for who did not know where that came from."""
        self.field, self.message = field, f"{field}: {self.message}"
        self.args = (self.message,)


def _plain_text(text: str) -> str:
    """Text that can be sent: what exceptions of user code, names of files and lenient parsers bring along may
    hold halves of surrogate pairs, which no encoding takes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


BODY_HINT = "/docs lists what it takes"  # to who wrote a body by hand


class InvalidRequest(MdsliteError):
    code = "invalid_request"
    status = 400


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class InvalidTensor(InvalidRequest):
    """`at` are the indices of the value that was wrong, in the lists that were to be a tensor; `part` what of
    the tensor was (`shape`), or of those of a request (`inputs[0].shape`)."""

    code = "invalid_tensor"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
        at: tuple[int, ...] = (),
        part: str = "",
    ) -> None:
        super().__init__(message, field=field, hint=hint, retry_after_s=retry_after_s)
        self.at = at
        self.part = part


class Unauthorized(MdsliteError):
    """No token, or none that is good; `challenge` is what the reply's WWW-Authenticate says."""

    code = "unauthorized"
    status = 401
    challenge: ClassVar[bytes] = b'Bearer realm="mdslite"'


class Forbidden(MdsliteError):
    code = "forbidden"
    status = 403


class NotFound(MdsliteError):
    code = "not_found"
    status = 404

    @classmethod
    def version(cls, project: str, model: str, version: str, known: Iterable[str]) -> Self:
        """A version that is not deployed, beside those of its model that are."""
        name, there = f"{project}/{model}", ", ".join(sorted(known))
        if not there:
            return cls(f"no model {name} is deployed", hint="mdslite ls")
        return cls(f"{name} has no version {version}: it has {there}", hint=f"mdslite show {name}")


class MethodNotAllowed(MdsliteError):
    code = "method_not_allowed"
    status = 405


class RequestTimeout(MdsliteError):
    code = "request_timeout"
    status = 408


class Conflict(MdsliteError):
    code = "conflict"
    status = 409


class AddressInUse(Conflict):
    """Somebody else listens there."""

    code = "address_in_use"


class PreconditionFailed(MdsliteError):
    """What a request wants to change is not what its sender saw (If-Match, If-None-Match)."""

    code = "precondition_failed"
    status = 412


class TooLarge(MdsliteError):
    code = "too_large"
    status = 413


class UnsupportedMedia(MdsliteError):
    code = "unsupported_media_type"
    status = 415


class Unprocessable(MdsliteError):
    code = "unprocessable"
    status = 422


class SpecError(Unprocessable):
    """A mistake in a deployments.yaml, with the place where it stands. To a value's, `path` leads from the
    top, and `wrong` is the message without any place; `field` is the place in a request without a file."""

    code = "invalid_spec"

    def __init__(
        self,
        message: str,
        *,
        file: str = "deployments.yaml",
        line: int | None = None,
        column: int | None = None,
        excerpt: str | None = None,
        hint: str | None = None,
        field: str | None = None,
    ) -> None:
        message = message if field is None else f"{field}: {message}"
        place = file if line is None else f"{file}:{line}:{column or 1}"
        super().__init__(f"{place}: {message}", hint=hint)
        self.file = file
        self.line = line
        self.column = column
        self.excerpt = excerpt
        self.field = field
        self.path: tuple[str | int, ...] = ()
        self.wrong = message

    def details(self) -> dict[str, Any]:
        names = ("file", "line", "column", "excerpt")
        found = {name: getattr(self, name) for name in names}
        return super().details() | {key: value for key, value in found.items() if value is not None}


class ArtifactError(Unprocessable):
    """`misnamed` says that there is no model at the path that was named."""

    code = "invalid_artifact"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after_s: float | None = None,
        misnamed: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.misnamed = misnamed


class LoadFailed(Unprocessable):
    code = "load_failed"


class Overloaded(MdsliteError):
    code = "queue_full"
    status = 429


class RateLimited(MdsliteError):
    code = "rate_limited"
    status = 429


class HeadTooLong(MdsliteError):
    code = "head_too_long"
    status = 431


class ClientClosed(MdsliteError):
    """The client left before its answer: logged and counted, never sent."""

    code = "client_closed"
    status = 499


class ModelError(MdsliteError):
    code = "model_error"
    status = 500


class Unavailable(MdsliteError):
    code = "unavailable"
    status = 503


class StillLoading(Unavailable):
    """It will be there, or whether it will is not known yet: the appliance has not loaded all that it is to
    serve."""

    code = "still_loading"


class OutOfMemory(Unavailable):
    code = "out_of_memory"


class DeadlineExceeded(MdsliteError):
    code = "deadline_exceeded"
    status = 504


class VersionNotSupported(MdsliteError):
    code = "http_version_not_supported"
    status = 505


class StorageFull(MdsliteError):
    code = "storage_full"
    status = 507


class StoreError(MdsliteError):
    code = "store_error"


class StoreLocked(StoreError):
    code = "store_locked"


class StoreCorrupt(StoreError):
    code = "store_corrupt"


def unknown_error() -> MdsliteError:
    """What is said of what nobody foresaw."""
    return MdsliteError("something went wrong inside the appliance; its log has the details")


def clip(text: str, limit: int = QUOTED_CHARS) -> str:
    """What somebody else wrote, as it may stand in a message: cut short."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def quoted(value: object) -> str:
    """The same with quotes, and with nothing in it that a terminal would obey."""
    return repr(clip(value)) if isinstance(value, str) else clip(repr(value))


def without_frames(error: E) -> E:
    """An error for who keeps it: neither it nor what led to it knows a frame any more, and so nothing of the
    request that it was met in. A frame also knows those that called it."""
    if error.__cause__ is None and error.__context__ is None:
        return BaseException.with_traceback(error, None)
    chain: list[BaseException] = [error]
    for one in chain:  # which grows
        BaseException.with_traceback(one, None)  # no assignment: a user's class may refuse that
        for cause in (one.__cause__, one.__context__):
            if cause is not None and len(chain) < _CAUSES_MAX and all(cause is not known for known in chain):
                chain.append(cause)
    return error
