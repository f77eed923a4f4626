"""The one subscription to clients' metrics (KIP-714): it asks for none.

Keeps: PushTelemetry knows the subscription that GetTelemetrySubscriptions hands out.
"""

from typing import Final

NOTHING: Final = 0
"""The id of the subscription that asks for nothing."""
CODECS: Final = (4, 3, 1, 2)
"""Codecs by their numbers in record batches, in Kafka's order of preference."""
PUSH_INTERVAL_MS: Final = 300_000
PAYLOAD_BYTES_MAX: Final = 1_048_576
"""Kafka's defaults."""
