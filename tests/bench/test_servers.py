"""The servers beside which is measured."""

from __future__ import annotations

import pytest

from bench.servers import PARTITIONS_AT_ONCE, sizes_to


@pytest.mark.parametrize(
    ("partitions", "sizes"),
    [
        (1, [1]),
        (PARTITIONS_AT_ONCE, [PARTITIONS_AT_ONCE]),
        (PARTITIONS_AT_ONCE + 1, [PARTITIONS_AT_ONCE, PARTITIONS_AT_ONCE + 1]),
        (2 * PARTITIONS_AT_ONCE, [PARTITIONS_AT_ONCE, 2 * PARTITIONS_AT_ONCE]),
    ],
)
def test_kafka_makes_a_large_topic_in_parts(partitions: int, sizes: list[int]) -> None:
    assert sizes_to(partitions) == sizes
