"""A transaction over many partitions, in a real gateway: nobody waits for it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Final

import pytest

from bench.hostile.wire import Stranger
from gateway.records.records import Record, build_batch
from tests.gateway.launching import WATCHED, longest_turn_ms, serving

pytestmark = pytest.mark.slow

TOPICS: Final = 15
PARTITIONS: Final = 10_000
WRITTEN: Final = 3_000
COMPLETED_S: Final = 90


def added(stranger: Stranger, producer: Any, partitions: range) -> list[int]:
    """Error codes of adding these partitions of all topics."""
    topics = [{"name": f"wide-{n}", "partitions": list(partitions)} for n in range(TOPICS)]
    answer = stranger.ask(
        "AddPartitionsToTxn",
        3,
        {
            "v3_and_below_transactional_id": "x",
            "v3_and_below_producer_id": producer.producer_id,
            "v3_and_below_producer_epoch": producer.producer_epoch,
            "v3_and_below_topics": topics,
        },
    )
    found = answer.results_by_topic_v3_and_below
    return [one.partition_error_code for topic in found for one in topic.results_by_partition]


def completed(stranger: Stranger) -> list[Any]:
    """The topics of the transaction once it is complete: the answer to its end may come as soon as that is logged."""
    deadline = time.monotonic() + COMPLETED_S
    while True:
        (state,) = stranger.ask("DescribeTransactions", 0, {"transactional_ids": ["x"]}).transaction_states
        if state.transaction_state == "CompleteCommit":
            return list(state.topics)
        assert state.transaction_state == "PrepareCommit"
        assert time.monotonic() < deadline, "the transaction never becomes complete"
        time.sleep(0.05)


def test_all_partitions(tmp_path: Path) -> None:
    """A transaction over 150,000 partitions begins, is written to, grows by one, is described and ends; the loop's
    longest turn is below 50 ms of its CPU time."""
    with serving(tmp_path, command=WATCHED) as gateway:
        host, _, port = gateway.ready()["kafka"][0].rpartition(":")
        with contextlib.closing(Stranger((host, int(port)))) as stranger:
            for first in range(0, TOPICS, 5):
                stranger.create([(f"wide-{n}", PARTITIONS) for n in range(first, first + 5)])
            producer = stranger.ask("InitProducerId", 4, {"transactional_id": "x", "transaction_timeout": 600_000})
            assert set(added(stranger, producer, range(PARTITIONS - 1))) == {0}
            assert set(added(stranger, producer, range(PARTITIONS - 1, PARTITIONS))) == {0}
            batch = bytes(
                build_batch(
                    [Record(0, 1_700_000_000_000, b"k", b"v")],
                    producer_id=producer.producer_id,
                    producer_epoch=producer.producer_epoch,
                    base_sequence=0,
                    transactional=True,
                )
            )
            written = [{"index": n, "records": batch} for n in range(WRITTEN)]
            values: dict[str, Any] = {"transactional_id": "x", "acks": -1, "timeout": 60_000}
            answer = stranger.ask(
                "Produce", 9, values | {"topic_data": [{"name": "wide-0", "partition_data": written}]}
            )
            assert {one.error_code for one in answer.responses[0].partition_responses} == {0}
            described = stranger.ask("DescribeTransactions", 0, {"transactional_ids": ["x"]}).transaction_states[0]
            assert sum(len(topic.partitions) for topic in described.topics) == TOPICS * PARTITIONS

            ends = {"transactional_id": "x", "producer_id": producer.producer_id, "committed": True}
            ended = stranger.ask("EndTxn", 3, ends | {"producer_epoch": producer.producer_epoch})
            assert ended.error_code == 0
            assert completed(stranger) == []

        assert 0 < longest_turn_ms(gateway) < 50
