"""A compacted topic: every library that reads it from the beginning ends with the last value of each key.

The server of this module moves data within a second and looks for what to compact ten times a second.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from compat_tests.conftest import SERVER
from compat_tests.harness.client import CLIENTS, Client
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
}
CONFIGS: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "86400000"}
TOPIC: Final = "compacted"
KEYS: Final = 40
WRITES: Final = 400
END: Final = b"end"
WITHIN_S: Final = 60


@dataclass
class Compacted:
    """The last value written of each key; None: the key was deleted."""

    last: dict[bytes, bytes | None]
    offsets: dict[bytes, int]


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
    dice = random.Random(4)
    written = Compacted({}, {})
    for codec in CODECS:
        records = []
        for number in range(WRITES // len(CODECS)):
            key = b"key %d" % dice.randrange(KEYS)
            value = None if dice.random() < 0.1 else b"%s %d" % (codec.encode(), number)
            records.append(Record(key=key, value=value, partition=0))
        for record, produced in zip(records, writer.write(TOPIC, *records, compression=codec), strict=True):
            assert record.key is not None
            written.last[record.key], written.offsets[record.key] = record.value, produced.offset
    (produced,) = writer.write(TOPIC, Record(key=END, value=b"", partition=0))
    written.last[END], written.offsets[END] = b"", produced.offset

    def is_done() -> bool:
        return len(from_the_beginning(writer)) == len(written.last)

    until(is_done, within_s=WITHIN_S, what="one record is left of each key", every_s=0.5)
    return written


def from_the_beginning(client: Client) -> list[Stored]:
    """All records up to the last one."""
    consumer = client.reader(TOPIC)
    received: list[Stored] = []
    deadline = time.monotonic() + WITHIN_S
    while not received or received[-1].key != END:
        assert time.monotonic() < deadline, f"{len(received)} records came, and not the last one"
        received += consumer.poll(500)
    consumer.close()
    return received


@pytest.mark.parametrize("client_name", CLIENTS)
def test_last_values(world: World, compacted: Compacted) -> None:
    """One record of each key comes, the last that was written, at the offset that it was given; tombstones too."""
    received = from_the_beginning(world.client)

    assert {r.key: r.value for r in received} == compacted.last
    assert {r.key: r.offset for r in received} == compacted.offsets
    assert [r.offset for r in received] == sorted(r.offset for r in received)


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
