"""Answers of Produce and Fetch that name the leaders of partitions which were asked of another node (KIP-951).

They are rare: a client asks the wrong node until it knows better. So they are encoded by the general codec, unlike the
others (`gateway.wire.responses`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.wire.codec import response_codec
from gateway.wire.responses import FetchedPartition, ProducedPartition, TopicKey

PRODUCE_SINCE: Final = 10
FETCH_SINCE: Final = 16
PRODUCE_IDS_SINCE: Final = 13
PRODUCE_KEY: Final = 0
FETCH_KEY: Final = 1


class Hints(NamedTuple):
    """Leaders by topic and partition, as (node id, epoch), and the addresses of the nodes: (id, host, port)."""

    leaders: Mapping[tuple[TopicKey, int], tuple[int, int]]
    nodes: Sequence[tuple[int, str, int]]

    def leader(self, topic: TopicKey, index: int) -> Mapping[str, Any]:
        """The tagged field of one partition; none where there is no hint."""
        found = self.leaders.get((topic, index))
        return {} if found is None else {"current_leader": {"leader_id": found[0], "leader_epoch": found[1]}}

    def endpoints(self) -> list[dict[str, Any]]:
        return [{"node_id": node_id, "host": host, "port": port, "rack": None} for node_id, host, port in self.nodes]


def encode_produce_with_hints(
    version: int,
    topics: Sequence[tuple[TopicKey, Sequence[ProducedPartition]]],
    hints: Hints,
    throttle_ms: int = 0,
) -> bytes:
    """The body of a Produce response, v10 to v13."""

    def partition(topic: TopicKey, told: ProducedPartition) -> dict[str, Any]:
        errors, message = (told[5], told[6]) if len(told) > 5 else ((), None)
        return {
            "index": told[0],
            "error_code": told[1],
            "base_offset": told[2],
            "log_append_time": told[3],
            "log_start_offset": told[4],
            "record_errors": [{"batch_index": at, "batch_index_error_message": why} for at, why in errors],
            "error_message": message,
            **hints.leader(topic, told[0]),
        }

    by = "topic_id" if version >= PRODUCE_IDS_SINCE else "name"
    values = {
        "responses": [
            {by: topic, "partition_responses": [partition(topic, told) for told in partitions]}
            for topic, partitions in topics
        ],
        "throttle_time": throttle_ms,
        "node_endpoints": hints.endpoints(),
    }
    return bytes(response_codec(PRODUCE_KEY, version).encode(values))


def encode_fetch_with_hints(
    version: int, topics: Sequence[tuple[TopicKey, Sequence[FetchedPartition]]], hints: Hints, session_id: int
) -> bytes:
    """The body of a Fetch response, v16 to v18. Records are copied."""

    def partition(topic: TopicKey, told: FetchedPartition) -> dict[str, Any]:
        aborted = None
        if told.aborted is not None:
            aborted = [{"producer_id": producer, "first_offset": first} for producer, first in told.aborted]
        return {
            "partition_index": told.partition,
            "error_code": told.error_code,
            "high_watermark": told.high_watermark,
            "last_stable_offset": told.last_stable_offset,
            "log_start_offset": told.log_start_offset,
            "aborted_transactions": aborted,
            "preferred_read_replica": -1,
            "records": b"".join(told.parts),
            **hints.leader(topic, told.partition),
        }

    values = {
        "throttle_time": 0,
        "error_code": 0,
        "session_id": session_id,
        "responses": [
            {"topic_id": topic, "partitions": [partition(topic, told) for told in partitions]}
            for topic, partitions in topics
        ],
        "node_endpoints": hints.endpoints(),
    }
    return bytes(response_codec(FETCH_KEY, version).encode(values))
