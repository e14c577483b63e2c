"""What of a request decides where it goes, beside weights: a header that a version asks for, and a key whose
holder stays with one version. Values only; `serving.targeting` follows them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

HeaderName = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z",
        description="the name of a header, such as x-user",
        extra={"word": "the name of a header"},
    ),
]
HeaderValue = Annotated[
    str,
    Meta(
        pattern=r"\A[\x21-\x7e](?:[\x20-\x7e]{0,254}[\x21-\x7e])?\Z",
        description="the header's whole value, letter for letter",
        extra={"word": "the value of a header"},
    ),
]
KeyPath = Annotated[
    str,
    Meta(
        pattern=r"\A[^.\s]{1,64}(\.[^.\s]{1,64}){0,7}\Z",
        description="names from the body's outermost object inwards, such as user.id",
        extra={"word": "a path of names"},
    ),
]


class Match(Struct, frozen=True, forbid_unknown_fields=True):
    """A request with this header goes to the version that says so; without `value`, whatever it holds."""

    header: HeaderName
    value: HeaderValue | None = None


class Sticky(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the key is whose holder stays with one version: a header, or else a field of a JSON body."""

    header: HeaderName | None = None
    body: KeyPath | None = None
