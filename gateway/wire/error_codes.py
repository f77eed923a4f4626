"""Kafka's error codes as plain numbers, for the hot path and for modules that a worker process loads.

kio has them as an enum, which is loaded with the first schema and compares slower. All code off the hot path uses that
one.

Invariant: a name here has the number of the same name in Kafka's `Errors`.
"""

from __future__ import annotations

from typing import Final

UNKNOWN_SERVER_ERROR: Final = -1
OFFSET_OUT_OF_RANGE: Final = 1
CORRUPT_MESSAGE: Final = 2
UNKNOWN_TOPIC_OR_PARTITION: Final = 3
NOT_LEADER_OR_FOLLOWER: Final = 6
MESSAGE_TOO_LARGE: Final = 10
INVALID_TOPIC_EXCEPTION: Final = 17
NOT_ENOUGH_REPLICAS: Final = 19
INVALID_REQUIRED_ACKS: Final = 21
TOPIC_AUTHORIZATION_FAILED: Final = 29
INVALID_TIMESTAMP: Final = 32
INVALID_TXN_STATE: Final = 48
CONCURRENT_TRANSACTIONS: Final = 51
TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Final = 53
KAFKA_STORAGE_ERROR: Final = 56
FENCED_LEADER_EPOCH: Final = 74
UNKNOWN_LEADER_EPOCH: Final = 75
UNSUPPORTED_COMPRESSION_TYPE: Final = 76
INVALID_RECORD: Final = 87
UNKNOWN_TOPIC_ID: Final = 100
