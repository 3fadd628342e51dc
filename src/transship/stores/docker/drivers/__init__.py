"""Docker's graph drivers: where each keeps a layer's files, and in which form."""
