"""From Docker's content-addressable store to containerd or an OCI image layout."""
