"""The service: one process that answers on a Unix socket and runs what it is asked to."""
