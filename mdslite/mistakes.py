"""Plain values into typed structs; what does not fit into an error that says where, why and what to write.

The words come from the types: a field's `Meta(description=...)` is its hint, `extra={"word": ...}` names what
is expected where the type alone says too little, `extra={"also": (...)}` lists what people write for the
field's name. Owns no struct; see `spec.py`.
"""

from __future__ import annotations

import difflib
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from mdslite.document import Document, Path, quote, read_scalar
from mdslite.errors import SpecError, clip

T = TypeVar("T")

# What the place of a value adds to the hint of its field.
Advice = Callable[[Path], str | None]

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
}
_BOUNDS = {">=": "of {} or more", "<=": "of {} or less", ">": "above {}", "<": "below {}"}
_YES_AND_NO = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def convert(document: Document, kind: type[T], *, base: Path = (), advise: Advice | None = None) -> T:
    """The document's value at `base` as `kind`.

    :raises SpecError: for the first value that does not fit
    """
    try:
        return msgspec.convert(document.get(base), kind)
    except msgspec.ValidationError as exc:
        raise _Mistake(document, kind, base, advise).explain(str(exc)) from exc


def word_of(kind: Any) -> str | None:
    """What is expected of a value, where its type's annotations say so."""
    word = _note(kind, "word")
    return None if word is None else str(word)


def choices_of(kind: Any) -> list[str]:
    """What a value of a type may be, where it is one of a few."""
    for option in _options(kind):
        if typing.get_origin(option) is typing.Literal:
            return list(typing.get_args(option))
        if inspect.isclass(option) and issubclass(option, enum.Enum):
            return [member.value for member in option]
    return []


def locate(refusal: str, value: Any, kind: Any) -> tuple[Path, Any]:
    """The path of what msgspec refused in a value that was to be a `kind`, and the type expected there.

    Which entry of a mapping it was msgspec does not say: the value does, and where it is not known, `...`
    stands for the key.
    """
    named = re.search(r" - at `(key` in `)?\$([^`]*)`\Z", refusal)
    path: Path = ()
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", named[2] if named else ""):
        part: str | int = name or (index if index == "..." else int(index))
        inner = _inside(kind, "" if part == "..." else part)
        if part == "...":
            part = next((key for key, one in _items(value) if not _fits(one, inner)), part)
        path, value, kind = (*path, part), dict(_items(value)).get(part), inner
    if named and named[1]:
        keys = next((typing.get_args(option)[0] for option in _options(kind)), str)
        path, kind = (*path, next((key for key, _ in _items(value) if not _fits(key, keys)), "...")), keys
    return path, kind


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


