"""What is asked when a dashboard is left that came with its appliance: whether that is to go on."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from mdslite.tui.dialogs import LEAVES, Dialog
from mdslite.tui.lines import Line

KEEP = 10  # the exit code that says so to `mdslite up --dash`


class LeaveDialog(Dialog):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,s,q,ctrl+c", "stop", "stop the appliance", priority=True),
        Binding("k", "keep", "keep it serving", priority=True),
    ]

    def text(self, width: int) -> list[Line]:
        return [
            [("Leave the dashboard", "title")],
            [],
            [
                (" ↵ ", "key"),
                ("stop      ", "bold"),
                ("end the appliance too, once it has answered", ""),
            ],
            [(" k ", "key"), ("keep      ", "bold"), ("it goes on serving in this terminal", "")],
            [],
            LEAVES,
        ]

    def action_stop(self) -> None:
        self.app.exit(return_code=0)

    def action_keep(self) -> None:
        self.app.exit(return_code=KEEP)
