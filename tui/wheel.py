"""The mouse's wheel: its turns, either way, as steps of one handler."""

from __future__ import annotations

from textual import events


class Wheeled:
    """Stands before the widget or screen that it is mixed into. Override `wheel`."""

    def wheel(self, event: events.MouseEvent, steps: int) -> None:
        """It was turned by a notch: 1 step down, or -1, which is up."""
        raise NotImplementedError

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.wheel(event, 1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.wheel(event, -1)
