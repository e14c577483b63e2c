"""A configuration file's text as plain values, each with the place where it stands.

Reads YAML 1.2, and so JSON. Owns the syntax: marks, duplicate keys, aliases, and bounds that keep a hostile
text from costing more than its size. Knows nothing of what the values mean.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from mdslite.errors import SpecError, clip

MAX_SOURCE_BYTES = 256 << 10
MAX_DEPTH = 32
MAX_VALUES = 150_000  # more than a text of that size can hold without aliases
EXCERPT_COLUMNS = 100

# Names of mappings and indexes of lists, from the root down.
Path = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_SCALARS = ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
_TAGS = {
    MappingNode: (f"{_TAG}map",),
    SequenceNode: (f"{_TAG}seq",),
    ScalarNode: tuple(f"{_TAG}{kind}" for kind in _SCALARS),
}
# What a parser's problem calls for: a part of its wording, what was wrong, what to do. {line} is where the
# construct opened that the problem belongs to.
_SYNTAX = (
    (r"character '\t'", "a tab stands where YAML wants spaces", "indent with spaces"),
    ("mapping values", "a key cannot stand here", "mend the indentation, or quote a ': ' in a value"),
    ("cannot start any token", "this character cannot start a value", "put the value in quotes"),
    ("undefined alias", "*name repeats the value marked &name, and none is", "to mean a plain *, quote it"),
    ("expected ',' or", "a bracket is not closed", "close the bracket that opens on line {line}"),
    ("expected the node content", "a value is missing", "write the value"),
    ("unexpected end of stream", "a quote is not closed", "close the quote that opens on line {line}"),
    ("<block end>", "the indentation does not fit", "line it up with the block that begins on line {line}"),
    ("another document", "a second document begins", "keep one document: remove the ---"),
    ("could not find expected ':'", "a key has no value", "write a colon and the value after the key"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Document:
    """A text that was read. `value` is made of dict, list, str, int, float, bool and None."""

    file: str
    text: str
    value: Any
    root: Node | None = None

    def get(self, path: Path) -> Any:
        """The plain value at a path, None where there is none."""
        found = self.value
        for part in path:
            if isinstance(found, dict):
                found = found.get(part)
            elif isinstance(found, list) and isinstance(part, int) and part < len(found):
                found = found[part]
            else:
                return None
        return found

    def has(self, path: Path) -> bool:
        """Whether a mapping holds the path's last name."""
        parent = self.get(path[:-1])
        return isinstance(parent, dict) and path[-1] in parent

    def raw(self, path: Path) -> str | None:
        """How a scalar is written, before it became a number or a word; None for a mapping or a list."""
        node = self._node(path)
        return str(node.value) if isinstance(node, ScalarNode) else None

    def line(self, path: Path) -> int:
        """The line on which the value at a path begins."""
        node = self._node(path)
        return _line_and_column(self.text, 0 if node is None else node.start_mark.index)[0]

    def error(self, path: Path, message: str, *, hint: str | None = None, at_key: bool = False) -> SpecError:
        """A mistake in the value at `path`, or in the key that leads to it."""
        node = self._node(path, at_key=at_key)
        index = 0 if node is None else node.start_mark.index
        error = self.error_at(index, f"{label(path)}: {message}" if path else message, hint=hint)
        error.path, error.wrong = path, message
        return error

    def error_at(self, index: int, message: str, *, hint: str | None = None) -> SpecError:
        """A mistake at a character of the text."""
        line, column = _line_and_column(self.text, index)
        return SpecError(
            message, file=self.file, line=line, column=column, excerpt=_excerpt(self.text, index), hint=hint
        )

    def _node(self, path: Path, *, at_key: bool = False) -> Node | None:
        """The node at a path, or the nearest one above it that the text holds."""
        node = self.root
        for depth, part in enumerate(path, 1):
            key, value = _child(node, part)
            if value is None:
                return node
            # A value that is not there stands wherever the next token does: its key is the better place.
            wanted = at_key and depth == len(path)
            node = key if key is not None and (wanted or _is_absent(value)) else value
        return node


