"""What came over the network, made fit for a terminal: controls are spelled out, never obeyed. Widgets get
segments, never markup, so that brackets are only brackets.
"""

from __future__ import annotations

import re

# C0 and C1 controls, bidirectional overrides, line separators and lone surrogates: what can move a cursor,
# hide or reorder text, or not be written at all; and what joins or selects glyphs, whose width terminals
# do not agree on.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: object) -> str:
    """One line of `text` with everything spelled out that a terminal would obey."""
    plain = text if isinstance(text, str) else str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return _UNSAFE.sub(_spell, plain)


def _spell(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
