"""Which requests keep their bodies on the way to the request log: decided before they are held on to.

The log has room for few bodies and would drop nearly all of them a quarter of a second later; held so long,
every request's bytes would come from memory that no cache knows any more.
"""

from __future__ import annotations

from random import random

from mdslite.logrules import Log, Some
from mdslite.serving.lots import is_drawn
from mdslite.store.rows import SAMPLED, Keeping

GOOD_PER_SECOND = 10
FAILED_PER_SECOND = 50

_ALL, _NONE = Some(share=1.0), Some()
_ERRORS = Some(errors=True)
_NEVER = float("-inf")


class Samples:
    """By a version's own rule; without one, a share of its good answers that makes so many a second, and the
    first failed ones of each second. `keeping` is what the log is to do with the bodies."""

    def __init__(
        self, rule: Log | None = None, *, good: int = GOOD_PER_SECOND, failed: int = FAILED_PER_SECOND
    ) -> None:
        rule = rule or Log()
        asked = rule.bodies is not None
        self.never = rule.bodies == "never"
        self._rule = _some(rule) if asked else None
        below, share = (self._rule.below_confidence, float(self._rule.share)) if self._rule else (None, 1.0)
        keeping = Keeping(rule.max_bytes, rule.redact, asked, below, share)
        self.keeping = SAMPLED if keeping == SAMPLED else keeping
        self._sure = _NEVER
        if self._rule is not None and self._rule.below_confidence is not None:
            self._sure = self._rule.below_confidence
        # The sample of a second:
        self._good = good
        self._failed = failed
        self._good_left = good
        self._failed_left = failed
        self._gap = 0.0  # between two good answers that are taken: up to twice this many are passed over
        self._skip = 0
        self._seen = 0  # good ones in this second, and those that are still to be passed over
        self._since = self._until = 0.0

    @property
    def even_share(self) -> float:
        """The share of all requests that is taken whatever came of them: by their ids where a rule names it,
        of its own accord without a rule."""
        return 1.0 if self._rule is None else float(self._rule.share)

    def passes(self, now: float) -> bool:
        """Pass this good answer over? If not, ask `due`. This is the common case, told in a hurry."""
        if self._skip and now < self._until:
            self._skip -= 1
            return True
        return False

    def due(
        self, now: float, *, failed: bool, confidence: float | None = None, request_id: str | None = None
    ) -> bool:
        """Take this one? `now` is seconds of a clock that never goes back."""
        if self._rule is not None:
            return self._is_asked(failed, confidence, request_id)
        if now >= self._until:
            self._turn(now)
        if failed:
            self._failed_left -= 1
            return self._failed_left >= 0
        if self._skip:
            self._skip -= 1
            return False
        self._good_left -= 1
        self._skip = int(random() * self._gap * 2 + 0.5) if self._gap else 0
        self._seen += 1 + self._skip
        return self._good_left >= 0

    def due_copy(
        self,
        now: float,
        *,
        failed: bool,
        confidence: float | None,
        primary: bool,
        request_id: str | None = None,
    ) -> bool:
        """Take a shadow's answer? By the log's own sample where its primary's was taken, so that both are
        there to be compared."""
        if self._rule is not None:
            return self._is_asked(failed, confidence, request_id)
        return primary or (failed and self.due(now, failed=True))

    def _is_asked(self, failed: bool, confidence: float | None, request_id: str | None) -> bool:
        rule = self._rule
        assert rule is not None
        if (failed and rule.errors) or (confidence is not None and confidence < self._sure):
            return True
        if not rule.share:
            return False
        return random() < rule.share if request_id is None else is_drawn(request_id, rule.share)

    def _turn(self, now: float) -> None:
        """A new second: so many are passed over as the last one's rate asks for. One that ended a second ago
        or longer says nothing of what comes now."""
        seen, seconds = self._seen - self._skip, now - self._since
        rate = seen / seconds if seconds < 2.0 else 0.0
        self._gap = max(0.0, rate / self._good - 1.0) if self._good else 0.0
        self._since, self._until = now, now + 1.0
        self._skip = min(self._skip, int(self._gap * 2 + 0.5))  # what a busier second wished to pass over
        self._seen = self._skip  # of which none has come yet
        self._good_left, self._failed_left = self._good, self._failed


def _some(rule: Log) -> Some:
    match rule.bodies:
        case "all":
            return _ALL
        case "errors":
            return _ERRORS
        case Some() as some:
            return some
        case _:
            return _NONE
