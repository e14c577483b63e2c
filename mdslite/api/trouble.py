"""What the process's log is told of work that is done again and again and fails: when that begins, and when
it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mdslite.errors import MdsliteError

logger = logging.getLogger(__name__)


class Trouble:
    """`failing` is the line for the first round that fails, to which the reason is added, and `mended` the
    one for the first round after it that does not."""

    def __init__(self, failing: str, mended: str) -> None:
        self._failing = failing
        self._mended = mended
        self._is_told = False

    @contextmanager
    def told(self) -> Iterator[None]:
        """Around one round, whose failure ends here: there will be another."""
        try:
            yield
        except MdsliteError as exc:
            if not self._is_told:
                logger.warning("%s: %s", self._failing, exc.message)
            self._is_told = True
            return
        if self._is_told:
            logger.warning("%s", self._mended)
        self._is_told = False
