"""A cluster of three nodes, one of which is killed while clients work. See `make demo-cluster`."""
