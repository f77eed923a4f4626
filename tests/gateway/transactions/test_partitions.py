"""How a transaction ends in its partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.log.format import IN_TRANSACTION
from gateway.long_term.recovered_entries import entry_writer
from gateway.records.control_batch import MarkerEnd, encode_ends, marker_batch, read_marker
from gateway.transactions.partitions import ENDS_TOGETHER, transaction_end, transaction_ends
from gateway.wire.errors import InvalidBatch
from tests.core.support import owner_of
from tests.gateway.transactions.services import run, serving


@pytest.mark.parametrize("committed", [False, True])
def test_markers_of_one_transaction(tmp_path: Path, committed: bool) -> None:
    """Each has its own place and is whole; nothing is taken over from another producer, epoch or time."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            slot = services.slot("t")
            for writer, epoch, now_ms in ((7, 0, 1), (7, 1, 1), (8, 1, 1), (8, 1, 2)):
                end = transaction_end(slot, writer, epoch, committed=committed, coordinator_epoch=4, now_ms=now_ms)
                for base, leader_epoch in ((0, 1), (2**40, 3)):
                    marker = end.entry(base, leader_epoch)

                    assert marker == marker_batch(
                        base_offset=base,
                        leader_epoch=leader_epoch,
                        producer_id=writer,
                        producer_epoch=epoch,
                        committed=committed,
                        coordinator_epoch=4,
                        timestamp_ms=now_ms,
                    )

    run(scenario())


@pytest.mark.parametrize("partitions", [1, 2, 16, 40])
def test_markers_name_each_other(tmp_path: Path, partitions: int) -> None:
    """Each of several says how many there are and where some of the others lie; only those that are appended count."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", partitions=partitions + 1)
            slots = [services.slot("t", number) for number in range(partitions + 1)]
            for slot in slots[:-1]:  # the last one has nothing open
                owner_of(slot).append(slot, b"1234", 1 + slot.number % 3, 5, None, 7, 0, 0, IN_TRANSACTION)
            ends = transaction_ends(slots, 7, 0, committed=True, coordinator_epoch=4, now_ms=1)
            markers = [read_marker(end.entry(end.slot.end, 1)) for end in ends]

            wanted = {MarkerEnd(slot.stream.id, slot.number, slot.end) for slot in slots[:-1]}
            if partitions == 1:
                assert markers[0] == (True, 0, ())
                return
            assert all(marker.committed and marker.partitions == partitions for marker in markers[:-1])
            assert {end for marker in markers for end in marker.ends} == wanted
            for slot, marker in zip(slots[:-1], markers, strict=False):
                assert MarkerEnd(slot.stream.id, slot.number, slot.end) in marker.ends
                assert len(marker.ends) <= 2 * ENDS_TOGETHER
            assert markers[-1].partitions == 0

    run(scenario())


def test_a_marker_of_somebody_else() -> None:
    """One without places says only how its transaction ended; places that are cut off are damage."""
    values = {
        "base_offset": 3,
        "leader_epoch": 1,
        "producer_id": 7,
        "producer_epoch": 0,
        "coordinator_epoch": 0,
        "timestamp_ms": 5,
    }
    assert read_marker(marker_batch(committed=False, **values)) == (False, 0, ())
    later = marker_batch(committed=True, ends=b"\2whatever", **values)
    assert read_marker(later) == (True, 0, ())
    cut = marker_batch(committed=True, ends=encode_ends(2, [MarkerEnd(1, 2, 3)])[:-1], **values)
    with pytest.raises(InvalidBatch):
        read_marker(cut)
    assert entry_writer(memoryview(cut)) is None
