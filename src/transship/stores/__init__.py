"""Everything that holds images."""
