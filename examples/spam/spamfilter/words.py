"""Cuts a message into words; used when the filter learns and when it serves."""

import re

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9][0-9.,]*")


def find_words(text: str) -> list[str]:
    """The words of a message, every number as the same word."""
    found = WORD.findall(text.lower())
    return ["<number>" if word[0].isdigit() else word for word in found]
