"""Names what the two versions of the classifier saw, and how sure of it they are together."""

from __future__ import annotations

from typing import Any

import mds

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@mds.model("compare", "v1")
class Compare:
    @mds.predict
    def compare(self, answers: dict[str, Any]) -> dict[str, Any]:
        linear, network = answers["linear"], answers["network"]
        together = [
            (one + other) / 2
            for one, other in zip(linear["probabilities"], network["probabilities"], strict=True)
        ]
        best = max(range(len(NAMES)), key=together.__getitem__)
        return {
            "digit": NAMES[best],
            "confidence": round(together[best], 4),
            "agreed": linear["label"] == network["label"],
            "opinions": {"linear": NAMES[linear["label"]], "network": NAMES[network["label"]]},
        }
