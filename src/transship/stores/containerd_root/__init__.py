"""containerd's root directory, written while no containerd runs on it."""
