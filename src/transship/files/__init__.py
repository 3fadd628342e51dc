"""Files and directory trees: opened safely, written durably, walked, filled, compared."""
