"""A request's body as it came, for data that is no JSON: an image, a recording, a text."""

from __future__ import annotations

from typing import Self


class Body(bytes):
    """The bytes of a request and their media type, such as `image/png`, in lower case without parameters."""

    content_type: str

    def __new__(cls, data: bytes = b"", content_type: str = "application/octet-stream") -> Self:
        body = super().__new__(cls, data)
        body.content_type = content_type
        return body
