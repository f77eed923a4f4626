"""Records come out of batches that other implementations wrote, and bombs do not go off."""

import contextlib
import gzip
import random
import struct
from collections.abc import Callable
from pathlib import Path

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatch as AiokafkaBatch
from aiokafka.record.default_records import DefaultRecordBatchBuilder as AiokafkaBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatchBuilder as KafkaPythonBuilder

from gateway.records.compression import SNAPPY_RATIO_MAX, compress, decompress
from gateway.records.record_batch import GZIP, HEADER_BYTES, LZ4, NONE, SNAPPY, ZSTD, validate_batch
from gateway.records.records import (
    Record,
    build_batch,
    iter_records,
    seal_batch,
)
from gateway.wire.error_codes import MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

MIB = 1024 * 1024
CODECS = [NONE, GZIP, SNAPPY, LZ4, ZSTD]
RECORDS = [
    Record(0, 1_700_000_000_000, b"key", b"value", [("h", b"1"), ("h", None)]),
    Record(1, 1_700_000_000_123, None, b"x" * 5_000),
    Record(2, 1_699_999_999_000, b"", None),
    Record(3, 1_700_000_000_001, b"k" * 200, b"", [("ключ", b"")]),
]


def foreign(builder: Callable[..., object], codec: int) -> bytes:
    made = builder(
        magic=2,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=MIB,
        compression_type=codec,
    )
    for r in RECORDS:
        made.append(  # type: ignore[attr-defined]
            r.offset, timestamp=r.timestamp, key=r.key, value=r.value, headers=list(r.headers)
        )
    return bytes(made.build())  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", CODECS)
def test_reads_what_aiokafka_writes(codec: int) -> None:
    """Every record of a batch by aiokafka, in every codec, with its offset, time, key, value, headers."""
    assert list(iter_records(foreign(AiokafkaBuilder, codec))) == RECORDS


@pytest.mark.parametrize("codec", [NONE, GZIP])
def test_reads_what_kafka_python_writes(codec: int) -> None:
    """The same for kafka-python, in the codecs that it has without further libraries."""
    assert list(iter_records(foreign(KafkaPythonBuilder, codec))) == RECORDS


