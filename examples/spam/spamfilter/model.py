"""Tells spam from other short messages: a logistic regression on the words that occur."""

from typing import Any

import numpy as np
from words import find_words

import mds


@mds.model("spamfilter", "v1")
@mds.context({"threshold": 0.5})
@mds.requirements(["numpy"])
class SpamFilter:
    context: mds.Context

    def __init__(self) -> None:
        with np.load(self.context.folder / "weights.npz") as weights:
            self.weights = weights["weights"]
            self.bias = float(weights["bias"])
            self.places = {str(word): place for place, word in enumerate(weights["words"])}

    @mds.health_check
    def check(self) -> dict[str, Any]:
        return {"status": "OK", "words": len(self.places)}

    @mds.warmup
    def warm_up(self) -> None:
        self.score([self.tokenise("Is this spam?")])

    @mds.pre
    def tokenise(self, data: Any) -> list[int]:
        """From a text, or an object with one, to the places of the words that the filter knows."""
        text = data.get("text") if isinstance(data, dict) else data
        if not isinstance(text, str):
            raise ValueError('expected a text, or {"text": "..."}')
        return [self.places[word] for word in set(find_words(text)) if word in self.places]

    @mds.predict
    @mds.batch(batch_size=32, batch_timeout_ms=2)
    def score(self, data: list[list[int]]) -> list[float]:
        """How likely each message is spam."""
        sums = np.array([self.weights[places].sum() for places in data]) + self.bias
        return list(1 / (1 + np.exp(-sums)))

    @mds.post
    def name(self, probability: float) -> dict[str, Any]:
        is_spam = probability >= self.context["threshold"]
        return {
            "label": "spam" if is_spam else "ham",
            "confidence": round(float(probability if is_spam else 1 - probability), 4),
        }
