"""Markers, as Kafka writes them: read by two clients that were written independently, and byte for byte."""

from __future__ import annotations

import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatch as AiokafkaBatch
from aiokafka.record.memory_records import MemoryRecords as AiokafkaRecords
from crc32c import crc32c
from kafka.record import MemoryRecords as KafkaPythonRecords

from gateway.records.control_batch import marker_batch
from gateway.records.record_batch import read_header
from gateway.records.records import iter_records

NOW = 1_700_000_000_123


def marker(*, committed: bool, coordinator_epoch: int = 9) -> bytes:
    return marker_batch(
        base_offset=42,
        leader_epoch=6,
        producer_id=7_000,
        producer_epoch=5,
        committed=committed,
        coordinator_epoch=coordinator_epoch,
        timestamp_ms=NOW,
    )


def by_the_documentation(committed: bool) -> bytes:
    """The batch put together from the description of the format: header, one record, key and value of the marker."""
    key = struct.pack(">hh", 0, 1 if committed else 0)
    value = struct.pack(">hi", 0, 9)
    record = bytes([0, 0, 0, len(key) << 1]) + key + bytes([len(value) << 1]) + value + bytes([0])
    covered = struct.pack(">hiqqqhii", 0x30, 0, NOW, NOW, 7_000, 5, -1, 1) + bytes([len(record) << 1]) + record
    after_length = struct.pack(">ibI", 6, 2, crc32c(covered)) + covered
    return struct.pack(">qi", 42, len(after_length)) + after_length


@pytest.mark.parametrize("committed", [True, False])
def test_bytes(committed: bool) -> None:
    """78 bytes, each where Kafka has it."""
    assert marker(committed=committed) == by_the_documentation(committed)
    assert len(marker(committed=committed)) == 78


def test_golden() -> None:
    """The commit's bytes: finds a change that is made to both the writer and the test above."""
    assert marker(committed=True).hex() == (
        "000000000000002a"
        "00000042"
        "00000006"
        "02"
        "c83bb2d9"
        "0030"
        "00000000"
        "0000018bcfe5687b"
        "0000018bcfe5687b"
        "0000000000001b58"
        "0005"
        "ffffffff"
        "00000001"
        "20"
        "00"
        "00"
        "00"
        "08"
        "00000001"
        "0c"
        "000000000009"
        "00"
    )


@pytest.mark.parametrize("committed", [True, False])
def test_kafka_python(committed: bool) -> None:
    """kafka-python sees a control batch of this producer, with one record and a good checksum."""
    records = KafkaPythonRecords(marker(committed=committed))
    batch = records.next_batch()

    assert (batch.is_control_batch, batch.is_transactional, batch.validate_crc()) == (True, True, True)
    assert (batch.base_offset, batch.producer_id, batch.producer_epoch, batch.leader_epoch) == (42, 7_000, 5, 6)
    (record,) = batch
    assert (record.offset, record.timestamp) == (42, NOW)
    assert (bytes(record.key), bytes(record.value)) == (bytes([0, 0, 0, committed]), bytes([0, 0, 0, 0, 0, 9]))


@pytest.mark.parametrize("committed", [True, False])
def test_aiokafka(committed: bool) -> None:
    """aiokafka as well."""
    batch = AiokafkaRecords(marker(committed=committed)).next_batch()

    assert isinstance(batch, AiokafkaBatch)
    assert (batch.is_control_batch, batch.is_transactional, batch.validate_crc()) == (True, True, True)
    assert (batch.producer_id, batch.next_offset) == (7_000, 43)
    (record,) = batch
    assert (bytes(record.key), bytes(record.value)) == (bytes([0, 0, 0, committed]), bytes([0, 0, 0, 0, 0, 9]))


def test_its_own_reader() -> None:
    """And so does what reads batches here."""
    header = read_header(marker(committed=False))
    (record,) = iter_records(marker(committed=False))

    assert (header.is_control, header.is_transactional, header.size, header.codec) == (True, True, 78, 0)
    assert (record.offset, record.key) == (42, bytes(4))


@pytest.mark.parametrize("coordinator_epoch", [0, 2**31 - 1, -1])
def test_coordinator_epochs(coordinator_epoch: int) -> None:
    """Any epoch has its place."""
    (record,) = iter_records(marker(committed=True, coordinator_epoch=coordinator_epoch))

    assert record.value == struct.pack(">hi", 0, coordinator_epoch)
