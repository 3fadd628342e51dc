"""containerd, live, over its gRPC API."""
