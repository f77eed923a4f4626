"""Reading what left the log: nearly all records lie in MinIO, and no client can tell.

The server of this module moves data within a second and keeps little of it: its topics are written once, then read by
every library in every way that clients have of reading.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from compat_tests.conftest import SERVER
from compat_tests.harness.client import CLIENTS, EARLIEST, EARLIEST_LOCAL, LATEST, LATEST_TIERED, Client
from compat_tests.harness.pool import Pool
from compat_tests.harness.records import Record, Stored
from compat_tests.harness.system import Penstock, System, compile_runner
from compat_tests.harness.waiting import until
from compat_tests.scenarios import CODECS, World, assert_log
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

SETTINGS: Final = {
    "log.file.bytes": "1048576",
    "log.cache.bytes": "1048576",
    "checkpoint.interval.ms": "500",
    "log.retention.check.interval.ms": "500",
    "chunk.bytes": "262144",
    "chunk.age.ms": "500",
    "tier2.verify.delay.ms": "500",
    "tier2.snapshot.interval.ms": "500",
    "tier2.cache.bytes": "4194304",
    "tier2.read.ahead.bytes": "1048576",
}
TIMES: Final = "times"  # one record every second, from START_MS on
TIMES_COUNT: Final = 400
START_MS: Final = int(time.time() * 1000) - TIMES_COUNT * 1_000
ALL: Final = "all"  # each codec, several batches
PARTITIONS: Final = 2
ROUNDS: Final = 8
BATCH_RECORDS: Final = 40
VALUE_BYTES: Final = 4_000
FILLER_BYTES: Final = 100_000
FILLERS: Final = 24  # make the log begin its next file
LOG_FILES_MAX: Final = 4  # of far more that were written
MOVED_WITHIN_S: Final = 60


@dataclass
class Tiered:
    """The written records, by partition."""

    times: list[Record]
    all: list[list[Record]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])

    @property
    def count(self) -> int:
        return sum(map(len, self.all))


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Penstock on a MinIO server of its own, instead of the server that other modules share."""
    config = request.config
    if config.getoption("--bootstrap") or config.getoption("--system") != "penstock":
        pytest.skip("other servers keep what they have")
    minio = MinioServer(tmp_path_factory.mktemp("minio"))
    minio.start()
    server = Penstock(
        tmp_path_factory.mktemp("tiered"),
        SETTINGS
        | {
            "tier2": "s3://compat/tiered",
            "tier2.endpoint": minio.endpoint,
            "tier2.access.key": ROOT_USER,
            "tier2.secret.key": ROOT_PASSWORD,
        },
    )
    others = config.stash.get(SERVER, None)
    config.stash[SERVER] = server
    compile_runner()
    try:
        server.start()
        yield server
        server.stop()
    finally:
        minio.kill()
        if others is not None:
            config.stash[SERVER] = others


@pytest.fixture(scope="module")
def pool(system: System) -> Iterator[Pool]:
    processes = Pool(system)
    yield processes
    processes.end()


@pytest.fixture(scope="module")
def tiered(system: System, pool: Pool) -> Tiered:
    """Both topics, written, and gone from the log but for its end."""
    writer, java = pool.client("confluent-kafka"), pool.client("java")
    times = [Record(value=b"%d" % n, partition=0, timestamp=START_MS + n * 1_000) for n in range(TIMES_COUNT)]
    written = Tiered(times)
    java.create_topic(TIMES, 1)
    java.create_topic(ALL, PARTITIONS)
    for start in range(0, TIMES_COUNT, 50):
        writer.write(TIMES, *times[start : start + 50], linger_ms=50)
    dice = random.Random(1)
    for _ in range(ROUNDS):
        for codec in CODECS:
            sent = [record(dice, partition) for partition in range(PARTITIONS) for _ in range(BATCH_RECORDS)]
            writer.write(ALL, *sent, compression=codec, linger_ms=50)
            for one in sent:
                written.all[one.partition or 0].append(one)
    java.create_topic("filler", 1)
    writer.write("filler", *(Record(value=dice.randbytes(FILLER_BYTES), partition=0) for _ in range(FILLERS)))
    until(lambda: is_moved(java, written), within_s=MOVED_WITHIN_S, what="most of it is in tier 2 only", every_s=0.2)
    return written


