"""A run's plan: what contradicts itself, and how it is shared out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.bench.plan import Plan, PlanError, partitions_of

PLAN = Plan(bootstrap="localhost:9092", topic="t")


class TestCheck:
    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"writers": 0}, "neither writers nor readers"),
            ({"readers": 1, "size": 7}, "carries its time"),
            ({"writers": 0, "readers": 1, "rate": 5.0}, "the writers'"),
            ({"writers": 0, "readers": 1, "transactions": 5}, "needs writers"),
            ({"acks": "1", "idempotence": True}, "need --acks all"),
        ],
    )
    def test_contradictions(self, changes: dict[str, object], complaint: str) -> None:
        """An impossible plan is refused, with the reason."""
        with pytest.raises(PlanError, match=complaint):
            replace(PLAN, **changes).check()

    def test_modes(self) -> None:
        """Writers write, readers read, and both together measure from end to end."""
        modes = [replace(PLAN, writers=w, readers=r).mode for w, r in ((1, 0), (0, 1), (1, 1))]

        assert modes == ["write", "read", "end-to-end"]


class TestShares:
    @pytest.mark.parametrize(("writers", "processes"), [(1, 16), (10, 4), (100, 16), (7, 7)])
    def test_add_up(self, writers: int, processes: int) -> None:
        """Writers, records and rate of the shares are those of the plan, however it divides."""
        shares = replace(PLAN, writers=writers, records=1001, rate=333.0).writer_shares(processes)

        assert sum(share.writers for share in shares) == writers
        assert sum(share.records or 0 for share in shares) == 1001
        assert sum(share.rate or 0 for share in shares) == pytest.approx(333.0)
        assert len(shares) == min(writers, processes)

    def test_readers_are_numbered(self) -> None:
        """No two processes have the same reader."""
        shares = replace(PLAN, readers=10).reader_shares(4)

        numbers = [n for share in shares for n in range(share.first_reader, share.first_reader + share.readers)]
        assert numbers == list(range(10))

    @pytest.mark.parametrize(("readers", "partitions"), [(1, 5), (3, 8), (8, 8)])
    def test_every_partition_once(self, readers: int, partitions: int) -> None:
        """No more readers than partitions: each partition has exactly one."""
        read = [p for reader in range(readers) for p in partitions_of(reader, readers, partitions)]

        assert sorted(read) == list(range(partitions))

    def test_more_readers_than_partitions(self) -> None:
        """Every reader has something to read."""
        assert [partitions_of(reader, 5, 2) for reader in range(5)] == [[0], [1], [0], [1], [0]]
