"""Says what a person should look at: a drawing on which the two versions disagree."""

from __future__ import annotations

from typing import Any

import mds


@mds.model("doubt", "v1")
class Doubt:
    @mds.predict
    def doubt(self, answer: dict[str, Any]) -> dict[str, Any]:
        opinions = answer["opinions"]
        said = f"{opinions['linear']} or {opinions['network']}"
        return answer | {"ask": f"is this {said}? the classifiers disagree"}
