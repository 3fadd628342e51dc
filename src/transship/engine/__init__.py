"""Runs a plan of steps: order, limits, journal, progress, rollback. Knows nothing of what the steps do."""
