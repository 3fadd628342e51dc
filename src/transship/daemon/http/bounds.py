"""What one client, and all of them, may cost the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the server: counts, sizes in bytes, times in seconds."""

    connections: int = 512
    """Open connections, and requests being answered; beyond them: 503."""

    reserved: int = 16
    """Of the connections, those kept for root and for who runs the service: nobody else can keep them from acting."""

    head: int = 32 * 1024
    """Request line and headers of one request; beyond: 431."""

    body: int = 64 * 1024
    """Body of one request; beyond: 413."""

    pipelined: int = 16
    """Requests of one connection that wait for the one before them; those beyond are not heard, and the connection closes."""

    head_within: float = 10
    """From the connection's start, or a request's first byte, until the head is whole."""

    body_within: float = 10
    """From the end of the head until the body is whole."""

    idle_within: float = 75
    """How long a connection stays open between requests."""

    read_within: float = 30
    """How long a client may take none of what is sent to it."""

    end_within: float = 10
    """How long requests being answered may take when the server ends; then they are cancelled, and may take it once more."""

    accept_again_after: float = 1
    """How long no connection is accepted after the system had no means for one (file descriptors, memory)."""
