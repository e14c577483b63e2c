"""Entity tags, and requests that hold only while a resource is what their sender saw (RFC 9110, 8.8 and 13).

A tag stands for what is deployed: the spec, the bytes and the revision that brought them. The figures of
traffic that come with a model's replies are not part of it, or no tag would ever match.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from mdslite.api.operations import JSON, Answer, Raw
from mdslite.errors import InvalidRequest, PreconditionFailed, quoted
from mdslite.store.registry import VersionRow

_TAG = re.compile(r'[ \t]*(W/)?("[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|$)')
_EXPECTED = 'expected * or entity tags such as "0123abcd", with commas between them'

Tags = tuple[str, ...] | Literal["*"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What If-Match and If-None-Match ask for, None where they are absent."""

    match: Tags | None = None
    none_match: Tags | None = None

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> Conditions:
        """:raises InvalidRequest: a field is neither * nor a list of tags"""
        return cls(
            _parse("If-Match", headers.get("if-match"), weak=False),
            _parse("If-None-Match", headers.get("if-none-match"), weak=True),
        )

    def require(self, tag: str | None) -> None:
        """Pass a change of what has this tag now, None where there is nothing yet.

        :raises PreconditionFailed: it is not what the sender saw
        """
        if self.match is not None and not _holds(self.match, tag):
            now = "there is none" if tag is None else f"it is {tag}"
            raise PreconditionFailed(
                f"If-Match asks for another state than the present one: {now}",
                hint="look at it again, and send the change with its new ETag",
            )
        if self.none_match is not None and _holds(self.none_match, tag):
            raise PreconditionFailed(
                f"If-None-Match asks for another state than the present one: it is {tag}",
                hint="it exists: leave the field out, or send If-Match to change it",
            )

    def is_known(self, tag: str) -> bool:
        """Does a reader have what has this tag?

        :raises PreconditionFailed: they asked for another state alone
        """
        if self.match is not None and not _holds(self.match, tag):
            raise PreconditionFailed(f"If-Match asks for another state than the present one: it is {tag}")
        return self.none_match is not None and _holds(self.none_match, tag)


def tag_of(rows: Iterable[VersionRow]) -> str | None:
    """The tag of one version or of a model's, None where there is none."""
    plain = [(*row.key, row.spec, row.digest, row.since_revision) for row in rows]
    if not plain:
        return None
    digest = hashlib.sha256(msgspec.json.encode(plain, order="deterministic"))
    return f'"{digest.hexdigest()[:24]}"'


def rows_of(
    rows: Sequence[VersionRow], project: str, model: str, version: str | None = None
) -> list[VersionRow]:
    """A model's rows, or a version's."""
    wanted = [row for row in rows if (row.project, row.model) == (project, model)]
    return wanted if version is None else [row for row in wanted if row.version == version]


def revision_tag(number: int) -> str:
    """The tag of a revision, and of all that is deployed while it is the latest one; 0 before the first."""
    return f'"r{number}"'


def tagged(value: object, tag: str, headers: Mapping[str, str], *, status: int = 200) -> Answer:
    """The reply to a GET: `value` with its tag, or that its reader has it already."""
    etag = ((b"etag", tag.encode("latin-1")),)
    if Conditions.parse(headers).is_known(tag):
        return Raw(b"", status=304, headers=etag)
    return Raw(msgspec.json.encode(value), JSON, status, etag)


def _parse(field: str, text: str | None, *, weak: bool) -> Tags | None:
    """Weak tags are kept where they may match, and never do where the comparison has to be strong."""
    if text is None:
        return None
    if text.strip() == "*":
        return "*"
    found: list[str] = []
    at = 0
    while at < len(text):
        one = _TAG.match(text, at)
        if one is None:
            raise InvalidRequest(f"{_EXPECTED}, got {quoted(text)}", field=field)
        if weak or one[1] is None:
            found.append(one[2])
        at = one.end()
    if not text.strip():
        raise InvalidRequest(f"{_EXPECTED}, got nothing", field=field)
    return tuple(found)


def _holds(tags: Tags, tag: str | None) -> bool:
    return tag is not None and (tags == "*" or tag in tags)
