"""What bodies of the log hold, told by kind, and pictures in the cells of a terminal."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from h1_client import npy

from mdslite.contents import answers_agree, parse_json, read_content
from mdslite.pictures import Picture, decode, from_numbers, render

DIGIT = (Path(__file__).parent.parent / "examples" / "digit.json").read_text()
DRAWING = (Path(__file__).parent.parent / "examples" / "opinions" / "drawing.pbm").read_bytes()


def text_body(content: str, size_bytes: int | None = None) -> dict[str, Any]:
    truncated = size_bytes is not None
    return {
        "content": content,
        "encoding": "utf-8",
        "size_bytes": size_bytes or len(content),
        "truncated": truncated,
    }


def raw_body(content: bytes) -> dict[str, Any]:
    encoded = base64.b64encode(content).decode()
    return {"content": encoded, "encoding": "base64", "size_bytes": len(content), "truncated": False}


def png(rows: list[bytes], width: int, kind: int, filters: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, len(rows), 8, kind, 0, 0, 0)
    data = zlib.compress(b"".join(bytes([how]) + row for how, row in zip(filters, rows, strict=True)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def plain(lines: list[list[tuple[str, str]]]) -> str:
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def test_a_digit_of_64_numbers_is_a_picture() -> None:
    content = read_content(text_body(DIGIT))
    assert content.kind == "picture" and content.picture is not None
    assert plain(render(content.picture, 40, 8, ascii=True)) == (
        "    ..%%%%\n"
        "    ++@@--\n"
        "    %%@@..  ::\n"
        "  --@@**  %%@@\n"
        "  ==@@@@@@@@::\n"
        "    ++@@@@++\n"
        "      %%**\n"
        "      @@**"
    )


def test_half_blocks_carry_two_pixels_a_cell() -> None:
    picture = from_numbers([0, 255, 255, 0], 2, 2)
    assert render(picture, 2, 1) == [[("▀", "rgb:000000/ffffff"), ("▀", "rgb:ffffff/000000")]]
    assert render(from_numbers([7, 7], 2, 1), 2, 1) == [[("▀▀", "rgb:000000/")]]


def test_a_large_picture_shrinks_into_the_cells_that_there_are() -> None:
    picture = decode(DRAWING)
    assert picture is not None and (picture.width, picture.height) == (32, 32)
    for columns, rows in ((10, 5), (33, 40), (1, 1)):
        lines = render(picture, columns, rows)
        assert 1 <= len(lines) <= rows
        assert all(sum(len(text) for text, _ in line) <= columns for line in lines)


@pytest.mark.parametrize("columns", [0, -3])
def test_no_room_is_no_picture(columns: int) -> None:
    assert render(from_numbers([1], 1, 1), columns, 5) == []


@pytest.mark.parametrize(
    ("body", "kind", "shown"),
    [
        ('{"instances":[[0.5,-1,2]]}', "numbers", (0.5, -1, 2)),
        ('{"inputs":{"amounts":[[1,2,3]]}}', "numbers", (1, 2, 3)),
        ('{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}', "numbers", (1, 2, 3)),
        ('{"instances":["cheap pills"]}', "text", "cheap pills"),
        ("not json at all", "text", "not json at all"),
        ('{"user":7,"items":[]}', "json", '{\n  "user": 7,\n  "items": []\n}'),
    ],
)
def test_kinds_of_text_bodies(body: str, kind: str, shown: object) -> None:
    content = read_content(text_body(body))
    assert content.kind == kind
    assert shown == (content.numbers if kind == "numbers" else content.text)


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (28, 28, 3), (3, 28, 28), (1, 28, 28, 3)])
def test_arrays_of_a_pictures_shape_are_pictures(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for body in (raw_body(npy(array)), text_body(json.dumps({"instances": [array.tolist()]}))):
        content = read_content(body)
        if len(shape) == 4 and body["encoding"] == "utf-8":
            continue  # an instance has no batch of its own
        assert content.picture is not None, shape
        assert (content.picture.width, content.picture.height) == (28, 28)


def test_channels_first_and_channels_last_give_one_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    last = read_content(raw_body(npy(pixels))).picture
    first = read_content(raw_body(npy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))).picture
    assert last == first
    assert last is not None and last.rgb == pixels.tobytes()


def test_every_filter_of_png_is_undone() -> None:
    plain_rows = [bytes((x * 7 + y * 31) % 256 for x in range(12)) for y in range(5)]
    filtered = []
    for y, row in enumerate(plain_rows):
        above = plain_rows[y - 1] if y else bytes(12)
        out = bytearray()
        for x in range(12):
            left, up = row[x - 3] if x >= 3 else 0, above[x]
            corner = above[x - 3] if x >= 3 else 0
            distances = [abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)]
            paeth = (left, up, corner)[distances.index(min(distances))]
            out.append((row[x] - (0, left, up, (left + up) // 2, paeth)[y]) % 256)
        filtered.append(bytes(out))
    picture = decode(png(filtered, 4, 2, b"\0\1\2\3\4"))
    assert picture == Picture(4, 5, b"".join(plain_rows))


def test_a_picture_within_json_is_shown_as_one() -> None:
    encoded = base64.b64encode(png([bytes(16)] * 16, 16, 0, bytes(16))).decode()
    for instance in (encoded, {"b64": encoded}, {"image": f"data:image/png;base64,{encoded}"}):
        content = read_content(text_body(json.dumps({"instances": [instance]})))
        assert content.kind == "picture", instance


@pytest.mark.parametrize("length", [20, 40, 60, 100, 150])
def test_a_body_that_the_log_cut_shows_what_is_there(length: int) -> None:
    content = read_content(text_body(DIGIT[:length], size_bytes=len(DIGIT)))
    assert content.kind == "numbers"
    assert content.note.startswith("cut")
    assert content.numbers == tuple(json.loads(DIGIT)["instances"][0][: len(content.numbers)])


@pytest.mark.parametrize("end", range(1, 61))
def test_json_reads_as_far_as_it_goes(end: int) -> None:
    whole = '{"a": [1, 2.5, "x\\"]}", {"b": null}], "c": {"d": [true, "e"]}}'
    found = parse_json(whole[:end])
    assert isinstance(found, dict)


@pytest.mark.parametrize("text", ["", "]", "{]", "[1}", "nonsense", "[" * 100_000, '{"a" "b"}', "[,]"])
def test_what_is_no_json_is_none(text: str) -> None:
    assert parse_json(text) is None or parse_json(text) in ([], {})


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 40,
        b"P5\n99999999 99999999\n255\n",
        b"P6\n# no end",
        b"P4\n8 8\n",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}  ",
        b"",
        bytes(range(256)),
    ],
)
def test_broken_files_are_bytes(content: bytes) -> None:
    assert read_content(raw_body(content)).kind == "bytes"


def test_a_picture_that_claims_to_be_huge_is_not_unpacked() -> None:
    huge = png([bytes(8)], 8, 0, b"\0").replace(struct.pack(">II", 8, 1), struct.pack(">II", 20_000, 20_000))
    assert read_content(raw_body(huge)).kind == "bytes"


@pytest.mark.parametrize("content", ["[" * 900 + "1" + "]" * 900, '{"a":' * 500 + "1" + "}" * 500])
def test_what_is_nested_too_deep_is_a_text(content: str) -> None:
    assert read_content(text_body(content)).kind == "text"


def test_numbers_that_no_float_holds_are_no_columns() -> None:
    big = "9" * 400
    content = read_content(text_body(f'{{"predictions":[{{"label":{big},"scores":[{big},1e999,NaN]}}]}}'))
    assert content.kind == "json"
    assert answers_agree(text_body(f'{{"predictions":[{big}]}}'), text_body('{"predictions":[1.5]}')) is False


def test_one_of_several_instances_is_chosen() -> None:
    body = text_body('{"instances": [[1, 2], [3, 4], [5, 6]]}')
    assert [read_content(body, place).numbers for place in (0, 1, 2, 3)] == [(1, 2), (3, 4), (5, 6), (1, 2)]
    assert read_content(body, 1).count == 3


@pytest.mark.parametrize(
    ("mine", "other", "agree"),
    [
        ('{"predictions":[{"label":4,"p":[0.9]}]}', '{"predictions":[{"label":4,"p":[0.2]}]}', True),
        ('{"predictions":[{"label":4}]}', '{"predictions":[{"label":7}]}', False),
        ('{"predictions":[[0.1,0.9]]}', '{"predictions":[[0.4,0.6]]}', True),
        ('{"predictions":[[0.1,0.9]]}', '{"predictions":[[0.7,0.3]]}', False),
        ('{"predictions":[0.5]}', '{"predictions":[0.50001]}', True),
        ('{"predictions":["spam"]}', '{"predictions":["ham"]}', False),
        ('{"predictions":[1]}', '{"predictions":[1, 2]}', False),
        ('{"outputs":{"y":[1.0]}}', '{"outputs":{"y":[1.0]}}', True),
        ("plain", '{"predictions":[1]}', None),
    ],
)
def test_answers_are_compared(mine: str, other: str, agree: bool | None) -> None:
    assert answers_agree(text_body(mine), text_body(other)) is agree


def test_answers_that_were_cut_cannot_be_compared() -> None:
    cut = text_body('{"predictions":[1', size_bytes=99)
    assert answers_agree(cut, cut) is None
    assert answers_agree(None, cut) is None
