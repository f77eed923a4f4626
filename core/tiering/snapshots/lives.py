"""Another life of a store: a copy of it has left objects in the long-term storage that this store goes on with.

A copy that took the prefix over, and was given up again, has left snapshots and chunks of later epochs than ours. A
recovery begins with the newest snapshot, and takes the newest chunk as right for everything that it covers: the copy's
objects would win for ever. So a start looks for them, rises above them, and remembers the ids that it does not believe.

Format of a claim in the container's table, big-endian: all ids from the first on, up to the end of an epoch, belong to
another life.

     0  u32 epoch   4  u64 sequence   12  u32 last epoch

**Invariant**: ids that this store gives from here on lie above all that another life may still give.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from core.errors import CorruptState
from core.log.records import Put
from core.tiering.rows import parse_chunk_key
from core.tiering.snapshots.format import parse_snapshot_key, snapshot_prefix
from tier2.chunk_format import ChunkId
from tier2.storage import Storage

LIVES_KEY: Final = b"other lives"
"""Its place in `core.container.container.CONTAINER_TABLE`."""
LIVES_MAX: Final = 64
"""The most claims that a store remembers: the newest."""
EPOCHS_ABOVE: Final = 1000
"""More starts than a copy that was given up will make after its last sign of life."""
_CLAIM: Final = struct.Struct(">IQI")
assert _CLAIM.size == 16


@dataclass(frozen=True, slots=True, order=True)
class OtherLife:
    """Ids (epoch, sequence) from the first on, up to the end of the last epoch."""

    epoch: int
    sequence: int
    last_epoch: int

    def has(self, chunk: ChunkId) -> bool:
        return (self.epoch, self.sequence) <= (chunk.epoch, chunk.sequence) and chunk.epoch <= self.last_epoch


def encode_lives(lives: Iterable[OtherLife]) -> bytes:
    """The newest ones."""
    return b"".join(_CLAIM.pack(life.epoch, life.sequence, life.last_epoch) for life in sorted(lives)[-LIVES_MAX:])


def decode_lives(value: bytes) -> list[OtherLife]:
    """Raises CorruptState."""
    if len(value) % _CLAIM.size or len(value) > LIVES_MAX * _CLAIM.size:
        raise CorruptState(f"a row of other lives has {len(value)} bytes")
    return [OtherLife(*fields) for fields in _CLAIM.iter_unpack(value)]


async def find_other_life(
    storage: Storage, container_id: int, epoch: int, next_lsn: int, *, chunks: bool
) -> OtherLife | None:
    """Ids of objects there that a store in this epoch has not given yet; `chunks`: look at all chunks, too.

    There are few snapshots, and every life leaves some soon. Raises StorageError.
    """
    last = await _last_snapshot_epoch(storage, container_id, epoch, next_lsn)
    if last is None and not chunks:
        return None
    async for info in storage.list(f"chunks/{container_id}/"):
        chunk = parse_chunk_key(info.key)
        if chunk is not None and (chunk.epoch, chunk.sequence) >= (epoch, next_lsn):
            last = max(last or 0, chunk.epoch)
    return None if last is None else OtherLife(epoch, next_lsn, last)


async def _last_snapshot_epoch(storage: Storage, container_id: int, epoch: int, next_lsn: int) -> int | None:
    last: int | None = None
    async for info in storage.list(snapshot_prefix(container_id)):
        found = parse_snapshot_key(info.key)
        if found is not None and found[1] >= (epoch, next_lsn):
            last = max(last or 0, found[1].epoch)
    return last


def lives_put(table: str, known: Mapping[bytes, bytes], found: OtherLife) -> Put:
    """The operations that make it known."""
    return Put(table, LIVES_KEY, encode_lives([*decode_lives(known.get(LIVES_KEY, b"")), found]))