def decode(data: bytes, *, file: str) -> str:
    """The text of a file's bytes.

    :raises SpecError: when they are not UTF-8, with the place
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode("utf-8")
        line, column = _line_and_column(_normal(before), len(_normal(before)))
        raise SpecError(
            f"expected UTF-8 text, got the byte 0x{data[exc.start]:02x}",
            file=file, line=line, column=column, hint="save the file as UTF-8",
        ) from exc  # fmt: skip


def read_document(text: str, *, file: str) -> Document:
    """Parse a text.

    :raises SpecError: with the place of a mistake of syntax, a key written twice, or a text beyond the bounds
    """
    text = _normal(text)
    bare = Document(file=file, text=text, value=None)
    if len(text) > MAX_SOURCE_BYTES or len(text.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        message = f"the text is too long: expected at most {MAX_SOURCE_BYTES >> 10} KiB"
        raise SpecError(message, file=file, hint="spread the models over several files")
    root = _compose(bare)
    if root is None:
        return bare
    document = Document(file=file, text=text, value=None, root=root)
    if "*" in text:
        _Weighing(document).weigh(root)
    value = _Reading(document).value(root)
    return Document(file=file, text=text, value=value, root=root)


def read_scalar(text: str) -> Any:
    """What a plain scalar of this text would become: a number, true, false, None, or the text itself."""
    tag = str(YAML(typ="safe", pure=True).resolver.resolve(ScalarNode, text, (True, False)))
    return _construct(tag.removeprefix(_TAG), text)


def label(path: Path) -> str:
    """The end of a path as people say it: `weight`, `versions[2]`, `env.HOME`."""
    if not path:
        return "the file"
    last = path[-1]
    return f"{label(path[:-1])}[{last}]" if isinstance(last, int) else _name(last)


def place_text(path: Path) -> str:
    """All of a path, for who has no text to look it up in: `steps[0].action`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_name(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def _name(part: str) -> str:
    return part if part.isprintable() and 0 < len(part) <= 60 else quote(part)


def quote(value: Any, *, limit: int = 60) -> str:
    """A value in an error's text: as JSON, on one line, cut short, with nothing a terminal would obey."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        value = clip(value, limit)
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


class _Weighing:
    """Counts the values that a text holds, those that its aliases repeat included, without making them: a few
    lines may stand for more than there is time for."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._known: dict[int, tuple[int, int]] = {}

    def weigh(self, node: Node, depth: int = 0) -> tuple[int, int]:
        """How many a node stands for, and how deep they are nested. What is too deep counts as one: that is
        found out by reading it.

        :raises SpecError: they are too many
        """
        known = self._known.get(id(node))
        if known is not None:
            return known
        count, height = 1, 1
        self._known[id(node)] = 1, MAX_DEPTH  # while it is looked at, it can only hold itself
        if isinstance(node, MappingNode | SequenceNode) and depth < MAX_DEPTH:
            is_mapping = isinstance(node, MappingNode)
            for part in [value for _, value in node.value] if is_mapping else node.value:
                more, inner = self.weigh(part, depth + 1)
                count, height = count + more, max(height, inner + 1)
                if count > MAX_VALUES and height < MAX_DEPTH:
                    raise too_many_values(self._document, node)
        self._known[id(node)] = found = (1 if height >= MAX_DEPTH else count), height
        return found


def too_many_values(document: Document, node: Node) -> SpecError:
    message = f"the text holds more than {MAX_VALUES} values, those that its aliases repeat included"
    return document.error_at(node.start_mark.index, message, hint="write fewer *aliases of aliases")


class _Reading:
    """One pass over the nodes that makes the plain values and counts them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0

    def value(self, node: Node, path: Path = ()) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise too_many_values(self._document, node)
        if len(path) >= MAX_DEPTH:
            raise self._error(node, f"nested more than {MAX_DEPTH} levels deep", hint="write it flatter")
        if isinstance(node, MappingNode):
            self._check_tag(node)
            return dict(self._pairs(node, path))
        if isinstance(node, SequenceNode):
            self._check_tag(node)
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _check_tag(self, node: Node) -> None:
        tag = str(node.tag)
        if tag not in _TAGS[type(node)]:
            raise self._error(node, f"the tag {quote(tag)} is not read", hint="write the plain value")

    def _pairs(self, node: MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in seen:
                first, _ = _line_and_column(self._document.text, seen[key].start_mark.index)
                message = f"{label((key,))}: written twice, first on line {first}"
                raise self._error(key_node, message, hint="keep one of them")
            seen[key] = key_node
            yield key, self.value(value_node, (*path, key))

    def _key(self, node: Node) -> str:
        if str(node.tag) == f"{_TAG}merge":
            raise self._error(node, "merge keys (<<) are not read", hint="write the keys out")
        written = str(node.value) if isinstance(node, ScalarNode) else ""
        key = self._scalar(node, ()) if isinstance(node, ScalarNode) else None
        if isinstance(key, str):
            return key
        hint = f"put it in quotes: {quote(written)}" if written else "write a name and a colon"
        got = clip(written) or "none"
        raise self._error(node, f"expected a name as the key, got {got}", hint=hint)

    def _scalar(self, node: Node, path: Path) -> Any:
        self._check_tag(node)
        written = str(node.value)
        value = _construct(str(node.tag).removeprefix(_TAG), written)
        if isinstance(value, float) and not math.isfinite(value):
            message = f"expected a finite number, got {clip(written)}"
            raise self._error(node, message, hint="write a plain number", path=path)
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            message = "expected a number that fits in 64 bits"
            raise self._error(node, message, hint="write a smaller number", path=path)
        if not isinstance(value, str):
            return value
        try:
            # JSON writes a character beyond the first 65,536 as two escapes.
            value = value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as exc:
            message = "expected text, got half of a surrogate pair"
            raise self._error(node, message, hint="write the character itself", path=path) from exc
        if "\0" in value:
            raise self._error(node, "expected text without NUL characters", hint="remove \\0", path=path)
        return value

    def _error(self, node: Node, message: str, *, hint: str, path: Path = ()) -> SpecError:
        told = f"{label(path)}: {message}" if path else message
        error = self._document.error_at(node.start_mark.index, told, hint=hint)
        error.path, error.wrong = path, message
        return error


def _construct(tag: str, text: str) -> Any:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in {"true", "yes", "on", "y"}
    if tag in {"int", "float"}:
        return _number(text.replace("_", ""), whole=tag == "int")
    return text


def _number(text: str, *, whole: bool) -> int | float | str:
    """The number that a scalar stands for; the text itself where it only looked like one (`-_`, `1:30`)."""
    try:
        if not whole:
            return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text, flags=re.IGNORECASE))
        if re.match(r"[-+]?0[xob]", text):
            return int(text, 0)
        # No integer of interest is longer, and Python's conversion is quadratic.
        return int(text) if len(text) <= 32 else 1 << 64
    except ValueError:
        return text


def _compose(document: Document) -> Node | None:
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    yaml.composer.warn_double_anchors = False
    try:
        root: Node | None = yaml.compose(document.text)
    except MaxDepthExceededError as exc:
        raise document.error_at(exc.problem_mark.index, f"nested more than {MAX_DEPTH} levels deep") from exc
    except MarkedYAMLError as exc:
        raise _syntax_error(document, exc) from exc
    except ReaderError as exc:
        code = exc.character if isinstance(exc.character, int) else ord(exc.character)
        message = f"the character U+{code:04X} cannot stand in YAML"
        raise document.error_at(
            exc.position, message, hint="remove it, or write it as an escape in double quotes"
        ) from exc
    except (YAMLError, ValueError, OverflowError) as exc:
        # A \U escape beyond Unicode leaves the scanner as a bare ValueError.
        wide = re.search(r"\\U(?!000|0010)[0-9a-fA-F]{8}", document.text)
        message = "an escape stands for no character" if wide else "this is no valid YAML"
        raise document.error_at(wide.start() if wide else 0, message) from exc
    return root


def _syntax_error(document: Document, exc: MarkedYAMLError) -> SpecError:
    mark = exc.problem_mark or exc.context_mark
    index = 0 if mark is None else mark.index
    opened = exc.context_mark.index if exc.context_mark is not None else index
    line, _ = _line_and_column(document.text, opened)
    for wording, message, hint in _SYNTAX:
        if wording in (exc.problem or "") or wording in (exc.context or ""):
            return document.error_at(index, message, hint=hint.format(line=line))
    return document.error_at(index, f"this is no valid YAML: {exc.problem or exc.context}")


def _child(node: Node | None, part: str | int) -> tuple[Node | None, Node | None]:
    """The nodes of a key and of its value, or of a list's item."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == part:
                return key, value
    elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None, None


def _is_absent(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.style is None and node.value == ""


def _normal(text: str) -> str:
    """The text with one form of line end, and without a byte order mark."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _line_and_column(text: str, index: int) -> tuple[int, int]:
    """Both from 1, in characters."""
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _excerpt(text: str, index: int) -> str:
    """The line at a character, or the part around it of a long one."""
    start = text.rfind("\n", 0, index) + 1
    stop = text.find("\n", index)
    stop = len(text) if stop < 0 else stop
    if stop - start <= EXCERPT_COLUMNS:
        return text[start:stop]
    left = max(start, min(index - EXCERPT_COLUMNS // 2, stop - EXCERPT_COLUMNS))
    right = min(stop, left + EXCERPT_COLUMNS)
    return ("…" if left > start else "") + text[left:right] + ("…" if right < stop else "")
