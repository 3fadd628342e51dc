"""containerd's own databases, read and changed while nobody else has them open: in containerd's root, and in BuildKit's."""
