"""Moves everything a Docker host holds, from the store that it has to the store that it needs."""

__version__ = "0.1.0"
