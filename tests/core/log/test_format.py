"""The byte tables of `core.log.format` are the grammar: a reader that knows only them reads what the store writes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
from crc32c import crc32c

from core.log import format as log_format
from core.log.format import APPEND_BODY, FILE_HEADER_SIZE, BadFrame, decode_file_header, decode_frame
from tests.core.support import begin_append, container_of, open_store, run

_TYPES: Final = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i16": "h", "i32": "i", "i64": "q", "8s": "8s"}
_ROW: Final = re.compile(r" {4}(\d+) +(\w+|\.\.\.) +(\S.*)")

CRC: Final = "CRC-32C of bytes 8 to the frame's end"
SEGMENT: Final = "segment id: its number, which no other segment of the stream ever has"


def tables() -> Iterator[list[tuple[int, str, str]]]:
    """The rows of each table of the docstring, in order: offset, type, field."""
    assert log_format.__doc__ is not None
    for block in log_format.__doc__.split("offset  type  field\n")[1:]:
        rows: list[tuple[int, str, str]] = []
        for line in block.splitlines()[1:]:
            if (row := _ROW.fullmatch(line)) is None:
                break
            rows.append((int(row[1]), row[2], row[3]))
        yield rows


FILE_HEADER, FRAME, APPEND = tables()


def packed(table: list[tuple[int, str, str]], values: Mapping[str, int | bytes]) -> bytearray:
    """The bytes that a table says, each field where its offset is; a field without a value is zero."""
    data = bytearray()
    for offset, kind, field in table:
        assert offset == len(data), f"{field}: the fields before it end at {len(data)}"
        value = values.get(field, b"" if kind == "..." else 0)
        data += value if isinstance(value, bytes) else struct.pack(f"<{_TYPES[kind]}", value)
    assert values.keys() <= {field for _, _, field in table}
    return data


def unpacked(table: list[tuple[int, str, str]], data: memoryview) -> dict[str, int | bytes]:
    """The fields of a table, by what it calls them."""
    return {
        field: bytes(data[offset:]) if kind == "..." else struct.unpack_from(f"<{_TYPES[kind]}", data, offset)[0]
        for offset, kind, field in table
    }


def framed(body: Mapping[str, int | bytes], file_id: int) -> bytes:
    append = packed(APPEND, body)
    frame = packed(
        FRAME,
        {
            "length of the body, bytes": len(append),
            "LSN": 41,
            "LSN up to which the log was known to be synced when this was queued": 39,
            "file id": file_id,
            "kind: 1 append, 2 update": 1,
            "body": bytes(append),
        },
    )
    frame[4:8] = struct.pack("<I", crc32c(bytes(frame[8:])))
    return bytes(frame)


ENTRY: Final[Mapping[str, int | bytes]] = {
    SEGMENT: 5,
    "stream id": 9,
    "slot": 4,
    "first sequence number": 1000,
    "count of sequence numbers": 3,
    "leader epoch": 2,
    "largest timestamp, ms since the epoch, -1 = none": 1_700_000_000_000,
    "writer id, -1 = none": 77,
    "first writer sequence, -1 = none": 12,
    "writer epoch, -1 = none": 6,
    "flags: 1 of the writer's transaction, 2 marker that commits it, 4 marker that aborts it": 1,
    "the entry, as it goes on the wire": b"the entry",
}


def test_an_append_by_the_table_is_read() -> None:
    """A frame that is made from the tables alone is decoded into what was put in."""
    frame = decode_frame(memoryview(framed(ENTRY, 0xABCD)), 0, 0xABCD)
    assert (frame.lsn, frame.synced_lsn, frame.kind) == (41, 39, log_format.KIND_APPEND)
    fields = (5, 9, 4, 1000, 3, 2, 1_700_000_000_000, 77, 12, 6, log_format.IN_TRANSACTION)
    assert APPEND_BODY.unpack_from(frame.body) == fields
    assert frame.body[APPEND_BODY.size :] == b"the entry"


@pytest.mark.parametrize("byte", range(4, 97))
def test_a_damaged_append_by_the_table_is_refused(byte: int) -> None:
    """The CRC covers each byte behind it, up to the frame's end."""
    data = bytearray(framed(ENTRY, 0xABCD))
    assert len(data) == 97
    data[byte] ^= 0x10
    with pytest.raises(BadFrame):
        decode_frame(memoryview(data), 0, 0xABCD)


def test_the_store_writes_by_the_tables(tmp_path: Path) -> None:
    """File header, frame and append of a running store, read with the tables; the segment is one that a split made."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await store.create_stream("s", slots=4)
        (whole,) = stream.state.current.segments
        await store.scale_stream(stream, [whole.number], [2], "a test")
        opened = stream.state.current.segments[-1].number
        slot = next(slot for slot in map(stream.slot, range(4)) if slot.segment_id == opened)
        container = container_of(store)
        position, lsn, synced = container.log.position, container.log.next_lsn, container.log.synced_lsn
        outcome = begin_append(slot, b"the entry")[1]
        await outcome.future
        data = memoryview(container.log.file.path.read_bytes())

        header = unpacked(FILE_HEADER, data)
        assert header["magic ``PSTKLOG\\n``"] == b"PSTKLOG\n"
        assert header["format version (1)"] == 1
        assert header["file id, random: tells this file's frames from recycled bytes"] == container.log.file_id
        assert header["container epoch when the file was begun"] == container.epoch
        assert header["CRC-32C of bytes 0-39"] == crc32c(bytes(data[:40]))
        assert header["LSN of the file's first frame"] == decode_file_header(data[:FILE_HEADER_SIZE]).first_lsn

        frame = unpacked(FRAME, data[position:])
        assert frame["LSN"] == lsn
        assert frame["LSN up to which the log was known to be synced when this was queued"] == synced
        assert frame["file id"] == container.log.file_id
        assert frame["kind: 1 append, 2 update"] == 1
        length = frame["length of the body, bytes"]
        assert isinstance(length, int)
        end = position + log_format.FRAME_HEADER_SIZE + length
        assert frame[CRC] == crc32c(bytes(data[position + 8 : end]))

        append = unpacked(APPEND, data[position + log_format.FRAME_HEADER_SIZE : end])
        assert (stream.state.current.epoch, opened) == (1, 2)
        assert append[SEGMENT] == opened
        assert (append["stream id"], append["slot"]) == (stream.id, slot.number)
        assert (append["first sequence number"], append["count of sequence numbers"]) == (0, 1)
        assert append["the entry, as it goes on the wire"] == b"the entry"
        await store.close()

    run(scenario())
