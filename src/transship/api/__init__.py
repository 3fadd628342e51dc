"""What goes over the service's socket: known to both sides."""