@pytest.mark.parametrize("codec", CODECS)
def test_aiokafka_reads_what_we_write(codec: int) -> None:
    """A batch that we built passes our own check and another implementation's reader."""
    batch = build_batch(RECORDS, codec)

    validate_batch(memoryview(batch))
    theirs = AiokafkaBatch(bytes(batch))
    assert theirs.validate_crc()
    assert [Record(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in theirs] == [
        r._replace(headers=tuple(r.headers)) for r in RECORDS
    ]


def test_uncompressed_bytes_agree() -> None:
    """Without compression there is one right encoding: ours is aiokafka's, byte for byte."""
    assert build_batch(RECORDS) == foreign(AiokafkaBuilder, NONE)


def test_lz4_frame_has_independent_blocks() -> None:
    """Java refuses frames of dependent blocks, so ours say that they are independent."""
    flags = compress(LZ4, bytes(200_000))[4]

    assert flags & 0x20


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([0, 1, 100, 32_768, 65_537, 300_000]))
def test_compression_round_trip(codec: int, seed: int, size: int) -> None:
    """Compressed records come back, noise and repetition alike."""
    rng = random.Random(seed)
    data = rng.randbytes(size) if rng.random() < 0.5 else rng.randbytes(7) * (size // 7)

    assert decompress(codec, compress(codec, data), len(data) + 1) == data


def test_reads_raw_snappy() -> None:
    """Snappy without the Java stream's header, as some clients send it."""
    data = b"abc" * 100

    assert decompress(SNAPPY, bytes(cramjam.snappy.compress_raw(data)), 1_000) == data


BOMB_BYTES = 64 * MIB
BOMBS: dict[int, Callable[[], bytes]] = {
    GZIP: lambda: gzip.compress(bytes(BOMB_BYTES), 1),
    SNAPPY: lambda: bytes(cramjam.snappy.compress_raw(bytes(BOMB_BYTES))),
    LZ4: lambda: bytes(cramjam.lz4.compress(bytes(BOMB_BYTES))),
    ZSTD: lambda: bytes(cramjam.zstd.compress(bytes(BOMB_BYTES))),
}


@pytest.mark.parametrize("codec", BOMBS)
def test_bomb(codec: int) -> None:
    """64 MiB of zeros are refused at the bound, without memory beyond it."""
    bomb = BOMBS[codec]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak_bytes()

    with pytest.raises(InvalidBatch) as refused:
        decompress(codec, bomb, 4 * MIB)

    assert refused.value.error_code == MESSAGE_TOO_LARGE
    assert peak_bytes() - before < 16 * MIB


def peak_bytes() -> int:
    """The most memory that this process has held since the peak was last reset."""
    status = Path("/proc/self/status").read_text()
    (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def test_snappy_length_is_not_believed() -> None:
    """A few bytes of snappy that claim to be 50 MiB are refused before anything is allocated."""
    claim = bytearray()
    size = 50 * MIB
    while size > 127:
        claim.append(size & 127 | 128)
        size >>= 7
    claim.append(size)

    with pytest.raises(InvalidBatch, match="claim to be"):
        decompress(SNAPPY, bytes(claim) + b"\0\0", 64 * MIB)


def test_snappy_ratio_is_never_reached_by_honest_data() -> None:
    """The bound on snappy's claims lies above what zeros reach."""
    data = bytes(MIB)

    assert MIB / len(cramjam.snappy.compress_raw(data)) < SNAPPY_RATIO_MAX


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_damaged_compression(codec: int) -> None:
    """Cut, flipped or foreign bytes raise InvalidBatch, never anything else."""
    good = compress(codec, b"0123456789" * 2_000)
    rng = random.Random(codec)
    for _ in range(200):
        bad = bytearray(good[: rng.randrange(len(good))])
        if bad:
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        try:
            out = decompress(codec, bad, MIB)
        except InvalidBatch:
            continue
        assert len(out) <= MIB


def test_every_byte_of_a_record_counts() -> None:
    """Whatever byte of an unsealed batch is changed to whatever extreme, we read or refuse."""
    batch = build_batch([RECORDS[0], Record(1, 5, None, b"v")])
    for position in range(HEADER_BYTES, len(batch)):
        for value in (0, 1, 0x7F, 0x80, 0xFE, 0xFF):
            bad = bytearray(batch)
            bad[position] = value
            with contextlib.suppress(InvalidBatch):
                list(iter_records(bad))


def test_counts_must_agree() -> None:
    """More records declared than are there, or fewer, is refused."""
    for count in (0, 1, 3, 2**31 - 1):
        batch = build_batch([Record(n, 0, None, b"v") for n in range(2)])
        struct.pack_into(">i", batch, 57, count)
        seal_batch(batch)

        with pytest.raises(InvalidBatch):
            list(iter_records(batch))


def test_too_many_records_to_open() -> None:
    """A batch of a few KiB that holds millions of records is not gone through."""
    batch = build_batch([Record(n, 0, None, None) for n in range(100)], ZSTD)

    assert len(list(iter_records(batch, records_max=100))) == 100
    with pytest.raises(InvalidBatch) as refused:
        list(iter_records(batch, records_max=99))
    assert refused.value.error_code == MESSAGE_TOO_LARGE


def test_log_append_time() -> None:
    """With LogAppendTime every record has the batch's time."""
    batch = build_batch(RECORDS, log_append_time=42)

    assert {r.timestamp for r in iter_records(batch)} == {42}


def test_stored_batch() -> None:
    """Offsets of a stored batch count from its base offset, holes of compaction included."""
    batch = build_batch([Record(100, 0, b"a", b"1"), Record(105, 0, b"b", b"2")])

    assert [r.offset for r in iter_records(batch)] == [100, 105]
