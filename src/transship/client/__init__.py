"""The other side of the service's socket."""
