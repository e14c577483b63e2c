"""What an order takes for granted: the revision and the bytes that its plan showed. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from mdslite.deploy.orders import Order
from mdslite.deploy.plan import Plan
from mdslite.errors import Conflict
from mdslite.fields import version_name

_HINT = "plan again, and apply that"


def require_revision(order: Order, latest: int) -> None:
    """:raises Conflict: another revision has been applied since the order was planned"""
    if order.expect_revision is not None and order.expect_revision != latest:
        raise Conflict(
            f"revision {latest} has been applied since revision {order.expect_revision}, which this "
            "apply was planned on",
            hint=_HINT,
        )


def require_digests(order: Order, plan: Plan) -> None:
    """:raises Conflict: the artifact of a version is another one than when the order was planned"""
    found = digests_of(plan)
    for name, planned in order.expect_digests.items():
        if name not in found:
            message = f"{name}: it was planned with {planned}, and is not part of this apply"
            raise Conflict(message, hint=_HINT)
        if found[name] != planned:
            message = f"{name}: its artifact is {found[name]} by now; this apply was planned with {planned}"
            raise Conflict(message, hint=_HINT)


def digests_of(plan: Plan) -> Mapping[str, str]:
    """The artifacts' digests after a plan, by `PROJECT/MODEL@VERSION`."""
    return {
        version_name(model.project, model.model, step.version): step.after.digest
        for model in plan.models
        for step in model.steps
        if step.after is not None
    }
