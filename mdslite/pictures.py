"""Pictures as cells of a terminal: two pixels a cell in half-blocks, or letters of rising weight where there
are no colours. Reads the plain picture formats whose bytes a log may hold; owns no screen.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Line: TypeAlias = list[tuple[str, str]]  # parts: a text, and `rgb:RRGGBB/RRGGBB` of its front and back or ""

MAX_PIXELS: Final = 65_536  # a few bytes may claim to be more, and would take seconds to unpack
_RAMP: Final = " .:-=+*#%@"
_SHADES: Final = " ░▒▓█"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {0: 1, 2: 3, 4: 2, 6: 4}  # samples a pixel by PNG's colour type


@dataclass(frozen=True, slots=True)
class Picture:
    """`rgb` holds three bytes a pixel, row by row."""

    width: int
    height: int
    rgb: bytes

    def grey(self, x: int, y: int) -> int:
        at = (y * self.width + x) * 3
        red, green, blue = self.rgb[at : at + 3]
        return (299 * red + 587 * green + 114 * blue) // 1000


def from_numbers(values: Sequence[float], width: int, height: int, channels: int = 1) -> Picture:
    """A picture of numbers in any range, the least black and the greatest white; what is missing is black."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    if low >= 0 and high <= 255 and high > 16 and channels == 3:
        low, high = 0.0, 255.0
    scale = 255.0 / (high - low) if high > low else 0.0
    total = width * height * channels
    levels = bytearray(total)
    for at, value in enumerate(values[:total]):
        if value == value:  # no NaN
            levels[at] = max(0, min(255, int((min(max(value, low), high) - low) * scale + 0.5)))
    rgb = bytes(levels) if channels == 3 else bytes(level for level in levels for _ in range(3))
    return Picture(width, height, rgb)


