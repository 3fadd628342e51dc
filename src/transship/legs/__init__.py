"""Voyages: from which store to which, in which steps."""
