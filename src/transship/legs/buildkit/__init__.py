"""The leg ``buildkit``: a build cache whose metadata are of version 1, to version 2."""
