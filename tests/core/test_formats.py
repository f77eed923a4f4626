"""The formats on disk, byte for byte. The golden files hold every released format for ever. A test that fails here
means that a store written by an older release would not be read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Corrupt, CorruptState
from core.index.rows import SlotColumns, decode_block, read_directory, sidecar_path, write_sidecar
from core.log.format import (
    APPEND_BODY,
    FILE_HEADER_SIZE,
    FRAME_HEADER_SIZE,
    KIND_APPEND,
    KIND_UPDATE,
    BadFrame,
    FileHeader,
    decode_file_header,
    decode_frame,
    encode_file_header,
    encode_frame,
)
from core.log.log_file import LogFile
from core.log.records import Delete, Operation, Put, Trim, decode_update, encode_update
from core.log.replay import open_log_files, scan
from core.streams.damage import DamagedRange
from core.streams.damage import decode as decode_damaged
from core.streams.live import Slot
from core.streams.saving import encode_slot, load_slot
from core.streams.slot_format import SegmentStretch
from core.streams.state import decode_stream, new_stream
from core.streams.transactions import Aborted, SlotTransactions
from core.streams.writers import new_batch
from tests.core.support import container_of, open_store, run

pytestmark = pytest.mark.slow

GOLDEN: Final = Path(__file__).parent / "golden"

HEADER: Final = FileHeader(container=7, first_lsn=41, file_id=0xABCD1234, epoch=3, created_ms=1_700_000_000_000)
OPERATIONS: Final = (Put("groups", b"k\x00", b"value"), Delete("offsets", b"gone"), Trim(9, 4, 1 << 40, 12_345))


def update_record() -> bytes:
    return encode_update(OPERATIONS)


def log_file() -> bytes:
    """A header, one append, one update."""
    body = APPEND_BODY.pack(2 << 32 | 1, 9, 4, 1000, 5, 3, 1_699_999_999_999, 77, 2**31 - 1, 6, 0) + b"the entry"
    return b"".join(
        (
            encode_file_header(HEADER),
            encode_frame(41, 39, HEADER.file_id, KIND_APPEND, body),
            encode_frame(42, 40, HEADER.file_id, KIND_UPDATE, update_record()),
        )
    )


def columns_of(file: LogFile, first: int, rows: int, before: int) -> SlotColumns:
    columns = SlotColumns(file, first, before)
    for row in range(rows):
        columns.base.append(first + 2 * row)
        columns.position.append(FILE_HEADER_SIZE + 100 * row)
        columns.length.append(10 + row)
        columns.timestamp.append(5_000 - row)
        columns.total += 10 + row
    columns.end = first + 2 * rows
    return columns


def sidecar(directory: Path) -> LogFile:
    """A sidecar of three slots beside a log file that is only a name."""
    file = LogFile(41, directory / f"{41:020d}.log", HEADER.file_id, HEADER.created_ms, HEADER.epoch)
    file.end_lsn, file.size = 60, 9_999
    write_sidecar(
        file,
        [(9, 4, columns_of(file, 1000, 3, 77)), (1, 2, columns_of(file, 0, 1, 0)), (1, 0, columns_of(file, 8, 2, 5))],
    )
    return file


def stream_state() -> bytes:
    state = new_stream(
        stream_id=9,
        name="orders",
        uuid=UUID(int=0x1234),
        slots=6,
        created_ms=1_700_000_000_000,
        container=7,
        config={"retention.ms": "5"},
    )
    state = state.grown(16, 1_700_000_000_500).scaled([1], [4, 9], 1_700_000_000_600, "hot")
    return state.scaled([2, 3], [], 1_700_000_000_700, "cold").sealed_at(1_700_000_000_800).encode()


def placed_stream_state() -> bytes:
    """A stream over containers 7, 2 and 3, which has grown and was cut again."""
    state = new_stream(
        stream_id=9,
        name="orders",
        uuid=UUID(int=0x1234),
        slots=6,
        created_ms=1_700_000_000_000,
        container=7,
        config={"retention.ms": "5"},
        placement=(2, 7, 3),
    )
    state = state.grown(9, 1_700_000_000_500, (3, 7)).configured({"retention.ms": "6"})
    wide = next(one for one in state.current.segments if one.container == 3 and one.last - one.first > 1)
    return state.scaled([wide.number], [wide.first + 1], 1_700_000_000_600, "hot").encode()


async def slot_in(directory: Path) -> Slot:
    store = await open_store(directory)
    slot = (await store.create_stream("s", slots=1)).slot(0)
    await store.close()
    return slot


def slot_state(slot: Slot) -> bytes:
    slot.start, slot.end, slot.durable_end, slot.total_bytes, slot.start_bytes = 10, 30, 25, 900, 300
    slot.tiered_end, slot.tiered_bytes = 12, 340
    slot.leader_epochs = [(0, 0), (2, 12), (5, 25)]
    slot.record_writer(77, new_batch(1, 2**31 - 2, 15, 5, 1_000), 2_000)
    slot.record_writer(77, new_batch(1, 3, 20, 5, 1_001), 2_001)
    slot.record_writer(77, new_batch(1, 8, 25, 5, 1_002), 2_002)
    slot.segments = [SegmentStretch(10, 3, 300), SegmentStretch(14, 7, 400), SegmentStretch(25, 9, 880)]
    slot.transactions = SlotTransactions()
    slot.transactions.began(66, 12, 340)
    slot.transactions.began(77, 15, 400)
    slot.transactions.ended(12, 14, committed=False)
    slot.transactions.began(99, 25, 890)
    return encode_slot(slot)


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def test_log_file_is_written_as_released() -> None:
    """Header, append frame and update frame are the bytes of format version 1."""
    assert golden("log-v1.bin") == log_file()


def test_log_file_of_a_release_is_read(tmp_path: Path) -> None:
    """The scanner reads a released log file: LSNs, kinds, bodies."""
    (tmp_path / f"{41:020d}.log").write_bytes(golden("log-v1.bin"))
    (file,) = open_log_files(tmp_path)
    frames = [(frame.lsn, frame.kind, bytes(frame.body)) for frame in scan(file, newest=True)]

    assert (
        FileHeader(
            container=7, first_lsn=file.first_lsn, file_id=file.file_id, epoch=file.epoch, created_ms=file.created_ms
        )
        == HEADER
    )
    assert [frame[:2] for frame in frames] == [(41, KIND_APPEND), (42, KIND_UPDATE)]
    assert APPEND_BODY.unpack_from(frames[0][2])[1:6] == (9, 4, 1000, 5, 3)
    assert frames[0][2][APPEND_BODY.size :] == b"the entry"
    assert list(OPERATIONS) == decode_update(memoryview(frames[1][2]))


def test_sidecar_is_written_as_released(tmp_path: Path) -> None:
    """The index sidecar is the bytes of format version 1, and reads back."""
    file = sidecar(tmp_path)
    assert golden("sidecar-v1.bin") == sidecar_path(file.path).read_bytes()

    refs = read_directory(file)
    assert [(r.stream_id, r.slot, r.first, r.end) for r in refs] == [(1, 0, 8, 12), (1, 2, 0, 2), (9, 4, 1000, 1006)]
    data = golden("sidecar-v1.bin")
    rows = decode_block(file.path, refs[2], data[refs[2].position : refs[2].position + 72])
    assert (list(rows.base), list(rows.length), rows.bytes_before) == ([1000, 1002, 1004], [10, 11, 12], 77)


def test_stream_is_written_as_released() -> None:
    """A stream's JSON is that of version 1, and reads back to the same state."""
    assert golden("stream-v1.json") == stream_state()
    assert stream_state() == decode_stream(golden("stream-v1.json")).encode()


