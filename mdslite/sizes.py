"""Sizes in bytes as people read them."""

from __future__ import annotations


def size_text(size_bytes: float | None) -> str:
    """A size for people: 950 B, 1.2 MB (powers of 1000)."""
    if size_bytes is None:
        return "-"
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.95:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1000:.1f} TB"
