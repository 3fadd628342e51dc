"""Docker's content-addressable store, 1.10 to 28."""
