"""Records for a member of a share group: they go out from the memory in which they lie, and are told of rightly."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.groups.share import delivery
from gateway.groups.share.delivery import Delivery, Wanted, deliver
from gateway.groups.share.format import PlaceKey
from gateway.groups.share.live_partition import LivePartition
from gateway.groups.share.partition import Acquired
from gateway.groups.share.partitions import SharePartitions
from gateway.records.record_batch import PLACE
from gateway.records.records import Record, build_batch
from gateway.wire.primitives import Parts
from tests.gateway.apis.harness import NOW, Admin, admin_of

LARGE = delivery.JOIN_BELOW * 2


def batch(first: int, count: int, size: int = 1) -> bytes:
    """A stored batch of so many records."""
    made = bytearray(build_batch([Record(offset, NOW, b"k", b"v" * size) for offset in range(count)], 0))
    _, length, epoch = PLACE.unpack_from(made)
    PLACE.pack_into(made, 0, first, length, epoch)
    return bytes(made)


def produced(admin: Admin, topic: str, records: bytes) -> None:
    assert admin.run(admin._client.produce(topic, records)).error_code == 0


@given(counts=st.lists(st.integers(1, 3), min_size=1, max_size=5), data=st.data())
def test_batches_in_parts_that_end_anywhere(counts: list[int], data: st.DataObject) -> None:
    """Each batch is found with its place, whatever the parts; what is cut out is what lay there."""
    first, batches = 7, []
    for count in counts:
        batches.append(batch(first, count))
        first += count
    whole = b"".join(batches)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=6)))
    parts = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))

    found = list(delivery._headers(parts))
    assert [header.record_count for _, header in found] == counts
    assert [whole[position : position + header.size] for position, header in found] == batches
    assert b"".join(delivery._cut(parts, begin, end)) == whole[begin:end]


@pytest.fixture(params=[1, LARGE], ids=["small", "large"])
def size(request: pytest.FixtureRequest) -> int:
    given_size: int = request.param
    return given_size


class Reader:
    """A member "m" of a group that begins at a topic's start, in the process of the broker."""

    def __init__(self, admin: Admin, topic: str) -> None:
        self._admin = admin
        self._slot = admin.slot(topic)
        self._key = PlaceKey("g", admin.stream(topic).uuid, 0)
        admin.run(self._begin())

    async def _begin(self) -> None:
        live = await self._admin.broker.share.partitions.of(self._key, self._slot)
        await live.begin_at(0)

    def get(self, most: int, waits: Callable[[], None]) -> Delivery:
        async def got() -> Delivery:
            broker = self._admin.broker
            live = await broker.share.partitions.of(self._key, self._slot)
            wanted = Wanted("m", 1 << 20, most, False, waits)
            return await deliver(broker.store, broker.clock, broker.openers, live, self._slot, wanted)

        return self._admin.run(got())


def test_batches_in_memory(tmp_path: Path, size: int) -> None:
    """Those that a member has records of go out, as they were stored: large ones are not copied, and no disk is waited
    for."""
    with admin_of(tmp_path) as admin:
        topic = admin.create()
        for _ in range(3):
            produced(admin, topic, batch(0, 2, size))
        reader = Reader(admin, topic)
        reader.get(1, pytest.fail)
        told = reader.get(4, pytest.fail)

        assert told.acquired == [Acquired(1, 3, 1)], "no more is read than so many records may have"
        slot = admin.slot(topic)
        stored = admin.broker.store.hosted(slot).reader.cached(slot, 0, slot.durable_end, 1 << 20, True)
        assert stored is not None
        assert b"".join(told.records.parts) == b"".join(stored.parts[:2])
        assert {isinstance(memoryview(part).obj, bytes) for part in told.records.parts} == {size == 1}


def test_a_disk_is_waited_for(tmp_path: Path) -> None:
    """Who has views of the log's memory hears that they should go, before the log's files are read."""
    with admin_of(tmp_path, "log.cache.bytes=1048576", "log.file.bytes=4194304", "tier2=off") as admin:
        topic, other = admin.create(), admin.create()
        produced(admin, topic, batch(0, 2, LARGE))
        for _ in range(40):
            produced(admin, other, batch(0, 1, 100_000))
        reader = Reader(admin, topic)
        waited: list[bool] = []
        told = reader.get(2, lambda: waited.append(True))

        assert waited == [True]
        assert told.acquired == [Acquired(0, 1, 1)]
        assert told.records.size == len(batch(0, 2, LARGE))


def test_a_partition_that_is_opened_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row is written to the log, and its start may be looked for in long-term storage: what was found in other
    partitions until then is copied, so that the log may use its memory again."""
    opened: list[bool] = []
    opens = SharePartitions._open

    async def spied(self: SharePartitions, *args: Any) -> LivePartition:
        parts = [part for one in gc.get_objects() if isinstance(one, Parts) for part in one.parts]
        opened.append(all(isinstance(memoryview(part).obj, bytes) for part in parts) and bool(parts))
        return await opens(self, *args)

    with admin_of(tmp_path) as admin:
        topic, other = admin.create(), admin.create()
        stored = batch(0, 2, LARGE)
        produced(admin, topic, stored)
        Reader(admin, topic)
        monkeypatch.setattr(SharePartitions, "_open", spied)
        asked = {"partition_index": 0, "partition_max_bytes": 0, "acknowledgement_batches": []}
        answer = admin.ask(
            "ShareFetch",
            2,
            group_id="g",
            member_id="m",
            share_session_epoch=0,
            max_wait=0,
            min_bytes=0,
            max_bytes=1 << 20,
            max_records=100,
            batch_size=100,
            share_acquire_mode=0,
            is_renew_ack=False,
            topics=[{"topic_id": admin.stream(name).uuid, "partitions": [asked]} for name in (topic, other)],
            forgotten_topics_data=[],
        )

        assert opened == [True]
        records = {one.topic_id: bytes(one.partitions[0].records) for one in answer.responses}
        assert len(records[admin.stream(topic).uuid]) == len(stored)
