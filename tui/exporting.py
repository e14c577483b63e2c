"""The box that writes what the log has for the filter into a file of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mdslite import errors, log_calls
from mdslite.errors import Conflict, InvalidRequest
from mdslite.tui import figures
from mdslite.tui.clean import clean
from mdslite.tui.dialogs import AskDialog, Dialog
from mdslite.tui.lines import Line, cut
from mdslite.tui.sources import log_filter

if TYPE_CHECKING:
    from mdslite.tui.app import DashApp

FORMATS: Final = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}


def export_rows(app: DashApp, name: str = "") -> None:
    """Ask for the file; its ending says what is written."""
    wanted = log_filter(app.view)

    def explain(typed: str, width: int) -> list[Line]:
        about: list[Line] = [[("rows  ", "dim"), (cut(clean(wanted or "everything"), width - 8), "")]]
        try:
            path, format = read_target(typed)
        except InvalidRequest as exc:
            return [*about, [("· " + cut(clean(exc.message), width - 2), "dim")]]
        return [
            *about,
            [("file  ", "dim"), (cut(clean(path), width - 8), "")],
            [("as    ", "dim"), (format, "")],
        ]

    def submit(typed: str) -> Dialog:
        path, format = read_target(typed)
        if path.exists():
            raise Conflict(f"{path} is there already", hint="choose another name")
        return ExportDialog(wanted, path, format)

    app.push_screen(AskDialog("Export the log", name or "requests.jsonl", explain, submit, label="FILE:"))


def read_target(text: str) -> tuple[Path, str]:
    """:raises InvalidRequest: the ending says no format, or there is no such folder"""
    path = Path(text).expanduser()
    format = FORMATS.get(path.suffix)
    if format is None:
        raise InvalidRequest(f"expected a file that ends in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InvalidRequest(f"there is no folder {path.parent}")
    return path, format


class ExportDialog(Dialog):
    """Writes, tells how much, and leaves no half of a file behind."""

    def __init__(self, filter: str, path: Path, format: str) -> None:
        super().__init__()
        self._filter = filter
        self._path = path
        self._format = format
        self._written = 0
        self.stage = "doing"

    def on_mount(self) -> None:
        super().on_mount()
        self.run_worker(self._write(), exclusive=True)

    def text(self, width: int) -> list[Line]:
        lines: list[Line] = [[("Export the log", "title")], []]
        close: list[Line] = [[], [("esc", "key"), (" closes", "dim")]]
        if self.stage == "doing":
            return [*lines, [(f"◌ writing, {figures.size(self._written)} so far", "warn")]]
        if self.stage == "done":
            told = f"✓ {figures.size(self._written)} in {clean(self._path)}"
            return [*lines, [(cut(told, width), "good")], *close]
        return [*lines, *self.said(width), *close]

    async def _write(self) -> None:
        part = self._path.with_name(self._path.name + ".part")
        try:
            with part.open("xb") as file:
                pieces = log_calls.export_logs(self._filter, format=self._format)
                async with self.dash.feed.stream(pieces) as download:
                    async for piece in download.pieces:
                        self._written += file.write(piece)
                        self.redraw()
            part.rename(self._path)
            self.stage = "done"
        except errors.MdsliteError as exc:
            self.failure, self.stage = exc, "refused"
        except OSError as exc:
            self.failure = errors.StoreError(f"cannot write {part}: {exc.strerror}")
            self.stage = "refused"
        finally:
            part.unlink(missing_ok=True)
        self.redraw()
