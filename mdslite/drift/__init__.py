"""Is what a version gets and gives still what it was? Sketches, tests, baselines and states."""
