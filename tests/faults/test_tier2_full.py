"""Long-term storage without room: deletions make some, and a start serves its data and says so."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.tiered import (
    MIB,
    QUICK,
    Bucket,
    await_moved,
    await_quiet,
    command,
    settings_for,
    until,
    verify,
)
from tests.tier2.fault_proxy import FaultProxy, Refuse
from tests.tier2.minio_server import MinioServer

TOPIC: Final = "t"
DISK_MIB: Final = 12
LOG_MAX: Final = 4 * MIB
VALUE_BYTES: Final = 50_000
RETRIABLE: Final = {7, 19, 56, 89}
FILLED_SECONDS_MAX: Final = 60.0

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK_MIB, mounted for this test."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "penstock-test", str(mount)]
    subprocess.run(command, check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.fixture
def minio(small_disk: Path) -> Iterator[MinioServer]:
    """A server whose disk is small."""
    server = MinioServer(small_disk)
    server.start()
    yield server
    server.kill()


def fill(connection: Connection) -> int:
    """Produce until the log is full and nothing leaves it; how many records there are."""
    taken = refused = 0

    def is_full() -> bool:
        nonlocal taken, refused
        while (code := connection.produce(TOPIC, 0, encode_batch([os.urandom(VALUE_BYTES)])).code) == 0:
            taken, refused = taken + 1, 0
        assert code in RETRIABLE
        refused += 1
        return refused > 20

    until(is_full, "the log is full", FILLED_SECONDS_MAX)
    return taken


def takes(connection: Connection) -> bool:
    return connection.produce(TOPIC, 0, encode_batch([b"one more"])).code == 0


def readable(connection: Connection) -> int:
    """The number of offsets; each can be read."""
    start, end = connection.list_offset(TOPIC, 0, -2), connection.list_offset(TOPIC, 0, -1)
    for offset in range(start, end):
        fetched = connection.fetch_some(TOPIC, 0, offset, 1)
        assert fetched.code == 0, (offset, fetched.code)
    return end - start


def blow_up(path: Path) -> None:
    """Take all the room that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (64 << 10, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def total(bucket: Bucket) -> int:
    return sum(bucket.chunks().values())


def test_a_full_disk(tmp_path: Path, small_disk: Path, minio: MinioServer) -> None:
    """Killed beside a store without a byte of room, a gateway starts, serves all, and makes room by deletions."""
    bucket = Bucket(minio)
    with Gateway(tmp_path / "gateway", settings_for(minio, log_max_bytes=LOG_MAX)) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, 1)
            count = fill(connection)
        gateway.kill()
        blow_up(small_disk / "balloon")
        gateway.start()
        assert "long-term storage has no room" in gateway.last_output()
        full = total(bucket)
        with gateway.connect() as connection:
            assert readable(connection) == count
            connection.delete_records(TOPIC, 0, count // 2)
            until(lambda: total(bucket) < full * 3 // 4, "what was deleted has left the bucket")
            until(lambda: takes(connection), "writes go on")
            assert readable(connection) > count - count // 2
        assert gateway.stop() == 0
        found = verify(gateway)
        assert (found["missing"], found["damaged"]) == ([], [])


def test_a_quota_that_stays_used_up(tmp_path: Path, minio: MinioServer) -> None:
    """If not even a snapshot can be put, deleted objects go all the same; a recovery gives no offset twice."""
    bucket = Bucket(minio)
    with (
        FaultProxy(minio.port) as proxy,
        Gateway(tmp_path / "gateway", settings_for(minio, port=proxy.port)) as gateway,
    ):
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, 1)
            produce(connection, 30)
            await_moved(connection, (TOPIC, 0), 20)
        await_quiet(bucket)
        proxy.chooses = quota_used_up
        gateway.kill()
        gateway.start()
        assert "long-term storage has no room" in gateway.last_output()
        with gateway.connect() as connection:
            assert readable(connection) == 30
            connection.delete_records(TOPIC, 0, 30)
            until(lambda: not bucket.chunks(), "what was deleted has left the bucket")
            produce(connection, 3)
            assert readable(connection) == 3
        gateway.kill()
        with Gateway(tmp_path / "other", gateway.settings) as other:
            recovered = command(other, "recover", "--json")
            assert recovered.returncode == 0, recovered.stderr
            (partition,) = json.loads(recovered.stdout)["topics"][0]["partitions"]
            assert 20 <= partition["end"] <= 30
        gateway.start()
        proxy.chooses = lambda line: None
        with gateway.connect() as connection:
            produce(connection, 30)
            await_moved(connection, (TOPIC, 0), 40)
            assert readable(connection) == 33
        assert gateway.stop() == 0
        found = verify(gateway)
        assert (found["missing"], found["damaged"]) == ([], [])


def produce(connection: Connection, count: int) -> None:
    for _ in range(count):
        assert connection.produce(TOPIC, 0, encode_batch([os.urandom(VALUE_BYTES)])).code == 0


def quota_used_up(line: str) -> Refuse | None:
    """As MinIO says it, whatever was deleted: it counts once a minute."""
    if line.startswith(("PUT", "POST")):
        body = b"<Error><Code>XMinioAdminBucketQuotaExceeded</Code><Message>Bucket quota exceeded</Message></Error>"
        return Refuse(400, body)
    return None


def test_a_full_directory(tmp_path: Path, small_disk: Path) -> None:
    """The same with long-term storage in a directory, on a disk of its own."""
    objects = small_disk / "objects"

    def held() -> int:
        return sum(path.stat().st_size for path in (objects / "chunks").rglob("*") if path.is_file())

    settings = {**QUICK, "tier2": f"file:{objects}", "log.max.bytes": LOG_MAX}
    with Gateway(tmp_path / "gateway", settings) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, 1)
            count = fill(connection)
        gateway.kill()
        blow_up(small_disk / "balloon")
        gateway.start()
        assert "long-term storage has no room" in gateway.last_output()
        full = held()
        with gateway.connect() as connection:
            assert readable(connection) == count
            connection.delete_records(TOPIC, 0, count // 2)
            until(lambda: held() < full * 3 // 4, "what was deleted has left the directory")
            until(lambda: takes(connection), "writes go on")
        assert gateway.stop() == 0
