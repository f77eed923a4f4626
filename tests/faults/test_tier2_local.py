"""The embedded default, where chunks lie in the data directory: the log keeps only what must be there.

Work is counted, not timed: bytes replayed, files in the log, bytes on the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, decode_batches, encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.settings import scaled
from tests.faults.tiered import MIB, QUICK, until

VALUE_BYTES: Final = 20_000
SMALL: Final = 6 * MIB
LARGE: Final = scaled(10, 100) * SMALL
LOG_FILES_MAX: Final = 5
REPLAYED_MAX: Final = 4 * MIB  # four log files: what is written between checkpoints of 1 MiB each, and then some
UNMOVED: Final = MIB // 2
SHORT_BYTES: Final = 12 * MIB
KEPT_EVERY: Final = 20

pytestmark = pytest.mark.timeout(0 if scaled(0, 1) else 400)


def disk_bytes(directory: Path) -> int:
    """The store's bytes on the disk, without those that are prepared for the log."""
    prepared = {".prepared", ".spare"}
    total = 0
    for path in directory.rglob("*"):
        try:
            if path.is_file() and path.suffix not in prepared and path.name != "ballast":
                total += path.stat().st_size
        except FileNotFoundError:
            pass  # it went while we looked
    return total


def log_files(gateway: Gateway) -> list[Path]:
    return list(gateway.data.glob("store/container-*/log/*.log"))


def write(connection: Connection, topic: str, size: int) -> int:
    """Send records until these bytes are written; return their number."""
    count = size // VALUE_BYTES
    for number in range(count):
        batch = encode_batch([b"%d/".ljust(VALUE_BYTES, b".") % number])
        assert connection.produce(topic, 0, batch).code == 0
    return count


def read_all(connection: Connection, topic: str, count: int) -> list[bytes]:
    """The values of this number of records from the beginning on."""
    values: list[bytes] = []
    while len(values) < count:
        fetched = connection.fetch_some(topic, 0, len(values))
        assert fetched.code == 0
        assert fetched.records, f"{len(values)} of {count} records"
        values += [value for offset, value in decode_batches(fetched.records) if offset >= len(values)]
    return values


def test_start_does_not_know_how_much_is_stored(tmp_path: Path) -> None:
    """After a kill, the replayed bytes and the existing files are the same for ten times the data."""
    with Gateway(tmp_path, QUICK) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("stored", 1)
        replayed, written = [], 0
        for size in (SMALL, LARGE):
            with gateway.connect() as connection:
                written += write(connection, "stored", size)
            until(lambda: len(log_files(gateway)) <= LOG_FILES_MAX, "the log has become short")
            with gateway.connect() as connection:
                written += write(connection, "stored", UNMOVED)
            gateway.kill()
            gateway.start()
            replayed.append(gateway.ready["replayed_bytes"])
        assert disk_bytes(gateway.data) > SMALL + LARGE, "all of it is stored"
        print(f"replayed {replayed} bytes with {SMALL} and {SMALL + LARGE} stored")
        assert max(replayed) <= REPLAYED_MAX
        with gateway.connect() as connection:
            assert connection.list_offset("stored", 0, -1) == written
            assert connection.fetch_some("stored", 0, 0).records
        assert gateway.stop() == 0


def test_expired_bytes_leave_the_disk(tmp_path: Path) -> None:
    """A neighbour in the same log files and chunks that keeps everything does not keep what has expired there."""
    with Gateway(tmp_path, QUICK) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("kept", 1, {"retention.ms": "-1"})
            connection.create_topic("short", 1, {"retention.ms": "-1"})
            kept = []
            for number in range(SHORT_BYTES // VALUE_BYTES):
                assert connection.produce("short", 0, encode_batch([bytes(VALUE_BYTES)])).code == 0
                if number % KEPT_EVERY == 0:
                    kept.append(b"kept %d" % number)
                    assert connection.produce("kept", 0, encode_batch(kept[-1:])).code == 0
            until(lambda: connection.tier_offset("kept", 0, -4) >= len(kept) - KEPT_EVERY, "both have left the log")
            assert disk_bytes(gateway.data) > SHORT_BYTES

            connection.alter_topic("short", {"retention.ms": "1000"})

            latest = connection.list_offset("short", 0, -1)
            until(lambda: connection.list_offset("short", 0, -2) == latest, "all of it has expired")
            print(f"{disk_bytes(gateway.data)} bytes on the disk when {SHORT_BYTES} expired")
            until(lambda: disk_bytes(gateway.data) < SHORT_BYTES / 3, "expired bytes have left the disk")
            assert read_all(connection, "kept", len(kept)) == kept
        assert gateway.stop() == 0
