"""Producer ids for idempotent producers."""

from gateway.producers.ids import ProducerIds

__all__ = ["ProducerIds"]
