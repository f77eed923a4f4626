"""The disk is gone at a bad moment: what `penstock recover` brings back, and what it says of the rest.

Long-term storage is a directory beside the data directory, so that it stays when that is removed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from core.tiering.snapshots.format import Snapshot, decode_snapshot
from tests.faults.client import Connection, array, decode_batches, encode_batch, string
from tests.faults.gateway_process import Gateway
from tests.faults.tiered import QUICK, command, until
from tests.faults.transactional import TransactionalProducer

HOUR_MS: Final = 3_600_000
SOON_SECONDS_MAX: Final = 60.0  # the promise is 5 on a machine without other work
VALUE_BYTES: Final = 2_000

pytestmark = pytest.mark.timeout(400)


def gateway_in(directory: Path, **changes: object) -> Gateway:
    """Chunks are made by age alone, and snapshots only for a reason, unless the test says otherwise."""
    settings = {
        **QUICK,
        "tier2": f"file:{directory / 'objects'}",
        "chunk.bytes": 64 << 20,
        "chunk.age.ms": 100,
        "tier2.snapshot.interval.ms": HOUR_MS,
        "log.file.bytes": 64 << 20,
        "group.initial.rebalance.delay.ms": 0,
        **{name.replace("_", "."): value for name, value in changes.items()},
    }
    return Gateway(directory / "gateway", settings)


def newest_snapshot(directory: Path) -> Snapshot | None:
    found = sorted((directory / "objects" / "meta" / "0").glob("*-*"))
    return decode_snapshot(found[-1].read_bytes()) if found else None


def chunk_files(directory: Path) -> list[Path]:
    return sorted((directory / "objects" / "chunks" / "0").glob("*-*"))


def snapshot_says(directory: Path, condition: Callable[[Snapshot], bool]) -> Callable[[], bool]:
    def says() -> bool:
        taken = newest_snapshot(directory)
        return taken is not None and condition(taken)

    return says


def await_tiered(connection: Connection, topic: str, partition: int, end: int) -> None:
    until(lambda: connection.tier_offset(topic, partition, -5) == end - 1, f"{topic}-{partition} is in chunks to {end}")


def lose_the_disk(gateway: Gateway) -> None:
    gateway.kill()
    shutil.rmtree(gateway.data)


def recover(gateway: Gateway) -> dict[str, Any]:
    done = command(gateway, "recover", "--json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def bounds_of(said: dict[str, Any], topic: str) -> list[tuple[int, int]]:
    (found,) = [one for one in said["topics"] if one["name"] == topic]
    return [(partition["start"], partition["end"]) for partition in found["partitions"]]


def delete_group(connection: Connection, group: str) -> None:
    answer = connection.call(42, 0, array([string(group)]))
    answer.one("i")
    codes = [(answer.string(), answer.one("h")) for _ in answer.times()]
    assert codes == [(group, 0)]


def fill(connection: Connection, topic: str, partition: int, count: int) -> None:
    for number in range(count):
        batch = encode_batch([b"%d/".ljust(VALUE_BYTES, b".") % number])
        assert connection.produce(topic, partition, batch).code == 0


def test_deletions_stay_deleted(tmp_path: Path) -> None:
    """Topics, records and groups whose deletion was answered are deleted after a recovery, long before the interval."""
    with gateway_in(tmp_path) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            for topic in ("dropped", "trimmed"):
                connection.create_topic(topic, 1)
                fill(connection, topic, 0, 5)
                await_tiered(connection, topic, 0, 5)
            for group in ("old", "kept"):
                connection.commit_offset(group, "trimmed", 0, 2)
            connection.create_topic("later", 1)  # so that a snapshot has all of this
            until(
                snapshot_says(
                    tmp_path, lambda taken: len(taken.tables.get("streams", ())) == 3 and len(taken.slots) == 2
                ),
                "a snapshot knows three topics",
                SOON_SECONDS_MAX,
            )

            connection.delete_topic("dropped")
            assert connection.delete_records("trimmed", 0, 3) == 3
            delete_group(connection, "old")

            until(
                snapshot_says(
                    tmp_path,
                    lambda taken: (
                        len(taken.tables.get("streams", ())) == 2
                        and [slot.start for slot in taken.slots] == [3]
                        and len(taken.tables.get("offsets", ())) == 1
                    ),
                ),
                "a snapshot knows the deletions",
                SOON_SECONDS_MAX,
            )
        lose_the_disk(gateway)

        said = recover(gateway)

        assert [topic["name"] for topic in said["topics"]] == ["later", "trimmed"]
        assert bounds_of(said, "trimmed") == [(3, 5)]
        assert said["groups"] == ["kept"]


@pytest.mark.parametrize("interval_ms", [HOUR_MS, 200])
def test_a_batch_that_comes_again(tmp_path: Path, interval_ms: int) -> None:
    """A batch that came back is answered as a duplicate, by a snapshot or by its chunk; a lost one is taken."""
    with gateway_in(tmp_path, tier2_snapshot_interval_ms=interval_ms) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("t", 1)
            producer_id, epoch = connection.init_producer_id()
            batches = [encode_batch([b"%d" % n, b"."], producer_id, epoch, 2 * n) for n in range(9)]
            assert [connection.produce("t", 0, batch).offset for batch in batches[:7]] == list(range(0, 14, 2))
            await_tiered(connection, "t", 0, 14)
            if interval_ms < HOUR_MS:
                until(
                    snapshot_says(
                        tmp_path,
                        lambda taken: any(
                            writer.batches[-1].base == 12 for found in taken.writers.values() for writer in found
                        ),
                    ),
                    "a snapshot knows the writer",
                )
        lose_the_disk(gateway)
        assert bounds_of(recover(gateway), "t") == [(0, 14)]
        gateway.start()
        with gateway.connect() as connection:
            again = [connection.produce("t", 0, batch) for batch in batches[2:7]]

            assert [(one.code, one.offset) for one in again] == [(0, 2 * n) for n in range(2, 7)]
            assert connection.list_offset("t", 0, -1) == 14
            # Batch 7 was acknowledged and is gone: the producer goes on behind it, and is then held to its sequence.
            went_on = [connection.produce("t", 0, batches[8]) for _ in range(2)]
            assert [(one.code, one.offset) for one in went_on] == [(0, 14), (0, 14)]
            assert connection.produce("t", 0, encode_batch([b"gap"], producer_id, epoch, 90)).code == 45
            assert connection.list_offset("t", 0, -1) == 16
        assert gateway.stop() == 0


@pytest.mark.parametrize("missing", [0, 1])
def test_a_chunk_that_did_not_arrive(tmp_path: Path, missing: int) -> None:
    """A partition ends at the first hole; records behind it are named and counted; their offsets are reused."""
    with gateway_in(tmp_path) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("t", 1)
            until(
                snapshot_says(tmp_path, lambda taken: len(taken.tables.get("streams", ())) == 1),
                "a snapshot knows the topic",
                SOON_SECONDS_MAX,
            )
            for part in range(1, 4):
                fill(connection, "t", 0, 4)
                await_tiered(connection, "t", 0, 4 * part)
            taken = newest_snapshot(tmp_path)
            assert taken is not None
            assert not taken.slots
        lose_the_disk(gateway)
        chunks = chunk_files(tmp_path)
        assert len(chunks) == 3
        chunks[missing].unlink()

        said = recover(gateway)

        assert bounds_of(said, "t") == [(0, 4 * missing)]
        assert said["lost"]["left_out"] == 4 * (2 - missing)
        behind = [finding for finding in said["findings"] if "are left out" in finding]
        assert len(behind) == 2 - missing
        gateway.start()
        with gateway.connect() as connection:
            assert connection.produce("t", 0, encode_batch([b"new"])).offset == 4 * missing
            fetched = connection.fetch_some("t", 0, 0)
            assert [offset for offset, _ in decode_batches(fetched.records)][-1] <= 4 * missing
        assert gateway.stop() == 0


def test_a_torn_transaction(tmp_path: Path) -> None:
    """A committed transaction that came back in two of three partitions is named, with its id, places and offsets."""
    with gateway_in(tmp_path, tier2_snapshot_interval_ms=200) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("t", 3)
            whole = TransactionalProducer(connection, "whole")
            for partition in range(2):
                whole.produce("t", partition, [b"whole"])
            whole.end(commit=True)
            holder = TransactionalProducer(connection, "holder")
            holder.produce("t", 2, [b"holds the partition's end"])
            torn = TransactionalProducer(connection, "torn")
            for partition in range(3):
                torn.produce("t", partition, [b"a", b"b"])
            torn.end(commit=True)
            aborted = TransactionalProducer(connection, "aborted")
            for partition in range(3):
                aborted.produce("t", partition, [b"c"])
            aborted.end(commit=False)
            for partition in range(2):
                await_tiered(connection, "t", partition, 7)
            until(
                snapshot_says(tmp_path, lambda taken: len(taken.tables.get("transactions", ())) == 4),
                "a snapshot knows them",
            )
        lose_the_disk(gateway)

        said = recover(gateway)

        (told,) = said["torn_transactions"]
        assert (told["transactional_id"], told["producer_id"], told["partitions"]) == ("torn", torn.producer_id, 3)
        assert told["there"] == [{"topic": "t", "partition": p, "offset": 4} for p in range(2)]
        assert told["gone"] == [{"topic": "t", "partition": 2, "offset": 3}]
        assert any("'torn'" in finding and "t-2 (offset 3)" in finding for finding in said["findings"])
        assert said["transactional_ids_open"] == ["holder"]
        assert bounds_of(said, "t") == [(0, 7), (0, 7), (0, 0)]


def test_what_is_known_to_be_gone(tmp_path: Path) -> None:
    """Ten records of which a snapshot knew are ten in text and JSON, by partition; what came after it is not known."""
    with gateway_in(tmp_path, chunk_age_ms=HOUR_MS, tier2_snapshot_interval_ms=200) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("t", 2)
            fill(connection, "t", 0, 7)
            fill(connection, "t", 1, 3)
            until(
                snapshot_says(tmp_path, lambda taken: sum(slot.durable_end for slot in taken.slots) == 10),
                "a snapshot knows ten records",
            )
        lose_the_disk(gateway)

        text = command(gateway, "recover")
        shutil.rmtree(gateway.data)
        said = recover(gateway)

        assert "10 acknowledged records of which that snapshot knew" in text.stdout
        assert "acknowledged after it" in text.stdout
        assert said["lost"]["known_to_snapshot"] == 10
        assert said["lost"]["after_snapshot"] is None
        found = [
            (one["partition"], one["end_in_snapshot"], one["known_to_snapshot"]) for one in said["lost"]["partitions"]
        ]
        assert found == [(0, 7, 7), (1, 3, 3)]


def test_nothing_is_known_without_a_snapshot(tmp_path: Path) -> None:
    """If no snapshot can be read, the report gives no number of lost records."""
    with gateway_in(tmp_path) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("t", 1)
            fill(connection, "t", 0, 2)
            await_tiered(connection, "t", 0, 2)
        lose_the_disk(gateway)
        shutil.rmtree(tmp_path / "objects" / "meta", ignore_errors=True)

        said = recover(gateway)

        assert (said["snapshot_ms"], said["lost"]["known_to_snapshot"]) == (None, None)
        assert bounds_of(said, "t") == [(0, 2)]
