"""Objects that are damaged, gone, or gone too early: the range is refused by name, all else is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, decode_batches, encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.history import History, Partition, check_history, read_outcome
from tests.faults.load import BatchWriter, IdempotentWriter, Load, TailReader
from tests.faults.settings import SEED, SOAK
from tests.faults.tiered import (
    MIB,
    Bucket,
    await_moved,
    await_quiet,
    local_start,
    settings_for,
    until,
    verify,
)
from tests.tier2.minio_server import MinioServer

P: Final[Partition] = ("damaged", 0)
VALUE_BYTES: Final = 20_000
VALUES: Final = 250
FILLER: Final = 2 * MIB
HOUR_MS: Final = 3_600_000
UNREADABLE: Final = {2, 56}
LATEST_TIERED: Final = -5
LOAD_S: Final = 2.0
"""Without the bucket, and again with it: several tries of what is due every 300 ms."""

pytestmark = pytest.mark.timeout(0 if SOAK else 400)


@pytest.fixture
def minio(tmp_path: Path) -> Iterator[MinioServer]:
    directory = tmp_path / "minio"
    directory.mkdir()
    server = MinioServer(directory)
    server.start()
    yield server
    server.kill()


def value(number: int) -> bytes:
    return f"{number}/".encode().ljust(VALUE_BYTES, b"%d" % (number % 10))


def write(gateway: Gateway, count: int = VALUES) -> None:
    """One record a batch, so that each can be asked for alone."""
    with gateway.connect() as connection:
        connection.create_topic(P[0], 1)
        for number in range(count):
            assert connection.produce(*P, encode_batch([value(number)])).offset == number


def fill(gateway: Gateway) -> None:
    """Make the log begin its next file, so that those with the test's records may go."""
    with gateway.connect() as connection:
        connection.create_topic("filler", 1)
        for _ in range(FILLER // VALUE_BYTES):
            assert connection.produce("filler", 0, encode_batch([bytes(VALUE_BYTES)])).code == 0


def unreadable(connection: Connection, count: int) -> dict[int, int]:
    """Offsets at which a Fetch is refused, with its error; everything else is what was written."""
    refused: dict[int, int] = {}
    position = 0
    while position < count:
        fetched = connection.fetch_some(*P, position, max_bytes=VALUE_BYTES)
        if fetched.code:
            refused[position] = fetched.code
            position += 1
        for offset, found in decode_batches(fetched.records):
            if offset >= position:
                assert (offset, found) == (position, value(offset))
                position += 1
    return refused


def flip_a_bit(bucket: Bucket, key: str) -> None:
    data = bytearray(bucket.get(key))
    data[len(data) // 2] ^= 0x10
    bucket.put(key, bytes(data))


def cut_in_half(bucket: Bucket, key: str) -> None:
    data = bucket.get(key)
    bucket.put(key, data[: len(data) // 2])


def take_away(bucket: Bucket, key: str) -> None:
    bucket.remove(key)


@pytest.mark.parametrize("hurt", [flip_a_bit, cut_in_half, take_away])
def test_one_bad_object(tmp_path: Path, minio: MinioServer, hurt: Callable[[Bucket, str], None]) -> None:
    """A damaged range is refused, and the log names its object; records around it are served; verify finds it."""
    bucket = Bucket(minio)
    with Gateway(tmp_path / "gateway", settings_for(minio)) as gateway:
        gateway.start()
        write(gateway)
        fill(gateway)
        with gateway.connect() as connection:
            await_moved(connection, P, VALUES)
            keys = list(await_quiet(bucket))
            assert unreadable(connection, VALUES) == {}
        assert gateway.stop() == 0
        found = verify(gateway)
        assert found["damaged"] == found["missing"] == []

        victim = keys[len(keys) // 3]
        hurt(bucket, victim)

        gateway.start()
        with gateway.connect() as connection:
            refused = unreadable(connection, VALUES)
            offsets = sorted(refused)
            assert offsets, f"{victim} is read without an error"
            assert set(refused.values()) <= UNREADABLE
            assert offsets[-1] - offsets[0] < VALUES / 2
            assert connection.produce(*P, encode_batch([value(VALUES)])).code == 0
        name = victim.removeprefix("penstock/")
        assert name in gateway.output.read_text()
        assert gateway.stop() == 0
        found = verify(gateway)
        assert name in str(found["missing"] if hurt is take_away else found["damaged"])
        assert len(found["missing"]) + len(found["damaged"]) == 1


def test_young_objects_are_put_again(tmp_path: Path, minio: MinioServer) -> None:
    """Objects that the store lost soon after it had acknowledged them are missed after a restart, and put again."""
    bucket = Bucket(minio)
    late = settings_for(minio, tier2_verify_delay_ms=HOUR_MS)
    soon = settings_for(minio)
    with Gateway(tmp_path / "gateway", late) as gateway:
        gateway.start()
        write(gateway)
        until(lambda: sum(bucket.chunks().values()) > VALUES * VALUE_BYTES, "all of it is in chunks")
        chunks = await_quiet(bucket)
        with gateway.connect() as connection:
            assert local_start(connection, P) == 0, "the log was let go before anybody looked again"
        gateway.kill()
        bucket.remove(*chunks)

        gateway.settings = soon
        gateway.start()
        fill(gateway)
        until(lambda: sum(bucket.chunks().values()) > VALUES * VALUE_BYTES, "the objects are put again")
        with gateway.connect() as connection:
            await_moved(connection, P, VALUES)
            assert unreadable(connection, VALUES) == {}
        assert gateway.stop() == 0
        found = verify(gateway)
        assert found["missing"] == found["damaged"] == []


def test_bucket_deleted(tmp_path: Path, minio: MinioServer) -> None:
    """Producers and tail readers go on; entries still in the log are put into the new bucket; the others are named."""
    bucket, history = Bucket(minio), History()
    partitions = [(P[0], 0), (P[0], 1)]
    with Gateway(tmp_path / "gateway", settings_for(minio)) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(P[0], len(partitions))

        def address() -> str:
            return gateway.address

        clients = [
            BatchWriter("plain", address, history, partitions, SEED),
            IdempotentWriter("sure", address, history, partitions, SEED),
            TailReader(address, history, partitions[0], SEED),
        ]
        with Load(clients) as load:
            with gateway.connect() as connection:
                until(lambda: local_start(connection, partitions[1]) > 0, "something has left the log")
                bucket.drop()
                # What was in chunks by now went with the bucket.
                kept = {partition: connection.tier_offset(*partition, LATEST_TIERED) + 1 for partition in partitions}
                load.run_for(LOAD_S)
                bucket.make()
            load.run_for(LOAD_S)
            load.drain()
            assert load.problems() == []
        fill(gateway)
        with gateway.connect() as connection:
            for partition in partitions:
                await_moved(connection, partition, connection.list_offset(*partition, -1))
            outcome = read_outcome(connection, partitions, history, starts=kept)
            assert check_history(history, outcome) == [], f"seed {SEED}"
            assert connection.fetch_some(*partitions[1], 0).code in UNREADABLE
        assert "chunks/" in gateway.output.read_text()
        assert gateway.stop() == 0
        found = verify(gateway)
        assert found["missing"]
        assert found["damaged"] == []
