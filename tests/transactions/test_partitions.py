"""How a transaction ends in its partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.transactions.partitions import transaction_end
from gateway.wire.control_batch import marker_batch
from tests.transactions.services import run, serving


@pytest.mark.parametrize("committed", [False, True])
def test_markers_of_one_transaction(tmp_path: Path, committed: bool) -> None:
    """Each has its own place and is whole; nothing is taken over from another producer, epoch or time."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            slot = services.slot("t")
            for writer, epoch, now_ms in ((7, 0, 1), (7, 1, 1), (8, 1, 1), (8, 1, 2)):
                end = transaction_end(slot, writer, epoch, committed=committed, now_ms=now_ms)
                for base, leader_epoch in ((0, 1), (2**40, 3)):
                    marker = end.entry(base, leader_epoch)

                    assert marker == marker_batch(
                        base_offset=base,
                        leader_epoch=leader_epoch,
                        producer_id=writer,
                        producer_epoch=epoch,
                        committed=committed,
                        coordinator_epoch=slot.leader_epoch,
                        timestamp_ms=now_ms,
                    )

    run(scenario())
