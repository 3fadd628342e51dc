"""The leg ``graph``: a v1 store becomes a content-addressable one."""