def test_placed_stream_is_written_as_released() -> None:
    """A stream that lies in several containers is that of version 2, and reads back to the same state."""
    assert golden("stream-v2.json") == placed_stream_state()
    assert placed_stream_state() == decode_stream(golden("stream-v2.json")).encode()


def test_slot_that_came_from_another_container(tmp_path: Path) -> None:
    """Its state is the bytes of version 3, with the log file from which on it has entries here."""
    slot = run(slot_in(tmp_path))
    slot.since_lsn = 4711
    assert golden("slot-v3.bin") == slot_state(slot)

    again = run(slot_in(tmp_path / "b"))
    load_slot(again, golden("slot-v3.bin"))
    assert_saved_slot(again)
    assert again.since_lsn == 4711


def test_slot_is_written_as_released(tmp_path: Path) -> None:
    """A slot's state is the bytes of version 2, without appends in flight."""
    slot = run(slot_in(tmp_path))
    assert golden("slot-v2.bin") == slot_state(slot)

    again = run(slot_in(tmp_path / "b"))
    load_slot(again, golden("slot-v2.bin"))
    assert_saved_slot(again)
    assert again.transactions is not None
    assert (again.transactions.open, list(again.transactions.unstable)) == ({77: 15}, [15])
    assert again.aborted_in(0, 25) == [Aborted(14, 12, 66, 15)]
    assert (again.stable_end, again.stable_bytes) == (15, 400)


