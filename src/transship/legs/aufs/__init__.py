"""The leg ``aufs``: the layout of Docker 0.6 becomes that of the graph driver aufs."""
