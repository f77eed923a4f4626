"""A batch is checked as Kafka checks it, before a byte of its records is looked at."""

import struct

import pytest
from crc32c import crc32c

from gateway.records.record_batch import CONTROL, CRC_COVERS_FROM, read_header, validate_batch
from gateway.records.records import Record, build_batch
from gateway.wire.error_codes import CORRUPT_MESSAGE, INVALID_RECORD, MESSAGE_TOO_LARGE, UNSUPPORTED_COMPRESSION_TYPE
from gateway.wire.errors import InvalidBatch

RECORDS = [Record(n, 1_000 + n, b"k%d" % n, b"v" * 20) for n in range(3)]


def changed(position: int, layout: str, value: int, *, seal: bool = True) -> memoryview:
    batch = build_batch(RECORDS, producer_id=7, producer_epoch=1, base_sequence=5)
    struct.pack_into(layout, batch, position, value)
    if seal:
        struct.pack_into(">I", batch, 17, crc32c(memoryview(batch)[CRC_COVERS_FROM:]))
    return memoryview(batch)


def test_header_fields() -> None:
    """The header of a good batch comes back field by field."""
    batch = build_batch(RECORDS, producer_id=7, producer_epoch=1, base_sequence=5)

    header = validate_batch(memoryview(batch))

    assert (header.base_offset, header.last_offset, header.size) == (0, 2, len(batch))
    assert (header.base_timestamp, header.max_timestamp) == (1_000, 1_002)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 1, 5)
    assert header.record_count == 3
    assert header.has_producer_id
    assert not header.is_transactional
    assert header == read_header(batch)


@pytest.mark.parametrize(
    ("batch", "error_code"),
    [
        pytest.param(None, INVALID_RECORD, id="null"),
        pytest.param(memoryview(b""), INVALID_RECORD, id="empty"),
        pytest.param(changed(0, ">q", 1), INVALID_RECORD, id="base offset"),
        pytest.param(changed(8, ">i", 48), CORRUPT_MESSAGE, id="length below a header"),
        pytest.param(changed(8, ">i", -1), CORRUPT_MESSAGE, id="negative length"),
        pytest.param(changed(8, ">i", 60), INVALID_RECORD, id="two batches"),
        pytest.param(changed(8, ">i", 2**31 - 1), INVALID_RECORD, id="cut short"),
        pytest.param(changed(16, ">b", 1), INVALID_RECORD, id="old magic"),
        pytest.param(changed(17, ">I", 1, seal=False), CORRUPT_MESSAGE, id="crc"),
        pytest.param(changed(70, ">B", 0, seal=False), CORRUPT_MESSAGE, id="flipped record byte"),
        pytest.param(changed(21, ">h", 5), UNSUPPORTED_COMPRESSION_TYPE, id="codec"),
        pytest.param(changed(21, ">h", CONTROL), INVALID_RECORD, id="control batch"),
        pytest.param(changed(23, ">i", 3), INVALID_RECORD, id="last offset delta"),
        pytest.param(changed(23, ">i", -1), INVALID_RECORD, id="negative last offset delta"),
        pytest.param(changed(51, ">h", -1), INVALID_RECORD, id="producer id without epoch"),
        pytest.param(changed(53, ">i", -1), INVALID_RECORD, id="producer id without sequence"),
        pytest.param(changed(57, ">i", 0), INVALID_RECORD, id="no records"),
        pytest.param(changed(57, ">i", -3), INVALID_RECORD, id="negative count"),
    ],
)
def test_refuses(batch: memoryview | None, error_code: int) -> None:
    """Each broken field is refused with Kafka's error code for it."""
    with pytest.raises(InvalidBatch) as refused:
        validate_batch(batch)

    assert refused.value.error_code == error_code


def test_refuses_more_records_than_bytes() -> None:
    """A batch cannot take a billion offsets with a few bytes."""
    batch = changed(23, ">i", 10**9 - 1)
    struct.pack_into(">i", batch, 57, 10**9)
    struct.pack_into(">I", batch, 17, crc32c(batch[CRC_COVERS_FROM:]))

    with pytest.raises(InvalidBatch) as refused:
        validate_batch(batch)

    assert refused.value.error_code == INVALID_RECORD


def test_refuses_large_batch_before_its_crc() -> None:
    """A batch over the topic's limit is too large, whatever else is wrong with it."""
    with pytest.raises(InvalidBatch) as refused:
        validate_batch(changed(17, ">I", 1, seal=False), message_bytes_max=100)

    assert refused.value.error_code == MESSAGE_TOO_LARGE


def test_any_cut_is_refused() -> None:
    """No prefix of a batch passes."""
    batch = memoryview(build_batch(RECORDS))

    for end in range(len(batch)):
        with pytest.raises(InvalidBatch):
            validate_batch(batch[:end])
