"""HTTP/1.1 for any ASGI app on a Unix socket: who asks is known, and what a client can cost is bounded."""
