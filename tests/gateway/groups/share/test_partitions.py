"""Share-partitions of a process: what is told to be stored is stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from core.errors import SlotMoves
from gateway.groups.share.format import PARTITIONS_TABLE, PlaceKey, decode_partition, encode_key
from gateway.groups.share.live_partition import LivePartition
from gateway.groups.share.partition import Judgement, Span, Verdict
from gateway.groups.share.partitions import SharePartitions
from gateway.refusals import Refusal
from tests.gateway.apis.harness import NOW, Admin, admin_of


def test_what_was_settled_in_a_partition_that_is_closed(tmp_path: Path) -> None:
    """A partition is closed before what was settled in it is written, as when its container has come back to this node
    by another opening: the member hears that it is not settled."""
    with admin_of(tmp_path) as admin:
        topic = admin.create()
        admin.produce(topic, *[NOW] * 10)
        slot, key = admin.slot(topic), PlaceKey("g", admin.stream(topic).uuid, 0)

        async def settled() -> ErrorCode:
            live = await admin.broker.share.partitions.of(key, slot)
            await live.begin_at(0)
            now_s = admin.broker.clock.monotonic_s()
            live.state.acquire("m", 0, [Span(0, 9)], 10, live.settings().limits, now_s)
            live.acknowledge("m", [Judgement(0, 9, [Verdict.ACCEPT])])
            live.close()
            return await live.stored()

        told = admin.run(settled())
        row = admin.broker.store.hosted(slot).container.table(PARTITIONS_TABLE).get(encode_key(key))
        assert row is not None
        assert decode_partition(row).start == 0
        assert told == ErrorCode.not_leader_or_follower


def test_a_partition_is_closed_while_a_member_is_listened_to(tmp_path: Path) -> None:
    """No lock is renewed that there is not any more, although a renewal needs no write."""
    with admin_of(tmp_path) as admin:
        topic = admin.create()
        slot, key = admin.slot(topic), PlaceKey("g", admin.stream(topic).uuid, 0)

        async def settled() -> None:
            live = await admin.broker.share.partitions.of(key, slot)
            now_s = admin.broker.clock.monotonic_s()
            live.state.acquire("m", live.state.end, [Span(0, 9)], 10, live.settings().limits, now_s)
            live.close()
            with pytest.raises(Refusal) as why:
                live.acknowledge("m", [Judgement(0, 9, [Verdict.RENEW])])
            assert why.value.code is ErrorCode.not_leader_or_follower

        admin.run(settled())


class Held:
    """A group that begins, and is held up before it knows where."""

    def __init__(self, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
        self._asked, self._goes_on = asyncio.Event(), asyncio.Event()
        topic = admin.create()
        self.key = PlaceKey("g", admin.stream(topic).uuid, 0)
        self.slot = admin.slot(topic)
        self.partitions: SharePartitions = admin.broker.share.partitions
        monkeypatch.setattr(self.partitions, "_first_start", self._first_start)

    async def _first_start(self, *_: object) -> int:
        self._asked.set()
        await self._goes_on.wait()
        return 0

    async def begin(self) -> asyncio.Task[object]:
        opening: asyncio.Task[object] = asyncio.create_task(self.partitions.of(self.key, self.slot))
        await self._asked.wait()
        return opening

    def go_on(self) -> None:
        self._goes_on.set()

    def row(self, admin: Admin) -> bytes | None:
        table = admin.broker.store.hosted(self.slot).container.table(PARTITIONS_TABLE)
        value: bytes | None = table.get(encode_key(self.key))
        return value


def test_where_an_operator_says_outlives_a_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sets where a group begins while its first member's fetch looks for that: a restart would find the
    operator's place, too."""
    with admin_of(tmp_path) as admin:
        held = Held(admin, monkeypatch)

        async def both() -> int:
            opening = await held.begin()
            assert await held.partitions.begin_at(held.key, held.slot, 7) == ErrorCode.none
            held.go_on()
            await opening
            live = held.partitions.find(held.key)
            assert live is not None
            return live.state.start

        assert admin.run(both()) == 7
        row = held.row(admin)
        assert row is not None
        assert decode_partition(row).start == 7


def test_no_group_begins_a_partition_that_is_about_to_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition leaves for another container: what a group would settle of it here stays behind, so no group begins
    it, by a fetch or by an operator."""
    with admin_of(tmp_path) as admin:
        held = Held(admin, monkeypatch)
        container = admin.broker.store.hosted(held.slot).container

        async def refused() -> None:
            opening = await held.begin()
            container.freeze(held.slot, 1)
            held.go_on()
            with pytest.raises(SlotMoves):
                await opening
            with pytest.raises(SlotMoves):
                await held.partitions.begin_at(held.key, held.slot, 7)
            with pytest.raises(Refusal) as why:
                await asyncio.wait_for(held.partitions.of(held.key, held.slot), 10)
            assert why.value.code is ErrorCode.not_leader_or_follower
            container.thaw(held.slot)

        admin.run(refused())
        assert held.row(admin) is None


def test_a_row_that_was_brought_along_while_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch has found a group's row when the partition begins to leave: what its members would settle by that row
    would be left behind, so it is not in use here any more."""
    with admin_of(tmp_path) as admin:
        held = Held(admin, monkeypatch)
        container = admin.broker.store.hosted(held.slot).container

        async def refused() -> None:
            opening = await held.begin()
            held.go_on()
            live = await opening
            assert isinstance(live, LivePartition)
            live.close()
            ended, goes_on = live.ended, asyncio.Event()

            async def late() -> None:
                await ended()
                await goes_on.wait()

            monkeypatch.setattr(live, "ended", late)
            again = asyncio.create_task(held.partitions.of(held.key, held.slot))
            await asyncio.sleep(0)
            container.freeze(held.slot, 1)
            goes_on.set()
            with pytest.raises(SlotMoves):
                await again
            assert held.partitions.find(held.key) is None
            container.thaw(held.slot)
            assert (await held.partitions.of(held.key, held.slot)).state.start == live.state.start

        admin.run(refused())


def test_a_deletion_outlives_a_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is deleted while a fetch begins a partition for it: no row stays, from which the next group of that name
    would begin."""
    with admin_of(tmp_path) as admin:
        held = Held(admin, monkeypatch)

        async def both() -> None:
            opening = await held.begin()
            deletion = asyncio.create_task(held.partitions.delete_groups(["g"]))
            await asyncio.sleep(0)
            held.go_on()
            await opening
            await deletion

        admin.run(both())
        assert held.row(admin) is None
