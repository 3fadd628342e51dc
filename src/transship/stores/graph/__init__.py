"""Docker's v1 store (Docker 0.7 to 1.9): graph/, repositories-<driver>, and the graph drivers' directories."""
