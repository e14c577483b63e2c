"""What a request's value was refused for, in words: msgspec's refusals as people say them, and the place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from mdslite.document import place_text
from mdslite.errors import clip
from mdslite.mistakes import choices_of, locate, word_of

_QUOTED = re.compile(r"([`'])(.*)\1", re.DOTALL)  # a key, or a value, that nobody knows
_KEY = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_LENGTH = re.compile(r"`?str`? of length (<=|>=) (\d+)")

# msgspec's names of kinds, as people call what JSON has.
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_KIND = re.compile(rf"\b({'|'.join(_KINDS)})\b")


def explain(exc: msgspec.ValidationError, read: Callable[[], Any], kind: Any) -> tuple[str | None, str]:
    """`Expected int - at $.limit` as `limit` and `expected a whole number`. `read` reads the value that was
    to be a `kind`; it is asked only for the key of a mapping's entry, which msgspec does not tell."""
    refusal = str(exc)
    path, expected = locate(
        refusal, _read(read) if "[...]" in refusal or "`key` in" in refusal else None, kind
    )
    what = refusal.partition(" - at `")[0]
    what, _, pattern = what.partition(" matching regex ")
    if pattern:
        what = f"Expected {word_of(expected) or f'text like {pattern}'}"
    what = _QUOTED.sub(lambda found: found[1] + clip(found[2]) + found[1], what)
    _, enum, came = what.partition("Invalid enum value ")
    if enum and (choices := choices_of(expected)):
        what = f"Expected one of {', '.join(choices)}; got {came}"
    if key := _KEY.fullmatch(what):
        path, what = (*path, key[2]), "Unknown key" if key[1] == "contains unknown" else "It is missing"
    what = _LENGTH.sub(_length_words, what).replace("`", "")
    if not (enum or pattern):
        what = _KIND.sub(lambda found: _KINDS[found[0]], what)
    if "..." in path:  # by what holds it: its own key is not known
        path = path[: path.index("...")]
    return place_text(path) or None, f"{what[:1].lower()}{what[1:]}"


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ValueError, RecursionError):  # msgspec refuses before it has seen all of it
        return None


def _length_words(found: re.Match[str]) -> str:
    if found[0].endswith(">= 1"):
        return "text that is not empty"
    return f"text of {'at most' if found[1] == '<=' else 'at least'} {found[2]} characters"
