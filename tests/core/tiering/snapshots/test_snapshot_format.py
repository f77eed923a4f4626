"""A metadata snapshot's bytes. The golden file holds the released format for ever."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Final

import cramjam
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from core.streams.writers import BATCHES_KEPT, WriterBatch
from core.tiering.snapshots.format import (
    HEADER_SIZE,
    BadSnapshot,
    SlotSnapshot,
    Snapshot,
    SnapshotId,
    WriterSnapshot,
    decode_snapshot,
    encode_snapshot,
    parse_snapshot_key,
    snapshot_key,
)

GOLDEN: Final = Path(__file__).parent / "golden"

SNAPSHOT: Final = Snapshot(
    container=3,
    id=SnapshotId(7, 1 << 40),
    created_ms=1_700_000_000_000,
    cluster_id="A" * 22,
    tables={"streams": {b"\0\0\0\1": b"{}"}, "offsets": {b"g": b"1", b"h": b"2"}, "empty": {}},
    slots=(SlotSnapshot(1, 0, 5, 100, 9, 8, 180, ((1, 0), (7, 6))), SlotSnapshot(1, 2, 0, 0, 0, 0, 0, ())),
)

WITH_WRITERS: Final = replace(
    SNAPSHOT,
    writers={
        1: [
            WriterSnapshot(
                4001, 3, 1_700_000_000_000, (WriterBatch(2, 0, 9, 0, 10, 5), WriterBatch(3, 0, 0, 10, 1, -1))
            ),
            WriterSnapshot(4002, 0, 0, (WriterBatch(0, 2**31 - 1, 0, 11, 2, 2**40),)),
        ]
    },
)

I64 = st.integers(-(2**63), 2**63 - 1)
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
TABLES = st.dictionaries(
    st.text(max_size=20), st.dictionaries(st.binary(max_size=20), st.binary(max_size=50), max_size=5), max_size=3
)
SLOTS = st.builds(
    SlotSnapshot,
    *(U32, U32, I64, U64, I64, I64, U64),
    st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), I64), max_size=3).map(tuple),
)
I32 = st.integers(-(2**31), 2**31 - 1)
I16 = st.integers(-(2**15), 2**15 - 1)
BATCHES = st.lists(st.builds(WriterBatch, I16, I32, I32, I64, U32, I64), max_size=BATCHES_KEPT).map(tuple)
WRITERS = st.lists(st.builds(WriterSnapshot, I64, I16, I64, BATCHES), min_size=1, max_size=3)
SNAPSHOTS = st.builds(
    Snapshot,
    container=U32,
    id=st.builds(SnapshotId, U32, U64),
    created_ms=U64,
    cluster_id=st.text(max_size=30),
    tables=TABLES,
    slots=st.lists(SLOTS, min_size=2, max_size=5),
    writers=st.dictionaries(st.integers(0, 1), WRITERS),
)


def encoded(snapshot: Snapshot) -> bytes:
    return b"".join(encode_snapshot(snapshot))


def plain(data: bytes) -> bytes:
    """The body of an encoded snapshot."""
    return bytes(cramjam.zstd.decompress(data[HEADER_SIZE:]))


@given(SNAPSHOTS)
def test_round_trip(snapshot: Snapshot) -> None:
    """A written snapshot is read as it was."""
    read = decode_snapshot(encoded(snapshot))

    assert (read.container, read.id, read.created_ms) == (snapshot.container, snapshot.id, snapshot.created_ms)
    assert (read.cluster_id, read.tables, read.slots) == (snapshot.cluster_id, snapshot.tables, snapshot.slots)
    assert read.writers == snapshot.writers


@pytest.mark.parametrize("version", [1, 2])
def test_golden(version: int) -> None:
    """Released formats are read for ever; the body is written as it was, however it is compressed by now."""
    golden = (GOLDEN / f"snapshot-v{version}.bin").read_bytes()
    snapshot = SNAPSHOT if version == 1 else WITH_WRITERS

    assert encoded(decode_snapshot(golden)) == encoded(snapshot)
    assert plain(golden) == plain(encoded(snapshot))
    assert golden[8:10] == struct.pack("<H", version)


def test_writers_of_no_slot() -> None:
    """Writers of a slot that is not in the snapshot are damage."""
    with pytest.raises(BadSnapshot, match="slot number 7 of 2"):
        decode_snapshot(encoded(replace(WITH_WRITERS, writers={7: WITH_WRITERS.writers[1]})))


def test_every_flipped_bit_is_found() -> None:
    """Damage anywhere is damage, never other metadata."""
    data = encoded(WITH_WRITERS)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(BadSnapshot):
            decode_snapshot(bytes(damaged))


def test_cut_off() -> None:
    """An object that ends early is damage, wherever it ends."""
    data = encoded(WITH_WRITERS)
    for size in range(len(data)):
        with pytest.raises(BadSnapshot):
            decode_snapshot(data[:size])


@given(st.data())
def test_bodies_that_lie(data: st.DataObject) -> None:
    """A body with a right CRC that contradicts itself is refused, not believed."""
    version, snapshot = data.draw(st.sampled_from([(1, SNAPSHOT), (2, WITH_WRITERS)]))
    body = bytearray(plain(encoded(snapshot)))
    position = data.draw(st.integers(0, len(body) - 4))
    struct.pack_into("<I", body, position, data.draw(U32))
    stored = bytes(cramjam.zstd.compress(bytes(body)))
    head = struct.pack("<8sHHIIIQQQQI", b"PSTKMET\n", version, 1, 3, 7, crc32c(stored), 1, 1, len(stored), len(body), 0)
    made = head + struct.pack("<I", crc32c(head)) + stored
    try:
        decode_snapshot(made)
    except BadSnapshot:
        return


def test_newer_version() -> None:
    """A later release's snapshot is not guessed at."""
    data = bytearray(encoded(SNAPSHOT))
    data[8] = 3
    with pytest.raises(BadSnapshot, match="version 3"):
        decode_snapshot(bytes(data))


def test_keys() -> None:
    """Keys sort as snapshots do, and only ours are taken for one."""
    older, newer = SnapshotId(1, 2**40), SnapshotId(2, 1)

    assert older < newer
    assert snapshot_key(0, older) == "meta/0/00000001-0000010000000000"
    assert snapshot_key(0, older) < snapshot_key(0, newer)
    assert parse_snapshot_key(snapshot_key(12, newer)) == (12, newer)
    for other in ("meta/0/x", "chunks/0/00000001-0000010000000000", "meta/0/00000001-0000010000000000.x"):
        assert parse_snapshot_key(other) is None


if __name__ == "__main__":  # writes the golden file anew: only for a new format version, beside the old one
    (GOLDEN / "snapshot-v2.bin").write_bytes(encoded(WITH_WRITERS))
