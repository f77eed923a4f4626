"""A compacted topic: every library that reads it from the beginning ends with the last value of each key.

The server of this module moves data within a second and looks for what to compact ten times a second.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from compat_tests.conftest import SERVER
from compat_tests.harness.client import CLIENTS, Client
from compat_tests.harness.moving import CONTAINERS, Mover
from compat_tests.harness.pool import Pool
from compat_tests.harness.records import Record, Stored
from compat_tests.harness.system import Penstock, System, compile_runner
from compat_tests.harness.waiting import until
from compat_tests.scenarios import CODECS, World

SETTINGS: Final = {
    "log.file.bytes": "1048576",
    "chunk.age.ms": "200",
    "tier2.verify.delay.ms": "100",
    "rewrite.interval.ms": "100",
    "log.retention.check.interval.ms": "200",
    "containers": str(CONTAINERS),
}
CONFIGS: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "86400000"}
TOPIC: Final = "compacted"
MOVED: Final = "moved"
MOVES: Final = 5
PAUSE_S: Final = 1.0
KEYS: Final = 40
WRITES: Final = 400
END: Final = b"end"
WITHIN_S: Final = 60


@dataclass
class Compacted:
    """The last value written of each key; None: the key was deleted."""

    topic: str
    last: dict[bytes, bytes | None] = field(default_factory=dict)
    offsets: dict[bytes, int] = field(default_factory=dict)

    def write(self, writer: Client, dice: random.Random, codec: str, count: int) -> None:
        records = []
        for number in range(count):
            key = b"key %d" % dice.randrange(KEYS)
            value = None if dice.random() < 0.1 else b"%s %d" % (codec.encode(), number)
            records.append(Record(key=key, value=value, partition=0))
        self._written(writer, records, compression=codec)

    def end(self, writer: Client) -> None:
        """Write the last record, and wait until one of each key is left."""
        self._written(writer, [Record(key=END, value=b"", partition=0)])

        def is_done() -> bool:
            return len(from_the_beginning(writer, self.topic)) == len(self.last)

        until(is_done, within_s=WITHIN_S, what="one record is left of each key", every_s=0.5)

    def check(self, received: list[Stored]) -> None:
        """One record of each key comes, the last that was written, at the offset that it was given; tombstones too."""
        assert {r.key: r.value for r in received} == self.last
        assert {r.key: r.offset for r in received} == self.offsets
        assert [r.offset for r in received] == sorted(r.offset for r in received)

    def _written(self, writer: Client, records: list[Record], **options: str) -> None:
        for record, produced in zip(records, writer.write(self.topic, *records, **options), strict=True):
            assert record.key is not None
            self.last[record.key], self.offsets[record.key] = record.value, produced.offset


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    config = request.config
    if config.getoption("--bootstrap") or config.getoption("--system") != "penstock":
        pytest.skip("other servers compact when they like")
    server = Penstock(tmp_path_factory.mktemp("compacted"), SETTINGS)
    others = config.stash.get(SERVER, None)
    config.stash[SERVER] = server
    compile_runner()
    try:
        server.start()
        yield server
        server.stop()
    finally:
        if others is not None:
            config.stash[SERVER] = others


@pytest.fixture(scope="module")
def pool(system: System) -> Iterator[Pool]:
    processes = Pool(system)
    yield processes
    processes.end()


@pytest.fixture(scope="module")
def compacted(pool: Pool) -> Compacted:
    """Forty keys, written four hundred times under every codec, some of them deleted; and compacted."""
    writer = pool.client("kafka-python")
    writer.create_topic(TOPIC, 1, CONFIGS)
    dice, written = random.Random(4), Compacted(TOPIC)
    for codec in CODECS:
        written.write(writer, dice, codec, WRITES // len(CODECS))
    written.end(writer)
    return written


@pytest.fixture(scope="module")
def moved(system: System, pool: Pool) -> Compacted:
    """The same, while the partition, which was compacted before, goes from container to container."""
    assert isinstance(system, Penstock)
    writer = pool.client("java")
    writer.create_topic(MOVED, 1, CONFIGS)
    dice, written = random.Random(5), Compacted(MOVED)
    written.write(writer, dice, CODECS[0], WRITES)
    written.end(writer)
    with Mover(system.http, MOVED, PAUSE_S) as mover:
        deadline = time.monotonic() + WITHIN_S
        for codec in itertools.cycle(CODECS):
            written.write(writer, dice, codec, KEYS)
            if mover.moved >= MOVES:
                break
            assert time.monotonic() < deadline, f"{mover.moved} moves, {mover.problem}"
    written.end(writer)
    return written


def from_the_beginning(client: Client, topic: str) -> list[Stored]:
    """All records up to the last one."""
    consumer = client.reader(topic)
    received: list[Stored] = []
    deadline = time.monotonic() + WITHIN_S
    while not received or received[-1].key != END:
        assert time.monotonic() < deadline, f"{len(received)} records came, and not the last one"
        received += consumer.poll(500)
    consumer.close()
    return received


@pytest.mark.parametrize("client_name", CLIENTS)
def test_last_values(world: World, compacted: Compacted) -> None:
    """Each library gets one record of each key."""
    compacted.check(from_the_beginning(world.client, TOPIC))


@pytest.mark.parametrize("client_name", CLIENTS)
def test_last_values_of_a_partition_that_moves(world: World, moved: Compacted) -> None:
    """It was written, compacted and read while it moved: each library gets the same as if it had stayed."""
    moved.check(from_the_beginning(world.client, MOVED))


@pytest.mark.parametrize("client_name", CLIENTS)
def test_seek_into_a_gap(world: World, compacted: Compacted) -> None:
    """A consumer that begins at an offset that compaction has removed goes on with the next one left."""
    left = sorted(compacted.offsets.values())
    gap = next(offset for offset in range(left[-1]) if offset not in left)
    consumer = world.client.consumer(TOPIC, group=world.name("group"))
    consumer.take(len(left))
    consumer.seek(TOPIC, 0, gap)
    received = consumer.take(sum(offset > gap for offset in left))
    consumer.close()

    assert [record.offset for record in received] == [offset for offset in left if offset > gap]
