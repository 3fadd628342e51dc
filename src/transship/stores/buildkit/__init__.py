"""BuildKit's cache: what it knows of the results of build steps, in both versions of its metadata."""
