"""A minute of tiered storage: MinIO, the gateway on it, clients, and what moves between the tiers. See `make demo`."""
