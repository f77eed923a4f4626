"""A minute of tiered storage: MinIO, the gateway on it, clients, and moves between the tiers. See `make demo`."""