def render(
    picture: Picture, columns: int, rows: int, *, colour: bool = True, ascii: bool = False
) -> list[Line]:
    """At most `columns` by `rows` cells, the picture's proportions kept; small ones are enlarged."""
    if picture.width < 1 or picture.height < 1 or columns < 1 or rows < 1:
        return []
    scale = min(columns / picture.width, rows * 2 / picture.height)
    scale = float(int(scale)) if scale >= 1 else scale
    shown = _resize(picture, max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    if colour and not ascii:
        return _half_blocks(shown)
    return _letters(shown, _RAMP if ascii else _SHADES)


def decode(content: bytes) -> Picture | None:
    """The picture that a file's bytes are: PNG of 8 bits, or PBM, PGM, PPM. None for anything else."""
    try:
        if content.startswith(_PNG):
            return _decode_png(content)
        if content[:1] == b"P" and content[1:2] in b"123456":
            return _decode_netpbm(content)
    except (ValueError, IndexError, struct.error, zlib.error):
        return None
    return None


def _half_blocks(picture: Picture) -> list[Line]:
    lines: list[Line] = []
    for y in range(0, picture.height, 2):
        line: Line = []
        for x in range(picture.width):
            upper = _hex(picture, x, y)
            lower = _hex(picture, x, y + 1) if y + 1 < picture.height else ""
            role = f"rgb:{upper}/{lower}"
            if line and line[-1][1] == role:
                line[-1] = (line[-1][0] + "▀", role)
            else:
                line.append(("▀", role))
        lines.append(line)
    return lines


def _letters(picture: Picture, ramp: str) -> list[Line]:
    lines: list[Line] = []
    for y in range(0, picture.height, 2):
        below = min(y + 1, picture.height - 1)
        greys = [(picture.grey(x, y) + picture.grey(x, below)) // 2 for x in range(picture.width)]
        lines.append([("".join(ramp[grey * len(ramp) // 256] for grey in greys), "")])
    return lines


def _hex(picture: Picture, x: int, y: int) -> str:
    at = (y * picture.width + x) * 3
    return picture.rgb[at : at + 3].hex()


def _resize(picture: Picture, width: int, height: int) -> Picture:
    """Nearest pixels when it grows, means of boxes when it shrinks."""
    if (width, height) == (picture.width, picture.height):
        return picture
    out = bytearray()
    for y in range(height):
        top, bottom = _box(y, height, picture.height)
        for x in range(width):
            left, right = _box(x, width, picture.width)
            out += _mean(picture, left, right, top, bottom)
    return Picture(width, height, bytes(out))


def _box(place: int, places: int, pixels: int) -> tuple[int, int]:
    start = place * pixels // places
    return start, max(start + 1, (place + 1) * pixels // places)


def _mean(picture: Picture, left: int, right: int, top: int, bottom: int) -> bytes:
    if right - left == 1 and bottom - top == 1:
        at = (top * picture.width + left) * 3
        return picture.rgb[at : at + 3]
    sums, count = [0, 0, 0], (right - left) * (bottom - top)
    for y in range(top, bottom):
        row = picture.rgb[(y * picture.width + left) * 3 : (y * picture.width + right) * 3]
        for channel in range(3):
            sums[channel] += sum(row[channel::3])
    return bytes(total // count for total in sums)


def _decode_netpbm(content: bytes) -> Picture | None:
    kind = int(content[1:2])
    fields, at = _netpbm_head(content, 2 if kind in (1, 4) else 3)
    width, height, most = (*fields, 1)[:3]
    channels = 3 if kind in (3, 6) else 1
    if not 0 < width * height <= MAX_PIXELS or not 0 < most < 256:
        return None
    count = width * height * channels
    samples: Sequence[int]
    if kind == 1:
        samples = [1 - (char - 48) for char in content[at:] if char in b"01"][:count]
    elif kind in (2, 3):
        samples = [int(word) for word in content[at:].split()[:count]]
    elif kind == 4:
        stride = (width + 7) // 8
        samples = [
            1 - (content[at + y * stride + x // 8] >> (7 - x % 8) & 1)
            for y in range(height)
            for x in range(width)
        ]
    else:
        samples = content[at : at + count]
    # As if a full range were there, so that a dim picture stays dim.
    levels = bytes(min(255, max(0, sample) * 255 // most) for sample in samples).ljust(count, b"\0")
    rgb = levels if channels == 3 else bytes(level for level in levels for _ in range(3))
    return Picture(width, height, rgb)


def _netpbm_head(content: bytes, wanted: int) -> tuple[list[int], int]:
    fields: list[int] = []
    at = 2
    while len(fields) < wanted:
        while content[at : at + 1].isspace():
            at += 1
        if content[at : at + 1] == b"#":
            at = content.index(b"\n", at) + 1
            continue
        start = at
        while content[at : at + 1].isdigit():
            at += 1
        fields.append(int(content[start:at]))
    return fields, at + 1


def _decode_png(content: bytes) -> Picture | None:
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if (
        depth != 8
        or interlaced
        or (kind not in _CHANNELS and kind != 3)
        or not 0 < width * height <= MAX_PIXELS
    ):
        return None
    at, data, palette = 8, b"", b""
    while at + 8 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        name, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        data += body if name == b"IDAT" else b""
        palette = body if name == b"PLTE" else palette
        at += 12 + size
    samples = _CHANNELS.get(kind, 1)
    stride = width * samples
    plain = _unfilter(zlib.decompressobj().decompress(data, (stride + 1) * height), stride, height, samples)
    return Picture(width, height, _to_rgb(plain, kind, palette))


def _unfilter(data: bytes, stride: int, height: int, step: int) -> bytes:
    """PNG's five filters undone; rows that are missing stay black."""
    out, above = bytearray(), bytearray(stride)
    for y in range(height):
        start = y * (stride + 1)
        row = bytearray(data[start + 1 : start + 1 + stride])
        if len(row) < stride:
            break
        kind = data[start]
        for x in range(stride):
            left = row[x - step] if x >= step else 0
            corner = above[x - step] if x >= step else 0
            row[x] = (row[x] + _predicted(kind, left, above[x], corner)) & 255
        out += row
        above = row
    return bytes(out.ljust(stride * height, b"\0"))


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:  # Paeth: the nearest of the three to left + up - corner
        guess = left + up - corner
        return min((left, up, corner), key=lambda value: abs(guess - value))
    return (0, left, up, (left + up) // 2)[kind]


def _to_rgb(samples: bytes, kind: int, palette: bytes) -> bytes:
    if kind == 2:
        return samples
    if kind == 6:
        return b"".join(samples[at : at + 3] for at in range(0, len(samples), 4))
    if kind == 3:
        return b"".join(palette[index * 3 : index * 3 + 3].ljust(3, b"\0") for index in samples)
    greys = samples[::2] if kind == 4 else samples
    return bytes(level for level in greys for _ in range(3))
