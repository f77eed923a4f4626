"""The traces of another life of a store: the ids that are not believed, and how these are stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.errors import CorruptState
from core.tiering.rows import chunk_key
from core.tiering.snapshots.format import SnapshotId, snapshot_key
from core.tiering.snapshots.lives import LIVES_MAX, OtherLife, decode_lives, encode_lives, find_other_life
from tests.core.tiering.support import storage_in
from tier2.chunk_format import ChunkId


def test_bytes() -> None:
    """They are those of the table in the module, and are read as they were written."""
    life = OtherLife(1, 2, 1003)

    assert encode_lives([life]) == bytes.fromhex("000000010000000000000002000003eb")
    assert decode_lives(encode_lives([life])) == [life]
    assert decode_lives(b"") == []


def test_bounded() -> None:
    """The newest are kept."""
    lives = [OtherLife(number, 0, number) for number in range(LIVES_MAX + 5)]

    assert decode_lives(encode_lives(lives)) == lives[5:]


@pytest.mark.parametrize("value", [b"x", bytes(17), bytes(16 * (LIVES_MAX + 1))])
def test_damaged(value: bytes) -> None:
    """A row of another length is damage."""
    with pytest.raises(CorruptState):
        decode_lives(value)


@pytest.mark.parametrize(
    ("epoch", "sequence", "is_theirs"),
    [(1, 1, False), (1, 2, True), (2, 0, True), (1003, 9, True), (1004, 0, False), (0, 99, False)],
)
def test_whose(epoch: int, sequence: int, is_theirs: bool) -> None:
    """Ids from the first on, up to the end of the last epoch, are theirs."""
    assert OtherLife(1, 2, 1003).has(ChunkId(container=0, epoch=epoch, sequence=sequence)) is is_theirs


def test_found(tmp_path: Path) -> None:
    """Newer snapshots tell of another life; chunks alone do where they are asked for; our own tell nothing."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path)
        await storage.put(snapshot_key(0, SnapshotId(3, 99)), b"ours")
        await storage.put(snapshot_key(1, SnapshotId(70, 0)), b"another container's")
        await storage.put(chunk_key(ChunkId(container=0, epoch=3, sequence=98)), b"ours")
        assert await find_other_life(storage, 0, 3, 100, chunks=True) is None

        await storage.put(chunk_key(ChunkId(container=0, epoch=1004, sequence=1)), b"theirs")
        assert await find_other_life(storage, 0, 3, 100, chunks=False) is None
        assert await find_other_life(storage, 0, 3, 100, chunks=True) == OtherLife(3, 100, 1004)

        await storage.put(snapshot_key(0, SnapshotId(1003, 7)), b"theirs")
        assert await find_other_life(storage, 0, 3, 100, chunks=False) == OtherLife(3, 100, 1004)
        await storage.close()

    asyncio.run(scenario())
