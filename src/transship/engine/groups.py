"""Errors out of task groups."""

from __future__ import annotations


def first_error(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first of the errors that ended a task group: the one that made it cancel the rest."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, ExceptionGroup) else error
