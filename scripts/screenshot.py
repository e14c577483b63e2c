"""Draws docs/dashboard.svg, or FILE: a picture of the real dashboard, playing its recording.

    python scripts/screenshot.py [FILE] [--pane requests] [--size 112x32] [KEY...]

KEYs are pressed before the picture is taken, such as: down enter.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import time
from pathlib import Path

from mdslite.tui.app import PANES, DashApp
from mdslite.tui.demo import RecordedClient
from mdslite.tui.feed import LiveFeed
from mdslite.tui.recording import Recording, read_tape
from mdslite.tui.snapshot import View

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "dashboard.svg"
# Noon of a day, so that the picture is the same each time that nothing about the program changed.
BEGAN = 1_795_348_800.0
INTO_S = 42.0
SETTLE_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the dashboard as it plays its recording.")
    parser.add_argument("file", nargs="?", type=Path, default=TARGET)
    parser.add_argument("--pane", choices=PANES, default="deploy")
    parser.add_argument("--size", default="112x32", help="columns and rows")
    parser.add_argument("--press", nargs="*", default=[], metavar="KEY", help="keys to press first")
    options = parser.parse_args()
    width, height = (int(number) for number in options.size.split("x"))
    os.environ["TZ"] = "UTC"
    time.tzset()
    picture = asyncio.run(draw(options.pane, (width, height), options.press))
    options.file.write_text(picture)
    print(f"{len(picture) / 1000:.0f} kB: {options.file}")


async def draw(pane: str, size: tuple[int, int], keys: list[str]) -> str:
    began = iter([BEGAN])
    recording = Recording(read_tape(), clock=lambda: next(began, BEGAN + INTO_S))
    feed = LiveFeed(RecordedClient(recording), clock=lambda: BEGAN + INTO_S, view=View(pane=pane))
    app = DashApp(feed)
    async with app.run_test(size=size) as pilot:
        async with asyncio.timeout(SETTLE_S):
            while None in (feed.snapshot.rows, feed.snapshot.histogram, feed.snapshot.percentiles):
                await pilot.pause()
        for key in keys:
            await pilot.press(key)
        app.repaint()
        await pilot.pause()
        picture = app.export_screenshot(title="mdslite dash --demo")
        return slim(picture, ground=app.ink.looks.ground or "", letters=app.ink.looks.letters or "")


def slim(picture: str, *, ground: str, letters: str) -> str:
    """The picture on the theme's ground, without fonts from elsewhere and names that are new each time."""
    picture = picture.replace("#292929", ground).replace("#c5c8c6", letters)
    picture = re.sub(r"@font-face\s*{.*?}\s*", "", picture, flags=re.DOTALL)
    picture = re.sub(r"terminal-\d+", "t", picture)
    picture = re.sub(
        r"font-family: Fira Code, monospace", "font-family: ui-monospace, Menlo, Consolas, monospace", picture
    )
    return re.sub(r"\n\s+", "\n", picture)


if __name__ == "__main__":
    main()
