"""From a wanted configuration to a served one: plan, apply, revisions."""