def test_slots_of_the_first_release_are_read(tmp_path: Path) -> None:
    """Version 1 knew no transactions."""
    slot = run(slot_in(tmp_path))
    load_slot(slot, golden("slot-v1.bin"))
    assert_saved_slot(slot)
    assert slot.transactions is None


def assert_saved_slot(again: Slot) -> None:
    assert (again.start, again.end, again.durable_end, again.start_bytes) == (10, 25, 25, 300)
    assert (again.tiered_end, again.tiered_bytes) == (12, 340)
    assert again.leader_epochs == [(0, 0), (2, 12)]
    assert again.writers is not None
    assert [batch.base for batch in again.writers[77].batches] == [15, 20]
    assert again.segments == [SegmentStretch(10, 3, 300), SegmentStretch(14, 7, 400)]


def test_damaged_range_is_written_as_released() -> None:
    lost = DamagedRange(stream_id=7, slot=3, first=1_000, end=1_002, size=4_321, file="7-3-1000.frames")
    assert golden("damaged-v1.bin") == lost.key + lost.put().value
    assert decode_damaged(lost.key, golden("damaged-v1.bin")[len(lost.key) :]) == lost


def test_update_is_written_as_released() -> None:
    assert golden("update-v1.bin") == update_record()
    assert list(OPERATIONS) == decode_update(memoryview(golden("update-v1.bin")))


operations = st.lists(
    st.one_of(
        st.builds(Put, st.text(max_size=20), st.binary(max_size=50), st.binary(max_size=200)),
        st.builds(Delete, st.text(max_size=20), st.binary(max_size=50)),
        st.builds(
            Trim,
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**63 - 1),
            st.integers(0, 2**64 - 1),
        ),
    ),
    max_size=20,
)


@given(operations)
def test_update_round_trip(record: list[Operation]) -> None:
    """Any list of operations comes back as it was."""
    assert record == decode_update(memoryview(encode_update(record)))


@given(operations.filter(bool), st.data())
def test_update_that_is_cut_or_longer_is_refused(record: list[Operation], data: st.DataObject) -> None:
    """An update record that is not exactly its operations raises BadFrame, whatever is missing."""
    body = encode_update(record)
    cut = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:cut], body + b"\x01"):
        with pytest.raises(BadFrame):
            decode_update(memoryview(wrong))


@given(operations.filter(bool), st.data())
def test_damaged_update_never_fails_otherwise(record: list[Operation], data: st.DataObject) -> None:
    """Decoding hostile bytes ends in operations or BadFrame, in nothing else."""
    body = bytearray(encode_update(record))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BadFrame):
        decode_update(memoryview(body))


@given(st.data())
def test_any_flipped_bit_of_a_frame_is_seen(data: st.DataObject) -> None:
    """A frame with one bit changed is never taken for a frame."""
    frame = bytearray(encode_frame(5, 4, 0x1234, KIND_UPDATE, b"body of a frame"))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadFrame):
        decode_frame(memoryview(frame), 0, 0x1234)


@pytest.mark.parametrize("size", range(0, FRAME_HEADER_SIZE + 15, 3))
def test_cut_frame(size: int) -> None:
    """A frame of which bytes are missing is no frame."""
    frame = encode_frame(5, 4, 0x1234, KIND_UPDATE, b"body of a frame")
    with pytest.raises(BadFrame):
        decode_frame(memoryview(frame)[:size], 0, 0x1234)


def test_frame_of_unknown_kind() -> None:
    with pytest.raises(BadFrame, match="unknown kind 9"):
        decode_frame(memoryview(encode_frame(5, 4, 1, 9, b"")), 0, 1)


