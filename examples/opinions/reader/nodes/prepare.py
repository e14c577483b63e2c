"""Turns a drawing into what the digits classifier was trained on: how much ink each of 8x8 squares holds."""

from __future__ import annotations

from typing import Any

import numpy as np

import mds

Ink = np.ndarray[Any, np.dtype[np.bool_]]

SIDE = 32  # of a drawing in pixels; a square of the classifier is 4x4 of them
SQUARE = 4
MARGIN = 2  # pixels that stay free around a digit that had to be fitted in


@mds.model("prepare", "v1")
class Prepare:
    """Takes a portable bitmap (PBM) as a raw body, or an instance of rows of text in which `#` is ink."""

    @mds.pre
    def read(self, data: Any) -> Ink:
        ink = read_bitmap(data) if isinstance(data, bytes) else read_rows(data)
        return ink if ink.shape == (SIDE, SIDE) else fit(ink)

    @mds.predict
    @mds.batch(batch_size=32)
    def count(self, drawings: list[Ink]) -> Any:
        squares = np.stack(drawings).reshape(-1, SIDE // SQUARE, SQUARE, SIDE // SQUARE, SQUARE)
        return squares.sum(axis=(2, 4), dtype=np.float32).reshape(-1, 64)


def read_bitmap(body: bytes) -> Ink:
    """Plain PBM: `P1`, the width and the height, then a 1 for each pixel of ink and a 0 for the others."""
    lines = [line.partition("#")[0] for line in body.decode("ascii", "replace").splitlines()]
    magic, width, height, *rest = " ".join(lines).split() or [""] * 3
    if magic != "P1" or not (width.isdecimal() and height.isdecimal()):
        raise ValueError("expected a plain portable bitmap: P1, width, height, then 0 and 1")
    pixels = "".join(rest)
    if len(pixels) != int(width) * int(height) or pixels.strip("01"):
        raise ValueError(f"expected {width} times {height} pixels, each 0 or 1, got {len(pixels)}")
    return np.array([pixel == "1" for pixel in pixels]).reshape(int(height), int(width))


def read_rows(rows: Any) -> Ink:
    """A list of texts of one length."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, str) for row in rows):
        raise ValueError("expected a drawing: a list of rows of text, such as ['..##..', '.#..#.']")
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError("expected rows of the same length")
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def fit(ink: Ink) -> Ink:
    """Cut a drawing to its ink, and scale that into the middle of SIDE x SIDE pixels."""
    if not ink.any():
        raise ValueError("the drawing is empty: expected some ink")
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = (SIDE - 2 * MARGIN) / max(cut.shape)
    height, width = (max(1, round(size * scale)) for size in cut.shape)
    taken = cut[np.ix_(np.arange(height) * cut.shape[0] // height, np.arange(width) * cut.shape[1] // width)]
    fitted = np.zeros((SIDE, SIDE), bool)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    fitted[top : top + height, left : left + width] = taken
    return fitted