def record(dice: random.Random, partition: int) -> Record:
    """Half of it compresses."""
    size = dice.randrange(VALUE_BYTES)
    return Record(
        key=b"%d" % dice.randrange(1000),
        value=dice.randbytes(size // 2).ljust(size, b"."),
        headers=(("size", b"%d" % size),),
        partition=partition,
    )


def is_moved(java: Client, written: Tiered) -> bool:
    """One topic has left the log, and nine parts in ten of the other."""
    local = [java.offset(ALL, partition, EARLIEST_LOCAL) or 0 for partition in range(PARTITIONS)]
    return (java.offset(TIMES, 0, EARLIEST_LOCAL) or 0) >= TIMES_COUNT - 1 and all(
        10 * first >= 9 * len(records) for first, records in zip(local, written.all, strict=True)
    )


def append(client: Client, tiered: Tiered, count: int) -> list[Record]:
    """A few more at the tail."""
    more = [Record(value=b"tail %d" % n, key=b"t", partition=n % PARTITIONS) for n in range(count)]
    client.write(ALL, *more)
    for one in more:
        tiered.all[one.partition or 0].append(one)
    return more


def assert_all(received: list[Stored], tiered: Tiered) -> None:
    """Every record of every partition, each where it was put."""
    for partition, sent in enumerate(tiered.all):
        own = [r for r in received if r.partition == partition]
        assert [r.offset for r in own] == list(range(len(sent)))
        assert [(r.key, r.value, r.headers) for r in own] == [(s.key, s.value, s.headers) for s in sent]


def log_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("data/store/container-*/log/*.log"))


def test_it_left_the_log(tiered: Tiered, system: System, java: Client) -> None:
    """EARLIEST stays where it was, EARLIEST_LOCAL is far behind it, and the files of what lies between are gone."""
    for partition, sent in enumerate(tiered.all):
        earliest, local, moved, latest = (
            java.offset(ALL, partition, at) for at in (EARLIEST, EARLIEST_LOCAL, LATEST_TIERED, LATEST)
        )
        assert (earliest, latest) == (0, len(sent))
        assert local is not None
        assert moved is not None
        assert 0 < local <= moved + 1 <= len(sent)

    files = log_files(system.directory)
    assert len(files) <= LOG_FILES_MAX
    assert int(files[0].stem) > len(tiered.times) // 50, "the first file is not the first that was written"


@pytest.mark.parametrize("client_name", CLIENTS)
def test_from_earliest_to_the_tail(world: World, tiered: Tiered) -> None:
    """One run reads all of it, every codec, out of many chunks and the log, and goes on with what is written then."""
    consumer = world.client.reader(ALL, PARTITIONS)
    received = consumer.take(tiered.count, within_s=60)
    more = append(world.client, tiered, 10)
    received += consumer.take(len(more))
    consumer.close()

    assert_all(received, tiered)


@pytest.mark.parametrize("client_name", CLIENTS)
def test_committed_data(world: World, tiered: Tiered) -> None:
    """read_committed returns all of it: no transaction is open."""
    received = world.client.read_all(TIMES, TIMES_COUNT, isolation="read_committed")

    assert_log(received, tiered.times)


@pytest.mark.parametrize("client_name", CLIENTS)
def test_seeking_by_offset(world: World, tiered: Tiered) -> None:
    """A seek into a chunk, in the middle of a batch, finds exactly that record; so does one back to the beginning."""
    consumer = world.client.consumer(TIMES, group=world.name("group"))
    consumer.take(TIMES_COUNT)

    for offset in (217, 50, 0, TIMES_COUNT - 1):
        consumer.seek(TIMES, 0, offset)
        assert_log(consumer.take(TIMES_COUNT - offset), tiered.times[offset:], start=offset)
    consumer.close()


@pytest.mark.parametrize("client_name", CLIENTS)
def test_seeking_by_time(world: World, tiered: Tiered) -> None:
    """A time finds the first record at or after it, and reading from there gives what is not older."""
    found = world.client.offsets([(TIMES, 0, START_MS + ms) for ms in (-5, 0, 1, 123_000, 123_001, 399_001)])
    consumer = world.client.consumer(TIMES, group=world.name("group"))
    consumer.take(TIMES_COUNT)
    consumer.seek(TIMES, 0, 124)
    received = consumer.take(TIMES_COUNT - 124)
    consumer.close()

    assert found == [0, 0, 1, 123, 124, None]
    assert [r.timestamp for r in received] == [START_MS + n * 1_000 for n in range(124, TIMES_COUNT)]


@pytest.mark.parametrize("client_name", CLIENTS)
def test_resuming_a_group(world: World, tiered: Tiered) -> None:
    """A group goes on in the middle of a chunk, where it had committed."""
    group = world.name("group")
    first = world.client.consumer(TIMES, group=group)
    first.take(TIMES_COUNT)
    first.commit({(TIMES, 0): 133})
    first.close()

    second = world.client.consumer(TIMES, group=group)
    received = second.take(TIMES_COUNT - 133)
    second.close()

    assert_log(received, tiered.times[133:], start=133)
