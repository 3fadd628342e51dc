"""Bytes to values and back; no I/O of its own, nothing asynchronous."""
