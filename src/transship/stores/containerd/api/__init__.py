"""The part of containerd's gRPC API that transship uses.

Written from containerd's ``api/`` (services and types, v1.6 to v2.x): package, service, method and field names and field
numbers are containerd's, since they are the protocol; what is not used is left out. ``hatch_build.py`` makes the modules.
"""