def test_any_changed_byte_of_a_file_header_is_seen() -> None:
    for byte in range(44):
        block = bytearray(encode_file_header(HEADER))
        block[byte] ^= 0x10
        with pytest.raises(BadFrame):
            decode_file_header(block)


def test_file_header_of_a_newer_release_says_so() -> None:
    """A format from the future is named as that, not as damage."""
    block = bytearray(encode_file_header(HEADER))
    block[8] = 2
    with pytest.raises(BadFrame, match="version 2, this release reads 1"):
        decode_file_header(block)


def test_any_changed_byte_of_a_sidecar_directory_is_seen(tmp_path: Path) -> None:
    """Header and directory of a sidecar are covered by CRCs."""
    file = sidecar(tmp_path)
    path = sidecar_path(file.path)
    whole = path.read_bytes()
    for position in (*range(60), *range(-192, 0)):
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            read_directory(file)


def test_cut_sidecar_is_seen(tmp_path: Path) -> None:
    file = sidecar(tmp_path)
    path = sidecar_path(file.path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Corrupt):
            read_directory(file)


def test_damaged_rows_are_seen(tmp_path: Path) -> None:
    """A block of rows is covered by the CRC in its directory entry."""
    file = sidecar(tmp_path)
    ref = read_directory(file)[0]
    block = bytearray(sidecar_path(file.path).read_bytes()[ref.position : ref.position + 48])
    block[3] ^= 1
    with pytest.raises(Corrupt):
        decode_block(file.path, ref, bytes(block))


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state[:-1],
        lambda state: state.replace(b'"v":1', b'"v":3'),
        lambda state: state.replace(b'"slots":16', b'"slots":17'),
        lambda state: state.replace(b'"name"', b'"eman"'),
        lambda state: b"[]",
        lambda state: b"\xff",
    ],
)
def test_damaged_stream_state(damage: Callable[[bytes], bytes]) -> None:
    """Bytes that are no stream state, or whose segments do not cover its slots, raise CorruptState."""
    with pytest.raises(CorruptState):
        decode_stream(damage(stream_state()))


def test_damaged_slot_state(tmp_path: Path) -> None:
    """A slot state that is cut, or of a later version, raises CorruptState."""
    slot = run(slot_in(tmp_path))
    slot.since_lsn = 4711
    for state in (slot_state(slot), golden("slot-v2.bin")):
        for size in range(0, len(state) - 1, 7):
            with pytest.raises(CorruptState):
                load_slot(slot, state[:size])
    with pytest.raises(CorruptState, match="newer"):
        load_slot(slot, b"\x04" + state[1:])


def test_append_frame_of_the_hot_path(tmp_path: Path) -> None:
    """The bytes that `Container.append` packs by itself are the frame that this format describes."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await store.create_stream("s", slots=3)).slot(2)
        container = container_of(store)
        position, lsn = container.log.position, container.log.next_lsn
        container.append(slot, b"payload", 4, 99, None, 7, 1, 12)
        await container.log.synced(lsn)
        data = container.log.file.path.read_bytes()
        frame = decode_frame(memoryview(data), position, container.log.file_id)

        assert (lsn, KIND_APPEND) == (frame.lsn, frame.kind)
        fields = (slot.segment_id, slot.stream.id, 2, 0, 4, container.epoch, 99, 7, 12, 1, 0)
        assert fields == APPEND_BODY.unpack_from(frame.body)
        assert frame.body[APPEND_BODY.size :] == b"payload"
        await store.close()

    run(scenario())


def write_golden() -> None:
    """Rewrite the files. Only for a new format version, beside the old ones."""
    import tempfile

    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        slot = run(slot_in(Path(directory) / "store"))
        (GOLDEN / "log-v1.bin").write_bytes(log_file())
        (GOLDEN / "sidecar-v1.bin").write_bytes(sidecar_path(sidecar(Path(directory)).path).read_bytes())
        (GOLDEN / "stream-v1.json").write_bytes(stream_state())
        (GOLDEN / "slot-v2.bin").write_bytes(slot_state(slot))
        (GOLDEN / "update-v1.bin").write_bytes(update_record())


if __name__ == "__main__":
    write_golden()