class _Mistake:
    """One refusal of msgspec's, looked up in the document and in the types."""

    def __init__(self, document: Document, kind: Any, base: Path, advise: Advice | None) -> None:
        self._document = document
        self._kind = kind
        self._base = base
        self._advise = advise

    def explain(self, refusal: str) -> SpecError:
        inner, kind = locate(refusal, self._document.get(self._base), self._kind)
        path = (*self._base, *inner)
        value = self._document.get(path)
        struct = _struct(kind)
        if struct is not None and isinstance(value, dict):
            return self._wrong_keys(path, struct, value)
        bound = re.search(r"(>=|<=|>|<) (-?[\d.]+)", refusal) if "length" not in refusal else None
        expected = _word(kind)
        if bound is not None:
            expected += " " + _BOUNDS[bound[1]].format(f"{float(bound[2]):.10g}")
        return self._document.error(
            path, f"expected {expected}, got {quote(value)}", hint=self._hint(path, kind, value)
        )

    def _wrong_keys(self, path: Path, struct: type[msgspec.Struct], value: dict[str, Any]) -> SpecError:
        fields = {field.name: field for field in msgspec.structs.fields(struct)}
        for key in value:
            if key not in fields:
                hint = self._hint_for_key(key, struct, absent=[name for name in fields if name not in value])
                return self._document.error((*path, key), "unknown key", hint=hint, at_key=True)
        missing = next(name for name, field in fields.items() if field.required and name not in value)
        meaning = _note(_annotation(struct, missing), "description")
        described = f"{missing}: {meaning}" if meaning else None
        return self._document.error(path, f"{missing} is missing", hint=described)

    def _hint_for_key(self, key: str, struct: type[msgspec.Struct], *, absent: list[str]) -> str:
        for name in absent:
            if key.casefold() in (_note(_annotation(struct, name), "also") or ()):
                return f"did you mean {name}?"
        owners = list(dict.fromkeys(owner for owner, field in _tree(self._kind) if field == key))
        if owners:
            return f"{key} belongs in {' or '.join(owners)}"
        close = difflib.get_close_matches(key.casefold(), absent, n=1, cutoff=0.6)
        if close:
            return f"did you mean {close[0]}?"
        return f"known here: {', '.join(struct.__struct_fields__)}"

    def _hint(self, path: Path, kind: Any, value: Any) -> str | None:
        fix = self._fix(path, kind, value)
        if fix is not None:
            return fix
        advice = self._advise(path) if self._advise is not None else None
        known = "; ".join(part for part in (_note(kind, "description"), advice) if part)
        struct = _struct(kind)
        if known or struct is None:
            otherwise = "write one of these" if choices_of(kind) else "write it as expected"
            return known or f"{otherwise}, or leave the key out"
        return f"its keys: {', '.join(struct.__struct_fields__)}"

    def _fix(self, path: Path, kind: Any, value: Any) -> str | None:
        """What to write in the value's place, when what was meant is plain and would be taken."""
        raw = self._document.raw(path)
        if raw is None or value is None:
            return None
        if not isinstance(value, str):
            word = _note(kind, "word") or "text"
            return f"in quotes it is {word}: {quote(raw)}" if _fits(raw, kind) else None
        plain = read_scalar(raw)
        if not isinstance(plain, str) and _fits(plain, kind):
            return f"write it without quotes: {clip(raw)}"
        if bool in _options(kind) and raw.casefold() in _YES_AND_NO:
            return f"write {_YES_AND_NO[raw.casefold()]}"
        choices = {choice.casefold(): choice for choice in choices_of(kind)}
        close = difflib.get_close_matches(raw.casefold(), choices, n=1, cutoff=0.5)
        return f"did you mean {choices[close[0]]}?" if close else None


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _inside(kind: Any, part: str | int) -> Any:
    """The type expected one step further down."""
    for option in _options(kind):
        origin = typing.get_origin(option)
        if isinstance(part, int) and origin in (tuple, list):
            return typing.get_args(option)[0]
        if origin is dict:
            return typing.get_args(option)[1]
        if _is_struct(option):
            return _annotation(option, str(part))
    return Any


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union, without annotations and None."""
    if typing.get_origin(kind) is typing.Annotated:
        return _options(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(option for member in typing.get_args(kind) for option in _options(member))
    return () if kind in (type(None), msgspec.UnsetType) else (kind,)


def _note(kind: Any, key: str) -> Any:
    """The description or an extra of a type's annotations, the outermost first."""
    if typing.get_origin(kind) is typing.Annotated:
        inner, *notes = typing.get_args(kind)
        for note in reversed(notes):
            found = note.description if key == "description" else (note.extra or {}).get(key)
            if found is not None:
                return found
        return _note(inner, key)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next((found for member in typing.get_args(kind) if (found := _note(member, key))), None)
    return None


def _word(kind: Any) -> str:
    word = word_of(kind)
    if word is not None:
        return word
    choices = [choice for choice in choices_of(kind) if not choice.startswith("UNSET_")]
    if choices:
        return f"one of {', '.join(choices)}"
    found = {_WORDS.get(typing.get_origin(option) or option, "a mapping") for option in _options(kind)}
    return " or ".join(sorted(found - {"a whole number"} if "a number" in found else found))


def _tree(kind: Any, owner: str = "the file") -> Iterator[tuple[str, str]]:
    """Every field below a type, with the name of what holds it."""
    for option in _options(kind):
        if typing.get_origin(option) in (tuple, list):
            yield from _tree(typing.get_args(option)[0], f"an item of {owner}")
        elif _is_struct(option):
            for name in option.__struct_fields__:
                yield owner, name
                yield from _tree(_annotation(option, name), name)


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    return next((option for option in _options(kind) if _is_struct(option)), None)


def _is_struct(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, msgspec.Struct)


def _annotation(struct: type[msgspec.Struct], name: str) -> Any:
    return typing.get_type_hints(struct, include_extras=True).get(name, Any)
