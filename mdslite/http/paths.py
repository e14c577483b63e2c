"""Predict URLs: what project, model and version a path names. Knows no routes."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from mdslite.errors import InvalidRequest


def parse_predict_path(path: bytes) -> tuple[str, str, str | None] | None:
    """Project, model and version (None at model level) of a predict path, None for any other path.

    Percent-encoding is undone between the slashes, so that none comes out of a name.

    :raises InvalidRequest: a name that no project, model or version can have
    """
    _, *parts = map(unquote_to_bytes, path.split(b"/"))
    if len(parts) not in (4, 6) or not parts[-1].endswith(b":predict"):
        return None
    parts[-1] = parts[-1].removesuffix(b":predict")
    if parts[::2] != [b"projects", b"models", b"versions"][: len(parts) // 2]:
        return None
    names = [part.decode("latin-1") for part in parts[1::2]]
    for name in names:
        if not _is_name(name):
            raise InvalidRequest(
                f"{name[:80]!r} is no name: expected 1 to 63 letters, digits, _ or -, the first one no _ or -"
            )
    project, model, *version = names
    return project, model, version[0] if version else None


def _is_name(name: str) -> bool:
    return (
        0 < len(name) <= 63
        and name[0].isalnum()
        and name.isascii()
        and all(letter.isalnum() or letter in "_-" for letter in name)
    )
